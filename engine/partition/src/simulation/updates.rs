//! Updates: clients send them, workers answer them as they like, and what clients were told must be in the histories.

use std::collections::HashMap;

use everlog_kernel::command::{Reply, UpdateStatus};
use everlog_kernel::{Command, Limits, RunCommand, RunId};
use everlog_model::CallError;
use everlog_proto::api::common::v1::{Payloads, WorkflowType};
use everlog_proto::api::enums::v1::WorkflowIdConflictPolicy;
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::protocol::v1::Message as ProtocolMessage;
use everlog_proto::api::update::v1::{Acceptance, Input, Meta, Outcome, Rejection, Request, Response, outcome};
use everlog_proto::api::workflowservice::v1::{StartWorkflowExecutionRequest, UpdateWorkflowExecutionRequest};
use everlog_proto::wkt::Any;
use prost::{Message, Name};
use tokio::sync::{mpsc, oneshot};

use super::world::World;
use crate::job::{Answer, Charge, Job, Work};

/// What clients and workers know of updates.
#[derive(Default)]
pub(super) struct Updates {
    /// Those that a client follows.
    followed: Vec<Followed>,
    /// What clients were told, by run and update.
    told: HashMap<(RunId, String), Told>,
    /// Those that a worker has accepted, run by run, and has yet to complete.
    accepted: HashMap<RunId, Vec<String>>,
}

/// A client that waits for an update.
struct Followed {
    update_id: String,
    answer: Option<oneshot::Receiver<Result<Answer, CallError>>>,
    news: mpsc::Receiver<Result<UpdateStatus, CallError>>,
    run_id: Option<RunId>,
}

/// What a client was told of an update.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    accepted: bool,
    completed: bool,
    rejected: bool,
}

/// What the histories have of an update.
#[derive(Default)]
pub(super) struct FoundUpdates(HashMap<(RunId, String), (u32, u32)>);

impl FoundUpdates {
    pub(super) fn event(&mut self, run_id: RunId, event: &HistoryEvent) {
        match &event.attributes {
            Some(Attributes::WorkflowExecutionUpdateAcceptedEventAttributes(accepted)) => {
                self.0.entry((run_id, accepted.protocol_instance_id.clone())).or_default().0 += 1;
            }
            Some(Attributes::WorkflowExecutionUpdateCompletedEventAttributes(completed)) => {
                let id = completed.meta.clone().unwrap_or_default().update_id;
                self.0.entry((run_id, id)).or_default().1 += 1;
            }
            _ => {}
        }
    }
}

impl Updates {
    /// Compares what clients were told with what the histories have.
    pub(super) fn check(&self, found: &FoundUpdates) {
        for ((run_id, id), (accepted, completed)) in &found.0 {
            assert!(*accepted == 1 && *completed <= 1, "{id} of {run_id}: accepted {accepted}, completed {completed}");
        }
        for ((run_id, id), told) in &self.told {
            let (accepted, completed) = found.0.get(&(*run_id, id.clone())).copied().unwrap_or_default();
            assert!(!told.accepted || accepted == 1, "{id} of {run_id} was accepted and is not there: {told:?}");
            assert!(!told.completed || completed == 1, "{id} of {run_id} was completed and is not there: {told:?}");
            assert!(!told.rejected || accepted == 0, "{id} of {run_id} was rejected and is there: {told:?}");
        }
    }
}

impl World {
    /// Sends an update to a workflow, some with a start.
    pub(super) fn update(&mut self, workflow_id: &str) {
        let number = self.number();
        // Some are sent twice.
        let update_id = format!("update-{}", if self.random.percent(80) { number } else { number.saturating_sub(3) });
        let update = UpdateWorkflowExecutionRequest {
            request: Some(Request {
                meta: Some(Meta { update_id: update_id.clone(), ..Meta::default() }),
                input: Some(Input { name: "U".to_owned(), ..Input::default() }),
                ..Request::default()
            }),
            ..UpdateWorkflowExecutionRequest::default()
        };
        let command = if self.random.percent(30) {
            let start = StartWorkflowExecutionRequest {
                workflow_id: workflow_id.to_owned(),
                workflow_type: Some(WorkflowType { name: "T".to_owned() }),
                task_queue: super::clients::queue(),
                request_id: format!("start-{number}"),
                workflow_id_conflict_policy: WorkflowIdConflictPolicy::UseExisting as i32,
                ..StartWorkflowExecutionRequest::default()
            };
            match Command::start(start, &Limits::default()).expect("the request is valid") {
                Command::StartWorkflow(start) => Command::UpdateWithStart(start, Box::new(update)),
                other => other,
            }
        } else {
            RunCommand::UpdateWorkflow(Box::new(update)).into()
        };
        let (reply, answer) = oneshot::channel();
        let (news, steps) = mpsc::channel(2);
        let work = Work::FollowUpdate { command, reply, news };
        let job =
            Job { address: self.address(workflow_id), run_id: None, work, operation: None, charge: Charge::default() };
        self.updates.followed.push(Followed { update_id, answer: Some(answer), news: steps, run_id: None });
        let home = self.home_of(workflow_id);
        self.carry(home, job);
    }

    /// Clients take what they are told of their updates.
    pub(super) fn hear_of_updates(&mut self) {
        let Updates { followed, told, .. } = &mut self.updates;
        followed.retain_mut(|followed| {
            if let Some(answer) = &mut followed.answer {
                match answer.try_recv() {
                    Ok(Ok(Answer { reply: Reply::Update(update), .. })) => {
                        followed.run_id = Some(update.run_id);
                        followed.answer = None;
                        note(told, update.run_id, &followed.update_id, &update.status);
                    }
                    Err(oneshot::error::TryRecvError::Empty) => return true,
                    _ => return false,
                }
            }
            let Some(run_id) = followed.run_id else { return false };
            loop {
                match followed.news.try_recv() {
                    Ok(Ok(status)) => note(told, run_id, &followed.update_id, &status),
                    Ok(Err(_)) | Err(mpsc::error::TryRecvError::Disconnected) => return false,
                    Err(mpsc::error::TryRecvError::Empty) => return true,
                }
            }
        });
    }

    /// What a worker says to the updates that came with a workflow task, and to some that it has accepted before.
    pub(super) fn answers(&mut self, run_id: RunId, updates: Vec<String>) -> Vec<ProtocolMessage> {
        let mut messages = Vec::new();
        for id in updates {
            match self.random.below(10) {
                0..=2 => messages.push(rejection(&id)),
                3..=5 => {
                    messages.push(acceptance(&id));
                    messages.push(response(&id));
                }
                6..=8 => {
                    messages.push(acceptance(&id));
                    self.updates.accepted.entry(run_id).or_default().push(id);
                }
                _ => {}
            }
        }
        let completes = self.random.percent(50);
        if let Some(accepted) = self.updates.accepted.get_mut(&run_id).filter(|_| completes) {
            // Those of this very task are among them: they are accepted by the messages before.
            messages.extend(accepted.drain(..).map(|id| response(&id)));
        }
        messages
    }
}

fn note(told: &mut HashMap<(RunId, String), Told>, run_id: RunId, update_id: &str, status: &UpdateStatus) {
    let told = told.entry((run_id, update_id.to_owned())).or_default();
    match status {
        UpdateStatus::Admitted => {}
        UpdateStatus::Accepted => told.accepted = true,
        UpdateStatus::Completed { .. } => told.completed = true,
        UpdateStatus::Ended(outcome) => match &outcome.value {
            Some(outcome::Value::Failure(failure)) if failure.message == REJECTED => told.rejected = true,
            Some(outcome::Value::Failure(_)) | None => {}
            Some(outcome::Value::Success(_)) => told.completed = true,
        },
    }
}

const REJECTED: &str = "rejected";

fn acceptance(id: &str) -> ProtocolMessage {
    let acceptance = Acceptance {
        accepted_request_message_id: format!("{id}/request"),
        accepted_request_sequencing_event_id: 1,
        ..Acceptance::default()
    };
    message(id, "accept", &acceptance)
}

fn response(id: &str) -> ProtocolMessage {
    let outcome = Outcome { value: Some(outcome::Value::Success(Payloads::default())) };
    let meta = Some(Meta { update_id: id.to_owned(), ..Meta::default() });
    message(id, "complete", &Response { meta, outcome: Some(outcome) })
}

fn rejection(id: &str) -> ProtocolMessage {
    let failure = Some(Failure { message: REJECTED.to_owned(), ..Failure::default() });
    message(id, "reject", &Rejection { failure, ..Rejection::default() })
}

fn message<M: Message + Name>(id: &str, what: &str, body: &M) -> ProtocolMessage {
    ProtocolMessage {
        id: format!("{id}/{what}"),
        protocol_instance_id: id.to_owned(),
        body: Some(Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: body.encode_to_vec() }),
        ..ProtocolMessage::default()
    }
}
