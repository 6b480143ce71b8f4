//! Raw gRPC calls to any node of the cluster, and what their statuses mean.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use everlog_proto::RpcStatus;
use everlog_proto::api::common::v1::{Payload, Payloads, WorkflowExecution};
use everlog_proto::api::enums::v1::{HistoryEventFilterType, WorkflowExecutionStatus};
use everlog_proto::api::errordetails::v1::WorkflowExecutionAlreadyStartedFailure;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1 as service;
use everlog_proto::clients::WorkflowServiceClient;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Response, Status};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::checker;
use crate::failure::Failure;

/// How long a call may take, where a caller does not say so.
pub(crate) const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// How much later than its deadline an answer may come before nobody waits for it any more.
const GRACE: Duration = Duration::from_secs(2);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a node is avoided at which nobody listened.
const AWAY_TIME: Duration = Duration::from_millis(500);
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Pages of a history: none here is longer.
const PAGES_MAX: usize = 100;
/// Statuses that nobody should see which are kept to be shown.
const SURPRISES_MAX: usize = 20;

/// The way to a node: a connection, or the node itself if it runs in this process.
pub(crate) type Way = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Broken>;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(#[source] pub(crate) Box<dyn std::error::Error + Send + Sync>);

/// A generated client over it.
type Stub = WorkflowServiceClient<Way>;

/// Connections to all nodes for one namespace. A connection that breaks is made anew with the next call.
pub(crate) struct Client {
    stubs: Vec<Stub>,
    pub(crate) namespace: String,
    /// When nobody listened at a node, by node.
    away: Vec<Mutex<Option<Instant>>>,
    seen: Arc<Seen>,
}

/// What all clients saw of errors.
#[derive(Default)]
pub(crate) struct Seen {
    errors: Mutex<BTreeMap<(&'static str, String), u64>>,
    surprises: Mutex<Vec<String>>,
}

impl Seen {
    /// How many calls ended with an error, by method and code; rejections by a rule of the API are none.
    pub(crate) fn errors(&self) -> BTreeMap<(&'static str, String), u64> {
        self.errors.lock().clone()
    }

    /// Statuses that no failure of a node explains.
    pub(crate) fn surprises(&self) -> Vec<String> {
        self.surprises.lock().clone()
    }

    fn note(&self, method: &'static str, status: &Status) {
        let is_rule = match status.code() {
            Code::NotFound | Code::AlreadyExists => !status.message().contains("amespace"),
            // Something has come since that the workflow has not seen.
            Code::InvalidArgument => method == "RespondWorkflowTaskCompleted",
            // It could not close because of an event before, and is let close now.
            Code::ResourceExhausted => status.message().ends_with("workflow is closing"),
            _ => false,
        };
        if is_rule {
            return;
        }
        let from = match std::error::Error::source(status) {
            Some(_) if was_not_sent(status) => "nobody listens",
            Some(_) => "connection lost",
            None => "answer",
        };
        let mut error = format!("{:?} ({from})", status.code());
        if status.code() == Code::ResourceExhausted {
            // There are several reasons.
            error = format!("{error}: {}", status.message());
        }
        *self.errors.lock().entry((method, error)).or_default() += 1;
        let is_expected = matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted
        );
        let mut surprises = self.surprises.lock();
        if from == "answer" && !is_expected && surprises.len() < SURPRISES_MAX {
            surprises.push(format!("{method}: {:?}: {}", status.code(), status.message()));
        }
    }
}

impl Client {
    /// Connects when it is used.
    pub(crate) fn new(addresses: &[SocketAddr], namespace: &str, seen: &Arc<Seen>) -> Result<Client, Failure> {
        let way = |address: &SocketAddr| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))
                .map_err(|error| Failure(error.to_string()))?
                .connect_timeout(CONNECT_TIME_MAX)
                .tcp_nodelay(true);
            Ok(BoxCloneSyncService::new(endpoint.connect_lazy().map_err(|error| Broken(error.into()))))
        };
        let ways = addresses.iter().map(way).collect::<Result<_, Failure>>()?;
        Ok(Client::over(ways, namespace, seen))
    }

    /// Over these ways, one for each node.
    pub(crate) fn over(ways: Vec<Way>, namespace: &str, seen: &Arc<Seen>) -> Client {
        let away = ways.iter().map(|_| Mutex::default()).collect();
        let stub = |way| WorkflowServiceClient::new(way).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let stubs = ways.into_iter().map(stub).collect();
        Client { stubs, namespace: namespace.to_owned(), away, seen: Arc::clone(seen) }
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.stubs.len()
    }

    /// This node, or the next one if nobody listened there a moment ago.
    pub(crate) fn near(&self, node: usize) -> usize {
        let is_away = |node: &usize| self.away[*node].lock().is_some_and(|at| at.elapsed() < AWAY_TIME);
        let all = (node..node + self.nodes()).map(|node| node % self.nodes());
        all.clone().find(|node| !is_away(node)).or_else(|| all.clone().next()).unwrap_or(node)
    }

    /// Makes one call to a node, and no other one if that fails.
    pub(crate) async fn call<T, R>(
        &self,
        node: usize,
        method: &'static str,
        request: T,
        time_max: Duration,
        send: impl AsyncFnOnce(&mut Stub, Request<T>) -> Result<Response<R>, Status>,
    ) -> Result<R, Status> {
        let mut request = Request::new(request);
        request.set_timeout(time_max);
        let mut stub = self.stubs[node].clone();
        let answered = tokio::time::timeout(time_max + GRACE, send(&mut stub, request)).await;
        let result = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("nobody has answered")));
        *self.away[node].lock() = result.as_ref().is_err_and(was_not_sent).then(Instant::now);
        result.map(Response::into_inner).inspect_err(|status| self.seen.note(method, status))
    }

    pub(crate) async fn start(
        &self,
        node: usize,
        mut request: service::StartWorkflowExecutionRequest,
    ) -> Result<service::StartWorkflowExecutionResponse, Status> {
        request.namespace.clone_from(&self.namespace);
        self.call(node, "StartWorkflowExecution", request, CALL_TIME_MAX, async |stub, request| {
            stub.start_workflow_execution(request).await
        })
        .await
    }

    /// Sends the signal `name` with a number, under a request id if one is given.
    pub(crate) async fn signal(
        &self,
        node: usize,
        execution: WorkflowExecution,
        name: &str,
        number: u32,
        request_id: Option<String>,
    ) -> Result<(), Status> {
        let request = service::SignalWorkflowExecutionRequest {
            namespace: self.namespace.clone(),
            workflow_execution: Some(execution),
            signal_name: name.to_owned(),
            input: Some(payloads(&number)),
            request_id: request_id.unwrap_or_default(),
            ..Default::default()
        };
        self.call(node, "SignalWorkflowExecution", request, CALL_TIME_MAX, async |stub, request| {
            stub.signal_workflow_execution(request).await
        })
        .await
        .map(drop)
    }

    pub(crate) async fn terminate(&self, node: usize, execution: WorkflowExecution) -> Result<(), Status> {
        let request = service::TerminateWorkflowExecutionRequest {
            namespace: self.namespace.clone(),
            workflow_execution: Some(execution),
            ..Default::default()
        };
        self.call(node, "TerminateWorkflowExecution", request, CALL_TIME_MAX, async |stub, request| {
            stub.terminate_workflow_execution(request).await
        })
        .await
        .map(drop)
    }

    /// The run and its status.
    pub(crate) async fn describe(
        &self,
        node: usize,
        execution: WorkflowExecution,
    ) -> Result<(String, WorkflowExecutionStatus), Status> {
        let request =
            service::DescribeWorkflowExecutionRequest { namespace: self.namespace.clone(), execution: Some(execution) };
        let answer = self
            .call(node, "DescribeWorkflowExecution", request, CALL_TIME_MAX, async |stub, request| {
                stub.describe_workflow_execution(request).await
            })
            .await?;
        let info = answer.workflow_execution_info.unwrap_or_default();
        let status = info.status();
        Ok((info.execution.unwrap_or_default().run_id, status))
    }

    /// All runs that a query finds, with their statuses.
    pub(crate) async fn list(
        &self,
        node: usize,
        query: &str,
    ) -> Result<Vec<(WorkflowExecution, WorkflowExecutionStatus)>, Status> {
        let request = service::ListWorkflowExecutionsRequest {
            namespace: self.namespace.clone(),
            query: query.to_owned(),
            page_size: 1000,
            ..Default::default()
        };
        let answer = self
            .call(node, "ListWorkflowExecutions", request, CALL_TIME_MAX, async |stub, request| {
                stub.list_workflow_executions(request).await
            })
            .await?;
        let shown = answer.executions.into_iter().map(|info| {
            let status = info.status();
            (info.execution.unwrap_or_default(), status)
        });
        Ok(shown.collect())
    }

    /// How many runs a query finds.
    pub(crate) async fn count(&self, node: usize, query: &str) -> Result<i64, Status> {
        let request =
            service::CountWorkflowExecutionsRequest { namespace: self.namespace.clone(), query: query.to_owned() };
        let answer = self.call(node, "CountWorkflowExecutions", request, CALL_TIME_MAX, async |stub, request| {
            stub.count_workflow_executions(request).await
        });
        Ok(answer.await?.count)
    }

    /// A page of a history, and where the next one begins. With `wait` the last event, once the run has closed, or nothing after that time.
    pub(crate) async fn history_page(
        &self,
        node: usize,
        execution: WorkflowExecution,
        token: Vec<u8>,
        wait: Option<Duration>,
    ) -> Result<(Vec<HistoryEvent>, Vec<u8>), Status> {
        let request = service::GetWorkflowExecutionHistoryRequest {
            namespace: self.namespace.clone(),
            execution: Some(execution),
            next_page_token: token,
            wait_new_event: wait.is_some(),
            history_event_filter_type: match wait {
                Some(_) => HistoryEventFilterType::CloseEvent as i32,
                None => HistoryEventFilterType::AllEvent as i32,
            },
            ..Default::default()
        };
        let time_max = wait.unwrap_or(CALL_TIME_MAX);
        let answer = self
            .call(node, "GetWorkflowExecutionHistory", request, time_max, async |stub, request| {
                stub.get_workflow_execution_history(request).await
            })
            .await?;
        Ok((answer.history.unwrap_or_default().events, answer.next_page_token))
    }

    /// A whole history.
    pub(crate) async fn history(&self, node: usize, execution: WorkflowExecution) -> Result<Vec<HistoryEvent>, Status> {
        let (mut events, mut token) = self.history_page(node, execution.clone(), Vec::new(), None).await?;
        for _ in 0..PAGES_MAX {
            if token.is_empty() {
                return Ok(events);
            }
            let (more, next) = self.history_page(node, execution.clone(), token, None).await?;
            events.extend(more);
            token = next;
        }
        Err(Status::out_of_range("a history of too many pages"))
    }

    /// Makes a call that may be made more than once, at one node after the other, until it is answered or refused by a rule.
    pub(crate) async fn insist<R>(
        &self,
        first: usize,
        time_max: Duration,
        call: impl AsyncFn(usize) -> Result<R, Status>,
    ) -> Result<R, Failure> {
        let until = Instant::now() + time_max;
        let mut node = first;
        loop {
            match call(self.near(node)).await {
                Ok(answer) => return Ok(answer),
                Err(status) if is_transient(&status) && Instant::now() < until => {
                    node += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
}

/// Whether a caller may try again.
pub(crate) fn is_transient(status: &Status) -> bool {
    let codes = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::ResourceExhausted];
    codes.contains(&status.code()) || std::error::Error::source(status).is_some()
}

/// Whether nothing was sent, because nobody listens at the address.
fn was_not_sent(status: &Status) -> bool {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    std::iter::successors(std::error::Error::source(status), |error| error.source()).any(refused)
}

/// What a refusal by a rule means; `None` if nobody knows whether the call was made.
pub(crate) fn refusal(status: &Status, run: impl FnOnce(&str) -> u32) -> Option<checker::Refusal> {
    if was_not_sent(status) {
        return Some(checker::Refusal::Busy);
    }
    if std::error::Error::source(status).is_some() || status.message().contains("amespace") {
        return None;
    }
    match status.code() {
        Code::NotFound => Some(checker::Refusal::NotFound),
        Code::ResourceExhausted => Some(checker::Refusal::Busy),
        Code::InvalidArgument => Some(checker::Refusal::Unhandled),
        Code::AlreadyExists => {
            let details = RpcStatus::decode(status.details()).ok()?.details;
            let failure = WorkflowExecutionAlreadyStartedFailure::decode(details.first()?.value.as_slice()).ok()?;
            Some(checker::Refusal::AlreadyStarted(run(&failure.run_id)))
        }
        _ => None,
    }
}

/// The current run of a workflow.
pub(crate) fn workflow(workflow_id: &str) -> WorkflowExecution {
    WorkflowExecution { workflow_id: workflow_id.to_owned(), run_id: String::new() }
}

/// One run of a workflow.
pub(crate) fn run(workflow_id: &str, run_id: &str) -> WorkflowExecution {
    WorkflowExecution { workflow_id: workflow_id.to_owned(), run_id: run_id.to_owned() }
}

pub(crate) fn queue(name: &str) -> TaskQueue {
    TaskQueue { name: name.to_owned(), ..Default::default() }
}

/// One payload of JSON.
pub(crate) fn payloads(value: &impl serde::Serialize) -> Payloads {
    let data = serde_json::to_vec(value).expect("plain data always encodes");
    let metadata = [("encoding".to_owned(), b"json/plain".to_vec())].into_iter().collect();
    Payloads { payloads: vec![Payload { metadata, data, ..Default::default() }] }
}

/// The value in the first payload.
pub(crate) fn value<T: serde::de::DeserializeOwned>(payloads: Option<&Payloads>) -> Option<T> {
    serde_json::from_slice(&payloads?.payloads.first()?.data).ok()
}

pub(crate) fn duration(duration: Duration) -> everlog_proto::wkt::Duration {
    everlog_proto::wkt::Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 }
}
