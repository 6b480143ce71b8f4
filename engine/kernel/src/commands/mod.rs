//! One file per workflow command: what a worker's workflow task asks for.
//!
//! Each has an `apply(txn, command, attributes)` that appends the command's event and changes the run, or says why the whole
//! workflow task is invalid. The caller throws everything away that a task did before an invalid command.

mod attributes;
mod cancel_timer;
mod cancel_workflow;
mod complete_workflow;
mod continue_as_new;
mod fail_workflow;
mod modify_properties;
mod protocol_message;
mod record_marker;
mod request_cancel_activity_task;
pub(crate) mod request_cancel_external_workflow;
mod request_cancel_nexus_operation;
mod schedule_activity_task;
mod schedule_nexus_operation;
pub(crate) mod signal_external_workflow;
pub(crate) mod start_child_workflow;
mod start_timer;
mod upsert_search_attributes;

use std::fmt;

use everlog_proto::api::command::v1::Command;
use everlog_proto::api::command::v1::command::Attributes as CommandAttributes;
use everlog_proto::api::common::v1::SearchAttributes;
use everlog_proto::api::enums::v1::{CommandType, WorkflowTaskFailedCause};
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::protocol::v1::Message as ProtocolMessage;
use everlog_proto::api::sdk::v1::{EventGroupMarker, UserMetadata};

use prost::Message;

use crate::command::{Objections, SearchAttributeObjection};
use crate::outbox::{MessageBody, OutboxMessage};
use crate::transition::Effect;
use crate::txn::Txn;
use crate::{Rejection, RunId, validation};

/// What the commands of one workflow task have in common with each other and with their events.
pub(crate) struct CommandContext {
    /// The WorkflowTaskCompleted event.
    pub(crate) completed_event_id: i64,
    /// The worker.
    pub(crate) identity: String,
    /// Copied from the command onto its event.
    pub(crate) user_metadata: Option<UserMetadata>,
    /// Copied from the command onto its event.
    pub(crate) event_group_markers: Vec<EventGroupMarker>,
    /// What is wrong with its search attributes.
    pub(crate) objection: Option<SearchAttributeObjection>,
}

/// Why a workflow task is invalid: it is recorded as failed with this cause.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Invalid {
    /// The cause in the WorkflowTaskFailed event.
    pub(crate) cause: WorkflowTaskFailedCause,
    /// For people.
    pub(crate) message: String,
    /// The run asks for more than it may have, and would ask again: it is terminated.
    pub(crate) terminates: bool,
}

impl Invalid {
    /// With a cause and a message.
    pub(crate) fn new(cause: WorkflowTaskFailedCause, message: impl Into<String>) -> Invalid {
        Invalid { cause, message: message.into(), terminates: false }
    }

    /// Something in a command is larger than allowed.
    pub(crate) fn too_large(cause: WorkflowTaskFailedCause, message: impl Into<String>) -> Invalid {
        Invalid { terminates: true, ..Invalid::new(cause, message) }
    }

    /// Whether it is recorded even from the second attempt of a task on.
    pub(crate) fn is_recorded(&self) -> bool {
        self.terminates || self.cause == WorkflowTaskFailedCause::UnhandledCommand
    }

    /// The workflow wants to close, but has not seen everything that happened.
    fn unhandled_command() -> Invalid {
        Invalid::new(WorkflowTaskFailedCause::UnhandledCommand, "")
    }

    /// The command is not built yet.
    fn unsupported(command: &str) -> Invalid {
        let message = format!("{command} is not supported by this server yet");
        Invalid::new(WorkflowTaskFailedCause::FeatureDisabled, message)
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "{:?}", self.cause),
            message => write!(f, "{:?}: {message}", self.cause),
        }
    }
}

impl CommandContext {
    /// Refuses search attributes that the namespace does not have.
    fn check_known(&self) -> Result<(), Invalid> {
        match &self.objection {
            Some(SearchAttributeObjection::Unknown(problem)) => {
                Err(Invalid::new(WorkflowTaskFailedCause::BadSearchAttributes, problem.as_str()))
            }
            _ => Ok(()),
        }
    }

    /// Refuses search attributes with values that are none. `told` makes a message of what is wrong.
    fn check_values(&self, told: impl Fn(&str) -> String) -> Result<(), Invalid> {
        match &self.objection {
            Some(SearchAttributeObjection::Invalid(problem)) => {
                Err(Invalid::new(WorkflowTaskFailedCause::BadSearchAttributes, told(problem)))
            }
            _ => Ok(()),
        }
    }

    /// Appends the command's event. Returns its id.
    pub(crate) fn append(&mut self, txn: &mut Txn<'_>, attributes: Attributes) -> i64 {
        txn.append_event(HistoryEvent {
            attributes: Some(attributes),
            user_metadata: self.user_metadata.take(),
            event_group_markers: std::mem::take(&mut self.event_group_markers),
            ..HistoryEvent::default()
        })
    }
}

/// Refuses a list of commands that can never be right, whatever the run's state: one that goes on after its end.
pub(crate) fn check_sequence(commands: &[Command]) -> Result<(), Rejection> {
    if let Some(unknown) = commands.iter().find_map(|command| attributes::command_type(command).err()) {
        return Err(Rejection::invalid(format!("unknown command type: {unknown}")));
    }
    let Some(close) = commands.iter().position(closes).filter(|close| close + 1 < commands.len()) else {
        return Ok(());
    };
    let names: Vec<_> = commands.iter().map(|command| format!("{:?}", command.command_type())).collect();
    Err(Rejection::invalid(format!(
        "invalid command sequence: [{}], command {} must be the last command.",
        names.join(", "),
        names[close]
    )))
}

fn closes(command: &Command) -> bool {
    matches!(
        command.command_type(),
        CommandType::CompleteWorkflowExecution
            | CommandType::FailWorkflowExecution
            | CommandType::CancelWorkflowExecution
            | CommandType::ContinueAsNewWorkflowExecution
    )
}

/// Carries out the commands of a completed workflow task, up to the first that is invalid. The messages that commands name are taken
/// out of `messages`.
pub(crate) fn apply_all(
    txn: &mut Txn<'_>,
    completed_event_id: i64,
    identity: &str,
    commands: Vec<Command>,
    messages: &mut Vec<ProtocolMessage>,
    mut objections: Objections,
) -> Result<(), Invalid> {
    let first_own = txn.run.state.next_buffered;
    for (place, command) in commands.into_iter().enumerate() {
        // A command may have taken the event back (a timer that has fired is canceled), so this is looked at each time. What
        // the commands themselves have caused is known to the workflow.
        let unseen = txn.run.buffered.keys().any(|sequence| *sequence < first_own);
        if unseen && closes(&command) {
            return Err(Invalid::unhandled_command());
        }
        let attributes = attributes::attributes(command.command_type(), command.attributes)?;
        let mut context = CommandContext {
            completed_event_id,
            identity: identity.to_owned(),
            user_metadata: command.user_metadata,
            event_group_markers: command.event_group_markers,
            objection: objections.search_attributes.remove(&place),
        };
        match attributes {
            CommandAttributes::ProtocolMessageCommandAttributes(a) => {
                protocol_message::apply(txn, &context, messages, &a)?;
            }
            CommandAttributes::ScheduleNexusOperationCommandAttributes(a) => {
                schedule_nexus_operation::apply(txn, &mut context, a, &objections.nexus_endpoints)?;
            }
            attributes => apply(txn, &mut context, attributes)?,
        }
    }
    Ok(())
}

fn apply(txn: &mut Txn<'_>, command: &mut CommandContext, attributes: CommandAttributes) -> Result<(), Invalid> {
    use CommandAttributes as A;
    match attributes {
        A::ScheduleActivityTaskCommandAttributes(a) => schedule_activity_task::apply(txn, command, a),
        A::RequestCancelActivityTaskCommandAttributes(a) => request_cancel_activity_task::apply(txn, command, a),
        A::StartTimerCommandAttributes(a) => start_timer::apply(txn, command, a),
        A::CancelTimerCommandAttributes(a) => cancel_timer::apply(txn, command, a),
        A::RecordMarkerCommandAttributes(a) => record_marker::apply(txn, command, a),
        A::UpsertWorkflowSearchAttributesCommandAttributes(a) => upsert_search_attributes::apply(txn, command, a),
        A::ModifyWorkflowPropertiesCommandAttributes(a) => modify_properties::apply(txn, command, a),
        A::CompleteWorkflowExecutionCommandAttributes(a) => complete_workflow::apply(txn, command, a),
        A::FailWorkflowExecutionCommandAttributes(a) => fail_workflow::apply(txn, command, a),
        A::CancelWorkflowExecutionCommandAttributes(a) => cancel_workflow::apply(txn, command, a),
        A::ContinueAsNewWorkflowExecutionCommandAttributes(a) => continue_as_new::apply(txn, command, a),
        A::StartChildWorkflowExecutionCommandAttributes(a) => start_child_workflow::apply(txn, command, a),
        A::RequestCancelExternalWorkflowExecutionCommandAttributes(a) => {
            request_cancel_external_workflow::apply(txn, command, a)
        }
        A::SignalExternalWorkflowExecutionCommandAttributes(a) => signal_external_workflow::apply(txn, command, a),
        A::ProtocolMessageCommandAttributes(_) => unsupported(CommandType::ProtocolMessage),
        A::RequestCancelNexusOperationCommandAttributes(a) => request_cancel_nexus_operation::apply(txn, command, a),
        A::ScheduleNexusOperationCommandAttributes(_) => unsupported(CommandType::ScheduleNexusOperation),
    }
}

fn unsupported(command: CommandType) -> Result<(), Invalid> {
    Err(Invalid::unsupported(&format!("{command:?}")))
}

/// Checks that a command to another workflow stays within the namespace.
fn check_namespace(txn: &Txn<'_>, namespace: &str) -> Result<(), String> {
    let is_own = namespace.is_empty() || namespace == txn.ctx.namespace.name;
    if is_own { Ok(()) } else { Err("cross namespace commands are not allowed".to_owned()) }
}

/// The run that a command names, if it names one. `None` if what it names is no run.
fn target_run_id(run_id: &str) -> Option<Option<RunId>> {
    if run_id.is_empty() { Some(None) } else { run_id.parse().ok().map(Some) }
}

/// Puts a message to another workflow of the namespace into the outbox, which the event with that id tells of.
pub(crate) fn send(
    txn: &mut Txn<'_>,
    event_id: i64,
    target_workflow_id: String,
    target_run_id: Option<RunId>,
    body: MessageBody,
) {
    let sent_with = match &body {
        MessageBody::ParentClosed(closed) => closed.initiated_event_id,
        _ => event_id,
    };
    txn.effects.push(Effect::Send(Box::new(OutboxMessage {
        namespace_id: txn.ctx.namespace.id,
        source_workflow_id: txn.workflow_id.to_owned(),
        source_run_id: txn.run.id,
        origin_run_id: txn.run.inherited_from(sent_with),
        event_id,
        sent: txn.ctx.now,
        target_workflow_id,
        target_run_id,
        body,
    })));
}

/// Checks that a part of a command is not larger than [`crate::Limits::blob_bytes_max`].
fn check_size<M: Message>(
    txn: &Txn<'_>,
    part: Option<&M>,
    cause: WorkflowTaskFailedCause,
    message: &str,
) -> Result<(), Invalid> {
    match part {
        Some(part) if part.encoded_len() > txn.ctx.limits.blob_bytes_max => Err(Invalid::too_large(cause, message)),
        _ => Ok(()),
    }
}

/// Checks that search attributes are not larger than limits allow, each and all together.
fn check_search_attribute_sizes(
    txn: &Txn<'_>,
    attributes: Option<&SearchAttributes>,
    cause: WorkflowTaskFailedCause,
) -> Result<(), Invalid> {
    let Some(attributes) = attributes else { return Ok(()) };
    validation::search_attribute_sizes(attributes, txn.ctx.limits).map_err(|problem| Invalid::too_large(cause, problem))
}

/// Checks that a memo is not larger than [`crate::Limits::memo_bytes_max`].
fn check_memo_size<M: Message>(
    txn: &Txn<'_>,
    memo: Option<&M>,
    cause: WorkflowTaskFailedCause,
    message: &str,
) -> Result<(), Invalid> {
    match memo {
        Some(memo) if memo.encoded_len() > txn.ctx.limits.memo_bytes_max => Err(Invalid::too_large(cause, message)),
        _ => Ok(()),
    }
}
