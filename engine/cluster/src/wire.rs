//! Between the messages of the service and what they stand for.

use std::time::Duration;

use bytes::Bytes;
use everlog_kernel::transition::{QueryTask, Task, TaskKey, TaskKind, TaskPosition};
use everlog_kernel::{EntityKind, NamespaceId, RunId, Weight};
use everlog_matching::Source;
use everlog_matching::nexus::{NexusReply, NotAnswered};
use everlog_model::{CallError, NamespaceSource, NodeId, QueueId, WorkflowRef};
use everlog_proto::internal;
use everlog_raft::{ChainPosition, LeadEpoch};
use everlog_storage::GroupId;
use prost::Message;
use tonic::Status;

use crate::NOT_DONE;
use crate::book::Sender;

/// A message that says less than it must, or something that this version does not know.
pub(crate) fn unreadable(what: &str) -> Status {
    Status::invalid_argument(format!("the request of another node cannot be read: {what}"))
}

/// A field that a message cannot be without.
pub(crate) fn required<T>(field: Option<T>, name: &str) -> Result<T, Status> {
    field.ok_or_else(|| unreadable(&format!("it has no {name}")))
}

fn id(bytes: &[u8], name: &str) -> Result<[u8; 16], Status> {
    bytes.try_into().map_err(|_| unreadable(&format!("its {name} is no id")))
}

pub(crate) fn namespace_id(bytes: &[u8]) -> Result<NamespaceId, Status> {
    Ok(NamespaceId(id(bytes, "namespace")?))
}

pub(crate) fn run_id(bytes: &[u8]) -> Result<RunId, Status> {
    Ok(RunId(id(bytes, "run")?))
}

pub(crate) fn kind(number: u32) -> Result<TaskKind, Status> {
    let kind = u8::try_from(number).ok().and_then(TaskKind::from_byte);
    kind.ok_or_else(|| unreadable(&format!("{number} is no kind of task")))
}

pub(crate) fn position(bytes: &[u8]) -> Result<TaskPosition, Status> {
    TaskPosition::from_bytes(bytes).ok_or_else(|| unreadable("a task has no position"))
}

pub(crate) fn queue(namespace: &[u8], number: u32, name: String) -> Result<QueueId, Status> {
    Ok(QueueId::new(namespace_id(namespace)?, kind(number)?, name))
}

/// How long another node may have a worker answer for it.
pub(crate) const NEXUS_TIME_MAX: Duration = Duration::from_secs(60);

/// What a worker has answered to a request to a Nexus service. That none has is an answer, too.
pub(crate) fn nexus_reply_to_wire(
    answer: Result<NexusReply, NotAnswered>,
) -> Result<internal::DispatchNexusResponse, CallError> {
    let none = internal::DispatchNexusResponse::default();
    match answer {
        Ok(NexusReply::Response(response)) => Ok(internal::DispatchNexusResponse { response: Some(*response), ..none }),
        Ok(NexusReply::Failure(failure)) => Ok(internal::DispatchNexusResponse { failure: Some(*failure), ..none }),
        Ok(NexusReply::HandlerError(error)) => {
            Ok(internal::DispatchNexusResponse { handler_error: Some(*error), ..none })
        }
        Err(NotAnswered::TimedOut) => Ok(none),
        Err(NotAnswered::Full) => Err(CallError::Overloaded("too many requests to Nexus services wait".to_owned())),
    }
}

pub(crate) fn nexus_reply_from_wire(answer: internal::DispatchNexusResponse) -> Result<NexusReply, NotAnswered> {
    let internal::DispatchNexusResponse { response, failure, handler_error } = answer;
    let response = response.map(|response| NexusReply::Response(Box::new(response)));
    let failure = failure.map(|failure| NexusReply::Failure(Box::new(failure)));
    let error = handler_error.map(|error| NexusReply::HandlerError(Box::new(error)));
    response.or(failure).or(error).ok_or(NotAnswered::TimedOut)
}

pub(crate) fn bytes_of(id: [u8; 16]) -> Bytes {
    Bytes::copy_from_slice(&id)
}

impl Sender {
    pub(crate) fn to_wire(self) -> internal::Sender {
        internal::Sender { node: self.node.0, incarnation: self.incarnation, batches: self.batches }
    }

    pub(crate) fn from_wire(sender: Option<internal::Sender>) -> Result<Sender, Status> {
        let internal::Sender { node, incarnation, batches } = required(sender, "sender")?;
        Ok(Sender { node: NodeId(node), incarnation, batches })
    }
}

pub(crate) fn lead_to_wire(source: Source) -> internal::Lead {
    internal::Lead { partition: source.partition.0, lead: bytes_of(source.lead.to_be_bytes()) }
}

pub(crate) fn lead_from_wire(lead: &internal::Lead) -> Result<Source, Status> {
    let number = u128::from_be_bytes(id(&lead.lead, "lead")?);
    Ok(Source { partition: GroupId(lead.partition), lead: number })
}

pub(crate) fn workflow_to_wire(workflow: &WorkflowRef) -> internal::Workflow {
    internal::Workflow {
        namespace_id: bytes_of(workflow.namespace.id.0),
        workflow_id: workflow.workflow_id.to_string(),
    }
}

/// `None` if its namespace is not known here yet.
pub(crate) fn workflow_from_wire(
    workflow: Option<internal::Workflow>,
    namespaces: &dyn NamespaceSource,
) -> Result<Option<WorkflowRef>, Status> {
    let internal::Workflow { namespace_id: id, workflow_id } = required(workflow, "workflow")?;
    let namespace = namespaces.by_id(namespace_id(&id)?);
    Ok(namespace.map(|namespace| WorkflowRef { namespace, workflow_id: workflow_id.into() }))
}

pub(crate) fn task_to_wire(workflow: &WorkflowRef, task: Task) -> internal::Task {
    let Task { key: TaskKey { kind, task_queue, position }, attempt, sticky, version, entity, weight } = task;
    internal::Task {
        workflow: Some(workflow_to_wire(workflow)),
        kind: kind as u32,
        task_queue,
        position: position.with_bytes(Bytes::copy_from_slice),
        attempt,
        sticky,
        version: version.map(|version| *version),
        entity_kind: entity as u32,
        weight: weight.0,
    }
}

/// `None` if its namespace is not known here yet.
pub(crate) fn task_from_wire(
    task: internal::Task,
    namespaces: &dyn NamespaceSource,
) -> Result<Option<(WorkflowRef, Task)>, Status> {
    let internal::Task {
        workflow,
        kind: number,
        task_queue,
        position: place,
        attempt,
        sticky,
        version,
        entity_kind: entity,
        weight,
    } = task;
    let (version, weight) = (version.map(Box::new), Weight(weight));
    let entity = entity_kind(entity)?;
    let key = TaskKey { kind: kind(number)?, task_queue, position: position(&place)? };
    let workflow = workflow_from_wire(workflow, namespaces)?;
    Ok(workflow.map(|workflow| (workflow, Task { key, attempt, sticky, version, entity, weight })))
}

/// The kind of entity with a number.
pub(crate) fn entity_kind(number: u32) -> Result<EntityKind, Status> {
    let known = u8::try_from(number).ok().and_then(EntityKind::from_byte);
    known.ok_or_else(|| unreadable("an entity of an unknown kind"))
}

pub(crate) fn query_to_wire(workflow: &WorkflowRef, query: QueryTask) -> internal::OfferedQuery {
    let QueryTask { query_id, run_id, query, task_queue, sticky, version } = query;
    internal::OfferedQuery {
        workflow: Some(workflow_to_wire(workflow)),
        query_id,
        run_id: bytes_of(run_id.0),
        query: Some(query),
        task_queue,
        sticky,
        version: version.map(|version| *version),
    }
}

/// `None` if its namespace is not known here yet.
pub(crate) fn query_from_wire(
    query: internal::OfferedQuery,
    namespaces: &dyn NamespaceSource,
) -> Result<Option<(WorkflowRef, QueryTask)>, Status> {
    let internal::OfferedQuery { workflow, query_id, run_id: run, query, task_queue, sticky, version } = query;
    let (run_id, query, version) = (run_id(&run)?, required(query, "query")?, version.map(Box::new));
    let query = QueryTask { query_id, run_id, query, task_queue, sticky, version };
    Ok(workflow_from_wire(workflow, namespaces)?.map(|workflow| (workflow, query)))
}

pub(crate) fn metadata_to_wire(position: ChainPosition) -> internal::MetadataPosition {
    let ChainPosition { epoch: LeadEpoch { term, opening }, sequence } = position;
    internal::MetadataPosition { term, opening, sequence }
}

pub(crate) fn metadata_from_wire(position: internal::MetadataPosition) -> ChainPosition {
    let internal::MetadataPosition { term, opening, sequence } = position;
    ChainPosition { epoch: LeadEpoch { term, opening }, sequence }
}

/// An encoded answer to a client that another node passes on.
pub(crate) fn decoded<M: Message + Default>(bytes: Bytes) -> Result<M, CallError> {
    M::decode(bytes).map_err(|error| CallError::Failed(format!("the answer of another node cannot be read: {error}")))
}

/// What another node answered instead.
pub(crate) fn error_from_status(status: &Status) -> CallError {
    let message = status.message().to_owned();
    match status.code() {
        tonic::Code::ResourceExhausted => CallError::Overloaded(message),
        tonic::Code::Internal | tonic::Code::InvalidArgument => CallError::Failed(message),
        tonic::Code::DataLoss => CallError::Corrupt(message),
        _ if status.metadata().contains_key(NOT_DONE) => CallError::NotDone(message),
        _ => CallError::Unavailable(message),
    }
}

/// Tells another node why its call has no answer.
pub(crate) fn status_from_error(error: CallError) -> Status {
    let message = error.to_string();
    match error {
        CallError::NotDone(_) => {
            let mut status = Status::unavailable(message);
            status.metadata_mut().insert(NOT_DONE, tonic::metadata::MetadataValue::from_static("1"));
            status
        }
        CallError::Rejected(_) | CallError::Unavailable(_) => Status::unavailable(message),
        CallError::Overloaded(_) => Status::resource_exhausted(message),
        CallError::Failed(_) => Status::internal(message),
        CallError::Corrupt(_) => Status::data_loss(message),
    }
}
