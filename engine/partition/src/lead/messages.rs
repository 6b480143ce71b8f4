//! Messages to other workflows: sent once their rows are durable, and again until it is known what became of them.

use std::sync::Arc;

use everlog_kernel::command::Reply;
use everlog_kernel::outbox::{OutboxMessage, Recipient};
use everlog_kernel::{Command, RunCommand, Workflow};
use everlog_model::{EntityRef, WorkflowRef, limits};
use everlog_storage::keys::OutboxKey;
use everlog_storage::state::RowChange;

use super::super::job::{Answer, Charge, Job, Work};
use super::super::load::{LoadRequest, MessageSearch};
use super::super::outbox::{Delivery, OutboxPage, Overdue};
use super::{Action, Lead, Outgoing};

/// What metrics tell of the outbox of a partition.
pub(super) struct OutboxMetrics {
    messages: metrics::Gauge,
    /// Seconds for which the oldest message has been there.
    oldest: metrics::Gauge,
    /// Messages that have not arrived for [`limits::OUTBOX_OVERDUE`]; each lead counts those that it finds.
    overdue: metrics::Counter,
}

impl OutboxMetrics {
    pub(super) fn new(partition: &str) -> OutboxMetrics {
        let label = || partition.to_owned();
        OutboxMetrics {
            messages: metrics::gauge!("everlog_outbox_messages", "partition" => label()),
            oldest: metrics::gauge!("everlog_outbox_oldest_seconds", "partition" => label()),
            overdue: metrics::counter!("everlog_outbox_overdue_total", "partition" => label()),
        }
    }

    /// The messages are another lead's from now on.
    pub(super) fn clear(&self) {
        self.messages.set(0.0);
        self.oldest.set(0.0);
    }
}

impl Lead {
    /// Puts a message into the outbox, with the rows of the transition that sends it.
    pub(super) fn send(&mut self, address: &WorkflowRef, message: OutboxMessage) {
        let row = self.outbox.add(message, address.slot(), self.clock.now(), self.batches.sequence);
        self.batches.forming.push(row);
        self.outbox_metrics.messages.set(self.outbox.len() as f64);
    }

    /// Sends what may be sent.
    pub(super) fn deliver(&mut self) {
        if let Some(overdue) = self.outbox.look(self.now()) {
            self.tell_overdue(&overdue);
        }
        let parcels = self.outbox.take(self.now());
        if !parcels.is_empty() {
            self.actions.push(Action::Deliver(parcels));
        }
    }

    fn tell_overdue(&self, overdue: &Overdue) {
        self.outbox_metrics.oldest.set(overdue.oldest.as_secs_f64());
        self.outbox_metrics.overdue.increment(overdue.count);
        let Some(first) = &overdue.first else { return };
        tracing::warn!(
            partition = %self.partition,
            messages = overdue.count,
            namespace_id = %first.namespace_id,
            source_workflow_id = first.source_workflow_id,
            source_run_id = %first.source_run_id,
            event_id = first.event_id,
            target_workflow_id = first.target_workflow_id,
            "messages to other workflows have not arrived for {:?}, this one among them; they are sent on",
            limits::OUTBOX_OVERDUE
        );
    }

    /// Takes in messages that earlier leads have left.
    pub(crate) fn add_outbox(&mut self, page: Result<OutboxPage, String>) {
        match page {
            Ok(OutboxPage { mut parcels, next }) => {
                self.set_parcels_aside(&mut parcels);
                self.outbox.add_page(parcels);
                self.outbox_metrics.messages.set(self.outbox.len() as f64);
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
        let source = message.body.source_kind();
        let work = Work::Settle { message: key, source, event_id: message.event_id, outcome };
        self.take(Job {
            address,
            run_id: Some(message.source_run_id),
            work,
            operation: None,
            charge: Charge::default(),
        });
    }

    /// Hands a job back once it is known which run it is for. Only for a message that names no run earlier ones may have to be
    /// searched: the job waits meanwhile, and one whose message was found there is done.
    pub(super) fn find_recipient(&mut self, key: &EntityRef, job: Job) -> Option<Job> {
        let Work::Command { command: Command::Run(RunCommand::ReceiveMessage(message)), .. } = &job.work else {
            return Some(job);
        };
        let entry = self.cache.get_mut(key)?;
        let goes_on = |workflow: &Workflow| workflow.goes_on_as(job.run_id?, message);
        if let Some(run_id) = entry.workflow.as_ref().and_then(goes_on) {
            self.admit(key.clone(), Job { run_id: Some(run_id), ..job });
            return None;
        }
        let workflow = entry.workflow.as_ref().filter(|_| job.run_id.is_none());
        let Some(Recipient::CurrentUnless { from }) = workflow.map(|workflow| workflow.recipient(message)) else {
            return Some(job);
        };
        let search = MessageSearch { message_id: message.id(), sent: message.sent, from };
        match entry.searches.iter().find(|(asked, _)| *asked == search) {
            Some((_, Some(false))) => return Some(job),
            Some((_, Some(true))) => {
                if let Work::Command { reply: Some(reply), .. } = job.work {
                    self.answers.push(Outgoing::Reply(reply, Ok(Answer { reply: Reply::Done, history: None })));
                }
                return None;
            }
            Some((_, None)) => {}
            None => {
                entry.searches.push((search.clone(), None));
                self.loads += 1;
                let search = Some(search);
                let (entity, born) = (key.clone(), entry.born);
                let request = LoadRequest { entity, born, runs: Vec::new(), with_current: false, search };
                self.actions.push(Action::Load(request));
            }
        }
        entry.waiting.push(job);
        None
    }

    /// Deletes the row of a message.
    pub(super) fn forget_message(&mut self, key: OutboxKey) {
        self.batches.forming.count_command(self.instant);
        self.batches.forming.push(RowChange::Delete { key: key.encode() });
        self.outbox.remove(key);
        self.outbox_metrics.messages.set(self.outbox.len() as f64);
    }
}
