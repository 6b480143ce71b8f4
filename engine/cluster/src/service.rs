//! Answers other nodes. What is asked of partitions is answered only if they are led here; nothing is passed on.

use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::command::{StartActivityTask, StartWorkflowTask};
use everlog_kernel::deployment::VersionQueue;
use everlog_kernel::outbox::OutboxMessage;
use everlog_kernel::transition::{TaskKey, TaskKind, TaskPosition};
use everlog_kernel::{Namespace, NamespaceId, RunCommand};
use everlog_matching::nexus::NexusQueue;
use everlog_matching::query_waiters::Queries;
use everlog_matching::{Backlog, MatchingHandle, Message, QueueStats};
use everlog_meta::Namespaces;
use everlog_model::{CallError, NamespaceSource, QueueId, SlotSet, limits};
use everlog_partition::{Router, StartQuery, StartedWorkflowTask, confirm_by_quorum, confirm_leads};
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::workflowservice::v1::{ListClosedWorkflowExecutionsRequest, ListOpenWorkflowExecutionsRequest};
use everlog_proto::internal::{
    ActivityTaskStart, AnnounceRequest, AnnounceResponse, DeliverRequest, DeliverResponse, DispatchNexusRequest,
    DispatchNexusResponse, Empty, EndPollsRequest, EnrolRequest, EnrolResponse, Internal, InternalServer, LedGroup,
    MetadataPosition, MoveStepRequest, MoveStepResponse, NodeReport, OfferRequest, QueryStart, RecentPollerRequest,
    RecentPollerResponse, RegisterWorkerRequest, RegisterWorkerResponse, Start, StartTaskRequest, StartTaskResponse,
    StartedTask, StatusCount, SteerRequest, TaskPageRequest, TaskPageResponse, VisibilityCountResponse,
    VisibilityPageResponse, VisibilityRequest, VisibleRun, Wanted, WorkersHeardRequest, WorkflowTaskStart,
    internal_server,
};
use everlog_raft::Group;
use everlog_storage::GroupId;
use everlog_visibility::{Ask, Query, Reader, VisibilityError, Whose};
use futures::future::{BoxFuture, join_all, try_join_all};
use http::{Request, Response};
use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codegen::async_trait;
use tonic::{Status, codegen};

use crate::book::Sender;
use crate::remote::number;
use crate::wire::{
    NEXUS_TIME_MAX, entity_kind, kind, lead_from_wire, metadata_from_wire, metadata_to_wire, namespace_id,
    nexus_reply_to_wire, position, query_from_wire, queue, required, run_id, status_from_error, task_from_wire,
    task_to_wire, unreadable, workflow_from_wire,
};
use crate::{MovePartitions, Nodes, Operations, freshness, not_done};

/// What other nodes ask this one.
#[derive(Clone)]
pub struct Service {
    server: InternalServer<Handlers>,
    calls: Arc<Semaphore>,
}

/// Takes in which versions of workers poll which queues, if this node leads the metadata.
pub trait Registrar: Send + Sync + 'static {
    /// Resolves once it is known.
    fn register(
        &self,
        namespace_id: NamespaceId,
        version: WorkerDeploymentVersion,
        queue: VersionQueue,
    ) -> BoxFuture<'_, Result<(), CallError>>;
}

/// What answers are made of.
pub struct ServiceParts {
    /// The other nodes.
    pub nodes: Arc<Nodes>,
    /// The way to the workflows of this one.
    pub router: Router,
    /// Its task queues.
    pub matching: MatchingHandle,
    /// Its namespaces.
    pub namespaces: Arc<Namespaces>,
    /// Queries whose callers wait here.
    pub queries: Arc<Queries>,
    /// Reads lists and counts here.
    pub reader: Arc<Reader>,
    /// What operators are told of this node.
    pub operations: Arc<Operations>,
    /// What partitions do in steps of namespaces that move.
    pub moves: Arc<MovePartitions>,
    /// Takes in which versions of workers poll which queues, where the metadata is led.
    pub registrar: Arc<dyn Registrar>,
    /// The largest request of a client, bytes.
    pub request_bytes_max: usize,
}

impl Service {
    /// The full name of the service.
    pub const NAME: &'static str = internal_server::SERVICE_NAME;

    /// The service of a node.
    pub fn new(parts: ServiceParts) -> Service {
        let bytes_max = limits::INTERNAL_BATCH_BYTES_MAX.saturating_add(parts.request_bytes_max);
        let server = InternalServer::new(Handlers(Arc::new(parts)))
            .max_decoding_message_size(bytes_max)
            .max_encoding_message_size(usize::MAX);
        Service { server, calls: Arc::new(Semaphore::new(limits::INTERNAL_CALLS_MAX)) }
    }

    /// Answers a call, unless too many are being answered.
    pub async fn call(&self, request: Request<Body>) -> Response<Body> {
        let Ok(_place) = self.calls.try_acquire() else {
            return not_done(Status::resource_exhausted("the node answers as many others as it may"));
        };
        let mut server = self.server.clone();
        match codegen::Service::call(&mut server, request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

#[derive(Clone)]
struct Handlers(Arc<ServiceParts>);

type Answer<T> = Result<tonic::Response<T>, Status>;

impl Handlers {
    fn parts(&self) -> &ServiceParts {
        &self.0
    }

    fn namespaces(&self) -> &dyn NamespaceSource {
        &*self.parts().namespaces
    }

    /// Who asks. What a node is told of leads and offers counts for as long as it knows the node that says so.
    fn sender(&self, sender: Option<everlog_proto::internal::Sender>) -> Result<Sender, Status> {
        let sender = Sender::from_wire(sender)?;
        if self.parts().nodes.peers().nodes().contains(&sender.node) {
            return Ok(sender);
        }
        Err(status_from_error(CallError::NotDone(format!("node {} is not known here", sender.node))))
    }

    fn tell(&self, message: Message) {
        // The message has come to the home of its queue: it is not passed on.
        self.parts().matching.local().receive(message);
    }

    async fn start(&self, request: StartTaskRequest) -> Result<StartedTask, CallError> {
        let StartTaskRequest { workflow, run_id: run, start } = request;
        let read = || -> Result<_, Status> {
            let workflow = workflow_from_wire(workflow, self.namespaces())?;
            Ok((workflow, run_id(&run)?, required(start, "task")?))
        };
        let (workflow, run_id, start) = read().map_err(|status| CallError::Failed(status.message().to_owned()))?;
        let unknown = || CallError::NotDone("the namespace is not known here yet".to_owned());
        let workflow = workflow.ok_or_else(unknown)?;
        let ServiceParts { router, queries, .. } = self.parts();
        let partition = router.partition_of(&workflow)?;
        match start {
            Start::WorkflowTask(start) => {
                let WorkflowTaskStart {
                    scheduled_event_id,
                    attempt,
                    task_queue,
                    identity,
                    request_id,
                    worker_version,
                    deployment_version,
                } = start;
                let start = StartWorkflowTask {
                    scheduled_event_id,
                    attempt,
                    task_queue,
                    identity,
                    request_id,
                    worker_version,
                    deployment_version,
                };
                let command = RunCommand::StartWorkflowTask(start);
                partition.start_workflow_task(workflow, run_id, command).await.map(started)
            }
            Start::ActivityTask(start) => {
                let ActivityTaskStart { scheduled_event_id, attempt, identity, request_id, task_queue, .. } = start;
                let (position, sdk, deployment_version) =
                    (start.position, (start.sdk_name, start.sdk_version), start.deployment_version);
                let kind =
                    entity_kind(start.entity_kind).map_err(|status| CallError::Failed(status.message().to_owned()))?;
                let position = TaskPosition::from_bytes(&position);
                let key = position.map(|position| Box::new(TaskKey { kind: TaskKind::Activity, task_queue, position }));
                let start = StartActivityTask {
                    scheduled_event_id,
                    attempt,
                    key,
                    identity,
                    request_id,
                    sdk,
                    deployment_version,
                };
                let response = partition.start_activity_task(kind, workflow, run_id, start).await?;
                Ok(StartedTask { poll: response.encode_to_vec().into(), ..StartedTask::default() })
            }
            Start::Query(QueryStart { query_id, task_queue }) => {
                let start = StartQuery { query_id, task_queue };
                partition.start_query(queries, workflow, run_id, start).await.map(started)
            }
        }
    }

    /// The partitions that a list or count is asked of, which may be read now, and what is looked for in each.
    async fn readable(&self, request: &VisibilityRequest) -> Result<Whose, Status> {
        let namespace_id = namespace_id(&request.namespace_id)?;
        let slots = |bytes: &bytes::Bytes| SlotSet::decode(bytes).ok_or_else(|| unreadable("its slots are none"));
        let slots = request.slots.iter().map(slots).collect::<Result<Vec<_>, _>>()?;
        let groups = self.readable_groups(request).await?;
        let parts = match slots.len() {
            0 => groups.into_iter().map(|group| (group, None)).collect(),
            count if count == groups.len() => groups.into_iter().zip(slots.into_iter().map(Some)).collect(),
            _ => return Err(unreadable("it does not say which slots are looked for where")),
        };
        Ok(Whose { namespace_id, parts })
    }

    async fn readable_groups(&self, request: &VisibilityRequest) -> Result<Vec<Group>, Status> {
        let ServiceParts { nodes, router, .. } = self.parts();
        let partitions = request.partitions.iter().map(|partition| GroupId(*partition));
        if request.stale_max_ms > 0 {
            let bound = Duration::from_millis(request.stale_max_ms);
            let replica = |partition| async move {
                if let Some(group) = router.replica(partition).filter(|group| nodes.may_read(group, bound)) {
                    return Ok(group);
                }
                let group = router.group(partition)?;
                confirm_leads(std::slice::from_ref(&group)).await.map(|()| group)
            };
            return try_join_all(partitions.map(replica)).await.map_err(status_from_error);
        }
        let groups = partitions.map(|partition| router.group(partition)).collect::<Result<Vec<_>, _>>();
        let groups = groups.map_err(status_from_error)?;
        let confirmed =
            if request.asks_quorum { confirm_by_quorum(&groups).await } else { confirm_leads(&groups).await };
        confirmed.map_err(status_from_error)?;
        Ok(groups)
    }

    fn wanted_runs(&self, request: &VisibilityRequest) -> Result<(Arc<Namespace>, Query), Status> {
        let namespaces = &self.parts().namespaces;
        let namespace = namespaces.record_by_id(namespace_id(&request.namespace_id)?);
        let unknown = || status_from_error(CallError::NotDone("the namespace is not known here yet".to_owned()));
        let namespace = namespace.ok_or_else(unknown)?;
        let ask = match required(request.wanted.as_ref(), "query")? {
            Wanted::Query(query) => Ask::Query(query.clone()),
            Wanted::Schedules(query) => Ask::Schedules(query.clone()),
            Wanted::BatchJobs(query) => Ask::BatchJobs(query.clone()),
            Wanted::Activities(query) => Ask::Activities(query.clone()),
            Wanted::Open(bytes) => Ask::Open(Box::new(
                ListOpenWorkflowExecutionsRequest::decode(&bytes[..])
                    .map_err(|error| unreadable(&error.to_string()))?,
            )),
            Wanted::Closed(bytes) => Ask::Closed(Box::new(
                ListClosedWorkflowExecutionsRequest::decode(&bytes[..])
                    .map_err(|error| unreadable(&error.to_string()))?,
            )),
        };
        let types = namespace.search_attributes.iter().map(|(name, kind)| (name.clone(), *kind)).collect();
        Ok((ask.lists(&namespace.namespace), ask.read(&types).map_err(status_of)?))
    }
}

fn started(started: StartedWorkflowTask) -> StartedTask {
    let StartedWorkflowTask { response, next_page_from, history_to } = started;
    StartedTask {
        poll: response.message.encode_to_vec().into(),
        history: response.history.map(|history| history.batches).unwrap_or_default(),
        next_page_from,
        history_to,
    }
}

fn status_of(error: VisibilityError) -> Status {
    match error {
        VisibilityError::InvalidArgument(message) => Status::invalid_argument(message),
        VisibilityError::Unavailable(message) => Status::unavailable(message),
        VisibilityError::Outdated(message) => status_from_error(CallError::NotDone(message)),
        VisibilityError::Internal(message) => Status::internal(message),
    }
}

#[async_trait]
impl Internal for Handlers {
    async fn announce(&self, request: tonic::Request<AnnounceRequest>) -> Answer<AnnounceResponse> {
        let AnnounceRequest { sender, leads, is_draining } = request.into_inner();
        let sender = self.sender(sender)?;
        self.parts().operations.leads().heard(sender.node, is_draining);
        let leads = leads.iter().map(lead_from_wire).collect::<Result<Vec<_>, _>>()?;
        let messages = self.parts().nodes.book.announced(sender, &leads);
        messages.into_iter().for_each(|message| self.tell(message));
        let led = freshness::led(&self.parts().operations.leads().groups());
        let led = led.into_iter().map(|(group, applied_index)| LedGroup { group: group.0, applied_index });
        Ok(tonic::Response::new(AnnounceResponse { led: led.collect() }))
    }

    async fn offer(&self, request: tonic::Request<OfferRequest>) -> Answer<Empty> {
        let OfferRequest { sender, tasks, queries, withdrawn_queries } = request.into_inner();
        // All of it is read before any of it counts.
        let sender = self.sender(sender)?;
        let mut messages = Vec::with_capacity(tasks.len() + queries.len() + withdrawn_queries.len());
        for offered in tasks {
            let source = lead_from_wire(&required(offered.lead, "lead")?)?;
            let task = task_from_wire(required(offered.task, "task")?, self.namespaces())?;
            // A namespace that is new to this node will be known when it reads the row.
            messages.push(match task {
                Some((workflow, task)) => Message::Task { source, workflow, task },
                None => Message::Missed(source),
            });
        }
        for query in queries {
            if let Some((workflow, query)) = query_from_wire(query, self.namespaces())? {
                messages.push(Message::Query { workflow, query });
            }
        }
        messages.extend(withdrawn_queries.into_iter().map(|query_id| Message::WithdrawQuery { query_id }));
        self.parts().nodes.book.offered(sender).into_iter().for_each(|message| self.tell(message));
        messages.into_iter().for_each(|message| self.tell(message));
        Ok(tonic::Response::new(Empty {}))
    }

    async fn start_task(&self, request: tonic::Request<StartTaskRequest>) -> Answer<StartTaskResponse> {
        match self.start(request.into_inner()).await {
            Ok(started) => Ok(tonic::Response::new(StartTaskResponse { started: Some(started) })),
            Err(CallError::Rejected(_)) => Ok(tonic::Response::new(StartTaskResponse { started: None })),
            Err(error) => Err(status_from_error(error)),
        }
    }

    async fn task_page(&self, request: tonic::Request<TaskPageRequest>) -> Answer<TaskPageResponse> {
        let TaskPageRequest { lead, namespace_id, kind, task_queue, after, limit } = request.into_inner();
        let lead = lead_from_wire(&required(lead, "lead")?)?;
        let queue = queue(&namespace_id, kind, task_queue)?;
        let after = (!after.is_empty()).then(|| position(&after)).transpose()?;
        if !self.parts().nodes.book.is_own(lead) {
            return Err(status_from_error(CallError::NotDone("the lead is over".to_owned())));
        }
        let rows = self.parts().nodes.rows.ready_tasks(lead.partition, queue, after, limit as usize).await;
        let tasks = rows.map_err(Status::unavailable)?;
        let tasks = tasks.into_iter().map(|(workflow, task)| task_to_wire(&workflow, task)).collect();
        Ok(tonic::Response::new(TaskPageResponse { tasks }))
    }

    async fn deliver(&self, request: tonic::Request<DeliverRequest>) -> Answer<DeliverResponse> {
        let messages = request.into_inner().messages;
        let read = |row: &bytes::Bytes| OutboxMessage::from_row(row).map_err(|error| unreadable(&error.to_string()));
        let messages = messages.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let received = messages.iter().map(|message| self.parts().router.receive(self.namespaces(), message));
        let outcomes = join_all(received).await.into_iter().map(number).collect();
        Ok(tonic::Response::new(DeliverResponse { outcomes }))
    }

    async fn visibility_page(&self, request: tonic::Request<VisibilityRequest>) -> Answer<VisibilityPageResponse> {
        let request = request.into_inner();
        let (namespace, query) = self.wanted_runs(&request)?;
        let whose = self.readable(&request).await?;
        let after = if request.after.is_empty() {
            None
        } else {
            Some(request.after[..].try_into().map_err(|_| unreadable("a page begins nowhere"))?)
        };
        let limit = (request.limit as usize).min(limits::VISIBILITY_PAGE_SIZE_MAX);
        let page = everlog_visibility::list(&self.parts().reader, whose, &namespace, query, after, limit);
        let page = page.await.map_err(status_of)?;
        let run = |(position, record): (everlog_visibility::Position, bytes::Bytes)| VisibleRun {
            position: bytes::Bytes::copy_from_slice(&position),
            record,
        };
        let runs = page.runs.into_iter().map(run).collect();
        Ok(tonic::Response::new(VisibilityPageResponse { runs, has_more: page.has_more }))
    }

    async fn visibility_count(&self, request: tonic::Request<VisibilityRequest>) -> Answer<VisibilityCountResponse> {
        let (namespace, query) = self.wanted_runs(request.get_ref())?;
        let whose = self.readable(request.get_ref()).await?;
        let counted = everlog_visibility::count(&self.parts().reader, whose, &namespace, query);
        let counted = counted.await.map_err(status_of)?;
        let counts = counted.into_iter().map(|(status, count)| StatusCount { status, count }).collect();
        Ok(tonic::Response::new(VisibilityCountResponse { counts }))
    }

    async fn recent_poller(&self, request: tonic::Request<RecentPollerRequest>) -> Answer<RecentPollerResponse> {
        let RecentPollerRequest { namespace_id: namespace, kind: number, task_queue, within_ms, version } =
            request.into_inner();
        let version = version.map(Box::new);
        let queue = QueueId { version, ..QueueId::new(namespace_id(&namespace)?, kind(number)?, task_queue) };
        let within = Duration::from_millis(within_ms);
        let matching = self.parts().matching.local();
        let is_polled = matching.has_recent_poller(&queue, within);
        let stats = match queue.version {
            // Nobody asks for more.
            None => QueueStats::default(),
            Some(_) => matching.describe(&queue).await.stats,
        };
        Ok(tonic::Response::new(RecentPollerResponse {
            is_polled,
            backlog: stats.backlog,
            backlog_age_ms: u64::try_from(stats.backlog_age.as_millis()).unwrap_or(u64::MAX),
            add_rate: stats.add_rate,
            dispatch_rate: stats.dispatch_rate,
        }))
    }

    async fn register_worker(&self, request: tonic::Request<RegisterWorkerRequest>) -> Answer<RegisterWorkerResponse> {
        let RegisterWorkerRequest { namespace_id: namespace, version, kind, task_queue } = request.into_inner();
        let version = required(version, "version")?;
        let queue = VersionQueue { kind, name: task_queue };
        let register = self.parts().registrar.register(namespace_id(&namespace)?, version, queue);
        match register.await {
            Ok(()) => {
                let position = metadata_to_wire(self.parts().namespaces.seen());
                Ok(tonic::Response::new(RegisterWorkerResponse { refusal: None, position: Some(position) }))
            }
            Err(CallError::Rejected(why)) => {
                Ok(tonic::Response::new(RegisterWorkerResponse { refusal: Some(why.to_string()), position: None }))
            }
            Err(error) => Err(status_from_error(error)),
        }
    }

    async fn dispatch_nexus(&self, request: tonic::Request<DispatchNexusRequest>) -> Answer<DispatchNexusResponse> {
        let DispatchNexusRequest { namespace_id: namespace, task_queue, request, time_ms } = request.into_inner();
        let queue = NexusQueue { namespace_id: namespace_id(&namespace)?, name: task_queue };
        let deadline = tokio::time::Instant::now() + Duration::from_millis(time_ms).min(NEXUS_TIME_MAX);
        let request = required(request, "request")?;
        let answer = self.parts().matching.local().nexus().dispatch(queue, request, deadline).await;
        Ok(tonic::Response::new(nexus_reply_to_wire(answer).map_err(status_from_error)?))
    }

    async fn metadata_position(&self, _request: tonic::Request<Empty>) -> Answer<MetadataPosition> {
        let position = self.parts().namespaces.position().await;
        let position = position.map_err(|error| status_from_error(CallError::NotDone(error.to_string())))?;
        Ok(tonic::Response::new(metadata_to_wire(position)))
    }

    async fn await_metadata(&self, request: tonic::Request<MetadataPosition>) -> Answer<Empty> {
        let seen = self.parts().namespaces.until_seen(metadata_from_wire(request.into_inner()));
        match tokio::time::timeout(limits::METADATA_WAIT_MAX, seen).await {
            Ok(()) => Ok(tonic::Response::new(Empty {})),
            Err(_) => Err(Status::unavailable("the metadata has not come so far here")),
        }
    }

    async fn report(&self, _request: tonic::Request<Empty>) -> Answer<NodeReport> {
        Ok(tonic::Response::new(self.parts().operations.report().await))
    }

    async fn steer(&self, request: tonic::Request<SteerRequest>) -> Answer<Empty> {
        self.parts().operations.steered(request.into_inner()).await?;
        Ok(tonic::Response::new(Empty {}))
    }

    async fn enrol(&self, request: tonic::Request<EnrolRequest>) -> Answer<EnrolResponse> {
        Ok(tonic::Response::new(self.parts().operations.enrolled(request.into_inner()).await?))
    }

    async fn move_step(&self, request: tonic::Request<MoveStepRequest>) -> Answer<MoveStepResponse> {
        let done = self.parts().moves.ask_here(request.into_inner()).await;
        done.map(tonic::Response::new).map_err(status_from_error)
    }

    async fn workers_heard(&self, request: tonic::Request<WorkersHeardRequest>) -> Answer<Empty> {
        let WorkersHeardRequest { namespace_id: namespace, heartbeats } = request.into_inner();
        self.parts().matching.local().workers().heard(namespace_id(&namespace)?, &heartbeats);
        Ok(tonic::Response::new(Empty {}))
    }

    async fn end_polls(&self, request: tonic::Request<EndPollsRequest>) -> Answer<Empty> {
        let EndPollsRequest { namespace_id: namespace, sticky, worker_instance_key } = request.into_inner();
        let namespace = namespace_id(&namespace)?;
        let sticky = sticky.map(|name| QueueId::new(namespace, TaskKind::Workflow, name));
        self.parts().matching.local().worker_shutdown(sticky.as_ref(), &worker_instance_key);
        Ok(tonic::Response::new(Empty {}))
    }
}
