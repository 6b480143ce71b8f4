//! What this server says it can do. Every entry is a fact: SDKs turn features on by them, and a feature that is turned on and
//! not there hangs or corrupts workers, while one that is there and not turned on only costs its comfort.

use everlog_config::DynamicConfig;
use everlog_proto::api::namespace::v1::namespace_info;
use everlog_proto::api::workflowservice::v1::get_system_info_response;

/// The version of Temporal's server whose behaviour this one has; the UI shows and hides pages by it.
pub(super) const SERVER_VERSION: &str = "1.32.0";

/// What connections are told.
pub(super) fn system() -> get_system_info_response::Capabilities {
    get_system_info_response::Capabilities {
        signal_and_query_header: true,
        internal_error_differentiation: true,
        activity_failure_include_heartbeat: true,
        encoded_failure_attributes: true,
        upsert_memo: true,
        eager_workflow_start: true,
        sdk_metadata: true,
        count_group_by_execution_status: true,
        // Says no more than that workers may tell the id of their build.
        build_id_based_versioning: true,
        supports_schedules: true,
        nexus: true,
        // Not built: worker versioning, deployments.
        ..get_system_info_response::Capabilities::default()
    }
}

/// What is told of each namespace. Not built: pausing.
pub(super) fn namespace(config: &DynamicConfig) -> namespace_info::Capabilities {
    namespace_info::Capabilities {
        eager_workflow_start: config.limits.has_eager_start,
        sync_update: config.frontend.updates,
        async_update: config.frontend.updates && config.frontend.updates_async_accepted,
        reported_problems_search_attribute: config.limits.workflow_task_problems_reported > 0,
        worker_heartbeats: true,
        standalone_activities: config.frontend.activities,
        standalone_activity_start_delay: config.frontend.activities && config.frontend.activity_start_delay,
        standalone_activity_operator_commands: config.frontend.activities && config.frontend.activity_operations,
        standalone_activity_batch_operations: config.frontend.activities && config.frontend.activity_batch_jobs,
        worker_poll_complete_on_shutdown: true,
        poller_autoscaling: true,
        ..namespace_info::Capabilities::default()
    }
}

/// Whether schedules work.
pub(super) const SUPPORTS_SCHEDULES: bool = true;

/// Limits that SDKs keep themselves, so that a payload that is too large fails early.
pub(super) fn limits(config: &DynamicConfig) -> namespace_info::Limits {
    let bytes = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    namespace_info::Limits {
        blob_size_limit_error: bytes(config.limits.blob_bytes_max),
        memo_size_limit_error: bytes(config.limits.memo_bytes_max),
        ..namespace_info::Limits::default()
    }
}
