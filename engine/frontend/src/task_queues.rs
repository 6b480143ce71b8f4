//! DescribeTaskQueue and ListTaskQueuePartitions.

use std::collections::{BTreeSet, HashMap};

use everlog_kernel::deployment::old_version_name;
use everlog_kernel::transition::TaskKind;
use everlog_kernel::{NamespaceId, time};
use everlog_matching::nexus::NexusQueue;
use everlog_matching::{PollerDescription, QueueDescription, QueueRate, QueueStats, RateSource};
use everlog_meta::{ConfiguredQueue, NamespaceRecord};
use everlog_model::{QueueId, limits};
use everlog_proto::api::enums::v1::{
    BuildIdTaskReachability, DescribeTaskQueueMode, RateLimitSource, TaskQueueKind, TaskQueueType,
};
use everlog_proto::api::taskqueue::v1::{
    PollerInfo, TaskQueue, TaskQueueConfig, TaskQueuePartitionMetadata, TaskQueueStats, TaskQueueStatus,
    TaskQueueTypeInfo, TaskQueueVersionInfo, TaskQueueVersionSelection, TaskQueueVersioningInfo,
};
use everlog_proto::api::workflowservice::v1::describe_task_queue_response::EffectiveRateLimit;
use everlog_proto::api::workflowservice::v1::{
    DescribeTaskQueueRequest, DescribeTaskQueueResponse, ListTaskQueuePartitionsRequest,
    ListTaskQueuePartitionsResponse,
};
use everlog_proto::wkt;

use super::call::Call;
use super::errors::Error;
use super::{Frontend, validate};

/// When something was that never was: the zero value of time in Go.
const NEVER: wkt::Timestamp = wkt::Timestamp { seconds: -62_135_596_800, nanos: 0 };

/// Tells who polls a task queue and how much waits in it.
#[expect(deprecated, reason = "the CLI still asks for what it deprecated")]
pub(super) async fn describe_task_queue(
    frontend: &Frontend,
    _call: Call,
    request: DescribeTaskQueueRequest,
) -> Result<DescribeTaskQueueResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let queue = request.task_queue.as_ref();
    let id_bytes_max = frontend.config(&request.namespace).limits.id_bytes_max;
    let namespace_id = namespace.namespace.id;
    if request.api_mode() == DescribeTaskQueueMode::Enhanced {
        let name = validate::task_queue_name(queue, id_bytes_max)?;
        check_reachability(frontend, &request)?;
        check_enhanced(queue)?;
        return Ok(enhanced(frontend, &request, namespace_id, name).await);
    }
    let partition = partition(queue, id_bytes_max)?;
    check_reachability(frontend, &request)?;
    let is_sticky = is_sticky(queue);
    if request.report_stats && (is_sticky || partition.number > 0) {
        return Err(Error::invalid("DescribeTaskQueue stats are only supported for the root partition"));
    }
    let kind = match request.task_queue_type() {
        TaskQueueType::Unspecified => TaskQueueType::Workflow,
        kind => kind,
    };
    // All of a queue is in its first partition.
    let mut description = match partition.number {
        0 => describe(frontend, namespace_id, kind, partition.queue).await,
        _ => QueueDescription::default(),
    };
    let configured = ConfiguredQueue { namespace_id, kind: kind as u8, name: partition.queue.to_owned() };
    let config = frontend.namespaces.task_queue_config(&configured);
    if kind == TaskQueueType::Nexus {
        // Matching knows of no such queues, so it does not know their settings either.
        description.rate = configured_rate(config.as_deref()).unwrap_or_default();
    }
    let whole = stats(&description.stats);
    let status = TaskQueueStatus {
        backlog_count_hint: whole.approximate_backlog_count,
        rate_per_second: description.rate.per_second,
        ..TaskQueueStatus::default()
    };
    let config = config.filter(|_| request.report_config);
    let by_priority = description.by_priority.iter().filter(|_| request.report_stats);
    Ok(DescribeTaskQueueResponse {
        pollers: description.pollers.iter().map(poller).collect(),
        task_queue_status: request.include_task_queue_status.then_some(status),
        stats: request.report_stats.then_some(whole),
        stats_by_priority_key: by_priority.map(|(priority, of)| (i32::from(*priority), stats(of))).collect(),
        config: config.map(|config| TaskQueueConfig::clone(&config)),
        effective_rate_limit: Some(effective_rate(&description)),
        versioning_info: (!is_sticky).then(|| versioning(&namespace, kind, partition.queue)),
        ..DescribeTaskQueueResponse::default()
    })
}

/// How many build ids may be asked for at once with their reachability.
#[expect(deprecated, reason = "the CLI still asks for what it deprecated")]
fn check_reachability(frontend: &Frontend, request: &DescribeTaskQueueRequest) -> Result<(), Error> {
    let count_max = frontend.config("").frontend.reachability_build_ids_max;
    let count = request.versions.as_ref().map_or(0, |versions| versions.build_ids.len());
    if request.report_task_reachability && count > count_max {
        return Err(Error::invalid(format!(
            "Too many build ids queried at once with ReportTaskReachability==true, limit: {count_max}"
        )));
    }
    Ok(())
}

/// What the enhanced mode cannot tell of.
fn check_enhanced(queue: Option<&TaskQueue>) -> Result<(), Error> {
    if is_sticky(queue) {
        return Err(Error::invalid(
            "Enhanced DescribeTaskQueue is not valid for a sticky queue, use api_mode=UNSPECIFIED or a normal queue.",
        ));
    }
    validate::normal_name(queue)
        .map_err(|_| Error::invalid("Task Queue Partition invalid, use a different Task Queue or Task Queue Type"))
}

fn is_sticky(queue: Option<&TaskQueue>) -> bool {
    queue.is_some_and(|queue| queue.kind() == TaskQueueKind::Sticky)
}

/// A part of a queue, as Temporal splits them: `/_sys/QUEUE/NUMBER`, or the queue's name for the first.
#[derive(Debug, PartialEq)]
struct Partition<'a> {
    queue: &'a str,
    number: u32,
}

/// The partition that a request names.
fn partition(queue: Option<&TaskQueue>, id_bytes_max: usize) -> Result<Partition<'_>, Error> {
    let name = validate::task_queue_partition(queue, id_bytes_max)?;
    let Some(rest) = name.strip_prefix(validate::RESERVED_QUEUE_PREFIX) else {
        validate::normal_name(queue)?;
        return Ok(Partition { queue: name, number: 0 });
    };
    let split = rest.rsplit_once('/').filter(|(queue, _)| !queue.is_empty());
    let number = split.and_then(|(_, number)| number.parse().ok()).filter(|number| *number > 0);
    let (Some((queue_name, _)), Some(number)) = (split, number) else {
        return Err(Error::invalid(format!("invalid task queue partition name {name}")));
    };
    if queue_name.starts_with(validate::RESERVED_QUEUE_PREFIX) {
        return Err(Error::invalid(format!("task queue family name cannot have prefix /_sys/ {queue_name}")));
    }
    validate::normal_name(queue)?;
    Ok(Partition { queue: queue_name, number })
}

fn configured_rate(config: Option<&TaskQueueConfig>) -> Option<QueueRate> {
    let rate = config?.queue_rate_limit.as_ref()?.rate_limit?;
    Some(QueueRate { per_second: f64::from(rate.requests_per_second), source: RateSource::Api })
}

fn effective_rate(description: &QueueDescription) -> EffectiveRateLimit {
    let source = match description.rate.source {
        RateSource::System => RateLimitSource::System,
        RateSource::Worker => RateLimitSource::Worker,
        RateSource::Api => RateLimitSource::Api,
    };
    EffectiveRateLimit { requests_per_second: description.rate.per_second as f32, rate_limit_source: source.into() }
}

/// Which versions of the workers get new workflows.
#[expect(deprecated, reason = "the CLI still shows it")]
fn versioning(namespace: &NamespaceRecord, kind: TaskQueueType, queue: &str) -> TaskQueueVersioningInfo {
    let kind = if kind == TaskQueueType::Activity { TaskKind::Activity } else { TaskKind::Workflow };
    let known = namespace.namespace.deployments.queue(kind, queue);
    // Where versions poll, what never was is older than anything else with Temporal, too.
    let never = if known.is_some() { wkt::Timestamp::default() } else { NEVER };
    let routing = known.cloned().unwrap_or_default();
    let update_time = Some(routing.changed().unwrap_or(never));
    let is_ramping = routing.ramping.version.is_some() || routing.ramp_percentage > 0.0;
    TaskQueueVersioningInfo {
        current_version: old_version_name(routing.current.version.as_ref()),
        current_deployment_version: routing.current.version,
        ramping_version: if is_ramping { old_version_name(routing.ramping.version.as_ref()) } else { String::new() },
        ramping_deployment_version: routing.ramping.version,
        ramping_version_percentage: routing.ramp_percentage,
        update_time,
    }
}

/// The same by build id and type. All that waits and polls has the empty build id, because there is no versioning; of any other
/// that is asked for there is nothing.
#[expect(deprecated, reason = "the CLI still asks for what it deprecated")]
async fn enhanced(
    frontend: &Frontend,
    request: &DescribeTaskQueueRequest,
    namespace_id: NamespaceId,
    name: &str,
) -> DescribeTaskQueueResponse {
    let kinds: BTreeSet<i32> = match request.task_queue_types.as_slice() {
        [] => [TaskQueueType::Workflow as i32, TaskQueueType::Activity as i32].into(),
        kinds => kinds.iter().copied().collect(),
    };
    let mut versions_info = HashMap::new();
    for build_id in build_ids(request.versions.as_ref()) {
        let mut types_info = HashMap::new();
        for kind in &kinds {
            let description = match TaskQueueType::try_from(*kind) {
                Ok(kind) if build_id.is_empty() => describe(frontend, namespace_id, kind, name).await,
                _ => QueueDescription::default(),
            };
            let pollers = description.pollers.iter().filter(|_| request.report_pollers).map(poller).collect();
            let stats = request.report_stats.then(|| stats(&description.stats));
            types_info.insert(*kind, TaskQueueTypeInfo { pollers, stats });
        }
        let task_reachability = match (request.report_task_reachability, build_id.as_str()) {
            (false, _) => BuildIdTaskReachability::Unspecified,
            (true, "") => BuildIdTaskReachability::Reachable,
            (true, _) => BuildIdTaskReachability::Unreachable,
        };
        let version = TaskQueueVersionInfo { types_info, task_reachability: task_reachability as i32 };
        versions_info.insert(build_id, version);
    }
    DescribeTaskQueueResponse { versions_info, ..DescribeTaskQueueResponse::default() }
}

/// The build ids that are asked for. That all active ones are wanted names none, as with Temporal.
fn build_ids(versions: Option<&TaskQueueVersionSelection>) -> BTreeSet<String> {
    let unversioned = String::new();
    match versions {
        None => [unversioned].into(),
        Some(versions) => {
            versions.build_ids.iter().cloned().chain(versions.unversioned.then_some(unversioned)).collect()
        }
    }
}

async fn describe(frontend: &Frontend, namespace_id: NamespaceId, kind: TaskQueueType, name: &str) -> QueueDescription {
    let kind = match kind {
        TaskQueueType::Activity => TaskKind::Activity,
        TaskQueueType::Workflow | TaskQueueType::Unspecified => TaskKind::Workflow,
        TaskQueueType::Nexus => {
            let queue = NexusQueue { namespace_id, name: name.to_owned() };
            let pollers = frontend.matching.local().nexus().pollers(&queue);
            return QueueDescription { pollers, ..QueueDescription::default() };
        }
    };
    frontend.matching.local().describe(&QueueId::new(namespace_id, kind, name)).await
}

#[expect(deprecated, reason = "workers still say so what they are")]
fn poller(poller: &PollerDescription) -> PollerInfo {
    let version = poller.version.as_deref().cloned().unwrap_or_default();
    PollerInfo {
        last_access_time: Some(wkt::Timestamp::from(poller.last_access)),
        identity: poller.identity.clone(),
        rate_per_second: poller.rate_per_second.unwrap_or(limits::QUEUE_TASKS_PER_SECOND_MAX),
        worker_version_capabilities: version.capabilities,
        deployment_options: version.deployment,
    }
}

pub(super) fn stats(stats: &QueueStats) -> TaskQueueStats {
    TaskQueueStats {
        approximate_backlog_count: i64::try_from(stats.backlog).unwrap_or(i64::MAX),
        approximate_backlog_age: Some(time::to_proto(stats.backlog_age)),
        tasks_add_rate: stats.add_rate as f32,
        tasks_dispatch_rate: stats.dispatch_rate as f32,
        ..TaskQueueStats::default()
    }
}

/// A task queue is one queue here; partitions of it are never seen.
pub(super) async fn list_task_queue_partitions(
    frontend: &Frontend,
    _call: Call,
    request: ListTaskQueuePartitionsRequest,
) -> Result<ListTaskQueuePartitionsResponse, Error> {
    frontend.namespace(&request.namespace)?;
    let queue = request.task_queue.as_ref();
    let name = validate::task_queue(queue, frontend.config(&request.namespace).limits.id_bytes_max)?;
    let owner_host_name = frontend.addresses.grpc.to_string();
    let whole = TaskQueuePartitionMetadata { key: name.to_owned(), owner_host_name };
    Ok(ListTaskQueuePartitionsResponse {
        activity_task_queue_partitions: vec![whole.clone()],
        workflow_task_queue_partitions: vec![whole],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named() {
        let named = |name: &str| {
            let queue = TaskQueue { name: name.to_owned(), ..TaskQueue::default() };
            match partition(Some(&queue), 100) {
                Ok(partition) => format!("{}:{}", partition.queue, partition.number),
                Err(Error::Rejected(rejection)) => rejection.to_string(),
                Err(error) => format!("{error:?}"),
            }
        };
        let cases = [
            ("queue", "queue:0"),
            ("a/b", "a/b:0"),
            ("/_sys/queue/1", "queue:1"),
            ("/_sys/a/b/12", "a/b:12"),
            ("/_sys/", "invalid task queue partition name /_sys/"),
            ("/_sys/queue", "invalid task queue partition name /_sys/queue"),
            ("/_sys//1", "invalid task queue partition name /_sys//1"),
            ("/_sys/queue/0", "invalid task queue partition name /_sys/queue/0"),
            ("/_sys/queue/-1", "invalid task queue partition name /_sys/queue/-1"),
            ("/_sys/queue/x", "invalid task queue partition name /_sys/queue/x"),
            ("/_sys//_sys/queue/2/1", "task queue family name cannot have prefix /_sys/ /_sys/queue/2"),
            ("", "missing task queue name"),
        ];
        for (name, expected) in cases {
            assert_eq!(named(name), expected, "{name}");
        }
    }
}
