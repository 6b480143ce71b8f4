//! What a run has asked of other workflows and has not heard of yet.

use bytes::Bytes;
use everlog_proto::api::common::v1::WorkflowExecution;
use prost::Message;

use super::row::{decode, encode, required};
use super::{CorruptRow, PendingValue};
use crate::rows::RunRowKind;

/// A workflow that something was asked of, as the event with which it began has it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalTarget {
    /// The namespace's name.
    pub namespace: String,
    /// The workflow, and the run if one was named.
    pub execution: WorkflowExecution,
    /// What the workflow wants back with the end.
    pub control: String,
}

/// A signal to another workflow that is on its way, by its Initiated event.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalSignal(pub ExternalTarget);

/// The request to another workflow to cancel, on its way, by its Initiated event.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalCancel(pub ExternalTarget);

/// The value of the row of either.
#[derive(Message)]
struct TargetRow {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(message, optional, tag = "2")]
    execution: Option<WorkflowExecution>,
    #[prost(string, tag = "3")]
    control: String,
}

impl ExternalTarget {
    fn to_row(&self) -> Bytes {
        let ExternalTarget { namespace, execution, control } = self.clone();
        encode(&TargetRow { namespace, execution: Some(execution), control })
    }

    fn from_row(row: &Bytes) -> Result<ExternalTarget, CorruptRow> {
        let TargetRow { namespace, execution, control } = decode(row)?;
        Ok(ExternalTarget { namespace, execution: required(execution, "target")?, control })
    }

    fn memory_bytes(&self) -> usize {
        size_of::<ExternalTarget>() + self.namespace.len() + self.execution.encoded_len() + self.control.len()
    }
}

macro_rules! pending_external {
    ($($value:ident),*) => {$(
        impl PendingValue for $value {
            type Key = i64;
            const KIND: RunRowKind = RunRowKind::$value;

            fn to_row(&self) -> Bytes {
                self.0.to_row()
            }

            fn from_row(_: &i64, row: Bytes) -> Result<$value, CorruptRow> {
                Ok($value(ExternalTarget::from_row(&row)?))
            }

            fn memory_bytes(&self) -> usize {
                self.0.memory_bytes()
            }
        }
    )*};
}

pending_external!(ExternalSignal, ExternalCancel);
