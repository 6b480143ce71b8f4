//! A node with its servers inside the test's process, and a client of it.

#![allow(dead_code, reason = "each test binary uses its part of the harness")]

pub(crate) mod process;
pub(crate) mod requests;
pub(crate) mod updates;
pub(crate) mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use everlog_archive::{Archive, ArchiveOptions};
use everlog_config::{Addresses, DynamicConfig, Listen};
use everlog_frontend::{Listeners, Services, serve};
use everlog_meta::DEFAULT_RETENTION;
use everlog_model::{DiskRoom, InForce, PerNamespace};
use everlog_partition::SkippedTime;
use everlog_proto::api::common::v1::{Payload, Payloads, WorkflowExecution, WorkflowType};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::{
    PollWorkflowTaskQueueRequest, PollWorkflowTaskQueueResponse, StartWorkflowExecutionRequest,
};
use everlog_proto::clients::WorkflowServiceClient;
use everlog_server::node::{Neighbours, Node, Options};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Request;
use tonic::transport::Channel;

pub(crate) type Client = WorkflowServiceClient<Channel>;

/// A node that serves on ports that the system chose.
pub(crate) struct Server {
    pub(crate) addresses: Addresses,
    pub(crate) node: Node,
    pub(crate) disk: Arc<DiskRoom>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    _data: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Server {
        Server::with(2, DynamicConfig::default()).await
    }

    pub(crate) async fn with(partitions: u32, config: DynamicConfig) -> Server {
        Server::with_cache(partitions, config, 64 << 20).await
    }

    /// With this much memory for workflows, in bytes.
    pub(crate) async fn with_cache(partitions: u32, config: DynamicConfig, cache_bytes_max: usize) -> Server {
        Server::among(partitions, config, cache_bytes_max, None).await
    }

    /// One of several nodes.
    pub(crate) async fn among(
        partitions: u32,
        config: DynamicConfig,
        cache_bytes_max: usize,
        neighbours: Option<Neighbours>,
    ) -> Server {
        // Boxed: the compiler does not see to the bottom of it otherwise.
        let options = Options { partitions, cache_bytes_max, neighbours, ..options() };
        Box::pin(Server::with_options(options, config, Archive::default())).await
    }

    /// One that skips time.
    pub(crate) async fn skipping(time: SkippedTime) -> Server {
        let options = Options { partitions: 4, skipped_time: Some(Arc::new(time)), ..options() };
        Box::pin(Server::with_options(options, DynamicConfig::default(), Archive::default())).await
    }

    /// One that has an archive.
    pub(crate) async fn archiving(config: DynamicConfig, archive: ArchiveOptions) -> Server {
        Box::pin(Server::with_options(options(), config, Archive::new(archive))).await
    }

    /// One that keeps only so many tasks of a queue and partition in memory.
    pub(crate) async fn with_few_tasks_in_memory(partitions: u32, tasks: usize) -> Server {
        let options = Options { partitions, queue_tasks_in_memory_max: tasks, ..options() };
        Box::pin(Server::with_options(options, DynamicConfig::default(), Archive::default())).await
    }

    /// One that listens in another way, on whatever ports.
    pub(crate) async fn listening(listen: Listen) -> Server {
        Box::pin(Server::of(options(), DynamicConfig::default(), Archive::default(), listen)).await
    }

    /// With options that say everything but where its data is, and its limits.
    async fn with_options(options: Options, config: DynamicConfig, archive: Archive) -> Server {
        Server::of(options, config, archive, Listen::default()).await
    }

    async fn of(options: Options, config: DynamicConfig, archive: Archive, listen: Listen) -> Server {
        let data = tempfile::tempdir().unwrap();
        let listen = Listen { grpc_port: 0, http_port: 0, metrics_port: 0, ..listen };
        let listeners = Listeners::bind(&listen).await.unwrap();
        let per_namespace = PerNamespace::new(config, []);
        let limits = Arc::new(InForce::new(per_namespace.map(|config| config.limits.clone())));
        let skipped_time = options.skipped_time.clone();
        let options = Options { data_dir: data.path().to_owned(), limits: Arc::clone(&limits), ..options };
        let node = Node::start(options).await.unwrap();
        node.parts.namespaces.ensure(["default"].into_iter(), DEFAULT_RETENTION, &[]).await.unwrap();
        let disk = Arc::new(DiskRoom::default());
        let services = Services {
            disk: Arc::clone(&disk),
            archive,
            skipped_time,
            handshake_timeout: listen.handshake_timeout,
            http_access: Arc::new(listen.http.clone()),
            ..node.parts.services(Arc::new(InForce::new(per_namespace)), node.cluster_id())
        };
        let addresses = listeners.addresses();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            serve(listeners, services, shutdown).await.unwrap();
        });
        Server { addresses, node, disk, stop: Some(stop), serving, _data: data }
    }

    pub(crate) async fn channel(&self) -> Channel {
        let url = format!("http://{}", self.addresses.grpc);
        Channel::from_shared(url).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::new(self.channel().await)
    }

    /// Tells the servers to stop; [`Server::stopped`] waits for it.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap();
        }
    }

    /// Waits until the servers have ended, and ends the node.
    pub(crate) async fn stopped(mut self) {
        self.stop();
        self.serving.await.unwrap();
        self.node.stop().await.unwrap();
    }
}

/// Those of a small server, without the place of its data.
fn options() -> Options {
    Options { cache_bytes_max: 64 << 20, tables_open_max: 100, ..Options::of_one(PathBuf::new()) }
}

/// A request with a deadline, as workers and long polls send it.
pub(crate) fn within<T>(timeout: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

pub(crate) fn execution(workflow_id: &str) -> Option<WorkflowExecution> {
    Some(WorkflowExecution { workflow_id: workflow_id.to_owned(), run_id: String::new() })
}

pub(crate) fn task_queue(name: &str) -> Option<TaskQueue> {
    Some(TaskQueue { name: name.to_owned(), ..TaskQueue::default() })
}

pub(crate) fn payloads(text: &str) -> Option<Payloads> {
    Some(Payloads { payloads: vec![Payload { data: text.into(), ..Payload::default() }] })
}

pub(crate) fn start_request(workflow_id: &str) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest {
        namespace: "default".to_owned(),
        workflow_id: workflow_id.to_owned(),
        workflow_type: Some(WorkflowType { name: "type".to_owned() }),
        task_queue: task_queue("queue"),
        request_id: format!("start {workflow_id}"),
        ..StartWorkflowExecutionRequest::default()
    }
}

/// Polls the task queue of [`start_request`] until there is something.
pub(crate) async fn poll(client: &mut Client) -> PollWorkflowTaskQueueResponse {
    loop {
        let request = PollWorkflowTaskQueueRequest {
            namespace: "default".to_owned(),
            task_queue: task_queue("queue"),
            identity: "worker".to_owned(),
            ..PollWorkflowTaskQueueRequest::default()
        };
        let response = client.poll_workflow_task_queue(within(Duration::from_secs(30), request)).await.unwrap();
        let response = response.into_inner();
        if !response.task_token.is_empty() {
            return response;
        }
    }
}
