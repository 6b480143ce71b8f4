//! What memory has no room for is read from rows; what another lead has said counts for nothing.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_into_memory_is_read_from_rows() {
    let (matching, rows) = matching_with_memory(8);
    for event in 0..100 {
        let task = task(3, event, event);
        rows.put(PARTITION, &task);
        offer(&matching, PARTITION, task);
    }
    assert_eq!(matching.describe(&queue_id("queue")).await.stats.backlog, 8);
    // A more urgent one is taken in all the same.
    let urgent = task(1, 1000, 1000);
    rows.put(PARTITION, &urgent);
    offer(&matching, PARTITION, urgent);
    assert_eq!(matching.describe(&queue_id("queue")).await.stats.backlog, 8);
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
