//! What the close of a run means for its parent and its children, and for whoever else is to be told.
//!
//! Both hear of it by messages (see [`crate::outbox`]). A run may have more children than belong into one entry of the log: those that
//! are left are told when the run is looked at next, at once, and no closed run is deleted before.

mod callbacks;

pub(crate) use callbacks::settle as settle_callback;

use everlog_proto::api::history::v1::history_event::Attributes;

use crate::commands::send;
use crate::outbox::{ChildClosed, MessageBody, OutboxMessage, ParentClosed, ScheduledClosed};
use crate::transition::Effect;
use crate::txn::Txn;

/// Tells parent, schedule, children and others that the run has closed in this change, by `closing` if it has any of those but children.
pub(crate) fn closed(txn: &mut Txn<'_>, closing: Option<Attributes>) {
    forget_unsent_starts(txn);
    // Nobody waits for what they lead to.
    txn.effects.retain(|effect| !matches!(effect, Effect::CallNexus(_)));
    if txn.is_reset {
        // The run that goes on from it has the same parent and the same children.
        txn.run.children.remove_all(|_| true);
        return;
    }
    // A run that is followed by another one is not the child's end.
    if txn.successor.is_none()
        && let Some(closing) = closing
    {
        callbacks::tell(txn, &closing);
        tell_schedule(txn, &closing);
        tell_parent(txn, closing);
    }
    tell_children(txn);
}

/// Takes back starts of children that were asked for in the change in which the run closes. (Temporal starts no child for a closed
/// run.)
fn forget_unsent_starts(txn: &mut Txn<'_>) {
    let mut unsent = Vec::new();
    txn.effects.retain(|effect| match effect {
        Effect::Send(message) if message.begins_workflow() => {
            unsent.push(message.event_id);
            false
        }
        _ => true,
    });
    for event_id in unsent {
        txn.run.children.remove(&event_id);
    }
}

fn tell_schedule(txn: &mut Txn<'_>, closing: &Attributes) {
    let Some(schedule_id) = txn.run.info.scheduled_by.clone() else { return };
    let first_run_id = txn.run.first_run_id().to_string();
    let closed = ScheduledClosed::by(first_run_id, txn.run.state.status, closing.clone());
    let closing_event_id = txn.run.state.next_event_id - 1;
    let body = MessageBody::ScheduledClosed(Box::new(closed));
    send(txn, closing_event_id, schedule_id.to_string(), None, body);
}

fn tell_parent(txn: &mut Txn<'_>, closing: Attributes) {
    let started = txn.run.info.started.decode();
    let Some(parent) = started.parent_workflow_execution else { return };
    let first_run_id = txn.run.first_run_id();
    let Some(closed) = ChildClosed::by(started.parent_initiated_event_id, first_run_id, closing) else { return };
    let closing_event_id = txn.run.state.next_event_id - 1;
    let body = MessageBody::ChildClosed(Box::new(closed));
    send(txn, closing_event_id, parent.workflow_id, parent.run_id.parse().ok(), body);
}

/// Tells children of a closed run that it has closed: as many of those that do not know it as may be told at a time.
pub(crate) fn tell_children(txn: &mut Txn<'_>) {
    let limit = txn.ctx.limits.children_told_max;
    let told: Vec<_> = txn.run.children.iter().take(limit).map(|(id, child)| (*id, child.clone())).collect();
    for (initiated_event_id, child) in told {
        txn.run.children.remove(&initiated_event_id);
        txn.touch();
        let policy = child.parent_close_policy.into();
        let body = MessageBody::ParentClosed(ParentClosed { initiated_event_id, policy });
        // To the chain, whichever of its runs is the current one.
        send(txn, OutboxMessage::NO_EVENT, child.workflow_id, None, body);
    }
}
