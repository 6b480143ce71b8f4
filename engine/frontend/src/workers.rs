//! Workers that go: ShutdownWorker.

use everlog_kernel::transition::TaskKind;
use everlog_model::QueueId;
use everlog_proto::api::workflowservice::v1::{ShutdownWorkerRequest, ShutdownWorkerResponse};

use super::Frontend;
use super::call::Call;
use super::errors::Error;

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
    Ok(ShutdownWorkerResponse::default())
}
