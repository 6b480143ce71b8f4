//! Two nodes, each of which leads one partition: a call comes to either and is answered by the one that leads.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use everlog_config::DynamicConfig;
use everlog_frontend::{Entry, Peers};
use everlog_model::NodeId;
use everlog_partition::{Leaders, Router};
use everlog_proto::api::workflowservice::v1::{
    DescribeWorkflowExecutionRequest, GetWorkflowExecutionHistoryRequest, ListWorkflowExecutionsRequest,
    SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest, TerminateWorkflowExecutionRequest,
};
use everlog_storage::GroupId;
use futures::FutureExt;
use futures::future::BoxFuture;
use harness::{Client, Server, execution, start_request};
use http::{Request, Response};
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};

/// A namespace that has the same id on both nodes.
const NAMESPACE: &str = "temporal-system";

const NODES: [NodeId; 2] = [NodeId(1), NodeId(2)];

/// Who leads which partition.
#[derive(Clone)]
struct Leads {
    me: NodeId,
    leaders: HashMap<GroupId, NodeId>,
}

impl Leaders for Leads {
    fn leads_elsewhere(&self, partition: GroupId) -> Option<NodeId> {
        self.leaders.get(&partition).copied().filter(|leader| *leader != self.me)
    }
}

/// Nodes that reach each other by a function call.
#[derive(Clone)]
struct Neighbours {
    me: NodeId,
    entries: Arc<Mutex<HashMap<NodeId, Entry>>>,
    forwarded: Arc<Mutex<usize>>,
}

impl Peers for Neighbours {
    fn attach(&self, entry: Entry) {
        self.entries.lock().insert(self.me, entry);
    }

    fn call(&self, node: NodeId, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        *self.forwarded.lock() += 1;
        let entry = self.entries.lock().get(&node).cloned();
        async move {
            match entry {
                Some(entry) => entry.call(request).await,
                None => Status::unavailable("no such node").into_http(),
            }
        }
        .boxed()
    }
}

struct Cluster {
    servers: Vec<Server>,
    clients: Vec<Client>,
    forwarded: Arc<Mutex<usize>>,
}

/// Each node believes that these lead its partitions.
async fn cluster(leaders: [[(u32, NodeId); 2]; 2]) -> Cluster {
    let (entries, forwarded) = (Arc::default(), Arc::default());
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for (me, leaders) in NODES.into_iter().zip(leaders) {
        let leaders = leaders.into_iter().map(|(partition, node)| (GroupId(partition), node)).collect();
        let neighbours = Neighbours { me, entries: Arc::clone(&entries), forwarded: Arc::clone(&forwarded) };
        let server = Server::changed(2, DynamicConfig::default(), 1 << 20, |node, services| {
            let partitions = node.router.partitions().cloned().collect();
            services.router =
                Router::new(partitions, Arc::clone(&node.namespaces) as _, Arc::new(Leads { me, leaders }));
            services.peers = Some(Arc::new(neighbours));
        });
        let server = server.await;
        clients.push(server.client().await);
        servers.push(server);
    }
    Cluster { servers, clients, forwarded }
}

fn start(workflow_id: &str) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest { namespace: NAMESPACE.to_owned(), ..start_request(workflow_id) }
}

fn describe(workflow_id: &str) -> DescribeWorkflowExecutionRequest {
    DescribeWorkflowExecutionRequest { namespace: NAMESPACE.to_owned(), execution: execution(workflow_id) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_answers_for_every_workflow() {
    let leaders = [(1, NODES[0]), (2, NODES[1])];
    let Cluster { servers, mut clients, forwarded } = cluster([leaders, leaders]).await;
    let ids: Vec<String> = (0..20).map(|number| format!("workflow-{number}")).collect();
    let mut runs = HashMap::new();
    for (number, id) in ids.iter().enumerate() {
        let started = clients[number % 2].start_workflow_execution(start(id)).await.unwrap().into_inner();
        runs.insert(id.clone(), started.run_id);
    }
    let halfway = *forwarded.lock();
    assert!(halfway > 0 && halfway < ids.len(), "{halfway} of {} starts were forwarded", ids.len());
    // SDKs that are built on the Rust core compress.
    let mut compressing = clients[0].clone().send_compressed(CompressionEncoding::Gzip);
    for id in &ids {
        let signal = SignalWorkflowExecutionRequest {
            namespace: NAMESPACE.to_owned(),
            workflow_execution: execution(id),
            signal_name: "signal".repeat(100),
            ..SignalWorkflowExecutionRequest::default()
        };
        compressing.signal_workflow_execution(signal).await.unwrap();
        for client in &mut clients {
            let described = client.describe_workflow_execution(describe(id)).await.unwrap().into_inner();
            let execution = described.workflow_execution_info.unwrap().execution.unwrap();
            assert_eq!(execution.run_id, runs[id]);
            let history = GetWorkflowExecutionHistoryRequest {
                namespace: NAMESPACE.to_owned(),
                execution: Some(execution),
                ..GetWorkflowExecutionHistoryRequest::default()
            };
            let history = client.get_workflow_execution_history(history).await.unwrap().into_inner();
            assert_eq!(history.history.unwrap().events.len(), 3);
        }
    }
    // Each workflow is at one node only.
    let mut seen = BTreeSet::new();
    for client in &mut clients {
        let list = ListWorkflowExecutionsRequest {
            namespace: NAMESPACE.to_owned(),
            page_size: 100,
            ..ListWorkflowExecutionsRequest::default()
        };
        let listed = client.list_workflow_executions(list).await.unwrap().into_inner().executions;
        assert!(!listed.is_empty());
        for run in listed {
            assert!(seen.insert(run.execution.unwrap().workflow_id));
        }
    }
    assert_eq!(seen, ids.iter().cloned().collect());
    // A refusal comes back as it would from here.
    for client in &mut clients {
        for id in ["nothing-1", "nothing-2", "nothing-3", "nothing-4"] {
            let refused = client.describe_workflow_execution(describe(id)).await.unwrap_err();
            assert_eq!(
                (refused.code(), refused.message()),
                (Code::NotFound, format!("workflow not found for ID: {id}").as_str())
            );
        }
    }
    for id in &ids {
        let terminate = TerminateWorkflowExecutionRequest {
            namespace: NAMESPACE.to_owned(),
            workflow_execution: execution(id),
            ..TerminateWorkflowExecutionRequest::default()
        };
        clients[1].terminate_workflow_execution(terminate).await.unwrap();
    }
    for server in servers {
        server.stopped().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_not_sent_on_by_the_node_that_it_was_sent_to() {
    // Each takes the other for the leader of everything.
    let [first, second] = NODES;
    let Cluster { servers, mut clients, forwarded } =
        cluster([[(1, second), (2, second)], [(1, first), (2, first)]]).await;
    let refused = clients[0].start_workflow_execution(start("w")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(*forwarded.lock(), 1);
    for server in servers {
        server.stopped().await;
    }
}
