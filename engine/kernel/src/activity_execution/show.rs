//! What clients are told of an activity.

use everlog_proto::api::activity::v1::{ActivityExecutionInfo, ActivityExecutionOutcome, activity_execution_outcome};
use everlog_proto::api::enums::v1::PendingActivityState;
use everlog_proto::api::workflowservice::v1::{DescribeActivityExecutionRequest, DescribeActivityExecutionResponse};

use super::state::{Execution, Status};
use crate::{Time, time};

impl Execution {
    /// All that is known of it; input, outcome and details only as far as they are asked for.
    pub(super) fn describe(
        &self,
        id: &str,
        request: &DescribeActivityExecutionRequest,
        now: Time,
    ) -> DescribeActivityExecutionResponse {
        let input = request.include_input.then(|| self.activity.scheduled.input.clone()).flatten();
        let outcome = request.include_outcome.then(|| self.outcome()).flatten();
        DescribeActivityExecutionResponse {
            run_id: self.run_id.to_string(),
            info: Some(self.info(id, request, now)),
            input,
            outcome,
            ..DescribeActivityExecutionResponse::default()
        }
    }

    fn info(&self, id: &str, request: &DescribeActivityExecutionRequest, now: Time) -> ActivityExecutionInfo {
        let (activity, progress, options) = (&self.activity, &self.progress, self.activity.options());
        let shown = |time: i64| Time(time).to_proto();
        let closed = progress.closed.map(Time);
        let waits = self.status() == Status::Scheduled && activity.attempt_scheduled_time > now;
        let failure = request.include_last_failure.then(|| activity.last_failure.as_deref().cloned()).flatten();
        ActivityExecutionInfo {
            activity_id: id.to_owned(),
            run_id: self.run_id.to_string(),
            activity_type: activity.scheduled.activity_type.clone(),
            status: self.status().shown().into(),
            run_state: self.run_state().into(),
            task_queue: activity.task_queue().to_owned(),
            schedule_to_close_timeout: options.schedule_to_close_timeout,
            schedule_to_start_timeout: options.schedule_to_start_timeout,
            start_to_close_timeout: options.start_to_close_timeout,
            heartbeat_timeout: options.heartbeat_timeout,
            retry_policy: options.retry_policy,
            heartbeat_details: request.include_heartbeat_details.then(|| activity.heartbeat_details.clone()).flatten(),
            last_heartbeat_time: activity.last_heartbeat.map(Time::to_proto),
            last_started_time: progress.last_started.map(shown),
            attempt: activity.attempt,
            execution_duration: closed.map(|closed| time::to_proto(closed.since(activity.scheduled_time))),
            schedule_time: Some(activity.scheduled_time.to_proto()),
            expiration_time: self.expiration().map(Time::to_proto),
            close_time: closed.map(Time::to_proto),
            last_failure: failure,
            last_worker_identity: activity.last_worker_identity.clone(),
            current_retry_interval: progress.retry_interval.filter(|_| waits),
            last_attempt_complete_time: activity.last_attempt_end.map(Time::to_proto),
            next_attempt_schedule_time: waits.then(|| activity.attempt_scheduled_time.to_proto()),
            priority: options.priority,
            state_transition_count: progress.transition_count,
            state_size_bytes: i64::try_from(self.row_bytes()).unwrap_or(i64::MAX),
            search_attributes: Some(self.asked.search_attributes.clone().unwrap_or_default()),
            header: activity.scheduled.header.clone(),
            user_metadata: self.asked.user_metadata.clone(),
            canceled_reason: progress.cancel.as_ref().map(|cancel| cancel.reason.clone()).unwrap_or_default(),
            links: self.links(),
            total_heartbeat_count: progress.heartbeat_count,
            sdk_name: progress.sdk_name.clone(),
            sdk_version: progress.sdk_version.clone(),
            start_delay: progress.start_delay,
            execution_time: Some(self.first_due().to_proto()),
            ..ActivityExecutionInfo::default()
        }
    }

    fn run_state(&self) -> PendingActivityState {
        match self.status() {
            Status::Scheduled => PendingActivityState::Scheduled,
            Status::Started => PendingActivityState::Started,
            Status::ResetRequested if self.is_paused() => PendingActivityState::PauseRequested,
            Status::ResetRequested => PendingActivityState::Started,
            Status::CancelRequested => PendingActivityState::CancelRequested,
            Status::Paused => PendingActivityState::Paused,
            Status::PauseRequested => PendingActivityState::PauseRequested,
            _ => PendingActivityState::Unspecified,
        }
    }

    /// What has come of it, once it has ended.
    fn outcome(&self) -> Option<ActivityExecutionOutcome> {
        use activity_execution_outcome::Value;
        let outcome = self.progress.outcome.as_ref()?;
        if let Some(completed) = &outcome.completed {
            let value = Some(Value::Result(completed.result.clone().unwrap_or_default()));
            return Some(ActivityExecutionOutcome { value, ..ActivityExecutionOutcome::default() });
        }
        let failure = outcome.failure.as_ref().or(self.activity.last_failure.as_deref())?;
        Some(ActivityExecutionOutcome {
            value: Some(Value::Failure(failure.clone())),
            retry_state: outcome.retry_state,
        })
    }
}
