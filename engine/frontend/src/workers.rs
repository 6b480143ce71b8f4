//! Workers that come and go: ShutdownWorker, RecordWorkerHeartbeat, PollNexusTaskQueue.

use everlog_kernel::transition::TaskKind;
use everlog_model::QueueId;
use everlog_proto::api::workflowservice::v1::{
    PollNexusTaskQueueRequest, PollNexusTaskQueueResponse, RecordWorkerHeartbeatRequest, RecordWorkerHeartbeatResponse,
    ShutdownWorkerRequest, ShutdownWorkerResponse,
};

use super::call::Call;
use super::errors::Error;
use super::polls::PollKind;
use super::unbuilt::WorkerVersion;
use super::{Frontend, validate};

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

/// Taken and forgotten: workers are not listed, and those that heed capabilities do not send heartbeats.
pub(super) async fn record_worker_heartbeat(
    frontend: &Frontend,
    _call: Call,
    request: RecordWorkerHeartbeatRequest,
) -> Result<RecordWorkerHeartbeatResponse, Error> {
    frontend.namespace(&request.namespace)?;
    Ok(RecordWorkerHeartbeatResponse::default())
}

/// There are no Nexus tasks. The poll is held like any other, so that workers do not spin.
pub(super) async fn poll_nexus_task_queue(
    frontend: &Frontend,
    call: Call,
    request: PollNexusTaskQueueRequest,
) -> Result<PollNexusTaskQueueResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let config = frontend.config(&request.namespace);
    let until = call.poll_until(config.frontend.poll_wait_max)?;
    #[expect(deprecated, reason = "old workers are versioned by it")]
    let capabilities = request.worker_version_capabilities.as_ref();
    let version = WorkerVersion::of_poll(capabilities, request.deployment_options.as_ref());
    version.check(request.task_queue.as_ref(), &config)?;
    validate::task_queue(request.task_queue.as_ref(), config.limits.id_bytes_max)?;
    let _poll = frontend.polls.open(namespace.namespace.id, PollKind::Nexus, config.frontend.polls_max)?;
    tokio::select! {
        () = tokio::time::sleep_until(until) => {}
        () = frontend.drained() => {}
        () = frontend.matching.local().until_shut_down(&request.worker_instance_key) => {}
    }
    Ok(PollNexusTaskQueueResponse::default())
}
