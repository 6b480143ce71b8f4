//! Batch operations: one thing that is done to many workflows, one after the other.
//!
//! What clients ask and are told is here. A job is an entity that knows how far it has come (`engine/kernel/src/batch_job`); `drive` works on
//! those that run in partitions which are led here. Texts and order of checks are Temporal's, which keeps a job as a workflow: an id that is
//! not there is told as that of one.
//!
//! ```text
//!   StartBatchOperation ─check─▶ the job's partition ──durable──▶ BatchJobs ──watch──▶ drive ─▶ operation ─calls─▶ any node
//!                                        ▲                                               │
//!                                        └────────────── a page is done ─────────────────┘
//! ```

mod calls;
mod check;
mod drive;
mod operation;
mod pace;
mod reset_point;

pub(super) use calls::Calls;
pub(super) use drive::drive;

use everlog_kernel::command::Reply;
use everlog_kernel::{BatchJobCommand, Rejection};
use everlog_meta::NamespaceRecord;
use everlog_proto::api::batch::v1::BatchOperationInfo;
use everlog_proto::api::enums::v1::ResourceExhaustedCause;
use everlog_proto::api::workflowservice::v1::{
    DescribeBatchOperationRequest, DescribeBatchOperationResponse, ListBatchOperationsRequest,
    ListBatchOperationsResponse, StartBatchOperationRequest, StartBatchOperationResponse, StopBatchOperationRequest,
    StopBatchOperationResponse,
};
use everlog_visibility::{self as visibility, Ask};
use prost::Message;

use super::call::Call;
use super::errors::Error;
use super::execute::unexpected;
use super::visibility::{Runs, page_size};
use super::{Frontend, address, validate};

const NO_JOB_ID: &str = "JobId is not set on request.";
const TURNED_OFF: Error = Error::PermissionDenied("Batch operation feature are disabled on this namespace.");

/// Begins a job. One is never refused for want of room on the disk: it may be what makes room.
pub(super) async fn start_batch_operation(
    frontend: &Frontend,
    _call: Call,
    mut request: StartBatchOperationRequest,
) -> Result<StartBatchOperationResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let config = frontend.config(&request.namespace);
    if !config.frontend.batch_jobs {
        return Err(TURNED_OFF);
    }
    check::request(&request, &config)?;
    let running = running(frontend, &namespace).await?;
    if running >= i64::try_from(config.frontend.batch_jobs_running_max).unwrap_or(i64::MAX) {
        return Err(Error::Rejected(Rejection::ResourceExhausted {
            cause: ResourceExhaustedCause::ConcurrentLimit,
            message: "Max concurrent batch operations is reached".into(),
        }));
    }
    validate::length(&request.job_id, config.limits.id_bytes_max, "WorkflowId exceeds length limit.")?;
    if request.encoded_len() > config.limits.blob_bytes_max {
        return Err(Error::invalid("Blob data size exceeds limit."));
    }
    let address = address(&namespace, &request.job_id);
    // It may have another name by the time the job is worked on.
    request.namespace.clear();
    frontend.execute_done(address, None, BatchJobCommand::Start(Box::new(request))).await?;
    Ok(StartBatchOperationResponse {})
}

/// Ends a job before its time. What was done stays.
pub(super) async fn stop_batch_operation(
    frontend: &Frontend,
    _call: Call,
    request: StopBatchOperationRequest,
) -> Result<StopBatchOperationResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    check_job_id(&request.job_id)?;
    if request.reason.is_empty() {
        return Err(Error::invalid("Reason is not set on request."));
    }
    check_turned_on(frontend, &namespace)?;
    let address = address(&namespace, &request.job_id);
    frontend.execute_done(address, None, BatchJobCommand::Stop(Box::new(request))).await?;
    Ok(StopBatchOperationResponse {})
}

/// Tells what is known of a job.
pub(super) async fn describe_batch_operation(
    frontend: &Frontend,
    _call: Call,
    request: DescribeBatchOperationRequest,
) -> Result<DescribeBatchOperationResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    check_job_id(&request.job_id)?;
    check_turned_on(frontend, &namespace)?;
    match frontend.execute(address(&namespace, &request.job_id), None, BatchJobCommand::Describe).await? {
        Reply::BatchJob(described) => Ok(*described),
        reply => Err(unexpected(&reply)),
    }
}

/// Lists jobs: those that run first, and the newest of each kind before others.
pub(super) async fn list_batch_operations(
    frontend: &Frontend,
    call: Call,
    request: ListBatchOperationsRequest,
) -> Result<ListBatchOperationsResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    check_turned_on(frontend, &namespace)?;
    let limit = visibility::page_size(page_size(frontend, namespace.name(), request.page_size));
    let after = visibility::decode_token(&request.next_page_token)?;
    let runs = Runs::asked_by(&call, frontend, &namespace, Ask::BatchJobs(String::new()))?;
    let page = runs.list(after, limit).await?;
    let (records, next_page_token) = page.into_records();
    let listed: Result<Vec<_>, _> = records.into_iter().map(Listed::decode).collect();
    let listed = listed.map_err(|error| Error::Internal(format!("a visibility record is not readable: {error}")))?;
    let operation_info = listed.into_iter().filter_map(|listed| listed.batch_job).collect();
    Ok(ListBatchOperationsResponse { operation_info, next_page_token })
}

/// What of a visibility record an entry of a list is made of.
#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(message, optional, tag = "201")]
    batch_job: Option<BatchOperationInfo>,
}

/// How many jobs run in a namespace.
async fn running(frontend: &Frontend, namespace: &NamespaceRecord) -> Result<i64, Error> {
    let running = Ask::BatchJobs("ExecutionStatus = 'Running'".to_owned());
    Ok(Runs::new(frontend, namespace, running)?.count().await?.values().sum())
}

fn check_turned_on(frontend: &Frontend, namespace: &NamespaceRecord) -> Result<(), Error> {
    if frontend.config(namespace.name()).frontend.batch_jobs { Ok(()) } else { Err(TURNED_OFF) }
}

fn check_job_id(job_id: &str) -> Result<(), Error> {
    if job_id.is_empty() { Err(Error::invalid(NO_JOB_ID)) } else { Ok(()) }
}
