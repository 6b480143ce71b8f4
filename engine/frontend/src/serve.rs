//! The listeners, and the servers behind them: gRPC, HTTP, metrics.

mod turn_away;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use everlog_cluster::{ClusterApi, Entry, Peers, Service, ServiceParts};
use everlog_config::{Addresses, Listen};
use everlog_http::Api;
use everlog_matching::MatchingHandle;
use everlog_model::limits;
use everlog_partition::{Router, SkippedTime, Status};
use everlog_proto::cluster::ClusterServiceServer;
use everlog_proto::operator_service::{OperatorServiceServer, operator_service_server};
use everlog_proto::test_service::TestServiceServer;
use everlog_proto::workflow_service::{WorkflowServiceServer, workflow_service_server};
use everlog_transport::TlsError;
use everlog_visibility::Reader;
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::{Layer, Service as _};

use super::connections::{Door, Silence};
use super::forward::Forward;
use super::inside::Inside;
use super::layer::ObserveLayer;
use super::polls::Polls;
use super::request_body::Budget;
use super::services::{OperatorApi, WorkflowApi};
use super::test_service::TestApi;
use super::tls::ListenerTls;
use super::{Frontend, Services, archiver, batch_jobs, deleted_namespaces, deployments, http, nexus_calls, web};

/// How long requests in flight may take once the server is to stop.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(10);

/// Streams of one connection. A worker with many pollers has as many open streams, and SDKs share one connection.
const CONNECTION_STREAMS_MAX: u32 = 100_000;

/// Streams of a connection that were reset and are not forgotten yet: a worker that stops resets all its polls at once, which
/// must not look like an attack.
const CONNECTION_RESETS_MAX: usize = 10_000;

/// Flow control windows, bytes. Of a request that waits for the budget, a stream's window is in memory, so it is small: as much as a
/// client 50 ms away sends at 5 MB/s. A connection lets the small requests of a client pass by several large ones that wait.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// The largest request of the services that are asked little: health, reflection and the cluster.
const SMALL_SERVICE_BYTES_MAX: usize = 64 * 1024;

/// Connections of the listeners for HTTP and for metrics, each: of what there is for all, and at most.
const HTTP_CONNECTIONS_SHARE: usize = 16;
const HTTP_CONNECTIONS_MAX: usize = 1000;
const METRICS_CONNECTIONS_MAX: usize = 64;

/// The services whose health is reported, besides the empty name that means the server.
const HEALTH_NAMES: [&str; 3] = ["", workflow_service_server::SERVICE_NAME, operator_service_server::SERVICE_NAME];

/// Why the servers ended before they were asked to, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {what}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// What clients are to be shown under TLS cannot be used.
    #[error("tls.frontend: {0}")]
    Tls(#[from] TlsError),
    /// The gRPC server failed.
    #[error("the gRPC server failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// The descriptors for reflection are not readable.
    #[error("gRPC reflection: {0}")]
    Reflection(String),
}

/// The sockets that a node listens on.
#[derive(Debug)]
pub struct Listeners {
    grpc: TcpListener,
    http: TcpListener,
    metrics: TcpListener,
    addresses: Addresses,
    /// That of gRPC and HTTP.
    tls: Option<Arc<ListenerTls>>,
}

impl Listeners {
    /// Listens. Nothing is answered before [`serve`].
    ///
    /// # Errors
    ///
    /// [`ServeError::Listen`] if an address is taken or not this machine's; [`ServeError::Tls`] if a certificate or key cannot be used.
    pub async fn bind(listen: &Listen) -> Result<Listeners, ServeError> {
        let bind = async |port: u16, what: &'static str| {
            let address = SocketAddr::new(listen.ip, port);
            let failed = |source| ServeError::Listen { address, what, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            Ok::<_, ServeError>((listener, address))
        };
        let tls = listen.tls.clone().map(ListenerTls::open).transpose()?.map(Arc::new);
        let (grpc, grpc_address) = bind(listen.grpc_port, "gRPC").await?;
        let (http, http_address) = bind(listen.http_port, "HTTP").await?;
        let (metrics, metrics_address) = bind(listen.metrics_port, "metrics").await?;
        let addresses = Addresses { grpc: grpc_address, http: http_address, metrics: metrics_address };
        Ok(Listeners { grpc, http, metrics, addresses, tls })
    }

    /// The addresses, with the ports that the system chose.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }
}

/// Serves until `shutdown` resolves; then ends polls, lets requests in flight finish for a while, and returns.
///
/// # Errors
///
/// See [`ServeError`].
pub async fn serve(
    listeners: Listeners,
    services: Services,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let serving = Arc::new(AtomicBool::new(true));
    let health = HealthReporter::new();
    report_health(&health, ServingStatus::Serving).await;
    let watching = tokio::spawn(watch_partitions(services.router.clone(), health.clone(), Arc::clone(&serving)));

    let addresses = listeners.addresses();
    let head_time_max = services.handshake_timeout;
    let Doors { grpc, http, metrics: metrics_door } = doors(listeners, &services);
    let matching = services.matching.clone();
    let probes = http::health(Arc::clone(&serving), Arc::clone(&services.operations));
    let metrics = http::metrics(probes.clone(), services.render_metrics);
    let Front { frontend, routes, observed, drain, draining, tasks } = front(services, addresses);
    let access = Arc::clone(&frontend.http_access);
    let http_settings = everlog_http::Settings {
        request_bytes_max: frontend.request_bytes_max,
        hosts: frontend.config("").frontend.http_hosts.clone(),
        origins: access.origins.iter().map(|origin| origin.as_str().to_owned()).collect(),
        is_local: addresses.http.ip().is_loopback(),
    };
    let others = with_health_and_reflection(routes.others, &health, frontend.skipped_time.clone())?;
    let drained = |mut draining: watch::Receiver<bool>| async move {
        // The sender lives as long as this function.
        let _ = draining.wait_for(|draining| *draining).await;
    };
    let api = Api::new(observed.layer(others.clone()), http_settings);
    let grpc = grpc_server(&routes.keepalive, observed)
        .add_routes(others)
        .serve_with_incoming_shutdown(grpc.connections(), drained(draining.clone()));
    let api = http::api(probes, access, api);
    let api = web::serve(http, api, draining.clone(), head_time_max);
    let metrics = web::serve(metrics_door, metrics, draining, head_time_max);

    let servers = async {
        let grpc = async { grpc.await.map_err(ServeError::from) };
        tokio::try_join!(grpc, api.map(Ok), metrics.map(Ok)).map(|_| ())
    };
    tokio::pin!(servers);
    tokio::select! {
        ended = &mut servers => return ended,
        () = shutdown => {}
    }
    watching.abort();
    drop(tasks);
    serving.store(false, Ordering::Relaxed);
    report_health(&health, ServingStatus::NotServing).await;
    matching.local().drain();
    // The receivers are in the servers; without any, there is nothing to drain.
    let _ = drain.send(true);
    match tokio::time::timeout(DRAIN_WAIT_MAX, servers).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!("requests were still in flight {DRAIN_WAIT_MAX:?} after the server was asked to stop");
            Ok(())
        }
    }
}

/// The services of a node without listeners, for callers in the same process. They end with this.
pub struct LocalFront {
    entry: Entry,
    matching: MatchingHandle,
    drain: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl LocalFront {
    /// Begins to serve. Must be called within a tokio runtime.
    pub fn new(services: Services) -> LocalFront {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let matching = services.matching.clone();
        let addresses = Addresses { grpc: nowhere, http: nowhere, metrics: nowhere };
        let Front { routes, observed, drain, tasks, .. } = front(services, addresses);
        let service = observed.layer(routes.others.prepare());
        let entry = Entry::new(move |request| {
            let mut service = service.clone();
            // Routes are always ready.
            async move { service.call(request).await.unwrap_or_else(|never| match never {}) }.boxed()
        });
        LocalFront { entry, matching, drain, _tasks: tasks }
    }

    /// Where calls of clients come in.
    pub fn entry(&self) -> Entry {
        self.entry.clone()
    }

    /// Ends polls, and whatever else waits for something to happen.
    pub fn drain(&self) {
        self.matching.local().drain();
        self.drain.send_replace(true);
    }
}

/// What answers calls, wherever they come from.
struct Front {
    frontend: Arc<Frontend>,
    routes: GrpcRoutes,
    observed: ObserveLayer,
    drain: watch::Sender<bool>,
    draining: watch::Receiver<bool>,
    /// What goes on beside.
    tasks: JoinSet<()>,
}

fn front(services: Services, addresses: Addresses) -> Front {
    let (drain, draining) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow_metadata(services.clone()));
    let forward = Forward::new(&services, draining.clone());
    let reader = Arc::default();
    let registrar = deployments::Register::default();
    let internal = internal_service(&services, &reader, &registrar);
    let (polls, pages) = (Polls::default(), Arc::new(Semaphore::new(limits::HISTORY_PAGES_MAX)));
    let registering = tokio::sync::Mutex::new(());
    let draining_now = draining.clone();
    let frontend =
        Arc::new(Frontend { services, reader, polls, registering, pages, addresses, draining: draining_now });
    registrar.attach(&frontend);
    let routes = routes(&frontend);
    tasks.spawn(deleted_namespaces::reclaim(Arc::clone(&frontend)));
    tasks.spawn(deployments::drain(Arc::clone(&frontend)));
    if let (Some((peers, internal)), Some(forward)) = (internal, &forward) {
        let (workflow, forward, budget) = (routes.workflow.clone(), Arc::clone(forward), Arc::clone(&routes.budget));
        let others = routes.others.clone().prepare();
        peers.attach(Inside { workflow, others, internal, forward, budget }.entry());
    }
    let observed = ObserveLayer { workflow: routes.workflow.clone(), budget: Arc::clone(&routes.budget), forward };
    let calls = batch_jobs::Calls::new(observed.layer(routes.others.clone().prepare()));
    tasks.spawn(nexus_calls::make_calls(frontend.services.clone()));
    tasks.spawn(archiver::archive_runs(frontend.services.clone()));
    tasks.spawn(batch_jobs::drive(Arc::clone(&frontend), calls));
    Front { frontend, routes, observed, drain, draining, tasks }
}

struct Doors {
    grpc: Door,
    http: Door,
    metrics: Door,
}

/// The doors in front of the listeners, which share the descriptors that are for connections.
fn doors(listeners: Listeners, services: &Services) -> Doors {
    let silence_max = services.handshake_timeout;
    let share = |max: usize| (services.connections_max / HTTP_CONNECTIONS_SHARE).clamp(1, max);
    let (http_max, metrics_max) = (share(HTTP_CONNECTIONS_MAX), share(METRICS_CONNECTIONS_MAX));
    let grpc_max = services.connections_max.saturating_sub(http_max + metrics_max).max(1);
    let handshakes_max = services.handshakes_per_address_max;
    let http =
        |name, listener, max| Door::new(name, listener, max, handshakes_max, Silence::BetweenRequests, silence_max);
    let grpc = Door::new("grpc", listeners.grpc, grpc_max, handshakes_max, Silence::BeforePreface, silence_max);
    Doors {
        grpc: grpc.with_tls(listeners.tls.clone()),
        http: http("http", listeners.http, http_max).with_tls(listeners.tls),
        metrics: http("metrics", listeners.metrics, metrics_max),
    }
}

/// Keeps health at what the partitions say: one that cannot serve makes the server say so, since its workflows are reached through no
/// other.
async fn watch_partitions(router: Router, health: HealthReporter, serving: Arc<AtomicBool>) {
    let mut here = router.partitions().watch();
    let gauge = |id: &String| metrics::gauge!("everlog_partition_serving", "partition" => id.clone());
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut reported = true;
    loop {
        let partitions = Arc::clone(&here.borrow_and_update());
        let mut statuses: Vec<_> =
            partitions.iter().map(|partition| (partition.group().id().to_string(), partition.status())).collect();
        let mut now = true;
        for (id, status) in &mut statuses {
            let serves = !matches!(*status.borrow_and_update(), Status::NotServing(_));
            gauge(id).set(if serves { 1.0 } else { 0.0 });
            now &= serves;
        }
        // One that has gone elsewhere is no fault of this node.
        let ids: BTreeSet<_> = statuses.iter().map(|(id, _)| id.clone()).collect();
        known.difference(&ids).for_each(|gone| gauge(gone).set(0.0));
        known = ids;
        if now != reported {
            reported = now;
            serving.store(now, Ordering::Relaxed);
            report_health(&health, if now { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
        }
        let changes = statuses.iter_mut().map(|(_, status)| {
            Box::pin(async {
                // The loop has ended: the partition is about to go.
                if status.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            })
        });
        let changed = async {
            match changes.len() {
                0 => std::future::pending().await,
                _ => drop(futures::future::select_all(changes).await),
            }
        };
        tokio::select! {
            () = changed => {}
            // The partitions end only with the server.
            come_or_gone = here.changed() => if come_or_gone.is_err() { return },
        }
    }
}

/// Has the settings of task queues kept, and where these lead, as they change, for as long as there is metadata.
async fn follow_metadata(services: Services) {
    let namespaces = Arc::clone(&services.namespaces);
    let settings = namespaces.follow_task_queues(|queue, config| services.apply_queue_settings(queue, config));
    let matching = services.matching.local();
    let routes = namespaces.follow_deployments(|namespace_id, deployments| matching.route(namespace_id, deployments));
    tokio::join!(settings, routes);
}

async fn report_health(health: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

struct Keepalive {
    interval: Duration,
    timeout: Duration,
}

struct GrpcRoutes {
    workflow: WorkflowServiceServer<WorkflowApi>,
    others: Routes,
    budget: Arc<Budget>,
    keepalive: Keepalive,
}

/// What other nodes may ask of this one, and the way that they come, if there are any.
fn internal_service(
    services: &Services,
    reader: &Arc<Reader>,
    registrar: &deployments::Register,
) -> Option<(Arc<dyn Peers>, Service)> {
    let nodes = services.nodes.clone()?;
    let peers = Arc::clone(nodes.peers());
    let parts = ServiceParts {
        nodes,
        router: services.router.clone(),
        matching: services.matching.clone(),
        namespaces: Arc::clone(&services.namespaces),
        queries: Arc::clone(&services.queries),
        reader: Arc::clone(reader),
        operations: Arc::clone(&services.operations),
        moves: Arc::clone(&services.moves),
        registrar: Arc::new(registrar.clone()),
        request_bytes_max: services.request_bytes_max,
    };
    Some((peers, Service::new(parts)))
}

/// Newer SDKs compress what they send. Large answers to them are compressed too, by `response_body.rs`.
fn routes(frontend: &Arc<Frontend>) -> GrpcRoutes {
    let limits = &frontend.config("").frontend;
    let keepalive = Keepalive { interval: limits.keepalive_interval, timeout: limits.keepalive_timeout };
    let request_bytes_max = frontend.request_bytes_max;
    let workflow = WorkflowServiceServer::new(WorkflowApi(Arc::clone(frontend)))
        // SDKs built on the Rust core compress what they send.
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(request_bytes_max)
        .max_encoding_message_size(usize::MAX);
    let operator = OperatorServiceServer::new(OperatorApi(Arc::clone(frontend)))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(request_bytes_max);
    let cluster = ClusterServiceServer::new(ClusterApi::new(Arc::clone(&frontend.operations)))
        .max_decoding_message_size(SMALL_SERVICE_BYTES_MAX);
    let others = Routes::new(operator).add_service(cluster);
    GrpcRoutes { workflow, others, budget: Arc::new(Budget::new(request_bytes_max)), keepalive }
}

/// The services of those who come through a listener, besides.
fn with_health_and_reflection(
    routes: Routes,
    health: &HealthReporter,
    skipped_time: Option<Arc<SkippedTime>>,
) -> Result<Routes, ServeError> {
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health.clone()),
    )
    .accept_compressed(CompressionEncoding::Gzip)
    .max_decoding_message_size(SMALL_SERVICE_BYTES_MAX);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(everlog_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(everlog_proto::OWN_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let failed = |error: tonic_reflection::server::Error| ServeError::Reflection(error.to_string());
    let test = skipped_time.map(|time| {
        TestServiceServer::new(TestApi(time))
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(SMALL_SERVICE_BYTES_MAX)
    });
    let routes = match test {
        Some(test) => routes.add_service(test),
        None => routes,
    };
    Ok(routes
        .add_service(health)
        .add_service(reflection().build_v1().map_err(failed)?.max_decoding_message_size(SMALL_SERVICE_BYTES_MAX))
        .add_service(reflection().build_v1alpha().map_err(failed)?.max_decoding_message_size(SMALL_SERVICE_BYTES_MAX))
        .prepare())
}

/// Clients may ping as often as they like: SDKs do so every 10 to 30 seconds, and hyper does not count pings.
fn grpc_server(
    keepalive: &Keepalive,
    layer: ObserveLayer,
) -> Server<tower::layer::util::Stack<ObserveLayer, tower::layer::util::Identity>> {
    Server::builder()
        .http2_keepalive_interval(Some(keepalive.interval))
        .http2_keepalive_timeout(Some(keepalive.timeout))
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(CONNECTION_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(CONNECTION_RESETS_MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .layer(layer)
}
