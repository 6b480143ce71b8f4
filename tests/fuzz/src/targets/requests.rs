//! Requests of every method, as bytes on the wire: each is answered with a status that does not blame the server, nothing panics, and the
//! server serves afterwards.
//!
//! An input is the method on a line, then the bytes of the request.

use std::path::{Path, PathBuf};
use std::time::Duration;

use everlog_proto::api::common::v1::{Payload, Payloads, WorkflowExecution, WorkflowType};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::operatorservice::v1 as operator;
use everlog_proto::api::query::v1::WorkflowQuery;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1 as workflow;
use prost::Message;
use prost_types_plain::FileDescriptorSet;
use tonic::Code;

use super::server::Server;
use super::{Target, kind_of};
use everlog_random::Random;
use everlog_random::mutate;

const WORKFLOW: &str = "temporal.api.workflowservice.v1.WorkflowService";
const OPERATOR: &str = "temporal.api.operatorservice.v1.OperatorService";
/// How long a request may wait for what it asks for. Short, because many ask for what never comes.
const WAIT: Duration = Duration::from_millis(40);
/// Inputs for one server: what they leave behind must not become what is tested.
const SERVER_INPUTS: u32 = 20_000;
/// Inputs between two looks whether ordinary requests are served.
const CHECK_INPUTS: u32 = 500;

pub(super) struct Requests {
    binary: PathBuf,
    server: Option<Server>,
    inputs: u32,
    methods: Vec<String>,
}

impl Requests {
    pub(super) fn new(binary: &Path) -> Requests {
        Requests { binary: binary.to_owned(), server: None, inputs: 0, methods: methods() }
    }
}

impl Target for Requests {
    fn name(&self) -> &'static str {
        "requests"
    }

    fn seeds(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let mut seeds = known();
        // Most requests begin with a namespace and what they are about.
        let about =
            workflow::DescribeWorkflowExecutionRequest { namespace: "default".to_owned(), execution: execution() };
        let others = self.methods.iter().filter(|method| !seeds.iter().any(|seed| seed.starts_with(method.as_bytes())));
        let others: Vec<_> = others.map(|method| input(method, &about)).collect();
        seeds.extend(others);
        Ok(seeds)
    }

    fn change(&mut self, random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
        let (method, request) = split(input);
        let (mut method, mut request) = (method.to_owned(), request.to_vec());
        mutate::message(random, &mut request, split(other).1);
        if random.one_in(10) {
            method.clone_from(random.of(&self.methods));
        }
        *input = [method.as_bytes(), b"\n", &request].concat();
    }

    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let (method, request) = split(input);
        if !self.methods.iter().any(|known| known == method) {
            return Ok("no such method".to_owned());
        }
        self.inputs += 1;
        if self.inputs.is_multiple_of(SERVER_INPUTS) {
            self.finish()?;
        }
        let check = self.inputs.is_multiple_of(CHECK_INPUTS);
        let server = match &mut self.server {
            Some(server) => server,
            none => none.insert(Server::start(&self.binary)?),
        };
        let answer = server.call(method, request, WAIT)?;
        let outcome = match &answer {
            Ok(response) => format!("{method} ok {}", response.len().min(1)),
            Err(status) => format!("{method} {:?} {}", status.code(), kind_of(status.message())),
        };
        let complaint = server.complaint(answer.as_ref().err());
        let complaint = complaint.or_else(|| if check { serves(server).err() } else { None });
        match complaint {
            // A panic stays in the log: the next input gets a server of its own.
            Some(complaint) => {
                self.server = None;
                Err(format!("{method}: {complaint}"))
            }
            None => Ok(outcome),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        self.server.take().map_or(Ok(()), Server::stop)
    }
}

/// An ordinary start is taken, in a namespace that requests have not got at.
fn serves(server: &mut Server) -> Result<(), String> {
    let name = "served".to_owned();
    let register = workflow::RegisterNamespaceRequest {
        namespace: name.clone(),
        workflow_execution_retention_period: Some(everlog_proto::wkt::Duration { seconds: 86_400, nanos: 0 }),
        ..Default::default()
    };
    let patience = Duration::from_secs(30);
    let answer = server.call(&format!("{WORKFLOW}/RegisterNamespace"), &register.encode_to_vec(), patience)?;
    if let Err(status) = answer
        && status.code() != Code::AlreadyExists
    {
        return Err(format!("afterwards no namespace is registered: {status}"));
    }
    let start = workflow::StartWorkflowExecutionRequest { namespace: name, ..start() };
    match server.call(&format!("{WORKFLOW}/StartWorkflowExecution"), &start.encode_to_vec(), patience)? {
        Err(status) if status.code() != Code::AlreadyExists => Err(format!("afterwards no start is taken: {status}")),
        _ => Ok(()),
    }
}

fn split(input: &[u8]) -> (&str, &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let method = std::str::from_utf8(&input[..end]).unwrap_or_default();
    (method, input.get(end + 1..).unwrap_or_default())
}

fn input(method: &str, request: &impl Message) -> Vec<u8> {
    [method.as_bytes(), b"\n", &request.encode_to_vec()].concat()
}

/// Every method that is served, but those that end what the others need.
fn methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(everlog_proto::DESCRIPTORS).map(|set| set.file).unwrap_or_default();
    let services = files.iter().flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
    let methods = services.flat_map(|(package, service)| {
        service.method.iter().map(move |method| format!("{package}.{}/{}", service.name(), method.name()))
    });
    methods.filter(|method| method.starts_with(WORKFLOW) || method.starts_with(OPERATOR)).collect()
}

fn execution() -> Option<WorkflowExecution> {
    Some(WorkflowExecution { workflow_id: "fuzz".to_owned(), run_id: String::new() })
}

fn queue() -> Option<TaskQueue> {
    Some(TaskQueue { name: "fuzz".to_owned(), ..Default::default() })
}

fn payloads() -> Option<Payloads> {
    let metadata = [("encoding".to_owned(), b"json/plain".to_vec())].into();
    Some(Payloads { payloads: vec![Payload { metadata, data: b"{}".to_vec(), ..Default::default() }] })
}

fn start() -> workflow::StartWorkflowExecutionRequest {
    workflow::StartWorkflowExecutionRequest {
        namespace: "default".to_owned(),
        workflow_id: "fuzz".to_owned(),
        workflow_type: Some(WorkflowType { name: "Fuzz".to_owned() }),
        task_queue: queue(),
        input: payloads(),
        workflow_run_timeout: Some(everlog_proto::wkt::Duration { seconds: 60, nanos: 0 }),
        request_id: "start".to_owned(),
        workflow_id_reuse_policy: 1,
        ..Default::default()
    }
}

/// A cause within a cause.
fn failure() -> Option<Failure> {
    let cause = Failure { message: "inner".to_owned(), ..Default::default() };
    Some(Failure { message: "outer".to_owned(), cause: Some(Box::new(cause)), ..Default::default() })
}

/// Requests that do what they are for.
fn known() -> Vec<Vec<u8>> {
    let namespace = "default".to_owned();
    let signal = "signal".to_owned();
    let of = |name: &str| format!("{WORKFLOW}/{name}");
    vec![
        input(&of("StartWorkflowExecution"), &start()),
        input(
            &of("SignalWorkflowExecution"),
            &workflow::SignalWorkflowExecutionRequest {
                namespace: namespace.clone(),
                workflow_execution: execution(),
                signal_name: signal.clone(),
                input: payloads(),
                ..Default::default()
            },
        ),
        input(
            &of("SignalWithStartWorkflowExecution"),
            &workflow::SignalWithStartWorkflowExecutionRequest {
                namespace: namespace.clone(),
                workflow_id: "fuzz".to_owned(),
                workflow_type: Some(WorkflowType { name: "Fuzz".to_owned() }),
                task_queue: queue(),
                signal_name: signal,
                signal_input: payloads(),
                ..Default::default()
            },
        ),
        input(
            &of("GetWorkflowExecutionHistory"),
            &workflow::GetWorkflowExecutionHistoryRequest {
                namespace: namespace.clone(),
                execution: execution(),
                maximum_page_size: 10,
                next_page_token: vec![1, 2, 3],
                ..Default::default()
            },
        ),
        input(
            &of("ListWorkflowExecutions"),
            &workflow::ListWorkflowExecutionsRequest {
                namespace: namespace.clone(),
                page_size: 10,
                query: "WorkflowType = 'Fuzz' AND ExecutionStatus = 'Running'".to_owned(),
                ..Default::default()
            },
        ),
        input(
            &of("QueryWorkflow"),
            &workflow::QueryWorkflowRequest {
                namespace: namespace.clone(),
                execution: execution(),
                query: Some(WorkflowQuery { query_type: "q".to_owned(), query_args: payloads(), ..Default::default() }),
                ..Default::default()
            },
        ),
        input(
            &of("PollWorkflowTaskQueue"),
            &workflow::PollWorkflowTaskQueueRequest {
                namespace: namespace.clone(),
                task_queue: queue(),
                identity: "fuzz".to_owned(),
                ..Default::default()
            },
        ),
        input(
            &of("PollActivityTaskQueue"),
            &workflow::PollActivityTaskQueueRequest {
                namespace: namespace.clone(),
                task_queue: queue(),
                ..Default::default()
            },
        ),
        input(
            &of("RespondActivityTaskFailedById"),
            &workflow::RespondActivityTaskFailedByIdRequest {
                namespace: namespace.clone(),
                workflow_id: "fuzz".to_owned(),
                activity_id: "a".to_owned(),
                failure: failure(),
                ..Default::default()
            },
        ),
        input(
            &of("RespondActivityTaskCompleted"),
            &workflow::RespondActivityTaskCompletedRequest {
                namespace: namespace.clone(),
                task_token: vec![2, 0, 1, 2],
                result: payloads(),
                ..Default::default()
            },
        ),
        input(
            &of("TerminateWorkflowExecution"),
            &workflow::TerminateWorkflowExecutionRequest {
                namespace,
                workflow_execution: execution(),
                reason: "r".to_owned(),
                ..Default::default()
            },
        ),
        input(
            &of("RegisterNamespace"),
            &workflow::RegisterNamespaceRequest {
                namespace: "scratch".to_owned(),
                workflow_execution_retention_period: Some(everlog_proto::wkt::Duration { seconds: 86_400, nanos: 0 }),
                ..Default::default()
            },
        ),
        input(
            &format!("{OPERATOR}/AddSearchAttributes"),
            &operator::AddSearchAttributesRequest {
                namespace: "default".to_owned(),
                search_attributes: [("Number".to_owned(), 3)].into(),
            },
        ),
    ]
}
