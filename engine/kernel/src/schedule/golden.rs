//! Schedules whose rows have golden bytes: see `state/row/golden.rs`.

use bytes::Bytes;
use everlog_proto::api::common::v1::{Payload, Payloads, WorkflowExecution, WorkflowType};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::schedule::v1::schedule_action::Action;
use everlog_proto::api::schedule::v1::{
    BackfillRequest, IntervalSpec, Schedule as Definition, ScheduleAction, ScheduleActionResult, ScheduleSpec,
    ScheduleState,
};
use everlog_proto::api::workflow::v1::NewWorkflowExecutionInfo;
use everlog_proto::wkt;

use super::encoded;
use super::state::{Carried, End, MadeOf, Progress, Running, Start, Starting};
use crate::rows::RunRowKind;
use crate::state::CorruptRow;

type IsSame = Box<dyn Fn(&[u8]) -> Result<bool, CorruptRow>>;

/// A row, and whether another one says the same.
pub(crate) type Row = (RunRowKind, Bytes, IsSame);

fn made_of() -> MadeOf {
    let start = NewWorkflowExecutionInfo {
        workflow_id: "nightly".into(),
        workflow_type: Some(WorkflowType { name: "Report".into() }),
        ..NewWorkflowExecutionInfo::default()
    };
    let interval = IntervalSpec { interval: Some(wkt::Duration { seconds: 3600, nanos: 0 }), phase: None };
    let definition = Definition {
        spec: Some(ScheduleSpec { interval: vec![interval], ..ScheduleSpec::default() }),
        action: Some(ScheduleAction { action: Some(Action::StartWorkflow(start)) }),
        ..Definition::default()
    };
    MadeOf { definition: Some(definition), request_id: "request".into(), ..MadeOf::default() }
}

fn progress() -> Progress {
    let execution = || Some(WorkflowExecution { workflow_id: "w".into(), run_id: "r".into() });
    let at = wkt::Timestamp { seconds: 1_790_000_000, nanos: 0 };
    Progress {
        created: 1,
        updated: 2,
        dealt_with: 3,
        conflict_token: 4,
        state: Some(ScheduleState { notes: "on".into(), ..ScheduleState::default() }),
        action_count: 5,
        missed_catchup_window: 6,
        overlap_skipped: 7,
        buffer_dropped: 8,
        recent_actions: vec![ScheduleActionResult { schedule_time: Some(at), ..ScheduleActionResult::default() }],
        running: vec![Running { execution: execution(), asked: End::Cancel.into() }],
        buffered: vec![Start { nominal: 9, actual: 10, overlap: 3, is_manual: true }],
        starting: vec![Starting {
            number: 11,
            execution: execution(),
            scheduled: 12,
            sent: 13,
            overlaps: true,
            asked: End::Terminate.into(),
        }],
        backfills: vec![BackfillRequest { start_time: Some(at), end_time: Some(at), overlap_policy: 1 }],
        last_number: 14,
        next_look: Some(15),
        wake_at: Some(16),
        request_ids: vec!["a".into(), "b".into()],
    }
}

fn carried() -> Carried {
    let payload = Payload { data: b"1".into(), ..Payload::default() };
    Carried {
        last_completion_result: Some(Payloads { payloads: vec![payload] }),
        continued_failure: Some(Failure { message: "no".into(), ..Failure::default() }),
        since: Some(17),
    }
}

pub(crate) fn rows() -> [Row; 3] {
    let of = |kind, row: Bytes, is_same: IsSame| (kind, row, is_same);
    [
        of(RunRowKind::Schedule, encoded(&made_of()), Box::new(|row| Ok(MadeOf::from_row(row)? == made_of()))),
        of(
            RunRowKind::ScheduleProgress,
            encoded(&progress()),
            Box::new(|row| Ok(Progress::from_row(row)? == progress())),
        ),
        of(RunRowKind::ScheduleCarried, encoded(&carried()), Box::new(|row| Ok(Carried::from_row(row)? == carried()))),
    ]
}
