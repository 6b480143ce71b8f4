//! What a description tells of operations of Nexus services, and of those who are told that a run has closed.

use everlog_proto::api::enums::v1::PendingNexusOperationState;
use everlog_proto::api::workflow::v1::callback_info::{Trigger, WorkflowClosed, trigger};
use everlog_proto::api::workflow::v1::{CallbackInfo, NexusOperationCancellationInfo, PendingNexusOperationInfo};

use crate::Run;
use crate::state::{CompletionCallback, NexusCancel, NexusOperation};

pub(super) fn pending(run: &Run) -> Vec<PendingNexusOperationInfo> {
    run.nexus_operations.values().map(|operation| pending_operation(operation)).collect()
}

#[expect(deprecated, reason = "old clients read the token there")]
fn pending_operation(operation: &NexusOperation) -> PendingNexusOperationInfo {
    let state = match (operation.is_started(), operation.is_backing_off) {
        (true, _) => PendingNexusOperationState::Started,
        (false, true) => PendingNexusOperationState::BackingOff,
        (false, false) => PendingNexusOperationState::Scheduled,
    };
    let scheduled = &operation.scheduled;
    PendingNexusOperationInfo {
        endpoint: scheduled.endpoint.clone(),
        service: scheduled.service.clone(),
        operation: scheduled.operation.clone(),
        operation_id: operation.operation_token.clone(),
        schedule_to_close_timeout: scheduled.schedule_to_close_timeout,
        scheduled_time: Some(operation.scheduled_time.to_proto()),
        state: state as i32,
        attempt: operation.attempt,
        last_attempt_complete_time: operation.last_attempt_end.map(|time| time.to_proto()),
        last_attempt_failure: operation.last_failure.as_deref().cloned(),
        next_attempt_schedule_time: operation.call_at.filter(|_| operation.is_backing_off).map(|time| time.to_proto()),
        cancellation_info: operation.cancel.as_ref().map(cancellation),
        scheduled_event_id: operation.scheduled_event_id,
        operation_token: operation.operation_token.clone(),
        schedule_to_start_timeout: scheduled.schedule_to_start_timeout,
        start_to_close_timeout: scheduled.start_to_close_timeout,
        ..PendingNexusOperationInfo::default()
    }
}

fn cancellation(cancel: &NexusCancel) -> NexusOperationCancellationInfo {
    use everlog_proto::api::enums::v1::NexusOperationCancellationState as State;
    NexusOperationCancellationInfo {
        requested_time: cancel.requested_time.map(|time| time.to_proto()),
        state: cancel.state as i32,
        attempt: cancel.attempt,
        last_attempt_complete_time: cancel.last_attempt_end.map(|time| time.to_proto()),
        last_attempt_failure: cancel.last_failure.as_deref().cloned(),
        next_attempt_schedule_time: cancel
            .call_at
            .filter(|_| cancel.state == State::BackingOff)
            .map(|time| time.to_proto()),
        ..NexusOperationCancellationInfo::default()
    }
}

pub(super) fn callbacks(run: &Run) -> Vec<CallbackInfo> {
    run.callbacks.values().map(callback).collect()
}

fn callback(callback: &CompletionCallback) -> CallbackInfo {
    CallbackInfo {
        callback: Some(callback.callback.clone()),
        trigger: Some(Trigger { variant: Some(trigger::Variant::WorkflowClosed(WorkflowClosed {})) }),
        registration_time: Some(callback.registered.to_proto()),
        state: callback.state as i32,
        attempt: callback.attempt,
        last_attempt_complete_time: callback.last_attempt_end.map(|time| time.to_proto()),
        last_attempt_failure: callback.last_failure.as_deref().cloned(),
        ..CallbackInfo::default()
    }
}
