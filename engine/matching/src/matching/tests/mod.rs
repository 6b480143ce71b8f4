//! Matching as a whole, on a paused clock.

mod away;
mod described;
mod fairness;
mod interleavings;
mod polls;
mod rows;
mod tasks;
mod versions;

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::pin::Pin;

use everlog_kernel::{EntityKind, Lane, Namespace, NamespaceId, RunId, Time, Weight};
use everlog_proto::api::query::v1::WorkflowQuery;
use everlog_random::Random;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::advance;

use super::*;
use crate::nexus::{NexusMatched, NexusPoll, NexusQueue};
use crate::tasks::Position;
use crate::{Homes, MatchingHandle, RateSource, ScalingHint, ScalingRules};

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
                ..Namespace::default()
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
        position: Position {
            lane: Lane::NONE,
            priority,
            scheduled_time: Time(time),
            run_id: RunId([1; 16]),
            scheduled_event_id: event,
        },
    };
    Task { key, attempt: 1, sticky: None, version: None, entity: EntityKind::Workflow, weight: Weight::default() }
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
        version: None,
    }
}

fn normal_poll() -> Poll {
    Poll {
        queue: queue_id("queue"),
        normal_name: None,
        identity: "worker".to_owned(),
        tasks_per_second_max: None,
        worker_instance_key: "instance".to_owned(),
        version: None,
        scaling: ScalingRules::default(),
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
    let matching =
        Matching::with_bounds(rows.clone(), Bounds { queues: 100, tasks: TaskBounds { tasks, lanes: tasks / 2 } });
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
