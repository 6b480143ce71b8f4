//! Workers in this process: loops that poll one node, do what the task says, and go to another node when that one does not answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_proto::api::enums::v1::QueryResultType;
use everlog_proto::api::query::v1::WorkflowQueryResult;
use everlog_proto::api::workflowservice::v1 as service;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tonic::Status;

use crate::checker::{Call, Outcome};
use crate::client::{Client, is_transient, payloads, queue, refusal};
use crate::program::{Program, closes, program, signals};
use crate::record::{Begun, Recorder};

/// How long a poll waits.
const POLL_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a worker waits after an error.
const AGAIN: Duration = Duration::from_millis(100);
/// How often a completion is sent that nobody has answered.
const COMPLETION_TRIES: usize = 6;

/// An activity of a run.
pub(crate) type Activity = (String, String, String);

/// What workers did.
#[derive(Default)]
pub(crate) struct Done {
    /// How often an activity was handed out, by workflow id, run id and activity id.
    pub(crate) handed_out: BTreeMap<Activity, u32>,
    /// Activities whose completion was acknowledged.
    pub(crate) completed: BTreeMap<Activity, u32>,
    /// Runs whose completion was acknowledged.
    pub(crate) closed: Vec<(String, String)>,
    /// Workflow tasks that were answered, by the node that they came from.
    pub(crate) tasks: BTreeMap<usize, u64>,
    /// What no failure of a node explains.
    pub(crate) wrong: Vec<String>,
}

/// Loops on one task queue; they end when this is dropped.
pub(crate) struct Workers {
    pub(crate) done: Arc<Mutex<Done>>,
    _loops: JoinSet<()>,
}

struct Worker {
    client: Arc<Client>,
    recorder: Arc<Recorder>,
    task_queue: String,
    done: Arc<Mutex<Done>>,
    /// Whether it goes to another node when its own fails.
    moves: bool,
}

impl Workers {
    /// Starts `count` loops for workflow tasks and as many for activities at each of these nodes.
    pub(crate) fn start(
        client: &Arc<Client>,
        recorder: &Arc<Recorder>,
        task_queue: &str,
        nodes: &[usize],
        count: usize,
    ) -> Workers {
        let done = Arc::new(Mutex::new(Done::default()));
        let worker = Arc::new(Worker {
            client: Arc::clone(client),
            recorder: Arc::clone(recorder),
            task_queue: task_queue.to_owned(),
            done: Arc::clone(&done),
            moves: nodes.len() > 1,
        });
        let mut loops = JoinSet::new();
        for node in nodes {
            for _ in 0..count {
                loops.spawn(Arc::clone(&worker).workflow_tasks(*node));
                loops.spawn(Arc::clone(&worker).activity_tasks(*node));
            }
        }
        Workers { done, _loops: loops }
    }
}

impl Worker {
    async fn workflow_tasks(self: Arc<Self>, first: usize) {
        let mut node = first;
        loop {
            let request = service::PollWorkflowTaskQueueRequest {
                namespace: self.client.namespace.clone(),
                task_queue: Some(queue(&self.task_queue)),
                identity: format!("worker at node {}", first + 1),
                ..Default::default()
            };
            let task = self
                .client
                .call(node, "PollWorkflowTaskQueue", request, POLL_TIME_MAX, async |stub, request| {
                    stub.poll_workflow_task_queue(request).await
                })
                .await;
            match task {
                Ok(task) if task.task_token.is_empty() => {}
                Ok(task) => {
                    *self.done.lock().tasks.entry(node).or_default() += 1;
                    self.workflow_task(node, task).await;
                }
                Err(status) => node = self.after_error(first, node, status).await,
            }
        }
    }

    async fn workflow_task(&self, node: usize, task: service::PollWorkflowTaskQueueResponse) {
        let execution = task.workflow_execution.unwrap_or_default();
        let events = task.history.unwrap_or_default().events;
        let Some(program) = program(&events).filter(|_| task.next_page_token.is_empty()) else {
            self.done.lock().wrong.push(format!("a task of {execution:?} without its whole history"));
            return;
        };
        let shown = signals(&events);
        if task.query.is_some() {
            let request = service::RespondQueryTaskCompletedRequest {
                namespace: self.client.namespace.clone(),
                task_token: task.task_token,
                completed_type: QueryResultType::Answered as i32,
                query_result: Some(payloads(&shown.len())),
                ..Default::default()
            };
            // Whoever asked asks again.
            let _ = self
                .client
                .call(node, "RespondQueryTaskCompleted", request, POLL_TIME_MAX, async |stub, request| {
                    stub.respond_query_task_completed(request).await
                })
                .await;
            return;
        }
        let answer = WorkflowQueryResult {
            result_type: QueryResultType::Answered as i32,
            answer: Some(payloads(&shown.len())),
            ..Default::default()
        };
        let commands = program.decide(&events, &self.task_queue);
        let is_closing = closes(&commands);
        let request = service::RespondWorkflowTaskCompletedRequest {
            namespace: self.client.namespace.clone(),
            task_token: task.task_token,
            commands,
            query_results: task.queries.into_keys().map(|id| (id, answer.clone())).collect(),
            ..Default::default()
        };
        for again in 0..COMPLETION_TRIES {
            let node = (node + again) % self.client.nodes();
            let begun = if is_closing { self.begin_completion(node, &program, &execution, &shown) } else { None };
            let told = self
                .client
                .call(node, "RespondWorkflowTaskCompleted", request.clone(), POLL_TIME_MAX, async |stub, request| {
                    stub.respond_workflow_task_completed(request).await
                })
                .await;
            if let Some(begun) = begun {
                self.end_completion(begun, &execution.workflow_id, &told);
            }
            match told {
                Ok(_) if is_closing => {
                    self.done.lock().closed.push((execution.workflow_id, execution.run_id));
                    return;
                }
                Err(status) if is_transient(&status) => tokio::time::sleep(AGAIN).await,
                // It was done, or the task comes again.
                _ => return,
            }
        }
    }

    /// For the checker, which knows only of programs that do nothing but take signals.
    fn begin_completion(
        &self,
        node: usize,
        program: &Program,
        execution: &everlog_proto::api::common::v1::WorkflowExecution,
        shown: &[(u32, String)],
    ) -> Option<Begun> {
        if *program != Program::Register {
            return None;
        }
        let id = &execution.workflow_id;
        let seen = shown.iter().map(|(number, _)| *number).collect();
        let call = Call::Complete { run: self.recorder.run(id, &execution.run_id), seen };
        Some(self.recorder.begin(id, format!("worker at node {}", node + 1), call))
    }

    fn end_completion<R>(&self, begun: Begun, id: &str, told: &Result<R, Status>) {
        let outcome = match told {
            Ok(_) => Outcome::Done,
            Err(status) => {
                let refused = refusal(status, |run| self.recorder.run(id, run));
                refused.map_or(Outcome::Unknown, Outcome::Refused)
            }
        };
        self.recorder.end(begun, outcome);
    }

    async fn activity_tasks(self: Arc<Self>, first: usize) {
        let mut node = first;
        loop {
            let request = service::PollActivityTaskQueueRequest {
                namespace: self.client.namespace.clone(),
                task_queue: Some(queue(&self.task_queue)),
                identity: format!("worker at node {}", first + 1),
                ..Default::default()
            };
            let task = self
                .client
                .call(node, "PollActivityTaskQueue", request, POLL_TIME_MAX, async |stub, request| {
                    stub.poll_activity_task_queue(request).await
                })
                .await;
            match task {
                Ok(task) if task.task_token.is_empty() => {}
                Ok(task) => self.activity_task(node, task).await,
                Err(status) => node = self.after_error(first, node, status).await,
            }
        }
    }

    async fn activity_task(&self, node: usize, task: service::PollActivityTaskQueueResponse) {
        let execution = task.workflow_execution.unwrap_or_default();
        let activity = (execution.workflow_id, execution.run_id, task.activity_id);
        *self.done.lock().handed_out.entry(activity.clone()).or_default() += 1;
        let request = service::RespondActivityTaskCompletedRequest {
            namespace: self.client.namespace.clone(),
            task_token: task.task_token,
            result: Some(payloads(&"done")),
            ..Default::default()
        };
        for again in 0..COMPLETION_TRIES {
            let node = (node + again) % self.client.nodes();
            let told = self
                .client
                .call(node, "RespondActivityTaskCompleted", request.clone(), POLL_TIME_MAX, async |stub, request| {
                    stub.respond_activity_task_completed(request).await
                })
                .await;
            match told {
                Ok(_) => {
                    *self.done.lock().completed.entry(activity).or_default() += 1;
                    return;
                }
                Err(status) if is_transient(&status) => tokio::time::sleep(AGAIN).await,
                Err(_) => return,
            }
        }
    }

    /// Waits a little, and says where to poll next.
    async fn after_error(&self, first: usize, node: usize, status: Status) -> usize {
        if !is_transient(&status) {
            self.done.lock().wrong.push(format!("a poll was refused: {:?}: {}", status.code(), status.message()));
        }
        tokio::time::sleep(AGAIN).await;
        if self.moves && node == first { (node + 1) % self.client.nodes() } else { first }
    }
}
