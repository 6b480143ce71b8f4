//! Pools of partitions: what is in one is in no other, messages go from one to another, and a pool that was being made when the node was killed is
//! finished at the next start.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, too")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::NamespaceId;
use everlog_meta::{
    Founder, GroupRow, NamespaceRecord, Namespaces, NewNamespace, Placement, Pool, PoolId, Topology, TopologyChange,
    WantedPool,
};
use everlog_model::{NodeId, SlotSource};
use everlog_partition::{Route, Status};
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::EventType;
use everlog_proto::api::namespace::v1::UpdateNamespaceInfo;
use everlog_proto::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, GetWorkflowExecutionHistoryRequest, ListWorkflowExecutionsRequest,
    PollWorkflowTaskQueueRequest, RespondWorkflowTaskCompletedRequest, StartWorkflowExecutionRequest,
    UpdateNamespaceRequest,
};
use everlog_raft::{Group, GroupReplica, Leadership, NodeOptions};
use everlog_server::node::{Node, NodeError, Options};
use everlog_storage::keys::{self, KeyRange};
use everlog_storage::log::LogEngine;
use everlog_storage::state::{Direction, StateEngine};
use everlog_storage::{DataDirectory, GroupId, LogOptions, RocksState, SegmentLog, StateOptions};
use harness::{Client, Server, execution, requests, start_request, within};
use parking_lot::RwLock;

const PATIENCE: Duration = Duration::from_secs(30);

fn own() -> WantedPool {
    WantedPool::ToFailOver { placement: None, failover_group: None, regions: Vec::new() }
}

fn new(name: &str) -> NewNamespace {
    NewNamespace { name: name.to_owned(), retention: Duration::from_secs(86_400), ..NewNamespace::default() }
}

fn start_in(namespace: &str, workflow_id: &str) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest { namespace: namespace.to_owned(), ..start_request(workflow_id) }
}

async fn list(client: &mut Client, namespace: &str, query: &str) -> BTreeSet<String> {
    let request = ListWorkflowExecutionsRequest {
        namespace: namespace.to_owned(),
        query: query.to_owned(),
        ..ListWorkflowExecutionsRequest::default()
    };
    let listed = client.list_workflow_executions(request).await.unwrap().into_inner();
    listed.executions.into_iter().map(|run| run.execution.unwrap().workflow_id).collect()
}

async fn count(client: &mut Client, namespace: &str) -> i64 {
    let request =
        CountWorkflowExecutionsRequest { namespace: namespace.to_owned(), ..CountWorkflowExecutionsRequest::default() };
    client.count_workflow_executions(request).await.unwrap().into_inner().count
}

/// Whether a workflow has been signalled.
async fn is_signalled(client: &mut Client, namespace: &str, workflow_id: &str) -> bool {
    let request = GetWorkflowExecutionHistoryRequest {
        namespace: namespace.to_owned(),
        execution: execution(workflow_id),
        ..GetWorkflowExecutionHistoryRequest::default()
    };
    let history = client.get_workflow_execution_history(request).await.unwrap().into_inner().history.unwrap();
    history.events.iter().any(|event| event.event_type() == EventType::WorkflowExecutionSignaled)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_pool_is_in_its_partitions_alone() {
    let mut server = Server::start().await;
    let record = server.node.parts.pools.register(&own(), new("own")).await.unwrap();
    let mine: BTreeSet<_> = server.node.parts.namespaces.partitions_of(record.namespace.id).into_iter().collect();
    assert_eq!(mine, (3..=6).map(GroupId).collect(), "the server has two others");
    assert_eq!(server.node.parts.router.partitions_count(), 2);
    let mut client = server.client().await;
    let ids: BTreeSet<_> = (0..20).map(|number| format!("w{number}")).collect();
    let mut used = BTreeSet::new();
    for id in &ids {
        client.start_workflow_execution(start_in("own", id)).await.unwrap();
        let Route::Here(partition) = server.node.parts.router.workflow(record.namespace.id, id) else { panic!("{id}") };
        used.insert(partition.group().id());
    }
    assert!(used.is_subset(&mine) && used.len() > 1, "{used:?}");
    client.start_workflow_execution(start_in("default", "w0")).await.unwrap();
    assert_eq!(list(&mut client, "own", "").await, ids);
    assert_eq!((count(&mut client, "own").await, count(&mut client, "default").await), (20, 1));
    assert_eq!(list(&mut client, "own", "WorkflowId = 'w3'").await.len(), 1);

    // A worker of the pool's queue; it has another workflow of the pool signalled, which lives in another partition.
    let poll = PollWorkflowTaskQueueRequest { namespace: "own".to_owned(), ..requests::poll_workflow("queue") };
    let task = client.poll_workflow_task_queue(within(PATIENCE, poll)).await.unwrap().into_inner();
    let WorkflowExecution { workflow_id, .. } = task.workflow_execution.unwrap();
    let home = |id: &str| match server.node.parts.router.workflow(record.namespace.id, id) {
        Route::Here(partition) => partition.group().id(),
        _ => panic!("{id} is not here"),
    };
    let other = ids.iter().find(|id| home(id) != home(&workflow_id)).unwrap();
    let done = RespondWorkflowTaskCompletedRequest {
        namespace: "own".to_owned(),
        ..requests::respond(task.task_token, vec![requests::signal_external(other, "s")])
    };
    client.respond_workflow_task_completed(done).await.unwrap();
    let arrived = async {
        while !is_signalled(&mut client, "own", other).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.unwrap();
    server.stop();
    server.stopped().await;
}

/// How many rows each partition has of a namespace's entities and lists.
fn rows_of(server: &Server, id: NamespaceId) -> BTreeMap<GroupId, usize> {
    let all = keys::slot_range(0..keys::SLOTS);
    let is_its = |key: &[u8]| keys::decode_entity_place(key).is_ok_and(|(_, namespace)| namespace == id.0);
    let partitions = server.node.parts.router.partitions().all();
    let rows = |group: &Group| {
        let scan =
            |range: KeyRange| group.scan(&range.start[..]..&range.end[..], Direction::Ascending, usize::MAX).unwrap();
        let entities = scan(all.clone()).into_iter().filter(|(key, _)| is_its(key)).count();
        entities + scan(keys::visibility_range(&id.0)).len()
    };
    partitions.iter().map(|partition| partition.group()).map(|group| (group.id(), rows(&group))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moves_is_moved_whole_and_deleted_whole() {
    let mut server = Server::start().await;
    let namespaces = Arc::clone(&server.node.parts.namespaces);
    let eu = Placement { name: "eu".to_owned(), replicas: 1, ..Placement::default() };
    namespaces.change_topology(|_| Ok((vec![TopologyChange::Placement(eu.clone())], ()))).await.unwrap();
    let mut client = server.client().await;
    let mut ids = Vec::new();
    for name in ["stays", "moves", "goes"] {
        let record = server.node.parts.pools.register(&WantedPool::Default, new(name)).await.unwrap();
        ids.push(record.namespace.id);
        for number in 0..60 {
            client.start_workflow_execution(start_in(name, &format!("w{number}"))).await.unwrap();
        }
    }
    let [stays, moves, goes] = ids[..] else { panic!("{ids:?}") };
    let before = rows_of(&server, stays);
    for name in ["moves", "goes"] {
        let data = [("everlog.placement".to_owned(), "eu".to_owned())].into();
        let update_info = Some(UpdateNamespaceInfo { data, ..UpdateNamespaceInfo::default() });
        let request =
            UpdateNamespaceRequest { namespace: name.to_owned(), update_info, ..UpdateNamespaceRequest::default() };
        client.update_namespace(request).await.unwrap();
    }
    namespaces.delete(goes, Duration::ZERO).await.unwrap();
    let is_over = async {
        while !namespaces.moves().is_empty() || rows_of(&server, goes).values().any(|rows| *rows > 0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_over).await.unwrap();
    let of_eu = |group: &GroupId| group.0 > 2;
    let after = rows_of(&server, moves);
    assert_eq!(after.len(), 10, "two that the server was founded with, and eight");
    assert_eq!(after.iter().filter(|(group, _)| !of_eu(group)).map(|(_, rows)| rows).sum::<usize>(), 0, "{after:?}");
    assert_eq!(after.values().sum::<usize>(), before.values().sum::<usize>(), "as many rows as of its like: {after:?}");
    let of_another: BTreeMap<_, _> = rows_of(&server, stays).into_iter().filter(|(group, _)| !of_eu(group)).collect();
    assert_eq!(of_another, before);
    assert_eq!((count(&mut client, "moves").await, list(&mut client, "moves", "").await.len()), (60, 60));
    // Its queue is at home where it is now.
    let poll = PollWorkflowTaskQueueRequest { namespace: "moves".to_owned(), ..requests::poll_workflow("queue") };
    let task = client.poll_workflow_task_queue(within(PATIENCE, poll)).await.unwrap().into_inner();
    assert!(!task.task_token.is_empty());
    let done = RespondWorkflowTaskCompletedRequest {
        namespace: "moves".to_owned(),
        ..requests::respond(task.task_token, Vec::new())
    };
    client.respond_workflow_task_completed(done).await.unwrap();
    server.stop();
    server.stopped().await;
}

async fn start(path: &Path) -> Result<Node, NodeError> {
    let options =
        Options { partitions: 2, cache_bytes_max: 1 << 20, tables_open_max: 100, ..Options::of_one(path.to_owned()) };
    let_go(path).await;
    Node::start(options).await
}

/// Waits until nobody has the rows of a node that has stopped: whoever closes them last writes once more.
async fn let_go(path: &Path) {
    let free = async {
        while path.join("state").exists() && RocksState::open(&path.join("state"), StateOptions::default()).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, free).await.unwrap();
}

/// Does something to the groups of a node that has stopped, and ends without a flush, as a kill would.
async fn killed_after(path: &Path, work: impl AsyncFnOnce(&everlog_raft::Node, &Namespaces)) {
    let_go(path).await;
    let directory = DataDirectory::open(path).unwrap();
    let log = Arc::new(SegmentLog::open(&directory.log_path(), LogOptions::default()).unwrap());
    let state = Arc::new(RocksState::open(&directory.state_path(), StateOptions::default()).unwrap());
    let engines = (Arc::clone(&log) as Arc<dyn LogEngine>, state as Arc<dyn StateEngine>);
    let node = everlog_raft::Node::new(NodeOptions::default(), engines.0, engines.1);
    let meta = node.open_group(GroupReplica::founding(GroupId(0))).await.unwrap();
    let namespaces = Namespaces::open(Arc::new(RwLock::new(meta)), None).await.unwrap();
    namespaces.catch_up().await.unwrap();
    work(&node, &namespaces).await;
    node.halt().await;
    log.close().unwrap();
}

fn here(_: &Topology, pool: &Pool) -> Result<Vec<(GroupId, GroupRow)>, String> {
    let row = GroupRow::new(vec![Founder { node: NodeId(1), disk: 0 }]);
    Ok(pool.partitions().into_iter().map(|group| (group, row.clone())).collect())
}

async fn serves(node: &Node, namespace: &NamespaceRecord) {
    for (partition, _) in node.parts.router.partitions_of(namespace.namespace.id) {
        let mut status = partition.status();
        let serving = status.wait_for(|status| *status == Status::Serving);
        tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
    }
    let settled = async {
        while node.parts.namespaces.topology().groups.values().any(|row| !row.is_settled || !row.founding.is_empty()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("it is written down that the groups are founded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_was_being_made_is_finished_at_the_next_start() {
    // 0: the metadata name the pool and the namespace; 1 to 4: so many of its groups are made.
    for step in 0..=4 {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path();
        start(path).await.unwrap().stop().await.unwrap();
        killed_after(path, async |node, namespaces| make_some_of(node, namespaces, step).await).await;
        for _ in 0..2 {
            let node = start(path).await.unwrap_or_else(|error| panic!("step {step}: {error}"));
            let namespace = node.parts.namespaces.by_name("own").unwrap();
            assert_eq!((namespace.pool, node.parts.router.partitions().all().len()), (PoolId(1), 6), "step {step}");
            serves(&node, &namespace).await;
            node.stop().await.unwrap();
        }
    }
}

/// A pool of four partitions is to be, and so many of them are made.
async fn make_some_of(node: &everlog_raft::Node, namespaces: &Namespaces, count: u32) {
    namespaces.register_in(&own(), &here, new("own")).await.unwrap();
    for group in 3..3 + count {
        let group = node.create_group(GroupReplica::founding(GroupId(group))).await.unwrap();
        let mut leadership = group.leadership();
        leadership.wait_for(|now| matches!(now, Leadership::Leader { .. })).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_alone_takes_its_pools_into_a_cluster() {
    for made in 0..=4 {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path();
        start(path).await.unwrap().stop().await.unwrap();
        killed_after(path, async |node, namespaces| make_some_of(node, namespaces, made).await).await;
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings = format!("[cluster]\nseeds = [\"{address}\"]\ninitial_nodes = 1\nlisten = \"{address}\"\n");
        let cluster = everlog_server::settings::parse(&settings, &[]).unwrap().cluster;
        for _ in 0..2 {
            let_go(path).await;
            let options = Options { cluster: cluster.clone(), ..Options::of_one(path.to_owned()) };
            let node = Node::start(options).await.unwrap_or_else(|error| panic!("{made} made: {error}"));
            let namespace = node.parts.namespaces.by_name("own").unwrap();
            let all = async {
                while node.parts.router.partitions().all().len() < 6 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("{made} made: not all are here"));
            serves(&node, &namespace).await;
            node.stop().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_lost_is_not_founded_again() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path();
    let node = start(path).await.unwrap();
    let namespace = node.parts.pools.register(&own(), new("own")).await.unwrap();
    serves(&node, &namespace).await;
    node.stop().await.unwrap();
    killed_after(path, async |node, _| node.discard_group(GroupId(4)).await.unwrap()).await;
    let error = start(path).await.err().unwrap();
    assert_eq!(error.to_string(), "group 4: it is not on this node");
}
