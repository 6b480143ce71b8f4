//! What is told of a schedule.

use everlog_proto::api::schedule::v1::{ScheduleInfo, ScheduleListInfo, ScheduleSpec};
use everlog_proto::api::workflowservice::v1::DescribeScheduleResponse;
use everlog_proto::wkt;

use super::state::{Live, jitter_seed};
use super::{spec, token};
use crate::{Context, Time};

/// Times and actions that a description shows.
const SHOWN: usize = 10;
/// The same of an entry of a list, and what it shows of a spec.
const LISTED: usize = 5;
const LISTED_OF_SPEC: usize = 10;

impl Live {
    /// All that is known of it.
    pub(super) fn describe(&self, id: &str, ctx: &Context<'_>) -> DescribeScheduleResponse {
        let mut schedule = self.definition().clone();
        schedule.state = Some(self.progress.state.clone().unwrap_or_default());
        if let Some(spec) = &mut schedule.spec {
            spec::with_defaults(spec);
        }
        let progress = &self.progress;
        let time = |time: i64| (time != 0).then(|| Time(time).to_proto());
        #[expect(deprecated, reason = "older clients read it")]
        let info = ScheduleInfo {
            action_count: progress.action_count,
            missed_catchup_window: progress.missed_catchup_window,
            overlap_skipped: progress.overlap_skipped,
            buffer_dropped: progress.buffer_dropped,
            buffer_size: i64::try_from(progress.buffered.len()).unwrap_or(i64::MAX),
            running_workflows: progress.running.iter().filter_map(|running| running.execution.clone()).collect(),
            recent_actions: progress.recent_actions.clone(),
            future_action_times: self.future_times(id, SHOWN, ctx),
            create_time: time(progress.created),
            update_time: time(progress.updated),
            invalid_schedule_error: String::new(),
            state_size_bytes: 0,
        };
        DescribeScheduleResponse {
            schedule: Some(schedule),
            info: Some(info),
            memo: self.made_of.memo.clone(),
            search_attributes: self.made_of.search_attributes.clone(),
            conflict_token: token(progress.conflict_token),
        }
    }

    /// What lists show of it.
    pub(super) fn listed(&self, id: &str, ctx: &Context<'_>) -> ScheduleListInfo {
        let mut spec = self.definition().spec.clone().unwrap_or_default();
        let ScheduleSpec { structured_calendar, exclude_structured_calendar, interval, timezone_data, .. } = &mut spec;
        structured_calendar.truncate(LISTED_OF_SPEC);
        exclude_structured_calendar.truncate(LISTED_OF_SPEC);
        interval.truncate(LISTED_OF_SPEC);
        timezone_data.clear();
        let state = self.progress.state.clone().unwrap_or_default();
        let recent = &self.progress.recent_actions;
        ScheduleListInfo {
            spec: Some(spec),
            workflow_type: self.action().and_then(|action| action.workflow_type.clone()),
            notes: state.notes,
            paused: state.paused,
            recent_actions: recent[recent.len().saturating_sub(LISTED)..].to_vec(),
            future_action_times: self.future_times(id, LISTED, ctx),
            state_size_bytes: 0,
        }
    }

    /// The next times at which it acts, or would act if it were not paused.
    fn future_times(&self, id: &str, most: usize, ctx: &Context<'_>) -> Vec<wkt::Timestamp> {
        let Some(compiled) = &self.compiled else { return Vec::new() };
        let left = self.actions_left().map_or(most, |left| usize::try_from(left).unwrap_or(0).min(most));
        let seed = jitter_seed(ctx.namespace.id, id);
        let mut at = Time(self.progress.dealt_with);
        if !self.can_act() {
            at = at.max(ctx.now);
        }
        let mut times = Vec::with_capacity(left);
        while times.len() < left
            && let Ok(Some(due)) = compiled.next(&seed, at)
        {
            at = due.actual;
            if at.0 >= self.progress.updated {
                times.push(at.to_proto());
            }
        }
        times
    }
}
