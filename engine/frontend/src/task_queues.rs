//! DescribeTaskQueue and ListTaskQueuePartitions.

use std::collections::{BTreeSet, HashMap};

use everlog_kernel::transition::TaskKind;
use everlog_kernel::{NamespaceId, time};
use everlog_matching::{PollerDescription, QueueDescription, QueueStats, RateSource};
use everlog_meta::ConfiguredQueue;
use everlog_model::{QueueId, limits};
use everlog_proto::api::enums::v1::{
    BuildIdTaskReachability, DescribeTaskQueueMode, RateLimitSource, TaskQueueKind, TaskQueueType,
};
use everlog_proto::api::taskqueue::v1::{
    PollerInfo, TaskQueueConfig, TaskQueuePartitionMetadata, TaskQueueStats, TaskQueueStatus, TaskQueueTypeInfo,
    TaskQueueVersionInfo, TaskQueueVersionSelection, TaskQueueVersioningInfo,
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
    let name = validate::task_queue(queue, frontend.config(&request.namespace).limits.id_bytes_max)?;
    let namespace_id = namespace.namespace.id;
    let count_max = frontend.config("").frontend.reachability_build_ids_max;
    let count = request.versions.as_ref().map_or(0, |versions| versions.build_ids.len());
    if request.report_task_reachability && count > count_max {
        let message =
            format!("Too many build ids queried at once with ReportTaskReachability==true, limit: {count_max}");
        return Err(Error::invalid(message));
    }
    if request.api_mode() == DescribeTaskQueueMode::Enhanced {
        if queue.is_some_and(|queue| queue.kind() == TaskQueueKind::Sticky) {
            return Err(Error::invalid(
                "Enhanced DescribeTaskQueue is not valid for a sticky queue, use api_mode=UNSPECIFIED or a normal queue.",
            ));
        }
        return Ok(enhanced(frontend, &request, namespace_id, name).await);
    }
    if request.report_stats && queue.is_some_and(|queue| queue.kind() == TaskQueueKind::Sticky) {
        return Err(Error::invalid("DescribeTaskQueue stats are only supported for the root partition"));
    }
    let description = describe(frontend, namespace_id, kind_of(request.task_queue_type()), name).await;
    let whole = stats(&description.stats);
    let status = TaskQueueStatus {
        backlog_count_hint: whole.approximate_backlog_count,
        rate_per_second: description.rate.per_second,
        ..TaskQueueStatus::default()
    };
    let configured = ConfiguredQueue {
        namespace_id,
        kind: u8::try_from(request.task_queue_type).unwrap_or(0),
        name: name.to_owned(),
    };
    let config = frontend.namespaces.task_queue_config(&configured).filter(|_| request.report_config);
    let by_priority = description.by_priority.iter().filter(|_| request.report_stats);
    Ok(DescribeTaskQueueResponse {
        pollers: description.pollers.iter().map(poller).collect(),
        task_queue_status: request.include_task_queue_status.then_some(status),
        stats: request.report_stats.then_some(whole),
        stats_by_priority_key: by_priority.map(|(priority, of)| (i32::from(*priority), stats(of))).collect(),
        config: config.map(|config| TaskQueueConfig::clone(&config)),
        effective_rate_limit: Some(effective_rate(&description)),
        versioning_info: Some(unversioned()),
        ..DescribeTaskQueueResponse::default()
    })
}

fn effective_rate(description: &QueueDescription) -> EffectiveRateLimit {
    let source = match description.rate.source {
        RateSource::System => RateLimitSource::System,
        RateSource::Worker => RateLimitSource::Worker,
        RateSource::Api => RateLimitSource::Api,
    };
    EffectiveRateLimit { requests_per_second: description.rate.per_second as f32, rate_limit_source: source.into() }
}

/// Which version of the workers gets new workflows: without versioning those of none.
#[expect(deprecated, reason = "the CLI still shows it")]
fn unversioned() -> TaskQueueVersioningInfo {
    TaskQueueVersioningInfo {
        current_version: "__unversioned__".to_owned(),
        update_time: Some(NEVER),
        ..TaskQueueVersioningInfo::default()
    }
}

/// The same by build id and type. Without versioning the empty build id has everything, and nothing of any other ever waits.
#[expect(deprecated, reason = "the CLI still asks for what it deprecated")]
async fn enhanced(
    frontend: &Frontend,
    request: &DescribeTaskQueueRequest,
    namespace_id: NamespaceId,
    name: &str,
) -> DescribeTaskQueueResponse {
    let both = [TaskQueueType::Workflow as i32, TaskQueueType::Activity as i32];
    let kinds = if request.task_queue_types.is_empty() { &both[..] } else { &request.task_queue_types };
    let reachability = |is_reachable: bool| match (request.report_task_reachability, is_reachable) {
        (false, _) => BuildIdTaskReachability::Unspecified,
        (true, true) => BuildIdTaskReachability::Reachable,
        (true, false) => BuildIdTaskReachability::Unreachable,
    };
    let mut versions_info = HashMap::new();
    for build_id in build_ids(request.versions.as_ref()) {
        let mut types_info = HashMap::new();
        for kind in kinds {
            let known = TaskQueueType::try_from(*kind).ok();
            let has_tasks = matches!(known, Some(TaskQueueType::Workflow | TaskQueueType::Activity));
            let info = match known.filter(|_| has_tasks && build_id.is_empty()) {
                Some(known) => type_info(request, &describe(frontend, namespace_id, kind_of(known), name).await),
                None => TaskQueueTypeInfo::default(),
            };
            types_info.insert(*kind, info);
        }
        let task_reachability = reachability(build_id.is_empty()) as i32;
        versions_info.insert(build_id, TaskQueueVersionInfo { types_info, task_reachability });
    }
    DescribeTaskQueueResponse { versions_info, ..DescribeTaskQueueResponse::default() }
}

/// The build ids that are asked for. Where nothing is said it is that of workers without a version; of others none is active.
fn build_ids(wanted: Option<&TaskQueueVersionSelection>) -> BTreeSet<String> {
    let Some(wanted) = wanted else { return [String::new()].into() };
    wanted.build_ids.iter().cloned().chain(wanted.unversioned.then(String::new)).collect()
}

#[expect(deprecated, reason = "the CLI still asks for what it deprecated")]
fn type_info(request: &DescribeTaskQueueRequest, description: &QueueDescription) -> TaskQueueTypeInfo {
    let pollers = description.pollers.iter().filter(|_| request.report_pollers);
    TaskQueueTypeInfo {
        pollers: pollers.map(poller).collect(),
        stats: request.report_stats.then(|| stats(&description.stats)),
    }
}

async fn describe(frontend: &Frontend, namespace_id: NamespaceId, kind: TaskKind, name: &str) -> QueueDescription {
    frontend.matching.local().describe(&QueueId::new(namespace_id, kind, name)).await
}

fn kind_of(kind: TaskQueueType) -> TaskKind {
    match kind {
        TaskQueueType::Activity => TaskKind::Activity,
        TaskQueueType::Workflow | TaskQueueType::Nexus | TaskQueueType::Unspecified => TaskKind::Workflow,
    }
}

fn poller(poller: &PollerDescription) -> PollerInfo {
    PollerInfo {
        last_access_time: Some(wkt::Timestamp::from(poller.last_access)),
        identity: poller.identity.clone(),
        rate_per_second: poller.rate_per_second.unwrap_or(limits::QUEUE_TASKS_PER_SECOND_MAX),
        ..PollerInfo::default()
    }
}

fn stats(stats: &QueueStats) -> TaskQueueStats {
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
    let name =
        validate::task_queue(request.task_queue.as_ref(), frontend.config(&request.namespace).limits.id_bytes_max)?;
    let whole = TaskQueuePartitionMetadata { key: name.to_owned(), owner_host_name: String::new() };
    Ok(ListTaskQueuePartitionsResponse {
        activity_task_queue_partitions: vec![whole.clone()],
        workflow_task_queue_partitions: vec![whole],
    })
}
