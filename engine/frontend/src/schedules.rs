//! Schedules: what clients do with them, and what they are told of them. What a schedule does by itself is in the kernel.
//!
//! Texts and order of checks are Temporal's, which keeps a schedule as a workflow: an id that is not there is told as that of one.

use std::time::Duration;

use everlog_config::DynamicConfig;
use everlog_kernel::command::Reply;
use everlog_kernel::schedule::spec::{self, Compiled};
use everlog_kernel::schedule::{check_action, jitter_seed};
use everlog_kernel::{Command, Rejection, ScheduleCommand, Time};
use everlog_meta::NamespaceRecord;
use everlog_model::{CallError, search_attributes as attributes};
use everlog_proto::api::common::v1::{Memo, SearchAttributes};
use everlog_proto::api::enums::v1::TaskQueueKind;
use everlog_proto::api::schedule::v1::schedule_action::Action;
use everlog_proto::api::schedule::v1::{Schedule, ScheduleListEntry, ScheduleListInfo, SchedulePatch};
use everlog_proto::api::workflow::v1::NewWorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::count_schedules_response::AggregationGroup;
use everlog_proto::api::workflowservice::v1::{
    CountSchedulesRequest, CountSchedulesResponse, CreateScheduleRequest, CreateScheduleResponse,
    DeleteScheduleRequest, DeleteScheduleResponse, DescribeScheduleRequest, DescribeScheduleResponse,
    ListScheduleMatchingTimesRequest, ListScheduleMatchingTimesResponse, ListSchedulesRequest, ListSchedulesResponse,
    PatchScheduleRequest, PatchScheduleResponse, UpdateScheduleRequest, UpdateScheduleResponse,
};
use everlog_visibility::{self as visibility, Ask};
use prost::Message;
use tokio::time::Instant;

use super::call::Call;
use super::errors::Error;
use super::execute::unexpected;
use super::visibility::{Runs, page_size};
use super::workflow_start::check_open;
use super::{Frontend, address, search_attributes, validate};

/// Stands in front of the id of a schedule where Temporal speaks of its workflow.
const WORKFLOW_ID_PREFIX: &str = "temporal-sys-scheduler:";

/// Bytes of the notes of a pause.
const NOTES_BYTES_MAX: usize = 1000;

/// How long a description waits for news of workflows that are about to start, and how often it asks.
const SETTLE_WAIT_MAX: Duration = Duration::from_millis(500);
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

/// Times that are told at once.
const MATCHING_TIMES_MAX: usize = 1000;

/// Creates a schedule.
pub(super) async fn create_schedule(
    frontend: &Frontend,
    _call: Call,
    mut request: CreateScheduleRequest,
) -> Result<CreateScheduleResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let config = frontend.config(&request.namespace);
    check_id(&request.schedule_id)?;
    let (length, length_max) = (WORKFLOW_ID_PREFIX.len() + request.schedule_id.len(), config.limits.id_bytes_max);
    if length > length_max {
        let message = format!("WorkflowId exceeds maximum allowed length ({length}/{length_max})");
        return Err(Error::invalid(message));
    }
    if request.request_id.is_empty() {
        return Err(Error::invalid("RequestId is not set on request."));
    }
    validate::length(&request.request_id, length_max, "RequestId length exceeds limit.")?;
    check_open(&namespace)?;
    frontend.check_room()?;
    let schedule = request.schedule.get_or_insert_default();
    canonicalize(schedule)?;
    prepare_action(schedule, &namespace, &config)?;
    search_attributes::prepare(request.search_attributes.as_mut(), &namespace, &config)?;
    check_size(schedule.encoded_len() + request.initial_patch.as_ref().map_or(0, Message::encoded_len), &config)?;
    if request.memo.as_ref().map_or(0, Message::encoded_len) > config.limits.memo_bytes_max {
        return Err(Error::invalid("Memo size exceeds limit."));
    }
    let id = request.schedule_id.clone();
    match execute(frontend, &namespace, &id, ScheduleCommand::Create(Box::new(request))).await? {
        Reply::ScheduleToken(conflict_token) => Ok(CreateScheduleResponse { conflict_token }),
        reply => Err(unexpected(&reply)),
    }
}

/// Tells all that is known of a schedule.
pub(super) async fn describe_schedule(
    frontend: &Frontend,
    _call: Call,
    request: DescribeScheduleRequest,
) -> Result<DescribeScheduleResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    describe(frontend, &namespace, &request.schedule_id).await
}

/// Replaces what a schedule is made of.
pub(super) async fn update_schedule(
    frontend: &Frontend,
    _call: Call,
    mut request: UpdateScheduleRequest,
) -> Result<UpdateScheduleResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let config = frontend.config(&request.namespace);
    validate::length(&request.request_id, config.limits.id_bytes_max, "RequestId length exceeds limit.")?;
    let schedule = request.schedule.get_or_insert_default();
    prepare_action(schedule, &namespace, &config)?;
    canonicalize(schedule)?;
    search_attributes::prepare(request.search_attributes.as_mut(), &namespace, &config)?;
    let Some(action) = action(schedule) else {
        return Err(Error::invalid("Only StartWorkflow action is supported for schedules"));
    };
    let memo_bytes = request.memo.as_ref().map_or(0, Message::encoded_len);
    check_size(memo_bytes + action.input.as_ref().map_or(0, Message::encoded_len), &config)?;
    if request.memo.is_some() {
        return Err(Error::failed_precondition("memo updates are not supported on workflow-backed schedules"));
    }
    check_id(&request.schedule_id)?;
    check_size(schedule.encoded_len(), &config)?;
    frontend.check_room()?;
    let id = request.schedule_id.clone();
    done(execute(frontend, &namespace, &id, ScheduleCommand::Update(Box::new(request))).await?)?;
    Ok(UpdateScheduleResponse {})
}

/// Has a schedule act at once, act for times that have passed, pause, or go on.
pub(super) async fn patch_schedule(
    frontend: &Frontend,
    _call: Call,
    request: PatchScheduleRequest,
) -> Result<PatchScheduleResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let config = frontend.config(&request.namespace);
    let Some(SchedulePatch { pause, unpause, .. }) = &request.patch else {
        return Err(Error::invalid("Patch is not set on request."));
    };
    validate::length(&request.request_id, config.limits.id_bytes_max, "RequestId length exceeds limit.")?;
    for notes in [pause, unpause] {
        validate::length(notes, NOTES_BYTES_MAX, "Schedule notes exceeds limit.")?;
    }
    check_size(request.patch.as_ref().map_or(0, Message::encoded_len), &config)?;
    check_id(&request.schedule_id)?;
    frontend.check_room()?;
    let id = request.schedule_id.clone();
    done(execute(frontend, &namespace, &id, ScheduleCommand::Patch(Box::new(request))).await?)?;
    Ok(PatchScheduleResponse {})
}

/// Deletes a schedule. Workflows that it has started go on.
pub(super) async fn delete_schedule(
    frontend: &Frontend,
    _call: Call,
    request: DeleteScheduleRequest,
) -> Result<DeleteScheduleResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    check_id(&request.schedule_id)?;
    done(execute(frontend, &namespace, &request.schedule_id, ScheduleCommand::Delete).await?)?;
    Ok(DeleteScheduleResponse {})
}

/// Tells at which times of a range a schedule is due, whether it is paused or not.
pub(super) async fn list_schedule_matching_times(
    frontend: &Frontend,
    _call: Call,
    request: ListScheduleMatchingTimesRequest,
) -> Result<ListScheduleMatchingTimesResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let described = describe(frontend, &namespace, &request.schedule_id).await?;
    let (Some(from), Some(to)) = (request.start_time, request.end_time) else {
        return Err(Error::invalid("missing or invalid query"));
    };
    let (mut at, to) = (Time::from_proto(&from), Time::from_proto(&to));
    let spec = described.schedule.and_then(|schedule| schedule.spec).unwrap_or_default();
    let compiled = Compiled::new(&spec).map_err(|error| Error::invalid(format!("invalid schedule: {error}")))?;
    let seed = jitter_seed(namespace.namespace.id, &request.schedule_id);
    // A spec with many exclusions takes its time.
    let times = tokio::task::spawn_blocking(move || {
        let mut times = Vec::new();
        while times.len() < MATCHING_TIMES_MAX
            && let Some(due) = compiled.next(&seed, at)?.filter(|due| due.actual <= to)
        {
            at = due.actual;
            times.push(at.to_proto());
        }
        Ok(times)
    });
    let times = times.await.map_err(|error| Error::Internal(format!("times cannot be computed: {error}")))?;
    let start_time = times.map_err(|error: spec::TooManyExclusions| Error::invalid(error.to_string()))?;
    Ok(ListScheduleMatchingTimesResponse { start_time })
}

/// Lists the schedules that match a query.
pub(super) async fn list_schedules(
    frontend: &Frontend,
    call: Call,
    request: ListSchedulesRequest,
) -> Result<ListSchedulesResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let limit = visibility::page_size(page_size(frontend, namespace.name(), request.maximum_page_size));
    let after = visibility::decode_token(&request.next_page_token)?;
    let runs = Runs::asked_by(&call, frontend, &namespace, Ask::Schedules(request.query))?;
    let page = runs.list(after, limit).await?;
    let (records, next_page_token) = page.into_records();
    let schedules = records.into_iter().map(|record| Listed::decode(record).map(Listed::into_entry));
    let schedules: Result<_, _> = schedules.collect();
    let unreadable = |error| Error::Internal(format!("a visibility record is not readable: {error}"));
    Ok(ListSchedulesResponse { schedules: schedules.map_err(unreadable)?, next_page_token })
}

/// Counts the schedules that match a query.
pub(super) async fn count_schedules(
    frontend: &Frontend,
    call: Call,
    request: CountSchedulesRequest,
) -> Result<CountSchedulesResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let schedules = Runs::asked_by(&call, frontend, &namespace, Ask::Schedules(request.query))?;
    let is_grouped = schedules.query.group_by.is_some();
    let counted = visibility::counted(&schedules.count().await?, is_grouped);
    let groups = counted
        .groups
        .into_iter()
        .map(|group| AggregationGroup { group_values: group.group_values, count: group.count });
    Ok(CountSchedulesResponse { count: counted.count, groups: groups.collect() })
}

/// What of a visibility record an entry of a list is made of.
#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(message, optional, tag = "1")]
    execution: Option<everlog_proto::api::common::v1::WorkflowExecution>,
    #[prost(message, optional, tag = "10")]
    memo: Option<Memo>,
    #[prost(message, optional, tag = "11")]
    search_attributes: Option<SearchAttributes>,
    #[prost(message, optional, tag = "200")]
    info: Option<ScheduleListInfo>,
}

impl Listed {
    fn into_entry(self) -> ScheduleListEntry {
        let mut info = self.info;
        if let Some(spec) = info.as_mut().and_then(|info| info.spec.as_mut()) {
            spec::with_defaults(spec);
        }
        let mut search_attributes = self.search_attributes.unwrap_or_default();
        search_attributes.indexed_fields.remove(attributes::SCHEDULE_PAUSED);
        ScheduleListEntry {
            schedule_id: self.execution.unwrap_or_default().workflow_id,
            memo: Some(self.memo.unwrap_or_default()),
            search_attributes: Some(search_attributes).filter(|attributes| !attributes.indexed_fields.is_empty()),
            info,
        }
    }
}

async fn describe(
    frontend: &Frontend,
    namespace: &NamespaceRecord,
    schedule_id: &str,
) -> Result<DescribeScheduleResponse, Error> {
    check_id(schedule_id)?;
    let until = Instant::now() + SETTLE_WAIT_MAX;
    loop {
        match execute(frontend, namespace, schedule_id, ScheduleCommand::Describe).await? {
            // Workflows that are about to start are told of once it is known that they have.
            Reply::Schedule(_, false) if Instant::now() < until => tokio::time::sleep(SETTLE_PAUSE).await,
            Reply::Schedule(described, _) => return Ok(*described),
            reply => return Err(unexpected(&reply)),
        }
    }
}

async fn execute(
    frontend: &Frontend,
    namespace: &NamespaceRecord,
    schedule_id: &str,
    command: ScheduleCommand,
) -> Result<Reply, Error> {
    let result = frontend.router.execute(address(namespace, schedule_id), None, Command::Schedule(command)).await;
    result.map_err(|error| match error {
        CallError::Rejected(rejection) if rejection == Rejection::workflow_not_found() => {
            Error::not_found(format!("workflow not found for ID: {WORKFLOW_ID_PREFIX}{schedule_id}"))
        }
        error => error.into(),
    })
}

fn done(reply: Reply) -> Result<(), Error> {
    match reply {
        Reply::Done => Ok(()),
        reply => Err(unexpected(&reply)),
    }
}

fn check_id(schedule_id: &str) -> Result<(), Error> {
    match schedule_id {
        "" => Err(Error::invalid("Can't load workflow execution.  WorkflowId not set.")),
        _ => Ok(()),
    }
}

fn check_size(bytes: usize, config: &DynamicConfig) -> Result<(), Error> {
    if bytes > config.limits.blob_bytes_max { Err(Error::invalid("Blob data size exceeds limit.")) } else { Ok(()) }
}

fn canonicalize(schedule: &mut Schedule) -> Result<(), Error> {
    let spec = schedule.spec.take().unwrap_or_default();
    let canonical = spec::canonical(spec).map_err(|error| Error::invalid(format!("Invalid schedule spec: {error}")))?;
    schedule.spec = Some(canonical);
    Ok(())
}

fn action(schedule: &Schedule) -> Option<&NewWorkflowExecutionInfo> {
    match schedule.action.as_ref()?.action.as_ref()? {
        Action::StartWorkflow(start) => Some(start),
    }
}

/// Checks the workflow that is to be started, if there is one, and writes the types of its search attributes into them.
fn prepare_action(schedule: &mut Schedule, namespace: &NamespaceRecord, config: &DynamicConfig) -> Result<(), Error> {
    let Some(Action::StartWorkflow(start)) = schedule.action.as_mut().and_then(|action| action.action.as_mut()) else {
        return Ok(());
    };
    check_action(start, &config.limits)?;
    if let Some(queue) = &mut start.task_queue
        && queue.kind() == TaskQueueKind::Unspecified
    {
        queue.kind = TaskQueueKind::Normal.into();
    }
    search_attributes::prepare(start.search_attributes.as_mut(), namespace, config)
}
