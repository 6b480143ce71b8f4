//! The slot table as it is stored: one row.

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
struct Range {
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
    let range =
        |range: &SlotRange| Range { slots: range.slots.into(), partition: range.partition.0, epoch: range.epoch };
    Row { ranges: table.ranges().iter().map(range).collect() }.encode_to_vec().into()
}

pub(super) fn decode(value: &[u8]) -> Result<SlotTable, MetaError> {
    let corrupt = |why: &str| MetaError::Corrupt(format!("slot table: {why}"));
    let row = Row::decode(value).map_err(|error| corrupt(&error.to_string()))?;
    let range = |range: Range| {
        let slots = u16::try_from(range.slots).ok()?;
        Some(SlotRange { slots, partition: GroupId(range.partition), epoch: range.epoch })
    };
    let ranges = row.ranges.into_iter().map(range).collect::<Option<Vec<_>>>();
    ranges.and_then(SlotTable::from_ranges).ok_or_else(|| corrupt("it does not cover every slot once"))
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
