//! Updates: requests that the workflow may reject, and answers itself.
//!
//! ```text
//!   UpdateWorkflowExecution ──▶ admitted ──▶ sent ──▶ rejected: no trace
//!                               memory       memory ├▶ accepted ──▶ completed
//!                                                   │  an event     an event
//!                                                   └▶ aborted: the run closes, or the workflow task fails
//! ```
//!
//! An update goes to the worker as a *message* beside the history of a workflow task, and is answered by messages with the task's
//! completion. With no task pending it gets a *speculative* one, which is written only if something comes of it
//! ([`crate::workflow_task`]); so an update that is rejected costs no entry of the log. Who waits for an update is told of every
//! step ([`Effect::UpdateAdvanced`]).
//! (Temporal: `docs/architecture/workflow-update.md`, `service/history/workflow/update`.)

use std::sync::Arc;

use everlog_proto::api::enums::v1::{ResourceExhaustedCause, WorkflowTaskFailedCause};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{ApplicationFailureInfo, Failure};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    HistoryEvent, WorkflowExecutionUpdateAcceptedEventAttributes, WorkflowExecutionUpdateAdmittedEventAttributes,
    WorkflowExecutionUpdateCompletedEventAttributes,
};
use everlog_proto::api::protocol::v1::Message;
use everlog_proto::api::protocol::v1::message::SequencingId;
use everlog_proto::api::update::v1::{Acceptance, Outcome, Rejection as Rejected, Request, Response, outcome};
use everlog_proto::wkt::Any;
use prost::Message as _;

use crate::command::UpdateStatus;
use crate::commands::Invalid;
use crate::state::{AcceptedUpdate, AdmittedUpdate, ReappliedUpdate, Run};
use crate::transition::Effect;
use crate::txn::Txn;
use crate::{Limits, Rejection, Time};

const PACKAGE: &str = "temporal.api.update.v1";
const CAUSE: WorkflowTaskFailedCause = WorkflowTaskFailedCause::BadUpdateWorkflowExecutionMessage;

// ---- Requests ----------------------------------------------------------------------------------------------------------

/// How far the update with that id has come, if the run knows it.
pub(crate) fn status(run: &Run, id: &str) -> Option<UpdateStatus> {
    if let Some(update) = run.accepted_updates.get(&id.to_owned()) {
        return Some(match update.completed_event_id {
            Some(event_id) => UpdateStatus::Completed { event_id },
            None if run.is_open() => UpdateStatus::Accepted,
            None => UpdateStatus::ended(closed_before_completion()),
        });
    }
    run.admitted_updates.iter().any(|update| update.id == id).then_some(UpdateStatus::Admitted)
}

/// Notes that somebody asks for an update that is not answered: it is kept for them.
pub(crate) fn asked(txn: &mut Txn<'_>, id: &str) {
    let now = txn.now();
    if let Some(update) = txn.run.admitted_updates.iter_mut().find(|update| update.id == id) {
        update.asked = now;
    }
}

/// Refuses one update more where the run has as many as it may have.
pub(crate) fn check_limits(run: &Run, request: &Request, limits: &Limits) -> Result<(), Rejection> {
    let exhausted = |message: String| Rejection::ResourceExhausted {
        cause: ResourceExhaustedCause::ConcurrentLimit,
        message: message.into(),
    };
    let in_flight = in_flight(run);
    let max = limits.updates_in_flight_max;
    if max > 0 && in_flight >= max {
        let message = format!("limit on number of concurrent in-flight updates has been reached ({max})");
        return Err(exhausted(message));
    }
    let max = limits.updates_max;
    if max > 0 && total(run) >= max {
        return Err(Rejection::FailedPrecondition(
            format!(
                "The limit on the total number of distinct updates in this workflow has been reached ({max}). Make sure any \
                 duplicate updates share an Update ID so the server can deduplicate them, and consider rejecting updates that you \
                 aren't going to process. You can also Continue-as-New to avoid this; we recommend you check Continue-as-New \
                 Suggested in your Workflow."
            )
            .into(),
        ));
    }
    let max = limits.updates_in_flight_bytes_max;
    let held: usize = run.admitted_updates.iter().map(|update| update.id.len() + update.request.encoded_len()).sum();
    if max > 0 && held + request.encoded_len() >= max {
        let message = format!("limit on total payload size of in-flight updates has been reached ({max} bytes)");
        return Err(exhausted(message));
    }
    Ok(())
}

/// Takes an update that the run does not know.
pub(crate) fn admit(txn: &mut Txn<'_>, id: String, request: Request) {
    let asked = txn.now();
    txn.run.admitted_updates.push(AdmittedUpdate { id, request: Arc::new(request), is_sent: false, asked });
}

fn in_flight(run: &Run) -> usize {
    let accepted = run.accepted_updates.values().filter(|update| update.completed_event_id.is_none()).count();
    run.admitted_updates.len() + accepted
}

fn total(run: &Run) -> usize {
    run.admitted_updates.len() + run.accepted_updates.len()
}

/// Whether the run has had so many updates that it should continue as new.
pub(crate) fn are_many(run: &Run, limits: &Limits) -> bool {
    let many = limits.updates_suggest_continue_as_new.of(limits.updates_max);
    many > 0 && total(run) >= many
}

// ---- To the worker -----------------------------------------------------------------------------------------------------

/// The messages that go along with a workflow task: updates that are not answered, those that were sent before among them, unless the
/// worker still has them from the task before (`with_sent` is false then).
pub(crate) fn send(run: &mut Run, started_event_id: i64, with_sent: bool) -> Vec<Message> {
    let Run { admitted_updates, reapplied_updates, .. } = run;
    let unsent = admitted_updates.iter_mut().filter(|update| with_sent || !update.is_sent);
    let messages = unsent.filter_map(|update| {
        update.is_sent = true;
        // The request of one that a reset has taken over is in the history.
        (!reapplied_updates.contains(update.id.as_str())).then(|| Message {
            id: request_id(&update.id),
            protocol_instance_id: update.id.clone(),
            sequencing_id: Some(SequencingId::EventId(started_event_id - 1)),
            body: Some(Any {
                type_url: format!("type.googleapis.com/{PACKAGE}.Request"),
                value: update.request.encode_to_vec(),
            }),
        })
    });
    messages.collect()
}

fn request_id(update_id: &str) -> String {
    format!("{update_id}/request")
}

/// Whether there are updates that no worker was sent.
pub(crate) fn has_unsent(run: &Run) -> bool {
    run.admitted_updates.iter().any(|update| !update.is_sent)
}

// ---- From the worker ---------------------------------------------------------------------------------------------------

/// Refuses messages that say not even what they are.
pub(crate) fn check_messages(messages: &[Message]) -> Result<(), Rejection> {
    for message in messages {
        let body = message.body.as_ref().ok_or_else(|| Rejection::invalid("nil message body"))?;
        let name = type_name(body);
        if name.is_empty() {
            return Err(Rejection::invalid("no message name specified"));
        }
        if !name.contains('.') {
            return Err(Rejection::invalid(format!("failed to extract protocol type: no . found in {name:?}")));
        }
    }
    Ok(())
}

/// Whether a message rejects an update.
pub(crate) fn is_rejection(message: &Message) -> bool {
    message.body.as_ref().is_some_and(|body| type_name(body) == format!("{PACKAGE}.Rejection"))
}

fn type_name(body: &Any) -> &str {
    body.type_url.rsplit('/').next().unwrap_or_default()
}

/// What a worker says of an update.
enum Answer {
    Acceptance(Acceptance),
    Rejection(Rejected),
    Response(Response),
}

impl Answer {
    fn read(body: &Any) -> Result<Answer, Invalid> {
        let name = type_name(body);
        let Some(kind) = name.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix('.')) else {
            let protocol = name.rsplit_once('.').map_or("", |(protocol, _)| protocol);
            return Err(invalid(format!("unsupported protocol type {protocol}")));
        };
        let value = body.value.as_slice();
        let answer = match kind {
            "Acceptance" => Acceptance::decode(value).map(Answer::Acceptance),
            "Rejection" => Rejected::decode(value).map(Answer::Rejection),
            "Response" => Response::decode(value).map(Answer::Response),
            other => return Err(invalid(format!("Message type *update.{other} not supported"))),
        };
        answer.map_err(|error| invalid(format!("unable to unmarshal request: {error}")))
    }

    /// The request that the worker gives back with its answer, in case the server has lost it.
    fn request(&self) -> Option<&Request> {
        match self {
            Answer::Acceptance(acceptance) => acceptance.accepted_request.as_ref(),
            Answer::Rejection(rejection) => rejection.rejected_request.as_ref(),
            Answer::Response(_) => None,
        }
    }
}

fn invalid(message: impl Into<String>) -> Invalid {
    Invalid::new(CAUSE, message)
}

/// Takes in what the worker says of an update with the workflow task whose completion is `completed_event_id` (0 if that is not
/// written).
pub(crate) fn receive(txn: &mut Txn<'_>, message: &Message, completed_event_id: i64) -> Result<(), Invalid> {
    let id = &message.protocol_instance_id;
    let Some(body) = &message.body else { return Err(invalid("nil message body")) };
    if body.encoded_len() > txn.ctx.limits.blob_bytes_max {
        let message = format!("Message type {} exceeds size limit.", type_name(body));
        return Err(Invalid::too_large(CAUSE, message));
    }
    let answer = Answer::read(body)?;
    if status(&txn.run, id).is_none() {
        let Some(request) = answer.request() else {
            return Err(invalid(format!(
                "update {id} wasn't found on the server. This is most likely a transient error which will be resolved \
                 automatically by retries"
            )));
        };
        // A former leader sent it.
        let request = request.clone();
        admit(txn, id.clone(), request);
    }
    if !txn.run.is_open() && !matches!(answer, Answer::Rejection(_)) {
        // What the end of the run means for it is told with the others.
        return Ok(());
    }
    match answer {
        Answer::Acceptance(acceptance) => accept(txn, id, &acceptance, completed_event_id),
        Answer::Rejection(rejection) => {
            take_admitted(txn, id, "*update.Rejection", completed_event_id)?;
            forget_reapplied(txn, id);
            let failure = rejection.failure.unwrap_or_default();
            advance(txn, id.clone(), Ok(UpdateStatus::ended(failure_outcome(failure))));
            Ok(())
        }
        Answer::Response(response) => complete(txn, id, response, completed_event_id),
    }
}

fn accept(txn: &mut Txn<'_>, id: &str, acceptance: &Acceptance, completed_event_id: i64) -> Result<(), Invalid> {
    check_state(txn, id, "*update.Acceptance", completed_event_id, is_admitted)?;
    let is_missing = |field: &str| Err(invalid(format!("invalid *update.Acceptance: {field} is not set")));
    if acceptance.accepted_request_sequencing_event_id == 0 {
        return is_missing("accepted_request_sequencing_event_id");
    }
    if acceptance.accepted_request_message_id.is_empty() {
        return is_missing("accepted_request_message_id");
    }
    let update = take_admitted(txn, id, "*update.Acceptance", completed_event_id)?;
    // What a reset has taken over is in the history already.
    let is_reapplied = txn.run.reapplied_updates.contains(id);
    let accepted_request = (!is_reapplied).then(|| Arc::unwrap_or_clone(update.request));
    txn.append(Attributes::WorkflowExecutionUpdateAcceptedEventAttributes(
        WorkflowExecutionUpdateAcceptedEventAttributes {
            protocol_instance_id: id.to_owned(),
            accepted_request_message_id: request_id(id),
            accepted_request_sequencing_event_id: acceptance.accepted_request_sequencing_event_id,
            accepted_request,
        },
    ));
    advance(txn, id.to_owned(), Ok(UpdateStatus::Accepted));
    Ok(())
}

fn complete(txn: &mut Txn<'_>, id: &str, response: Response, completed_event_id: i64) -> Result<(), Invalid> {
    let is_accepted = |state| matches!(state, State::Accepted | State::ProvisionallyAccepted);
    check_state(txn, id, "*update.Response", completed_event_id, is_accepted)?;
    let problem = |text: &str| Err(invalid(format!("invalid *update.Response: {text}")));
    let Some(meta) = response.meta else { return problem("meta is not set") };
    if meta.update_id.is_empty() {
        return problem("meta.update_id is not set");
    }
    if meta.update_id != id {
        return problem(&format!("meta.update_id != {id}"));
    }
    let Some(outcome) = response.outcome else { return problem("outcome is not set") };
    let accepted_event_id = txn.run.accepted_updates.get(&id.to_owned()).map_or(0, |update| update.accepted_event_id);
    txn.append(Attributes::WorkflowExecutionUpdateCompletedEventAttributes(
        WorkflowExecutionUpdateCompletedEventAttributes {
            meta: Some(meta),
            outcome: Some(outcome.clone()),
            accepted_event_id,
        },
    ));
    advance(txn, id.to_owned(), Ok(UpdateStatus::ended(outcome)));
    Ok(())
}

/// The states that an update passes through, by Temporal's names for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Admitted,
    Sent,
    /// With the workflow task in hand.
    ProvisionallyAccepted,
    Accepted,
    /// With the workflow task in hand.
    ProvisionallyCompleted,
    Completed,
}

fn is_admitted(state: State) -> bool {
    matches!(state, State::Admitted | State::Sent)
}

fn state(run: &Run, id: &str, completed_event_id: i64) -> Option<State> {
    let is_new = |event_id: i64| completed_event_id > 0 && event_id > completed_event_id;
    if let Some(update) = run.accepted_updates.get(&id.to_owned()) {
        return Some(match update.completed_event_id {
            Some(event_id) if is_new(event_id) => State::ProvisionallyCompleted,
            Some(_) => State::Completed,
            None if is_new(update.accepted_event_id) => State::ProvisionallyAccepted,
            None => State::Accepted,
        });
    }
    let update = run.admitted_updates.iter().find(|update| update.id == id)?;
    Some(if update.is_sent { State::Sent } else { State::Admitted })
}

fn check_state(
    txn: &Txn<'_>,
    id: &str,
    message: &str,
    completed_event_id: i64,
    is_allowed: impl Fn(State) -> bool,
) -> Result<(), Invalid> {
    match state(&txn.run, id, completed_event_id) {
        Some(state) if is_allowed(state) => Ok(()),
        state => Err(invalid(format!(
            "invalid state transition attempted for Update {id}: received {message} message while in state {:?}",
            state.unwrap_or(State::Completed)
        ))),
    }
}

/// Takes an update out that is answered now.
fn take_admitted(
    txn: &mut Txn<'_>,
    id: &str,
    message: &str,
    completed_event_id: i64,
) -> Result<AdmittedUpdate, Invalid> {
    check_state(txn, id, message, completed_event_id, is_admitted)?;
    let position = txn.run.admitted_updates.iter().position(|update| update.id == id);
    position.map(|position| txn.run.admitted_updates.remove(position)).ok_or_else(|| invalid("the update is gone"))
}

// ---- Ends --------------------------------------------------------------------------------------------------------------

/// Rejects the updates that the worker was sent and has not answered: it would not the next time, either.
pub(crate) fn reject_unprocessed(txn: &mut Txn<'_>) {
    let failure = server_failure(
        "UnprocessedUpdate",
        "Workflow Update is rejected because it wasn't processed by worker. Probably, Workflow Update is not supported by the worker.",
    );
    for id in take_sent(txn) {
        forget_reapplied(txn, &id);
        advance(txn, id, Ok(UpdateStatus::ended(failure_outcome(failure.clone()))));
    }
}

/// Gives up the updates that the worker was sent with a workflow task that it has completed wrongly. The others go along with the next.
pub(crate) fn abort_sent(txn: &mut Txn<'_>) {
    const TEXT: &str = "Unable to perform workflow execution update due to unexpected workflow task failure.";
    for id in take_sent(txn) {
        advance(txn, id, Err(Rejection::WorkflowNotReady(TEXT.into())));
    }
    // Those that a reset has taken over are in the history.
    txn.run.admit_reapplied();
}

/// An update that a reset has taken over will not be sent again.
fn forget_reapplied(txn: &mut Txn<'_>, id: &str) {
    if txn.run.reapplied_updates.remove(&id.to_owned()) {
        txn.touch();
    }
}

fn take_sent(txn: &mut Txn<'_>) -> Vec<String> {
    let is_sent = |update: &mut AdmittedUpdate| update.is_sent;
    txn.run.admitted_updates.extract_if(.., is_sent).map(|update| update.id).collect()
}

/// Tells who waits for updates of a run that has closed. Those that the workflow had not accepted may try the next run, if there is one.
pub(crate) fn close(txn: &mut Txn<'_>) {
    let has_next = txn.successor.is_some();
    for update in std::mem::take(&mut txn.run.admitted_updates) {
        let aborted = if has_next { Rejection::workflow_closing() } else { Rejection::update_aborted() };
        advance(txn, update.id, Err(aborted));
    }
    let accepted = txn.run.accepted_updates.iter().filter(|(_, update)| update.completed_event_id.is_none());
    for id in accepted.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
        advance(txn, id, Ok(UpdateStatus::ended(closed_before_completion())));
    }
}

fn closed_before_completion() -> Outcome {
    failure_outcome(server_failure(
        "AcceptedUpdateCompletedWorkflow",
        "Workflow Update failed because the Workflow completed before the Update completed.",
    ))
}

fn failure_outcome(failure: Failure) -> Outcome {
    Outcome { value: Some(outcome::Value::Failure(failure)) }
}

fn server_failure(kind: &str, message: &str) -> Failure {
    Failure {
        message: message.to_owned(),
        source: "Server".to_owned(),
        failure_info: Some(FailureInfo::ApplicationFailureInfo(ApplicationFailureInfo {
            r#type: kind.to_owned(),
            non_retryable: true,
            ..ApplicationFailureInfo::default()
        })),
        ..Failure::default()
    }
}

/// Tells who waits for an update. Of what happens to it in one transition they are told the last.
fn advance(txn: &mut Txn<'_>, update_id: String, status: Result<UpdateStatus, Rejection>) {
    let is_same = |effect: &Effect| matches!(effect, Effect::UpdateAdvanced { update_id: id, .. } if *id == update_id);
    txn.effects.retain(|effect| !is_same(effect));
    txn.effects.push(Effect::UpdateAdvanced { run_id: txn.run.id, update_id, status });
}

impl Run {
    /// What an event says of an update that the workflow has accepted.
    pub(crate) fn update_accepted(
        &mut self,
        event_id: i64,
        attributes: &WorkflowExecutionUpdateAcceptedEventAttributes,
    ) {
        let id = &attributes.protocol_instance_id;
        let reapplied = self.reapplied_updates.get(id).map(|update| &update.request_id);
        let request_id = attributes.accepted_request.as_ref().map(|request| &request.request_id).or(reapplied).cloned();
        let update = AcceptedUpdate {
            accepted_event_id: event_id,
            completed_event_id: None,
            request_id: request_id.unwrap_or_default(),
        };
        self.reapplied_updates.remove(id);
        self.accepted_updates.insert(id.clone(), update);
    }

    /// What an event says of an update that a reset has taken over.
    pub(crate) fn update_reapplied(
        &mut self,
        event: &HistoryEvent,
        attributes: &WorkflowExecutionUpdateAdmittedEventAttributes,
    ) {
        let Some(request) = &attributes.request else { return };
        let id = request.meta.as_ref().map(|meta| meta.update_id.clone()).unwrap_or_default();
        let update = ReappliedUpdate { admitted_event_id: event.event_id, request_id: request.request_id.clone() };
        self.reapplied_updates.insert(id, update);
        self.admit_reapplied();
    }

    /// Puts updates that a reset has taken over among the admitted ones, if they are not there.
    pub(crate) fn admit_reapplied(&mut self) {
        if !self.is_open() {
            return;
        }
        let mut missing: Vec<_> = self.reapplied_updates.iter().collect();
        missing.retain(|(id, _)| self.admitted_updates.iter().all(|update| update.id != **id));
        missing.sort_by_key(|(_, update)| update.admitted_event_id);
        let admitted = missing.into_iter().map(|(id, _)| AdmittedUpdate {
            id: id.clone(),
            request: Arc::default(),
            is_sent: false,
            asked: Time(0),
        });
        let admitted: Vec<_> = admitted.collect();
        self.admitted_updates.extend(admitted);
    }

    /// What an event says of an update that has its outcome.
    pub(crate) fn update_completed(
        &mut self,
        event_id: i64,
        attributes: &WorkflowExecutionUpdateCompletedEventAttributes,
    ) {
        let id = attributes.meta.as_ref().map(|meta| meta.update_id.clone()).unwrap_or_default();
        if let Some(update) = self.accepted_updates.get_mut(&id) {
            update.completed_event_id = Some(event_id);
        }
    }
}
