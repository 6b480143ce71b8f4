//! The newest entries of one group's log, in memory: what replication and apply read.

use std::collections::VecDeque;

use crate::types::{Entry, Payload};

/// A contiguous run of entries that ends at the end of the log. Bounded in bytes, except that an entry stays until it can be
/// read back from the log engine and has been applied.
#[derive(Default)]
pub(crate) struct EntryCache {
    entries: VecDeque<CachedEntry>,
    bytes: usize,
}

struct CachedEntry {
    entry: Entry,
    /// Which submission to the log engine carried the entry. Indexes cannot tell what is durable: after a truncation the
    /// same index is written twice.
    submission: u64,
}

impl EntryCache {
    /// Index of the first entry here.
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|cached| cached.entry.log_id.index)
    }

    /// Adds the next entry of the log.
    pub(crate) fn push(&mut self, entry: Entry, submission: u64) {
        self.bytes += cost(&entry);
        self.entries.push_back(CachedEntry { entry, submission });
    }

    /// Copies the entries from `start` up to, but not including, `end`. Payloads are shared, not copied.
    pub(crate) fn range(&self, start: u64, end: u64, entries: &mut Vec<Entry>) {
        let Some(first) = self.first_index() else { return };
        let skip = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
        let take = usize::try_from(end.saturating_sub(start.max(first))).unwrap_or(usize::MAX);
        entries.extend(self.entries.iter().skip(skip).take(take).map(|cached| cached.entry.clone()));
    }

    /// Removes the entries from `from` on.
    pub(crate) fn truncate(&mut self, from: u64) {
        while self.entries.back().is_some_and(|cached| cached.entry.log_id.index >= from) {
            self.forget_last();
        }
    }

    /// Removes the entries up to and including `upto`.
    pub(crate) fn purge(&mut self, upto: u64) {
        while self.entries.front().is_some_and(|cached| cached.entry.log_id.index <= upto) {
            self.forget_first();
        }
    }

    /// Makes room: removes the oldest entries that are durable and applied until the cache fits `bytes_max`.
    pub(crate) fn evict(&mut self, bytes_max: usize, flushed_submission: u64, applied_index: u64) {
        while self.bytes > bytes_max {
            let Some(oldest) = self.entries.front() else { return };
            if oldest.submission > flushed_submission || oldest.entry.log_id.index > applied_index {
                return;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(cached) = self.entries.pop_front() {
            self.bytes -= cost(&cached.entry);
        }
    }

    fn forget_last(&mut self) {
        if let Some(cached) = self.entries.pop_back() {
            self.bytes -= cost(&cached.entry);
        }
    }
}

/// What an entry counts for: its payload and about what the structs around it take.
fn cost(entry: &Entry) -> usize {
    const OVERHEAD: usize = 128;
    OVERHEAD + payload_bytes(entry)
}

/// Bytes of rows in an entry.
pub(crate) fn payload_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(rows) => rows.len(),
        Payload::Blank | Payload::Membership(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chain::EntryStamp;
    use crate::rows::EncodedRows;
    use crate::types::log_id;

    fn entry(index: u64) -> Entry {
        let rows = EncodedRows::of_entry(EntryStamp::default(), 0, Bytes::from(vec![0; 1_000]));
        Entry { log_id: log_id(1, index), payload: Payload::Normal(rows) }
    }

    fn cache(indexes: std::ops::Range<u64>) -> EntryCache {
        let mut cache = EntryCache::default();
        indexes.for_each(|index| cache.push(entry(index), index));
        cache
    }

    #[test]
    fn evicts_only_what_is_durable_and_applied() {
        let mut cache = cache(10..20);
        cache.evict(0, 14, 12);
        assert_eq!(cache.first_index(), Some(13));
        cache.evict(0, 14, 19);
        assert_eq!(cache.first_index(), Some(15));
        cache.evict(usize::MAX, 100, 100);
        assert_eq!(cache.first_index(), Some(15));
        cache.evict(0, 100, 100);
        assert_eq!((cache.first_index(), cache.bytes), (None, 0));
    }

    #[test]
    fn reads_the_part_of_a_range_that_is_here() {
        let cache = cache(10..20);
        for (start, end, expected) in
            [(0, 5, 0..0), (5, 12, 10..12), (12, 15, 12..15), (18, 30, 18..20), (25, 30, 0..0)]
        {
            let mut entries = Vec::new();
            cache.range(start, end, &mut entries);
            assert_eq!(entries.iter().map(|e| e.log_id.index).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn truncates_and_purges_from_its_ends() {
        let mut cache = cache(10..20);
        cache.truncate(18);
        cache.purge(11);
        assert_eq!((cache.first_index(), cache.entries.len()), (Some(12), 6));
        cache.truncate(0);
        assert_eq!((cache.first_index(), cache.bytes), (None, 0));
    }
}
