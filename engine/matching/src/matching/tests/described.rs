//! What is known of a queue, and for how long.

use everlog_proto::api::common::v1::WorkerVersionCapabilities;

use super::*;
use crate::WorkerVersion;

#[tokio::test(start_paused = true)]
async fn pollers_and_rates_are_described() {
    let (matching, _) = matching();
    assert!(!matching.has_recent_poller(&queue_id("queue"), Duration::from_secs(10)));
    let of_build = |build_id: &str| {
        let capabilities = WorkerVersionCapabilities { build_id: build_id.to_owned(), ..Default::default() };
        Some(Arc::new(WorkerVersion { capabilities: Some(capabilities), deployment: None }))
    };
    drop(start_poll(&matching, Poll { tasks_per_second_max: Some(5.0), version: of_build("old"), ..normal_poll() }));
    drop(start_poll(&matching, Poll { version: of_build("new"), ..sticky_poll() }));
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
    assert_eq!(described.pollers[0].version, None, "what the last poll said");
    assert_eq!(matching.describe(&queue_id("sticky")).await.pollers[0].version, of_build("new"));
    assert_eq!(described.stats.backlog, 59);
    // Scheduled at the epoch.
    assert!(described.stats.backlog_age > Duration::from_secs(365 * 86400));
    assert!(described.stats.add_rate > 2.0 && described.stats.dispatch_rate > 0.0);
    advance(Duration::from_secs(31)).await;
    assert_eq!(matching.describe(&queue_id("queue")).await.stats.add_rate, 0.0);
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

#[tokio::test(start_paused = true)]
async fn a_description_counts_what_only_rows_tell_of() {
    let (matching, rows) = matching();
    for event in 0..5 {
        rows.put(PARTITION, &task(3, event, event));
    }
    assert_eq!(matching.describe(&queue_id("queue")).await.stats.backlog, 5);
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_described_priority_by_priority() {
    let (matching, _) = matching();
    let backlogs = async |name: &str| {
        let described = matching.describe(&queue_id(name)).await;
        let total: u64 = described.by_priority.values().map(|stats| stats.backlog).sum();
        assert_eq!(total, described.stats.backlog);
        described.by_priority.into_iter().map(|(priority, stats)| (priority, stats.backlog)).collect::<Vec<_>>()
    };
    // Tasks have priority 3 unless they are given another.
    assert_eq!(backlogs("queue").await, [(3, 0)]);
    for (event, priority) in [(1, 1), (2, 5), (3, 5)] {
        offer(&matching, PARTITION, task(priority, 0, event));
    }
    assert_eq!(backlogs("queue").await, [(1, 1), (3, 0), (5, 2)]);
    assert_eq!(next_event(&matching).await, 1);
    assert_eq!(backlogs("queue").await, [(1, 0), (3, 0), (5, 2)], "what was there lately is still told of");
    let described = matching.describe(&queue_id("queue")).await;
    let [first, default, last] = [1, 3, 5].map(|priority| described.by_priority[&priority].clone());
    assert!(first.dispatch_rate > 0.0 && last.dispatch_rate == 0.0 && last.add_rate > first.add_rate);
    assert!(default.add_rate == 0.0 && default.backlog_age == Duration::ZERO && last.backlog_age > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_task_in_hand_is_no_backlog_though_its_row_is_still_there() {
    let (matching, rows) = matching();
    rows.put(PARTITION, &task(3, 0, 1));
    rows.put(PARTITION, &task(3, 1, 2));
    offer(&matching, PARTITION, task(3, 0, 1));
    // The poll asks for the rows, which come when the task is in hand already.
    let Matched::Task(lease) = matching.poll(normal_poll(), in_seconds(1)).await else { panic!() };
    assert_eq!(lease.task.key.position.scheduled_event_id, 1);
    lease.done();
    assert_eq!(matching.describe(&queue_id("queue")).await.stats.backlog, 1);
    assert_eq!(next_event(&matching).await, 2);
    assert!(is_empty(&matching).await);
    // A new lead does not know of it: its rows tell.
    matching.receive(Message::Opened(lead(PARTITION, 2)));
    assert_eq!(next_event(&matching).await, 1);
}
