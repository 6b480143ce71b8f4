//! What partitions have other nodes do.

use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::command::{StartActivityTask, StartWorkflowTask};
use everlog_kernel::outbox::{OutboxMessage, Outcome};
use everlog_kernel::transition::TaskKey;
use everlog_kernel::{EntityKind, Rejection, RunId};
use everlog_model::{CallError, NodeId, WorkflowRef};
use everlog_partition::{Delivery, OtherNodes, StartQuery, StartedWorkflowTask};
use everlog_proto::api::workflowservice::v1::PollActivityTaskQueueResponse;
use everlog_proto::encoded::{EncodedHistory, PollWorkflowTaskQueueResponse};
use everlog_proto::internal::{
    ActivityTaskStart, DeliverRequest, QueryStart, Start, StartTaskRequest, StartedTask, WorkflowTaskStart, outcome,
};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::Nodes;
use crate::nodes::answered;
use crate::wire::{bytes_of, decoded, error_from_status, workflow_to_wire};

impl Nodes {
    fn start(
        &self,
        node: NodeId,
        workflow: &WorkflowRef,
        run_id: RunId,
        start: Start,
    ) -> impl Future<Output = Result<StartedTask, CallError>> + Send + use<> {
        let request = StartTaskRequest {
            workflow: Some(workflow_to_wire(workflow)),
            run_id: bytes_of(run_id.0),
            start: Some(start),
        };
        let mut client = self.client(node);
        async move {
            match answered(client.start_task(request)).await {
                Ok(answer) => answer
                    .started
                    .ok_or_else(|| CallError::Rejected(Rejection::NotFound("the task is not there any more".into()))),
                Err(status) => Err(error_from_status(&status)),
            }
        }
    }
}

fn workflow_task(started: StartedTask) -> Result<StartedWorkflowTask, CallError> {
    let StartedTask { poll, history, next_page_from, history_to } = started;
    let history = Some(EncodedHistory { batches: history });
    let response = PollWorkflowTaskQueueResponse { message: decoded(poll)?, history };
    Ok(StartedWorkflowTask { response, next_page_from, history_to })
}

impl OtherNodes for Nodes {
    fn start_workflow_task(
        &self,
        node: NodeId,
        workflow: WorkflowRef,
        run_id: RunId,
        start: StartWorkflowTask,
    ) -> BoxFuture<'static, Result<StartedWorkflowTask, CallError>> {
        let StartWorkflowTask {
            scheduled_event_id,
            attempt,
            task_queue,
            identity,
            request_id,
            worker_version,
            deployment_version,
        } = start;
        let start = WorkflowTaskStart {
            scheduled_event_id,
            attempt,
            task_queue,
            identity,
            request_id,
            worker_version,
            deployment_version,
        };
        let started = self.start(node, &workflow, run_id, Start::WorkflowTask(start));
        async move { workflow_task(started.await?) }.boxed()
    }

    fn start_activity_task(
        &self,
        node: NodeId,
        kind: EntityKind,
        workflow: WorkflowRef,
        run_id: RunId,
        start: StartActivityTask,
    ) -> BoxFuture<'static, Result<Box<PollActivityTaskQueueResponse>, CallError>> {
        let StartActivityTask { scheduled_event_id, attempt, key, identity, request_id, sdk, deployment_version } =
            start;
        let (sdk_name, sdk_version) = sdk;
        let (task_queue, position) = match key.map(|key| *key) {
            Some(TaskKey { task_queue, position, .. }) => (task_queue, position.with_bytes(Bytes::copy_from_slice)),
            None => Default::default(),
        };
        let entity_kind = kind as u32;
        let start = ActivityTaskStart {
            scheduled_event_id,
            attempt,
            identity,
            request_id,
            task_queue,
            position,
            entity_kind,
            sdk_name,
            sdk_version,
            deployment_version,
        };
        let started = self.start(node, &workflow, run_id, Start::ActivityTask(start));
        async move { Ok(Box::new(decoded(started.await?.poll)?)) }.boxed()
    }

    fn start_query(
        &self,
        node: NodeId,
        workflow: WorkflowRef,
        run_id: RunId,
        start: StartQuery,
    ) -> BoxFuture<'static, Result<StartedWorkflowTask, CallError>> {
        let StartQuery { query_id, task_queue } = start;
        let started = self.start(node, &workflow, run_id, Start::Query(QueryStart { query_id, task_queue }));
        async move { workflow_task(started.await?) }.boxed()
    }

    fn deliver(&self, node: NodeId, messages: Vec<Arc<OutboxMessage>>) -> BoxFuture<'static, Vec<Delivery>> {
        let request = DeliverRequest { messages: messages.iter().map(|message| message.to_row()).collect() };
        let mut client = self.client(node);
        async move {
            match answered(client.deliver(request)).await {
                Ok(answer) => answer.outcomes.into_iter().map(delivery).collect(),
                Err(status) => {
                    tracing::debug!(%node, %status, "messages could not be delivered");
                    Vec::new()
                }
            }
        }
        .boxed()
    }
}

fn delivery(number: u32) -> Delivery {
    match number {
        outcome::DELIVERED => Delivery::Settled(Outcome::Delivered),
        outcome::NOT_FOUND => Delivery::Settled(Outcome::NotFound),
        outcome::TOO_MANY_SIGNALS => Delivery::Settled(Outcome::TooManySignals),
        outcome::ALREADY_EXISTS => Delivery::Settled(Outcome::AlreadyExists),
        // Also one that a later version knows.
        _ => Delivery::Again,
    }
}

pub(crate) fn number(delivery: Delivery) -> u32 {
    match delivery {
        Delivery::Settled(Outcome::Delivered) => outcome::DELIVERED,
        Delivery::Settled(Outcome::NotFound) => outcome::NOT_FOUND,
        Delivery::Settled(Outcome::TooManySignals) => outcome::TOO_MANY_SIGNALS,
        Delivery::Settled(Outcome::AlreadyExists) => outcome::ALREADY_EXISTS,
        Delivery::Again => outcome::AGAIN,
    }
}
