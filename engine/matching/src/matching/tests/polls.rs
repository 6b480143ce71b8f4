//! Polls: who is served when, and how they end.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;

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

/// SDKs from before 2023 do not say which normal queue is behind their sticky one.
#[tokio::test(start_paused = true)]
async fn a_sticky_worker_need_not_name_its_normal_queue() {
    let (matching, _) = matching();
    let unnamed = || Poll { normal_name: Some(String::new()), ..sticky_poll() };
    let mut polling = start_poll(&matching, unnamed());
    assert!(got(&mut polling).is_none());
    offer(&matching, PARTITION, sticky_task(1));
    let Some(Matched::Task(lease)) = got(&mut polling) else { panic!() };
    assert_eq!((lease.queue_name.as_str(), lease.task.key.position.scheduled_event_id), ("sticky", 1));
    lease.done();

    matching.receive(Message::Query { workflow: address(), query: query(1, Some("sticky")) });
    let Some(Matched::Query(query)) = got(&mut start_poll(&matching, unnamed())) else { panic!() };
    query.done();

    // A while after its last poll the worker is taken for gone.
    tokio::time::advance(limits::STICKY_POLLER_WINDOW + Duration::from_secs(1)).await;
    offer(&matching, PARTITION, sticky_task(2));
    assert_eq!(next_event(&matching).await, 2);
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
    // A poll that was on its way does not make it look as if it were there again.
    assert!(matches!(got(&mut start_poll(&matching, sticky_poll())), Some(Matched::Nothing)));
    offer(&matching, PARTITION, sticky_task(2));
    assert!(matches!(got(&mut start_poll(&matching, normal_poll())), Some(Matched::Nothing)));
    let another = Poll { worker_instance_key: "another".to_owned(), ..normal_poll() };
    assert_eq!(event_of(matching.poll(another, in_seconds(1)).await), 2);
    for _ in 0..=limits::WORKER_SHUTDOWN_REMEMBERED.as_secs() {
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert!(got(&mut start_poll(&matching, normal_poll())).is_none());
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
async fn the_settings_of_a_queue_count_more_than_its_workers() {
    let (matching, _) = matching();
    let queue = queue_id("queue");
    let rate = async || {
        let rate = matching.describe(&queue).await.rate;
        (rate.per_second, rate.source)
    };
    assert_eq!(rate().await, (limits::QUEUE_TASKS_PER_SECOND_MAX, RateSource::System));
    // Before there is such a queue, for one that is described and for one that is polled.
    let per_second = |rate| Some(QueueSettings { per_second: Some(rate), ..QueueSettings::default() });
    matching.configure(&queue_id("other"), per_second(1.0));
    matching.configure(&queue, per_second(2.0));
    assert_eq!(matching.describe(&queue_id("other")).await.rate.per_second, 1.0);
    for event in 0..100 {
        offer(&matching, PARTITION, task(3, event, event));
    }
    let fast = || Poll { tasks_per_second_max: Some(1000.0), ..normal_poll() };
    let start = Instant::now();
    for event in 0..12 {
        assert_eq!(event_of(matching.poll(fast(), in_seconds(60)).await), event);
    }
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_secs(5) && elapsed < Duration::from_secs(6), "{elapsed:?}");
    assert_eq!(rate().await, (2.0, RateSource::Api));
    // A poll that waits is served as soon as the settings allow it.
    matching.configure(&queue, per_second(0.0));
    let mut stopped = start_poll(&matching, fast());
    advance(Duration::from_secs(30)).await;
    assert!(got(&mut stopped).is_none());
    matching.configure(&queue, None);
    assert_eq!(rate().await, (1000.0, RateSource::Worker));
    assert_eq!(event_of(stopped.await), 12);
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
async fn one_poll_too_many_is_told_so() {
    let (matching, _) = matching();
    let mut polls: Vec<_> = (0..limits::QUEUE_POLLS_MAX).map(|_| start_poll(&matching, normal_poll())).collect();
    assert!(got(&mut polls[0]).is_none());
    assert!(matches!(got(&mut start_poll(&matching, normal_poll())), Some(Matched::Full)));
    polls.pop();
    assert!(got(&mut start_poll(&matching, normal_poll())).is_none(), "one that left makes room");
}

fn hint_of(matched: Option<Matched>) -> Option<ScalingHint> {
    match matched {
        Some(Matched::Task(lease)) => {
            let hint = lease.scaling;
            lease.done();
            hint
        }
        Some(Matched::Query(lease)) => {
            let hint = lease.scaling;
            lease.done();
            hint
        }
        other => panic!("nothing was handed out but {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_told_to_poll_less_once_it_waits_and_more_once_tasks_do() {
    let (matching, _) = matching();
    let mut polls: Vec<_> = (0..3).map(|_| start_poll(&matching, normal_poll())).collect();
    let mut sticky = start_poll(&matching, sticky_poll());
    // A poll that waits for a moment only is as good as any.
    let new = Time(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap());
    offer(&matching, PARTITION, task(3, new.0, 1));
    assert_eq!(hint_of(got(&mut polls[0])), None);
    advance(Duration::from_secs(1)).await;
    offer(&matching, PARTITION, task(3, new.0, 2));
    assert_eq!(hint_of(got(&mut polls[1])), Some(ScalingHint::Fewer));
    offer_query(&matching, query(1, None));
    assert_eq!(hint_of(got(&mut polls[2])), Some(ScalingHint::Fewer));
    offer(&matching, PARTITION, sticky_task(3));
    assert_eq!(hint_of(got(&mut sticky)), Some(ScalingHint::Fewer));

    // Tasks that were scheduled long ago wait: more are wanted, but not by the one that takes the last of them.
    (10..13).for_each(|event| offer(&matching, PARTITION, task(3, 0, event)));
    let hints = [(); 3].map(|()| hint_of(got(&mut start_poll(&matching, normal_poll()))));
    assert_eq!(hints[..2], [Some(ScalingHint::More); 2]);
    offer(&matching, PARTITION, sticky_task(20));
    offer(&matching, PARTITION, sticky_task(21));
    assert_eq!(hint_of(got(&mut start_poll(&matching, sticky_poll()))), Some(ScalingHint::More));
}

/// A poll that waits because the rate holds tasks back is not one too many, and more of them would get nothing.
#[tokio::test(start_paused = true)]
async fn where_the_rate_limits_a_queue_its_workers_are_told_nothing() {
    let (matching, _) = matching();
    let slow = || Poll { tasks_per_second_max: Some(0.5), ..normal_poll() };
    (0..3).for_each(|event| offer(&matching, PARTITION, task(3, 0, event)));
    let mut hints = vec![hint_of(got(&mut start_poll(&matching, slow())))];
    for _ in 0..2 {
        let began = Instant::now();
        hints.push(hint_of(Some(start_poll(&matching, slow()).await)));
        assert!(began.elapsed() >= Duration::from_secs(1));
    }
    assert_eq!(hints, [None; 3]);
}
