//! The bytes of entries, votes, log ids and applied positions on disk and on the wire.
//!
//! Everything starts with a version byte, followed by one of the records below in bincode's standard configuration. The
//! records are ours: openraft's own serde derives promise no stable format. Golden bytes in the tests guard the layout; to
//! change a record, add a version.
//!
//! ```text
//!   entry     = 02 │ EntryHeader │ body (rows: RowBatch bytes as proposed; membership: MembershipRecord; blank: nothing)
//!   vote      = 01 │ VoteRecord
//!   log id    = 01 │ LogIdRecord
//!   position  = 02 │ PositionRecord
//!   replica   = 01 │ ReplicaRecord            one whose rows and log are whole
//!             02 │ SeedingRecord            one whose rows are being replaced
//! ```
//!
//! Version 1 of entry and position knew no chain. No data directory holds it: those of its time are of another format.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use everlog_storage::GroupId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::chain::{AppliedChain, Chain, ChainPosition, EPOCHS_REMEMBERED, EntryStamp, Hlc, LeadEpoch};
use crate::progress::AppliedPosition;
use crate::rows::{EncodedRows, HEADER_ROOM};
use crate::seed::Seeding;
use crate::types::{
    Entry, GroupReplica, LeaderId, LogId, Membership, NodeInfo, Payload, ReplicaId, StoredMembership, Vote, log_id,
};

const VOTE_VERSION: u8 = 1;
const LOG_ID_VERSION: u8 = 1;
const ENTRY_VERSION: u8 = 2;
const POSITION_VERSION: u8 = 2;
const REPLICA_VERSION: u8 = 1;
const SEEDING_VERSION: u8 = 2;

#[derive(Serialize, Deserialize)]
struct EntryHeader {
    term: u64,
    index: u64,
    kind: EntryKind,
}

#[derive(Serialize, Deserialize)]
enum EntryKind {
    Blank,
    Rows(StampRecord),
    Membership,
}

#[derive(Serialize, Deserialize)]
struct StampRecord {
    chain: ChainRecord,
    hlc: u64,
}

#[derive(Serialize, Deserialize)]
struct ChainRecord {
    term: u64,
    opening: u32,
    sequence: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct VoteRecord {
    term: u64,
    replica: ReplicaId,
    committed: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct LogIdRecord {
    term: u64,
    index: u64,
}

#[derive(Serialize, Deserialize)]
struct ReplicaRecord {
    group_epoch: u32,
    replica: ReplicaId,
}

#[derive(Serialize, Deserialize)]
struct SeedingRecord {
    replica: ReplicaRecord,
    position: LogIdRecord,
    vote: VoteRecord,
}

#[derive(Serialize, Deserialize)]
struct MembershipRecord {
    /// One set of voters, or two while the group moves from one to the other.
    voters: Vec<Vec<ReplicaId>>,
    /// Every member, learners included.
    nodes: Vec<(ReplicaId, NodeInfo)>,
}

#[derive(Serialize, Deserialize)]
struct PositionRecord {
    applied: LogIdRecord,
    /// Of the last entry whose rows were applied.
    last: StampRecord,
    /// The last of each epoch before, oldest first.
    before: Vec<ChainRecord>,
    membership_log_id: Option<LogIdRecord>,
    membership: MembershipRecord,
}

/// Encodes an entry as the log keeps it. Returns the entry, too, which from then on shares these bytes.
pub(crate) fn encode_entry(entry: Entry) -> (Entry, Bytes) {
    let Entry { log_id, payload } = entry;
    let kind = match &payload {
        Payload::Blank => EntryKind::Blank,
        Payload::Normal(rows) => EntryKind::Rows(StampRecord::from(&rows.stamp)),
        Payload::Membership(_) => EntryKind::Membership,
    };
    let mut header = HeaderBuffer::default();
    header.write_all(&[ENTRY_VERSION]).expect(HEADER_FITS);
    write_record(&mut header, &EntryHeader { term: log_id.leader_id.term, index: log_id.index, kind });
    let (payload, bytes) = match payload {
        Payload::Blank => (Payload::Blank, Bytes::copy_from_slice(header.written())),
        Payload::Normal(rows) => {
            let (rows, bytes) = rows.with_header(header.written());
            (Payload::Normal(rows), bytes)
        }
        Payload::Membership(membership) => {
            let mut bytes = header.written().to_vec();
            write_record(&mut bytes, &MembershipRecord::from(&membership));
            (Payload::Membership(membership), Bytes::from(bytes))
        }
    };
    (Entry { log_id, payload }, bytes)
}

const HEADER_FITS: &str = "no header is longer than the room for it";

/// An entry's header on its way to where it belongs; never on the heap.
struct HeaderBuffer {
    bytes: [u8; HEADER_ROOM],
    len: usize,
}

impl Default for HeaderBuffer {
    fn default() -> HeaderBuffer {
        HeaderBuffer { bytes: [0; HEADER_ROOM], len: 0 }
    }
}

impl HeaderBuffer {
    fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for HeaderBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = (&mut self.bytes[self.len..]).write(bytes)?;
        self.len += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decodes an entry; rows stay a slice of `bytes`.
pub(crate) fn decode_entry(bytes: &Bytes) -> io::Result<Entry> {
    let (header, rest) = read_record::<EntryHeader>("entry", versioned("entry", ENTRY_VERSION, bytes)?)?;
    let payload = match header.kind {
        EntryKind::Blank => Payload::Blank,
        EntryKind::Rows(stamp) => {
            Payload::Normal(EncodedRows::of_entry(stamp.into(), bytes.len() - rest.len(), bytes.clone()))
        }
        EntryKind::Membership => {
            Payload::Membership(read_record::<MembershipRecord>("membership", rest)?.0.into_membership()?)
        }
    };
    Ok(Entry { log_id: log_id(header.term, header.index), payload })
}

/// Encodes a vote.
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    encode(VOTE_VERSION, &VoteRecord::from(vote))
}

/// Decodes a vote.
pub(crate) fn decode_vote(bytes: &[u8]) -> io::Result<Vote> {
    Ok(decode::<VoteRecord>("vote", VOTE_VERSION, bytes)?.into())
}

/// Encodes a log id.
pub(crate) fn encode_log_id(log_id: &LogId) -> Bytes {
    encode(LOG_ID_VERSION, &LogIdRecord::from(log_id))
}

/// Decodes a log id.
pub(crate) fn decode_log_id(bytes: &[u8]) -> io::Result<LogId> {
    Ok(decode::<LogIdRecord>("log id", LOG_ID_VERSION, bytes)?.into())
}

/// Encodes which replica of its group this is.
pub(crate) fn encode_replica(replica: &GroupReplica) -> Bytes {
    encode(REPLICA_VERSION, &ReplicaRecord { group_epoch: replica.group_epoch, replica: replica.replica })
}

/// Encodes which replica of its group this is, and that its rows are being replaced.
pub(crate) fn encode_seeding(replica: &GroupReplica, seeding: &Seeding) -> Bytes {
    let record = SeedingRecord {
        replica: ReplicaRecord { group_epoch: replica.group_epoch, replica: replica.replica },
        position: LogIdRecord::from(&seeding.position),
        vote: VoteRecord::from(&seeding.vote),
    };
    encode(SEEDING_VERSION, &record)
}

/// Decodes which replica of `group` this is, and whether its rows were being replaced.
pub(crate) fn decode_replica(group: GroupId, bytes: &[u8]) -> io::Result<(GroupReplica, Option<Seeding>)> {
    let (ReplicaRecord { group_epoch, replica }, seeding) = if bytes.first() == Some(&SEEDING_VERSION) {
        let SeedingRecord { replica, position, vote } = decode("replica", SEEDING_VERSION, bytes)?;
        (replica, Some(Seeding { position: position.into(), vote: vote.into() }))
    } else {
        (decode("replica", REPLICA_VERSION, bytes)?, None)
    };
    Ok((GroupReplica { group, group_epoch, replica }, seeding))
}

/// Encodes the position that the state engine keeps beside a group's rows.
pub(crate) fn encode_position(position: &AppliedPosition) -> Bytes {
    let end = position.chain.end;
    let record = PositionRecord {
        applied: LogIdRecord::from(&position.log_id),
        last: StampRecord::from(&EntryStamp { chain: end.position, hlc: end.hlc }),
        before: position.chain.before.iter().map(ChainRecord::from).collect(),
        membership_log_id: position.membership.log_id().as_ref().map(LogIdRecord::from),
        membership: MembershipRecord::from(position.membership.membership()),
    };
    encode(POSITION_VERSION, &record)
}

/// Decodes an applied position.
pub(crate) fn decode_position(bytes: &[u8]) -> io::Result<AppliedPosition> {
    let record: PositionRecord = decode("applied position", POSITION_VERSION, bytes)?;
    if record.before.len() > EPOCHS_REMEMBERED {
        return Err(invalid(format!("applied position: {} epochs are remembered", record.before.len())));
    }
    let last = EntryStamp::from(record.last);
    let chain = Chain {
        end: AppliedChain { position: last.chain, hlc: last.hlc },
        before: record.before.into_iter().map(ChainPosition::from).collect(),
    };
    let membership =
        StoredMembership::new(record.membership_log_id.map(LogId::from), record.membership.into_membership()?);
    Ok(AppliedPosition { log_id: record.applied.into(), membership: Arc::new(membership), chain })
}

/// What bytes can be read as of all that a group keeps in the log and beside its rows. For those who check what is on a disk.
pub fn readable_as(bytes: &Bytes) -> Vec<&'static str> {
    let read = [
        ("entry", decode_entry(bytes).is_ok()),
        ("vote", decode_vote(bytes).is_ok()),
        ("log id", decode_log_id(bytes).is_ok()),
        ("replica", decode_replica(GroupId(0), bytes).is_ok()),
        ("applied position", decode_position(bytes).is_ok()),
    ];
    read.into_iter().filter(|(_, is_read)| *is_read).map(|(name, _)| name).collect()
}

impl From<&EntryStamp> for StampRecord {
    fn from(stamp: &EntryStamp) -> StampRecord {
        StampRecord { chain: ChainRecord::from(&stamp.chain), hlc: stamp.hlc.0 }
    }
}

impl From<StampRecord> for EntryStamp {
    fn from(record: StampRecord) -> EntryStamp {
        EntryStamp { chain: record.chain.into(), hlc: Hlc(record.hlc) }
    }
}

impl From<&ChainPosition> for ChainRecord {
    fn from(position: &ChainPosition) -> ChainRecord {
        let ChainPosition { epoch: LeadEpoch { term, opening }, sequence } = *position;
        ChainRecord { term, opening, sequence }
    }
}

impl From<ChainRecord> for ChainPosition {
    fn from(record: ChainRecord) -> ChainPosition {
        let ChainRecord { term, opening, sequence } = record;
        ChainPosition { epoch: LeadEpoch { term, opening }, sequence }
    }
}

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> VoteRecord {
        VoteRecord { term: vote.leader_id.term, replica: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Vote {
        let VoteRecord { term, replica, committed } = record;
        Vote { leader_id: LeaderId { term, voted_for: replica }, committed }
    }
}

impl From<&LogId> for LogIdRecord {
    fn from(log_id: &LogId) -> LogIdRecord {
        LogIdRecord { term: log_id.leader_id.term, index: log_id.index }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(record: LogIdRecord) -> LogId {
        log_id(record.term, record.index)
    }
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> MembershipRecord {
        MembershipRecord {
            voters: membership.get_joint_config().iter().map(|voters| voters.iter().copied().collect()).collect(),
            nodes: membership.nodes().map(|(replica, node)| (*replica, node.clone())).collect(),
        }
    }
}

impl MembershipRecord {
    fn into_membership(self) -> io::Result<Membership> {
        // A group that has applied no membership yet: openraft's constructor refuses what its own default is.
        if self.voters.is_empty() {
            return Ok(Membership::default());
        }
        let voters: Vec<BTreeSet<ReplicaId>> =
            self.voters.into_iter().map(|voters| voters.into_iter().collect()).collect();
        let nodes: BTreeMap<ReplicaId, NodeInfo> = self.nodes.into_iter().collect();
        Membership::new(voters, nodes).map_err(|error| invalid(format!("membership: {error}")))
    }
}

fn encode<T: Serialize>(version: u8, record: &T) -> Bytes {
    let mut bytes = vec![version];
    write_record(&mut bytes, record);
    Bytes::from(bytes)
}

fn decode<T: DeserializeOwned>(what: &str, version: u8, bytes: &[u8]) -> io::Result<T> {
    let (record, rest) = read_record(what, versioned(what, version, bytes)?)?;
    if !rest.is_empty() {
        return Err(invalid(format!("{what}: {} bytes too many", rest.len())));
    }
    Ok(record)
}

fn versioned<'a>(what: &str, version: u8, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
    match bytes.split_first() {
        Some((found, rest)) if *found == version => Ok(rest),
        Some((found, _)) => Err(invalid(format!("{what}: version {found}, this binary reads {version}"))),
        None => Err(invalid(format!("{what}: empty"))),
    }
}

pub(crate) fn write_record<T: Serialize>(bytes: &mut impl Write, record: &T) {
    bincode::serde::encode_into_std_write(record, bytes, bincode::config::standard())
        .expect("there is room, and the records hold nothing that bincode refuses");
}

pub(crate) fn read_record<'a, T: DeserializeOwned>(what: &str, bytes: &'a [u8]) -> io::Result<(T, &'a [u8])> {
    // The limit keeps a corrupt length from asking for all memory.
    let config = bincode::config::standard().with_limit::<{ 16 << 20 }>();
    let (record, used) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|error| invalid(format!("{what}: {error}")))?;
    Ok((record, &bytes[used..]))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let node = NodeInfo { node_id: 7, address: "a:1".into(), region: "eu".into(), zone: "b".into() };
        Membership::new(vec![BTreeSet::from([7])], BTreeMap::from([(7, node)])).unwrap()
    }

    fn stamp(term: u64, opening: u32, sequence: u64, hlc: u64) -> EntryStamp {
        EntryStamp { chain: ChainPosition { epoch: LeadEpoch { term, opening }, sequence }, hlc: Hlc(hlc) }
    }

    /// Rows that are no batch, which nobody here cares about.
    fn rows(stamp: EntryStamp, rows: &'static [u8]) -> Payload {
        Payload::Normal(EncodedRows::of_entry(stamp, 0, Bytes::from_static(rows)))
    }

    fn encoded(log_id: LogId, payload: Payload) -> Bytes {
        let entry = Entry { log_id, payload };
        let (same, bytes) = encode_entry(entry.clone());
        assert_eq!(same, entry);
        bytes
    }

    fn position(membership: StoredMembership, before: &[ChainPosition]) -> AppliedPosition {
        let last = stamp(2, 1, 4, 9);
        let end = AppliedChain { position: last.chain, hlc: last.hlc };
        let chain = Chain { end, before: before.into() };
        AppliedPosition { log_id: log_id(2, 5), membership: Arc::new(membership), chain }
    }

    #[test]
    fn bytes_stay_what_they_are() {
        assert_eq!(&encoded(log_id(3, 300), Payload::Blank)[..], [2, 3, 251, 44, 1, 0]);

        let short = rows(stamp(3, 1, 2, 7), b"rows");
        assert_eq!(&encoded(log_id(3, 4), short)[..], b"\x02\x03\x04\x01\x03\x01\x02\x07rows");

        // 2026-11-26 as a time: nine bytes.
        let long = rows(stamp(3, 0, 250, 0x18bb_0e8e_4c00_0000), b"rows");
        let time = b"\xfd\x00\x00\x00\x4c\x8e\x0e\xbb\x18";
        assert_eq!(&encoded(log_id(3, 4), long)[..], [b"\x02\x03\x04\x01\x03\x00\xfa", &time[..], b"rows"].concat());

        let change = Payload::Membership(membership());
        assert_eq!(&encoded(log_id(0, 0), change)[..], b"\x02\x00\x00\x02\x01\x01\x07\x01\x07\x07\x03a:1\x02eu\x01b");

        let vote = Vote { leader_id: LeaderId { term: 9, voted_for: 7 }, committed: true };
        assert_eq!(&encode_vote(&vote)[..], [1, 9, 7, 1]);

        assert_eq!(&encode_log_id(&log_id(2, 250))[..], [1, 2, 250]);

        let replica = GroupReplica { group: GroupId(3), group_epoch: 2, replica: 1 << 32 };
        assert_eq!(&encode_replica(&replica)[..], [1, 2, 253, 0, 0, 0, 0, 1, 0, 0, 0]);

        let seeding = Seeding { position: log_id(2, 250), vote };
        let bytes = encode_seeding(&replica, &seeding);
        assert_eq!(&bytes[..], [2, 2, 253, 0, 0, 0, 0, 1, 0, 0, 0, 2, 250, 9, 7, 1]);
        assert_eq!(decode_replica(GroupId(3), &bytes).unwrap(), (replica, Some(seeding)));
        assert_eq!(decode_replica(GroupId(3), &encode_replica(&replica)).unwrap(), (replica, None));

        let before = [stamp(1, 0, 8, 0).chain, stamp(2, 0, 3, 0).chain];
        let position = position(StoredMembership::new(Some(log_id(1, 1)), membership()), &before);
        assert_eq!(
            &encode_position(&position)[..],
            [
                &b"\x02\x02\x05"[..],
                b"\x02\x01\x04\x09",
                b"\x02\x01\x00\x08\x02\x00\x03",
                b"\x01\x01\x01\x01\x01\x07\x01\x07\x07\x03a:1\x02eu\x01b"
            ]
            .concat()
        );
    }

    #[test]
    fn what_was_encoded_decodes() {
        let largest = stamp(u64::MAX, u32::MAX, u64::MAX, u64::MAX);
        for payload in [Payload::Blank, rows(largest, b""), rows(largest, b"rows"), Payload::Membership(membership())] {
            let entry = Entry { log_id: log_id(u64::MAX, u64::MAX - 1), payload };
            assert_eq!(decode_entry(&encoded(entry.log_id, entry.payload.clone())).unwrap(), entry);
        }
        let vote = Vote { leader_id: LeaderId { term: 9, voted_for: 1 << 40 }, committed: false };
        assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        for stored in [StoredMembership::default(), StoredMembership::new(Some(log_id(1, 1)), membership())] {
            for before in [&[][..], &[largest.chain; EPOCHS_REMEMBERED]] {
                let position = position(stored.clone(), before);
                assert_eq!(decode_position(&encode_position(&position)).unwrap(), position);
            }
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&b""[..], b"\x03\x01\x01\x01", b"\x01", b"\x01\x09\x07\x01\x00", b"\x01\xff\xff"] {
            assert!(decode_vote(bytes).is_err(), "{bytes:?}");
            assert!(decode_position(bytes).is_err(), "{bytes:?}");
        }
        assert!(decode_entry(&Bytes::from_static(b"\x02\x03\x04\x09")).is_err());
        let too_many = position(StoredMembership::default(), &[ChainPosition::default(); EPOCHS_REMEMBERED + 1]);
        assert!(decode_position(&encode_position(&too_many)).is_err());
    }

    #[test]
    fn entries_and_positions_without_a_chain_are_refused_in_a_line() {
        let entry = decode_entry(&Bytes::from_static(b"\x01\x03\x04\x01rows")).unwrap_err();
        assert_eq!(entry.to_string(), "entry: version 1, this binary reads 2");
        let position = decode_position(b"\x01\x02\x05\x00\x00\x00").unwrap_err();
        assert_eq!(position.to_string(), "applied position: version 1, this binary reads 2");
    }
}
