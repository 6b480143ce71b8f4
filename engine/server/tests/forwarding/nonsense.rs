//! Messages between nodes that mean nothing, or something else than they should.

use std::collections::BTreeSet;
use std::time::Duration;

use everlog_proto::api::enums::v1::EventType;
use everlog_proto::api::worker::v1::WorkerHeartbeat;
use everlog_proto::api::workflowservice::v1::ShutdownWorkerRequest;
use everlog_proto::internal::OfferRequest;
use everlog_random::{Random, mutate};
use prost::Message;
use tonic::Code;

use super::cluster::{Carried, Cluster, NAMESPACE, NODES};
use super::doors::{INTERNAL, answered};
use super::lists::{closed, count, open, pages};
use super::messages::send;
use super::queries::{answer, ask};
use super::requests::{PATIENCE, events, poll, respond, start, start_on, wait_for_event, workflow_poll};
use super::tasks::{is_completed, work};

const SEED: u64 = 0x5eed;
const MESSAGES: usize = 2_000;
/// The service's methods that this test has one node ask of the other.
const METHODS: [&str; 10] = [
    "Announce",
    "Deliver",
    "EndPolls",
    "Offer",
    "RecentPoller",
    "StartTask",
    "TaskPage",
    "VisibilityCount",
    "VisibilityPage",
    "WorkersHeard",
];

/// Does what makes the nodes ask everything of each other, with workflows whose ids begin so. Returns the ids.
async fn work_everywhere(cluster: &mut Cluster, prefix: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for node in [0, 1] {
        let id = cluster.id_at(node, &format!("{prefix}-done-{node}"));
        let queue = cluster.id_at(1 - node, &format!("{prefix}-queue-{node}"));
        cluster.clients[node].start_workflow_execution(start_on(&id, &queue)).await.unwrap();
        work(&mut cluster.clients[node], &queue, &id).await;
        assert!(is_completed(&mut cluster.clients[1 - node], &id).await);

        let target = cluster.id_at(1 - node, &format!("{prefix}-target-{node}"));
        let source = cluster.id_at(node, &format!("{prefix}-source-{node}"));
        cluster.clients[0].start_workflow_execution(start(&target)).await.unwrap();
        send(cluster, &source, &[&target]).await;
        wait_for_event(&mut cluster.clients[0], &source, EventType::ExternalWorkflowExecutionSignaled).await;

        let asked = cluster.id_at(node, &format!("{prefix}-asked-{node}"));
        cluster.clients[0].start_workflow_execution(start_on(&asked, &queue)).await.unwrap();
        let task = poll(&mut cluster.clients[node], workflow_poll(&queue)).await;
        let client = &mut cluster.clients[node];
        client.respond_workflow_task_completed(respond(task.task_token, Vec::new())).await.unwrap();
        let query = ask(&cluster.clients[1 - node], &asked, PATIENCE);
        let task = poll(&mut cluster.clients[node], workflow_poll(&queue)).await;
        let answer = answer(task.task_token, "state");
        cluster.clients[1 - node].respond_query_task_completed(answer).await.unwrap();
        query.await.unwrap().unwrap();
        // Before a query that nobody answers has waited for too long, it is looked whether there is a worker.
        ask(&cluster.clients[node], &asked, Duration::from_secs(2)).await.unwrap().unwrap_err();
        ids.extend([id, target, source, asked]);
    }
    for client in &mut cluster.clients {
        let listed = pages(client, &format!("WorkflowId STARTS_WITH '{prefix}-'"), 3).await.unwrap().concat();
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), ids.iter().cloned().collect());
        open(client).await.unwrap();
        closed(client).await.unwrap();
        let shutdown = ShutdownWorkerRequest {
            namespace: NAMESPACE.to_owned(),
            worker_instance_key: prefix.to_owned(),
            worker_heartbeat: Some(WorkerHeartbeat::default()),
            ..ShutdownWorkerRequest::default()
        };
        client.shutdown_worker(shutdown).await.unwrap();
        count(client, "GROUP BY ExecutionStatus").await.unwrap();
    }
    ids
}

/// A request that was once made, with a few changes.
fn changed(random: &mut Random, seeds: &[Carried]) -> (String, Vec<u8>) {
    let message = |seed: &Carried| seed.body[5..].to_vec();
    let (seed, other) = (random.of(seeds).clone(), message(random.of(seeds)));
    let mut input = message(&seed);
    if random.below(4) == 0 {
        mutate::bytes(random, &mut input, &other);
    } else {
        mutate::message(random, &mut input, &other);
    }
    if seed.method == "Offer" {
        // A node is believed what it says of itself: how many batches it has sent.
        let sender = OfferRequest::decode(&seed.body[5..]).unwrap().sender;
        if let Ok(offer) = OfferRequest::decode(&input[..]) {
            input = OfferRequest { sender, ..offer }.encode_to_vec();
        }
    }
    (seed.method, input)
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_between_nodes_is_answered_and_hurts_nobody() {
    let mut cluster = Cluster::start().await;
    let before = work_everywhere(&mut cluster, "before").await;
    let mut histories = Vec::new();
    for id in &before {
        histories.push(events(&mut cluster.clients[0], id).await);
    }
    let mut seeds = cluster.links.carried();
    seeds.retain(|call| METHODS.contains(&call.method.as_str()) && call.body.len() >= 5);
    let methods: BTreeSet<&str> = seeds.iter().map(|call| call.method.as_str()).collect();
    assert_eq!(methods, BTreeSet::from(METHODS));
    // It is believed, too, which leads it has.
    seeds.retain(|call| call.method != "Announce");

    let mut random = Random::new(SEED);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..MESSAGES {
        let (method, message) = changed(&mut random, &seeds);
        let node = *random.of(&NODES);
        let answer = answered(&cluster, node, INTERNAL, &method, message.clone());
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        match answer.unwrap_or_else(|_| panic!("{method} is not answered: {message:02x?}")) {
            Ok(_) => taken += 1,
            Err(status) => {
                assert_ne!(status.code(), Code::Unknown, "{method}: {status:?}");
                refused += 1;
            }
        }
    }
    assert!(taken > MESSAGES / 20 && refused > MESSAGES / 20, "{taken} taken, {refused} refused");

    // What nodes had believed of each other is put right by what they tell each other every second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (id, history) in before.iter().zip(histories) {
        let now = events(&mut cluster.clients[0], id).await;
        assert!(now.starts_with(&history), "{id}: what was there has changed");
        assert!(now.iter().map(|event| event.event_id).eq(1..=now.len() as i64), "{id}");
    }
    work_everywhere(&mut cluster, "after").await;
    cluster.stop().await;
}
