//! A parent asks for a child to be started. It may ask more than once, and gets one child.

use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::history::v1::{
    StartChildWorkflowExecutionInitiatedEventAttributes, WorkflowExecutionStartedEventAttributes,
};

use super::start_workflow::{self, Resolution};
use crate::command::Reply;
use crate::outbox::{MessageBody, OutboxMessage, StartChild, child_run_id, start_request_id};
use crate::state::Workflow;
use crate::transition::Transition;
use crate::txn::NewRun;
use crate::valid_start::policies_of_child;
use crate::{Context, Rejection};

/// Starts the child, unless it was started before: its first run, which must be in memory if it exists, or the current one tells.
/// Otherwise other runs of the workflow are in its way, or not, as with any start.
pub(crate) fn decide(
    workflow: &mut Workflow,
    message: OutboxMessage,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    let origin = message.origin();
    let OutboxMessage { source_workflow_id, source_run_id, event_id, body, .. } = message;
    let MessageBody::StartChild(start) = body else { return Err(Rejection::workflow_not_found()) };
    let run_id = child_run_id(origin, event_id);
    let goes_on = workflow.current_run().is_some_and(|run| run.first_run_id() == run_id);
    if goes_on || workflow.runs.contains_key(&run_id) {
        return Ok(Transition::reply(Reply::Done));
    }
    let request_id = start_request_id(origin, event_id);
    let (reuse, conflict) = policies_of_child(start.initiated.workflow_id_reuse_policy());
    let terminate = match start_workflow::resolve(workflow, &request_id, reuse, conflict)? {
        Resolution::Found(_) | Resolution::UseExisting(_) => return Ok(Transition::reply(Reply::Done)),
        Resolution::Start { terminate } => terminate,
    };
    let user_metadata = start.user_metadata.clone();
    let parent = WorkflowExecution { workflow_id: source_workflow_id, run_id: source_run_id.to_string() };
    let started = started(*start, parent, event_id, ctx);
    let new_run =
        NewRun { run_id, started, user_metadata, links: Vec::new(), start_request_id: request_id, scheduled_by: None };
    start_workflow::begin(workflow, new_run, terminate, ctx, |_| {})
}

/// The child's first event, as far as the parent says it.
fn started(
    start: StartChild,
    parent: WorkflowExecution,
    parent_initiated_event_id: i64,
    ctx: &Context<'_>,
) -> WorkflowExecutionStartedEventAttributes {
    let StartChild { initiated, root, priority, versioning, .. } = start;
    let StartChildWorkflowExecutionInitiatedEventAttributes {
        workflow_type,
        task_queue,
        input,
        workflow_execution_timeout,
        workflow_run_timeout,
        workflow_task_timeout,
        retry_policy,
        cron_schedule,
        header,
        memo,
        search_attributes,
        ..
    } = initiated;
    let mut started = WorkflowExecutionStartedEventAttributes {
        workflow_type,
        parent_workflow_namespace: ctx.namespace.name.clone(),
        parent_workflow_namespace_id: ctx.namespace.id.to_string(),
        parent_workflow_execution: Some(parent),
        parent_initiated_event_id,
        task_queue,
        input,
        workflow_execution_timeout,
        workflow_run_timeout,
        workflow_task_timeout,
        retry_policy,
        attempt: 1,
        cron_schedule,
        header,
        memo,
        search_attributes,
        root_workflow_execution: root,
        priority,
        ..WorkflowExecutionStartedEventAttributes::default()
    };
    versioning.unwrap_or_default().apply(&mut started);
    started
}
