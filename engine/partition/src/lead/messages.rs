//! Messages to other workflows: sent once their rows are durable, and again until it is known what became of them.

use std::sync::Arc;

use everlog_kernel::outbox::OutboxMessage;
use everlog_model::WorkflowRef;
use everlog_storage::keys::OutboxKey;
use everlog_storage::state::RowChange;

use super::super::job::{Charge, Job, Work};
use super::super::outbox::{Delivery, OutboxPage};
use super::{Action, Lead};

impl Lead {
    /// Puts a message into the outbox, with the rows of the transition that sends it.
    pub(super) fn send(&mut self, address: &WorkflowRef, message: OutboxMessage) {
        let row = self.outbox.add(message, address.slot(), self.clock.now(), self.batches.sequence);
        self.batches.forming.push(row);
        self.outbox_messages.set(self.outbox.len() as f64);
    }

    /// Sends what may be sent.
    pub(super) fn deliver(&mut self) {
        let parcels = self.outbox.take(self.now());
        if !parcels.is_empty() {
            self.actions.push(Action::Deliver(parcels));
        }
    }

    /// Takes in messages that earlier leads have left.
    pub(crate) fn add_outbox(&mut self, page: Result<OutboxPage, String>) {
        match page {
            Ok(OutboxPage { parcels, next }) => {
                self.outbox.add_page(parcels);
                self.outbox_messages.set(self.outbox.len() as f64);
                match next {
                    Some(next) => self.actions.push(Action::ReadOutbox { start: Some(next) }),
                    None => {
                        self.outbox.reading = false;
                        self.outbox.settle(self.batches.committed);
                    }
                }
            }
            // Going on would lose messages without a trace.
            Err(error) => self.actions.push(Action::Fail(format!("the outbox cannot be read: {error}"))),
        }
    }

    /// A message that was sent has come back. What became of it is recorded in its workflow, and its row goes with the same batch.
    pub(crate) fn delivered(&mut self, key: OutboxKey, delivery: Delivery) {
        let Some(message) = self.outbox.come_back(key, delivery, self.clock.now()) else { return };
        let Delivery::Settled(outcome) = delivery else { return };
        let Some(namespace) = self.settings.namespaces.by_id(message.namespace_id) else { return };
        let address = WorkflowRef { namespace, workflow_id: Arc::from(message.source_workflow_id.as_str()) };
        let work = Work::Settle { message: key, event_id: message.event_id, outcome };
        self.take(Job { address, run_id: Some(message.source_run_id), work, charge: Charge::default() });
    }

    /// Deletes the row of a message.
    pub(super) fn forget_message(&mut self, key: OutboxKey) {
        self.batches.forming.count_command(self.instant);
        self.batches.forming.push(RowChange::Delete { key: key.encode() });
        self.outbox.remove(key);
        self.outbox_messages.set(self.outbox.len() as f64);
    }
}
