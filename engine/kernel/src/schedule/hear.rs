//! What a schedule hears of workflows that it has started, or has tried to start.

use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::WorkflowExecutionStatus as Status;
use everlog_proto::api::schedule::v1::ScheduleActionResult;

use everlog_proto::wkt::Timestamp;

use super::decide::Change;
use super::state::{Running, Starting};
use crate::Time;
use crate::outbox::{Outcome, ScheduledClosed};

/// Actions that are remembered.
const RECENT_ACTIONS_MAX: usize = 10;

impl Change<'_, '_> {
    /// It is known what became of a start.
    pub(super) fn settle(&mut self, number: i64, outcome: Outcome) {
        let starting = &mut self.live.progress.starting;
        let Some(position) = starting.iter().position(|starting| starting.number == number) else { return };
        let starting = starting.remove(position);
        if outcome == Outcome::Delivered {
            self.started(starting);
        }
        // One that another workflow stands in the way of is no action.
    }

    fn started(&mut self, starting: Starting) {
        let progress = &mut self.live.progress;
        progress.action_count += 1;
        progress.recent_actions.push(ScheduleActionResult {
            schedule_time: Some(Time(starting.scheduled).to_proto()),
            actual_time: Some(Time(starting.sent).to_proto()),
            start_workflow_result: starting.execution.clone(),
            start_workflow_status: Status::Running.into(),
        });
        // News of starts come in any order.
        let time = |time: &Option<Timestamp>| time.as_ref().map_or(0, |time| Time::from_proto(time).0);
        progress.recent_actions.sort_by_key(|action| (time(&action.actual_time), time(&action.schedule_time)));
        let too_many = progress.recent_actions.len().saturating_sub(RECENT_ACTIONS_MAX);
        progress.recent_actions.drain(..too_many);
        if !starting.overlaps {
            progress.running.push(Running { execution: starting.execution, asked: starting.asked });
        }
    }

    /// A workflow has ended.
    pub(super) fn closed(&mut self, workflow_id: String, closed: ScheduledClosed) {
        let ScheduledClosed { first_run_id, status, result, failure } = closed;
        let execution = Some(WorkflowExecution { workflow_id, run_id: first_run_id });
        // It was started, though the news of that are still on their way.
        let starting = &mut self.live.progress.starting;
        if let Some(position) = starting.iter().position(|starting| starting.execution == execution) {
            let starting = starting.remove(position);
            self.started(starting);
        }
        let progress = &mut self.live.progress;
        for action in &mut progress.recent_actions {
            if action.start_workflow_result == execution {
                action.start_workflow_status = status;
            }
        }
        let Some(position) = progress.running.iter().position(|running| running.execution == execution) else { return };
        progress.running.remove(position);
        let status = Status::try_from(status).unwrap_or_default();
        let message = failure.as_ref().map_or("", |failure| &failure.message);
        let id = execution.as_ref().map_or("", |execution| &execution.workflow_id);
        let notes = match status {
            Status::Failed => Some(format!("paused due to workflow failure: {id}: {message}")),
            Status::TimedOut => Some(format!("paused due to workflow timeout: {id}")),
            _ => None,
        };
        if let Some(notes) = notes
            && self.live.policies().pause_on_failure
            && !self.live.is_paused()
        {
            let state = self.live.state();
            state.paused = true;
            state.notes = notes;
            self.live.progress.conflict_token += 1;
        }
        if result.is_some() || failure.is_some() {
            self.live.carried.since = Some(self.ctx.now.0);
            self.carried_changed = true;
        }
        if result.is_some() {
            self.live.carried.last_completion_result = result;
            self.live.carried.continued_failure = None;
        } else if failure.is_some() {
            self.live.carried.continued_failure = failure;
        }
    }
}
