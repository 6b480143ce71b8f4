//! The bytes of entries, votes, log ids and applied positions on disk and, later, on the wire.
//!
//! Everything starts with a version byte, followed by one of the records below in bincode's standard configuration. The
//! records are ours: openraft's own serde derives promise no stable format. Golden bytes in the tests guard the layout; to
//! change a record, add a version.
//!
//! ```text
//!   entry     = version │ EntryHeader │ body (rows: RowBatch bytes as proposed; membership: MembershipRecord; blank: nothing)
//!   vote      = version │ VoteRecord
//!   log id    = version │ LogIdRecord
//!   position  = version │ PositionRecord
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::progress::AppliedPosition;
use crate::types::{
    EncodedRows, Entry, LeaderId, LogId, Membership, NodeInfo, Payload, ReplicaId, StoredMembership, Vote, log_id,
};

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct EntryHeader {
    term: u64,
    index: u64,
    kind: EntryKind,
}

#[derive(Serialize, Deserialize)]
enum EntryKind {
    Blank,
    Rows,
    Membership,
}

#[derive(Serialize, Deserialize)]
struct VoteRecord {
    term: u64,
    replica: ReplicaId,
    committed: bool,
}

#[derive(Serialize, Deserialize)]
struct LogIdRecord {
    term: u64,
    index: u64,
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
    membership_log_id: Option<LogIdRecord>,
    membership: MembershipRecord,
}

/// Encodes an entry as the log keeps it.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let (kind, rows) = match &entry.payload {
        Payload::Blank => (EntryKind::Blank, None),
        Payload::Normal(rows) => (EntryKind::Rows, Some(rows)),
        Payload::Membership(_) => (EntryKind::Membership, None),
    };
    let header = EntryHeader { term: entry.log_id.leader_id.term, index: entry.log_id.index, kind };
    let mut bytes = Vec::with_capacity(32 + rows.map_or(0, |rows| rows.0.len()));
    bytes.push(VERSION);
    write_record(&mut bytes, &header);
    match &entry.payload {
        Payload::Blank => {}
        Payload::Normal(rows) => bytes.extend_from_slice(&rows.0),
        Payload::Membership(membership) => write_record(&mut bytes, &MembershipRecord::from(membership)),
    }
    Bytes::from(bytes)
}

/// Decodes an entry; rows stay a slice of `bytes`.
pub(crate) fn decode_entry(bytes: &Bytes) -> io::Result<Entry> {
    let (header, rest) = read_record::<EntryHeader>("entry", versioned("entry", bytes)?)?;
    let payload = match header.kind {
        EntryKind::Blank => Payload::Blank,
        EntryKind::Rows => Payload::Normal(EncodedRows(bytes.slice(bytes.len() - rest.len()..))),
        EntryKind::Membership => {
            Payload::Membership(read_record::<MembershipRecord>("membership", rest)?.0.into_membership()?)
        }
    };
    Ok(Entry { log_id: log_id(header.term, header.index), payload })
}

/// Encodes a vote.
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    encode(&VoteRecord { term: vote.leader_id.term, replica: vote.leader_id.voted_for, committed: vote.committed })
}

/// Decodes a vote.
pub(crate) fn decode_vote(bytes: &[u8]) -> io::Result<Vote> {
    let record: VoteRecord = decode("vote", bytes)?;
    Ok(Vote { leader_id: LeaderId { term: record.term, voted_for: record.replica }, committed: record.committed })
}

/// Encodes a log id.
pub(crate) fn encode_log_id(log_id: &LogId) -> Bytes {
    encode(&LogIdRecord::from(log_id))
}

/// Decodes a log id.
pub(crate) fn decode_log_id(bytes: &[u8]) -> io::Result<LogId> {
    Ok(decode::<LogIdRecord>("log id", bytes)?.into())
}

/// Encodes the position that the state engine keeps beside a group's rows.
pub(crate) fn encode_position(position: &AppliedPosition) -> Bytes {
    encode(&PositionRecord {
        applied: LogIdRecord::from(&position.log_id),
        membership_log_id: position.membership.log_id().as_ref().map(LogIdRecord::from),
        membership: MembershipRecord::from(position.membership.membership()),
    })
}

/// Decodes an applied position.
pub(crate) fn decode_position(bytes: &[u8]) -> io::Result<AppliedPosition> {
    let record: PositionRecord = decode("applied position", bytes)?;
    let membership =
        StoredMembership::new(record.membership_log_id.map(LogId::from), record.membership.into_membership()?);
    Ok(AppliedPosition::new(record.applied.into(), membership))
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

fn encode<T: Serialize>(record: &T) -> Bytes {
    let mut bytes = vec![VERSION];
    write_record(&mut bytes, record);
    Bytes::from(bytes)
}

fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> io::Result<T> {
    let (record, rest) = read_record(what, versioned(what, bytes)?)?;
    if !rest.is_empty() {
        return Err(invalid(format!("{what}: {} bytes too many", rest.len())));
    }
    Ok(record)
}

fn versioned<'a>(what: &str, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some((version, _)) => Err(invalid(format!("{what}: version {version}, this binary knows {VERSION}"))),
        None => Err(invalid(format!("{what}: empty"))),
    }
}

fn write_record<T: Serialize>(bytes: &mut Vec<u8>, record: &T) {
    bincode::serde::encode_into_std_write(record, bytes, bincode::config::standard())
        .expect("writing to memory cannot fail, and the records hold nothing that bincode refuses");
}

fn read_record<'a, T: DeserializeOwned>(what: &str, bytes: &'a [u8]) -> io::Result<(T, &'a [u8])> {
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

    #[test]
    fn bytes_stay_what_they_are() {
        let blank = Entry { log_id: log_id(3, 300), payload: Payload::Blank };
        assert_eq!(&encode_entry(&blank)[..], [1, 3, 251, 44, 1, 0]);

        let rows = Entry { log_id: log_id(3, 4), payload: Payload::Normal(EncodedRows(Bytes::from_static(b"rows"))) };
        assert_eq!(&encode_entry(&rows)[..], b"\x01\x03\x04\x01rows");

        let change = Entry { log_id: log_id(0, 0), payload: Payload::Membership(membership()) };
        assert_eq!(&encode_entry(&change)[..], b"\x01\x00\x00\x02\x01\x01\x07\x01\x07\x07\x03a:1\x02eu\x01b");

        let vote = Vote { leader_id: LeaderId { term: 9, voted_for: 7 }, committed: true };
        assert_eq!(&encode_vote(&vote)[..], [1, 9, 7, 1]);

        assert_eq!(&encode_log_id(&log_id(2, 250))[..], [1, 2, 250]);

        let position = AppliedPosition::new(log_id(2, 5), StoredMembership::new(Some(log_id(1, 1)), membership()));
        assert_eq!(
            &encode_position(&position)[..],
            b"\x01\x02\x05\x01\x01\x01\x01\x01\x07\x01\x07\x07\x03a:1\x02eu\x01b"
        );
    }

    #[test]
    fn what_was_encoded_decodes() {
        for payload in
            [Payload::Blank, Payload::Normal(EncodedRows(Bytes::from_static(b""))), Payload::Membership(membership())]
        {
            let entry = Entry { log_id: log_id(u64::MAX, u64::MAX - 1), payload };
            assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
        }
        let vote = Vote { leader_id: LeaderId { term: 9, voted_for: 1 << 40 }, committed: false };
        assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        for stored in [StoredMembership::default(), StoredMembership::new(Some(log_id(1, 1)), membership())] {
            let position = AppliedPosition::new(log_id(2, 5), stored);
            assert_eq!(decode_position(&encode_position(&position)).unwrap(), position);
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&b""[..], b"\x02\x01\x01\x01", b"\x01", b"\x01\x09\x07\x01\x00", b"\x01\xff\xff"] {
            assert!(decode_vote(bytes).is_err(), "{bytes:?}");
            assert!(decode_position(bytes).is_err(), "{bytes:?}");
        }
        assert!(decode_entry(&Bytes::from_static(b"\x01\x03\x04\x09")).is_err());
    }
}
