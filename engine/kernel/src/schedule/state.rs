//! What a schedule knows.

use everlog_proto::api::common::v1::{Memo, Payloads, SearchAttributes, WorkflowExecution};
use everlog_proto::api::enums::v1::ScheduleOverlapPolicy;
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::schedule::v1::schedule_action::Action;
use everlog_proto::api::schedule::v1::{
    BackfillRequest, Schedule as Definition, ScheduleActionResult, SchedulePolicies, ScheduleState,
};
use everlog_proto::api::workflow::v1::NewWorkflowExecutionInfo;
use everlog_proto::wkt;
use prost::Message;

use super::spec::Compiled;
use crate::{NamespaceId, RunId, Standing, Time, time};

/// A schedule, or the place of one that is not there.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    /// Its id.
    pub id: String,
    pub(crate) live: Option<Box<Live>>,
}

/// A schedule that is there.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// Tells it apart from others that had its id before.
    pub(super) run_id: RunId,
    pub(super) made_of: MadeOf,
    pub(super) progress: Progress,
    pub(super) carried: Carried,
    /// The spec, ready to be asked; `None` if its time zone is not known any more.
    pub(super) compiled: Option<Compiled>,
}

/// What clients have given. Written when they change it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct MadeOf {
    /// Spec, action and policies. Its state is in [`Progress`], where it changes.
    #[prost(message, optional, tag = "1")]
    pub(super) definition: Option<Definition>,
    #[prost(message, optional, tag = "2")]
    pub(super) memo: Option<Memo>,
    #[prost(message, optional, tag = "3")]
    pub(super) search_attributes: Option<SearchAttributes>,
    /// Names the request that has created it.
    #[prost(string, tag = "4")]
    pub(super) request_id: String,
}

/// How far it has come. Written with every change.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Progress {
    #[prost(sfixed64, tag = "1")]
    pub(super) created: i64,
    /// 0 for never.
    #[prost(sfixed64, tag = "2")]
    pub(super) updated: i64,
    /// Times up to this one have been dealt with.
    #[prost(sfixed64, tag = "3")]
    pub(super) dealt_with: i64,
    #[prost(int64, tag = "4")]
    pub(super) conflict_token: i64,
    #[prost(message, optional, tag = "5")]
    pub(super) state: Option<ScheduleState>,
    #[prost(int64, tag = "6")]
    pub(super) action_count: i64,
    #[prost(int64, tag = "7")]
    pub(super) missed_catchup_window: i64,
    #[prost(int64, tag = "8")]
    pub(super) overlap_skipped: i64,
    #[prost(int64, tag = "9")]
    pub(super) buffer_dropped: i64,
    #[prost(message, repeated, tag = "10")]
    pub(super) recent_actions: Vec<ScheduleActionResult>,
    /// Workflows that it has started and that have not ended, by the first run of each chain; not those that may overlap.
    #[prost(message, repeated, tag = "11")]
    pub(super) running: Vec<Running>,
    /// Starts that wait for their turn, oldest first.
    #[prost(message, repeated, tag = "12")]
    pub(super) buffered: Vec<Start>,
    /// Starts that were sent, and have not arrived.
    #[prost(message, repeated, tag = "13")]
    pub(super) starting: Vec<Starting>,
    #[prost(message, repeated, tag = "14")]
    pub(super) backfills: Vec<BackfillRequest>,
    /// The number of the last message.
    #[prost(int64, tag = "15")]
    pub(super) last_number: i64,
    /// When it is to be looked at next.
    #[prost(sfixed64, optional, tag = "16")]
    pub(super) next_look: Option<i64>,
    /// The wake row that is written.
    #[prost(sfixed64, optional, tag = "17")]
    pub(super) wake_at: Option<i64>,
    /// Ids of the last requests that have changed it, so that one that is repeated is not carried out again.
    #[prost(string, repeated, tag = "18")]
    pub(super) request_ids: Vec<String>,
}

/// What one workflow hands on to the next one. It may be large, and has a row of its own.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Carried {
    #[prost(message, optional, tag = "1")]
    pub(super) last_completion_result: Option<Payloads>,
    #[prost(message, optional, tag = "2")]
    pub(super) continued_failure: Option<Failure>,
    /// When the last one ended, of those that have handed something on.
    #[prost(sfixed64, optional, tag = "3")]
    pub(super) since: Option<i64>,
}

/// A start that is due.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Start {
    /// What the spec says.
    #[prost(sfixed64, tag = "1")]
    pub(super) nominal: i64,
    /// The same with jitter.
    #[prost(sfixed64, tag = "2")]
    pub(super) actual: i64,
    /// 0 for that of the schedule, as it is when the start is looked at.
    #[prost(enumeration = "ScheduleOverlapPolicy", tag = "3")]
    pub(super) overlap: i32,
    /// A client has asked for it: neither a pause nor a limit counts.
    #[prost(bool, tag = "4")]
    pub(super) is_manual: bool,
}

/// A start on its way.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Starting {
    #[prost(int64, tag = "1")]
    pub(super) number: i64,
    #[prost(message, optional, tag = "2")]
    pub(super) execution: Option<WorkflowExecution>,
    #[prost(sfixed64, tag = "3")]
    pub(super) scheduled: i64,
    #[prost(sfixed64, tag = "4")]
    pub(super) sent: i64,
    /// Whether others may run beside it.
    #[prost(bool, tag = "5")]
    pub(super) overlaps: bool,
    /// It was asked to end already: see [`End`].
    #[prost(enumeration = "End", tag = "6")]
    pub(super) asked: i32,
}

/// A workflow that runs.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Running {
    #[prost(message, optional, tag = "1")]
    pub(super) execution: Option<WorkflowExecution>,
    /// It was asked to end: see [`End`].
    #[prost(enumeration = "End", tag = "2")]
    pub(super) asked: i32,
}

/// How a workflow is asked to end, the stronger the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum End {
    Not = 0,
    Cancel = 1,
    Terminate = 2,
}

/// What decides the jitter of a schedule, with the time.
pub fn jitter_seed(namespace_id: NamespaceId, schedule_id: &str) -> String {
    format!("{namespace_id}-{schedule_id}")
}

const DAY: u64 = 24 * 3600;

/// How late an action may be, unless the policies say it.
const CATCHUP_WINDOW: i64 = 365 * DAY as i64;

/// The shortest that they can say.
const CATCHUP_WINDOW_MIN: i64 = 10;

impl Schedule {
    /// The place of a schedule.
    pub fn new(id: impl Into<String>) -> Schedule {
        Schedule { id: id.into(), live: None }
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.live.is_some()
    }

    /// Whether it has sent starts of which it does not know what became.
    pub fn has_unsettled(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !live.progress.starting.is_empty())
    }

    /// When it is to be looked at next, by [`super::ScheduleCommand::Wake`], and under which run id its wake stands.
    pub fn next_look(&self) -> Option<(RunId, Time)> {
        let live = self.live.as_ref()?;
        Some((live.run_id, Time(live.progress.next_look?)))
    }

    /// How it stands. What it starts is on its way as messages.
    pub fn standing(&self) -> Standing {
        Standing { next: self.next_look().map(|(_, time)| time), ..Standing::default() }
    }

    /// Rough size in memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        let live = self.live.as_ref().map_or(0, |live| {
            let encoded = live.made_of.encoded_len() + live.progress.encoded_len() + live.carried.encoded_len();
            // Decoded, and with the spec compiled.
            size_of::<Live>() + 3 * encoded + 512
        });
        self.id.len() + live
    }
}

/// A definition with everything in it, and the defaults that descriptions show.
pub(super) fn filled(mut definition: Definition) -> Definition {
    definition.spec.get_or_insert_default();
    definition.action.get_or_insert_default();
    let policies = definition.policies.get_or_insert_default();
    if policies.overlap_policy == ScheduleOverlapPolicy::Unspecified as i32 {
        policies.overlap_policy = ScheduleOverlapPolicy::Skip.into();
    }
    let seconds = |window: &wkt::Duration| window.seconds;
    policies.catchup_window = match policies.catchup_window.take() {
        None => Some(wkt::Duration { seconds: CATCHUP_WINDOW, nanos: 0 }),
        Some(window) if seconds(&window) < CATCHUP_WINDOW_MIN => {
            Some(wkt::Duration { seconds: CATCHUP_WINDOW_MIN, nanos: 0 })
        }
        window => window,
    };
    definition.state.get_or_insert_default();
    definition
}

impl Live {
    pub(super) fn definition(&self) -> &Definition {
        static NONE: std::sync::LazyLock<Definition> = std::sync::LazyLock::new(Definition::default);
        self.made_of.definition.as_ref().unwrap_or(&NONE)
    }

    pub(super) fn policies(&self) -> SchedulePolicies {
        self.definition().policies.unwrap_or_default()
    }

    /// The workflow that it starts; `None` if it does nothing.
    pub(super) fn action(&self) -> Option<&NewWorkflowExecutionInfo> {
        match self.definition().action.as_ref()?.action.as_ref()? {
            Action::StartWorkflow(start) => Some(start),
        }
    }

    pub(super) fn state(&mut self) -> &mut ScheduleState {
        self.progress.state.get_or_insert_default()
    }

    /// Whether it is paused, and how many actions it may take.
    fn paused_and_left(&self) -> (bool, Option<i64>) {
        let Some(state) = &self.progress.state else { return (false, None) };
        (state.paused, state.limited_actions.then_some(state.remaining_actions))
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused_and_left().0
    }

    /// How many actions it may take, if they are limited.
    pub(super) fn actions_left(&self) -> Option<i64> {
        self.paused_and_left().1
    }

    /// Whether it acts when it is due.
    pub(super) fn can_act(&self) -> bool {
        !self.is_paused() && self.actions_left().is_none_or(|left| left > 0)
    }

    pub(super) fn catchup_window(&self) -> std::time::Duration {
        time::positive(self.policies().catchup_window.as_ref()).ok().flatten().unwrap_or_default()
    }

    /// The overlap policy of a start.
    pub(super) fn overlap(&self, of_start: i32) -> ScheduleOverlapPolicy {
        let given = [of_start, self.policies().overlap_policy];
        let mut given = given.into_iter().filter_map(|policy| ScheduleOverlapPolicy::try_from(policy).ok());
        given.find(|policy| *policy != ScheduleOverlapPolicy::Unspecified).unwrap_or(ScheduleOverlapPolicy::Skip)
    }

    /// Whether a workflow runs, or is about to, that others may not overlap.
    pub(super) fn is_running(&self) -> bool {
        !self.progress.running.is_empty() || self.progress.starting.iter().any(|starting| !starting.overlaps)
    }

    /// When something has last happened to it.
    pub(super) fn last_event(&self) -> Time {
        let acted = self.progress.recent_actions.last().and_then(|action| action.actual_time.as_ref());
        let acted = acted.map_or(i64::MIN, |time| Time::from_proto(time).0);
        Time(self.progress.created.max(self.progress.updated).max(acted))
    }

    pub(super) fn compile(&mut self) {
        self.compiled = self.definition().spec.as_ref().and_then(|spec| Compiled::new(spec).ok());
    }
}
