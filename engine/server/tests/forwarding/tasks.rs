//! Tasks reach a worker wherever their workflow is led, their queue is at home and the worker polls.

use std::time::{Duration, Instant};

use everlog_proto::api::activity::v1::ActivityOptions;
use everlog_proto::api::enums::v1::{EventType, TaskQueueType, WorkflowExecutionStatus};
use everlog_proto::api::taskqueue::v1::StickyExecutionAttributes;
use everlog_proto::api::workflowservice::v1::{
    DescribeTaskQueueRequest, DescribeTaskQueueResponse, PauseActivityRequest, PollActivityTaskQueueRequest,
    PollWorkflowTaskQueueRequest, RespondWorkflowTaskCompletedRequest, ShutdownWorkerRequest, UnpauseActivityRequest,
    UpdateActivityOptionsRequest, pause_activity_request, unpause_activity_request, update_activity_options_request,
};
use everlog_proto::wkt::FieldMask;

use super::cluster::{Cluster, Fate, NAMESPACE, NODES};
use super::harness::requests::{self, complete, seconds};
use super::harness::{Client, execution, task_queue, within};
use super::requests::{
    PATIENCE, activity_done, count_events, describe, id_of, poll, poll_activity, respond, schedule_activity, signal,
    start_on, sticky_queue, workflow_poll,
};

/// Does a workflow with one activity, all of it on one queue, as a worker that polls with `client`.
pub(crate) async fn work(client: &mut Client, queue: &str, workflow_id: &str) {
    let task = poll(client, workflow_poll(queue)).await;
    assert_eq!(id_of(&task), workflow_id);
    assert_eq!(task.history.unwrap().events.len(), 3);
    client.respond_workflow_task_completed(respond(task.task_token, vec![schedule_activity(queue)])).await.unwrap();
    let activity = poll_activity(client, queue).await;
    assert_eq!(activity.workflow_execution.unwrap().workflow_id, workflow_id);
    client.respond_activity_task_completed(activity_done(activity.task_token)).await.unwrap();
    let task = poll(client, workflow_poll(queue)).await;
    assert_eq!(task.history.unwrap().events.len(), 9);
    client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
}

pub(crate) async fn is_completed(client: &mut Client, workflow_id: &str) -> bool {
    let described = client.describe_workflow_execution(describe(workflow_id)).await.unwrap().into_inner();
    described.workflow_execution_info.unwrap().status() == WorkflowExecutionStatus::Completed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_at_either_node_does_all_of_a_workflow() {
    let mut cluster = Cluster::start().await;
    for (led, home, polled) in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)] {
        let name = format!("{led}{home}{polled}");
        let (id, queue) = (cluster.id_at(led, &format!("w{name}")), cluster.id_at(home, &format!("q{name}")));
        cluster.clients[1 - polled].start_workflow_execution(start_on(&id, &queue)).await.unwrap();
        work(&mut cluster.clients[polled], &queue, &id).await;
        for client in &mut cluster.clients {
            assert!(is_completed(client, &id).await, "{name}");
        }
    }
    // Tasks were offered, not only found in rows.
    assert!(cluster.links.calls(NODES[0], "Offer") > 0 && cluster.links.calls(NODES[1], "Offer") > 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_waits_is_told_at_once() {
    let mut cluster = Cluster::start().await;
    let (id, queue) = (cluster.id_at(1, "w"), cluster.id_at(0, "q"));
    let mut waits = Vec::new();
    for number in 0..5 {
        let mut client = cluster.clients[1].clone();
        let request = workflow_poll(&queue);
        let polled = tokio::spawn(async move { poll(&mut client, request).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        let id = format!("{id}-{number}");
        cluster.clients[0].start_workflow_execution(start_on(&id, &queue)).await.unwrap();
        assert_eq!(id_of(&polled.await.unwrap()), id);
        waits.push(began.elapsed());
    }
    // What a machine that is busy makes late now and then is not what is read from rows a second later.
    assert!(waits.iter().min() < Some(&Duration::from_millis(500)), "{waits:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_queue_is_at_home_nobody_knows_where_is_found_later() {
    let mut cluster = Cluster::start().await;
    let (id, queue) = (cluster.id_at(0, "w"), cluster.id_at(1, "q"));
    let (mut client, request) = (cluster.clients[1].clone(), workflow_poll(&queue));
    let polled = tokio::spawn(async move { poll(&mut client, request).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    // As a node that has just got a replica of the second partition: it has not heard of a leader, and does not lead itself.
    cluster.views[0].change([NODES[0], NODES[0]]);
    cluster.clients[0].start_workflow_execution(start_on(&id, &queue)).await.unwrap();
    cluster.views[0].change(NODES);
    assert_eq!(id_of(&tokio::time::timeout(PATIENCE, polled).await.unwrap().unwrap()), id);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sticky_worker_gets_what_is_new() {
    let mut cluster = Cluster::start().await;
    for (led, home) in [(0, 1), (1, 0)] {
        let (id, queue) = (cluster.id_at(led, &format!("s{led}")), cluster.id_at(home, &format!("sq{led}")));
        let sticky = format!("sticky-{led}");
        let sticky_poll =
            || PollWorkflowTaskQueueRequest { task_queue: sticky_queue(&sticky, &queue), ..workflow_poll(&queue) };
        let client = &mut cluster.clients[led];
        client.start_workflow_execution(start_on(&id, &queue)).await.unwrap();
        let task = poll(client, workflow_poll(&queue)).await;
        // The worker polls its sticky queue before it answers.
        let (mut polling, request) = (client.clone(), sticky_poll());
        let polled = tokio::spawn(async move { poll(&mut polling, request).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        let sticky_attributes = Some(StickyExecutionAttributes {
            worker_task_queue: sticky_queue(&sticky, &queue),
            schedule_to_start_timeout: seconds(10),
        });
        let response =
            RespondWorkflowTaskCompletedRequest { sticky_attributes, ..respond(task.task_token, Vec::new()) };
        client.respond_workflow_task_completed(response).await.unwrap();
        client.signal_workflow_execution(signal(&id, "")).await.unwrap();
        let task = polled.await.unwrap();
        let events: Vec<i64> = task.history.unwrap().events.iter().map(|event| event.event_id).collect();
        assert_eq!((task.previous_started_event_id, events.first().copied()), (3, Some(4)));
        client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
    }
    cluster.stop().await;
}

async fn described(client: &mut Client, queue: &str) -> DescribeTaskQueueResponse {
    let request = DescribeTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: task_queue(queue),
        task_queue_type: TaskQueueType::Workflow as i32,
        report_stats: true,
        ..DescribeTaskQueueRequest::default()
    };
    client.describe_task_queue(request).await.unwrap().into_inner()
}

async fn wait_for_backlog(client: &mut Client, queue: &str, tasks: i64) {
    let waited = async {
        while described(client, queue).await.stats.unwrap().approximate_backlog_count != tasks {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("the tasks are known");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_whose_offers_are_lost_are_found_in_their_rows() {
    let mut cluster = Cluster::start().await;
    for (fate, name) in [(Fate::Refused, "refused"), (Fate::Lost, "lost")] {
        cluster.links.decide(move |_, method| if method == "Offer" { fate } else { Fate::Arrives });
        for (led, home) in [(0, 1), (1, 0)] {
            let (id, queue) = (cluster.id_at(led, &format!("{name}{led}")), cluster.id_at(home, name));
            let client = &mut cluster.clients[0];
            client.start_workflow_execution(start_on(&id, &queue)).await.unwrap();
            work(client, &queue, &id).await;
            assert!(is_completed(client, &id).await);
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_keeps_nobody_waiting_and_loses_nothing() {
    let mut cluster = Cluster::start().await;
    let queue = cluster.id_at(0, "q");
    let [before, meanwhile] = ["before", "meanwhile"].map(|name| cluster.id_at(1, name));
    cluster.clients[1].start_workflow_execution(start_on(&before, &queue)).await.unwrap();
    wait_for_backlog(&mut cluster.clients[0], &queue, 1).await;

    for fate in [Fate::Refused, Fate::Lost] {
        cluster.links.decide(move |_, _| fate);
        // The task of the node that is away comes first and cannot be had; those behind it can.
        for number in 0..3 {
            let here = cluster.id_at(0, &format!("here-{fate:?}-{number}"));
            let client = &mut cluster.clients[0];
            client.start_workflow_execution(start_on(&here, &queue)).await.unwrap();
            let began = Instant::now();
            let task = poll(client, workflow_poll(&queue)).await;
            assert_eq!(id_of(&task), here);
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
            client.respond_workflow_task_completed(respond(task.task_token, vec![complete("")])).await.unwrap();
        }
    }
    let client = &mut cluster.clients[1];
    client.start_workflow_execution(start_on(&meanwhile, &queue)).await.unwrap();
    cluster.links.mend();
    let mut found = Vec::new();
    for _ in 0..2 {
        let task = poll(client, workflow_poll(&queue)).await;
        found.push(id_of(&task).to_owned());
        client.respond_workflow_task_completed(respond(task.task_token, vec![complete("")])).await.unwrap();
    }
    assert_eq!(found, [before.clone(), meanwhile.clone()]);
    for id in [before, meanwhile] {
        assert_eq!(count_events(client, &id, EventType::WorkflowTaskStarted).await, 1, "{id}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_start_was_lost_is_not_in_two_hands() {
    let mut cluster = Cluster::start().await;
    let (id, queue) = (cluster.id_at(1, "w"), cluster.id_at(0, "q"));
    let client = &mut cluster.clients[0];
    // The worker never gets the first start of the activity; nobody else does.
    client.start_workflow_execution(start_on(&id, &queue)).await.unwrap();
    let task = poll(client, workflow_poll(&queue)).await;
    client.respond_workflow_task_completed(respond(task.task_token, vec![schedule_activity(&queue)])).await.unwrap();
    cluster.links.decide(|_, method| if method == "StartTask" { Fate::AnswerLost } else { Fate::Arrives });
    let mut polling = client.clone();
    let name = queue.clone();
    let polled = tokio::spawn(async move { poll_activity(&mut polling, &name).await });
    while cluster.links.calls(NODES[0], "StartTask") < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.links.mend();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!polled.is_finished(), "it was started, and waits for its timeout");
    polled.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_described_and_polls_ended_at_their_home() {
    let mut cluster = Cluster::start().await;
    let queue = cluster.id_at(1, "q");
    for node in [0, 1] {
        let id = cluster.id_at(node, "waits");
        cluster.clients[0].start_workflow_execution(start_on(&id, &queue)).await.unwrap();
    }
    for client in &mut cluster.clients {
        wait_for_backlog(client, &queue, 2).await;
    }
    let queue = cluster.id_at(1, "empty");
    let mut client = cluster.clients[0].clone();
    let request = PollWorkflowTaskQueueRequest {
        worker_instance_key: "instance".to_owned(),
        identity: "somebody".to_owned(),
        ..workflow_poll(&queue)
    };
    let polled = tokio::spawn(async move { client.poll_workflow_task_queue(within(PATIENCE, request)).await });
    let waited = async {
        while described(&mut cluster.clients[0], &queue).await.pollers.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap();
    for client in &mut cluster.clients {
        let pollers = described(client, &queue).await.pollers;
        assert_eq!(pollers.iter().map(|poller| poller.identity.as_str()).collect::<Vec<_>>(), ["somebody"]);
    }
    let began = Instant::now();
    let request = ShutdownWorkerRequest {
        namespace: NAMESPACE.to_owned(),
        worker_instance_key: "instance".to_owned(),
        ..ShutdownWorkerRequest::default()
    };
    cluster.clients[0].shutdown_worker(request).await.unwrap();
    let ended = polled.await.unwrap().unwrap().into_inner();
    assert!(ended.task_token.is_empty() && began.elapsed() < Duration::from_secs(5));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activity_that_an_operator_moves_is_had_where_it_stands_then() {
    let mut cluster = Cluster::start().await;
    for (led, home, operator) in [(0, 1, 1), (1, 0, 0)] {
        let name = format!("{led}{home}");
        let [queue, old, new] = ["q", "old", "new"].map(|prefix| format!("{prefix}{name}"));
        let (id, queue) = (cluster.id_at(led, &format!("w{name}")), cluster.id_at(home, &queue));
        let (old, new) = (cluster.id_at(home, &old), cluster.id_at(led, &new));
        let client = &mut cluster.clients[operator];
        client.start_workflow_execution(start_on(&id, &queue)).await.unwrap();
        let task = poll(client, workflow_poll(&queue)).await;
        client.respond_workflow_task_completed(respond(task.task_token, vec![schedule_activity(&old)])).await.unwrap();
        let (namespace, activity_id) = (NAMESPACE.to_owned(), "activity".to_owned());
        let pause = PauseActivityRequest {
            namespace: namespace.clone(),
            execution: execution(&id),
            activity: Some(pause_activity_request::Activity::Id(activity_id.clone())),
            ..PauseActivityRequest::default()
        };
        client.pause_activity(pause).await.unwrap();
        let update = UpdateActivityOptionsRequest {
            namespace: namespace.clone(),
            execution: execution(&id),
            activity: Some(update_activity_options_request::Activity::Id(activity_id.clone())),
            activity_options: Some(ActivityOptions { task_queue: task_queue(&new), ..ActivityOptions::default() }),
            update_mask: Some(FieldMask { paths: vec!["task_queue.name".to_owned()] }),
            ..UpdateActivityOptionsRequest::default()
        };
        client.update_activity_options(update).await.unwrap();
        let unpause = UnpauseActivityRequest {
            namespace: namespace.clone(),
            execution: execution(&id),
            activity: Some(unpause_activity_request::Activity::Id(activity_id)),
            ..UnpauseActivityRequest::default()
        };
        client.unpause_activity(unpause).await.unwrap();
        // Whoever polls there is shown nothing of the task that was offered first.
        let request = PollActivityTaskQueueRequest { namespace, ..requests::poll_activity(&old) };
        let nothing = client.poll_activity_task_queue(within(Duration::from_millis(2500), request)).await.unwrap();
        assert!(nothing.into_inner().task_token.is_empty());
        let activity = poll_activity(client, &new).await;
        client.respond_activity_task_completed(activity_done(activity.task_token)).await.unwrap();
        let task = poll(client, workflow_poll(&queue)).await;
        client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
        assert!(is_completed(client, &id).await);
    }
    cluster.stop().await;
}
