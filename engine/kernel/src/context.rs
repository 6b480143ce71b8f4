//! What a decision depends on besides state and command: the time, the namespace, the limits and a seed.

use std::sync::Arc;
use std::time::Duration;

use crate::deployment::Deployments;
use crate::{Ids, NamespaceId, Time};

/// Everything from outside that a decision may look at.
#[derive(Debug)]
pub struct Context<'a> {
    /// The leader's clock.
    pub now: Time,
    /// No earlier than `now`, nor than any time that the partition has heard of: what has caused something is never later than that by
    /// this clock, on whichever node it happened.
    pub latest: Time,
    /// The namespace of the workflow.
    pub namespace: &'a Namespace,
    /// Limits in force.
    pub limits: &'a Limits,
    /// Where new run ids come from.
    pub ids: &'a mut Ids,
}

impl Context<'_> {
    /// The same context for a part of the decision.
    pub(crate) fn reborrow(&mut self) -> Context<'_> {
        Context {
            now: self.now,
            latest: self.latest,
            namespace: self.namespace,
            limits: self.limits,
            ids: &mut *self.ids,
        }
    }
}

/// What a decision needs to know of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its id.
    pub id: NamespaceId,
    /// Its name.
    pub name: String,
    /// How long closed runs are kept.
    pub retention: Duration,
    /// Whether closed runs are archived before they are deleted.
    pub archives: bool,
    /// The versions of its workers, and which of them gets what, as far as is known where the decision is made.
    pub deployments: Arc<Deployments>,
}

/// A share, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMille(pub u16);

impl PerMille {
    /// This share of a number, rounded up.
    pub fn of(self, number: usize) -> usize {
        number.saturating_mul(usize::from(self.0)).div_ceil(1000)
    }
}

/// Limits and defaults. The names in the comments are Temporal's dynamic configuration keys, whose defaults these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `limit.blobSize.error`, bytes: the largest payload of a command or request.
    pub blob_bytes_max: usize,
    /// `limit.memoSize.error`, bytes.
    pub memo_bytes_max: usize,
    /// `limit.historySize.error`, bytes: a run beyond it is terminated.
    pub history_bytes_max: u64,
    /// `limit.historyCount.error`, events.
    pub history_events_max: i64,
    /// `limit.historySize.suggestContinueAsNew`, bytes.
    pub history_bytes_suggest_continue_as_new: u64,
    /// `limit.historyCount.suggestContinueAsNew`, events.
    pub history_events_suggest_continue_as_new: i64,
    /// `limit.numPendingActivities.error`.
    pub pending_activities_max: usize,
    /// `limit.numPendingSignals.error`: signals that are on their way to other workflows.
    pub pending_signals_max: usize,
    /// `limit.numPendingCancelRequests.error`: the same for requests to cancel.
    pub pending_cancel_requests_max: usize,
    /// `limit.numPendingChildExecutions.error`.
    pub pending_children_max: usize,
    /// `component.nexusoperations.limit.operation.concurrency`: operations of Nexus services of a run that have not ended.
    pub pending_nexus_operations_max: usize,
    /// `system.maxCallbacksPerWorkflow`.
    pub callbacks_max: usize,
    /// Children that are told at a time that their parent has closed: so many messages fit well into one entry of the log.
    pub children_told_max: usize,
    /// Messages to other workflows that a run may have on their way and still be given a workflow task.
    pub undelivered_messages_max: usize,
    /// `history.maximumSignalsPerExecution`.
    pub signals_max: u32,
    /// `history.maximumBufferedEventsBatch`.
    pub buffered_events_max: usize,
    /// `history.maximumBufferedEventsSizeInBytes`.
    pub buffered_bytes_max: usize,
    /// `history.MaxBufferedQueryCount`. Temporal's default is 1, which its users raise; queries cost no writes here.
    pub buffered_queries_max: usize,
    /// `history.maxInFlightUpdates`: updates of a run that are not completed; 0 for any number, as in the next two.
    pub updates_in_flight_max: usize,
    /// `history.maxInFlightUpdatePayloads`, bytes: of those that the workflow has not accepted.
    pub updates_in_flight_bytes_max: usize,
    /// `history.maxTotalUpdates`: all updates of a run.
    pub updates_max: usize,
    /// `history.maxTotalUpdates.suggestContinueAsNewThreshold`: a workflow that has had this share of its updates should continue as new.
    pub updates_suggest_continue_as_new: PerMille,
    /// `history.discardSpeculativeWorkflowTaskMaximumEventsCount`: so many events may be sent again with the next task when a
    /// speculative one is dropped.
    pub speculative_events_max: i64,
    /// `limit.maxIDLength`, bytes.
    pub id_bytes_max: usize,
    /// `frontend.maxlinksPerRequest`.
    pub links_max: usize,
    /// `frontend.linkMaxSize`, bytes.
    pub link_bytes_max: usize,
    /// `frontend.searchAttributesSizeOfValueLimit`: one search attribute's value, bytes.
    pub search_attribute_bytes_max: usize,
    /// `frontend.searchAttributesTotalSizeLimit`: all search attributes of a run, bytes.
    pub search_attributes_bytes_max: usize,
    /// `history.maxAutoResetPoints`: points that a chain of runs can be reset to.
    pub reset_points_max: usize,
    /// `system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute`: from so many failures of workflow tasks in a row on a search
    /// attribute tells of them; never, if it is 0.
    pub workflow_task_problems_reported: i32,
    /// `system.enableEagerWorkflowStart`: whether a worker that starts a run may have its first workflow task with the answer.
    pub has_eager_start: bool,
    /// `system.enableActivityEagerExecution`: whether a worker may have activities with the answer to the completion that schedules them.
    pub has_eager_activities: bool,
    /// `history.defaultWorkflowTaskTimeout`.
    pub workflow_task_timeout: Duration,
    /// Longest workflow task timeout; longer ones are cut.
    pub workflow_task_timeout_max: Duration,
    /// `history.workflowTaskRetryMaxInterval`: the most that the timeout of a failing workflow task grows by.
    pub workflow_task_retry_max_interval: Duration,
    /// `history.workflowTaskHeartbeatTimeout`.
    pub workflow_task_heartbeat_timeout: Duration,
    /// How long the start of a workflow task, or of an activity that may be attempted again, can stay unwritten.
    pub activity_start_flush: Duration,
    /// `history.workflowIdReuseMinimalInterval`: a run and the pause behind it together last at least as long, so that a workflow that
    /// always continues as new is not a tight loop.
    pub run_interval_min: Duration,
    /// `history.retentionTimerJitterDuration`: deletion is put off by up to this, spread over runs.
    pub retention_jitter: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        Limits {
            blob_bytes_max: 2 * MIB,
            memo_bytes_max: 2 * MIB,
            history_bytes_max: 50 * MIB as u64,
            history_events_max: 50 * 1024,
            history_bytes_suggest_continue_as_new: 4 * MIB as u64,
            history_events_suggest_continue_as_new: 4 * 1024,
            pending_activities_max: 2000,
            pending_signals_max: 2000,
            pending_cancel_requests_max: 2000,
            pending_children_max: 2000,
            pending_nexus_operations_max: 30,
            callbacks_max: 32,
            children_told_max: 100,
            undelivered_messages_max: 1000,
            signals_max: 10_000,
            buffered_events_max: 100,
            buffered_bytes_max: 2 * MIB,
            buffered_queries_max: 100,
            updates_in_flight_max: 10,
            updates_in_flight_bytes_max: 20 * MIB,
            updates_max: 2000,
            updates_suggest_continue_as_new: PerMille(900),
            speculative_events_max: 10,
            id_bytes_max: 1000,
            links_max: 10,
            link_bytes_max: 4000,
            search_attribute_bytes_max: 2 * KIB,
            search_attributes_bytes_max: 40 * KIB,
            reset_points_max: 20,
            workflow_task_problems_reported: 5,
            has_eager_start: true,
            has_eager_activities: true,
            workflow_task_timeout: Duration::from_secs(10),
            workflow_task_timeout_max: Duration::from_secs(120),
            workflow_task_retry_max_interval: Duration::from_secs(600),
            workflow_task_heartbeat_timeout: Duration::from_secs(30 * 60),
            activity_start_flush: Duration::from_millis(500),
            run_interval_min: Duration::from_secs(1),
            retention_jitter: Duration::from_secs(30 * 60),
        }
    }
}
