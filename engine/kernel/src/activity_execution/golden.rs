//! Activities whose rows have golden bytes: see `state/row/golden.rs`.

use bytes::Bytes;
use everlog_proto::api::common::v1::Payloads;
use everlog_proto::wkt;
use prost::Message;

use super::state::{Asked, Cancel, Completed, Outcome, Progress, Status};
use crate::rows::RunRowKind;
use crate::state::CorruptRow;

type IsSame = Box<dyn Fn(&[u8]) -> Result<bool, CorruptRow>>;

fn asked() -> Asked {
    let delay = Some(wkt::Duration { seconds: 5, nanos: 0 });
    Asked { request_id: "request".into(), start_delay: delay, ..Asked::default() }
}

fn progress() -> Progress {
    Progress {
        status: Status::Completed.into(),
        closed: Some(2),
        transition_count: 3,
        wake_at: Some(4),
        first_started: Some(1),
        last_started: Some(2),
        heartbeat_count: 5,
        cancel: Some(Cancel { request_id: "cancel".into(), identity: "me".into(), reason: "why".into() }),
        outcome: Some(Outcome {
            completed: Some(Completed { result: Some(Payloads::default()) }),
            ..Outcome::default()
        }),
        sdk_name: "sdk".into(),
        ..Progress::default()
    }
}

/// Each kind of row, and a check that a value of it is read as what was written.
pub(crate) fn rows() -> [(RunRowKind, Bytes, IsSame); 2] {
    [
        (
            RunRowKind::ActivityExecution,
            asked().encode_to_vec().into(),
            Box::new(|row| Ok(Asked::from_row(row)? == asked())),
        ),
        (
            RunRowKind::ActivityExecutionProgress,
            progress().encode_to_vec().into(),
            Box::new(|row| Ok(Progress::from_row(row)? == progress())),
        ),
    ]
}
