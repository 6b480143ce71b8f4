//! Matching as a whole, on a paused clock.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::pin::Pin;

use everlog_kernel::{Namespace, NamespaceId, RunId, Time};
use everlog_proto::api::query::v1::WorkflowQuery;
use everlog_random::Random;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::advance;

use super::*;

mod away;

const PARTITION: GroupId = GroupId(1);

/// The rows of all partitions.
#[derive(Default)]
struct Rows {
    rows: Mutex<BTreeMap<(GroupId, Position), Task>>,
    pages_read: AtomicU64,
    failures_left: AtomicU64,
}

impl Rows {
    fn put(&self, partition: GroupId, task: &Task) {
        self.rows.lock().insert((partition, task.key.position), task.clone());
    }

    fn remove(&self, partition: GroupId, task: &Task) -> bool {
        self.rows.lock().remove(&(partition, task.key.position)).is_some()
    }
}

impl Backlog for Rows {
    fn ready_tasks(
        &self,
        partition: GroupId,
        queue: QueueId,
        after: Option<Position>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<(WorkflowRef, Task)>, String>> {
        self.pages_read.fetch_add(1, Ordering::Relaxed);
        if self.failures_left.load(Ordering::Relaxed) > 0 {
            self.failures_left.fetch_sub(1, Ordering::Relaxed);
            return async { Err("the disk is away".to_owned()) }.boxed();
        }
        let rows = self.rows.lock();
        let page: Vec<_> = rows
            .iter()
            .filter(|((of, position), _)| *of == partition && after.is_none_or(|after| *position > after))
            .filter(|(_, task)| task.key.task_queue == queue.name)
            .take(limit)
            .map(|(_, task)| (address(), Task { sticky: None, ..task.clone() }))
            .collect();
        async move {
            tokio::task::yield_now().await;
            Ok(page)
        }
        .boxed()
    }
}

fn address() -> WorkflowRef {
    thread_local! {
        static ADDRESS: WorkflowRef = WorkflowRef {
            namespace: Arc::new(Namespace {
                id: NamespaceId([7; 16]),
                name: "default".to_owned(),
                retention: Duration::from_secs(86400),
            }),
            workflow_id: "workflow".into(),
        };
    }
    ADDRESS.with(Clone::clone)
}

fn queue_id(name: &str) -> QueueId {
    QueueId::new(NamespaceId([7; 16]), TaskKind::Workflow, name)
}

fn task(priority: u8, time: i64, event: i64) -> Task {
    let key = TaskKey {
        kind: TaskKind::Workflow,
        task_queue: "queue".to_owned(),
        position: Position { priority, scheduled_time: Time(time), run_id: RunId([1; 16]), scheduled_event_id: event },
    };
    Task { key, attempt: 1, sticky: None, version: None }
}

fn sticky_task(event: i64) -> Task {
    Task { sticky: Some("sticky".to_owned()), ..task(3, event, event) }
}

fn query(query_id: u64, sticky: Option<&str>) -> QueryTask {
    QueryTask {
        query_id,
        run_id: RunId([1; 16]),
        query: WorkflowQuery::default(),
        task_queue: "queue".to_owned(),
        sticky: sticky.map(str::to_owned),
    }
}

fn normal_poll() -> Poll {
    Poll {
        queue: queue_id("queue"),
        normal_name: None,
        identity: "worker".to_owned(),
        tasks_per_second_max: None,
        worker_instance_key: "instance".to_owned(),
    }
}

fn sticky_poll() -> Poll {
    Poll { queue: queue_id("sticky"), normal_name: Some("queue".to_owned()), ..normal_poll() }
}

fn matching() -> (Arc<Matching>, Arc<Rows>) {
    matching_with_memory(limits::QUEUE_TASKS_IN_MEMORY_MAX)
}

fn matching_with_memory(tasks: usize) -> (Arc<Matching>, Arc<Rows>) {
    let rows = Arc::new(Rows::default());
    let matching = Matching::with_bounds(rows.clone(), Bounds { queues: 100, tasks_in_memory: tasks });
    (0..4).for_each(|partition| matching.receive(Message::Opened(lead(GroupId(partition), 1))));
    (matching, rows)
}

fn lead(partition: GroupId, lead: u128) -> Source {
    Source { partition, lead }
}

/// An offer by the first lead of a partition.
fn offer(matching: &Matching, partition: GroupId, task: Task) {
    matching.receive(Message::Task { source: lead(partition, 1), workflow: address(), task });
}

fn offer_query(matching: &Matching, query: QueryTask) {
    matching.receive(Message::Query { workflow: address(), query });
}

fn in_seconds(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

type PendingPoll = Pin<Box<dyn Future<Output = Matched> + Send>>;

/// A poll that has joined the line, and waits there unless it found something.
fn start_poll(matching: &Arc<Matching>, poll: Poll) -> PendingPoll {
    let matching = matching.clone();
    let mut pending: PendingPoll = Box::pin(async move { matching.poll(poll, in_seconds(60)).await });
    if let Some(ready) = (&mut pending).now_or_never() {
        return Box::pin(std::future::ready(ready));
    }
    pending
}

/// What a poll has got, if it has got anything yet.
fn got(pending: &mut PendingPoll) -> Option<Matched> {
    pending.now_or_never()
}

fn event_of(matched: Matched) -> i64 {
    match matched {
        Matched::Task(lease) => {
            let event = lease.task.key.position.scheduled_event_id;
            lease.done();
            event
        }
        other => panic!("no task but {other:?}"),
    }
}

async fn next_event(matching: &Arc<Matching>) -> i64 {
    event_of(matching.poll(normal_poll(), in_seconds(1)).await)
}

async fn is_empty(matching: &Arc<Matching>) -> bool {
    matches!(matching.poll(normal_poll(), in_seconds(1)).await, Matched::Nothing)
}

#[tokio::test(start_paused = true)]
async fn tasks_come_by_priority_and_then_by_age() {
    let (matching, _) = matching();
    for (priority, time, event) in [(3, 10, 1), (3, 5, 2), (1, 99, 3), (5, 1, 4), (3, 5, 0)] {
        offer(&matching, PARTITION, task(priority, time, event));
    }
    let mut events = Vec::new();
    for _ in 0..5 {
        events.push(next_event(&matching).await);
    }
    assert_eq!(events, [3, 0, 2, 1, 4]);
    assert!(is_empty(&matching).await);
}

#[tokio::test(start_paused = true)]
async fn polls_are_served_in_the_order_in_which_they_came() {
    let (matching, _) = matching();
    let mut polls: Vec<_> = (0..3).map(|_| start_poll(&matching, normal_poll())).collect();
    for (event, poll) in polls.iter_mut().enumerate() {
        offer(&matching, PARTITION, task(3, 0, event as i64));
        assert_eq!(event_of(got(poll).unwrap()), event as i64);
    }
}

#[tokio::test(start_paused = true)]
async fn an_offer_of_what_is_there_changes_nothing() {
    let (matching, _) = matching();
    offer(&matching, PARTITION, task(3, 0, 1));
    offer(&matching, PARTITION, task(3, 0, 1));
    assert_eq!(matching.describe(&queue_id("queue")).await.backlog, 1);
    assert_eq!(next_event(&matching).await, 1);
    assert!(is_empty(&matching).await);
}

#[tokio::test(start_paused = true)]
async fn a_newer_attempt_takes_the_place_of_an_older_one() {
    let (matching, _) = matching();
    offer(&matching, PARTITION, task(3, 0, 1));
    offer(&matching, PARTITION, Task { attempt: 2, ..task(3, 0, 1) });
    let Matched::Task(lease) = matching.poll(normal_poll(), in_seconds(1)).await else { panic!() };
    assert_eq!((lease.task.attempt, lease.backlog), (2, 0));

    // Also when the older one is out.
    offer(&matching, PARTITION, Task { attempt: 3, ..task(3, 0, 1) });
    drop(lease);
    let Matched::Task(lease) = matching.poll(normal_poll(), in_seconds(1)).await else { panic!() };
    assert_eq!(lease.task.attempt, 3);
    lease.done();
    assert!(is_empty(&matching).await);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_poll_leaves_the_line() {
    let (matching, _) = matching();
    let first = start_poll(&matching, normal_poll());
    let mut second = start_poll(&matching, normal_poll());
    drop(first);
    offer(&matching, PARTITION, task(3, 0, 1));
    assert_eq!(event_of(got(&mut second).unwrap()), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_dropped_poll_was_granted_in_the_last_moment_goes_back() {
    let (matching, _) = matching();
    let first = start_poll(&matching, normal_poll());
    offer(&matching, PARTITION, task(3, 0, 1));
    drop(first);
    assert_eq!(next_event(&matching).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_lease_offers_its_task_again_and_a_finished_one_does_not() {
    let (matching, _) = matching();
    offer(&matching, PARTITION, task(3, 0, 1));
    let Matched::Task(lease) = matching.poll(normal_poll(), in_seconds(1)).await else { panic!() };
    let mut waiting = start_poll(&matching, normal_poll());
    assert!(got(&mut waiting).is_none());
    drop(lease);
    let Matched::Task(lease) = got(&mut waiting).unwrap() else { panic!() };
    lease.done();
    assert!(is_empty(&matching).await);
}

#[tokio::test(start_paused = true)]
async fn an_offer_during_a_lease_counts_once_the_lease_has_ended() {
    let (matching, _) = matching();
    offer(&matching, PARTITION, task(3, 0, 1));
    let Matched::Task(lease) = matching.poll(normal_poll(), in_seconds(1)).await else { panic!() };
    offer(&matching, PARTITION, task(3, 0, 1));
    assert!(is_empty(&matching).await);
    lease.done();
    assert_eq!(next_event(&matching).await, 1);
}

#[tokio::test(start_paused = true)]
async fn polls_end_empty_at_their_deadline() {
    let (matching, _) = matching();
    let start = Instant::now();
    assert!(matches!(matching.poll(normal_poll(), in_seconds(5)).await, Matched::Nothing));
    assert!(start.elapsed() >= Duration::from_secs(5));
    // A task that comes later finds nobody and waits.
    offer(&matching, PARTITION, task(3, 0, 1));
    assert!(matches!(matching.poll(normal_poll(), Instant::now()).await, Matched::Nothing));
    assert_eq!(next_event(&matching).await, 1);
}

#[tokio::test(start_paused = true)]
async fn sticky_tasks_go_to_the_sticky_worker_while_it_polls() {
    let (matching, _) = matching();
    // Nobody has ever polled the sticky queue.
    offer(&matching, PARTITION, sticky_task(1));
    assert_eq!(next_event(&matching).await, 1);

    let mut sticky = start_poll(&matching, sticky_poll());
    let mut normal = start_poll(&matching, normal_poll());
    offer(&matching, PARTITION, sticky_task(2));
    let Some(Matched::Task(lease)) = got(&mut sticky) else { panic!() };
    assert_eq!((lease.queue_name.as_str(), lease.task.key.task_queue.as_str()), ("sticky", "queue"));
    lease.done();

    // Between two polls of its worker it waits for the next one.
    offer(&matching, PARTITION, sticky_task(3));
    assert!(got(&mut normal).is_none());
    assert_eq!(event_of(got(&mut start_poll(&matching, sticky_poll())).unwrap()), 3);
    // A sticky poll takes from its queue only.
    offer(&matching, PARTITION, task(3, 4, 4));
    assert_eq!(event_of(got(&mut normal).unwrap()), 4);
    offer(&matching, PARTITION, task(3, 5, 5));
    assert!(got(&mut start_poll(&matching, sticky_poll())).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deserted_sticky_queue_sends_its_tasks_to_the_normal_one() {
    let (matching, _) = matching();
    drop(start_poll(&matching, sticky_poll()));
    offer(&matching, PARTITION, sticky_task(1));
    offer_query(&matching, query(1, Some("sticky")));
    let mut normal = start_poll(&matching, normal_poll());
    let mut another = start_poll(&matching, normal_poll());
    advance(limits::STICKY_POLLER_WINDOW - Duration::from_secs(1)).await;
    assert!(got(&mut normal).is_none());
    let Matched::Task(task) = normal.await else { panic!() };
    let Some(Matched::Query(query)) = got(&mut another) else { panic!() };
    assert_eq!((task.queue_name.as_str(), query.queue_name.as_str()), ("queue", "queue"));
    task.done();
    query.done();
    // Longer than the window: new ones go there directly.
    offer(&matching, PARTITION, sticky_task(2));
    assert_eq!(next_event(&matching).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_shuts_down_ends_its_polls_and_its_sticky_queue() {
    let (matching, _) = matching();
    drop(start_poll(&matching, sticky_poll()));
    offer(&matching, PARTITION, sticky_task(1));
    let mut mine = start_poll(&matching, Poll { queue: queue_id("other"), ..normal_poll() });
    let mut anothers = start_poll(&matching, Poll { worker_instance_key: "another".to_owned(), ..normal_poll() });
    matching.worker_shutdown(Some(&queue_id("sticky")), "instance");
    assert!(matches!(got(&mut mine), Some(Matched::Nothing)));
    assert_eq!(event_of(got(&mut anothers).unwrap()), 1);
    offer(&matching, PARTITION, sticky_task(2));
    assert_eq!(next_event(&matching).await, 2);
}

#[tokio::test(start_paused = true)]
async fn queries_come_before_tasks_and_go_when_they_are_withdrawn() {
    let (matching, _) = matching();
    offer(&matching, PARTITION, task(3, 0, 1));
    offer_query(&matching, query(1, None));
    offer_query(&matching, query(2, None));
    matching.receive(Message::WithdrawQuery { query_id: 1 });
    let Matched::Query(lease) = matching.poll(normal_poll(), in_seconds(1)).await else { panic!() };
    assert_eq!(lease.query.query_id, 2);
    // Given back, it is asked again; withdrawn while it is out, it is not.
    drop(lease);
    let Matched::Query(lease) = matching.poll(normal_poll(), in_seconds(1)).await else { panic!() };
    matching.receive(Message::WithdrawQuery { query_id: 2 });
    drop(lease);
    assert_eq!(next_event(&matching).await, 1);

    // Offered again while it is out, for instance to the normal queue after the sticky worker had lost the run.
    drop(start_poll(&matching, sticky_poll()));
    offer_query(&matching, query(3, Some("sticky")));
    let Matched::Query(lease) = matching.poll(sticky_poll(), in_seconds(1)).await else { panic!() };
    offer_query(&matching, query(3, None));
    lease.done();
    let Matched::Query(lease) = matching.poll(normal_poll(), in_seconds(1)).await else { panic!() };
    assert_eq!((lease.query.query_id, lease.queue_name.as_str()), (3, "queue"));
    lease.done();
    assert!(is_empty(&matching).await);
    assert!(matching.queries.iter().all(|index| index.lock().is_empty()));
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_of_the_last_poller_holds_for_the_queue() {
    let (matching, _) = matching();
    for event in 0..100 {
        offer(&matching, PARTITION, task(3, event, event));
    }
    let limited = |rate| Poll { tasks_per_second_max: Some(rate), ..normal_poll() };
    let start = Instant::now();
    for event in 0..20 {
        // Polls that name no limit leave it as it is.
        let poll = if event == 0 { limited(2.0) } else { normal_poll() };
        assert_eq!(event_of(matching.poll(poll, in_seconds(60)).await), event);
    }
    // Two at once, the other 18 at two per second.
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_secs(9) && elapsed < Duration::from_secs(10), "{elapsed:?}");

    // Zero stops the queue, until another poller raises it.
    let mut stopped = start_poll(&matching, limited(0.0));
    advance(Duration::from_secs(30)).await;
    assert!(got(&mut stopped).is_none());
    let mut fast = start_poll(&matching, limited(1000.0));
    assert_eq!(event_of(stopped.await), 20);
    fast.as_mut().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_into_memory_is_read_from_rows() {
    let (matching, rows) = matching_with_memory(8);
    for event in 0..100 {
        let task = task(3, event, event);
        rows.put(PARTITION, &task);
        offer(&matching, PARTITION, task);
    }
    assert_eq!(matching.describe(&queue_id("queue")).await.backlog, 8);
    // A more urgent one is taken in all the same.
    let urgent = task(1, 1000, 1000);
    rows.put(PARTITION, &urgent);
    offer(&matching, PARTITION, urgent);
    assert_eq!(matching.describe(&queue_id("queue")).await.backlog, 8);
    rows.failures_left.store(1, Ordering::Relaxed);
    let mut events = Vec::new();
    for _ in 0..101 {
        let Matched::Task(lease) = matching.poll(normal_poll(), in_seconds(30)).await else { panic!() };
        assert!(rows.remove(PARTITION, &lease.task));
        events.push(lease.task.key.position.scheduled_event_id);
        lease.done();
    }
    let expected: Vec<i64> = std::iter::once(1000).chain(0..100).collect();
    assert_eq!(events, expected);
    assert!(is_empty(&matching).await);
    // Caught up: new offers are kept again, and rows are read only once more.
    offer(&matching, PARTITION, task(3, 500, 500));
    assert_eq!(next_event(&matching).await, 500);
    advance(limits::BACKLOG_SETTLE + Duration::from_secs(2)).await;
    assert!(is_empty(&matching).await);
    let pages = rows.pages_read.load(Ordering::Relaxed);
    assert!(pages < 30, "{pages} pages");
    advance(Duration::from_secs(60)).await;
    assert!(is_empty(&matching).await);
    assert_eq!(rows.pages_read.load(Ordering::Relaxed), pages);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_appears_after_its_offer_was_left_out_is_found() {
    let (matching, rows) = matching_with_memory(2);
    for event in 0..3 {
        offer(&matching, PARTITION, task(3, event, event));
    }
    // The third did not fit, and its row is not there yet when memory runs empty.
    for event in 0..2 {
        assert_eq!(next_event(&matching).await, event);
    }
    assert!(is_empty(&matching).await);
    rows.put(PARTITION, &task(3, 2, 2));
    let Matched::Task(lease) = matching.poll(normal_poll(), in_seconds(30)).await else { panic!() };
    assert_eq!(lease.task.key.position.scheduled_event_id, 2);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_partition_takes_its_tasks_and_leases_along() {
    let (matching, _) = matching();
    offer(&matching, PARTITION, task(3, 0, 1));
    offer(&matching, PARTITION, task(3, 0, 2));
    offer(&matching, GroupId(2), task(3, 0, 3));
    let Matched::Task(lease) = matching.poll(normal_poll(), in_seconds(1)).await else { panic!() };
    matching.receive(Message::Closed(lead(PARTITION, 1)));
    drop(lease);
    assert_eq!(next_event(&matching).await, 3);
    assert!(is_empty(&matching).await);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_all_polls_now_and_later() {
    let (matching, _) = matching();
    let mut waiting = start_poll(&matching, normal_poll());
    matching.drain();
    assert!(matches!(got(&mut waiting), Some(Matched::Nothing)));
    offer(&matching, PARTITION, task(3, 0, 1));
    assert!(matches!(got(&mut start_poll(&matching, normal_poll())), Some(Matched::Nothing)));
}

#[tokio::test(start_paused = true)]
async fn pollers_and_rates_are_described() {
    let (matching, _) = matching();
    assert!(!matching.has_recent_poller(&queue_id("queue"), Duration::from_secs(10)));
    drop(start_poll(&matching, Poll { tasks_per_second_max: Some(5.0), ..normal_poll() }));
    drop(start_poll(&matching, sticky_poll()));
    advance(Duration::from_secs(9)).await;
    assert!(matching.has_recent_poller(&queue_id("queue"), Duration::from_secs(10)));
    assert!(matching.has_recent_poller(&queue_id("sticky"), Duration::from_secs(10)));
    for event in 0..60 {
        offer(&matching, PARTITION, task(3, 0, event));
    }
    next_event(&matching).await;
    let described = matching.describe(&queue_id("queue")).await;
    assert_eq!(described.pollers.len(), 1);
    assert_eq!((described.pollers[0].identity.as_str(), described.pollers[0].rate_per_second), ("worker", None));
    assert_eq!(described.backlog, 59);
    // Scheduled at the epoch.
    assert!(described.backlog_age > Duration::from_secs(365 * 86400));
    assert!(described.add_rate > 2.0 && described.dispatch_rate > 0.0);
    advance(Duration::from_secs(31)).await;
    assert_eq!(matching.describe(&queue_id("queue")).await.add_rate, 0.0);
    assert!(!matching.has_recent_poller(&queue_id("queue"), Duration::from_secs(10)));
    advance(limits::POLLER_REMEMBERED).await;
    assert!(matching.describe(&queue_id("queue")).await.pollers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn idle_queues_are_forgotten_and_others_are_not() {
    let (matching, _) = matching();
    offer(&matching, PARTITION, task(3, 0, 1));
    assert_eq!(next_event(&matching).await, 1);
    drop(start_poll(&matching, sticky_poll()));
    let queues = || matching.shards.iter().map(|shard| shard.lock().len()).sum::<usize>();
    assert_eq!(queues(), 1);
    for _ in 0..limits::QUEUE_IDLE_MAX.as_secs() + 5 {
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(queues(), 0);
    offer(&matching, PARTITION, task(3, 0, 2));
    advance(limits::QUEUE_IDLE_MAX * 2).await;
    assert_eq!(next_event(&matching).await, 2);
}

/// A partition's view of one queue: what is to be done, and who has it in hand.
struct Interleaving {
    random: Random,
    matching: Arc<Matching>,
    rows: Arc<Rows>,
    next_event: i64,
    lead: u128,
    /// The lead of each partition.
    leads: [u128; 3],
    polls: Vec<PendingPoll>,
    leases: Vec<TaskLease>,
    in_hand: HashSet<(GroupId, i64)>,
}

impl Interleaving {
    fn new(seed: u64) -> Interleaving {
        let (matching, rows) = matching_with_memory(4);
        Interleaving {
            random: Random::new(seed),
            matching,
            rows,
            next_event: 0,
            lead: 1,
            leads: [1; 3],
            polls: Vec::new(),
            leases: Vec::new(),
            in_hand: HashSet::new(),
        }
    }

    async fn step(&mut self) {
        match self.random.below(20) {
            0..=6 => {
                let partition = GroupId(self.random.below(3) as u32);
                let mut task = task(1 + self.random.below(5) as u8, self.random.below(50) as i64, self.next_event);
                self.next_event += 1;
                task.sticky = (self.random.below(3) == 0).then(|| "sticky".to_owned());
                self.rows.put(partition, &task);
                let source = lead(partition, self.leads[partition.0 as usize]);
                self.matching.receive(Message::Task { source, workflow: address(), task });
            }
            7..=11 => {
                let poll = if self.random.below(3) == 0 { sticky_poll() } else { normal_poll() };
                self.polls.push(start_poll(&self.matching, poll));
            }
            12 | 13 if !self.polls.is_empty() => {
                let index = self.random.below(self.polls.len());
                drop(self.polls.swap_remove(index));
            }
            14 | 15 if !self.leases.is_empty() => {
                let index = self.random.below(self.leases.len());
                let lease = self.leases.swap_remove(index);
                self.in_hand.remove(&(lease.partition, lease.task.key.position.scheduled_event_id));
                drop(lease);
            }
            16 | 17 if !self.leases.is_empty() => {
                let index = self.random.below(self.leases.len());
                let lease = self.leases.swap_remove(index);
                self.in_hand.remove(&(lease.partition, lease.task.key.position.scheduled_event_id));
                self.rows.remove(lease.partition, &lease.task);
                lease.done();
            }
            18 => advance(Duration::from_millis(self.random.below(4000) as u64)).await,
            19 if self.random.below(5) == 0 => {
                let partition = GroupId(self.random.below(3) as u32);
                // What the old leader gave out is void, and the new one says nothing of what is ready.
                self.lead += 1;
                self.leads[partition.0 as usize] = self.lead;
                self.in_hand.retain(|(of, _)| *of != partition);
                self.matching.receive(Message::Opened(lead(partition, self.lead)));
            }
            _ => tokio::task::yield_now().await,
        }
        for index in (0..self.polls.len()).rev() {
            if let Some(matched) = got(&mut self.polls[index]) {
                drop(self.polls.swap_remove(index));
                self.take(matched);
            }
        }
    }

    fn take(&mut self, matched: Matched) {
        let Matched::Task(lease) = matched else { return };
        let position = lease.task.key.position;
        if !self.rows.rows.lock().contains_key(&(lease.partition, position)) {
            // A page that was read before the task was done: the partition refuses to start it.
            lease.done();
            return;
        }
        let is_first = self.in_hand.insert((lease.partition, lease.task.key.position.scheduled_event_id));
        assert!(is_first, "{:?} was handed out twice", lease.task);
        self.leases.push(lease);
    }

    async fn finish(mut self) {
        self.polls.clear();
        self.in_hand.clear();
        self.leases.clear();
        while let Matched::Task(lease) = self.matching.poll(normal_poll(), in_seconds(60)).await {
            self.rows.remove(lease.partition, &lease.task);
            lease.done();
        }
        let left = self.rows.rows.lock().keys().copied().collect::<Vec<_>>();
        assert!(left.is_empty(), "lost: {left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_interleaving_loses_a_task_or_hands_it_out_twice() {
    for seed in 0..10_000 {
        let run = async {
            let mut interleaving = Interleaving::new(seed);
            for _ in 0..40 {
                interleaving.step().await;
            }
            interleaving.finish().await;
        };
        let result = std::panic::AssertUnwindSafe(run).catch_unwind().await;
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_share_a_queue_without_losing_a_task() {
    let (matching, _) = matching();
    const TASKS: i64 = 4000;
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let workers: Vec<_> = (0..8_u64)
        .map(|worker| {
            let (matching, seen) = (matching.clone(), seen.clone());
            tokio::spawn(async move {
                let mut random = Random::new(worker);
                while seen.lock().len() < TASKS as usize {
                    let mut poll = Box::pin(matching.poll(normal_poll(), Instant::now() + Duration::from_millis(20)));
                    if random.below(4) == 0 {
                        // Gives up on the way.
                        let _ = (&mut poll).now_or_never();
                        continue;
                    }
                    if let Matched::Task(lease) = poll.await
                        && random.below(4) > 0
                    {
                        assert!(seen.lock().insert(lease.task.key.position.scheduled_event_id));
                        lease.done();
                    }
                }
            })
        })
        .collect();
    for partition in 0..4 {
        let matching = matching.clone();
        tokio::spawn(async move {
            for event in (partition..TASKS).step_by(4) {
                offer(&matching, GroupId(partition as u32), task(3, event, event));
                if event % 64 == partition {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(matching.describe(&queue_id("queue")).await.backlog, 0);
}

#[tokio::test(start_paused = true)]
async fn one_poll_too_many_is_told_so() {
    let (matching, _) = matching();
    let mut polls: Vec<_> = (0..limits::QUEUE_POLLS_MAX).map(|_| start_poll(&matching, normal_poll())).collect();
    assert!(got(&mut polls[0]).is_none());
    assert!(matches!(got(&mut start_poll(&matching, normal_poll())), Some(Matched::Full)));
    polls.pop();
    assert!(got(&mut start_poll(&matching, normal_poll())).is_none(), "one that left makes room");
}

#[tokio::test(start_paused = true)]
async fn the_rows_of_a_new_lead_are_read_once_somebody_polls() {
    let (matching, rows) = matching();
    for event in 0..3 {
        rows.put(PARTITION, &task(3, event, event));
    }
    offer(&matching, PARTITION, task(3, 9, 9));
    matching.receive(Message::Opened(lead(PARTITION, 2)));
    advance(Duration::from_secs(2)).await;
    tokio::task::yield_now().await;
    assert_eq!(rows.pages_read.load(Ordering::Relaxed), 0);
    // The offer was the old lead's.
    for event in 0..3 {
        assert_eq!(next_event(&matching).await, event);
        rows.remove(PARTITION, &task(3, event, event));
    }
    assert!(is_empty(&matching).await);
    // Who polls when a lead begins need not come again.
    let mut poll = start_poll(&matching, normal_poll());
    rows.put(PARTITION, &task(3, 4, 4));
    matching.receive(Message::Opened(lead(PARTITION, 3)));
    assert_eq!(event_of((&mut poll).await), 4);
}

#[tokio::test(start_paused = true)]
async fn what_an_old_lead_says_counts_for_nothing() {
    let (matching, _) = matching();
    let task_of = |source, event| Message::Task { source, workflow: address(), task: task(3, 0, event) };
    matching.receive(Message::Opened(lead(PARTITION, 3)));
    matching.receive(task_of(lead(PARTITION, 3), 1));
    matching.receive(task_of(lead(PARTITION, 2), 2));
    matching.receive(Message::Closed(lead(PARTITION, 2)));
    matching.receive(Message::Opened(lead(PARTITION, 2)));
    assert_eq!(next_event(&matching).await, 1);
    assert!(is_empty(&matching).await);
    matching.receive(Message::Closed(lead(PARTITION, 3)));
    matching.receive(task_of(lead(PARTITION, 3), 3));
    assert!(is_empty(&matching).await);
}

#[tokio::test(start_paused = true)]
async fn a_description_counts_what_only_rows_tell_of() {
    let (matching, rows) = matching();
    for event in 0..5 {
        rows.put(PARTITION, &task(3, event, event));
    }
    assert_eq!(matching.describe(&queue_id("queue")).await.backlog, 5);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_hours_is_in_its_row_alone() {
    let (matching, rows) = matching();
    rows.put(PARTITION, &task(3, 0, 1));
    offer(&matching, PARTITION, task(3, 0, 1));
    for _ in 0..limits::QUEUE_IDLE_MAX.as_secs() + 5 {
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(matching.queues.load(Ordering::Relaxed), 0);
    assert_eq!(next_event(&matching).await, 1);
}

#[tokio::test(start_paused = true)]
async fn queues_are_bounded_and_tasks_beyond_stay_rows() {
    let (matching, rows) = matching();
    let others: Vec<_> = (0..100)
        .map(|number| start_poll(&matching, Poll { queue: queue_id(&format!("other-{number}")), ..normal_poll() }))
        .collect();
    assert!(matches!(got(&mut start_poll(&matching, normal_poll())), Some(Matched::Full)));
    // Its row comes later than its offer, and also than the first look at the rows.
    offer(&matching, PARTITION, task(3, 0, 1));
    drop(others);
    for _ in 0..limits::QUEUE_IDLE_MAX.as_secs() + 5 {
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert!(is_empty(&matching).await);
    rows.put(PARTITION, &task(3, 0, 1));
    advance(limits::BACKLOG_SETTLE + Duration::from_secs(2)).await;
    assert_eq!(next_event(&matching).await, 1);
}

/// Queues whose names begin with "there" are at home on another node.
struct TwoNodes(Arc<Matching>);

impl Homes for TwoNodes {
    fn pass_on(&self, message: Message) -> Option<Message> {
        let queue = match &message {
            Message::Task { task, .. } => &task.key.task_queue,
            Message::Query { query, .. } => &query.task_queue,
            Message::Opened(_) | Message::Closed(_) | Message::Missed(_) | Message::WithdrawQuery { .. } => {
                self.0.receive(message.clone());
                return Some(message);
            }
        };
        if !queue.starts_with("there") {
            return Some(message);
        }
        self.0.receive(message);
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_goes_to_the_home_of_its_queue() {
    let (here, there) = (Matching::new(Arc::new(Rows::default())), Matching::new(Arc::new(Rows::default())));
    let handle = MatchingHandle::new(Arc::clone(&here), Arc::new(TwoNodes(Arc::clone(&there))));
    let source = lead(PARTITION, 7);
    handle.send(Message::Opened(source));
    for (name, event) in [("here", 1), ("there", 2)] {
        let mut task = task(3, 0, event);
        task.key.task_queue = name.to_owned();
        handle.send(Message::Task { source, workflow: address(), task });
    }
    let poll = |name| Poll { queue: queue_id(name), ..normal_poll() };
    assert_eq!(event_of(here.poll(poll("here"), in_seconds(1)).await), 1);
    assert_eq!(event_of(there.poll(poll("there"), in_seconds(1)).await), 2);
    assert!(matches!(here.poll(poll("there"), in_seconds(1)).await, Matched::Nothing));
    handle.send(Message::Closed(source));
}
