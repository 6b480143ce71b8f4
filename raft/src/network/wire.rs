//! The bytes of Raft's messages. Entries are the bytes that the log has: they go from log to wire to log without being decoded.
//!
//! Records are bincode in its standard configuration; which layout is meant follows from the protocol that two nodes agreed on when they
//! connected. Golden bytes in the tests guard it.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use everlog_storage::GroupId;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use crate::encoding::{self, LogIdRecord, VoteRecord, read_record, write_record};
use crate::types::{LogId, ReplicaId, TypeConfig, Vote};

/// Whom a message is for, and whom it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Address {
    group: u32,
    pub(super) group_epoch: u32,
    pub(super) to: ReplicaId,
    pub(super) from: ReplicaId,
}

impl Address {
    pub(super) fn new(group: GroupId, group_epoch: u32, from: ReplicaId, to: ReplicaId) -> Address {
        Address { group: group.0, group_epoch, to, from }
    }

    pub(super) fn group(&self) -> GroupId {
        GroupId(self.group)
    }
}

/// Entries for a follower.
#[derive(Serialize, Deserialize)]
pub(super) struct AppendRecord {
    address: Address,
    /// The calls of a stream are taken in order; one that begins later ends those before it.
    stream: u64,
    vote: VoteRecord,
    previous: Option<LogIdRecord>,
    committed: Option<LogIdRecord>,
    /// The bytes of each entry; they follow in this order.
    lengths: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
enum AppendAnswer {
    /// The follower has all up to here.
    Matching(Option<LogIdRecord>),
    /// It does not have the entry that the others follow.
    Conflict(LogIdRecord),
    /// It has promised itself to a later leader.
    HigherVote(VoteRecord),
    /// The message came to nobody.
    Failed,
}

#[derive(Serialize, Deserialize)]
struct VoteAsk {
    address: Address,
    vote: VoteRecord,
    last: Option<LogIdRecord>,
    is_transfer: bool,
}

#[derive(Serialize, Deserialize)]
enum VoteAnswer {
    Answered {
        vote: VoteRecord,
        is_granted: bool,
        last: Option<LogIdRecord>,
    },
    /// The replica does not vote now.
    Failed,
}

#[derive(Serialize, Deserialize)]
struct TransferAsk {
    address: Address,
    vote: VoteRecord,
    to: ReplicaId,
    last: Option<LogIdRecord>,
}

#[derive(Serialize, Deserialize)]
enum TransferAnswer {
    Taken,
    VoteChanged { expected: VoteRecord, actual: VoteRecord },
    NotFlushed { expected: Option<LogIdRecord>, actual: Option<LogIdRecord> },
    Failed,
}

/// A message that was read, and whom it is for.
pub(super) struct Addressed<T> {
    pub(super) address: Address,
    pub(super) message: T,
}

pub(super) fn encode_append(address: Address, stream: u64, request: AppendEntriesRequest<TypeConfig>) -> Bytes {
    let entries: Vec<Bytes> = request.entries.into_iter().map(|entry| encoding::encode_entry(entry).1).collect();
    let record = AppendRecord {
        address,
        stream,
        vote: VoteRecord::from(&request.vote),
        previous: request.prev_log_id.as_ref().map(LogIdRecord::from),
        committed: request.leader_commit.as_ref().map(LogIdRecord::from),
        // No entry comes near that.
        lengths: entries.iter().map(|entry| u32::try_from(entry.len()).unwrap_or(u32::MAX)).collect(),
    };
    let size: usize = entries.iter().map(Bytes::len).sum();
    let mut bytes = BytesMut::with_capacity(size + 80 + 5 * entries.len()).writer();
    write_record(&mut bytes, &record);
    let mut bytes = bytes.into_inner();
    entries.iter().for_each(|entry| bytes.put_slice(entry));
    bytes.freeze()
}

/// The stream that a request belongs to, and the request.
pub(super) fn decode_append(bytes: &Bytes) -> io::Result<Addressed<(u64, AppendEntriesRequest<TypeConfig>)>> {
    let (record, rest) = read_record::<AppendRecord>("append", bytes)?;
    let mut rest = bytes.slice_ref(rest);
    let mut entries = Vec::with_capacity(record.lengths.len().min(4096));
    for length in record.lengths {
        let length = length as usize;
        if length > rest.len() {
            return Err(invalid("an append is cut off"));
        }
        entries.push(encoding::decode_entry(&rest.split_to(length))?);
    }
    if !rest.is_empty() {
        return Err(invalid("an append is longer than it says"));
    }
    let request = AppendEntriesRequest {
        vote: record.vote.into(),
        prev_log_id: record.previous.map(LogId::from),
        entries,
        leader_commit: record.committed.map(LogId::from),
    };
    Ok(Addressed { address: record.address, message: (record.stream, request) })
}

/// `None` says that the message came to nobody.
pub(super) fn encode_append_answer(answer: Option<&StreamAppendResult<TypeConfig>>) -> Bytes {
    encode(&match answer {
        Some(Ok(matching)) => AppendAnswer::Matching(matching.as_ref().map(LogIdRecord::from)),
        Some(Err(StreamAppendError::Conflict(log_id))) => AppendAnswer::Conflict(log_id.into()),
        Some(Err(StreamAppendError::HigherVote(vote))) => AppendAnswer::HigherVote(vote.into()),
        None => AppendAnswer::Failed,
    })
}

pub(super) fn decode_append_answer(bytes: &[u8]) -> io::Result<Option<StreamAppendResult<TypeConfig>>> {
    Ok(match decode("answer to an append", bytes)? {
        AppendAnswer::Matching(matching) => Some(Ok(matching.map(LogId::from))),
        AppendAnswer::Conflict(log_id) => Some(Err(StreamAppendError::Conflict(log_id.into()))),
        AppendAnswer::HigherVote(vote) => Some(Err(StreamAppendError::HigherVote(vote.into()))),
        AppendAnswer::Failed => None,
    })
}

pub(super) fn encode_vote(address: Address, request: &VoteRequest<TypeConfig>) -> Bytes {
    encode(&VoteAsk {
        address,
        vote: (&request.vote).into(),
        last: request.last_log_id.as_ref().map(LogIdRecord::from),
        is_transfer: request.leadership_transfer,
    })
}

pub(super) fn decode_vote(bytes: &[u8]) -> io::Result<Addressed<VoteRequest<TypeConfig>>> {
    let VoteAsk { address, vote, last, is_transfer } = decode("vote", bytes)?;
    let mut message = VoteRequest::new(vote.into(), last.map(LogId::from));
    message.leadership_transfer = is_transfer;
    Ok(Addressed { address, message })
}

/// `None` says that the replica does not vote now.
pub(super) fn encode_vote_answer(answer: Option<&VoteResponse<TypeConfig>>) -> Bytes {
    encode(&match answer {
        Some(answer) => VoteAnswer::Answered {
            vote: (&answer.vote).into(),
            is_granted: answer.vote_granted,
            last: answer.last_log_id.as_ref().map(LogIdRecord::from),
        },
        None => VoteAnswer::Failed,
    })
}

pub(super) fn decode_vote_answer(bytes: &[u8]) -> io::Result<Option<VoteResponse<TypeConfig>>> {
    Ok(match decode("answer to a vote", bytes)? {
        VoteAnswer::Answered { vote, is_granted, last } => {
            Some(VoteResponse::new(Vote::from(vote), last.map(LogId::from), is_granted))
        }
        VoteAnswer::Failed => None,
    })
}

pub(super) fn encode_transfer(address: Address, request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    encode(&TransferAsk {
        address,
        vote: request.from_leader().into(),
        to: *request.to_node_id(),
        last: request.last_log_id().map(LogIdRecord::from),
    })
}

pub(super) fn decode_transfer(bytes: &[u8]) -> io::Result<Addressed<TransferLeaderRequest<TypeConfig>>> {
    let TransferAsk { address, vote, to, last } = decode("transfer", bytes)?;
    Ok(Addressed { address, message: TransferLeaderRequest::new(vote.into(), to, last.map(LogId::from)) })
}

pub(super) fn encode_transfer_answer(answer: Option<&TransferLeaderResponse<TypeConfig>>) -> Bytes {
    encode(&match answer {
        Some(Ok(())) => TransferAnswer::Taken,
        Some(Err(TransferLeaderError::VoteChanged { expected, actual })) => {
            TransferAnswer::VoteChanged { expected: expected.into(), actual: actual.into() }
        }
        Some(Err(TransferLeaderError::LogNotFlushed { expected, actual })) => TransferAnswer::NotFlushed {
            expected: expected.as_ref().map(LogIdRecord::from),
            actual: actual.as_ref().map(LogIdRecord::from),
        },
        None => TransferAnswer::Failed,
    })
}

pub(super) fn decode_transfer_answer(bytes: &[u8]) -> io::Result<Option<TransferLeaderResponse<TypeConfig>>> {
    Ok(match decode("answer to a transfer", bytes)? {
        TransferAnswer::Taken => Some(Ok(())),
        TransferAnswer::VoteChanged { expected, actual } => {
            Some(Err(TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() }))
        }
        TransferAnswer::NotFlushed { expected, actual } => Some(Err(TransferLeaderError::LogNotFlushed {
            expected: expected.map(LogId::from),
            actual: actual.map(LogId::from),
        })),
        TransferAnswer::Failed => None,
    })
}

pub(super) fn encode<T: Serialize>(record: &T) -> Bytes {
    let mut bytes = Vec::with_capacity(64);
    write_record(&mut bytes, record);
    Bytes::from(bytes)
}

pub(super) fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> io::Result<T> {
    let (record, rest) = read_record(what, bytes)?;
    if rest.is_empty() { Ok(record) } else { Err(invalid("a message is longer than it says")) }
}

pub(super) fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use everlog_storage::state::RowBatch;

    use super::*;
    use crate::chain::{ChainPosition, EntryStamp, Hlc, LeadEpoch};
    use crate::rows::EncodedRows;
    use crate::types::{Entry, LeaderId, Payload, log_id};

    fn vote() -> Vote {
        Vote { leader_id: LeaderId { term: 3, voted_for: (1 << 32) + 2 }, committed: true }
    }

    fn address() -> Address {
        Address::new(GroupId(5), 1, (1 << 32) + 2, (1 << 32) + 3)
    }

    fn append() -> AppendEntriesRequest<TypeConfig> {
        let mut batch = RowBatch::new();
        batch.put(&b"key"[..], &b"value"[..]);
        let chain = ChainPosition { epoch: LeadEpoch { term: 3, opening: 1 }, sequence: 2 };
        let stamp = EntryStamp { chain, hlc: Hlc(77) };
        let rows = EncodedRows::encode(stamp, &batch, batch.encoded_len());
        let entry = |index, payload| Entry { log_id: log_id(3, index), payload };
        AppendEntriesRequest {
            vote: vote(),
            prev_log_id: Some(log_id(2, 9)),
            entries: vec![entry(10, Payload::Blank), entry(11, Payload::Normal(rows))],
            leader_commit: Some(log_id(2, 8)),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let request = append();
        let read = decode_append(&encode_append(address(), 7, request.clone())).unwrap();
        assert_eq!((read.address, read.message.0), (address(), 7));
        let found = read.message.1;
        assert_eq!((found.vote, found.prev_log_id), (request.vote, request.prev_log_id));
        assert_eq!((found.entries, found.leader_commit), (request.entries, request.leader_commit));

        let answers = [
            Some(Ok(Some(log_id(3, 11)))),
            Some(Ok(None)),
            Some(Err(StreamAppendError::Conflict(log_id(2, 9)))),
            Some(Err(StreamAppendError::HigherVote(vote()))),
            None,
        ];
        for answer in answers {
            assert_eq!(decode_append_answer(&encode_append_answer(answer.as_ref())).unwrap(), answer);
        }

        let mut ask = VoteRequest::new(vote(), Some(log_id(2, 9)));
        ask.leadership_transfer = true;
        let read = decode_vote(&encode_vote(address(), &ask)).unwrap();
        assert_eq!((read.address, read.message), (address(), ask));
        for answer in [Some(VoteResponse::new(vote(), Some(log_id(1, 1)), true)), None] {
            assert_eq!(decode_vote_answer(&encode_vote_answer(answer.as_ref())).unwrap(), answer);
        }

        let ask = TransferLeaderRequest::new(vote(), 9, Some(log_id(2, 9)));
        let read = decode_transfer(&encode_transfer(address(), &ask)).unwrap();
        assert_eq!((read.address, read.message), (address(), ask));
        let changed = TransferLeaderError::VoteChanged { expected: vote(), actual: vote() };
        let behind = TransferLeaderError::LogNotFlushed { expected: None, actual: Some(log_id(1, 1)) };
        for answer in [Some(Ok(())), Some(Err(changed)), Some(Err(behind)), None] {
            assert_eq!(decode_transfer_answer(&encode_transfer_answer(answer.as_ref())).unwrap(), answer);
        }
    }

    #[test]
    fn the_bytes_stay_what_they_are() {
        let vote = encode_vote(address(), &VoteRequest::new(vote(), Some(log_id(2, 9))));
        assert_eq!(
            hex(&vote),
            "0501fd0300000001000000fd020000000100000003fd0200000001000000010102\
            0900"
        );
        let append = encode_append(address(), 7, append());
        let begins = "0501fd0300000001000000fd02000000010000000703fd02000000010000000101020901020802041502030a00";
        assert_eq!(hex(&append[..begins.len() / 2]), begins);
    }

    #[test]
    fn damaged_messages_are_errors_and_never_panics() {
        let whole = encode_append(address(), 7, append());
        for at in 0..whole.len() {
            let _ = decode_append(&whole.slice(..at));
            let mut damaged = whole.to_vec();
            for value in [0, 1, 0x7f, 0xff] {
                damaged[at] = value;
                let _ = decode_append(&Bytes::copy_from_slice(&damaged));
                let _ = (decode_vote(&damaged), decode_transfer(&damaged), decode_append_answer(&damaged));
                let _ = (decode_vote_answer(&damaged), decode_transfer_answer(&damaged));
            }
        }
        assert!(decode_append(&whole.slice(..whole.len() - 1)).is_err());
    }
}
