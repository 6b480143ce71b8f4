//! What workers say of themselves at one node is known at the other.

use everlog_proto::api::enums::v1::WorkerStatus;
use everlog_proto::api::worker::v1::WorkerHeartbeat;
use everlog_proto::api::workflowservice::v1::{
    DescribeWorkerRequest, ListWorkersRequest, RecordWorkerHeartbeatRequest, ShutdownWorkerRequest,
};
use tonic::Code;

use super::cluster::{Cluster, NAMESPACE};
use super::harness::Client;

fn worker(key: &str, status: WorkerStatus) -> WorkerHeartbeat {
    WorkerHeartbeat {
        worker_instance_key: key.to_owned(),
        task_queue: "queue".to_owned(),
        status: status.into(),
        ..WorkerHeartbeat::default()
    }
}

async fn say(client: &mut Client, worker: WorkerHeartbeat) {
    let request = RecordWorkerHeartbeatRequest {
        namespace: NAMESPACE.to_owned(),
        worker_heartbeat: vec![worker],
        ..RecordWorkerHeartbeatRequest::default()
    };
    client.record_worker_heartbeat(request).await.unwrap();
}

async fn keys(client: &mut Client) -> Vec<String> {
    let request = ListWorkersRequest { namespace: NAMESPACE.to_owned(), ..ListWorkersRequest::default() };
    let listed = client.list_workers(request).await.unwrap().into_inner();
    assert_eq!(listed.next_page_token, b"");
    listed.workers.into_iter().map(|worker| worker.worker_instance_key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_knows_of_all_workers() {
    let mut cluster = Cluster::start().await;
    // A node that answers hears what the other one tells.
    for client in &mut cluster.clients {
        assert_eq!(keys(client).await, Vec::<String>::new());
    }
    say(&mut cluster.clients[0], worker("a", WorkerStatus::Running)).await;
    say(&mut cluster.clients[1], worker("b", WorkerStatus::Running)).await;
    for client in &mut cluster.clients {
        assert_eq!(keys(client).await, ["a", "b"]);
    }
    // The newest counts, wherever it comes in.
    say(&mut cluster.clients[1], worker("a", WorkerStatus::ShuttingDown)).await;
    let describe = DescribeWorkerRequest { namespace: NAMESPACE.to_owned(), worker_instance_key: "a".to_owned() };
    for client in &mut cluster.clients {
        let described = client.describe_worker(describe.clone()).await.unwrap().into_inner();
        let known = described.worker_info.unwrap().worker_heartbeat.unwrap();
        assert_eq!(known.status(), WorkerStatus::ShuttingDown);
    }
    let shutdown = ShutdownWorkerRequest {
        namespace: NAMESPACE.to_owned(),
        worker_instance_key: "a".to_owned(),
        worker_heartbeat: Some(worker("a", WorkerStatus::Shutdown)),
        ..ShutdownWorkerRequest::default()
    };
    cluster.clients[0].shutdown_worker(shutdown).await.unwrap();
    for client in &mut cluster.clients {
        assert_eq!(keys(client).await, ["b"]);
        let unknown = client.describe_worker(describe.clone()).await.unwrap_err();
        assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "Worker a not found"));
    }
    cluster.stop().await;
}
