//! Verbs: methods with the fields filled in that scenarios do not care about.

use std::time::Duration;

/// A method with fields of its request.
pub(crate) struct Verb {
    pub(crate) method: &'static str,
    pub(crate) fields: &'static str,
    /// How often it is repeated.
    pub(crate) until: Until,
}

/// When a call is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// With its answer.
    Answered,
    /// With a task; polls that end without one are repeated.
    Task,
    /// With as many entries as the option `until` says: some servers show changes only a moment later.
    Entries,
    /// With the last page, and as many events as the first argument says.
    Events,
    /// With a batch job that does not run any more.
    Finished,
}

/// How long a verb is repeated.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

const ON_WORKFLOW: &str = r#"workflow_execution { workflow_id: "wf~" }"#;

/// The verb of a name.
pub(crate) fn verb(name: &str) -> Option<Verb> {
    let (method, fields, until) = match name {
        "start" => (
            "StartWorkflowExecution",
            r#"workflow_id: "wf~" workflow_type { name: "type" } task_queue { name: "queue~" } identity: "client" request_id: "start""#,
            Until::Answered,
        ),
        "signal_with_start" => (
            "SignalWithStartWorkflowExecution",
            r#"workflow_id: "wf~" workflow_type { name: "type" } task_queue { name: "queue~" } identity: "client" request_id: "start"
               signal_name: "signal""#,
            Until::Answered,
        ),
        "signal" => (
            "SignalWorkflowExecution",
            r#"workflow_execution { workflow_id: "wf~" } signal_name: "signal" identity: "client""#,
            Until::Answered,
        ),
        "cancel" => (
            "RequestCancelWorkflowExecution",
            r#"workflow_execution { workflow_id: "wf~" } identity: "client" reason: "why""#,
            Until::Answered,
        ),
        "terminate" => (
            "TerminateWorkflowExecution",
            r#"workflow_execution { workflow_id: "wf~" } identity: "client" reason: "why""#,
            Until::Answered,
        ),
        "delete" => ("DeleteWorkflowExecution", ON_WORKFLOW, Until::Answered),
        "describe" => ("DescribeWorkflowExecution", r#"execution { workflow_id: "wf~" }"#, Until::Answered),
        "history" => ("GetWorkflowExecutionHistory", r#"execution { workflow_id: "wf~" }"#, Until::Events),
        "query" => (
            "QueryWorkflow",
            r#"execution { workflow_id: "wf~" } query { query_type: "query" query_args P"args" }"#,
            Until::Answered,
        ),
        "poll" => ("PollWorkflowTaskQueue", r#"task_queue { name: "queue~" } identity: "worker""#, Until::Task),
        "poll_sticky" => (
            "PollWorkflowTaskQueue",
            r#"task_queue { name: "sticky~" kind: TASK_QUEUE_KIND_STICKY normal_name: "queue~" } identity: "worker""#,
            Until::Task,
        ),
        "respond" => {
            ("RespondWorkflowTaskCompleted", r#"task_token: $task.task_token identity: "worker""#, Until::Answered)
        }
        "fail_task" => (
            "RespondWorkflowTaskFailed",
            r#"task_token: $task.task_token identity: "worker" cause: WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
               failure { message: "failed" }"#,
            Until::Answered,
        ),
        "answer" => (
            "RespondQueryTaskCompleted",
            r#"task_token: $task.task_token completed_type: QUERY_RESULT_TYPE_ANSWERED query_result P"answer""#,
            Until::Answered,
        ),
        "poll_activity" => {
            ("PollActivityTaskQueue", r#"task_queue { name: "queue~" } identity: "worker""#, Until::Task)
        }
        "complete_activity" => (
            "RespondActivityTaskCompleted",
            r#"task_token: $activity.task_token identity: "worker" result P"result""#,
            Until::Answered,
        ),
        "fail_activity" => (
            "RespondActivityTaskFailed",
            r#"task_token: $activity.task_token identity: "worker"
               failure { message: "failed" application_failure_info { type: "Type" } }"#,
            Until::Answered,
        ),
        "cancel_activity" => (
            "RespondActivityTaskCanceled",
            r#"task_token: $activity.task_token identity: "worker" details P"canceled""#,
            Until::Answered,
        ),
        "heartbeat" => (
            "RecordActivityTaskHeartbeat",
            r#"task_token: $activity.task_token identity: "worker" details P"progress""#,
            Until::Answered,
        ),
        "list" => ("ListWorkflowExecutions", "", Until::Entries),
        "count" => ("CountWorkflowExecutions", "", Until::Entries),
        "reset" => (
            "ResetWorkflowExecution",
            r#"workflow_execution { workflow_id: "wf~" } request_id: "reset" reason: "why" identity: "client""#,
            Until::Answered,
        ),
        "update" => (
            "UpdateWorkflowExecution",
            r#"workflow_execution { workflow_id: "wf~" } wait_policy { lifecycle_stage: UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED }
               request { meta { update_id: "update" identity: "client" } input { name: "update" args P"args" } }"#,
            Until::Answered,
        ),
        "start_activity" => (
            "StartActivityExecution",
            r#"activity_id: "a~" activity_type { name: "type" } task_queue { name: "queue~" } start_to_close_timeout: 100s
               input P"input" identity: "client" request_id: "start""#,
            Until::Answered,
        ),
        "describe_activity" => (
            "DescribeActivityExecution",
            r#"activity_id: "a~" include_input: true include_outcome: true include_heartbeat_details: true include_last_failure: true"#,
            Until::Answered,
        ),
        "outcome" => ("PollActivityExecution", r#"activity_id: "a~""#, Until::Answered),
        "terminate_activity" => (
            "TerminateActivityExecution",
            r#"activity_id: "a~" identity: "client" request_id: "terminate" reason: "why""#,
            Until::Answered,
        ),
        "list_activities" => ("ListActivityExecutions", "", Until::Entries),
        "batch" => ("StartBatchOperation", r#"job_id: "job~" reason: "why""#, Until::Answered),
        "finished" => ("DescribeBatchOperation", r#"job_id: "job~""#, Until::Finished),
        _ => return None,
    };
    Some(Verb { method, fields, until })
}
