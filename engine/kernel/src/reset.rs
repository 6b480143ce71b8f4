//! What a reset needs of histories: it is read before the reset is decided, by whoever has the rows.
//!
//! ```text
//!   plan(workflow, request) ──▶ which events to read
//!        │                        │
//!        │    [`Kept`]  ◀─────────┤ the base's events before the reset: the run as it was then
//!        │    [`Later`] ◀─────────┘ those behind it, and those of the runs that continue the base: what is to be reapplied
//!        ▼
//!   Command::ResetWorkflow(Reset) ──▶ the new run, or [`Reply::HistoryGrew`](crate::command::Reply): read on, and ask again
//! ```
//!
//! Histories only grow at their end, and events never change, so what was read stays true. Whether it is all there is, is asked when the
//! reset is decided.

use std::collections::BTreeMap;

use everlog_proto::api::enums::v1::{ResetReapplyExcludeType, ResetReapplyType};
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::workflow::v1::post_reset_operation::Variant;
use everlog_proto::api::workflowservice::v1::ResetWorkflowExecutionRequest;

use crate::requests::update_workflow_options;
use crate::state::{HistoryError, Run, Workflow};
use crate::{Rejection, RunId, events, is_inline_poll};

/// What is to be done with a request to reset a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the request was served before, and has led to this run.
    Done(RunId),
    /// The history is to be read.
    Read {
        /// The run that is reset.
        base_run_id: RunId,
        /// The request id of its start.
        start_request_id: String,
        /// How far its history goes.
        end: End,
    },
}

/// How far a history goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The first event id that it does not have.
    pub next_event_id: i64,
    /// Whether the run is open, so that it may grow.
    pub is_open: bool,
}

impl End {
    /// How far the history of a run goes.
    pub fn of(run: &Run) -> End {
        End { next_event_id: run.state.next_event_id, is_open: run.is_open() }
    }
}

/// Looks at a request, before anything is read. The named run and the current one must be in memory if they exist.
///
/// # Errors
///
/// As Temporal's: `NotFound` if there is no such run, `InvalidArgument` if it has no such event.
pub fn plan(
    workflow: &Workflow,
    run_id: Option<RunId>,
    request: &ResetWorkflowExecutionRequest,
) -> Result<Plan, Rejection> {
    let base = workflow.run(run_id).ok_or_else(Rejection::workflow_not_found)?;
    let until = request.workflow_task_finish_event_id;
    // A task in a worker's hands counts, though its start is not written.
    let task = base.state.workflow_task.as_ref().filter(|task| base.is_open() && !task.is_unwritten());
    let started = task.is_some_and(|task| task.started.is_some());
    if until <= 1 || until >= base.state.next_event_id + i64::from(started) {
        return Err(Rejection::invalid("Workflow task finish ID must be > 1 && <= workflow last event ID."));
    }
    let is_inline = |task: &crate::state::WorkflowTask| {
        task.started.as_ref().is_some_and(|started| is_inline_poll(&started.request_id))
    };
    if until == base.state.next_event_id && task.is_some_and(is_inline) {
        return Err(not_at_boundary(until));
    }
    for operation in &request.post_reset_operations {
        let unsupported = |name| Err(Rejection::invalid(format!("unsupported post reset operation: {name}")));
        match &operation.variant {
            Some(Variant::UpdateWorkflowOptions(update)) => {
                update.update_mask.as_ref().map(update_workflow_options::check).transpose()?;
            }
            Some(Variant::SignalWorkflow(_)) => {
                return unsupported("*workflow.PostResetOperation_SignalWorkflow_");
            }
            None => return unsupported("<nil>"),
        }
    }
    if let Some(current) = workflow.current_run() {
        let is_known = |branch: &crate::state::Branch| branch.request_id == request.request_id;
        // Temporal takes the request id of the start for that of a reset, too.
        if current.branch.as_deref().is_some_and(is_known) || current.info.start_request_id == request.request_id {
            return Ok(Plan::Done(current.id));
        }
    }
    Ok(Plan::Read { base_run_id: base.id, start_request_id: base.info.start_request_id.clone(), end: End::of(base) })
}

/// A reset to within what Temporal writes at once, whose events up to this one are to be kept.
pub fn not_at_boundary(until: i64) -> Rejection {
    Rejection::invalid(format!(
        "StateRebuilder unable to Rebuild mutable state to event ID: {}, version: 0, this event must be at the boundary",
        until - 1
    ))
}

/// A request to reset a run, with what was read for it.
#[derive(Clone, Debug)]
pub struct Reset {
    /// The request.
    pub request: ResetWorkflowExecutionRequest,
    /// The run as it was.
    pub kept: Kept,
    /// What has happened since.
    pub later: Later,
}

/// A run as of an event of its history, with what its state alone does not say.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub(crate) run: Option<Box<Run>>,
    /// The events that have begun what the run waits for: children, and messages to other workflows.
    pub(crate) initiated: BTreeMap<i64, HistoryEvent>,
    /// Activities that have been started and not ended: the started event and the worker, by scheduled event.
    pub(crate) started_activities: BTreeMap<i64, (i64, String)>,
}

impl Kept {
    /// Takes the next event. `base_run_id` and `start_request_id` are the base's.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if it is not the next one, or not known.
    pub fn take(
        &mut self,
        base_run_id: RunId,
        start_request_id: &str,
        mut event: HistoryEvent,
    ) -> Result<(), HistoryError> {
        match &mut self.run {
            None => {
                let run = Run::begin(base_run_id, &mut event, start_request_id.to_owned());
                let mut run = Box::new(run.ok_or(HistoryError::NoStart)?);
                run.take(&event)?;
                self.run = Some(run);
            }
            Some(run) => {
                run.take(&event)?;
                self.remember(event);
            }
        }
        Ok(())
    }

    fn remember(&mut self, event: HistoryEvent) {
        use Attributes as A;
        match &event.attributes {
            Some(
                A::StartChildWorkflowExecutionInitiatedEventAttributes(_)
                | A::SignalExternalWorkflowExecutionInitiatedEventAttributes(_)
                | A::RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(_),
            ) => {
                self.initiated.insert(event.event_id, event);
            }
            Some(A::ChildWorkflowExecutionStartedEventAttributes(a)) => {
                drop(self.initiated.remove(&a.initiated_event_id))
            }
            Some(A::StartChildWorkflowExecutionFailedEventAttributes(a)) => {
                self.initiated.remove(&a.initiated_event_id);
            }
            Some(A::ExternalWorkflowExecutionSignaledEventAttributes(a)) => {
                self.initiated.remove(&a.initiated_event_id);
            }
            Some(A::SignalExternalWorkflowExecutionFailedEventAttributes(a)) => {
                self.initiated.remove(&a.initiated_event_id);
            }
            Some(A::ExternalWorkflowExecutionCancelRequestedEventAttributes(a)) => {
                self.initiated.remove(&a.initiated_event_id);
            }
            Some(A::RequestCancelExternalWorkflowExecutionFailedEventAttributes(a)) => {
                self.initiated.remove(&a.initiated_event_id);
            }
            Some(A::ActivityTaskStartedEventAttributes(a)) => {
                self.started_activities.insert(a.scheduled_event_id, (event.event_id, a.identity.clone()));
            }
            Some(attributes) => {
                if let Some(scheduled_event_id) = events::ended_activity(attributes) {
                    self.started_activities.remove(&scheduled_event_id);
                }
            }
            None => {}
        }
    }

    /// Rough size in memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        use prost::Message;
        self.run.as_ref().map_or(0, |run| run.memory_bytes())
            + self.initiated.values().map(|event| event.encoded_len()).sum::<usize>()
    }
}

/// What has happened behind the events that are kept, as far as it may be reapplied.
#[derive(Clone, Debug)]
pub struct Later {
    excluded: Excluded,
    base_run_id: RunId,
    /// The run that was read last, and how far.
    pub(crate) read: (RunId, End),
    /// The run that continues it.
    next_run_id: Option<RunId>,
    pub(crate) events: Vec<HistoryEvent>,
    bytes: usize,
}

impl Later {
    /// Nothing was read of `base` but the events before `until`.
    pub fn new(request: &ResetWorkflowExecutionRequest, base_run_id: RunId) -> Later {
        let end = End { next_event_id: request.workflow_task_finish_event_id, is_open: true };
        let excluded = Excluded::of(request);
        Later { excluded, base_run_id, read: (base_run_id, end), next_run_id: None, events: Vec::new(), bytes: 0 }
    }

    /// From which event of which run on the history is to be read next, if that is known: once a run was read to its end, of the one that
    /// continues it.
    pub fn goes_on(&self) -> Option<(RunId, i64)> {
        match self.read {
            (run_id, End { next_event_id, is_open: true }) => Some((run_id, next_event_id)),
            _ => self.next_run_id.map(|run_id| (run_id, 1)),
        }
    }

    /// Which run was read last, and how far.
    pub fn read(&self) -> (RunId, End) {
        self.read
    }

    /// The run that continues the one that was read last is not there any more.
    pub fn ends(&mut self) {
        self.next_run_id = None;
    }

    /// Takes in the next events of a run's history, which goes as far as `end`.
    pub fn take(&mut self, run_id: RunId, end: End, events: impl IntoIterator<Item = HistoryEvent>) {
        self.read = (run_id, end);
        self.next_run_id = None;
        for event in events {
            if let Some(Attributes::WorkflowExecutionContinuedAsNewEventAttributes(closed)) = &event.attributes {
                self.next_run_id = closed.new_execution_run_id.parse().ok();
            }
            if self.excluded.allows(&event) && (run_id == self.base_run_id || !tells_of_own(&event)) {
                self.bytes += events::encoded_len(&event);
                self.events.push(event);
            }
        }
        if self.excluded.is_everything() {
            self.next_run_id = None;
        }
    }

    /// The same for the next events of the run that was read last.
    pub fn take_on(&mut self, end: End, events: impl IntoIterator<Item = HistoryEvent>) {
        self.take(self.read.0, end, events);
    }

    /// Events that wait in a run for their place in its history.
    pub(crate) fn take_waiting(&mut self, run_id: RunId, events: impl IntoIterator<Item = HistoryEvent>) {
        let (read, next_run_id) = (self.read, self.next_run_id);
        self.take(run_id, read.1, events);
        (self.read, self.next_run_id) = (read, next_run_id);
    }

    /// Bytes of the events that are to be reapplied.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What is not to be reapplied.
#[derive(Clone, Copy, Debug, Default)]
struct Excluded {
    signals: bool,
    updates: bool,
    operations: bool,
    /// Every type that there is: then nothing behind the base is looked at.
    everything: bool,
}

impl Excluded {
    #[expect(deprecated, reason = "old clients say so what is to be reapplied")]
    fn of(request: &ResetWorkflowExecutionRequest) -> Excluded {
        use ResetReapplyExcludeType as Exclude;
        let excludes = |kind: Exclude| request.reset_reapply_exclude_types.contains(&kind.into());
        let reapply = request.reset_reapply_type();
        let signals = excludes(Exclude::Signal) || reapply == ResetReapplyType::None;
        let updates = excludes(Exclude::Update) || matches!(reapply, ResetReapplyType::None | ResetReapplyType::Signal);
        let operations = excludes(Exclude::Nexus);
        let everything = signals && updates && operations && excludes(Exclude::CancelRequest);
        Excluded { signals, updates, operations, everything }
    }

    fn is_everything(self) -> bool {
        self.everything
    }

    /// Whether an event is of those that are reapplied. Requests to cancel and what closes a run never are.
    fn allows(self, event: &HistoryEvent) -> bool {
        use Attributes as A;
        match &event.attributes {
            Some(A::WorkflowExecutionSignaledEventAttributes(_)) => !self.signals,
            Some(A::WorkflowExecutionUpdateAdmittedEventAttributes(_)) => !self.updates,
            // One that has no request was admitted by an event.
            Some(A::WorkflowExecutionUpdateAcceptedEventAttributes(a)) => !self.updates && a.accepted_request.is_some(),
            Some(A::WorkflowExecutionOptionsUpdatedEventAttributes(_)) => true,
            Some(attributes) if events::nexus_request_id(attributes).is_some() => !self.operations,
            _ => tells_of_child(event),
        }
    }
}

/// Whether an event tells what became of something that only the run itself has asked for.
fn tells_of_own(event: &HistoryEvent) -> bool {
    let of_operation = |attributes: &Attributes| events::nexus_request_id(attributes).is_some();
    tells_of_child(event) || event.attributes.as_ref().is_some_and(of_operation)
}

/// Whether an event tells what became of a child.
fn tells_of_child(event: &HistoryEvent) -> bool {
    use Attributes as A;
    match &event.attributes {
        Some(
            A::StartChildWorkflowExecutionFailedEventAttributes(_) | A::ChildWorkflowExecutionStartedEventAttributes(_),
        ) => true,
        Some(attributes) => events::ended_child(attributes).is_some(),
        None => false,
    }
}
