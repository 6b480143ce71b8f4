//! Slot tables as they are stored: that of the pool `default` is a row, those of other pools are in theirs.

use bytes::Bytes;
use everlog_model::{SlotRange, SlotTable};
use everlog_storage::GroupId;
use everlog_storage::keys::{MetaKind, meta_row};
use prost::Message;

use super::MetaError;

#[derive(Clone, PartialEq, Message)]
struct Row {
    /// In the order of their slots.
    #[prost(message, repeated, tag = "1")]
    ranges: Vec<Range>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Range {
    #[prost(uint32, tag = "1")]
    slots: u32,
    #[prost(uint32, tag = "2")]
    partition: u32,
    #[prost(uint32, tag = "3")]
    epoch: u32,
}

/// The key of the row.
pub(super) fn key() -> Bytes {
    meta_row(MetaKind::Other, b"slots")
}

pub(super) fn encode(table: &SlotTable) -> Bytes {
    Row { ranges: to_ranges(table) }.encode_to_vec().into()
}

pub(super) fn decode(value: &[u8]) -> Result<SlotTable, MetaError> {
    from_ranges(Row::decode(value).map_err(|error| corrupt(&error.to_string()))?.ranges)
}

/// The ranges of a table as they are stored.
pub(super) fn to_ranges(table: &SlotTable) -> Vec<Range> {
    let range =
        |range: &SlotRange| Range { slots: range.slots.into(), partition: range.partition.0, epoch: range.epoch };
    table.ranges().iter().map(range).collect()
}

/// The table that was stored as these ranges.
pub(super) fn from_ranges(ranges: Vec<Range>) -> Result<SlotTable, MetaError> {
    let range = |range: Range| {
        let slots = u16::try_from(range.slots).ok()?;
        Some(SlotRange { slots, partition: GroupId(range.partition), epoch: range.epoch })
    };
    let ranges = ranges.into_iter().map(range).collect::<Option<Vec<_>>>();
    ranges.and_then(SlotTable::from_ranges).ok_or_else(|| corrupt("it does not cover every slot once"))
}

fn corrupt(why: &str) -> MetaError {
    MetaError::Corrupt(format!("slot table: {why}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_row_format_is_for_ever() {
        let table = SlotTable::even(&[GroupId(1), GroupId(2), GroupId(300)]).unwrap();
        let bytes = encode(&table);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0a0708d50a100118010a0708d50a100218010a0808d60a10ac021801");
        assert_eq!(decode(&bytes), Ok(table));
    }

    #[test]
    fn a_table_that_is_not_whole_is_refused() {
        for bytes in [&b""[..], b"\x0a\x04\x08\x01\x10\x01", b"\xff"] {
            assert!(matches!(decode(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
        }
    }
}
