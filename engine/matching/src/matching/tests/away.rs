//! Leads that are heard of with gaps, or not at all.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_read() {
    let (matching, rows) = matching();
    let mut poll = start_poll(&matching, normal_poll());
    assert!(got(&mut poll).is_none());
    // The rows have been read to their end, and the offer is lost.
    tokio::time::sleep(Duration::from_millis(100)).await;
    rows.put(PARTITION, &task(3, 0, 1));
    matching.receive(Message::Missed(lead(PARTITION, 2)));
    assert!(got(&mut poll).is_none(), "another lead's");
    matching.receive(Message::Missed(lead(PARTITION, 1)));
    assert_eq!(event_of(poll.await), 1);
    // Nothing is handed out twice for that.
    rows.remove(PARTITION, &task(3, 0, 1));
    offer(&matching, PARTITION, task(3, 0, 2));
    matching.receive(Message::Missed(lead(PARTITION, 1)));
    assert_eq!(next_event(&matching).await, 2);
    assert!(is_empty(&matching).await);
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_partition_that_is_away_keep_nobody_waiting() {
    let (matching, rows) = matching();
    for event in [1, 2] {
        rows.put(PARTITION, &task(3, 0, event));
        offer(&matching, PARTITION, task(3, 0, event));
    }
    offer(&matching, GroupId(2), task(3, 9, 3));
    let Matched::Task(away) = matching.poll(normal_poll(), in_seconds(60)).await else { panic!() };
    assert_eq!(away.partition, PARTITION);
    away.put_aside();
    let mut others = start_poll(&matching, normal_poll());
    assert_eq!(event_of(got(&mut others).expect("it comes at once")), 3);
    // The next sweep looks again.
    assert_eq!([next_event(&matching).await, next_event(&matching).await], [1, 2]);
    assert!(is_empty(&matching).await);
}

#[tokio::test(start_paused = true)]
async fn polls_of_queues_that_move_end() {
    let (matching, _) = matching();
    let mut moves = start_poll(&matching, normal_poll());
    let mut stays = start_poll(&matching, Poll { queue: queue_id("other"), ..normal_poll() });
    matching.end_polls_of(|queue| queue.name == "queue");
    assert!(matches!(got(&mut moves), Some(Matched::Nothing)));
    assert!(got(&mut stays).is_none());
}

/// A node that is the home of all queues or of none.
struct Sometimes(AtomicBool);

impl Homes for Sometimes {
    fn pass_on(&self, message: Message) -> Option<Message> {
        Some(message)
    }

    fn is_here(&self, _: &QueueId) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Between the end of a lead and the news of the next one a poll comes back to where it was: it would wait there as long as a poll may,
/// while its tasks go to the next home.
#[tokio::test(start_paused = true)]
async fn no_poll_waits_where_its_queue_is_not_at_home() {
    let (matching, _) = matching();
    let home = Arc::new(Sometimes(AtomicBool::new(true)));
    let handle = MatchingHandle::new(matching, Arc::clone(&home) as Arc<dyn Homes>);
    let matching = handle.local();
    let mut waits = start_poll(matching, normal_poll());
    assert!(got(&mut waits).is_none());
    home.0.store(false, Ordering::Relaxed);
    matching.end_polls_of(|_| true);
    assert!(matches!(got(&mut waits), Some(Matched::Nothing)));
    for poll in [normal_poll(), sticky_poll()] {
        assert!(matches!(got(&mut start_poll(matching, poll)), Some(Matched::Elsewhere)));
    }
    let queue = NexusQueue { namespace_id: queue_id("queue").namespace_id, name: "queue".to_owned() };
    let Poll { identity, worker_instance_key, version, scaling, .. } = normal_poll();
    let poll = NexusPoll { queue, identity, worker_instance_key, version, scaling };
    assert!(matches!(matching.nexus().poll(poll, in_seconds(1)).await, NexusMatched::Elsewhere));
    home.0.store(true, Ordering::Relaxed);
    assert!(got(&mut start_poll(matching, normal_poll())).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_slot_has_moved_is_there_though_its_old_partition_goes() {
    let (matching, rows) = matching();
    let other = GroupId(2);
    matching.receive(Message::Opened(lead(other, 1)));
    for event in [1, 2] {
        rows.put(PARTITION, &task(3, 0, event));
        offer(&matching, PARTITION, task(3, 0, event));
    }
    // One is in hand, one waits, and both are the other partition's by now: one is told of, one is read.
    let Matched::Task(in_hand) = matching.poll(normal_poll(), in_seconds(60)).await else { panic!() };
    rows.put(other, &task(3, 0, 1));
    offer(&matching, other, task(3, 0, 1));
    rows.put(other, &task(3, 0, 2));
    matching.receive(Message::Missed(lead(other, 1)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    matching.receive(Message::Closed(lead(PARTITION, 1)));
    drop(in_hand);
    let mut events = Vec::new();
    for _ in 0..2 {
        events.push(event_of(matching.poll(normal_poll(), in_seconds(60)).await));
    }
    assert_eq!(events, [1, 2]);
}
