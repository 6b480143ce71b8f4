//! Those who are told that a chain of runs has ended: workflows that wait for it as for an operation of a Nexus service.

use std::collections::HashMap;

use everlog_proto::api::common::v1::link::{Variant, WorkflowEvent, workflow_event};
use everlog_proto::api::common::v1::{Callback, Link, Payload, Payloads, callback};
use everlog_proto::api::enums::v1::{CallbackState, EventType, TimeoutType};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{CanceledFailureInfo, Failure, TerminatedFailureInfo};
use everlog_proto::api::history::v1::history_event::Attributes;

use crate::outbox::{
    CallbackToken, MessageBody, NexusCompleted, OPERATION_TOKEN_HEADER, OutboxMessage, Outcome, TOKEN_HEADER,
};
use crate::transition::Effect;
use crate::txn::Txn;
use crate::{nexus, retry};

/// Tells of `closing`, the run's last event, whoever is to be told.
pub(super) fn tell(txn: &mut Txn<'_>, closing: &Attributes) {
    let callbacks: Vec<_> = txn.run.callbacks.iter().map(|(id, it)| (id.clone(), it.callback.clone())).collect();
    if callbacks.is_empty() {
        return;
    }
    let Some(end) = end(closing) else { return };
    for (place, (id, callback)) in callbacks.into_iter().enumerate() {
        let header = header(&callback);
        let token = header.get(TOKEN_HEADER).and_then(|token| CallbackToken::decode(token));
        let now = txn.now();
        let Some(kept) = txn.run.callbacks.get_mut(&id) else { continue };
        let Some(token) = token else {
            kept.state = CallbackState::Failed;
            kept.attempt = 1;
            kept.last_attempt_end = Some(now);
            kept.last_failure = Some(Box::new(nexus::call_failure("invalid callback token".to_owned(), false)));
            continue;
        };
        kept.state = CallbackState::Scheduled;
        let body = NexusCompleted {
            namespace_id: token.namespace_id.0.to_vec().into(),
            scheduled_event_id: token.scheduled_event_id,
            request_id: token.request_id,
            operation_token: header.get(OPERATION_TOKEN_HEADER).cloned().unwrap_or_default(),
            start_time: Some(txn.run.info.start_time.to_proto()),
            links: vec![start_link(txn)],
            ..end.clone()
        };
        txn.effects.push(Effect::Send(Box::new(OutboxMessage {
            namespace_id: txn.ctx.namespace.id,
            source_workflow_id: txn.workflow_id.to_owned(),
            source_run_id: txn.run.id,
            origin_run_id: None,
            event_id: number(place),
            sent: txn.ctx.now,
            target_workflow_id: token.workflow_id,
            target_run_id: Some(token.run_id),
            body: MessageBody::NexusCompleted(Box::new(body)),
        })));
    }
}

/// Stands in a message for the event with which it was sent, since each of several callbacks is told with the same one.
fn number(place: usize) -> i64 {
    -1 - i64::try_from(place).unwrap_or(i64::MAX - 1)
}

/// It is known what became of a message.
pub(crate) fn settle(txn: &mut Txn<'_>, event_id: i64, outcome: Outcome) {
    let told = txn.run.callbacks.keys().enumerate().find(|(place, _)| number(*place) == event_id);
    let Some(id) = told.map(|(_, id)| id.clone()) else { return };
    let now = txn.now();
    let Some(callback) = txn.run.callbacks.get_mut(&id).filter(|it| it.state == CallbackState::Scheduled) else {
        return;
    };
    callback.attempt += 1;
    callback.last_attempt_end = Some(now);
    match outcome {
        Outcome::Delivered => callback.state = CallbackState::Succeeded,
        Outcome::NotFound | Outcome::TooManySignals | Outcome::AlreadyExists => {
            callback.state = CallbackState::Failed;
            callback.last_failure = Some(Box::new(nexus::call_failure("operation not found".to_owned(), false)));
        }
    }
    txn.touch();
}

/// Its header, by names in lower case.
fn header(callback: &Callback) -> HashMap<String, String> {
    match &callback.variant {
        Some(callback::Variant::Nexus(nexus)) => {
            nexus.header.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect()
        }
        _ => HashMap::new(),
    }
}

/// Leads to the first event of the run.
fn start_link(txn: &Txn<'_>) -> Link {
    let reference =
        workflow_event::EventReference { event_id: 1, event_type: EventType::WorkflowExecutionStarted as i32 };
    let to = WorkflowEvent {
        namespace: txn.ctx.namespace.name.clone(),
        workflow_id: txn.workflow_id.to_owned(),
        run_id: txn.run.id.to_string(),
        reference: Some(workflow_event::Reference::EventRef(reference)),
    };
    Link { variant: Some(Variant::WorkflowEvent(to)) }
}

/// What the end of a run is as that of an operation. (Temporal: `GetNexusCompletion` in `mutable_state_impl.go`.)
fn end(closing: &Attributes) -> Option<NexusCompleted> {
    let failed = |failure| NexusCompleted { failure: Some(failure), ..NexusCompleted::default() };
    let with =
        |message: &str, info| Failure { message: message.to_owned(), failure_info: Some(info), ..Failure::default() };
    Some(match closing {
        Attributes::WorkflowExecutionCompletedEventAttributes(a) => {
            NexusCompleted { result: first(a.result.as_ref()), ..NexusCompleted::default() }
        }
        Attributes::WorkflowExecutionFailedEventAttributes(a) => failed(a.failure.clone().unwrap_or_default()),
        Attributes::WorkflowExecutionCanceledEventAttributes(a) => {
            let info = CanceledFailureInfo { details: a.details.clone(), ..CanceledFailureInfo::default() };
            let failure = with("operation canceled", FailureInfo::CanceledFailureInfo(info));
            NexusCompleted { is_canceled: true, ..failed(failure) }
        }
        Attributes::WorkflowExecutionTerminatedEventAttributes(_) => {
            let info = TerminatedFailureInfo::default();
            failed(with("operation terminated", FailureInfo::TerminatedFailureInfo(info)))
        }
        Attributes::WorkflowExecutionTimedOutEventAttributes(_) => {
            let text = "operation exceeded internal timeout".to_owned();
            let failure = retry::timeout_failure(text, TimeoutType::StartToClose);
            failed(Failure { source: String::new(), ..failure })
        }
        _ => return None,
    })
}

/// A workflow has one result, in whatever SDK, or none.
fn first(payloads: Option<&Payloads>) -> Option<Payload> {
    let first = payloads.and_then(|payloads| payloads.payloads.first().cloned());
    Some(first.unwrap_or_else(nexus::null))
}
