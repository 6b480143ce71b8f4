//! Takes what leads have for queues to the nodes where these are at home.
//!
//! ```text
//!   lead ──message──▶ Offers ──at home here──▶ Matching
//!                       └─▶ line of a node ──one batch at a time──▶ that node
//! ```
//!
//! There is a line for each other node, and in each batch goes whatever has gathered since the last one. Batches are numbered; each node is
//! told every second how many there were, so that it finds out what it has missed, and reads rows instead. Only queries, which have no
//! rows, are sent again if a batch may not have arrived.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use everlog_kernel::NamespaceId;
use everlog_matching::{Homes, Matching, Message, Source};
use everlog_model::{NodeId, QueueId, SlotSet, SlotSource, limits, slot_of};
use everlog_partition::Leaders;
use everlog_proto::internal::{OfferRequest, OfferedQuery, OfferedTask};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Nodes;
use crate::wire::{lead_to_wire, query_to_wire, task_to_wire};

/// What leads have for queues at other nodes.
pub struct Offers {
    nodes: Arc<Nodes>,
    slots: Arc<dyn SlotSource>,
    leaders: Arc<dyn Leaders>,
    lines: Mutex<HashMap<NodeId, Sending>>,
    runtime: Handle,
    /// The queues of this node, once they are there.
    matching: OnceLock<Weak<Matching>>,
}

/// Where a queue is at home: where the partition is led that its name hashes to.
enum Home {
    Here,
    There(NodeId),
    /// Nobody is known to lead that at the moment.
    Unknown,
}

/// A line that is being worked off.
struct Sending {
    line: Arc<Line>,
    task: JoinHandle<()>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Offers {
    /// Offers to the other nodes. Must be called within a tokio runtime, which then also carries them.
    pub fn new(nodes: Arc<Nodes>, slots: Arc<dyn SlotSource>, leaders: Arc<dyn Leaders>) -> Arc<Offers> {
        let runtime = Handle::current();
        let (lines, matching) = (Mutex::default(), OnceLock::new());
        let offers = Arc::new(Offers { nodes, slots, leaders, lines, runtime, matching });
        offers.runtime.spawn(keep_up(Arc::downgrade(&offers)));
        offers
    }

    /// Names the queues of this node, which are to be told when it becomes the home of others.
    pub fn set_matching(&self, matching: &Arc<Matching>) {
        // They are named once.
        let _ = self.matching.set(Arc::downgrade(matching));
    }

    /// Where a queue is at home.
    fn home(&self, namespace_id: NamespaceId, name: &str) -> Home {
        let partition = self.slots.partition_of(namespace_id, slot_of(namespace_id, name));
        let Some(partition) = partition else { return Home::Unknown };
        match self.leaders.leads_elsewhere(partition) {
            Some(node) => Home::There(node),
            None if self.nodes.book.leads(partition) => Home::Here,
            None => Home::Unknown,
        }
    }

    fn with_line(&self, node: NodeId, add: impl FnOnce(&mut Waiting)) {
        let mut lines = self.lines.lock();
        let sending = lines.entry(node).or_insert_with(|| {
            let line = Arc::new(Line::default());
            let task = self.runtime.spawn(work_off(Arc::clone(&line), Arc::clone(&self.nodes), node));
            Sending { line, task }
        });
        add(&mut sending.line.waiting.lock());
        sending.line.wake.notify_one();
    }

    fn with_all_lines(&self, add: impl Fn(&mut Waiting)) {
        for node in self.nodes.peers().nodes() {
            self.with_line(node, &add);
        }
    }

    /// Sees to it that every node is told what there is to tell.
    fn announce(&self) {
        self.with_all_lines(|waiting| waiting.is_to_announce = true);
    }

    fn opened(&self, source: Source) {
        let missed = self.nodes.book.open(source);
        if let Some(matching) = self.matching.get().and_then(Weak::upgrade) {
            missed.into_iter().for_each(|message| matching.receive(message));
        }
        self.announce();
    }

    fn closed(&self, source: Source) {
        self.nodes.book.close(source);
        self.announce();
        // Whoever polls queues that were at home here is to do it at their next home.
        if let Some(matching) = self.matching.get().and_then(Weak::upgrade) {
            let home = |queue: &QueueId| self.slots.partition_of(queue.namespace_id, queue.slot());
            let was_here = |queue: &QueueId| home(queue) == Some(source.partition);
            matching.end_polls_of(was_here);
        }
    }
}

impl Offers {
    /// Ends the polls of a namespace's queues in these slots that are not at home here any more. They come back where they are.
    pub(crate) fn end_polls_elsewhere(&self, namespace_id: NamespaceId, slots: &SlotSet) {
        let is_elsewhere = |queue: &QueueId| {
            queue.namespace_id == namespace_id
                && slots.contains(queue.slot())
                && !matches!(self.home(queue.namespace_id, &queue.name), Home::Here)
        };
        if let Some(matching) = self.matching.get().and_then(Weak::upgrade) {
            matching.end_polls_of(is_elsewhere);
        }
    }

    /// Has all nodes read what this one leads, for all their queues: some of that may have been offered to the wrong ones.
    pub(crate) fn leave_out(&self) {
        self.with_all_lines(|waiting| waiting.has_left_out = true);
        self.announce();
    }
}

impl Homes for Offers {
    fn pass_on(&self, message: Message) -> Option<Message> {
        match message {
            Message::Opened(source) => self.opened(source),
            Message::Closed(source) => self.closed(source),
            Message::Missed(_) => {}
            Message::WithdrawQuery { query_id } => self.with_all_lines(|waiting| waiting.withdraw(query_id)),
            Message::Task { source, workflow, task } => {
                let node = match self.home(workflow.namespace.id, &task.key.task_queue) {
                    Home::Here => return Some(Message::Task { source, workflow, task }),
                    Home::There(node) => node,
                    Home::Unknown => {
                        // Wherever it is: that node reads the rows once it hears that something was left out. If it is this one, it does so
                        // when it begins to lead.
                        self.with_all_lines(|waiting| waiting.has_left_out = true);
                        return None;
                    }
                };
                let task = OfferedTask { lead: Some(lead_to_wire(source)), task: Some(task_to_wire(&workflow, task)) };
                self.with_line(node, |waiting| waiting.add_task(task));
                return None;
            }
            Message::Query { workflow, query } => {
                let Home::There(node) = self.home(workflow.namespace.id, &query.task_queue) else {
                    return Some(Message::Query { workflow, query });
                };
                self.with_line(node, |waiting| waiting.add_query(query_to_wire(&workflow, query)));
                return None;
            }
        }
        Some(message)
    }

    fn is_here(&self, queue: &QueueId) -> bool {
        // Polls that do not name the queue behind a sticky one wait where they come.
        queue.name.is_empty() || matches!(self.home(queue.namespace_id, &queue.name), Home::Here)
    }
}

/// What waits to be sent to a node.
#[derive(Default)]
struct Line {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    tasks: Vec<OfferedTask>,
    queries: VecDeque<OfferedQuery>,
    withdrawn: Vec<u64>,
    is_to_announce: bool,
    /// Something was left out since the last batch.
    has_left_out: bool,
    /// Batches so far, those that were lost or left out included.
    batches: u64,
}

impl Waiting {
    fn add_task(&mut self, task: OfferedTask) {
        if self.tasks.len() < limits::OFFERS_WAITING_MAX {
            self.tasks.push(task);
        } else {
            self.has_left_out = true;
        }
    }

    fn add_query(&mut self, query: OfferedQuery) {
        if self.queries.len() < limits::OFFERS_WAITING_MAX {
            self.queries.push_back(query);
        } else {
            tracing::warn!(queue = query.task_queue, "a query is dropped: too many wait for another node");
        }
    }

    fn withdraw(&mut self, query_id: u64) {
        let before = self.queries.len();
        self.queries.retain(|query| query.query_id != query_id);
        if self.queries.len() == before && self.withdrawn.len() < limits::OFFERS_WAITING_MAX {
            self.withdrawn.push(query_id);
        }
    }

    /// The number of the last batch that the node should have heard of.
    fn count_batches(&mut self) -> u64 {
        self.batches += u64::from(std::mem::take(&mut self.has_left_out));
        self.batches
    }

    fn has_batch(&self) -> bool {
        !(self.tasks.is_empty() && self.queries.is_empty() && self.withdrawn.is_empty())
    }

    /// The next batch with its number.
    fn next_batch(&mut self) -> Option<(u64, OfferRequest)> {
        if !self.has_batch() {
            return None;
        }
        let tasks = if self.tasks.len() > limits::OFFER_TASKS_MAX {
            self.tasks.drain(..limits::OFFER_TASKS_MAX).collect()
        } else {
            std::mem::take(&mut self.tasks)
        };
        let (mut queries, mut bytes) = (Vec::new(), 0);
        while bytes < limits::OFFER_QUERY_BYTES_MAX
            && let Some(query) = self.queries.pop_front()
        {
            bytes += query.encoded_len();
            queries.push(query);
        }
        let withdrawn_queries = std::mem::take(&mut self.withdrawn);
        self.count_batches();
        self.batches += 1;
        Some((self.batches, OfferRequest { sender: None, tasks, queries, withdrawn_queries }))
    }

    /// A batch may not have arrived. Its queries come again, unless they were withdrawn meanwhile.
    fn put_back(&mut self, queries: Vec<OfferedQuery>) {
        for query in queries.into_iter().rev() {
            if !self.withdrawn.contains(&query.query_id) {
                self.queries.push_front(query);
            }
        }
    }
}

/// Sends what waits in a line, for ever.
async fn work_off(line: Arc<Line>, nodes: Arc<Nodes>, node: NodeId) {
    let mut announced: Option<Instant> = None;
    let mut failures = 0_u32;
    loop {
        let since = announced.map_or(limits::ANNOUNCE_INTERVAL, |at| at.elapsed());
        let is_to_announce = std::mem::take(&mut line.waiting.lock().is_to_announce);
        let has_failed = if is_to_announce || since >= limits::ANNOUNCE_INTERVAL {
            let batches = line.waiting.lock().count_batches();
            let told = nodes.announce(node, batches).await;
            announced = told.is_ok().then(Instant::now);
            told.is_err()
        } else {
            false
        };
        let batch = if has_failed { None } else { line.waiting.lock().next_batch() };
        let has_failed = match batch {
            None => has_failed,
            Some((number, batch)) => {
                let queries = batch.queries.clone();
                let sent = nodes.offer(node, number, batch).await;
                if let Err(status) = &sent {
                    tracing::debug!(%node, %status, "offers may be lost");
                    let mut waiting = line.waiting.lock();
                    waiting.put_back(queries);
                    // The sooner the node knows, the sooner it reads their rows.
                    waiting.is_to_announce = true;
                } else {
                    failures = 0;
                }
                sent.is_err()
            }
        };
        if has_failed {
            let (first, longest) = limits::OFFER_AGAIN_WAIT;
            tokio::time::sleep(first.saturating_mul(1 << failures.min(16)).min(longest)).await;
            failures += 1;
        } else if !line.waiting.lock().has_batch() {
            failures = 0;
            let next = announced.map_or(Duration::ZERO, |at| limits::ANNOUNCE_INTERVAL.saturating_sub(at.elapsed()));
            // Woken or not, it is time to look.
            let _ = tokio::time::timeout(next, line.wake.notified()).await;
        }
    }
}

/// Makes lines to nodes that are new.
async fn keep_up(offers: Weak<Offers>) {
    let mut tick = tokio::time::interval(limits::ANNOUNCE_INTERVAL);
    loop {
        tick.tick().await;
        let Some(offers) = offers.upgrade() else { return };
        offers.with_all_lines(|_| ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(query_id: u64) -> OfferedQuery {
        OfferedQuery { query_id, ..OfferedQuery::default() }
    }

    fn ids(batch: &OfferRequest) -> Vec<u64> {
        batch.queries.iter().map(|query| query.query_id).collect()
    }

    #[test]
    fn batches_are_bounded_and_what_is_left_out_counts_as_one() {
        let mut waiting = Waiting::default();
        assert_eq!((waiting.next_batch(), waiting.count_batches()), (None, 0));
        for _ in 0..=limits::OFFERS_WAITING_MAX {
            waiting.add_task(OfferedTask::default());
        }
        let (number, batch) = waiting.next_batch().unwrap();
        assert_eq!((number, batch.tasks.len()), (2, limits::OFFER_TASKS_MAX), "the first one was left out");
        let mut tasks = batch.tasks.len();
        while let Some((number, batch)) = waiting.next_batch() {
            tasks += batch.tasks.len();
            assert_eq!(number, waiting.count_batches());
        }
        assert_eq!(tasks, limits::OFFERS_WAITING_MAX);
    }

    #[test]
    fn queries_come_again_until_they_are_withdrawn() {
        let mut waiting = Waiting::default();
        (1..=3).for_each(|id| waiting.add_query(query(id)));
        waiting.withdraw(3);
        let (_, batch) = waiting.next_batch().unwrap();
        assert_eq!((ids(&batch), batch.withdrawn_queries.clone()), (vec![1, 2], vec![]));
        // It may not have arrived; one caller has given up meanwhile.
        waiting.withdraw(1);
        waiting.add_query(query(4));
        waiting.put_back(batch.queries);
        let (_, batch) = waiting.next_batch().unwrap();
        assert_eq!((ids(&batch), batch.withdrawn_queries), (vec![2, 4], vec![1]));
    }

    #[test]
    fn large_queries_go_one_by_one() {
        let mut waiting = Waiting::default();
        for id in 1..=3 {
            let task_queue = "q".repeat(limits::OFFER_QUERY_BYTES_MAX);
            waiting.add_query(OfferedQuery { task_queue, ..query(id) });
        }
        for id in 1..=3 {
            assert_eq!(ids(&waiting.next_batch().unwrap().1), [id]);
        }
    }
}
