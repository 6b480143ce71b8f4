//! What travels from one replica's state machine to another's when the log between them is gone.
//!
//! A snapshot is a view of the sender's rows, read lazily; on the wire it is a sequence of chunks, each an encoded row batch
//! of puts, so that it needs no format of its own.

use std::io;

use bytes::Bytes;
use everlog_storage::state::{Row, RowBatch, RowChange, StateError, StateSnapshot};

use crate::chain::Chain;
use crate::encoding;

/// Rows read from a view at a time.
const READ_ROWS: usize = 1_000;
/// Bytes of keys and values after which a chunk is closed.
const CHUNK_BYTES: usize = 1 << 20;

/// A snapshot of one group's rows.
pub(crate) enum GroupSnapshot {
    /// Only a position: this replica keeps its rows on disk, so a snapshot that nobody receives holds no data.
    Position,
    /// A view of this replica's rows.
    View(Box<dyn StateSnapshot>),
    /// As received from a peer.
    #[cfg_attr(not(test), expect(dead_code, reason = "peers are reached over the transport, which is not there yet"))]
    Chunks {
        /// The sender's encoded applied position.
        position: Bytes,
        /// Its rows.
        chunks: Vec<Bytes>,
    },
}

impl GroupSnapshot {
    /// The chain as of the rows.
    pub(crate) fn chain(&self) -> io::Result<Chain> {
        let position = match self {
            GroupSnapshot::Position => None,
            GroupSnapshot::View(view) => view.applied(),
            GroupSnapshot::Chunks { position, .. } => Some(position.clone()),
        };
        Ok(position
            .as_deref()
            .map(encoding::decode_position)
            .transpose()?
            .map(|position| position.chain)
            .unwrap_or_default())
    }

    /// All rows. Blocks on the disk.
    pub(crate) fn rows(self) -> io::Result<Vec<Row>> {
        match self {
            GroupSnapshot::Position => Ok(Vec::new()),
            GroupSnapshot::View(view) => {
                let mut rows = Vec::new();
                while let Some(mut more) = rows_after(view.as_ref(), rows.last())? {
                    rows.append(&mut more);
                }
                Ok(rows)
            }
            GroupSnapshot::Chunks { chunks, .. } => {
                let mut rows = Vec::new();
                for chunk in &chunks {
                    for change in RowBatch::decode(chunk).map_err(state_error)?.changes {
                        let RowChange::Put { key, value } = change else {
                            return Err(io::Error::new(
                                io::ErrorKind::InvalidData,
                                "a snapshot holds nothing but puts",
                            ));
                        };
                        rows.push((key, value));
                    }
                }
                Ok(rows)
            }
        }
    }

    /// The chunks to send, one after the other. Blocks on the disk.
    #[cfg_attr(not(test), expect(dead_code, reason = "peers are reached over the transport, which is not there yet"))]
    pub(crate) fn into_chunks(self) -> Box<dyn Iterator<Item = io::Result<Bytes>> + Send> {
        match self {
            GroupSnapshot::Position => Box::new(std::iter::empty()),
            GroupSnapshot::Chunks { chunks, .. } => Box::new(chunks.into_iter().map(Ok)),
            GroupSnapshot::View(view) => {
                let mut last: Option<Row> = None;
                Box::new(std::iter::from_fn(move || next_chunk(view.as_ref(), &mut last).transpose()))
            }
        }
    }
}

fn next_chunk(view: &dyn StateSnapshot, last: &mut Option<Row>) -> io::Result<Option<Bytes>> {
    let mut batch = RowBatch::default();
    let mut bytes = 0;
    while bytes < CHUNK_BYTES {
        let Some(rows) = rows_after(view, last.as_ref())? else { break };
        *last = rows.last().cloned();
        bytes += rows.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        batch.changes.extend(rows.into_iter().map(|(key, value)| RowChange::Put { key, value }));
    }
    Ok((!batch.changes.is_empty()).then(|| batch.encode()))
}

fn rows_after(view: &dyn StateSnapshot, last: Option<&Row>) -> io::Result<Option<Vec<Row>>> {
    let rows = view.rows(last.map(|(key, _)| &key[..]), READ_ROWS).map_err(state_error)?;
    Ok((!rows.is_empty()).then_some(rows))
}

fn state_error(error: StateError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use everlog_storage::GroupId;
    use everlog_storage::state::StateEngine;
    use everlog_storage::twin::CrashState;

    use super::*;

    #[test]
    fn rows_arrive_as_they_were_sent() {
        let group = GroupId(1);
        let state = CrashState::new(1);
        let mut batch = RowBatch::new();
        for i in 0..5_000_u32 {
            batch.put([&[2], &i.to_be_bytes()[..]].concat(), vec![i as u8; 700]);
        }
        state.commit(group, b"position", &[batch]).unwrap();
        let rows = GroupSnapshot::View(state.snapshot(group).unwrap()).rows().unwrap();
        assert_eq!(rows.len(), 5_000);

        let chunks = GroupSnapshot::View(state.snapshot(group).unwrap()).into_chunks();
        let chunks = chunks.collect::<io::Result<Vec<_>>>().unwrap();
        assert!(chunks.len() > 2);
        let position = Bytes::from_static(b"position");
        assert_eq!(GroupSnapshot::Chunks { position: position.clone(), chunks }.rows().unwrap(), rows);

        let cut = GroupSnapshot::Chunks { position, chunks: vec![Bytes::from_static(b"\x01\x05")] };
        assert!(cut.rows().is_err());
    }
}
