//! Batch jobs whose rows have golden bytes: see `state/row/golden.rs`.

use bytes::Bytes;
use everlog_proto::api::batch::v1::BatchOperationSignal;
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::workflowservice::v1::StartBatchOperationRequest;
use everlog_proto::api::workflowservice::v1::start_batch_operation_request::Operation;
use prost::Message;

use super::state::{Asked, Page, Progress, Status};
use crate::rows::RunRowKind;
use crate::state::CorruptRow;

type IsSame = Box<dyn Fn(&[u8]) -> Result<bool, CorruptRow>>;

fn asked() -> Asked {
    let signal =
        BatchOperationSignal { signal: "wake".into(), identity: "me".into(), ..BatchOperationSignal::default() };
    let request = StartBatchOperationRequest {
        job_id: "job".into(),
        visibility_query: "WorkflowType = 'T'".into(),
        reason: "why".into(),
        operation: Some(Operation::SignalOperation(signal)),
        ..StartBatchOperationRequest::default()
    };
    Asked { request: Some(request), request_id: "request".into() }
}

fn progress() -> Progress {
    let execution = WorkflowExecution { workflow_id: "w".into(), run_id: "r".into() };
    Progress {
        started: 1,
        closed: Some(2),
        status: Status::Stopped.into(),
        total: 3,
        succeeded: 4,
        failed: 5,
        page: Some(Page { number: 6, executions: vec![execution], next: b"next".into(), is_last: true }),
        why: "enough".into(),
        stopped_by: "me".into(),
        wake_at: Some(7),
    }
}

pub(crate) fn rows() -> [(RunRowKind, Bytes, IsSame); 2] {
    [
        (RunRowKind::BatchJob, asked().encode_to_vec().into(), Box::new(|row| Ok(Asked::from_row(row)? == asked()))),
        (
            RunRowKind::BatchJobProgress,
            progress().encode_to_vec().into(),
            Box::new(|row| Ok(Progress::from_row(row)? == progress())),
        ),
    ]
}
