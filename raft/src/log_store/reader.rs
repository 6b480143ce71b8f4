//! Reading the Raft log of a group: from the cache, from the log engine, or from both.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use futures::stream::{self, Stream, StreamExt};
use openraft::storage::RaftLogReader;

use super::{GroupLog, missing, storage_error};
use crate::encoding;
use crate::entry_cache::payload_bytes;
use crate::types::{Entry, TypeConfig, Vote};

/// Entries per step when a long range is streamed: enough to fill a write to the state engine.
const STREAM_ENTRIES: u64 = 512;
/// Bytes per read from the log engine, and of the entries in a message to a follower.
pub(super) const READ_BYTES: usize = 1 << 20;

impl GroupLog {
    /// The entries in `range` that the log holds; fewer, but one, once they have `bytes_max` bytes.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut cached = Vec::new();
        let (start, cached_from) = {
            let log = self.0.log.lock();
            // What the engine still holds outside of these bounds is being removed.
            let (Some(first), Some(last)) = (log.first, log.last) else { return Ok(Vec::new()) };
            let (start, end) = (start.max(first), end.min(last.index + 1));
            if start >= end {
                return Ok(Vec::new());
            }
            log.cache.range(start, end, &mut cached);
            (start, log.cache.first_index().unwrap_or(u64::MAX).clamp(start, end))
        };
        let mut entries = Vec::new();
        if start < cached_from {
            entries = self.read_engine(start, cached_from, bytes_max).await?;
            // What is behind a part that is cut short would leave a hole.
            if entries.last().is_some_and(|last| last.log_id.index + 1 < cached_from) {
                return Ok(entries);
            }
        }
        let mut bytes: usize = entries.iter().map(payload_bytes).sum();
        for entry in cached {
            bytes += payload_bytes(&entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    async fn read_engine(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let shared = self.0.clone();
        let read = move || {
            let mut entries = Vec::new();
            let (mut next, mut bytes_read) = (start, 0);
            while next < end {
                let read = shared.engine.read(shared.group, next..end, READ_BYTES).map_err(storage_error)?;
                // A purge may have overtaken this read at its start; a gap behind that is a broken log.
                if read.is_empty() {
                    if !entries.is_empty() || !shared.is_purged(next) {
                        return Err(missing(shared.group, next));
                    }
                    next += 1;
                }
                for bytes in &read {
                    bytes_read += bytes.len();
                    if bytes_read > bytes_max && !entries.is_empty() {
                        return Ok(entries);
                    }
                    let entry = encoding::decode_entry(bytes)?;
                    if entry.log_id.index != next {
                        return Err(missing(shared.group, next));
                    }
                    entries.push(entry);
                    next += 1;
                }
            }
            Ok(entries)
        };
        everlog_storage::blocking::spawn(read).await.map_err(io::Error::other)?
    }
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    /// In steps, because a leader that restarts applies everything since the last flush as one range.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        if end.saturating_sub(start) <= STREAM_ENTRIES {
            return match self.read(start, end, usize::MAX).await {
                Ok(entries) => stream::iter(entries.into_iter().map(Ok)).boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            };
        }
        let log = self.clone();
        stream::unfold(Some(start), move |next| {
            let log = log.clone();
            async move {
                let next = next.filter(|next| *next < end)?;
                let step_end = end.min(next + STREAM_ENTRIES);
                match log.read(next, step_end, usize::MAX).await {
                    Ok(entries) if entries.is_empty() => None,
                    Ok(entries) => {
                        Some((stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()), Some(step_end)))
                    }
                    Err(error) => Some((stream::iter(vec![Err(error)]), None)),
                }
            }
        })
        .flatten()
        .boxed()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.vote())
    }

    /// What goes into one message to a follower: bounded in entries and in bytes.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end.min(start.saturating_add(STREAM_ENTRIES)), READ_BYTES).await
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}
