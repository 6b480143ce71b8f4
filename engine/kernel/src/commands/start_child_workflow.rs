//! StartChildWorkflowExecution.

use std::time::Duration;

use everlog_proto::api::command::v1::StartChildWorkflowExecutionCommandAttributes;
use everlog_proto::api::common::v1::{Priority, WorkflowExecution};
use everlog_proto::api::enums::v1::{ParentClosePolicy, WorkflowIdReusePolicy, WorkflowTaskFailedCause as Cause};
use everlog_proto::api::history::v1::StartChildWorkflowExecutionInitiatedEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::sdk::v1::UserMetadata;
use everlog_proto::wkt;

use super::{CommandContext, Invalid};
use crate::inheritance::{self, Inherited};
use crate::outbox::{MessageBody, StartChild, child_run_id};
use crate::txn::Txn;
use crate::{cron, deployment, fairness, payload_map, retry, time, validation};

const CAUSE: Cause = Cause::BadStartChildExecutionAttributes;

/// Sends the start on its way. The workflow hears what became of it by an event.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: StartChildWorkflowExecutionCommandAttributes,
) -> Result<(), Invalid> {
    command.check_known()?;
    let initiated = initiated(txn, command, attributes)?;
    check_sizes(txn, &initiated)?;
    let pending = txn.run.children.len();
    if pending >= txn.ctx.limits.pending_children_max {
        return Err(Invalid::new(
            Cause::PendingChildWorkflowsLimitExceeded,
            format!(
                "the number of pending child workflow executions, {pending}, has reached the per-workflow limit of {}",
                txn.ctx.limits.pending_children_max
            ),
        ));
    }
    let user_metadata = command.user_metadata.clone();
    let attributes = Attributes::StartChildWorkflowExecutionInitiatedEventAttributes(initiated.clone());
    let event_id = command.append(txn, attributes);
    ask_for_start(txn, event_id, initiated, user_metadata);
    Ok(())
}

/// Sends for the child whose start the event with that id has initiated.
pub(crate) fn ask_for_start(
    txn: &mut Txn<'_>,
    initiated_event_id: i64,
    initiated: StartChildWorkflowExecutionInitiatedEventAttributes,
    user_metadata: Option<UserMetadata>,
) {
    let own = || WorkflowExecution { workflow_id: txn.workflow_id.to_owned(), run_id: txn.run.id.to_string() };
    let child = initiated.workflow_id.clone();
    let queue = initiated.task_queue.as_ref().map_or("", |queue| &queue.name);
    let versioning = match &initiated.versioning_override {
        Some(given) => Inherited { versioning_override: Some(given.clone()), ..Inherited::default() },
        None => inheritance::of_child(txn, queue),
    };
    let start = StartChild {
        versioning: (versioning != Inherited::default()).then_some(versioning),
        root: Some(txn.run.info.started.decode().root_workflow_execution.unwrap_or_else(own)),
        priority: inherited(txn.run.given_priority(), initiated.priority.as_ref()),
        initiated,
        user_metadata,
    };
    let run_id = child_run_id(txn.run.owner_of(initiated_event_id), initiated_event_id);
    super::send(txn, initiated_event_id, child, Some(run_id), MessageBody::StartChild(Box::new(start)));
}

/// The event of a valid command, with everything filled in that the command leaves open; or what is wrong with it.
#[expect(
    deprecated,
    reason = "old workers name the namespace, send `control`, and say whether the child keeps their build id"
)]
fn initiated(
    txn: &Txn<'_>,
    command: &CommandContext,
    attributes: StartChildWorkflowExecutionCommandAttributes,
) -> Result<StartChildWorkflowExecutionInitiatedEventAttributes, Invalid> {
    let bad = |message: String| Invalid::new(CAUSE, message);
    check_names(txn, &attributes).map_err(bad)?;
    let timeouts = Timeouts::of(txn, &attributes).map_err(bad)?;
    let about = About::of(txn, &attributes);
    let retry_policy = attributes.retry_policy.map(retry::with_defaults);
    if let Some(policy) = &retry_policy {
        let invalid = |rejection| about.invalid("invalid WorkflowRetryPolicy", &rejection);
        retry::validate(policy).map_err(invalid).map_err(bad)?;
    }
    cron::validate(&attributes.cron_schedule)
        .map_err(|problem| bad(about.invalid("invalid CronSchedule", &problem)))?;
    command.check_values(|problem| {
        format!("invalid SearchAttributes on StartChildWorkflowCommand: {problem}. {}", about.0)
    })?;
    let bytes_max = txn.ctx.limits.id_bytes_max;
    let task_queue = match attributes.task_queue.filter(|task_queue| !task_queue.name.is_empty()) {
        Some(task_queue) => {
            // Written as Go writes a message.
            let shown = format!("name:{:?}  kind:TASK_QUEUE_KIND_NORMAL", task_queue.name);
            validation::task_queue(Some(task_queue), bytes_max)
                .map_err(|problem| format!("{} TaskQueue={shown}", about.invalid("invalid TaskQueue", &problem)))
                .map_err(bad)?
        }
        None => validation::normal_queue(txn.run.task_queue()),
    };
    validation::priority(attributes.priority.as_ref()).map_err(|problem| bad(problem.to_owned()))?;
    deployment::check_override(attributes.versioning_override.as_ref()).map_err(|wrong| bad(wrong.to_string()))?;
    let or = |given: i32, default: i32| if given == 0 { default } else { given };
    Ok(StartChildWorkflowExecutionInitiatedEventAttributes {
        namespace: txn.ctx.namespace.name.clone(),
        namespace_id: txn.ctx.namespace.id.to_string(),
        workflow_id: attributes.workflow_id,
        workflow_type: attributes.workflow_type,
        task_queue: Some(task_queue),
        input: attributes.input,
        workflow_execution_timeout: attributes.workflow_execution_timeout,
        workflow_run_timeout: Some(time::to_proto(timeouts.run)),
        workflow_task_timeout: Some(time::to_proto(timeouts.task)),
        parent_close_policy: or(attributes.parent_close_policy, ParentClosePolicy::Terminate.into()),
        control: attributes.control,
        workflow_task_completed_event_id: command.completed_event_id,
        workflow_id_reuse_policy: or(attributes.workflow_id_reuse_policy, WorkflowIdReusePolicy::AllowDuplicate.into()),
        retry_policy,
        cron_schedule: attributes.cron_schedule,
        header: attributes.header,
        memo: payload_map::memo(attributes.memo),
        search_attributes: payload_map::search_attributes(attributes.search_attributes),
        inherit_build_id: attributes.inherit_build_id,
        priority: attributes.priority,
        versioning_override: attributes.versioning_override,
        ..StartChildWorkflowExecutionInitiatedEventAttributes::default()
    })
}

/// What texts say of the child, behind what is wrong with it.
struct About(String);

impl About {
    fn of(txn: &Txn<'_>, attributes: &StartChildWorkflowExecutionCommandAttributes) -> About {
        let (workflow_id, namespace) = (&attributes.workflow_id, &txn.ctx.namespace.name);
        About(format!("WorkflowId={workflow_id} WorkflowType={} Namespace={namespace}", type_name(attributes)))
    }

    fn invalid(&self, what: &str, problem: &dyn std::fmt::Display) -> String {
        format!("{what} on StartChildWorkflowExecutionCommand: {problem}. {}", self.0)
    }
}

fn type_name(attributes: &StartChildWorkflowExecutionCommandAttributes) -> &str {
    attributes.workflow_type.as_ref().map_or("", |workflow_type| &workflow_type.name)
}

/// Looks at ids and names.
#[expect(deprecated, reason = "old workers name the namespace")]
fn check_names(txn: &Txn<'_>, attributes: &StartChildWorkflowExecutionCommandAttributes) -> Result<(), String> {
    super::check_namespace(txn, &attributes.namespace)?;
    let (workflow_id, namespace) = (&attributes.workflow_id, &txn.ctx.namespace.name);
    let type_name = type_name(attributes);
    if workflow_id.is_empty() {
        return Err(format!(
            "Required field WorkflowId is not set on StartChildWorkflowExecutionCommand. WorkflowType={type_name} \
             Namespace={namespace}"
        ));
    }
    if type_name.is_empty() {
        return Err(format!(
            "Required field WorkflowType is not set on StartChildWorkflowExecutionCommand. WorkflowId={workflow_id} \
             Namespace={namespace}"
        ));
    }
    let limit = txn.ctx.limits.id_bytes_max;
    // The length stands behind what is too long.
    let (id, kind) = (format!("WorkflowId={workflow_id}"), format!("WorkflowType={type_name}"));
    let length = |value: &str| format!("Length={} Limit={limit}", value.len());
    let long = |name: &str, which: &str| {
        format!("{name} on StartChildWorkflowExecutionCommand exceeds length limit. {which} Namespace={namespace}")
    };
    if workflow_id.len() > limit {
        return Err(long("WorkflowId", &format!("{id} {} {kind}", length(workflow_id))));
    }
    if type_name.len() > limit {
        return Err(long("WorkflowType", &format!("{id} {kind} {}", length(type_name))));
    }
    Ok(())
}

/// The timeouts that the event names: a run ends with its chain, and a workflow task with its run.
struct Timeouts {
    /// Zero for "not limited".
    run: Duration,
    task: Duration,
}

impl Timeouts {
    fn of(txn: &Txn<'_>, attributes: &StartChildWorkflowExecutionCommandAttributes) -> Result<Timeouts, String> {
        let given = |timeout: Option<&wkt::Duration>, name: &str| {
            time::positive(timeout)
                .map_err(|wrong| About::of(txn, attributes).invalid(&format!("Invalid {name}"), &wrong))
        };
        let execution = given(attributes.workflow_execution_timeout.as_ref(), "WorkflowExecutionTimeout")?;
        let run = given(attributes.workflow_run_timeout.as_ref(), "WorkflowRunTimeout")?;
        let task = given(attributes.workflow_task_timeout.as_ref(), "WorkflowTaskTimeout")?;
        let limits = txn.ctx.limits;
        let run = execution.into_iter().chain(run).min();
        let task = task.unwrap_or(limits.workflow_task_timeout).min(limits.workflow_task_timeout_max);
        Ok(Timeouts { run: run.unwrap_or_default(), task: run.map_or(task, |run| task.min(run)) })
    }
}

/// Looks at what is copied into several histories.
fn check_sizes(txn: &Txn<'_>, initiated: &StartChildWorkflowExecutionInitiatedEventAttributes) -> Result<(), Invalid> {
    super::check_size(
        txn,
        initiated.input.as_ref(),
        CAUSE,
        "StartChildWorkflowExecutionCommandAttributes. Input exceeds size limit.",
    )?;
    super::check_memo_size(
        txn,
        initiated.memo.as_ref(),
        CAUSE,
        "StartChildWorkflowExecutionCommandAttributes.Memo exceeds size limit.",
    )?;
    super::check_search_attribute_sizes(txn, initiated.search_attributes.as_ref(), CAUSE)
}

/// A child's priority: what the command leaves open is as in the parent.
fn inherited(parent: Option<&Priority>, child: Option<&Priority>) -> Option<Priority> {
    let (Some(parent), Some(child)) = (parent, child) else { return child.or(parent).cloned() };
    Some(fairness::filled_in(child, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_from_its_parent_what_its_own_priority_leaves_open() {
        let priority = |key: i32, fairness: &str, weight: f32| {
            Some(Priority { priority_key: key, fairness_key: fairness.into(), fairness_weight: weight })
        };
        for (parent, child, expected) in [
            (None, None, None),
            (priority(2, "a", 1.5), None, priority(2, "a", 1.5)),
            (None, priority(1, "", 0.0), priority(1, "", 0.0)),
            (priority(2, "a", 1.5), priority(1, "", 0.0), priority(1, "a", 1.5)),
            (priority(2, "a", 1.5), priority(0, "b", 2.0), priority(2, "b", 2.0)),
        ] {
            assert_eq!(inherited(parent.as_ref(), child.as_ref()), expected);
        }
    }
}
