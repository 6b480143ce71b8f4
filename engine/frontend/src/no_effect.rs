//! Methods that are answered as if they did something, because workers call them whatever the server can do: PollNexusTaskQueue.

use everlog_proto::api::enums::v1::TaskQueueType;
use everlog_proto::api::workflowservice::v1::{PollNexusTaskQueueRequest, PollNexusTaskQueueResponse};

use super::call::Call;
use super::deployments::version_of;
use super::errors::Error;
use super::polls::PollKind;
use super::unbuilt::WorkerVersion;
use super::{Frontend, validate};

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
    let id_bytes_max = config.limits.id_bytes_max;
    validate::task_queue(request.task_queue.as_ref(), id_bytes_max)?;
    validate::length(&request.identity, id_bytes_max, "Identity length exceeds limit.")?;
    let _poll = frontend.polls.open(namespace.namespace.id, PollKind::Nexus, config.frontend.polls_max)?;
    let version = version_of(request.deployment_options.as_ref());
    let name = request.task_queue.as_ref().map_or("", |queue| &queue.name);
    frontend.register_poll(namespace.namespace.id, version.as_ref(), TaskQueueType::Nexus, name).await?;
    tokio::select! {
        () = tokio::time::sleep_until(until) => {}
        () = frontend.drained() => {}
        () = frontend.matching.local().until_shut_down(&request.worker_instance_key) => {}
    }
    Ok(PollNexusTaskQueueResponse::default())
}
