//! Which rows there are, and the keys under which they lie.
//!
//! The rows of a run have a kind and a suffix, and this is the one place that says which: storage takes the kind as a byte and
//! the suffix as bytes, and asks nothing of either but their order. The bytes are for ever: rows are on disks.

use std::fmt;

use bytes::Bytes;

use crate::task::TaskKey;
use crate::visibility::VisibilityKey;
use crate::{RunId, Time};

/// A row of the workflow that a command was addressed to. Namespace and workflow id are implied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RowKey {
    /// Which run is the workflow's current one: [`crate::state::Current`].
    Current,
    /// A row of a run.
    Run(RunId, RunRow),
    /// Every row of a run: history, state and all. Only ever deleted.
    WholeRun(RunId),
    /// The history rows of a run whose first event is this one or a later one. Only ever deleted.
    HistoryFrom(RunId, i64),
    /// A task that is ready for a worker. The value is an encoded [`crate::transition::TaskRow`].
    Task(TaskKey),
    /// A run to be looked at by [`crate::RunCommand::FireTimers`] at a time. Empty value.
    Wake(Time, RunId),
    /// What lists show of a run. The value is an encoded `WorkflowExecutionInfo`.
    Visibility(VisibilityKey),
}

/// A row of a run: what it is, and which of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RunRow {
    /// What it is.
    pub kind: RunRowKind,
    /// Which of its kind.
    pub suffix: Suffix,
}

macro_rules! run_row_kinds {
    ($($(#[$doc:meta])* $kind:ident = $byte:literal, $name:literal, $form:ident;)*) => {
        /// What a row of a run is. In the order of the keys: what is pending lies behind the history.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum RunRowKind {
            $($(#[$doc])* $kind = $byte,)*
        }

        impl RunRowKind {
            /// All kinds.
            pub const ALL: &[RunRowKind] = &[$(RunRowKind::$kind),*];

            /// What it is called in scripts and messages.
            pub fn name(self) -> &'static str {
                match self {
                    $(RunRowKind::$kind => $name,)*
                }
            }

            fn form(self) -> Form {
                match self {
                    $(RunRowKind::$kind => Form::$form,)*
                }
            }
        }
    };
}

// The table. Bytes are never used twice, not even those of kinds that are gone. 0 is the pointer to the current run, which lies
// before all runs.
run_row_kinds! {
    /// What the run was started with: [`crate::state::RunInfo`].
    Info = 1, "info", Nothing;
    /// What changes with every transition: [`crate::state::RunState`].
    State = 2, "state", Nothing;
    /// An encoded `History`, by the id of its first event.
    History = 3, "history", Signed;
    /// A pending activity, by its scheduled event.
    Activity = 4, "activity", Signed;
    /// A pending timer, by its started event.
    Timer = 5, "timer", Signed;
    /// An event that waits for the workflow task in progress, by its sequence number.
    BufferedEvent = 6, "buffered", Unsigned;
    /// The request id of a signal that was taken. Empty value.
    SignalRequest = 7, "signal-request", Text;
    /// How the workflow task in progress was started: [`crate::state::WorkflowTaskStarted`].
    WorkflowTaskStart = 8, "workflow-task-start", Nothing;
    /// A signal to another workflow that is on its way, by its Initiated event.
    ExternalSignal = 9, "external-signal", Signed;
    /// The same for a request to cancel.
    ExternalCancel = 10, "external-cancel", Signed;
    /// A child, by its Initiated event: [`crate::state::PendingChild`].
    Child = 11, "child", Signed;
    /// The request id of a start that was attached to the run: [`crate::state::AttachedRequest`].
    AttachedRequest = 12, "attached-request", Text;
    /// An update that the workflow has accepted, by its id: [`crate::state::AcceptedUpdate`].
    AcceptedUpdate = 13, "update", Text;
    /// What is known of the run's workers: [`crate::state::ResetPoint`] and the rest.
    Workers = 14, "workers", Nothing;
    /// What clients have given of a schedule.
    Schedule = 15, "schedule", Nothing;
    /// How far a schedule has come.
    ScheduleProgress = 16, "schedule-progress", Nothing;
    /// What a schedule hands on from one workflow to the next.
    ScheduleCarried = 17, "schedule-carried", Nothing;
    /// What a run goes on from that began with a reset: [`crate::state::Branch`].
    Branch = 18, "branch", Nothing;
    /// A run that goes on from this one, by its id: [`crate::state::HistoryHold`].
    HistoryHold = 19, "history-hold", Text;
    /// An update that a reset has taken over, by its id: [`crate::state::ReappliedUpdate`].
    ReappliedUpdate = 20, "reapplied-update", Text;
    /// What was asked of a batch job.
    BatchJob = 21, "batch-job", Nothing;
    /// How far a batch job has come, and what it is at.
    BatchJobProgress = 22, "batch-job-progress", Nothing;
    /// What was asked for with an activity that is no workflow's. The activity itself has a row of its own kind.
    ActivityExecution = 23, "activity-execution", Nothing;
    /// How far such an activity has come.
    ActivityExecutionProgress = 24, "activity-execution-progress", Nothing;
    /// A pending operation of a Nexus service, by its scheduled event: [`crate::state::NexusOperation`].
    NexusOperation = 25, "nexus-operation", Signed;
    /// Who is to be told that the run has closed, by the request that says so: [`crate::state::CompletionCallback`].
    Callback = 26, "callback", Text;
}

impl RunRowKind {
    /// The first kind of what is pending; all kinds behind it are pending, too.
    pub const FIRST_PENDING: RunRowKind = RunRowKind::Activity;

    /// The kind with this byte.
    pub fn from_byte(byte: u8) -> Option<RunRowKind> {
        RunRowKind::ALL.iter().copied().find(|kind| *kind as u8 == byte)
    }
}

/// The forms that suffixes have.
enum Form {
    Nothing,
    Signed,
    Unsigned,
    Text,
}

/// Tells rows of one kind apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Suffix {
    /// There is one row of the kind.
    Nothing,
    /// An event id.
    Signed(i64),
    /// A sequence number.
    Unsigned(u64),
    /// An id that a client has given.
    Text(String),
}

impl Suffix {
    /// Its bytes in a key, which are in the order of what they stand for.
    pub fn with_bytes<T>(&self, then: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Suffix::Nothing => then(&[]),
            Suffix::Signed(number) => then(&ascending(*number)),
            Suffix::Unsigned(number) => then(&number.to_be_bytes()),
            Suffix::Text(text) => then(text.as_bytes()),
        }
    }
}

impl RunRow {
    /// The row of a kind that each run has one of.
    pub fn only(kind: RunRowKind) -> RunRow {
        RunRow { kind, suffix: Suffix::Nothing }
    }

    /// The history row that begins with the given event.
    pub fn history(first_event_id: i64) -> RunRow {
        RunRow { kind: RunRowKind::History, suffix: Suffix::Signed(first_event_id) }
    }

    /// The first event of a history row; `None` for rows of other kinds.
    pub fn first_event_id(&self) -> Option<i64> {
        match (self.kind, &self.suffix) {
            (RunRowKind::History, Suffix::Signed(first_event_id)) => Some(*first_event_id),
            _ => None,
        }
    }

    /// The row that lies under a kind's byte and a suffix. `None` if there is no such row: corruption, or a later version.
    pub fn decode(kind: u8, suffix: &[u8]) -> Option<RunRow> {
        let kind = RunRowKind::from_byte(kind)?;
        let suffix = match kind.form() {
            Form::Nothing => suffix.is_empty().then_some(Suffix::Nothing)?,
            Form::Signed => Suffix::Signed(from_ascending(suffix.try_into().ok()?)),
            Form::Unsigned => Suffix::Unsigned(u64::from_be_bytes(suffix.try_into().ok()?)),
            Form::Text => Suffix::Text(std::str::from_utf8(suffix).ok()?.to_owned()),
        };
        Some(RunRow { kind, suffix })
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Suffix::Nothing => Ok(()),
            Suffix::Signed(number) => number.fmt(f),
            Suffix::Unsigned(number) => number.fmt(f),
            Suffix::Text(text) => text.fmt(f),
        }
    }
}

/// What can be the suffix of a key.
pub trait SuffixKey: Clone + fmt::Debug + Ord {
    /// As a suffix.
    fn into_suffix(self) -> Suffix;
    /// From a suffix, if it is of this form.
    fn from_suffix(suffix: &Suffix) -> Option<Self>;
    /// Bytes that it owns besides itself.
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl SuffixKey for i64 {
    fn into_suffix(self) -> Suffix {
        Suffix::Signed(self)
    }

    fn from_suffix(suffix: &Suffix) -> Option<i64> {
        match suffix {
            Suffix::Signed(number) => Some(*number),
            _ => None,
        }
    }
}

impl SuffixKey for u64 {
    fn into_suffix(self) -> Suffix {
        Suffix::Unsigned(self)
    }

    fn from_suffix(suffix: &Suffix) -> Option<u64> {
        match suffix {
            Suffix::Unsigned(number) => Some(*number),
            _ => None,
        }
    }
}

impl SuffixKey for String {
    fn into_suffix(self) -> Suffix {
        Suffix::Text(self)
    }

    fn from_suffix(suffix: &Suffix) -> Option<String> {
        match suffix {
            Suffix::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn heap_bytes(&self) -> usize {
        self.len()
    }
}

const SIGN: u64 = 1 << 63;

/// A number as bytes that are in its order.
pub(crate) fn ascending(number: i64) -> [u8; 8] {
    (number.cast_unsigned() ^ SIGN).to_be_bytes()
}

/// The number in such bytes.
pub(crate) fn from_ascending(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ SIGN).cast_signed()
}

/// Rows to put, or to delete (`None`), in order.
pub(crate) type Rows = Vec<(RowKey, Option<Bytes>)>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_always_were() {
        let hex = |row: &RunRow| {
            row.suffix.with_bytes(|suffix| suffix.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        };
        let text = |text: &str| Suffix::Text(text.to_owned());
        let cases = [
            (RunRowKind::Info, Suffix::Nothing, 1, ""),
            (RunRowKind::State, Suffix::Nothing, 2, ""),
            (RunRowKind::History, Suffix::Signed(1), 3, "8000000000000001"),
            (RunRowKind::Activity, Suffix::Signed(5), 4, "8000000000000005"),
            (RunRowKind::Timer, Suffix::Signed(-1), 5, "7fffffffffffffff"),
            (RunRowKind::BufferedEvent, Suffix::Unsigned(2), 6, "0000000000000002"),
            (RunRowKind::SignalRequest, text("id"), 7, "6964"),
            (RunRowKind::WorkflowTaskStart, Suffix::Nothing, 8, ""),
            (RunRowKind::ExternalSignal, Suffix::Signed(5), 9, "8000000000000005"),
            (RunRowKind::ExternalCancel, Suffix::Signed(5), 10, "8000000000000005"),
            (RunRowKind::Child, Suffix::Signed(5), 11, "8000000000000005"),
            (RunRowKind::AttachedRequest, text("id"), 12, "6964"),
            (RunRowKind::AcceptedUpdate, text("id"), 13, "6964"),
            (RunRowKind::Workers, Suffix::Nothing, 14, ""),
            (RunRowKind::Schedule, Suffix::Nothing, 15, ""),
            (RunRowKind::ScheduleProgress, Suffix::Nothing, 16, ""),
            (RunRowKind::ScheduleCarried, Suffix::Nothing, 17, ""),
            (RunRowKind::Branch, Suffix::Nothing, 18, ""),
            (RunRowKind::HistoryHold, text("id"), 19, "6964"),
            (RunRowKind::ReappliedUpdate, text("id"), 20, "6964"),
            (RunRowKind::BatchJob, Suffix::Nothing, 21, ""),
            (RunRowKind::BatchJobProgress, Suffix::Nothing, 22, ""),
            (RunRowKind::ActivityExecution, Suffix::Nothing, 23, ""),
            (RunRowKind::ActivityExecutionProgress, Suffix::Nothing, 24, ""),
            (RunRowKind::NexusOperation, Suffix::Signed(5), 25, "8000000000000005"),
            (RunRowKind::Callback, text("id"), 26, "6964"),
        ];
        assert_eq!(cases.len(), RunRowKind::ALL.len(), "each kind is here");
        for (kind, suffix, byte, bytes) in cases {
            let row = RunRow { kind, suffix };
            assert_eq!((kind as u8, hex(&row).as_str()), (byte, bytes), "{}", kind.name());
            let read = row.suffix.with_bytes(|suffix| RunRow::decode(byte, suffix));
            assert_eq!(read, Some(row));
        }
        for (kind, suffix) in [(0, &b""[..]), (1, b"x"), (3, b"1234567"), (6, b"123456789"), (7, b"\xff"), (200, b"")] {
            assert_eq!(RunRow::decode(kind, suffix), None, "{kind} {suffix:?}");
        }
        assert!(RunRowKind::ALL.is_sorted(), "kinds are in the order of their keys");
    }
}
