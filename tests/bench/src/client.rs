//! Calls to a server that speaks Temporal's gRPC API: two connections for requests, one for long polls.
//!
//! Requests that are refused for overload are sent again, as every SDK does; the wait counts into the caller's latency and
//! the refusals are counted. [`Connection`] is for workloads that want to see what a server refuses: one connection, each request once.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use everlog_proto::api::common::v1::{Payload, Payloads, Priority, WorkflowExecution, WorkflowType};
use everlog_proto::api::enums::v1::{HistoryEventFilterType, TaskQueueKind};
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::query::v1::WorkflowQuery;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1 as service;
use everlog_proto::clients::WorkflowServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::error::BenchError;
use crate::program::Program;

/// Connections that carry requests; long polls have one of their own, so that they never use up a connection's streams.
const REQUEST_CONNECTIONS: usize = 2;
/// Time limit of one attempt of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of a long poll; servers answer after about 60 s with nothing.
const POLL_TIMEOUT: Duration = Duration::from_secs(70);
/// Attempts of one request before its error counts.
const ATTEMPTS_MAX: u32 = 24;
/// The longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Pages of one history: more would be past the size where servers end a run by force.
const PAGES_MAX: usize = 1_000;
/// The largest response that is accepted.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// A workflow whose start the server acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Execution {
    /// Workflow id.
    pub(crate) workflow_id: String,
    /// Run id as the server answered.
    pub(crate) run_id: String,
}

impl Execution {
    fn wire(&self) -> WorkflowExecution {
        WorkflowExecution { workflow_id: self.workflow_id.clone(), run_id: self.run_id.clone() }
    }
}

/// Connections to one server and one namespace.
pub(crate) struct Client {
    requests: Vec<WorkflowServiceClient<Channel>>,
    polls: WorkflowServiceClient<Channel>,
    next: AtomicUsize,
    refused: AtomicU64,
    namespace: String,
    identity: String,
}

/// One connection of its own, on which every request is sent once and answered as it is.
#[derive(Clone)]
pub(crate) struct Connection {
    stub: WorkflowServiceClient<Channel>,
    namespace: String,
    identity: String,
}

impl Connection {
    /// Starts a workflow that no worker takes, with `input` as it is.
    pub(crate) async fn start(
        &self,
        workflow_id: &str,
        task_queue: &str,
        input: Vec<u8>,
        limit: Duration,
    ) -> Result<Execution, Status> {
        let mut request = Request::new(service::StartWorkflowExecutionRequest {
            namespace: self.namespace.clone(),
            workflow_id: workflow_id.to_owned(),
            workflow_type: Some(WorkflowType { name: "bench".to_owned() }),
            task_queue: Some(normal_queue(task_queue)),
            input: Some(payloads(input)),
            identity: self.identity.clone(),
            request_id: format!("{workflow_id}-start"),
            ..Default::default()
        });
        request.set_timeout(limit);
        let response = self.stub.clone().start_workflow_execution(request).await?.into_inner();
        Ok(Execution { workflow_id: workflow_id.to_owned(), run_id: response.run_id })
    }

    /// Signals a workflow.
    pub(crate) async fn signal(
        &self,
        execution: &Execution,
        request_id: String,
        limit: Duration,
    ) -> Result<(), Status> {
        let mut request = Request::new(service::SignalWorkflowExecutionRequest {
            namespace: self.namespace.clone(),
            workflow_execution: Some(execution.wire()),
            signal_name: "bench".to_owned(),
            identity: self.identity.clone(),
            request_id,
            ..Default::default()
        });
        request.set_timeout(limit);
        self.stub.clone().signal_workflow_execution(request).await.map(|_| ())
    }

    /// Describes the current run of a workflow.
    pub(crate) async fn describe(&self, workflow_id: String, limit: Duration) -> Result<(), Status> {
        let mut request = Request::new(service::DescribeWorkflowExecutionRequest {
            namespace: self.namespace.clone(),
            execution: Some(WorkflowExecution { workflow_id, run_id: String::new() }),
        });
        request.set_timeout(limit);
        self.stub.clone().describe_workflow_execution(request).await.map(|_| ())
    }
}

impl Client {
    /// Connects to `address` (host:port) and waits up to `patience` until the namespace can be used; registers it if it is missing.
    pub(crate) async fn connect(address: &str, namespace: &str, patience: Duration) -> Result<Self, BenchError> {
        let mut requests = Vec::with_capacity(REQUEST_CONNECTIONS);
        for _ in 0..REQUEST_CONNECTIONS {
            requests.push(stub(address)?);
        }
        let client = Client {
            requests,
            polls: stub(address)?,
            next: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            namespace: namespace.to_owned(),
            identity: format!("everlog-bench@{}", std::process::id()),
        };
        tokio::time::timeout(patience, client.wait_until_usable(address)).await.map_err(|_| {
            BenchError::Connect {
                address: address.to_owned(),
                reason: format!("namespace {namespace} not usable after {} s", patience.as_secs_f32()),
            }
        })??;
        Ok(client)
    }

    async fn wait_until_usable(&self, address: &str) -> Result<(), BenchError> {
        loop {
            let request = service::DescribeNamespaceRequest { namespace: self.namespace.clone(), ..Default::default() };
            match self.stub().describe_namespace(request).await {
                Ok(_) => return Ok(()),
                Err(status) if status.code() == Code::NotFound => self.register_namespace().await?,
                Err(status) if transient(&status) => {}
                Err(status) => {
                    return Err(BenchError::Connect {
                        address: address.to_owned(),
                        reason: status.message().to_owned(),
                    });
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn register_namespace(&self) -> Result<(), BenchError> {
        let request = service::RegisterNamespaceRequest {
            namespace: self.namespace.clone(),
            workflow_execution_retention_period: Some(wire_duration(Duration::from_secs(24 * 3600))),
            ..Default::default()
        };
        match self.stub().register_namespace(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(BenchError::rpc("RegisterNamespace", status)),
        }
    }

    /// Requests that the server refused so far and that were sent again.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// One more connection to the server at `address`, which this client is connected to.
    pub(crate) fn connection(&self, address: &str) -> Result<Connection, BenchError> {
        Ok(Connection { stub: stub(address)?, namespace: self.namespace.clone(), identity: self.identity.clone() })
    }

    fn stub(&self) -> WorkflowServiceClient<Channel> {
        self.requests[self.next.fetch_add(1, Ordering::Relaxed) % self.requests.len()].clone()
    }

    /// Sends `$request` until it is answered or its attempts are used up.
    async fn retrying<T, F, Fut>(&self, call: &'static str, mut send: F) -> Result<T, BenchError>
    where
        F: FnMut(WorkflowServiceClient<Channel>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut wait = Duration::from_millis(10);
        for attempt in 1.. {
            match send(self.stub()).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if attempt < ATTEMPTS_MAX && transient(&status) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(BACKOFF_MAX);
                }
                Err(status) => return Err(BenchError::rpc(call, status)),
            }
        }
        Err(BenchError::Limit(format!("{call}: attempts used up")))
    }

    /// Starts a workflow of `workflow_type` that runs `program` and answers its execution.
    pub(crate) async fn start(
        &self,
        workflow_id: String,
        workflow_type: &str,
        task_queue: &str,
        program: &Program,
    ) -> Result<Execution, BenchError> {
        self.start_with(workflow_id, workflow_type, task_queue, program, None).await
    }

    /// The same with a priority.
    pub(crate) async fn start_with(
        &self,
        workflow_id: String,
        workflow_type: &str,
        task_queue: &str,
        program: &Program,
        priority: Option<Priority>,
    ) -> Result<Execution, BenchError> {
        let request = service::StartWorkflowExecutionRequest {
            namespace: self.namespace.clone(),
            workflow_id: workflow_id.clone(),
            workflow_type: Some(WorkflowType { name: workflow_type.to_owned() }),
            task_queue: Some(normal_queue(task_queue)),
            input: Some(program.encode()),
            identity: self.identity.clone(),
            request_id: format!("{workflow_id}-start"),
            priority,
            ..Default::default()
        };
        let response = self
            .retrying("StartWorkflowExecution", |mut stub| {
                let request = timed(request.clone());
                async move { stub.start_workflow_execution(request).await }
            })
            .await?;
        Ok(Execution { workflow_id, run_id: response.run_id })
    }

    /// Signals a workflow; `request_id` makes a repeated attempt harmless.
    pub(crate) async fn signal(&self, execution: &Execution, request_id: String) -> Result<(), BenchError> {
        let request = service::SignalWorkflowExecutionRequest {
            namespace: self.namespace.clone(),
            workflow_execution: Some(execution.wire()),
            signal_name: "bench".to_owned(),
            input: Some(payloads(b"1".to_vec())),
            identity: self.identity.clone(),
            request_id,
            ..Default::default()
        };
        self.retrying("SignalWorkflowExecution", |mut stub| {
            let request = timed(request.clone());
            async move { stub.signal_workflow_execution(request).await }
        })
        .await
        .map(|_| ())
    }

    /// Queries a workflow and answers the data of the first payload.
    pub(crate) async fn query(&self, execution: &Execution) -> Result<Vec<u8>, BenchError> {
        let request = service::QueryWorkflowRequest {
            namespace: self.namespace.clone(),
            execution: Some(execution.wire()),
            query: Some(WorkflowQuery { query_type: "progress".to_owned(), ..Default::default() }),
            ..Default::default()
        };
        let response = self
            .retrying("QueryWorkflow", |mut stub| {
                let request = timed(request.clone());
                async move { stub.query_workflow(request).await }
            })
            .await?;
        let answer = response.query_result.and_then(|payloads| payloads.payloads.into_iter().next());
        answer
            .map(|payload| payload.data)
            .ok_or_else(|| BenchError::Check("a query was answered with nothing".to_owned()))
    }

    /// Reads the whole history of a run, page by page.
    pub(crate) async fn history(&self, execution: &Execution) -> Result<Vec<HistoryEvent>, BenchError> {
        self.history_from(execution, Vec::new()).await
    }

    /// Reads the rest of a history from `token` on.
    pub(crate) async fn history_from(
        &self,
        execution: &Execution,
        mut token: Vec<u8>,
    ) -> Result<Vec<HistoryEvent>, BenchError> {
        let mut events = Vec::new();
        for _ in 0..PAGES_MAX {
            let request = service::GetWorkflowExecutionHistoryRequest {
                namespace: self.namespace.clone(),
                execution: Some(execution.wire()),
                next_page_token: token,
                history_event_filter_type: HistoryEventFilterType::AllEvent as i32,
                ..Default::default()
            };
            let response = self
                .retrying("GetWorkflowExecutionHistory", |mut stub| {
                    let request = timed(request.clone());
                    async move { stub.get_workflow_execution_history(request).await }
                })
                .await?;
            events.extend(response.history.map(|history| history.events).unwrap_or_default());
            if response.next_page_token.is_empty() {
                return Ok(events);
            }
            token = response.next_page_token;
        }
        Err(BenchError::Limit(format!("history of {} has more than {PAGES_MAX} pages", execution.workflow_id)))
    }

    /// One page of the workflows that match `query`, newest first.
    pub(crate) async fn list(&self, query: &str, page_size: i32) -> Result<Vec<WorkflowExecutionInfo>, BenchError> {
        let request = service::ListWorkflowExecutionsRequest {
            namespace: self.namespace.clone(),
            page_size,
            query: query.to_owned(),
            ..Default::default()
        };
        let response = self
            .retrying("ListWorkflowExecutions", |mut stub| {
                let request = timed(request.clone());
                async move { stub.list_workflow_executions(request).await }
            })
            .await?;
        Ok(response.executions)
    }

    /// How many workflows match `query`.
    pub(crate) async fn count(&self, query: &str) -> Result<u64, BenchError> {
        let request =
            service::CountWorkflowExecutionsRequest { namespace: self.namespace.clone(), query: query.to_owned() };
        let response = self
            .retrying("CountWorkflowExecutions", |mut stub| {
                let request = timed(request.clone());
                async move { stub.count_workflow_executions(request).await }
            })
            .await?;
        Ok(response.count.max(0) as u64)
    }

    /// Waits for a workflow task; an empty token means that there was none.
    pub(crate) async fn poll_workflow_task(
        &self,
        queue: TaskQueue,
    ) -> Result<service::PollWorkflowTaskQueueResponse, Status> {
        let mut request = Request::new(service::PollWorkflowTaskQueueRequest {
            namespace: self.namespace.clone(),
            task_queue: Some(queue),
            identity: self.identity.clone(),
            ..Default::default()
        });
        request.set_timeout(POLL_TIMEOUT);
        Ok(self.polls.clone().poll_workflow_task_queue(request).await?.into_inner())
    }

    /// Waits for an activity task; an empty token means that there was none.
    pub(crate) async fn poll_activity_task(
        &self,
        queue: TaskQueue,
    ) -> Result<service::PollActivityTaskQueueResponse, Status> {
        let mut request = Request::new(service::PollActivityTaskQueueRequest {
            namespace: self.namespace.clone(),
            task_queue: Some(queue),
            identity: self.identity.clone(),
            ..Default::default()
        });
        request.set_timeout(POLL_TIMEOUT);
        Ok(self.polls.clone().poll_activity_task_queue(request).await?.into_inner())
    }

    /// Completes a workflow task; namespace and identity are filled in.
    pub(crate) async fn complete_workflow_task(
        &self,
        mut request: service::RespondWorkflowTaskCompletedRequest,
    ) -> Result<service::RespondWorkflowTaskCompletedResponse, BenchError> {
        request.namespace = self.namespace.clone();
        request.identity = self.identity.clone();
        self.retrying("RespondWorkflowTaskCompleted", |mut stub| {
            let request = timed(request.clone());
            async move { stub.respond_workflow_task_completed(request).await }
        })
        .await
    }

    /// Completes an activity with an empty result.
    pub(crate) async fn complete_activity_task(&self, task_token: Vec<u8>) -> Result<(), BenchError> {
        let request = service::RespondActivityTaskCompletedRequest {
            namespace: self.namespace.clone(),
            identity: self.identity.clone(),
            task_token,
            result: Some(payloads(b"null".to_vec())),
            ..Default::default()
        };
        self.retrying("RespondActivityTaskCompleted", |mut stub| {
            let request = timed(request.clone());
            async move { stub.respond_activity_task_completed(request).await }
        })
        .await
        .map(|_| ())
    }

    /// Answers a query that came as a task of its own.
    pub(crate) async fn complete_query_task(
        &self,
        mut request: service::RespondQueryTaskCompletedRequest,
    ) -> Result<(), BenchError> {
        request.namespace = self.namespace.clone();
        self.retrying("RespondQueryTaskCompleted", |mut stub| {
            let request = timed(request.clone());
            async move { stub.respond_query_task_completed(request).await }
        })
        .await
        .map(|_| ())
    }
}

fn stub(address: &str) -> Result<WorkflowServiceClient<Channel>, BenchError> {
    let unreachable = |reason: tonic::transport::Error| BenchError::Connect {
        address: address.to_owned(),
        reason: reason.to_string(),
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(unreachable)?;
    let channel = endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .connect_lazy();
    Ok(WorkflowServiceClient::new(channel)
        .max_decoding_message_size(RESPONSE_BYTES_MAX)
        .max_encoding_message_size(RESPONSE_BYTES_MAX))
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(REQUEST_TIMEOUT);
    request
}

/// Whether an SDK would send the request again.
pub(crate) fn transient(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Cancelled
            | Code::Unknown
    )
}

/// The task queue of that name.
pub(crate) fn normal_queue(name: &str) -> TaskQueue {
    TaskQueue { name: name.to_owned(), kind: TaskQueueKind::Normal as i32, normal_name: String::new() }
}

/// One JSON payload.
pub(crate) fn payloads(json: Vec<u8>) -> Payloads {
    let metadata = [("encoding".to_owned(), b"json/plain".to_vec())].into();
    Payloads { payloads: vec![Payload { metadata, data: json, ..Default::default() }] }
}

/// A duration as the messages carry it.
pub(crate) fn wire_duration(duration: Duration) -> everlog_proto::wkt::Duration {
    everlog_proto::wkt::Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 }
}
