//! Polls: they come, wait and go.

use std::time::Duration;

use everlog_model::limits;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::Poll;
use super::super::scaling::Waited;
use super::super::tasks::Tasks;
use super::{Admission, Queue, StickyLine, Ticket};

impl Queue {
    /// A worker polls the normal queue, or a sticky one in front of it.
    pub(crate) fn poll(&mut self, poll: &Poll, sticky: Option<&str>, now: Instant) -> Admission {
        self.last_used = now;
        if let Some(per_second) = poll.tasks_per_second_max
            && sticky.is_none()
            && self.rate.set_worker(per_second, now)
        {
            // The wake that may be set is one for the old rate.
            self.wake_at = None;
        }
        self.want_rows();
        let number = self.next_number();
        let line = match sticky {
            None => &mut self.line,
            Some(name) => {
                if !self.sticky.contains_key(name) {
                    self.sticky.insert(name.to_owned(), StickyLine::default());
                }
                &mut self.sticky.get_mut(name).expect("it was just put there").line
            }
        };
        line.note_poll(poll, now);
        if line.polls() >= limits::QUEUE_POLLS_MAX {
            return Admission::Refused;
        }
        if !line.has_polls() {
            let granted = match sticky {
                None => self.next_normal(now),
                Some(name) => self.next_sticky(name, now),
            };
            if let Some(grant) = granted {
                let waited = Waited { poll: Duration::ZERO, task: true };
                let hint = self.hint(sticky, &poll.scaling, waited, now);
                return Admission::Granted(grant.with(hint));
            }
        }
        let (sender, receiver) = oneshot::channel();
        let line = match sticky.map(|name| self.sticky.get_mut(name)) {
            Some(Some(sticky)) => &mut sticky.line,
            _ => &mut self.line,
        };
        line.join(number, poll, &self.meters, sender, now);
        // With others in front only a changed rate can make a difference.
        if sticky.is_none() {
            self.hand_out(now);
        }
        Admission::Waiting(Ticket {
            queue: self.id.clone(),
            sticky: sticky.map(str::to_owned),
            number,
            grant: receiver,
        })
    }

    pub(crate) fn leave(&mut self, sticky: Option<&str>, number: u64, now: Instant) {
        self.last_used = now;
        let line = match sticky {
            None => Some(&mut self.line),
            Some(name) => self.sticky.get_mut(name).map(|sticky| &mut sticky.line),
        };
        if let Some(line) = line {
            line.leave(number, now);
        }
    }

    pub(crate) fn end_polls(&mut self) {
        self.line.end_polls();
        self.sticky.values_mut().for_each(|sticky| sticky.line.end_polls());
    }

    /// Ends the polls of a worker process. One that does not name itself has none that could be told from others'.
    pub(crate) fn end_polls_of(&mut self, worker_instance_key: &str) {
        if !worker_instance_key.is_empty() {
            self.line.end_polls_of(worker_instance_key);
            self.sticky.values_mut().for_each(|sticky| sticky.line.end_polls_of(worker_instance_key));
        }
    }

    /// The worker of a sticky queue is gone: what waits there goes to the normal queue.
    pub(crate) fn close_sticky(&mut self, name: &str, now: Instant) {
        let Some(sticky) = self.sticky.get_mut(name) else { return };
        sticky.line.end_polls();
        sticky.line.forget_pollers();
        let tasks = std::mem::take(&mut sticky.tasks);
        let queries = std::mem::take(&mut sticky.line.queries);
        for ((_, _, position), task) in tasks {
            self.in_sticky.remove(&position);
            // Nobody polls the queue without a name itself: the workflow offers the task to its normal queue once it has waited here.
            if !self.id.name.is_empty() {
                self.place(position, task, now, Tasks::put_back);
            }
        }
        for (address, query) in queries.into_values() {
            self.offer_query(address, query, now);
        }
    }
}
