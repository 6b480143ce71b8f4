//! Workers of versions get the tasks that are theirs, and tasks change their places when their queue leads elsewhere.

use everlog_kernel::Deployments;
use everlog_kernel::deployment::{Deployment, SetCurrent, UNVERSIONED, Unwatched, VersionQueue};
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;

use super::*;

fn version(build_id: &str) -> Box<WorkerDeploymentVersion> {
    Box::new(WorkerDeploymentVersion { deployment_name: "d".to_owned(), build_id: build_id.to_owned() })
}

fn poll_of(build_id: &str) -> Poll {
    Poll { queue: QueueId { version: Some(version(build_id)), ..queue_id("queue") }, ..normal_poll() }
}

fn pinned(build_id: &str, event: i64) -> Task {
    Task { version: Some(version(build_id)), ..task(3, event, event) }
}

/// A deployment whose versions 1 and 2 have polled the queue, with a current one.
fn leading_to(current: &str) -> Arc<Deployments> {
    let mut deployment = Deployment::new("d", Time(1));
    for build_id in ["1", "2"] {
        let queue = VersionQueue { kind: 1, name: "queue".to_owned() };
        deployment.register(build_id, queue, (9, 9), &Unwatched::default(), Time(2)).unwrap();
    }
    let set = SetCurrent {
        version: current.to_owned(),
        identity: "me".to_owned(),
        conflict_token: Vec::new(),
        allows_no_pollers: false,
    };
    deployment.set_current(&set, 9, &Unwatched::default(), Time(3)).unwrap();
    Arc::new(Deployments::new([Arc::new(deployment)]))
}

const NAMESPACE: NamespaceId = NamespaceId([7; 16]);

async fn next_of(matching: &Arc<Matching>, build_id: &str) -> Option<i64> {
    match matching.poll(poll_of(build_id), in_seconds(1)).await {
        Matched::Nothing => None,
        matched => Some(event_of(matched)),
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_go_to_the_version_that_they_name_or_to_the_one_that_the_queue_leads_to() {
    let (matching, _) = matching();
    matching.route(NAMESPACE, &leading_to("d.1"));
    offer(&matching, PARTITION, pinned("2", 1));
    offer(&matching, PARTITION, task(3, 2, 2));
    assert!(is_empty(&matching).await, "workers without a version");
    assert_eq!(next_of(&matching, "1").await, Some(2));
    assert_eq!(next_of(&matching, "1").await, None);
    assert_eq!(next_of(&matching, "2").await, Some(1));
    assert_eq!(next_of(&matching, "2").await, None);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_wait_move_when_the_queue_leads_elsewhere() {
    let (matching, _) = matching();
    offer(&matching, PARTITION, task(3, 1, 1));
    offer(&matching, PARTITION, pinned("1", 2));
    let waiting = start_poll(&matching, poll_of("2"));
    matching.route(NAMESPACE, &leading_to("d.2"));
    assert_eq!(event_of(waiting.await), 1);
    assert!(is_empty(&matching).await);
    // Back to workers without a version.
    offer(&matching, PARTITION, task(3, 3, 3));
    matching.route(NAMESPACE, &leading_to(UNVERSIONED));
    assert_eq!(next_event(&matching).await, 3);
    assert_eq!(next_of(&matching, "1").await, Some(2), "a pinned one has stayed");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_comes_back_goes_to_whoever_is_to_have_it_by_then() {
    let (matching, _) = matching();
    matching.route(NAMESPACE, &leading_to("d.1"));
    offer(&matching, PARTITION, task(3, 1, 1));
    let Matched::Task(lease) = matching.poll(poll_of("1"), in_seconds(1)).await else { panic!() };
    matching.route(NAMESPACE, &leading_to("d.2"));
    drop(lease);
    assert_eq!(next_of(&matching, "1").await, None);
    assert_eq!(next_of(&matching, "2").await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn each_version_reads_its_own_of_the_rows() {
    let (matching, rows) = matching_with_memory(4);
    matching.route(NAMESPACE, &leading_to("d.1"));
    for event in 0..60 {
        let task = match event % 3 {
            0 => task(3, event, event),
            1 => pinned("1", event),
            _ => pinned("2", event),
        };
        rows.put(PARTITION, &task);
        offer(&matching, PARTITION, task);
    }
    let mut found: [Vec<i64>; 2] = Default::default();
    for (build_id, found) in ["1", "2"].into_iter().zip(&mut found) {
        while let Matched::Task(lease) = matching.poll(poll_of(build_id), in_seconds(30)).await {
            assert!(rows.remove(PARTITION, &lease.task));
            found.push(lease.task.key.position.scheduled_event_id);
            lease.done();
        }
    }
    assert_eq!(found[0], (0..60).filter(|event| event % 3 < 2).collect::<Vec<_>>());
    assert_eq!(found[1], (0..60).filter(|event| event % 3 == 2).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_sticky_worker_of_another_version_gets_nothing() {
    let (matching, _) = matching();
    matching.route(NAMESPACE, &leading_to("d.1"));
    let sticky = |build_id: &str| Poll {
        queue: QueueId { version: Some(version(build_id)), ..queue_id("sticky") },
        normal_name: Some("queue".to_owned()),
        ..normal_poll()
    };
    let mut of_one = start_poll(&matching, sticky("1"));
    offer(&matching, PARTITION, sticky_task(1));
    assert_eq!(event_of(got(&mut of_one).unwrap()), 1);
    let mut of_one = start_poll(&matching, sticky("1"));
    matching.route(NAMESPACE, &leading_to("d.2"));
    offer(&matching, PARTITION, sticky_task(2));
    assert!(got(&mut of_one).is_none());
    assert_eq!(next_of(&matching, "2").await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_described_for_all_versions_together_or_for_one() {
    let (matching, _) = matching();
    matching.route(NAMESPACE, &leading_to("d.1"));
    (1..=3).for_each(|event| offer(&matching, PARTITION, task(3, event, event)));
    offer(&matching, PARTITION, pinned("2", 4));
    let _polls = (start_poll(&matching, poll_of("none")), start_poll(&matching, normal_poll()));
    let all = matching.describe(&queue_id("queue")).await;
    assert_eq!((all.stats.backlog, all.pollers.len()), (4, 1));
    let two = matching.describe(&QueueId { version: Some(version("2")), ..queue_id("queue") }).await;
    assert_eq!(two.stats.backlog, 1);
    assert!(!matching.has_recent_poller(&QueueId { version: Some(version("2")), ..queue_id("queue") }, in_a_minute()));
}

fn in_a_minute() -> Duration {
    Duration::from_secs(60)
}
