//! Tasks and queries: in which order they come, and what an offer, a lease and its end do.

use super::*;

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
async fn an_offer_of_what_is_there_changes_nothing() {
    let (matching, _) = matching();
    offer(&matching, PARTITION, task(3, 0, 1));
    offer(&matching, PARTITION, task(3, 0, 1));
    assert_eq!(matching.describe(&queue_id("queue")).await.stats.backlog, 1);
    assert_eq!(next_event(&matching).await, 1);
    assert!(is_empty(&matching).await);
}

/// The Go SDK polls its sticky queue alone as long as it is told that something waits there: tasks of the normal queue would wait as
/// long as a poll does.
#[tokio::test(start_paused = true)]
async fn a_worker_is_told_what_else_waits_in_the_line_that_it_has_polled() {
    let (matching, _) = matching();
    assert!(got(&mut start_poll(&matching, sticky_poll())).is_none(), "the sticky queue is polled");
    for event in 1..=3 {
        offer(&matching, PARTITION, task(3, 0, event));
    }
    offer(&matching, PARTITION, sticky_task(4));
    offer(&matching, PARTITION, sticky_task(5));
    for (poll, waiting) in [(sticky_poll(), 1), (sticky_poll(), 0), (normal_poll(), 2)] {
        let Matched::Task(lease) = matching.poll(poll, in_seconds(1)).await else { panic!() };
        assert_eq!(lease.backlog, waiting);
        lease.done();
    }
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

    fn is_here(&self, queue: &QueueId) -> bool {
        !queue.name.starts_with("there")
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
    assert!(matches!(here.poll(poll("there"), in_seconds(1)).await, Matched::Elsewhere));
    handle.send(Message::Closed(source));
}
