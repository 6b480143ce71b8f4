//! ProtocolMessage: the place, among the commands, of a message that answers an update.

use everlog_proto::api::command::v1::ProtocolMessageCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause;
use everlog_proto::api::protocol::v1::Message;

use super::{CommandContext, Invalid};
use crate::txn::Txn;
use crate::updates;

const CAUSE: WorkflowTaskFailedCause = WorkflowTaskFailedCause::BadUpdateWorkflowExecutionMessage;

/// Takes in the message that the command names.
pub(super) fn apply(
    txn: &mut Txn<'_>,
    command: &CommandContext,
    messages: &mut Vec<Message>,
    attributes: &ProtocolMessageCommandAttributes,
) -> Result<(), Invalid> {
    let id = &attributes.message_id;
    if id.is_empty() {
        return Err(Invalid::new(CAUSE, "MessageID is not set on ProtocolMessageCommand."));
    }
    let Some(position) = messages.iter().position(|message| message.id == *id) else {
        return Err(Invalid::new(CAUSE, format!("ProtocolMessageCommand referenced absent message ID {id}")));
    };
    let message = messages.remove(position);
    updates::receive(txn, &message, command.completed_event_id)
}
