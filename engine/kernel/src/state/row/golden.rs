//! The bytes of each kind of row, and what is made of bytes that are not quite those.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::common::v1::{
    ActivityType, Callback, Header, Memo, Payload, Payloads, Priority, SearchAttributes, WorkerVersionStamp,
    WorkflowExecution, WorkflowType, callback,
};
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::enums::v1::{
    CallbackState, EventType, NexusOperationCancellationState as CancelState, ParentClosePolicy, TaskQueueKind,
    VersioningBehavior,
};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    ActivityTaskScheduledEventAttributes, DeclinedTargetVersionUpgrade, History, HistoryEvent,
    NexusOperationScheduledEventAttributes, WorkflowExecutionStartedEventAttributes,
    WorkflowTaskStartedEventAttributes,
};
use everlog_proto::api::sdk::v1::UserMetadata;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflow::v1::versioning_override::{Override, PinnedOverride, PinnedOverrideBehavior};
use everlog_proto::api::workflow::v1::{VersioningOverride, WorkflowExecutionVersioningInfo};
use everlog_proto::wkt;
use prost::Message;

use super::Workers;
use crate::payload_map::PayloadMap;
use crate::proto::Encoded;
use crate::rows::RunRowKind;
use crate::state::{
    AcceptedUpdate, Activity, ActivityStarted, Ancestor, AttachedRequest, Branch, CompletionCallback, CorruptRow,
    Current, ExternalCancel, ExternalSignal, ExternalTarget, FirstEvent, HistoryHold, LastWorker, NexusCancel,
    NexusOperation, OriginalProperties, Pause, PendingChild, PendingValue, PreviousRun, ReappliedUpdate, ResetPoint,
    Run, RunInfo, RunState, SignalRequest, UserTimer, Versioning, WorkflowTask, WorkflowTaskProblem,
    WorkflowTaskStarted,
};
use crate::transition::TaskRow;
use crate::{Lane, RunId, Time, Weight, events, visibility};

const RUN: RunId = RunId([0xab; 16]);
/// In November 2026.
const NOW: Time = Time(1_795_000_000_123_456_789);

fn later(seconds: u64) -> Time {
    NOW.plus(Duration::from_secs(seconds))
}

fn seconds(seconds: i64) -> Option<wkt::Duration> {
    Some(wkt::Duration { seconds, nanos: 0 })
}

fn queue() -> Option<TaskQueue> {
    Some(TaskQueue { name: "orders".into(), kind: TaskQueueKind::Normal.into(), ..TaskQueue::default() })
}

fn payload() -> Payload {
    Payload { data: b"1".into(), ..Payload::default() }
}

fn typical_info() -> RunInfo {
    RunInfo {
        start_time: NOW,
        execution_time: NOW,
        started: FirstEvent::new(&WorkflowExecutionStartedEventAttributes {
            workflow_type: Some(WorkflowType { name: "Order".into() }),
            task_queue: queue(),
            workflow_task_timeout: seconds(10),
            original_execution_run_id: RUN.to_string(),
            identity: "1234@client".into(),
            first_execution_run_id: RUN.to_string(),
            attempt: 1,
            workflow_id: "order-1".into(),
            ..WorkflowExecutionStartedEventAttributes::default()
        }),
        start_request_id: "0b5e2b0c-5d0a-4a8e-8d8c-1f0a6a1e7c55".into(),
        ..RunInfo::default()
    }
}

fn full_info() -> RunInfo {
    let memo = Memo { fields: [("note".to_owned(), payload())].into() };
    let attributes = SearchAttributes { indexed_fields: [("CustomerId".to_owned(), payload())].into() };
    RunInfo {
        execution_time: later(5),
        original_properties: Some(Box::new(OriginalProperties {
            memo: Some(Encoded::new(memo.encode_to_vec().into())),
            search_attributes: Some(Encoded::new(attributes.encode_to_vec().into())),
        })),
        user_metadata: Some(Box::new(UserMetadata { summary: Some(payload()), details: None })),
        run_expiration: Some(later(60)),
        execution_expiration: Some(later(600)),
        scheduled_by: Some("nightly".into()),
        ..typical_info()
    }
}

fn priority() -> Priority {
    Priority { priority_key: 2, ..Priority::default() }
}

fn typical_state() -> RunState {
    RunState {
        next_event_id: 3,
        history_bytes: 412,
        transition_count: 1,
        workflow_task: Some(WorkflowTask {
            scheduled_event_id: 2,
            scheduled_time: NOW,
            original_scheduled_time: NOW,
            attempt: 1,
            start_to_close_timeout: Duration::from_secs(10),
            started: None,
            offered_sticky: false,
            is_speculative: false,
            lane: Lane::NONE,
        }),
        had_workflow_task: true,
        ..RunState::new()
    }
}

fn heartbeat_state() -> RunState {
    let task = typical_state().workflow_task.map(|task| WorkflowTask { scheduled_time: later(7), ..task });
    RunState { workflow_task: task, ..typical_state() }
}

fn fair_state() -> RunState {
    let task = typical_state().workflow_task.map(|task| WorkflowTask { lane: Lane::of("tenant-1"), ..task });
    RunState { workflow_task: task, ..typical_state() }
}

fn waiting_state() -> RunState {
    RunState {
        next_event_id: 6,
        history_bytes: 1_203,
        transition_count: 3,
        workflow_task: None,
        last_completed_started_event_id: 3,
        wake_at: Some(later(30)),
        ..typical_state()
    }
}

fn failing_state() -> RunState {
    RunState {
        workflow_task_problems: 3,
        last_workflow_task_problem: Some(WorkflowTaskProblem::Failed(23)),
        ..waiting_state()
    }
}

fn timing_out_state() -> RunState {
    RunState { last_workflow_task_problem: Some(WorkflowTaskProblem::TimedOut(1)), ..failing_state() }
}

/// With a point of an earlier run, and one of its own.
fn workers() -> Workers {
    let own = ResetPoint {
        run_id: RUN,
        completed_event_id: 4,
        create_time: later(1),
        expire_time: None,
        is_resettable: true,
        binary_checksum: "".into(),
        build_id: "b-1".into(),
    };
    let earlier = ResetPoint {
        run_id: RunId([0xcd; 16]),
        expire_time: Some(later(86_400)),
        is_resettable: false,
        binary_checksum: "c".into(),
        build_id: "".into(),
        ..own.clone()
    };
    let stamp = WorkerVersionStamp { build_id: "b-1".into(), use_versioning: false };
    let last_worker = LastWorker { version_stamp: Some(stamp), deployment_name: "orders".into() };
    let mut search_attributes = PayloadMap::default();
    search_attributes.set_keywords("BuildIds", &["unversioned".to_owned(), "unversioned:b-1".to_owned()]);
    Workers { reset_points: vec![earlier, own], last_worker, search_attributes, versioning: None }
}

/// Of a run that is pinned by an override, and was told of another version.
fn versioned_workers() -> Workers {
    let version = |build_id: &str| WorkerDeploymentVersion {
        build_id: build_id.to_owned(),
        deployment_name: "orders".to_owned(),
    };
    let pinned = PinnedOverride { behavior: PinnedOverrideBehavior::Pinned.into(), version: Some(version("1")) };
    let told = |build_id: &str, revision_number| {
        Some(DeclinedTargetVersionUpgrade { deployment_version: Some(version(build_id)), revision_number })
    };
    let info = WorkflowExecutionVersioningInfo {
        behavior: VersioningBehavior::AutoUpgrade.into(),
        deployment_version: Some(version("1")),
        versioning_override: Some(VersioningOverride {
            r#override: Some(Override::Pinned(pinned)),
            ..VersioningOverride::default()
        }),
        revision_number: 7,
        ..WorkflowExecutionVersioningInfo::default()
    };
    let versioning = Versioning { info, notified: told("2", 8), declined: told("3", 6) };
    Workers { versioning: Some(Box::new(versioning)), ..Workers::default() }
}

fn closed_state() -> RunState {
    RunState {
        status: 2,
        next_event_id: 12,
        history_bytes: 70_000,
        transition_count: 300,
        last_completed_started_event_id: 9,
        next_workflow_task_attempt: 2,
        cancel_requested: true,
        close_attempted: true,
        signal_count: 200,
        next_buffered: 7,
        close_time: Some(later(1)),
        delete_time: Some(later(86_400)),
        wake_at: Some(later(86_400)),
        ..waiting_state()
    }
}

fn activity() -> Activity {
    let attributes = ActivityTaskScheduledEventAttributes {
        activity_id: "1".into(),
        activity_type: Some(ActivityType { name: "charge".into() }),
        task_queue: queue(),
        start_to_close_timeout: seconds(10),
        workflow_task_completed_event_id: 4,
        ..ActivityTaskScheduledEventAttributes::default()
    };
    Activity { task_row_time: Some(NOW), ..Activity::scheduled(5, NOW, attributes, None) }
}

fn started_activity() -> Activity {
    let started = ActivityStarted { time: later(1), identity: "1234@worker".into(), request_id: "poll".into() };
    Activity {
        started: Some(started),
        last_heartbeat: Some(later(2)),
        cancel_requested_event_id: Some(9),
        task_row_time: None,
        ..activity()
    }
}

fn failed_activity() -> Activity {
    Activity {
        attempt: 2,
        attempt_scheduled_time: later(3),
        offered: false,
        heartbeat_details: Some(Payloads { payloads: vec![payload()] }),
        last_failure: Some(Box::new(Failure { message: "no".into(), ..Failure::default() })),
        last_worker_identity: "1234@worker".into(),
        last_attempt_end: Some(later(2)),
        task_row_time: None,
        ..activity()
    }
}

fn reported_activity() -> Activity {
    Activity { last_heartbeat: Some(later(1)), last_failure_reported: Some(later(2)), ..failed_activity() }
}

fn paused_activity() -> Activity {
    let pause =
        Pause { time: later(2), identity: "1234@cli".into(), reason: "broken".into(), request_id: "pause".into() };
    Activity { pause: Some(Box::new(pause)), task_row_time: None, ..activity() }
}

fn changed_activity() -> Activity {
    let mut changed = activity();
    let task_queue = Some(TaskQueue { name: "refunds".into(), ..TaskQueue::default() });
    changed.set_options(ActivityOptions { task_queue, ..changed.options() });
    Activity { is_reset: true, forgets_heartbeat: true, attempts_from: Some(later(2)), ..changed }
}

fn workflow_task_started() -> WorkflowTaskStarted {
    let attributes = WorkflowTaskStartedEventAttributes {
        scheduled_event_id: 2,
        identity: "1234@worker".into(),
        request_id: "poll".into(),
        history_size_bytes: 412,
        ..WorkflowTaskStartedEventAttributes::default()
    };
    let mut event = HistoryEvent {
        attributes: Some(Attributes::WorkflowTaskStartedEventAttributes(attributes)),
        ..HistoryEvent::default()
    };
    events::complete(&mut event, 3, NOW);
    WorkflowTaskStarted {
        started_event_id: 3,
        time: NOW,
        tail: History { events: vec![event] }.encode_to_vec().into(),
        task_queue: "orders".into(),
        identity: "1234@worker".into(),
        request_id: "poll".into(),
        save_at: None,
    }
}

fn external_target() -> ExternalTarget {
    let execution = WorkflowExecution { workflow_id: "stock".into(), run_id: String::new() };
    ExternalTarget { namespace: "default".into(), execution, control: String::new() }
}

fn child() -> PendingChild {
    PendingChild {
        workflow_id: "payment-1".into(),
        workflow_type: "Payment".into(),
        parent_close_policy: ParentClosePolicy::Terminate,
        control: String::new(),
        header: Some(Header { fields: [("trace".to_owned(), payload())].into() }),
        started_event_id: None,
    }
}

fn branch() -> Branch {
    let ancestors = vec![Ancestor { run_id: RunId([0xcd; 16]), until: 4 }, Ancestor { run_id: RUN, until: 300 }];
    Branch { base_run_id: RUN, ancestors, request_id: "reset".into() }
}

fn timer() -> UserTimer {
    UserTimer { timer_id: "7".into(), started_event_id: 5, expiry_time: later(60) }
}

fn event() -> Arc<HistoryEvent> {
    let event_type = EventType::WorkflowExecutionCancelRequested.into();
    Arc::new(HistoryEvent { event_time: Some(NOW.to_proto()), event_type, ..HistoryEvent::default() })
}

fn nexus_operation() -> NexusOperation {
    let attributes = NexusOperationScheduledEventAttributes {
        endpoint: "orders".to_owned(),
        request_id: "r".to_owned(),
        ..NexusOperationScheduledEventAttributes::default()
    };
    NexusOperation::scheduled(5, NOW, attributes)
}

fn full_nexus_operation() -> NexusOperation {
    let failure = || Some(Box::new(Failure { message: "no".to_owned(), ..Failure::default() }));
    let cancel = NexusCancel {
        requested_time: Some(later(1)),
        state: CancelState::BackingOff,
        attempt: 1,
        call_at: Some(later(2)),
        last_attempt_end: Some(later(3)),
        last_failure: failure(),
        ..NexusCancel::requested(7)
    };
    NexusOperation {
        attempt: 2,
        call_at: None,
        is_backing_off: true,
        last_attempt_end: Some(later(4)),
        last_failure: failure(),
        started_time: Some(later(5)),
        operation_token: "t".to_owned(),
        cancel: Some(cancel),
        ..nexus_operation()
    }
}

fn callback() -> CompletionCallback {
    let nexus = callback::Nexus { url: "u".to_owned(), header: [("k".to_owned(), "v".to_owned())].into() };
    CompletionCallback::new(Callback { variant: Some(callback::Variant::Nexus(nexus)), links: Vec::new() }, NOW)
}

fn failed_callback() -> CompletionCallback {
    CompletionCallback {
        state: CallbackState::Failed,
        attempt: 1,
        last_attempt_end: Some(later(1)),
        last_failure: Some(Box::new(Failure { message: "no".to_owned(), ..Failure::default() })),
        ..callback()
    }
}

fn task() -> TaskRow {
    TaskRow::of_workflow("order-1", 1, None, Weight::default())
}

fn task_with_a_weight() -> TaskRow {
    TaskRow { weight: Weight::of(2.5).0, ..task() }
}

/// Of another kind of entity, which nobody writes yet.
fn task_for_a_version() -> TaskRow {
    let version = WorkerDeploymentVersion { build_id: "b-1".into(), deployment_name: "orders".into() };
    TaskRow { version: Some(Box::new(version)), entity_kind: 7, ..task() }
}

type IsSame = dyn Fn(&[u8]) -> Result<bool, CorruptRow>;

/// A row of a kind.
struct Case {
    kind: &'static str,
    what: &'static str,
    row: Bytes,
    /// Reads a row, and says whether it stands for the same value.
    is_same: Box<IsSame>,
}

fn case<V: PartialEq + 'static>(
    kind: &'static str,
    what: &'static str,
    value: V,
    write: impl Fn(&V) -> Bytes,
    read: impl Fn(&[u8]) -> Result<V, CorruptRow> + 'static,
) -> Case {
    Case { kind, what, row: write(&value), is_same: Box::new(move |row| Ok(read(row)? == value)) }
}

fn pending<V: PendingValue + 'static>(what: &'static str, key: V::Key, value: V) -> Case {
    let read = move |row: &[u8]| V::from_row(&key, Bytes::copy_from_slice(row));
    case(V::KIND.name(), what, value, V::to_row, read)
}

fn cases() -> Vec<Case> {
    let of_a_machine =
        |(kind, row, is_same): (RunRowKind, Bytes, _)| Case { kind: kind.name(), what: "", row, is_same };
    let info = |what, info| case(RunRowKind::Info.name(), what, info, RunInfo::to_row, RunInfo::from_row);
    let state = |what, state| case(RunRowKind::State.name(), what, state, RunState::to_row, RunState::from_row);
    vec![
        case("current", "", Current { run_id: RUN }, Current::to_row, Current::from_row),
        info("", typical_info()),
        info("with everything", full_info()),
        case(RunRowKind::Workers.name(), "", workers(), Workers::to_row, Workers::from_row),
        case(RunRowKind::Workers.name(), "of a version", versioned_workers(), Workers::to_row, Workers::from_row),
        info(
            "of a later run",
            RunInfo { previous: Some(PreviousRun { run_id: RUN, until: later(1) }), ..typical_info() },
        ),
        info("with another priority", RunInfo { given_priority: Some(Box::new(priority())), ..typical_info() }),
        info("of a reset", RunInfo { original_start_time: Some(NOW), start_time: later(9), ..typical_info() }),
        state("with a workflow task", typical_state()),
        state("with a heartbeat's task", heartbeat_state()),
        state("with a workflow task of a fairness key", fair_state()),
        state("between workflow tasks", waiting_state()),
        state("with tasks that fail", failing_state()),
        state("with tasks that time out", timing_out_state()),
        state("closed", closed_state()),
        state("reset", RunState { reset_run_id: Some(RUN), ..closed_state() }),
        state("of remains", RunState { reset_run_id: Some(RUN), is_remains: true, ..closed_state() }),
        state("to be deleted", RunState { deletion_asked: true, ..closed_state() }),
        case(RunRowKind::Branch.name(), "", branch(), Branch::to_row, Branch::from_row),
        pending("", RUN.to_string(), HistoryHold { until: 4 }),
        pending("", "u".to_owned(), ReappliedUpdate { admitted_event_id: 5, request_id: "r".to_owned() }),
        pending("", 5, Arc::new(nexus_operation())),
        pending("with everything", 5, Arc::new(full_nexus_operation())),
        pending("", "request-0".to_owned(), callback()),
        pending("told in vain", "request-0".to_owned(), failed_callback()),
        pending("", 5, Arc::new(activity())),
        pending("with a fairness key", 5, Arc::new(Activity { lane: Lane::of("tenant-1"), ..activity() })),
        pending("started", 5, Arc::new(started_activity())),
        pending("backing off", 5, Arc::new(failed_activity())),
        pending("failed after a heartbeat", 5, Arc::new(reported_activity())),
        pending("paused", 5, Arc::new(paused_activity())),
        pending("changed and reset", 5, Arc::new(changed_activity())),
        pending("", 5, timer()),
        pending("", 3, event()),
        pending("", "request".to_owned(), SignalRequest),
        pending("", 5, ExternalSignal(external_target())),
        pending("", 5, ExternalCancel(external_target())),
        pending("", 5, child()),
        pending(
            "accepted",
            "u".to_owned(),
            AcceptedUpdate { accepted_event_id: 8, completed_event_id: None, request_id: String::new() },
        ),
        pending(
            "completed",
            "u".to_owned(),
            AcceptedUpdate { accepted_event_id: 8, completed_event_id: Some(9), request_id: "r".to_owned() },
        ),
        pending("started", 5, PendingChild { header: None, started_event_id: Some(6), ..child() }),
        case(
            RunRowKind::WorkflowTaskStart.name(),
            "",
            workflow_task_started(),
            WorkflowTaskStarted::to_row,
            WorkflowTaskStarted::from_row,
        ),
        pending("", "attach".to_owned(), AttachedRequest { event_id: Some(5) }),
        pending("buffered", "attach".to_owned(), AttachedRequest { event_id: None }),
        case("task", "", task(), TaskRow::to_row, TaskRow::from_row),
        case("task", "with a weight", task_with_a_weight(), TaskRow::to_row, TaskRow::from_row),
        case("task", "for a version", task_for_a_version(), TaskRow::to_row, TaskRow::from_row),
    ]
    .into_iter()
    .chain(crate::schedule::golden::rows().map(of_a_machine))
    .chain(crate::batch_job::golden::rows().map(of_a_machine))
    .chain(crate::activity_execution::golden::rows().map(of_a_machine))
    .collect()
}

#[test]
fn the_bytes_of_rows_are_what_they_always_were() {
    let mut now = String::new();
    let mut line = |kind: &str, what: &str, row: &[u8]| {
        let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let separator = if what.is_empty() { "" } else { ", " };
        writeln!(now, "{kind}{separator}{what}: {} bytes {hex}", row.len()).unwrap();
    };
    for case in cases() {
        line(case.kind, case.what, &case.row);
    }
    let run = Run { state: typical_state(), ..Run::new(RUN, typical_info()) };
    line("visibility", "", &visibility::record(&run, "order-1").encode_to_vec());
    if std::env::var_os("EVERLOG_BLESS").is_some() {
        std::fs::write("tests/golden/rows.txt", &now).unwrap();
    }
    assert_eq!(now, include_str!("../../../tests/golden/rows.txt"));
}

#[test]
fn every_kind_of_row_has_golden_bytes() {
    let cases = cases();
    // The rows of a history are an API message, as they are served.
    for kind in RunRowKind::ALL.iter().filter(|kind| **kind != RunRowKind::History) {
        assert!(cases.iter().any(|case| case.kind == kind.name()), "{}", kind.name());
    }
}

#[test]
fn rows_are_read_as_they_were_written() {
    for Case { kind, what, row, is_same } in cases() {
        assert!(is_same(&row).unwrap(), "{kind} {what}");
    }
}

#[test]
fn what_a_later_version_added_to_a_row_is_skipped() {
    // Field 1,000, of bytes.
    const LATER: &[u8] = b"\xc2\x3e\x03new";
    for Case { kind, what, row, is_same } in cases() {
        assert!(is_same(&[LATER, &row[..], LATER].concat()).unwrap(), "{kind} {what}");
    }
}

#[test]
fn damaged_rows_are_refused() {
    // A signal's row has nothing to be damaged.
    for Case { kind, what, row, is_same } in cases().into_iter().filter(|case| !case.row.is_empty()) {
        for damaged in [&row[..row.len() - 1], &[&row[..], b"\xff"].concat(), b"\xff\xff"] {
            assert!(is_same(damaged).is_err(), "{kind} {what}: {damaged:?}");
        }
        // A buffered event is an API message, for which everything is optional.
        if kind != RunRowKind::BufferedEvent.name() {
            assert!(is_same(b"").is_err(), "{kind} {what}");
        }
    }
}
