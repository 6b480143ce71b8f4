//! Fairness keys: each has its share, whatever stands in rows.

use super::*;

/// A task of a key.
fn keyed(lane: u64, event: i64) -> Task {
    let mut task = task(3, event, event);
    task.key.position.lane = Lane(lane);
    task
}

fn offer_with_row(matching: &Matching, rows: &Rows, partition: GroupId, task: Task) {
    rows.put(partition, &task);
    offer(matching, partition, task);
}

/// The lane and the event of the next task, which is done then.
async fn next(matching: &Arc<Matching>, rows: &Rows) -> (u64, i64) {
    let Matched::Task(lease) = matching.poll(normal_poll(), in_seconds(30)).await else { panic!("no task") };
    let position = lease.task.key.position;
    assert!(rows.remove(lease.partition, &lease.task));
    lease.done();
    // Pages that were asked for come.
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    (position.lane.0, position.scheduled_event_id)
}

async fn next_of(matching: &Arc<Matching>, rows: &Rows, tasks: usize) -> Vec<(u64, i64)> {
    let mut order = Vec::new();
    for _ in 0..tasks {
        order.push(next(matching, rows).await);
    }
    order
}

fn shares(order: &[(u64, i64)]) -> BTreeMap<u64, usize> {
    let mut shares = BTreeMap::new();
    order.iter().for_each(|(lane, _)| *shares.entry(*lane).or_default() += 1);
    shares
}

/// Whether the tasks of each key come in the order in which they were scheduled.
fn is_in_order(order: &[(u64, i64)]) -> bool {
    (0..1_000).all(|lane| order.iter().filter(|(of, _)| *of == lane).map(|(_, event)| event).is_sorted())
}

#[tokio::test(start_paused = true)]
async fn keys_have_equal_shares_of_a_backlog_that_does_not_fit_into_memory() {
    let (matching, rows) = matching_with_memory(32);
    // Nine of ten tasks are one key's, and they come first.
    for event in 0..900 {
        offer_with_row(&matching, &rows, GroupId(event as u32 % 3), keyed(1, event));
    }
    for event in 900..1_000 {
        offer_with_row(&matching, &rows, GroupId(event as u32 % 3), keyed(2 + event as u64 % 5, event));
    }
    assert!(matching.describe(&queue_id("queue")).await.stats.backlog <= 3 * 32);
    let order = next_of(&matching, &rows, 1_000).await;
    // All six share until the small ones have nothing left: 20 each.
    for window in order[..120].windows(30) {
        assert!(shares(window).iter().all(|(_, share)| (4..=6).contains(share)), "{:?}", shares(window));
    }
    assert!(shares(&order[130..]).keys().eq([&1]));
    assert!(is_in_order(&order));
    assert!(is_empty(&matching).await);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_served_soon_however_long_the_backlog_is() {
    let (matching, rows) = matching_with_memory(16);
    for event in 0..2_000 {
        // Some have no key at all.
        offer_with_row(&matching, &rows, PARTITION, keyed(event as u64 % 2, event));
    }
    next_of(&matching, &rows, 100).await;
    offer_with_row(&matching, &rows, PARTITION, keyed(7, 5_000));
    offer_with_row(&matching, &rows, GroupId(2), keyed(7, 5_001));
    let order = next_of(&matching, &rows, 6).await;
    assert_eq!(shares(&order), [(0, 2), (1, 2), (7, 2)].into());
}

#[tokio::test(start_paused = true)]
async fn a_new_lead_finds_each_key_in_its_rows() {
    let (matching, rows) = matching_with_memory(64);
    for event in 0..5_000 {
        rows.put(PARTITION, &keyed(1, event));
    }
    for lane in 2..20 {
        rows.put(PARTITION, &keyed(lane, 5_000 + lane as i64));
    }
    matching.receive(Message::Opened(lead(PARTITION, 2)));
    // One poll has the rows read; what it gets is whatever is found first.
    let first = next(&matching, &rows).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let pages = rows.pages_read.load(Ordering::Relaxed);
    assert!(pages < 20, "{pages} pages");
    let order = [vec![first], next_of(&matching, &rows, 25).await].concat();
    assert_eq!(shares(&order).len(), 19);
    assert!(is_in_order(&order));
}

#[tokio::test(start_paused = true)]
async fn weights_are_those_of_tasks_and_of_settings() {
    let (matching, rows) = matching_with_memory(16);
    let offer_all = |from: i64| {
        for event in from..from + 400 {
            for (lane, weight) in [(1, 1.0), (2, 3.0)] {
                let task = Task { weight: Weight::of(weight), ..keyed(lane, event) };
                offer_with_row(&matching, &rows, PARTITION, task);
            }
        }
    };
    offer_all(0);
    let order = next_of(&matching, &rows, 400).await;
    assert!(shares(&order)[&1].abs_diff(100) <= 2, "{:?}", shares(&order));
    let weights = Arc::new([(Lane(1), Weight::of(4.0)), (Lane(2), Weight::of(1.0))].into_iter().collect());
    let settings = QueueSettings { weights, ..QueueSettings::default() };
    matching.configure(&queue_id("queue"), Some(settings));
    let order = next_of(&matching, &rows, 100).await;
    assert!(shares(&order)[&1].abs_diff(80) <= 2, "{:?}", shares(&order));
    matching.configure(&queue_id("queue"), None);
    let order = next_of(&matching, &rows, 100).await;
    assert!(shares(&order)[&1].abs_diff(25) <= 2, "{:?}", shares(&order));
}

#[tokio::test(start_paused = true)]
async fn each_key_has_a_limit_and_none_waits_for_another_ones() {
    let (matching, rows) = matching();
    let settings = QueueSettings { per_second_and_key: Some(2.0), ..QueueSettings::default() };
    matching.configure(&queue_id("queue"), Some(settings));
    for event in 0..100 {
        offer_with_row(&matching, &rows, PARTITION, keyed(1, event));
    }
    for event in 100..104 {
        offer_with_row(&matching, &rows, PARTITION, keyed(2, event));
    }
    let start = Instant::now();
    let order = next_of(&matching, &rows, 4).await;
    assert_eq!((shares(&order), start.elapsed()), ([(1, 2), (2, 2)].into(), Duration::ZERO));
    // Two more of each in the next second; from then on there is one key.
    next_of(&matching, &rows, 4 + 8).await;
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_secs(5) && elapsed < Duration::from_millis(5_500), "{elapsed:?}");
    // What comes while nobody's task may be handed out goes at once, if it is another key's.
    let waiting = start_poll(&matching, normal_poll());
    offer_with_row(&matching, &rows, PARTITION, keyed(3, 1_000));
    assert_eq!(event_of(waiting.await), 1_000);
    rows.remove(PARTITION, &keyed(3, 1_000));
    // And nobody is left waiting when settings change.
    let waiting = start_poll(&matching, normal_poll());
    matching.configure(&queue_id("queue"), None);
    let elapsed = start.elapsed();
    waiting.await;
    assert_eq!(start.elapsed(), elapsed);
}

#[tokio::test(start_paused = true)]
async fn keys_beyond_what_memory_has_room_for_have_their_turn() {
    let (matching, rows) = matching_with_memory(16);
    // Room for 8 of them.
    for event in 0..600 {
        offer_with_row(&matching, &rows, PARTITION, keyed(1 + event as u64 % 60, event));
    }
    let order = next_of(&matching, &rows, 600).await;
    assert!(is_in_order(&order));
    assert!(shares(&order).values().all(|share| *share == 10));
    assert!(is_empty(&matching).await);
    // All of them are forgotten by then, and found again where rows tell of them.
    advance(limits::BACKLOG_SETTLE + Duration::from_secs(2)).await;
    rows.put(PARTITION, &keyed(70, 1_000));
    matching.receive(Message::Missed(lead(PARTITION, 1)));
    assert_eq!(next(&matching, &rows).await, (70, 1_000));
}

#[tokio::test(start_paused = true)]
async fn priorities_come_before_keys_and_in_sticky_lines_keys_do_not_count() {
    let (matching, _) = matching();
    let with = |lane, priority, event| {
        let mut task = keyed(lane, event);
        task.key.position.priority = priority;
        task
    };
    for task in [with(1, 3, 1), with(2, 2, 2), with(1, 2, 3), with(3, 1, 4)] {
        offer(&matching, PARTITION, task);
    }
    let mut events = Vec::new();
    for _ in 0..4 {
        events.push(next_event(&matching).await);
    }
    events[1..3].sort_unstable();
    assert_eq!(events, [4, 2, 3, 1]);
    // A sticky worker has its tasks by priority and age.
    let poll = start_poll(&matching, sticky_poll());
    drop(poll);
    for task in [with(1, 3, 7), with(9, 3, 5), with(9, 2, 8), with(2, 3, 6)] {
        offer(&matching, PARTITION, Task { sticky: Some("sticky".to_owned()), ..task });
    }
    for event in [8, 5, 6, 7] {
        assert_eq!(event_of(matching.poll(sticky_poll(), in_seconds(1)).await), event);
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_that_never_waited_count_too() {
    let (matching, rows) = matching();
    let with_row = |lane, event| offer_with_row(&matching, &rows, PARTITION, keyed(lane, event));
    // A key is alone for a while, and each of its tasks goes to a poll that waits.
    for event in 0..100 {
        let poll = start_poll(&matching, normal_poll());
        with_row(1, event);
        assert_eq!(event_of(poll.await), event);
        rows.remove(PARTITION, &keyed(1, event));
    }
    (100..200).for_each(|event| with_row(1, event));
    (200..300).for_each(|event| with_row(2, event));
    let order = next_of(&matching, &rows, 100).await;
    assert!(shares(&order)[&1].abs_diff(50) <= 1, "{:?}", shares(&order));
}
