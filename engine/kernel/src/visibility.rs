//! What lists show of a run.

use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;

use crate::{Run, time};

/// The record of a run as it is now. Stored as it is encoded here, and listed without being decoded.
pub(crate) fn record(run: &Run, workflow_id: &str) -> WorkflowExecutionInfo {
    let info = &run.info;
    let closed = run.state.close_time;
    WorkflowExecutionInfo {
        execution: Some(WorkflowExecution { workflow_id: workflow_id.to_owned(), run_id: run.id.to_string() }),
        r#type: info.started.workflow_type.clone(),
        start_time: Some(info.start_time.to_proto()),
        execution_time: Some(info.execution_time.to_proto()),
        close_time: closed.map(|time| time.to_proto()),
        execution_duration: closed.map(|time| time::to_proto(time.since(info.execution_time))),
        status: run.state.status,
        history_length: run.state.next_event_id - 1,
        history_size_bytes: i64::try_from(run.state.history_bytes).unwrap_or(i64::MAX),
        state_transition_count: run.state.transition_count,
        parent_namespace_id: info.started.parent_workflow_namespace_id.clone(),
        parent_execution: info.started.parent_workflow_execution.clone(),
        root_execution: info.started.root_workflow_execution.clone(),
        memo: info.started.memo.clone(),
        search_attributes: info.started.search_attributes.clone(),
        task_queue: run.task_queue().to_owned(),
        first_run_id: info.started.first_execution_run_id.clone(),
        priority: info.started.priority.clone(),
        ..WorkflowExecutionInfo::default()
    }
}
