//! What a schedule asks of workflows: to start, and to end.

use everlog_proto::api::common::v1::{Payload, SearchAttributes, WorkflowExecution};
use everlog_proto::api::enums::v1::WorkflowIdReusePolicy;
use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;

use super::decide::Change;
use super::state::{End, Start, Starting};
use crate::outbox::{EndScheduled, MessageBody, OutboxMessage, StartScheduled};
use crate::transition::Effect;
use crate::{RunId, Time};

/// Search attributes of workflows that a schedule starts.
const SCHEDULED_START_TIME: &str = "TemporalScheduledStartTime";
const SCHEDULED_BY_ID: &str = "TemporalScheduledById";

impl Change<'_, '_> {
    /// Sends a start on its way.
    pub(super) fn start_workflow(&mut self, start: Start, overlaps: bool) {
        let Some(action) = self.live.action().cloned() else { return };
        let keeps_id = self.live.policies().keep_original_workflow_id;
        let nominal = rfc3339(Time(start.nominal));
        let workflow_id =
            if keeps_id { action.workflow_id.clone() } else { format!("{}-{nominal}", action.workflow_id) };
        // A time is never acted for twice, unless a client wants it.
        let reuse = if start.is_manual || keeps_id {
            WorkflowIdReusePolicy::AllowDuplicate
        } else {
            WorkflowIdReusePolicy::RejectDuplicate
        };
        let carried = if overlaps { Default::default() } else { self.live.carried.clone() };
        let number = self.next_number();
        let run_id = self.ctx.ids.run_id(self.ctx.now);
        let request = StartWorkflowExecutionRequest {
            workflow_id: workflow_id.clone(),
            workflow_type: action.workflow_type,
            task_queue: action.task_queue,
            input: action.input,
            workflow_execution_timeout: action.workflow_execution_timeout,
            workflow_run_timeout: action.workflow_run_timeout,
            workflow_task_timeout: action.workflow_task_timeout,
            identity: self.identity(),
            request_id: format!("{}-{number}", self.live.run_id),
            workflow_id_reuse_policy: reuse.into(),
            retry_policy: action.retry_policy,
            memo: action.memo,
            search_attributes: Some(self.search_attributes(action.search_attributes, &nominal)),
            header: action.header,
            last_completion_result: carried.last_completion_result,
            continued_failure: carried.continued_failure,
            user_metadata: action.user_metadata,
            priority: action.priority,
            ..StartWorkflowExecutionRequest::default()
        };
        let body = StartScheduled { request: Some(request) };
        self.send(number, &workflow_id, Some(run_id), MessageBody::StartScheduled(Box::new(body)));
        self.live.progress.starting.push(Starting {
            number,
            execution: Some(WorkflowExecution { workflow_id, run_id: run_id.to_string() }),
            scheduled: start.actual,
            sent: self.ctx.now.0,
            overlaps,
            asked: End::Not.into(),
        });
    }

    /// Asks all workflows that run to end, unless they were asked already.
    pub(super) fn end_running(&mut self, end: End) {
        if end == End::Not {
            return;
        }
        let mut asked = Vec::new();
        let progress = &mut self.live.progress;
        let starting = progress.starting.iter_mut().filter(|starting| !starting.overlaps);
        let starting = starting.map(|starting| (&starting.execution, &mut starting.asked));
        let running = progress.running.iter_mut().map(|running| (&running.execution, &mut running.asked));
        for (execution, was_asked) in running.chain(starting) {
            if *was_asked < end as i32
                && let Some(execution) = execution
            {
                *was_asked = end.into();
                asked.push(execution.clone());
            }
        }
        for WorkflowExecution { workflow_id, run_id } in asked {
            let number = self.next_number();
            let how = if end == End::Terminate { "terminated" } else { "cancelled" };
            let body = EndScheduled {
                first_run_id: run_id,
                terminates: end == End::Terminate,
                reason: format!("{how} by schedule overlap policy"),
                identity: self.identity(),
            };
            self.send(number, &workflow_id, None, MessageBody::EndScheduled(body));
        }
    }

    fn next_number(&mut self) -> i64 {
        self.live.progress.last_number += 1;
        self.live.progress.last_number
    }

    fn send(&mut self, number: i64, workflow_id: &str, run_id: Option<RunId>, body: MessageBody) {
        self.effects.push(Effect::Send(Box::new(OutboxMessage {
            namespace_id: self.ctx.namespace.id,
            source_workflow_id: self.id.to_owned(),
            source_run_id: self.live.run_id,
            origin_run_id: None,
            event_id: number,
            sent: self.ctx.now,
            target_workflow_id: workflow_id.to_owned(),
            target_run_id: run_id,
            body,
        })));
    }

    fn identity(&self) -> String {
        format!("temporal-scheduler-{}-{}", self.ctx.namespace.name, self.id)
    }

    fn search_attributes(&self, given: Option<SearchAttributes>, nominal: &str) -> SearchAttributes {
        let mut attributes = given.unwrap_or_default();
        for (name, kind, value) in [(SCHEDULED_START_TIME, "Datetime", nominal), (SCHEDULED_BY_ID, "Keyword", self.id)]
        {
            let data = serde_json::to_vec(value).expect("a text can be written as JSON");
            let metadata = [("encoding", "json/plain"), ("type", kind)];
            let metadata = metadata.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).into();
            attributes.indexed_fields.insert(name.to_owned(), Payload { metadata, data, ..Payload::default() });
        }
        attributes
    }
}

/// A time in whole seconds, as ids of workflows have it.
fn rfc3339(time: Time) -> String {
    let time = chrono::DateTime::from_timestamp(time.0.div_euclid(1_000_000_000), 0).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
