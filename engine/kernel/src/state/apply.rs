//! From events to state: the one way in which a run changes.
//!
//! A handler appends an event, and [`Run::apply`] does to the run what the event means. So the state of a run can be had from
//! its history alone ([`Run::rebuild`]): as of any event, for a run that comes from elsewhere, or to check what the rows say.
//!
//! What no event tells, a rebuilt run does not know. It is little, and each has its reason:
//!
//! | not in events | because |
//! |---|---|
//! | attempts of activities: number, start, heartbeats, last failure, backoff | attempts leave no events, so that retries do not make histories long; a rebuilt activity is at its first attempt |
//! | calls of Nexus operations and requests to cancel them: how many there were, the last failure, when the next one is due | as with attempts of activities |
//! | how far a closed run has come with telling whoever is to be told | in Temporal it leaves no events |
//! | what an operator does to an activity: pauses it, resets it, changes its options; and what a search attribute tells of that | in Temporal it leaves no events either |
//! | which activities had ended when the run closed before the workflow heard of it | events that wait are dropped then |
//! | workflow tasks from the second attempt on, and whether one of them wanted to close | nor do they |
//! | whether a failed task was given up at a sticky worker, which makes the next attempt the first again | the sticky queue is leader memory |
//! | since when a worker heartbeats a workflow task (`original_scheduled_time`) | Temporal's events do not say it either |
//! | the sticky queue, buffered queries, tail and poll of a started task | leader memory, or a row of its own |
//! | updates that the workflow has not accepted, and a workflow task for them alone | leader memory: who asks for them asks again |
//! | buffered events, and how many there have been | they have no ids yet; [`Run::arrive`] does what they mean already |
//! | `start_request_id` | Temporal's first event does not name it; whoever rebuilds a run gives it |
//! | which children of a closed run have been told of that | they are told by messages |
//! | `scheduled_by` | Temporal's first event does not name it, but for a search attribute that a client may set as well |
//! | `previous` | where the run continues none, its first event names none |
//! | `branch`, who holds the run's history, and which run a reset of it has led to | events are the same for all runs that share them |
//! | that the workflow has rejected an update that a reset had taken over | rejections leave no events |
//! | how many workflow tasks have failed in a row, and what a search attribute tells of that | attempts leave no events, and from when on it is told is configuration |
//! | which reset points and build ids are too many | configuration |
//! | a transition to another version that goes on, and which version the workflow was told of | starts of workflow tasks are not written by themselves |
//! | `delete_time` | follows from the namespace's retention when the run closed |
//! | `transition_count`, `wake_at`, task rows | about rows, not about the run |

use std::sync::Arc;

use everlog_proto::api::common::v1::{Callback, WorkflowExecution};
use everlog_proto::api::enums::v1::{
    EventType, NexusOperationCancellationState as CancelState, ParentClosePolicy, TaskQueueKind, TimeoutType,
    WorkflowExecutionStatus, WorkflowTaskFailedCause,
};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    HistoryEvent, RequestCancelExternalWorkflowExecutionInitiatedEventAttributes,
    SignalExternalWorkflowExecutionInitiatedEventAttributes, StartChildWorkflowExecutionInitiatedEventAttributes,
    WorkflowTaskScheduledEventAttributes, WorkflowTaskStartedEventAttributes,
};
use everlog_proto::wkt;
use prost::Message;

use super::pending::PendingRows;
use super::reset_points;
use super::{
    Activity, AttachedRequest, CompletionCallback, ExternalCancel, ExternalSignal, ExternalTarget, FirstEvent,
    LastWorker, NexusCancel, NexusOperation, OriginalProperties, PendingChild, Properties, Run, RunInfo, UserTimer,
    WorkflowTask, WorkflowTaskProblem, WorkflowTaskStarted,
};
use crate::payload_map::PayloadMap;
use crate::proto::Encoded;
use crate::{RunId, Time, events, outbox, time};

/// A history from which no run can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// It does not begin with WorkflowExecutionStarted.
    #[error("a history begins with WorkflowExecutionStarted")]
    NoStart,
    /// An event does not have the id behind that of the one before.
    #[error("event {found} stands where event {expected} belongs")]
    Gap {
        /// The id that belongs there.
        expected: i64,
        /// The id that is there.
        found: i64,
    },
    /// An event of a kind that this build does not know how to apply.
    #[error("events of type {0:?} are not known")]
    Unknown(EventType),
}

impl Run {
    /// The run that `events`, a history from its beginning, lead to. `start_request_id` is the request id of its start, which
    /// is in no event.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if they are no history, or one with events that this build does not know.
    pub fn rebuild(
        id: RunId,
        start_request_id: String,
        events: impl IntoIterator<Item = HistoryEvent>,
    ) -> Result<Run, HistoryError> {
        let mut events = events.into_iter();
        let mut first = events.next().ok_or(HistoryError::NoStart)?;
        let mut run = Run::begin(id, &mut first, start_request_id).ok_or(HistoryError::NoStart)?;
        for event in std::iter::once(first).chain(events) {
            run.take(&event)?;
        }
        Ok(run)
    }

    /// Applies and counts the next event of the run's history.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] if it is not the next one, or not known.
    pub(crate) fn take(&mut self, event: &HistoryEvent) -> Result<(), HistoryError> {
        let expected = self.state.next_event_id;
        if event.event_id != expected {
            return Err(HistoryError::Gap { expected, found: event.event_id });
        }
        self.apply(event)?;
        self.count(1, events::encoded_len(event));
        Ok(())
    }

    /// A run that begins with `event`, which is applied but not counted yet. `None` if it is no WorkflowExecutionStarted.
    ///
    /// The event is as it was afterwards: payloads that are not kept are taken out while the rest is encoded.
    pub(crate) fn begin(id: RunId, event: &mut HistoryEvent, start_request_id: String) -> Option<Run> {
        let start_time = event_time(event);
        let Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) = &mut event.attributes else {
            return None;
        };
        let positive = |duration| time::positive(duration).ok().flatten();
        let backoff = positive(started.first_workflow_task_backoff.as_ref()).unwrap_or_default();
        let execution_time = start_time.plus(backoff);
        let execution_expiration = started.workflow_execution_expiration_time.as_ref().map(Time::from_proto);
        let run_expiration = positive(started.workflow_run_timeout.as_ref())
            .map(|timeout| execution_time.plus(timeout))
            .map(|time| execution_expiration.map_or(time, |expiration| time.min(expiration)));
        let callbacks = started.completion_callbacks.clone();
        let info = RunInfo {
            start_time,
            execution_time,
            started: FirstEvent::kept(started),
            original_start_time: None,
            original_properties: None,
            given_priority: None,
            user_metadata: event.user_metadata.clone().map(Box::new),
            start_request_id,
            run_expiration,
            execution_expiration,
            previous: None,
            scheduled_by: None,
            reset_points: reset_points::from_event(started.prev_auto_reset_points.as_ref()),
            last_worker: LastWorker::default(),
            versioning: None,
        };
        let mut run = Run::new(id, info);
        run.register_callbacks(&run.info.start_request_id.clone(), &callbacks, start_time);
        run.workers_changed = !run.info.reset_points.is_empty();
        run.begin_versioning(started);
        run.info_changed = true;
        Some(run)
    }

    /// Counts events that were appended to the history.
    pub(crate) fn count(&mut self, events: i64, bytes: usize) {
        self.state.next_event_id += events;
        self.state.history_bytes += bytes as u64;
    }

    /// Does to the run what an event means that has its id. The event is in the history, or will be with the next that is.
    ///
    /// # Errors
    ///
    /// [`HistoryError::Unknown`] for an event that the kernel does not write.
    pub fn apply(&mut self, event: &HistoryEvent) -> Result<(), HistoryError> {
        use Attributes as A;
        match event.attributes.as_ref() {
            // `Run::begin` has done it.
            Some(A::WorkflowExecutionStartedEventAttributes(_)) => {}
            Some(A::WorkflowTaskScheduledEventAttributes(a)) => self.workflow_task_scheduled(event, a),
            Some(A::WorkflowTaskStartedEventAttributes(a)) => self.workflow_task_started_by(event, a),
            Some(A::WorkflowTaskCompletedEventAttributes(a)) => {
                self.state.workflow_task = None;
                self.state.last_completed_started_event_id = a.started_event_id;
                self.state.next_workflow_task_attempt = 1;
                self.state.close_attempted = false;
                self.state.workflow_task_problems = 0;
                self.state.last_workflow_task_problem = None;
                self.completed_on_version(a);
                self.completed_by_worker(event, a);
            }
            Some(A::WorkflowTaskFailedEventAttributes(a))
                // A worker may say so, too, and names no run then.
                if a.cause == WorkflowTaskFailedCause::ResetWorkflow as i32 && !a.new_run_id.is_empty() =>
            {
                self.was_reset(event_time(event));
            }
            Some(A::WorkflowTaskFailedEventAttributes(a)) => {
                self.state.close_attempted |= a.cause == WorkflowTaskFailedCause::UnhandledCommand as i32;
                self.state.last_workflow_task_problem = Some(WorkflowTaskProblem::Failed(a.cause));
                self.workflow_task_attempt_failed();
            }
            Some(A::WorkflowTaskTimedOutEventAttributes(a)) => {
                self.workflow_task_attempt_failed();
                if a.timeout_type == TimeoutType::ScheduleToStart as i32 {
                    self.state.next_workflow_task_attempt = 1;
                } else {
                    self.state.last_workflow_task_problem = Some(WorkflowTaskProblem::TimedOut(a.timeout_type));
                }
            }
            Some(A::ActivityTaskScheduledEventAttributes(a)) => {
                let activity = Activity::scheduled(event.event_id, event_time(event), a.clone(), self.given_priority());
                self.activities.insert(event.event_id, Arc::new(activity));
            }
            // Tells of the last attempt of an activity that has ended; the event that says so is right behind it.
            Some(A::ActivityTaskStartedEventAttributes(_)) => {}
            Some(A::ActivityTaskCancelRequestedEventAttributes(a)) => {
                if let Some(activity) = self.activities.get_mut(&a.scheduled_event_id) {
                    Arc::make_mut(activity).cancel_requested_event_id = Some(event.event_id);
                }
            }
            Some(A::TimerStartedEventAttributes(a)) => {
                let duration = time::positive(a.start_to_fire_timeout.as_ref()).ok().flatten().unwrap_or_default();
                let timer = UserTimer {
                    timer_id: a.timer_id.clone(),
                    started_event_id: event.event_id,
                    expiry_time: event_time(event).plus(duration),
                };
                self.timers.insert(event.event_id, timer);
            }
            Some(A::TimerCanceledEventAttributes(a)) => {
                self.timers.remove(&a.started_event_id);
            }
            Some(A::MarkerRecordedEventAttributes(_)) => {}
            Some(A::SignalExternalWorkflowExecutionInitiatedEventAttributes(a)) => {
                let target = external_target(&a.namespace, a.workflow_execution.as_ref(), signal_control(a));
                self.external_signals.insert(event.event_id, ExternalSignal(target));
            }
            Some(A::RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(a)) => {
                let target = external_target(&a.namespace, a.workflow_execution.as_ref(), cancel_control(a));
                self.external_cancels.insert(event.event_id, ExternalCancel(target));
            }
            Some(A::StartChildWorkflowExecutionInitiatedEventAttributes(a)) => {
                self.children.insert(event.event_id, initiated_child(a));
            }
            Some(A::NexusOperationScheduledEventAttributes(a)) => {
                let operation = NexusOperation::scheduled(event.event_id, event_time(event), a.clone());
                self.nexus_operations.insert(event.event_id, Arc::new(operation));
            }
            Some(A::NexusOperationCancelRequestedEventAttributes(a)) => {
                if let Some(operation) = self.nexus_operations.get_mut(&a.scheduled_event_id) {
                    Arc::make_mut(operation).request_cancel(event.event_id, event_time(event));
                }
            }
            Some(A::UpsertWorkflowSearchAttributesEventAttributes(a)) => {
                if let Some(changes) = &a.search_attributes {
                    let properties = self.info.started.properties();
                    let mut search_attributes = PayloadMap::of(properties.search_attributes.as_ref());
                    search_attributes.merge(&changes.indexed_fields);
                    let search_attributes = Some(search_attributes.encode_to_vec().into());
                    self.set_properties(&Properties { search_attributes, ..properties });
                }
            }
            Some(A::WorkflowPropertiesModifiedEventAttributes(a)) => {
                if let Some(changes) = &a.upserted_memo {
                    let properties = self.info.started.properties();
                    let mut memo = PayloadMap::of(properties.memo.as_ref());
                    memo.merge(&changes.fields);
                    self.set_properties(&Properties { memo: Some(memo.encode_to_vec().into()), ..properties });
                }
            }
            Some(A::WorkflowExecutionUpdateAcceptedEventAttributes(a)) => self.update_accepted(event.event_id, a),
            Some(A::WorkflowExecutionUpdateCompletedEventAttributes(a)) => self.update_completed(event.event_id, a),
            Some(A::WorkflowExecutionUpdateAdmittedEventAttributes(a)) => self.update_reapplied(event, a),
            Some(A::WorkflowExecutionSignaledEventAttributes(_)) => {
                self.state.signal_count += 1;
                self.arrive(event);
            }
            Some(
                A::WorkflowExecutionCancelRequestedEventAttributes(_)
                | A::TimerFiredEventAttributes(_)
                | A::ActivityTaskCompletedEventAttributes(_)
                | A::ActivityTaskFailedEventAttributes(_)
                | A::ActivityTaskTimedOutEventAttributes(_)
                | A::ActivityTaskCanceledEventAttributes(_)
                | A::ExternalWorkflowExecutionSignaledEventAttributes(_)
                | A::SignalExternalWorkflowExecutionFailedEventAttributes(_)
                | A::ExternalWorkflowExecutionCancelRequestedEventAttributes(_)
                | A::RequestCancelExternalWorkflowExecutionFailedEventAttributes(_)
                | A::ChildWorkflowExecutionStartedEventAttributes(_)
                | A::StartChildWorkflowExecutionFailedEventAttributes(_)
                | A::ChildWorkflowExecutionCompletedEventAttributes(_)
                | A::ChildWorkflowExecutionFailedEventAttributes(_)
                | A::ChildWorkflowExecutionCanceledEventAttributes(_)
                | A::ChildWorkflowExecutionTimedOutEventAttributes(_)
                | A::ChildWorkflowExecutionTerminatedEventAttributes(_)
                | A::NexusOperationStartedEventAttributes(_)
                | A::NexusOperationCompletedEventAttributes(_)
                | A::NexusOperationFailedEventAttributes(_)
                | A::NexusOperationCanceledEventAttributes(_)
                | A::NexusOperationTimedOutEventAttributes(_)
                | A::NexusOperationCancelRequestCompletedEventAttributes(_)
                | A::NexusOperationCancelRequestFailedEventAttributes(_)
                | A::WorkflowExecutionOptionsUpdatedEventAttributes(_),
            ) => self.arrive(event),
            Some(A::WorkflowExecutionCompletedEventAttributes(_)) => {
                self.close(event, WorkflowExecutionStatus::Completed);
            }
            Some(A::WorkflowExecutionFailedEventAttributes(_)) => self.close(event, WorkflowExecutionStatus::Failed),
            Some(A::WorkflowExecutionTimedOutEventAttributes(_)) => {
                self.close(event, WorkflowExecutionStatus::TimedOut);
            }
            Some(A::WorkflowExecutionCanceledEventAttributes(_)) => {
                self.close(event, WorkflowExecutionStatus::Canceled);
            }
            Some(A::WorkflowExecutionTerminatedEventAttributes(_)) => {
                self.close(event, WorkflowExecutionStatus::Terminated);
            }
            Some(A::WorkflowExecutionContinuedAsNewEventAttributes(_)) => {
                self.close(event, WorkflowExecutionStatus::ContinuedAsNew);
            }
            attributes => {
                return Err(HistoryError::Unknown(attributes.map_or(EventType::Unspecified, events::event_type)));
            }
        }
        Ok(())
    }

    /// Does what an event from outside means as soon as it is taken, though it may have to wait for its place in the history: a
    /// timer has fired, an activity has ended, a request that is repeated is known. Done again with its place, it does no harm.
    pub fn arrive(&mut self, event: &HistoryEvent) {
        use Attributes as A;
        match event.attributes.as_ref() {
            Some(A::WorkflowExecutionSignaledEventAttributes(a)) => {
                let new = !a.request_id.is_empty() && !self.signal_requests.contains(&a.request_id);
                if new {
                    self.signal_requests.insert(a.request_id.clone(), super::SignalRequest);
                }
            }
            Some(A::WorkflowExecutionCancelRequestedEventAttributes(a)) => {
                self.state.cancel_requested = true;
                if let Some(source) = &a.external_workflow_execution
                    && let Ok(run_id) = source.run_id.parse()
                {
                    let id = outbox::message_id(run_id, a.external_initiated_event_id);
                    if !self.signal_requests.contains(&id) {
                        self.signal_requests.insert(id, super::SignalRequest);
                    }
                }
            }
            Some(A::WorkflowExecutionOptionsUpdatedEventAttributes(a)) => {
                if !a.attached_request_id.is_empty() {
                    let event_id = (event.event_id > 0).then_some(event.event_id);
                    self.attached_requests.insert(a.attached_request_id.clone(), AttachedRequest { event_id });
                }
                let callbacks = &a.attached_completion_callbacks;
                self.register_callbacks(&a.attached_request_id, callbacks, event_time(event));
                self.override_version(a);
                // One that is taken away stays, in Temporal as well.
                if a.priority.is_some() && self.given_priority() != a.priority.as_ref() {
                    Arc::make_mut(&mut self.info).given_priority = a.priority.clone().map(Box::new);
                    self.info_changed = true;
                    let lane = self.lane();
                    if let Some(task) = &mut self.state.workflow_task {
                        task.lane = lane;
                    }
                }
            }
            Some(A::TimerFiredEventAttributes(a)) => {
                self.timers.remove(&a.started_event_id);
            }
            Some(A::ExternalWorkflowExecutionSignaledEventAttributes(a)) => {
                self.external_signals.remove(&a.initiated_event_id);
            }
            Some(A::SignalExternalWorkflowExecutionFailedEventAttributes(a)) => {
                self.external_signals.remove(&a.initiated_event_id);
            }
            Some(A::ExternalWorkflowExecutionCancelRequestedEventAttributes(a)) => {
                self.external_cancels.remove(&a.initiated_event_id);
            }
            Some(A::RequestCancelExternalWorkflowExecutionFailedEventAttributes(a)) => {
                self.external_cancels.remove(&a.initiated_event_id);
            }
            Some(A::ChildWorkflowExecutionStartedEventAttributes(a)) => {
                if let Some(child) = self.children.get_mut(&a.initiated_event_id) {
                    child.started_event_id = Some(event.event_id);
                    child.header = None;
                }
            }
            Some(A::StartChildWorkflowExecutionFailedEventAttributes(a)) => {
                self.children.remove(&a.initiated_event_id);
            }
            Some(A::NexusOperationStartedEventAttributes(a)) => {
                if let Some(operation) = self.nexus_operations.get_mut(&a.scheduled_event_id) {
                    Arc::make_mut(operation).start(event_time(event), &a.operation_token);
                }
            }
            Some(A::NexusOperationCancelRequestCompletedEventAttributes(a)) => {
                if let Some(cancel) = self.nexus_cancel_mut(a.scheduled_event_id) {
                    cancel.end(CancelState::Succeeded, None);
                }
            }
            Some(A::NexusOperationCancelRequestFailedEventAttributes(a)) => {
                if let Some(cancel) = self.nexus_cancel_mut(a.scheduled_event_id) {
                    cancel.end(CancelState::Failed, a.failure.as_ref());
                }
            }
            Some(attributes) => {
                if let Some(scheduled_event_id) = events::ended_activity(attributes) {
                    self.activities.remove(&scheduled_event_id);
                } else if let Some(scheduled_event_id) = events::ended_nexus_operation(attributes) {
                    self.nexus_operations.remove(&scheduled_event_id);
                } else if let Some(initiated_event_id) = events::ended_child(attributes) {
                    self.children.remove(&initiated_event_id);
                }
            }
            None => {}
        }
    }

    fn nexus_cancel_mut(&mut self, scheduled_event_id: i64) -> Option<&mut NexusCancel> {
        let operation = self.nexus_operations.get_mut(&scheduled_event_id)?;
        Arc::make_mut(operation).cancel.as_mut()
    }

    /// Those whom a request names are told when the run has closed. To say so again changes nothing.
    fn register_callbacks(&mut self, request_id: &str, callbacks: &[Callback], time: Time) {
        for (place, callback) in callbacks.iter().enumerate() {
            let id = format!("{request_id}-{place}");
            if !self.callbacks.contains(&id) {
                self.callbacks.insert(id, CompletionCallback::new(callback.clone(), time));
            }
        }
    }

    fn workflow_task_scheduled(&mut self, event: &HistoryEvent, attributes: &WorkflowTaskScheduledEventAttributes) {
        let scheduled_time = event_time(event);
        let timeout = time::positive(attributes.start_to_close_timeout.as_ref()).ok().flatten().unwrap_or_default();
        let sticky = attributes.task_queue.as_ref().is_some_and(|queue| queue.kind == TaskQueueKind::Sticky as i32);
        self.state.had_workflow_task = true;
        self.state.next_workflow_task_attempt = attributes.attempt;
        self.state.workflow_task = Some(WorkflowTask {
            scheduled_event_id: event.event_id,
            scheduled_time,
            original_scheduled_time: scheduled_time,
            attempt: attributes.attempt,
            start_to_close_timeout: timeout,
            started: None,
            offered_sticky: sticky,
            is_speculative: false,
            lane: self.lane(),
        });
    }

    /// The worker's side of the start (its poll, what it was sent) is filled in by whoever hands the task out.
    fn workflow_task_started_by(&mut self, event: &HistoryEvent, attributes: &WorkflowTaskStartedEventAttributes) {
        let Some(task) = &mut self.state.workflow_task else { return };
        task.started = Some(WorkflowTaskStarted {
            started_event_id: event.event_id,
            time: event_time(event),
            identity: attributes.identity.clone(),
            request_id: attributes.request_id.clone(),
            ..WorkflowTaskStarted::default()
        });
    }

    /// A reset ends what is kept of another run's history, and this run goes on from there: as if it had begun now, with its workflow task
    /// and its activities at their first attempts. What it has seen of requests is for the other run to know.
    fn was_reset(&mut self, now: Time) {
        self.state.workflow_task = None;
        self.state.next_workflow_task_attempt = 1;
        self.state.close_attempted = false;
        self.state.workflow_task_problems = 0;
        self.state.last_workflow_task_problem = None;
        self.signal_requests.clear();
        for id in self.activities.keys().copied().collect::<Vec<_>>() {
            if let Some(activity) = self.activities.get_mut(&id) {
                let activity = Arc::make_mut(activity);
                (activity.scheduled_time, activity.attempt_scheduled_time) = (now, now);
            }
        }
        let started = self.info.started.decode();
        let expiration =
            |timeout: Option<&wkt::Duration>| time::positive(timeout).ok().flatten().map(|timeout| now.plus(timeout));
        let info = Arc::make_mut(&mut self.info);
        info.original_start_time.get_or_insert(info.start_time);
        info.execution_time = now.plus(info.execution_time.since(info.start_time));
        info.start_time = now;
        if let Some(expiration) = expiration(started.workflow_execution_timeout.as_ref()) {
            info.execution_expiration = Some(expiration);
        }
        let run_expiration = expiration(started.workflow_run_timeout.as_ref());
        info.run_expiration = run_expiration.map(|time| info.execution_expiration.map_or(time, |end| time.min(end)));
        self.info_changed = true;
    }

    fn workflow_task_attempt_failed(&mut self) {
        let attempt = self.state.workflow_task.take().map_or(0, |task| task.attempt);
        self.state.next_workflow_task_attempt = attempt.saturating_add(1);
    }

    /// Changes search attributes where it is not the workflow that does so. `change` says whether it has changed anything.
    pub(crate) fn change_search_attributes(&mut self, change: impl FnOnce(&mut PayloadMap) -> bool) {
        let properties = self.info.started.properties();
        let mut search_attributes = PayloadMap::of(properties.search_attributes.as_ref());
        if change(&mut search_attributes) {
            let search_attributes = Some(search_attributes.encode_to_vec().into());
            self.set_properties(&Properties { search_attributes, ..properties });
        }
    }

    /// Gives the run other memo and search attributes. Where another run may begin with what the first event says, that is kept.
    fn set_properties(&mut self, properties: &Properties) {
        self.info_changed = true;
        let info = Arc::make_mut(&mut self.info);
        if info.started.may_begin_again() && info.original_properties.is_none() {
            let Properties { memo, search_attributes } = info.started.properties();
            info.original_properties = Some(Box::new(OriginalProperties {
                memo: memo.map(Encoded::new),
                search_attributes: search_attributes.map(Encoded::new),
            }));
        }
        info.started = info.started.with_properties(properties);
    }

    /// Nothing comes any more of what is pending, but that children are to hear of it. Activities, operations, and a workflow task that no worker
    /// has, are described on, as in Temporal; and a closed run still knows the signals that it took.
    fn close(&mut self, event: &HistoryEvent, status: WorkflowExecutionStatus) {
        self.state.status = status as i32;
        self.state.close_time = Some(event_time(event));
        self.state.workflow_task.take_if(|task| task.started.is_some());
        if let Some(task) = &mut self.state.workflow_task {
            task.offered_sticky = false;
        }
        self.timers.clear();
        self.buffered.clear();
        self.external_signals.clear();
        self.external_cancels.clear();
        self.reapplied_updates.clear();
        self.children.remove_all(|child| child.parent_close_policy == ParentClosePolicy::Abandon);
    }
}

#[expect(deprecated, reason = "old workers send `control`, and want it back")]
fn initiated_child(attributes: &StartChildWorkflowExecutionInitiatedEventAttributes) -> PendingChild {
    PendingChild {
        workflow_id: attributes.workflow_id.clone(),
        workflow_type: attributes.workflow_type.as_ref().map_or_else(String::new, |kind| kind.name.clone()),
        parent_close_policy: attributes.parent_close_policy(),
        control: attributes.control.clone(),
        header: attributes.header.clone(),
        started_event_id: None,
    }
}

fn external_target(namespace: &str, execution: Option<&WorkflowExecution>, control: &str) -> ExternalTarget {
    let execution = execution.cloned().unwrap_or_default();
    ExternalTarget { namespace: namespace.to_owned(), execution, control: control.to_owned() }
}

#[expect(deprecated, reason = "old workflows send it, and want it back")]
fn signal_control(attributes: &SignalExternalWorkflowExecutionInitiatedEventAttributes) -> &str {
    &attributes.control
}

#[expect(deprecated, reason = "old workflows send it, and want it back")]
fn cancel_control(attributes: &RequestCancelExternalWorkflowExecutionInitiatedEventAttributes) -> &str {
    &attributes.control
}

pub(super) fn event_time(event: &HistoryEvent) -> Time {
    event.event_time.as_ref().map_or(Time(0), Time::from_proto)
}
