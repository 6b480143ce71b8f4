//! Workflow ids that several callers use at once, through any nodes: what they are told goes to the checker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use everlog_proto::api::common::v1::WorkflowType;
use everlog_proto::api::enums::v1::{EventType, WorkflowIdConflictPolicy, WorkflowIdReusePolicy};
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;
use everlog_random::Random;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;

use crate::checker::{Call, Conflict, Outcome, RequestId, Reuse, Status as RunStatus};
use crate::client::{Client, duration, payloads, queue, refusal, run, workflow};
use crate::failure::Failure;
use crate::program::{FINISH, Program, signals};
use crate::record::{Recorder, status_of};

/// Callers that share a workflow id.
const CALLERS: usize = 3;
/// After so many operations they go on with another id: the checker's work grows with the length of a history.
const OPERATIONS_WANTED: usize = 40;
/// How long a caller rests between two calls, at most.
const REST_MAX: Duration = Duration::from_millis(120);
/// How long a run may take to end that is told to.
const FINISH_TIME_MAX: Duration = Duration::from_secs(60);
/// A worker that has a task and dies with it is not waited for long.
const TASK_TIME_MAX: Duration = Duration::from_secs(3);

/// Callers of some ids.
#[derive(Clone)]
pub(crate) struct Registers {
    pub(crate) client: Arc<Client>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) task_queue: String,
}

impl Registers {
    /// Calls until `stop` is true. Each of `groups` has an id of its own, and another one after a while.
    pub(crate) fn start(&self, groups: usize, seed: u64, stop: &watch::Receiver<bool>) -> JoinSet<()> {
        let mut callers = JoinSet::new();
        for group in 0..groups {
            let generation = Arc::new(AtomicUsize::new(0));
            for caller in 0..CALLERS {
                let random = Random::new(seed ^ ((group * CALLERS + caller) as u64 + 1) << 32);
                let (registers, generation, stop) = (self.clone(), Arc::clone(&generation), stop.clone());
                callers.spawn(async move { registers.caller(group, caller, &generation, random, &stop).await });
            }
        }
        callers
    }

    async fn caller(
        &self,
        group: usize,
        caller: usize,
        generation: &AtomicUsize,
        mut random: Random,
        stop: &watch::Receiver<bool>,
    ) {
        // The request that it has sent last, and for which id.
        let mut last = (usize::MAX, 0);
        while !*stop.borrow() {
            let now = generation.load(Ordering::Relaxed);
            let id = format!("register-{group}-{now}");
            if self.recorder.count(&id) >= OPERATIONS_WANTED {
                generation.fetch_max(now + 1, Ordering::Relaxed);
                continue;
            }
            let node = if random.one_in(2) { caller } else { random.below(self.client.nodes()) };
            let node = self.client.near(node % self.client.nodes());
            let repeated = (last.0 == now && random.one_in(4)).then_some(last.1);
            if let Some(request) = self.call(&id, caller, node, repeated, &mut random).await {
                last = (now, request);
            }
            tokio::time::sleep(REST_MAX.mul_f64(random.below(100) as f64 / 100.0)).await;
        }
    }

    /// Makes any call. Returns the request id if it was a start.
    async fn call(
        &self,
        id: &str,
        caller: usize,
        node: usize,
        repeated: Option<RequestId>,
        random: &mut Random,
    ) -> Option<RequestId> {
        let by = format!("caller {caller} at node {}", node + 1);
        match random.below(14) {
            0..4 => {
                let request = repeated.unwrap_or_else(|| self.recorder.next());
                let reuse =
                    *random.of(&[Reuse::AllowDuplicate, Reuse::AllowDuplicateFailedOnly, Reuse::RejectDuplicate]);
                // Not both of what is refused together.
                let conflicts = [Conflict::Fail, Conflict::UseExisting, Conflict::TerminateExisting];
                let conflict = *random.of(if reuse == Reuse::RejectDuplicate { &conflicts[..2] } else { &conflicts });
                self.start_run(id, by, node, request, reuse, conflict).await;
                return Some(request);
            }
            4..7 => self.signal(id, by, node, "signal", random.one_in(2)).await,
            7 => self.signal(id, by, node, FINISH, true).await,
            8 => self.terminate(id, by, node).await,
            9 | 10 => drop(self.describe(id, by, node).await),
            11 | 12 => self.history(id, by, node).await,
            _ => self.list(id, by, node).await,
        }
        None
    }

    async fn start_run(&self, id: &str, by: String, node: usize, request: RequestId, reuse: Reuse, conflict: Conflict) {
        let message = StartWorkflowExecutionRequest {
            workflow_id: id.to_owned(),
            workflow_type: Some(WorkflowType { name: "register".to_owned() }),
            task_queue: Some(queue(&self.task_queue)),
            input: Some(payloads(&Program::Register)),
            request_id: format!("request-{request}"),
            workflow_task_timeout: Some(duration(TASK_TIME_MAX)),
            workflow_id_reuse_policy: match reuse {
                Reuse::AllowDuplicate => WorkflowIdReusePolicy::AllowDuplicate,
                Reuse::AllowDuplicateFailedOnly => WorkflowIdReusePolicy::AllowDuplicateFailedOnly,
                Reuse::RejectDuplicate => WorkflowIdReusePolicy::RejectDuplicate,
            } as i32,
            workflow_id_conflict_policy: match conflict {
                Conflict::Fail => WorkflowIdConflictPolicy::Fail,
                Conflict::UseExisting => WorkflowIdConflictPolicy::UseExisting,
                Conflict::TerminateExisting => WorkflowIdConflictPolicy::TerminateExisting,
            } as i32,
            ..Default::default()
        };
        let called_at = self.recorder.now();
        let told = self.client.start(node, message).await;
        let outcome = self.outcome(id, told, |answer| Outcome::Started {
            run: self.recorder.run(id, &answer.run_id),
            is_started: answer.started,
        });
        self.recorder.note(id, by, called_at, Call::Start { request, reuse, conflict }, outcome);
    }

    async fn signal(&self, id: &str, by: String, node: usize, name: &str, has_request_id: bool) {
        let number = self.recorder.next();
        let request_id = has_request_id.then(|| format!("signal-{number}"));
        let called_at = self.recorder.now();
        let told = self.client.signal(node, workflow(id), name, number, request_id).await;
        let outcome = self.outcome(id, told, |()| Outcome::Done);
        self.recorder.note(id, by, called_at, Call::Signal { run: None, signal: number, has_request_id }, outcome);
    }

    async fn terminate(&self, id: &str, by: String, node: usize) {
        let called_at = self.recorder.now();
        let told = self.client.terminate(node, workflow(id)).await;
        let outcome = self.outcome(id, told, |()| Outcome::Done);
        self.recorder.note(id, by, called_at, Call::Terminate { run: None }, outcome);
    }

    async fn describe(&self, id: &str, by: String, node: usize) -> Outcome {
        let called_at = self.recorder.now();
        let told = self.client.describe(node, workflow(id)).await;
        let outcome = self.outcome(id, told, |(run_id, status)| Outcome::Described {
            run: self.recorder.run(id, &run_id),
            status: status_of(status),
        });
        self.recorder.note(id, by, called_at, Call::Describe { run: None }, outcome.clone());
        outcome
    }

    async fn history(&self, id: &str, by: String, node: usize) {
        let called_at = self.recorder.now();
        let told = self.client.history_page(node, workflow(id), Vec::new(), None).await;
        let outcome = self.outcome(id, told, |(events, token)| match run_id(&events) {
            Some(run_id) if token.is_empty() => Outcome::Read {
                run: self.recorder.run(id, run_id),
                status: status_in(&events),
                signals: signals(&events).into_iter().map(|(number, _)| number).collect(),
            },
            _ => Outcome::Unknown,
        });
        self.recorder.note(id, by, called_at, Call::History { run: None }, outcome);
    }

    async fn list(&self, id: &str, by: String, node: usize) {
        let called_at = self.recorder.now();
        let told = self.client.list(node, &format!("WorkflowId = '{id}'")).await;
        let outcome = self.outcome(id, told, |runs| {
            let shown = runs.iter().map(|(run, status)| (self.recorder.run(id, &run.run_id), status_of(*status)));
            Outcome::Listed(shown.collect())
        });
        self.recorder.note(id, by, called_at, Call::List, outcome);
    }

    fn outcome<T>(&self, id: &str, told: Result<T, Status>, outcome: impl FnOnce(T) -> Outcome) -> Outcome {
        match told {
            Ok(answer) => outcome(answer),
            Err(status) => {
                let refused = refusal(&status, |run| self.recorder.run(id, run));
                refused.map_or(Outcome::Unknown, Outcome::Refused)
            }
        }
    }

    /// Tells every run that is open to end, waits for it, and looks once more at everything through every node.
    pub(crate) async fn finish(&self) -> Result<(), Failure> {
        for (id, _) in self.recorder.operations() {
            let until = tokio::time::Instant::now() + FINISH_TIME_MAX;
            let mut is_told = false;
            loop {
                match self.describe(&id, "end".to_owned(), self.client.near(0)).await {
                    Outcome::Described { status: RunStatus::Running, .. } if !is_told => {
                        self.signal(&id, "end".to_owned(), self.client.near(0), FINISH, true).await;
                        is_told = true;
                    }
                    Outcome::Described { status: RunStatus::Running, .. } | Outcome::Unknown => {
                        if tokio::time::Instant::now() > until {
                            return Err(Failure(format!("{id} does not end: {}", self.last_event(&id).await)));
                        }
                        // Not so often that the history becomes long.
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    _ => break,
                }
            }
            for node in (0..self.client.nodes()).map(|node| self.client.near(node)) {
                self.history(&id, format!("end at node {}", node + 1), node).await;
                self.list(&id, format!("end at node {}", node + 1), node).await;
            }
        }
        Ok(())
    }

    async fn last_event(&self, id: &str) -> String {
        match self.client.history(self.client.near(0), run(id, "")).await {
            Ok(events) => format!("{:?}", events.last().map(HistoryEvent::event_type)),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        }
    }
}

fn run_id(events: &[HistoryEvent]) -> Option<&str> {
    match &events.first()?.attributes {
        Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) => Some(&started.original_execution_run_id),
        _ => None,
    }
}

fn status_in(events: &[HistoryEvent]) -> RunStatus {
    match events.last().map(HistoryEvent::event_type) {
        Some(EventType::WorkflowExecutionCompleted) => RunStatus::Completed,
        Some(EventType::WorkflowExecutionTerminated) => RunStatus::Terminated,
        Some(
            EventType::WorkflowExecutionFailed
            | EventType::WorkflowExecutionTimedOut
            | EventType::WorkflowExecutionCanceled
            | EventType::WorkflowExecutionContinuedAsNew,
        ) => RunStatus::Other,
        _ => RunStatus::Running,
    }
}
