//! The values of rows: protobuf messages, so that rows may gain fields.
//!
//! What is in memory is shaped for use, what is in a row for its size and for other versions to read. So each type with a row of its own
//! has a message beside it, and leads to and from it. The rules:
//!
//! - A tag is never used twice, not even that of a field that is gone. Tags up to 15 take one byte: they are for what is often there.
//! - Unknown fields are skipped: a row is read whatever a later version has added. Once it is written again, they are gone.
//! - What a row cannot be without is `optional` or checked: protobuf alone would take an empty row for a valid one.
//! - Times are `sfixed64`, in eight bytes; those of our age would take nine as a varint. A time that mostly equals another one is
//!   left out where it does.
//! - A row does not repeat what its key says.
//! - API messages are fields of `bytes`: on the wire that is the same, and they can be kept and handed on as they are.

mod activity;
#[cfg(test)]
mod golden;
mod info;
mod state;
mod workers;

pub(crate) use workers::Workers;

use bytes::Bytes;
use prost::{DecodeError, Message};

use super::{CorruptRow, Current};
use crate::RunId;
use crate::transition::TaskRow;

/// A row's value.
pub(crate) fn encode(row: &impl Message) -> Bytes {
    row.encode_to_vec().into()
}

/// The message in a row's value. It shares no memory with `value`, which may lie in a page of rows.
pub(crate) fn decode<M: Message + Default>(value: &[u8]) -> Result<M, CorruptRow> {
    Ok(M::decode(value)?)
}

/// A field that a row cannot be without.
pub(crate) fn required<T>(field: Option<T>, name: &str) -> Result<T, CorruptRow> {
    field.ok_or_else(|| CorruptRow(format!("a row without its {name}")))
}

impl From<DecodeError> for CorruptRow {
    fn from(error: DecodeError) -> CorruptRow {
        CorruptRow(error.to_string())
    }
}

#[derive(Message)]
struct CurrentRow {
    #[prost(bytes = "bytes", tag = "1")]
    run_id: Bytes,
}

impl Current {
    /// The value of the workflow's `Current` row.
    pub(crate) fn to_row(&self) -> Bytes {
        encode(&CurrentRow { run_id: Bytes::copy_from_slice(&self.run_id.0) })
    }

    /// From the value of the workflow's `Current` row.
    pub fn from_row(value: &[u8]) -> Result<Current, CorruptRow> {
        let row: CurrentRow = decode(value)?;
        let run_id = row.run_id[..].try_into().map_err(|_| CorruptRow("a pointer to no run".into()))?;
        Ok(Current { run_id: RunId(run_id) })
    }
}

impl TaskRow {
    /// The value of the task's row.
    pub(crate) fn to_row(&self) -> Bytes {
        encode(self)
    }

    /// From the value of a task's row.
    pub fn from_row(value: &[u8]) -> Result<TaskRow, CorruptRow> {
        let row: TaskRow = decode(value)?;
        if row.entity_id.is_empty() || row.attempt < 1 {
            return Err(CorruptRow("a task of nothing, or of no attempt".into()));
        }
        Ok(row)
    }
}
