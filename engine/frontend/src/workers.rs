//! Worker processes: what they say of themselves, who asks for it, and that they go.
//!
//! What workers say is told to every node, so that each answers for all (`everlog_matching::Workers`).

use std::ops::ControlFlow;

use everlog_kernel::NamespaceId;
use everlog_kernel::transition::TaskKind;
use everlog_matching::Workers;
use everlog_model::{QueueId, limits};
use everlog_proto::api::worker::v1::{WorkerHeartbeat, WorkerInfo, WorkerListInfo};
use everlog_proto::api::workflowservice::v1::{
    CountWorkersRequest, CountWorkersResponse, DescribeWorkerRequest, DescribeWorkerResponse, ListWorkersRequest,
    ListWorkersResponse, RecordWorkerHeartbeatRequest, RecordWorkerHeartbeatResponse, ShutdownWorkerRequest,
    ShutdownWorkerResponse,
};
use everlog_visibility::WorkerQuery;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::Frontend;
use super::call::Call;
use super::errors::Error;

/// How the queues of a Temporal server's own workers begin. There are none here.
const SYSTEM_QUEUES: &str = "temporal-sys-";

/// Workers say how they are.
pub(super) async fn record_worker_heartbeat(
    frontend: &Frontend,
    _call: Call,
    request: RecordWorkerHeartbeatRequest,
) -> Result<RecordWorkerHeartbeatResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    heard(frontend, namespace.namespace.id, request.worker_heartbeat).await;
    Ok(RecordWorkerHeartbeatResponse::default())
}

/// The workers that a query asks for, in the order of their instance keys.
pub(super) async fn list_workers(
    frontend: &Frontend,
    _call: Call,
    request: ListWorkersRequest,
) -> Result<ListWorkersResponse, Error> {
    let asked = Asked::new(frontend, &request.namespace, &request.query, request.include_system_workers)?;
    let after = match &request.next_page_token[..] {
        [] => None,
        token => {
            let token: PageToken =
                serde_json::from_slice(token).map_err(|_| Error::invalid("invalid next_page_token"))?;
            Some(token.last_worker_instance_key)
        }
    };
    let page_max = match usize::try_from(request.page_size) {
        Ok(0) | Err(_) => limits::WORKER_PAGE_MAX,
        Ok(size) => size.min(limits::WORKER_PAGE_MAX),
    };
    let (mut page, mut bytes, mut is_cut) = (Vec::new(), 0, false);
    asked.each(frontend, after.as_deref(), |worker| {
        if page.len() >= page_max || bytes >= limits::WORKER_PAGE_BYTES_MAX {
            is_cut = true;
            return ControlFlow::Break(());
        }
        bytes += worker.encoded_len();
        page.push(worker);
        ControlFlow::Continue(())
    });
    let next_page_token = match page.last().filter(|_| is_cut) {
        None => Vec::new(),
        Some(last) => {
            let token = PageToken { last_worker_instance_key: last.worker_instance_key.clone() };
            serde_json::to_vec(&token).map_err(|error| Error::Internal(error.to_string()))?
        }
    };
    let workers = page.iter().map(listed).collect();
    let workers_info = page.into_iter().map(|worker| WorkerInfo { worker_heartbeat: Some(worker) }).collect();
    #[expect(deprecated, reason = "clients of its time read it")]
    Ok(ListWorkersResponse { workers_info, workers, next_page_token })
}

/// How many workers a query asks for.
pub(super) async fn count_workers(
    frontend: &Frontend,
    _call: Call,
    request: CountWorkersRequest,
) -> Result<CountWorkersResponse, Error> {
    let asked = Asked::new(frontend, &request.namespace, &request.query, request.include_system_workers)?;
    let mut count = 0;
    asked.each(frontend, None, |_| {
        count += 1;
        ControlFlow::Continue(())
    });
    Ok(CountWorkersResponse { count })
}

/// All that is known of a worker.
pub(super) async fn describe_worker(
    frontend: &Frontend,
    _call: Call,
    request: DescribeWorkerRequest,
) -> Result<DescribeWorkerResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let worker = known(frontend).get(namespace.namespace.id, &request.worker_instance_key);
    let not_found = || Error::not_found(format!("Worker {} not found", request.worker_instance_key));
    let worker_heartbeat = Some(worker.ok_or_else(not_found)?);
    Ok(DescribeWorkerResponse { worker_info: Some(WorkerInfo { worker_heartbeat }) })
}

/// A worker stops: its polls end empty, and what waits in its sticky queue goes to others at once.
pub(super) async fn shutdown_worker(
    frontend: &Frontend,
    _call: Call,
    request: ShutdownWorkerRequest,
) -> Result<ShutdownWorkerResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let sticky = (!request.sticky_task_queue.is_empty())
        .then(|| QueueId::new(namespace.namespace.id, TaskKind::Workflow, request.sticky_task_queue));
    let key = &request.worker_instance_key;
    frontend.matching.local().worker_shutdown(sticky.as_ref(), key);
    if let Some(nodes) = &frontend.nodes {
        // Its polls may be at any of them.
        let sticky = sticky.as_ref().map(|queue| queue.name.as_str());
        nodes.end_polls(namespace.namespace.id, sticky, key).await;
    }
    heard(frontend, namespace.namespace.id, request.worker_heartbeat.into_iter().collect()).await;
    Ok(ShutdownWorkerResponse::default())
}

fn known(frontend: &Frontend) -> &Workers {
    frontend.matching.local().workers()
}

/// Takes in what workers say, here and at the other nodes.
async fn heard(frontend: &Frontend, namespace_id: NamespaceId, heartbeats: Vec<WorkerHeartbeat>) {
    if heartbeats.is_empty() {
        return;
    }
    known(frontend).heard(namespace_id, &heartbeats);
    if let Some(nodes) = &frontend.nodes {
        nodes.workers_heard(namespace_id, heartbeats).await;
    }
}

/// Where a list goes on, as Temporal writes it.
#[derive(Deserialize, Serialize)]
struct PageToken {
    #[serde(rename = "l")]
    last_worker_instance_key: String,
}

/// Which workers somebody asks for.
struct Asked {
    namespace_id: NamespaceId,
    query: WorkerQuery,
    with_system: bool,
}

impl Asked {
    fn new(frontend: &Frontend, namespace: &str, query: &str, with_system: bool) -> Result<Asked, Error> {
        let namespace_id = frontend.namespace(namespace)?.namespace.id;
        Ok(Asked { namespace_id, query: WorkerQuery::parse(query)?, with_system })
    }

    fn each(&self, frontend: &Frontend, after: Option<&str>, mut take: impl FnMut(WorkerHeartbeat) -> ControlFlow<()>) {
        known(frontend).each(self.namespace_id, after, |worker| {
            let is_shown = self.with_system || !worker.task_queue.starts_with(SYSTEM_QUEUES);
            if is_shown && self.query.matches(&worker) { take(worker) } else { ControlFlow::Continue(()) }
        });
    }
}

/// What of a worker is listed.
fn listed(worker: &WorkerHeartbeat) -> WorkerListInfo {
    let WorkerHeartbeat {
        worker_instance_key,
        worker_identity,
        host_info,
        task_queue,
        deployment_version,
        sdk_name,
        sdk_version,
        status,
        start_time,
        plugins,
        drivers,
        ..
    } = worker.clone();
    let host = host_info.unwrap_or_default();
    WorkerListInfo {
        worker_instance_key,
        worker_identity,
        task_queue,
        deployment_version,
        sdk_name,
        sdk_version,
        status,
        start_time,
        host_name: host.host_name,
        worker_grouping_key: host.worker_grouping_key,
        process_id: host.process_id,
        plugins,
        drivers,
    }
}
