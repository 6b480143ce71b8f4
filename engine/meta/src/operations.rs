//! What was changed lately for calls that have no id of their own, so that nothing is changed twice.
//!
//! ```text
//!   change_once ──is there a row?──▶ the answer of the first time
//!     │ no
//!     └──▶ decide ──changes something──▶ one entry: the changes, a row with the answer, and a few old rows that go
//! ```
//!
//! The rows are part of the view, so whoever leads next knows them before it decides anything. Refusals have none: they did nothing, and are
//! decided again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_kernel::deployment::DeploymentVersion;
use everlog_kernel::{NamespaceId, Time};
use everlog_model::{NodeId, OperationChange, OperationId};
use everlog_proto::api::taskqueue::v1::TaskQueueConfig;
use everlog_raft::ReadConsistency;
use everlog_storage::keys::{MetaKind, meta_row};
use everlog_storage::state::RowChange;
use prost::Message;
use prost::encoding::{decode_varint, encode_varint};

use super::change::{now, until_led};
use super::nexus_endpoints::{EndpointId, NexusEndpoint};
use super::record::NamespaceRecord;
use super::topology::NodeDisk;
use super::view::View;
use super::{MetaError, Namespaces};

/// How long an answer is kept: longer than anybody makes a call again.
const KEPT: Duration = Duration::from_secs(60);

/// Answers that are kept, and bytes of them. Beyond that the oldest go before their time: those of calls that were made seconds ago, for changes
/// of the metadata come one by one.
const KEPT_MAX: usize = 2048;
const KEPT_BYTES_MAX: usize = 16 << 20;

/// Rows that a change deletes at most because their time is over. It adds one, so they do not become more.
const DELETED_MAX: usize = 4;

/// In front of the keys of these rows, behind their kind. Behind it stand the time, the id of the call, and the number of the change.
const PREFIX: &[u8] = b"operation/";

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OperationKey {
    /// When the change was made, nanoseconds since 1970.
    time_ns: u64,
    change: OperationChange,
}

impl OperationKey {
    fn row(self) -> Bytes {
        let OperationKey { time_ns, change: OperationChange { operation, number } } = self;
        let parts = [PREFIX, &time_ns.to_be_bytes(), &operation.to_bytes(), &number.to_be_bytes()];
        meta_row(MetaKind::Other, &parts.concat())
    }

    /// `None` if it is the key of a row of another kind.
    pub(super) fn of_key(key: &[u8]) -> Option<Result<OperationKey, MetaError>> {
        let rest = key.strip_prefix(&*meta_row(MetaKind::Other, PREFIX))?;
        let read = || {
            let (time, rest) = rest.split_first_chunk()?;
            let (operation, rest) = rest.split_first_chunk()?;
            let number = u32::from_be_bytes(rest.try_into().ok()?);
            let change = OperationChange { operation: OperationId::from_bytes(*operation), number };
            Some(OperationKey { time_ns: u64::from_be_bytes(*time), change })
        };
        Some(read().ok_or_else(|| MetaError::Corrupt(format!("key {key:?}"))))
    }
}

/// The answers that are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Operations {
    answers: BTreeMap<OperationChange, (u64, Bytes)>,
    /// The same, oldest first.
    by_time: BTreeSet<OperationKey>,
    bytes: usize,
}

impl Operations {
    /// Takes in a row, or that it is gone.
    pub(super) fn put(&mut self, key: OperationKey, value: Option<&Bytes>) -> Result<(), MetaError> {
        if self.by_time.remove(&key)
            && let Some((_, answer)) = self.answers.remove(&key.change)
        {
            self.bytes = self.bytes.saturating_sub(answer.len());
        }
        if let Some(value) = value {
            let row = AnswerRow::decode(value.clone());
            let AnswerRow { answer } = row.map_err(|error| MetaError::Corrupt(format!("answer to a call: {error}")))?;
            self.bytes += answer.len();
            self.answers.insert(key.change, (key.time_ns, answer));
            self.by_time.insert(key);
        }
        Ok(())
    }

    fn find<T: Answer>(&self, change: OperationChange) -> Result<Option<T>, MetaError> {
        let Some((_, answer)) = self.answers.get(&change) else { return Ok(None) };
        let mut rest = &answer[..];
        let read = T::read(&mut rest).filter(|_| rest.is_empty());
        read.map(Some).ok_or_else(|| MetaError::Corrupt("an answer to a call cannot be read".to_owned()))
    }

    /// The row of an answer, and the rows that go with it.
    fn keep(&self, change: OperationChange, answer: &impl Answer, now: Time) -> Vec<RowChange> {
        let mut written = Vec::new();
        answer.write(&mut written);
        let (mut count, mut bytes) = (self.by_time.len() + 1, self.bytes + written.len());
        let key = OperationKey { time_ns: u64::try_from(now.0).unwrap_or(0), change };
        let value = AnswerRow { answer: written.into() }.encode_to_vec().into();
        let mut rows = vec![RowChange::Put { key: key.row(), value }];
        let kept = u64::try_from(KEPT.as_nanos()).unwrap_or(u64::MAX);
        let old = key.time_ns.saturating_sub(kept);
        for oldest in &self.by_time {
            let is_over = oldest.time_ns < old && rows.len() <= DELETED_MAX;
            if !is_over && count <= KEPT_MAX && bytes <= KEPT_BYTES_MAX {
                break;
            }
            count -= 1;
            bytes -= self.answers.get(&oldest.change).map_or(0, |(_, answer)| answer.len());
            rows.push(RowChange::Delete { key: oldest.row() });
        }
        rows
    }
}

/// The value of a row. For ever: rows are on disks.
#[derive(Clone, PartialEq, Message)]
struct AnswerRow {
    #[prost(bytes = "bytes", tag = "1")]
    answer: Bytes,
}

impl Namespaces {
    /// As [`Namespaces::change`], but a call that has an id and is made again gets the answer of the first time.
    pub(super) async fn change_once<T: Answer>(
        &self,
        decide: impl Fn(&View) -> Result<(Vec<RowChange>, T), MetaError>,
    ) -> Result<T, MetaError> {
        let change = OperationChange::begin();
        self.change(|view| {
            let Some(change) = change else { return decide(view) };
            if let Some(answer) = view.operations.find(change)? {
                return Ok((Vec::new(), answer));
            }
            let (mut rows, answer) = decide(view)?;
            if !rows.is_empty() {
                rows.extend(view.operations.keep(change, &answer, now()));
            }
            Ok((rows, answer))
        })
        .await
    }

    /// What the running call has changed before, if it is made again and that was the next change that it would make: for callers that look whether a
    /// change can be made before they make it. That begins the change then.
    ///
    /// # Errors
    ///
    /// [`MetaError::LedElsewhere`] or [`MetaError::Unavailable`] if this cannot be told here.
    pub async fn changed_before<T: Answer>(&self) -> Result<Option<T>, MetaError> {
        let Some(change) = OperationChange::next() else { return Ok(None) };
        if let Some(leader) = self.leader() {
            return Err(MetaError::LedElsewhere(leader));
        }
        let group = self.group.read().clone();
        // What an earlier leader has left may be on its way to the rows.
        let unavailable = |error: &dyn std::fmt::Display| MetaError::Unavailable(error.to_string());
        group.read_barrier(ReadConsistency::Lease).await.map_err(|error| unavailable(&error))?;
        until_led(&group).await?;
        let view = self.view_at(group.applied_chain().position).await?;
        let answer = view.operations.find(change)?;
        if answer.is_some() {
            OperationChange::begin();
        }
        Ok(answer)
    }
}

/// What a change comes to, as it is kept for whoever makes the call again. The form is for ever, as that of rows.
pub trait Answer: Sized {
    /// Writes it.
    fn write(&self, to: &mut Vec<u8>);

    /// Reads what was written, and leaves what is behind it. `None` if that means nothing.
    fn read(from: &mut &[u8]) -> Option<Self>;
}

fn write_bytes(bytes: &[u8], to: &mut Vec<u8>) {
    encode_varint(bytes.len() as u64, to);
    to.extend_from_slice(bytes);
}

fn read_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(from).ok()?).ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

impl Answer for () {
    fn write(&self, _: &mut Vec<u8>) {}

    fn read(_: &mut &[u8]) -> Option<()> {
        Some(())
    }
}

impl Answer for Vec<u8> {
    fn write(&self, to: &mut Vec<u8>) {
        write_bytes(self, to);
    }

    fn read(from: &mut &[u8]) -> Option<Vec<u8>> {
        read_bytes(from).map(<[u8]>::to_vec)
    }
}

impl Answer for String {
    fn write(&self, to: &mut Vec<u8>) {
        write_bytes(self.as_bytes(), to);
    }

    fn read(from: &mut &[u8]) -> Option<String> {
        String::from_utf8(Vec::read(from)?).ok()
    }
}

impl Answer for f32 {
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.to_be_bytes());
    }

    fn read(from: &mut &[u8]) -> Option<f32> {
        let (bytes, rest) = from.split_first_chunk()?;
        *from = rest;
        Some(f32::from_be_bytes(*bytes))
    }
}

impl Answer for u32 {
    fn write(&self, to: &mut Vec<u8>) {
        encode_varint(u64::from(*self), to);
    }

    fn read(from: &mut &[u8]) -> Option<u32> {
        u32::try_from(decode_varint(from).ok()?).ok()
    }
}

impl Answer for NodeId {
    fn write(&self, to: &mut Vec<u8>) {
        self.0.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<NodeId> {
        u32::read(from).map(NodeId)
    }
}

impl Answer for NodeDisk {
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.directory_id.as_bytes());
        self.number.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<NodeDisk> {
        let (directory_id, rest) = from.split_first_chunk()?;
        *from = rest;
        Some(NodeDisk { directory_id: uuid::Uuid::from_bytes(*directory_id), number: u32::read(from)? })
    }
}

impl<A: Answer, B: Answer> Answer for (A, B) {
    fn write(&self, to: &mut Vec<u8>) {
        self.0.write(to);
        self.1.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<(A, B)> {
        Some((A::read(from)?, B::read(from)?))
    }
}

/// Without its deployments.
impl Answer for Arc<NamespaceRecord> {
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.namespace.id.0);
        write_bytes(&self.encode(), to);
    }

    fn read(from: &mut &[u8]) -> Option<Arc<NamespaceRecord>> {
        let (id, rest) = from.split_first_chunk()?;
        *from = rest;
        NamespaceRecord::decode(NamespaceId(*id), read_bytes(from)?).ok().map(Arc::new)
    }
}

impl Answer for Arc<NexusEndpoint> {
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.id.0.as_bytes());
        write_bytes(&self.encode(), to);
    }

    fn read(from: &mut &[u8]) -> Option<Arc<NexusEndpoint>> {
        let (id, rest) = from.split_first_chunk()?;
        *from = rest;
        let id = EndpointId(uuid::Uuid::from_bytes(*id));
        NexusEndpoint::decode(id, read_bytes(from)?).ok().map(Arc::new)
    }
}

impl Answer for Arc<TaskQueueConfig> {
    fn write(&self, to: &mut Vec<u8>) {
        write_bytes(&self.encode_to_vec(), to);
    }

    fn read(from: &mut &[u8]) -> Option<Arc<TaskQueueConfig>> {
        TaskQueueConfig::decode(read_bytes(from)?).ok().map(Arc::new)
    }
}

impl Answer for Arc<DeploymentVersion> {
    fn write(&self, to: &mut Vec<u8>) {
        write_bytes(&self.to_row(), to);
    }

    fn read(from: &mut &[u8]) -> Option<Arc<DeploymentVersion>> {
        DeploymentVersion::from_row(read_bytes(from)?).ok().map(Arc::new)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn change(call: u8) -> OperationChange {
        OperationChange { operation: OperationId::from_bytes([call; 16]), number: 0 }
    }

    /// Keeps an answer, and returns how many rows go.
    fn keep(operations: &mut Operations, call: u8, answer: &impl Answer, seconds: i64) -> usize {
        keep_change(operations, change(call), answer, seconds)
    }

    fn keep_change(operations: &mut Operations, change: OperationChange, answer: &impl Answer, seconds: i64) -> usize {
        let rows = operations.keep(change, answer, Time(seconds * 1_000_000_000));
        let mut gone = 0;
        for row in rows {
            let (key, value) = match row {
                RowChange::Put { key, value } => (key, Some(value)),
                RowChange::Delete { key } => (key, None),
                other => panic!("{other:?}"),
            };
            gone += usize::from(value.is_none());
            operations.put(OperationKey::of_key(&key).unwrap().unwrap(), value.as_ref()).unwrap();
        }
        gone
    }

    #[test]
    fn keys_and_answers_are_what_they_always_were() {
        let key = OperationKey { time_ns: 258, change: OperationChange { number: 3, ..change(7) } };
        let golden = format!("{}0000000000000102{}00000003", hex(b"operation/"), "07".repeat(16));
        assert!(hex(&key.row()).ends_with(&golden));
        assert_eq!(OperationKey::of_key(&key.row()), Some(Ok(key)));
        assert_eq!(OperationKey::of_key(&meta_row(MetaKind::Other, b"slots")), None);
        let damaged = meta_row(MetaKind::Other, b"operation/abc");
        assert!(matches!(OperationKey::of_key(&damaged), Some(Err(MetaError::Corrupt(_)))));

        fn is(answer: &(impl Answer + PartialEq + std::fmt::Debug), golden: &str) {
            let mut written = Vec::new();
            answer.write(&mut written);
            assert_eq!(hex(&written), golden);
            let mut rest = &written[..];
            assert_eq!(Answer::read(&mut rest).as_ref(), Some(answer));
            assert_eq!(rest, b"");
        }
        is(&(), "");
        is(&("ab".to_owned(), vec![7_u8]), "0261620107");
        is(&((String::new(), 0.5_f32), Vec::<u8>::new()), "003f00000000");
        is(&(NodeId(300), 2_u32), "ac0202");
        let disk = NodeDisk { directory_id: uuid::Uuid::from_u128(7), number: 1 };
        is(&disk, &format!("{:032x}01", 7));
        is(&Arc::new(TaskQueueConfig::default()), "00");
        let record = Arc::new(super::super::record::tests::record());
        let mut written = Vec::new();
        record.write(&mut written);
        assert_eq!(<Arc<NamespaceRecord>>::read(&mut &written[..]), Some(record));
        assert_eq!(<Arc<NamespaceRecord>>::read(&mut &written[..written.len() - 1]), None);
    }

    #[test]
    fn an_answer_is_kept_for_a_minute_and_a_change_clears_a_few() {
        let mut operations = Operations::default();
        for call in 1..=9 {
            assert_eq!(keep(&mut operations, call, &format!("answer {call}"), 100), 0);
        }
        assert_eq!(operations.find(change(3)), Ok(Some("answer 3".to_owned())));
        assert_eq!(operations.find::<()>(change(10)), Ok(None));
        assert!(matches!(operations.find::<()>(change(3)), Err(MetaError::Corrupt(_))), "another kind of answer");
        assert_eq!(keep(&mut operations, 10, &(), 160), 0, "not longer than a minute");
        assert_eq!(keep(&mut operations, 11, &(), 161), DELETED_MAX);
        assert_eq!(operations.find::<String>(change(4)), Ok(None));
        assert_eq!(operations.find(change(5)), Ok(Some("answer 5".to_owned())));
        assert_eq!(keep(&mut operations, 12, &(), 161) + keep(&mut operations, 13, &(), 161), 5);
        assert_eq!((operations.answers.len(), operations.by_time.len(), operations.bytes), (4, 4, 0));
    }

    #[test]
    fn there_are_no_more_answers_than_there_is_room_for() {
        let mut operations = Operations::default();
        for number in 0..u32::try_from(KEPT_MAX).unwrap() + 3 {
            keep_change(&mut operations, OperationChange { number, ..change(1) }, &(), i64::from(number) / 1000);
        }
        assert_eq!(operations.answers.len(), KEPT_MAX);
        assert_eq!(operations.find::<()>(OperationChange { number: 2, ..change(1) }), Ok(None));
        let large = vec![7_u8; KEPT_BYTES_MAX / 2];
        keep(&mut operations, 2, &large, 3);
        keep(&mut operations, 3, &large, 4);
        assert!(operations.bytes <= KEPT_BYTES_MAX, "{} bytes", operations.bytes);
        assert_eq!(operations.find(change(3)), Ok(Some(large)));
        assert_eq!(operations.find::<Vec<u8>>(change(2)), Ok(None));
    }
}
