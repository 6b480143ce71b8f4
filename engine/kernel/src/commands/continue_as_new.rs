//! ContinueAsNewWorkflowExecution: the run closes, and another one takes its place in the same transition.

use std::time::Duration;

use everlog_proto::api::command::v1::ContinueAsNewWorkflowExecutionCommandAttributes;
use everlog_proto::api::common::v1::WorkflowType;
use everlog_proto::api::enums::v1::{ContinueAsNewInitiator, WorkflowTaskFailedCause};
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::history::v1::{
    WorkflowExecutionContinuedAsNewEventAttributes, WorkflowExecutionStartedEventAttributes,
};
use everlog_proto::wkt;

use super::{CommandContext, Invalid};
use crate::txn::Txn;
use crate::{inheritance, payload_map, retry, successor, time, validation};

const CAUSE: WorkflowTaskFailedCause = WorkflowTaskFailedCause::BadContinueAsNewAttributes;

/// Closes the run and starts the next one.
///
/// Type, task queue and timeouts that the command leaves open are as in this run. Memo, search attributes and retry policy are
/// not: the SDKs put into the command what is to go along.
#[expect(deprecated, reason = "old workers say whether the next run keeps their build id")]
pub(super) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: ContinueAsNewWorkflowExecutionCommandAttributes,
) -> Result<(), Invalid> {
    command.check_known()?;
    let (initiator, backoff_start_interval) = (attributes.initiator, attributes.backoff_start_interval);
    let inherit_build_id = attributes.inherit_build_id;
    let initial_behavior = attributes.initial_versioning_behavior();
    let mut started = started(txn, attributes).map_err(|message| Invalid::new(CAUSE, message))?;
    command.check_values(|problem| {
        let queue = started.task_queue.as_ref().map_or("", |queue| &queue.name);
        let problem = format!("invalid SearchAttributes on ContinueAsNewWorkflowExecutionCommand: {problem}");
        named(&problem, started.workflow_type.as_ref(), queue)
    })?;
    check_sizes(txn, &started)?;
    let queue = started.task_queue.as_ref().map_or("", |queue| &queue.name);
    inheritance::of_next(txn, queue, initial_behavior).apply(&mut started);
    let new_run = successor::new_run(txn, started);
    let started = &new_run.started;
    command.append(
        txn,
        Attributes::WorkflowExecutionContinuedAsNewEventAttributes(WorkflowExecutionContinuedAsNewEventAttributes {
            new_execution_run_id: new_run.run_id.to_string(),
            workflow_type: started.workflow_type.clone(),
            task_queue: started.task_queue.clone(),
            input: started.input.clone(),
            workflow_run_timeout: started.workflow_run_timeout,
            workflow_task_timeout: started.workflow_task_timeout,
            workflow_task_completed_event_id: command.completed_event_id,
            backoff_start_interval,
            initiator,
            last_completion_result: started.last_completion_result.clone(),
            header: started.header.clone(),
            memo: started.memo.clone(),
            search_attributes: started.search_attributes.clone(),
            failure: started.continued_failure.clone(),
            inherit_build_id,
            initial_versioning_behavior: initial_behavior.into(),
        }),
    );
    txn.close();
    txn.successor = Some(new_run);
    Ok(())
}

/// Looks at what is copied into two histories.
fn check_sizes(txn: &Txn<'_>, started: &WorkflowExecutionStartedEventAttributes) -> Result<(), Invalid> {
    super::check_size(
        txn,
        started.input.as_ref(),
        CAUSE,
        "ContinueAsNewWorkflowExecutionCommandAttributes. Input exceeds size limit.",
    )?;
    super::check_memo_size(
        txn,
        started.memo.as_ref(),
        CAUSE,
        "ContinueAsNewWorkflowExecutionCommandAttributes. Memo exceeds size limit.",
    )?;
    super::check_search_attribute_sizes(txn, started.search_attributes.as_ref(), CAUSE)
}

/// What is wrong with the next run, with its name as Temporal has it.
fn named(problem: &str, workflow_type: Option<&WorkflowType>, task_queue: &str) -> String {
    let workflow_type = workflow_type.map_or("", |workflow_type| &workflow_type.name);
    format!("{problem}. WorkflowType={workflow_type} TaskQueue=name:{task_queue:?}  kind:TASK_QUEUE_KIND_NORMAL")
}

/// The first event of the next run, or what is wrong with the command.
fn started(
    txn: &Txn<'_>,
    attributes: ContinueAsNewWorkflowExecutionCommandAttributes,
) -> Result<WorkflowExecutionStartedEventAttributes, String> {
    let current = txn.run.info.started.decode();
    let attempt = current.attempt;
    let priority = txn.run.given_priority().cloned();
    let current = WorkflowExecutionStartedEventAttributes { priority, ..successor::next(txn, current) };
    let initiator = match attributes.initiator() {
        ContinueAsNewInitiator::Unspecified => ContinueAsNewInitiator::Workflow,
        initiator => initiator,
    };
    let bytes_max = txn.ctx.limits.id_bytes_max;
    let workflow_type = attributes.workflow_type.map(|workflow_type| workflow_type.name).unwrap_or_default();
    if workflow_type.len() > bytes_max {
        return Err(format!(
            "WorkflowType on ContinueAsNewWorkflowExecutionCommand exceeds length limit. WorkflowType={workflow_type} \
             Length={} Limit={bytes_max}",
            workflow_type.len()
        ));
    }
    let task_queue = attributes.task_queue.filter(|task_queue| !task_queue.name.is_empty());
    let task_queue = match task_queue {
        Some(task_queue) => Some(validation::task_queue(Some(task_queue), bytes_max)?),
        None => current.task_queue,
    };
    let workflow_type = match workflow_type.is_empty() {
        true => current.workflow_type,
        false => Some(WorkflowType { name: workflow_type }),
    };
    let named = |message: String| {
        let task_queue = task_queue.as_ref().map_or("", |task_queue| &task_queue.name);
        named(&message, workflow_type.as_ref(), task_queue)
    };
    let retry_policy = attributes.retry_policy.map(retry::with_defaults);
    if let Some(policy) = &retry_policy {
        let invalid = |rejection| {
            named(format!("invalid WorkflowRetryPolicy on ContinueAsNewWorkflowExecutionCommand: {rejection}"))
        };
        retry::validate(policy).map_err(invalid)?;
    }
    let duration = |duration, name| positive(duration, name).map_err(named);
    let run_timeout = duration(attributes.workflow_run_timeout.as_ref(), "WorkflowRunTimeout")?;
    let task_timeout = duration(attributes.workflow_task_timeout.as_ref(), "WorkflowTaskTimeout")?;
    let asks_for_backoff = attributes.backoff_start_interval.is_some();
    let backoff = duration(attributes.backoff_start_interval.as_ref(), "BackoffStartInterval")?.unwrap_or_default();
    Ok(WorkflowExecutionStartedEventAttributes {
        workflow_type,
        task_queue,
        input: attributes.input,
        // None is written as zero, as Temporal does.
        workflow_run_timeout: run_timeout
            .map(time::to_proto)
            .or(current.workflow_run_timeout)
            .or_else(|| Some(time::to_proto(Duration::ZERO))),
        workflow_task_timeout: task_timeout.map(time::to_proto).or(current.workflow_task_timeout),
        retry_policy,
        // As in Temporal, one that cannot be read is not refused here: no run follows by it.
        cron_schedule: attributes.cron_schedule,
        initiator: initiator.into(),
        continued_failure: attributes.failure,
        last_completion_result: attributes.last_completion_result,
        header: attributes.header,
        memo: payload_map::memo(attributes.memo),
        search_attributes: payload_map::search_attributes(attributes.search_attributes),
        attempt: match initiator {
            ContinueAsNewInitiator::Retry => attempt + 1,
            _ => 1,
        },
        first_workflow_task_backoff: first_backoff(asks_for_backoff, successor::backoff(txn, backoff)),
        ..current
    })
}

/// None at all is left out, as Temporal does, unless the command says so.
fn first_backoff(is_asked_for: bool, backoff: Duration) -> Option<wkt::Duration> {
    (is_asked_for || !backoff.is_zero()).then(|| time::to_proto(backoff))
}

fn positive(duration: Option<&wkt::Duration>, name: &str) -> Result<Option<Duration>, String> {
    time::positive(duration)
        .map_err(|wrong| format!("Invalid {name} on ContinueAsNewWorkflowExecutionCommand: {wrong}"))
}
