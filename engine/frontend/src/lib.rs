//! The gRPC services that SDKs, the CLI and the UI call.
//!
//! A request comes in through [`serve`] and the `layer` in front of every method, which has its body read as far as memory
//! allows (`request_body`), is handed on by the thin implementations in `services`, and is answered by the file of its family. Here is checked what can be checked without a
//! workflow's state; everything else is a command to a partition. Errors are one type, turned into a status in `errors`.
//!
//! ```text
//!   other nodes ─▶ inside ─▶┐
//!   serve ─▶ layer ────────▶ services ─▶ workflow_start, workflow_control, workflow_options, workflow_tasks, activity_tasks,
//!                                        activity_operations, history, archived, query, visibility, schedules, batch_jobs, namespaces, operator,
//!                                        system, task_queues, deployments, workers, no_effect, turned_off
//! ```

mod activity_executions;
mod activity_operations;
mod activity_tasks;
mod archived;
mod archiver;
mod batch_jobs;
mod call;
mod capabilities;
mod connections;
mod deleted_namespaces;
mod deployments;
mod errors;
mod execute;
mod forward;
mod forwarded;
mod handshakes;
mod history;
mod history_token;
mod http;
mod inside;
mod layer;
mod links;
mod locate;
#[cfg(test)]
mod method_table;
mod multi_operation;
mod namespaces;
mod nexus_calls;
mod nexus_endpoints;
mod nexus_failures;
mod nexus_links;
mod nexus_tasks;
mod operator;
mod polls;
mod protocol;
mod query;
mod reads;
mod request_body;
mod reset;
mod response_body;
mod schedules;
mod search_attributes;
mod serve;
mod services;
mod system;
mod task_queue_config;
mod task_queues;
mod test_service;
mod tls;
mod turned_off;
mod unbuilt;
mod updates;
mod validate;
mod visibility;
mod web;
mod wire;
mod workers;
mod workflow_control;
mod workflow_options;
mod workflow_start;
mod workflow_tasks;

pub use serve::{Listeners, LocalFront, ServeError, serve};

use std::sync::Arc;
use std::time::Duration;

use everlog_archive::{Archive, PartOptions};
use everlog_cluster::{MovePartitions, Nodes, Operations, Pools};
use everlog_config::{Addresses, DynamicConfig, HttpAccess};
use everlog_kernel::NamespaceId;
use everlog_matching::MatchingHandle;
use everlog_matching::query_waiters::Queries;
use everlog_meta::{NamespaceRecord, Namespaces, Regions};
use everlog_model::{DiskRoom, InForce, WorkflowRef};
use everlog_partition::{BatchJobs, ExpiredRuns, NexusCalls, Router, SkippedTime};
use everlog_proto::api::enums::v1::NamespaceState;
use everlog_visibility::Reader;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::errors::Error;
use self::polls::Polls;

/// What the frontend works with.
#[derive(Clone)]
pub struct Services {
    /// The way to the workflows.
    pub router: Router,
    /// The other nodes, if there are any.
    pub nodes: Option<Arc<Nodes>>,
    /// What operators see and steer.
    pub operations: Arc<Operations>,
    /// The pools of partitions.
    pub pools: Arc<Pools>,
    /// What partitions do when namespaces move from one pool to another.
    pub moves: Arc<MovePartitions>,
    /// The task queues.
    pub matching: MatchingHandle,
    /// The namespaces.
    pub namespaces: Arc<Namespaces>,
    /// Queries that wait for a worker's answer.
    pub queries: Arc<Queries>,
    /// The batch jobs that run here.
    pub batch_jobs: BatchJobs,
    /// The calls to Nexus services that runs ask for here.
    pub nexus_calls: NexusCalls,
    /// The runs that are to be archived here before they go.
    pub expired_runs: ExpiredRuns,
    /// Where to.
    pub archive: Archive,
    /// Limits and timeouts.
    pub config: Arc<InForce<DynamicConfig>>,
    /// The time of a server that skips it, for tests.
    pub skipped_time: Option<Arc<SkippedTime>>,
    /// Names the cluster, for `GetClusterInfo`.
    pub cluster_id: String,
    /// The largest request, bytes.
    pub request_bytes_max: usize,
    /// Whether there is room for new work.
    pub disk: Arc<DiskRoom>,
    /// Connections of all listeners together.
    pub connections_max: usize,
    /// Connections of one address that have yet to begin to speak.
    pub handshakes_per_address_max: usize,
    /// How long a connection may say nothing.
    pub handshake_timeout: Duration,
    /// Who may use the HTTP API in which way.
    pub http_access: Arc<HttpAccess>,
    /// Everything that was measured, in Prometheus' text form.
    pub render_metrics: fn() -> String,
}

impl Services {
    /// What becomes of histories, as the settings are now.
    fn history_archive(&self) -> PartOptions {
        let config = &self.config.of("").frontend;
        archived::in_force(self.archive.history(), config.history_archival, config.history_archive_read)
    }

    /// The same of what lists show.
    fn visibility_archive(&self) -> PartOptions {
        let config = &self.config.of("").frontend;
        archived::in_force(self.archive.visibility(), config.visibility_archival, config.visibility_archive_read)
    }
}

/// What every handler is given.
struct Frontend {
    services: Services,
    /// Reads lists and counts.
    reader: Arc<Reader>,
    polls: Polls,
    /// Versions of workers are made known one by one.
    registering: tokio::sync::Mutex<()>,
    /// Where it listens.
    addresses: Addresses,
    /// A permit for each page of history that may be read at a time.
    pages: Arc<Semaphore>,
    /// True once the server is to stop: whoever waits for something to happen answers what it has.
    draining: watch::Receiver<bool>,
}

impl std::ops::Deref for Frontend {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

impl Frontend {
    /// Limits and timeouts of a namespace, as they are now.
    fn config(&self, namespace: &str) -> Arc<DynamicConfig> {
        self.config.of(namespace)
    }

    /// The regions of the cluster.
    fn regions(&self) -> Regions {
        self.namespaces.topology().regions.clone()
    }

    /// The namespace with a name, for whatever is done in it: it must not be deleted.
    fn namespace(&self, name: &str) -> Result<Arc<NamespaceRecord>, Error> {
        if name.is_empty() {
            return Err(Error::invalid("Namespace is empty."));
        }
        check_not_deleted(self.namespace_in_any_state(name)?)
    }

    /// The namespace with a name.
    fn namespace_in_any_state(&self, name: &str) -> Result<Arc<NamespaceRecord>, Error> {
        self.check_namespace_length(name)?;
        self.namespaces.by_name(name).ok_or_else(|| Error::NamespaceNotFound(name.to_owned()))
    }

    /// Refuses a name that no namespace can have.
    fn check_namespace_length(&self, name: &str) -> Result<(), Error> {
        validate::length(name, self.config("").limits.id_bytes_max, "Namespace length exceeds limit.")
    }

    /// The namespace of a task token, which must be the one that the request names, if it names one.
    fn token_namespace(&self, name: &str, token: NamespaceId) -> Result<Arc<NamespaceRecord>, Error> {
        let of_token =
            self.namespaces.record_by_id(token).ok_or_else(|| Error::NamespaceNotFound(token.to_string()))?;
        let of_token = check_not_deleted(of_token)?;
        if !name.is_empty() && self.namespace(name)?.namespace.id != token {
            return Err(Error::invalid("Operation requested with a token from a different namespace."));
        }
        Ok(of_token)
    }

    /// A place for a page of history, to be had until the page is an answer. Whoever has one must not ask for another.
    async fn place_for_page(&self) -> Result<OwnedSemaphorePermit, Error> {
        let place = Arc::clone(&self.pages).acquire_owned().await;
        place.map_err(|_| Error::Unavailable("the server stops".to_owned()))
    }

    /// Refuses what begins something new while the disk is short of room.
    fn check_room(&self) -> Result<(), Error> {
        self.disk.shortage().map_or(Ok(()), |free_bytes| Err(Error::DiskFull { free_bytes }))
    }

    /// Resolves once the server is to stop.
    async fn drained(&self) {
        let mut draining = self.draining.clone();
        // An error means that the server is gone, which is as good.
        let _ = draining.wait_for(|draining| *draining).await;
    }
}

/// Refuses what is to be done in a namespace that is deleted.
fn check_not_deleted(record: Arc<NamespaceRecord>) -> Result<Arc<NamespaceRecord>, Error> {
    match record.state {
        NamespaceState::Deleted => Err(Error::NamespaceInvalidState {
            namespace: record.name().to_owned(),
            state: record.state,
            allowed: &[NamespaceState::Registered, NamespaceState::Deprecated],
        }),
        _ => Ok(record),
    }
}

/// Where a workflow of a namespace lives.
fn address(namespace: &NamespaceRecord, workflow_id: &str) -> WorkflowRef {
    WorkflowRef { namespace: Arc::clone(&namespace.namespace), workflow_id: workflow_id.into() }
}
