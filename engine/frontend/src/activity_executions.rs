//! Activities that are no workflow's: started, described, waited for, listed, canceled, terminated and deleted by clients.
//!
//! What workers say of their attempts is in `activity_tasks.rs`, what operators do to them in `activity_operations.rs`. Texts and order of
//! checks are Temporal's (chasm/lib/activity).

use std::time::Duration;

use everlog_config::DynamicConfig;
use everlog_kernel::command::Reply;
use everlog_kernel::token::{self, ActivityWatchToken};
use everlog_kernel::{ActivityExecutionCommand, EntityKind, Rejection, RunId, ValidActivityStart, time};
use everlog_meta::NamespaceRecord;
use everlog_model::{CallError, RunView, WorkflowRef};
use everlog_proto::api::activity::v1::ActivityExecutionListInfo;
use everlog_proto::api::common::v1::{Link, Payload, SearchAttributes, link};
use everlog_proto::api::enums::v1::{ActivityExecutionStatus, WorkflowExecutionStatus};
use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::count_activity_executions_response::AggregationGroup;
use everlog_proto::api::workflowservice::v1::{
    CountActivityExecutionsRequest, CountActivityExecutionsResponse, DeleteActivityExecutionRequest,
    DeleteActivityExecutionResponse, DescribeActivityExecutionRequest, DescribeActivityExecutionResponse,
    ListActivityExecutionsRequest, ListActivityExecutionsResponse, PollActivityExecutionRequest,
    PollActivityExecutionResponse, RequestCancelActivityExecutionRequest, RequestCancelActivityExecutionResponse,
    StartActivityExecutionRequest, StartActivityExecutionResponse, TerminateActivityExecutionRequest,
    TerminateActivityExecutionResponse,
};
use everlog_visibility::{self as visibility, Ask};
use prost::Message;
use tokio::time::Instant;

use super::call::{Call, own_request_id};
use super::errors::Error;
use super::execute::unexpected;
use super::visibility::{Runs, page_size};
use super::workflow_start::check_open;
use super::{Frontend, address, search_attributes, validate};

const INVALID_RUN_ID: &str = "invalid run id: must be a valid UUID";

/// Starts an activity, or finds the one that is there.
pub(super) async fn start_activity_execution(
    frontend: &Frontend,
    _call: Call,
    mut request: StartActivityExecutionRequest,
) -> Result<StartActivityExecutionResponse, Error> {
    let (namespace, config) = open(frontend, &request.namespace)?;
    check_open(&namespace)?;
    frontend.check_room()?;
    let is_put_off = matches!(time::positive(request.start_delay.as_ref()), Ok(Some(_)));
    if is_put_off && !config.frontend.activity_start_delay {
        return Err(Error::invalid("start_delay is not enabled for this namespace"));
    }
    let activity_id = request.activity_id.clone();
    let mut attributes = request.search_attributes.take();
    let checked = search_attributes::prepare(attributes.as_mut(), &namespace, &config);
    request.search_attributes = attributes;
    let start = ValidActivityStart::new(request, &config.limits)?;
    checked?;
    let command = ActivityExecutionCommand::Start(Box::new(start));
    match execute(frontend, &address(&namespace, &activity_id), None, command).await? {
        Reply::ActivityExecutionStarted(run_id, started) => {
            let run_id = run_id.to_string();
            let namespace = namespace.name().to_owned();
            let link = link::Activity { namespace, activity_id, run_id: run_id.clone() };
            let link = Some(Link { variant: Some(link::Variant::Activity(link)) });
            Ok(StartActivityExecutionResponse { run_id, started, link })
        }
        reply => Err(unexpected(&reply)),
    }
}

/// Tells all that is known of an activity; with the token of an earlier answer, once there is more.
pub(super) async fn describe_activity_execution(
    frontend: &Frontend,
    call: Call,
    request: DescribeActivityExecutionRequest,
) -> Result<DescribeActivityExecutionResponse, Error> {
    let (namespace, config) = open(frontend, &request.namespace)?;
    check_id(&request.activity_id, &config)?;
    if !request.long_poll_token.is_empty() && request.run_id.is_empty() {
        return Err(Error::invalid("run id is required when long poll token is provided"));
    }
    let run_id = validate::run_id(&request.run_id, INVALID_RUN_ID)?;
    let address = address(&namespace, &request.activity_id);
    if !request.long_poll_token.is_empty() {
        let seen: ActivityWatchToken =
            token::decode(&request.long_poll_token).ok_or_else(|| Error::invalid("invalid long poll token"))?;
        if run_id != Some(seen.run_id) {
            // One that is not there is told first.
            describe(frontend, &address, run_id, DescribeActivityExecutionRequest::default()).await?;
            return Err(Error::invalid("long poll token does not match execution"));
        }
        let view = news(frontend, &call, &config, &address, run_id, seen.transition_count).await?;
        if view.is_open && view.next_event_id <= seen.transition_count {
            return Ok(DescribeActivityExecutionResponse::default());
        }
    }
    describe(frontend, &address, run_id, request).await
}

/// Waits for an activity to end, and tells what has come of it.
pub(super) async fn poll_activity_execution(
    frontend: &Frontend,
    call: Call,
    request: PollActivityExecutionRequest,
) -> Result<PollActivityExecutionResponse, Error> {
    let (namespace, config) = open(frontend, &request.namespace)?;
    check_id(&request.activity_id, &config)?;
    let run_id = validate::run_id(&request.run_id, INVALID_RUN_ID)?;
    let address = address(&namespace, &request.activity_id);
    let view = news(frontend, &call, &config, &address, run_id, i64::MAX).await?;
    if view.is_open {
        return Ok(PollActivityExecutionResponse::default());
    }
    let asked = DescribeActivityExecutionRequest { include_outcome: true, ..Default::default() };
    let described = describe(frontend, &address, Some(view.run_id), asked).await?;
    Ok(PollActivityExecutionResponse { run_id: described.run_id, outcome: described.outcome })
}

async fn describe(
    frontend: &Frontend,
    address: &WorkflowRef,
    run_id: Option<RunId>,
    request: DescribeActivityExecutionRequest,
) -> Result<DescribeActivityExecutionResponse, Error> {
    match execute(frontend, address, run_id, ActivityExecutionCommand::Describe(Box::new(request))).await? {
        Reply::ActivityExecution(described, transition_count) => {
            let run_id = described.run_id.parse().map_err(|_| Error::Internal("a run id that is none".to_owned()))?;
            let long_poll_token = token::encode(&ActivityWatchToken { run_id, transition_count });
            Ok(DescribeActivityExecutionResponse { long_poll_token, ..*described })
        }
        reply => Err(unexpected(&reply)),
    }
}

/// Waits until more has happened to an activity than was `seen`, or it has ended; not longer than the caller has time.
async fn news(
    frontend: &Frontend,
    call: &Call,
    config: &DynamicConfig,
    address: &WorkflowRef,
    run_id: Option<RunId>,
    seen: i64,
) -> Result<RunView, Error> {
    let until = call.wait_until(config.frontend.activity_wait_max);
    let partition = frontend.router.partition_of(address)?;
    let view = |seen: Option<i64>, wait: Duration| {
        partition.view_of(EntityKind::Activity, address.clone(), run_id, seen, wait)
    };
    let wait = until.saturating_duration_since(Instant::now());
    let view = tokio::select! {
        view = view(Some(seen), wait) => view,
        // The server stops: as if nothing happened in time.
        () = frontend.drained() => view(None, Duration::ZERO).await,
    };
    view.map_err(|error| explain(error, address))
}

/// Asks an activity to cancel.
pub(super) async fn request_cancel_activity_execution(
    frontend: &Frontend,
    _call: Call,
    mut request: RequestCancelActivityExecutionRequest,
) -> Result<RequestCancelActivityExecutionResponse, Error> {
    let (address, run_id) = end_of(
        frontend,
        &request.namespace,
        (&request.activity_id, &request.run_id),
        &mut request.request_id,
        &request.identity,
        &request.reason,
    )?;
    done(execute(frontend, &address, run_id, ActivityExecutionCommand::RequestCancel(Box::new(request))).await?)?;
    Ok(RequestCancelActivityExecutionResponse {})
}

/// Ends an activity.
pub(super) async fn terminate_activity_execution(
    frontend: &Frontend,
    _call: Call,
    mut request: TerminateActivityExecutionRequest,
) -> Result<TerminateActivityExecutionResponse, Error> {
    let (address, run_id) = end_of(
        frontend,
        &request.namespace,
        (&request.activity_id, &request.run_id),
        &mut request.request_id,
        &request.identity,
        &request.reason,
    )?;
    done(execute(frontend, &address, run_id, ActivityExecutionCommand::Terminate(Box::new(request))).await?)?;
    Ok(TerminateActivityExecutionResponse {})
}

/// The activity that a request wants to end, by its ids, once the rest of the request is checked.
fn end_of(
    frontend: &Frontend,
    namespace: &str,
    (activity_id, run_id): (&str, &str),
    request_id: &mut String,
    identity: &str,
    reason: &str,
) -> Result<(WorkflowRef, Option<RunId>), Error> {
    let (namespace, config) = open(frontend, namespace)?;
    check_id(activity_id, &config)?;
    check_request_id(request_id, &config)?;
    check_length("identity", identity, &config)?;
    let run_id = validate::run_id(run_id, INVALID_RUN_ID)?;
    check_reason(reason, &config)?;
    Ok((address(&namespace, activity_id), run_id))
}

/// Forgets an activity, which ends if it has not.
pub(super) async fn delete_activity_execution(
    frontend: &Frontend,
    _call: Call,
    request: DeleteActivityExecutionRequest,
) -> Result<DeleteActivityExecutionResponse, Error> {
    let (namespace, config) = open(frontend, &request.namespace)?;
    check_id(&request.activity_id, &config)?;
    let run_id = validate::run_id(&request.run_id, INVALID_RUN_ID)?;
    let address = address(&namespace, &request.activity_id);
    done(execute(frontend, &address, run_id, ActivityExecutionCommand::Delete).await?)?;
    Ok(DeleteActivityExecutionResponse {})
}

/// Lists the activities that match a query.
pub(super) async fn list_activity_executions(
    frontend: &Frontend,
    call: Call,
    request: ListActivityExecutionsRequest,
) -> Result<ListActivityExecutionsResponse, Error> {
    let (namespace, _) = open(frontend, &request.namespace)?;
    let limit = visibility::page_size(page_size(frontend, namespace.name(), request.page_size));
    let after = visibility::decode_token(&request.next_page_token)?;
    let runs = Runs::asked_by(&call, frontend, &namespace, Ask::Activities(request.query))?;
    let page = runs.list(after, limit).await?;
    let (records, next_page_token) = page.into_records();
    let executions = records.into_iter().map(|record| WorkflowExecutionInfo::decode(record).map(listed));
    let executions = executions.collect::<Result<_, _>>();
    let executions =
        executions.map_err(|error| Error::Internal(format!("a visibility record is not readable: {error}")))?;
    Ok(ListActivityExecutionsResponse { executions, next_page_token })
}

/// Counts the activities that match a query.
pub(super) async fn count_activity_executions(
    frontend: &Frontend,
    call: Call,
    request: CountActivityExecutionsRequest,
) -> Result<CountActivityExecutionsResponse, Error> {
    let (namespace, _) = open(frontend, &request.namespace)?;
    let runs = Runs::asked_by(&call, frontend, &namespace, Ask::Activities(request.query))?;
    let is_grouped = runs.query.group_by.is_some();
    let counted = visibility::counted(&runs.count().await?, is_grouped);
    let group =
        |group: everlog_proto::api::workflowservice::v1::count_workflow_executions_response::AggregationGroup| {
            AggregationGroup { group_values: group.group_values, count: group.count }
        };
    let mut groups: Vec<AggregationGroup> = counted.groups.into_iter().map(group).collect();
    // The status is a word here, not a number.
    groups.sort_by(|a, b| value(a).cmp(value(b)));
    Ok(CountActivityExecutionsResponse { count: counted.count, groups })
}

fn value(group: &AggregationGroup) -> &[u8] {
    group.group_values.first().map_or(&[], |value| &value.data)
}

/// An entry of a list, as it is stored: like one of a workflow.
fn listed(record: WorkflowExecutionInfo) -> ActivityExecutionListInfo {
    /// What Temporal keeps activities apart from workflows by; its lists show it.
    const DIVISION: (&str, &str) = ("TemporalNamespaceDivision", "\"3332429922\"");
    let status = status_of(record.status());
    let execution = record.execution.unwrap_or_default();
    let mut attributes = record.search_attributes.unwrap_or_default();
    let metadata = [("encoding", "json/plain"), ("type", "Keyword")];
    let division = Payload {
        metadata: metadata.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).into(),
        data: DIVISION.1.into(),
        ..Payload::default()
    };
    attributes.indexed_fields.insert(DIVISION.0.to_owned(), division);
    let is_closed = record.close_time.is_some();
    ActivityExecutionListInfo {
        activity_id: execution.workflow_id,
        run_id: execution.run_id,
        activity_type: record.r#type.map(|named| everlog_proto::api::common::v1::ActivityType { name: named.name }),
        schedule_time: record.start_time,
        close_time: record.close_time,
        status: status.into(),
        search_attributes: Some(SearchAttributes { indexed_fields: attributes.indexed_fields }),
        task_queue: record.task_queue,
        state_transition_count: if is_closed { record.state_transition_count } else { 0 },
        execution_duration: record.execution_duration,
        execution_time: record.execution_time,
        ..ActivityExecutionListInfo::default()
    }
}

/// Statuses are listed as those of workflows.
fn status_of(listed: WorkflowExecutionStatus) -> ActivityExecutionStatus {
    match listed {
        WorkflowExecutionStatus::Running => ActivityExecutionStatus::Running,
        WorkflowExecutionStatus::Completed => ActivityExecutionStatus::Completed,
        WorkflowExecutionStatus::Failed => ActivityExecutionStatus::Failed,
        WorkflowExecutionStatus::Canceled => ActivityExecutionStatus::Canceled,
        WorkflowExecutionStatus::Terminated => ActivityExecutionStatus::Terminated,
        WorkflowExecutionStatus::TimedOut => ActivityExecutionStatus::TimedOut,
        WorkflowExecutionStatus::Paused => ActivityExecutionStatus::Paused,
        WorkflowExecutionStatus::Unspecified | WorkflowExecutionStatus::ContinuedAsNew => {
            ActivityExecutionStatus::Unspecified
        }
    }
}

/// The namespace of a request, if it may have such activities.
pub(super) fn open(
    frontend: &Frontend,
    namespace: &str,
) -> Result<(std::sync::Arc<NamespaceRecord>, std::sync::Arc<DynamicConfig>), Error> {
    let record = frontend.namespace(namespace)?;
    let config = frontend.config(namespace);
    if !config.frontend.activities {
        return Err(Error::Rejected(Rejection::Unimplemented("Standalone activity is disabled".into())));
    }
    Ok((record, config))
}

/// Carries out a command.
pub(super) async fn execute(
    frontend: &Frontend,
    address: &WorkflowRef,
    run_id: Option<RunId>,
    command: ActivityExecutionCommand,
) -> Result<Reply, Error> {
    let done = frontend.router.execute(address.clone(), run_id, command).await;
    done.map_err(|error| explain(error, address))
}

/// Says which activity was not found: who looks for one to watch it does not know what it is.
fn explain(error: CallError, address: &WorkflowRef) -> Error {
    match error {
        CallError::Rejected(rejection) if rejection == Rejection::workflow_not_found() => {
            Rejection::activity_execution_not_found(&address.workflow_id).into()
        }
        error => error.into(),
    }
}

pub(super) fn done(reply: Reply) -> Result<(), Error> {
    match reply {
        Reply::Done => Ok(()),
        reply => Err(unexpected(&reply)),
    }
}

fn check_id(activity_id: &str, config: &DynamicConfig) -> Result<(), Error> {
    if activity_id.is_empty() {
        return Err(Error::invalid("activity ID is required"));
    }
    check_length("activity ID", activity_id, config)
}

/// A request without an id is another one each time.
fn check_request_id(request_id: &mut String, config: &DynamicConfig) -> Result<(), Error> {
    if request_id.is_empty() {
        *request_id = own_request_id();
    }
    check_length("request ID", request_id, config)
}

fn check_length(what: &str, text: &str, config: &DynamicConfig) -> Result<(), Error> {
    let (length, limit) = (text.len(), config.limits.id_bytes_max);
    if length > limit {
        return Err(Error::invalid(format!("{what} exceeds length limit. Length={length} Limit={limit}")));
    }
    Ok(())
}

fn check_reason(reason: &str, config: &DynamicConfig) -> Result<(), Error> {
    validate::length(reason, config.limits.blob_bytes_max, "reason exceeds length limit")
}
