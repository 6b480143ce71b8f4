//! The bytes of a segment file. Numbers are little-endian.
//!
//! ```text
//! segment  header | frame | frame | ...
//! header   magic "EVLS" | version u32 | sequence u64 | stamp u64 | zero u32 | crc32c u32 of what is before
//! frame    crc32c u32 of what follows | length u32 of the body | stamp u64 | body | zeros up to a multiple of 8
//! body     record | record | ...
//!
//! append    01 | group u32 | first index u64 | count u32 | count times: entry
//! truncate  02 | group u32 | first index to go u64
//! purge     03 | group u32 | last index to go u64 | log id
//! vote      04 | group u32 | vote
//! committed 05 | group u32 | log id
//! destroy   06 | group u32
//! end       07                     nothing follows in this segment
//! replica   08 | group u32 | replica
//! log id, vote, replica: length u32 | bytes
//! entry     length u32 of the bytes here | crc32c u32 of what follows | length u32 of the entry | bytes
//! ```
//!
//! An entry whose bytes are fewer than its length is an LZ4 block. Entries are compressed one by one, because they are read one by one.
//! Together they would hardly be smaller: a busy partition's entries are 8 KiB in the middle and take 0.21 of that by themselves, 0.19 in
//! whole frames (0.34 and 0.31 at 1,000 workflows a second).
//!
//! A frame is what one write makes durable: after a crash it is there as a whole, or not at all. A file gets a new
//! random stamp whenever it becomes a segment. Frames left over from its earlier use are told apart by it, and a client cannot forge a
//! frame inside the bytes of an entry.

use bytes::Bytes;

use crate::GroupId;
use crate::log::LogRecord;
use crate::lz4;

pub(super) const HEADER_BYTES: usize = 32;
const MAGIC: [u8; 4] = *b"EVLS";
const VERSION: u32 = 2;

pub(super) const FRAME_HEADER_BYTES: usize = 16;
/// Frames begin at multiples of this.
pub(super) const FRAME_ALIGNMENT: usize = 8;
/// In front of the bytes of an entry: both lengths and the checksum.
const ENTRY_HEADER_BYTES: usize = 12;
/// Shorter entries are not compressed: too little repeats itself.
const COMPRESSED_BYTES_MIN: usize = 256;

/// What a frame holds, once it is known where its entries stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Entries with contiguous indexes.
    Append { group: GroupId, first_index: u64, entries: Vec<Span> },
    /// The entries with this index and above are gone.
    Truncate { group: GroupId, from: u64 },
    /// The entries up to this index are gone.
    Purge { group: GroupId, upto: u64, log_id: Bytes },
    /// The group's vote.
    Vote { group: GroupId, vote: Bytes },
    /// Which replica of the group this is.
    Replica { group: GroupId, replica: Bytes },
    /// The group's committed log id.
    Committed { group: GroupId, log_id: Bytes },
    /// All of the group is gone.
    Destroy { group: GroupId },
    /// Nothing follows in the segment.
    End,
}

/// Where an entry stands in a frame: its header, then its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// From the frame's begin.
    pub(super) offset: u32,
    /// With the entry's header.
    pub(super) bytes: u32,
}

/// The header of a segment.
pub(super) fn header(sequence: u64, stamp: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&VERSION.to_le_bytes());
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..24].copy_from_slice(&stamp.to_le_bytes());
    let crc = crc32c::crc32c(&header[..28]);
    header[28..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Sequence and stamp in a header, or what is wrong with it.
pub(super) fn read_header(segment: &[u8]) -> Result<(u64, u64), &'static str> {
    let header = segment.get(..HEADER_BYTES).ok_or("it is too short for a segment of the log")?;
    let mut reader = Reader(header);
    let (magic, version) = (reader.take(4), reader.u32());
    let (sequence, stamp, _, crc) = (reader.u64(), reader.u64(), reader.u32(), reader.u32());
    if magic != Some(&MAGIC) || crc != Some(crc32c::crc32c(&header[..28])) {
        return Err("it does not begin like a segment of the log");
    }
    if version != Some(VERSION) {
        return Err("it is of a version that is not known here");
    }
    sequence.zip(stamp).ok_or("it does not begin like a segment of the log")
}

/// A frame that is being made.
#[derive(Debug)]
pub(super) struct Frame {
    buffer: Vec<u8>,
    changes: Vec<Change>,
    /// The body's length, once it is sealed.
    body: Option<u32>,
}

impl Frame {
    pub(super) fn new() -> Frame {
        Frame::with(Vec::new())
    }

    /// A frame that uses the memory of `buffer`.
    pub(super) fn with(mut buffer: Vec<u8>) -> Frame {
        buffer.clear();
        buffer.resize(FRAME_HEADER_BYTES, 0);
        Frame { buffer, changes: Vec::new(), body: None }
    }

    pub(super) fn push(&mut self, record: &LogRecord) {
        match record {
            LogRecord::Append { group, first_index, entries } => self.append(*group, *first_index, entries),
            LogRecord::Truncate { group, from } => {
                self.begin(2, *group);
                self.u64(*from);
                self.changes.push(Change::Truncate { group: *group, from: *from });
            }
            LogRecord::Purge { group, upto, log_id } => {
                self.begin(3, *group);
                self.u64(*upto);
                self.bytes(log_id);
                self.changes.push(Change::Purge { group: *group, upto: *upto, log_id: log_id.clone() });
            }
            LogRecord::Vote { group, vote } => {
                self.begin(4, *group);
                self.bytes(vote);
                self.changes.push(Change::Vote { group: *group, vote: vote.clone() });
            }
            LogRecord::Committed { group, log_id } => {
                self.begin(5, *group);
                self.bytes(log_id);
                self.changes.push(Change::Committed { group: *group, log_id: log_id.clone() });
            }
            LogRecord::Replica { group, replica } => {
                self.begin(8, *group);
                self.bytes(replica);
                self.changes.push(Change::Replica { group: *group, replica: replica.clone() });
            }
            LogRecord::Destroy { group } => {
                self.begin(6, *group);
                self.changes.push(Change::Destroy { group: *group });
            }
        }
    }

    pub(super) fn end() -> Frame {
        let mut frame = Frame::new();
        frame.buffer.push(7);
        frame.changes.push(Change::End);
        frame
    }

    /// Bytes that it will take in the segment.
    pub(super) fn len(&self) -> usize {
        self.buffer.len().next_multiple_of(FRAME_ALIGNMENT)
    }

    /// Whether it holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Entries with contiguous indexes as they stand in another frame, each with its header.
    pub(super) fn push_spans<'a>(
        &mut self,
        group: GroupId,
        first_index: u64,
        spans: impl ExactSizeIterator<Item = &'a [u8]>,
    ) {
        self.begin(1, group);
        self.u64(first_index);
        self.u32(spans.len());
        let mut entries = Vec::with_capacity(spans.len());
        for span in spans {
            entries.push(Span { offset: self.buffer.len() as u32, bytes: span.len() as u32 });
            self.buffer.extend_from_slice(span);
        }
        self.changes.push(Change::Append { group, first_index, entries });
    }

    /// The bytes for the segment with `stamp`. Nothing can be added any more, but it may be sealed for another segment.
    pub(super) fn seal(&mut self, stamp: u64) -> &[u8] {
        let length = self.buffer.len();
        let body = *self.body.get_or_insert_with(|| {
            u32::try_from(length - FRAME_HEADER_BYTES).expect("the queue takes no record that large")
        });
        let end = FRAME_HEADER_BYTES + body as usize;
        self.buffer[4..8].copy_from_slice(&body.to_le_bytes());
        self.buffer[8..16].copy_from_slice(&stamp.to_le_bytes());
        let crc = crc32c::crc32c(&self.buffer[4..end]);
        self.buffer[0..4].copy_from_slice(&crc.to_le_bytes());
        self.buffer.resize(end.next_multiple_of(FRAME_ALIGNMENT), 0);
        &self.buffer
    }

    /// Its memory, and what it holds.
    pub(super) fn into_parts(self) -> (Vec<u8>, Vec<Change>) {
        (self.buffer, self.changes)
    }

    /// The bytes for the segment with `stamp`, and what they hold.
    #[cfg(test)]
    fn finish(mut self, stamp: u64) -> (Vec<u8>, Vec<Change>) {
        self.seal(stamp);
        self.into_parts()
    }

    fn append(&mut self, group: GroupId, first_index: u64, entries: &[Bytes]) {
        self.begin(1, group);
        self.u64(first_index);
        self.u32(entries.len());
        let mut spans = Vec::with_capacity(entries.len());
        for entry in entries {
            let offset = self.buffer.len();
            self.entry(entry);
            spans.push(Span { offset: offset as u32, bytes: (self.buffer.len() - offset) as u32 });
        }
        self.changes.push(Change::Append { group, first_index, entries: spans });
    }

    fn entry(&mut self, entry: &[u8]) {
        let begin = self.buffer.len();
        self.buffer.extend_from_slice(&[0; ENTRY_HEADER_BYTES]);
        // An eighth less is the least that is worth being read with more work.
        let is_compressed = entry.len() >= COMPRESSED_BYTES_MIN
            && lz4::compress(entry, &mut self.buffer, entry.len() - entry.len() / 8);
        if !is_compressed {
            self.buffer.extend_from_slice(entry);
        }
        let stored = u32::try_from(self.buffer.len() - begin - ENTRY_HEADER_BYTES);
        let stored = stored.expect("the queue takes no record that large");
        self.buffer[begin..begin + 4].copy_from_slice(&stored.to_le_bytes());
        self.buffer[begin + 8..begin + 12].copy_from_slice(&(entry.len() as u32).to_le_bytes());
        let crc = crc32c::crc32c(&self.buffer[begin + 8..]);
        self.buffer[begin + 4..begin + 8].copy_from_slice(&crc.to_le_bytes());
    }

    fn begin(&mut self, kind: u8, group: GroupId) {
        self.buffer.push(kind);
        self.buffer.extend_from_slice(&group.0.to_le_bytes());
    }

    fn u32(&mut self, number: usize) {
        let number = u32::try_from(number).expect("the queue takes no record that large");
        self.buffer.extend_from_slice(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.buffer.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len());
        self.buffer.extend_from_slice(bytes);
    }
}

/// Whether `bytes` may begin with a frame of that stamp: a quick look.
pub(super) fn has_stamp(bytes: &[u8], stamp: u64) -> bool {
    bytes.len() >= FRAME_HEADER_BYTES && bytes[8..FRAME_HEADER_BYTES] == stamp.to_le_bytes()
}

/// How long the frame is that begins with `header`, if it has that stamp.
pub(super) fn frame_bytes(header: &[u8; FRAME_HEADER_BYTES], stamp: u64) -> Option<usize> {
    let mut reader = Reader(header);
    let (_crc, length) = (reader.u32()?, reader.u32()? as usize);
    let end = FRAME_HEADER_BYTES.checked_add(length)?.checked_next_multiple_of(FRAME_ALIGNMENT)?;
    has_stamp(header, stamp).then_some(end)
}

/// Reads the frame at the start of `bytes`: its content and its length. `None` if there is no whole frame with that stamp.
pub(super) fn read_frame(bytes: &[u8], stamp: u64) -> Option<(Vec<Change>, usize)> {
    let mut reader = Reader(bytes);
    let (crc, length) = (reader.u32()?, reader.u32()? as usize);
    if reader.u64()? != stamp {
        return None;
    }
    let end = FRAME_HEADER_BYTES.checked_add(length)?;
    let padded = end.checked_next_multiple_of(FRAME_ALIGNMENT)?;
    let frame = &bytes.get(..padded)?[..end];
    if crc32c::crc32c(&frame[4..]) != crc {
        return None;
    }
    Some((read_changes(frame)?, padded))
}

fn read_changes(frame: &[u8]) -> Option<Vec<Change>> {
    let mut reader = Reader(&frame[FRAME_HEADER_BYTES..]);
    let mut changes = Vec::new();
    while let Some(kind) = reader.take(1) {
        if kind == [7] {
            changes.push(Change::End);
            continue;
        }
        let group = GroupId(reader.u32()?);
        changes.push(match kind {
            [1] => {
                let (first_index, count) = (reader.u64()?, reader.u32()?);
                // Readers count on from the first index, two beyond the last one at the most.
                first_index.checked_add(u64::from(count))?.checked_add(1)?;
                let mut entries = Vec::new();
                for _ in 0..count {
                    let offset = frame.len() - reader.0.len();
                    let (length, _crc, _entry_length) = (reader.u32()?, reader.u32()?, reader.u32()?);
                    reader.take(length as usize)?;
                    entries.push(Span { offset: offset as u32, bytes: ENTRY_HEADER_BYTES as u32 + length });
                }
                Change::Append { group, first_index, entries }
            }
            [2] => Change::Truncate { group, from: reader.u64()? },
            [3] => Change::Purge { group, upto: reader.u64()?, log_id: reader.bytes()? },
            [4] => Change::Vote { group, vote: reader.bytes()? },
            [5] => Change::Committed { group, log_id: reader.bytes()? },
            [6] => Change::Destroy { group },
            [8] => Change::Replica { group, replica: reader.bytes()? },
            _ => return None,
        });
    }
    Some(changes)
}

/// The entry that stands in `span`, if it is what was written.
pub(super) fn read_entry(span: &[u8]) -> Option<Bytes> {
    let mut reader = Reader(span);
    let (stored, crc) = (reader.u32()? as usize, reader.u32()?);
    if crc32c::crc32c(reader.0) != crc {
        return None;
    }
    let length = reader.u32()? as usize;
    let bytes = reader.0;
    match bytes.len() {
        found if found != stored || found > length => None,
        found if found == length => Some(Bytes::copy_from_slice(bytes)),
        _ => lz4::decompress(bytes, length).map(Bytes::from),
    }
}

/// Bytes that an entry takes in its segment without its header.
pub(super) fn stored_bytes(span_bytes: u32) -> usize {
    span_bytes as usize - ENTRY_HEADER_BYTES
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let length = self.u32()? as usize;
        self.take(length).map(Bytes::copy_from_slice)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(7);
    /// Is compressed where it comes often.
    const REPEATS: &[u8] = b"an entry ";
    const STAMP: u64 = 0x1122_3344_5566_7788;

    fn records() -> Vec<LogRecord> {
        let bytes = Bytes::from_static;
        vec![
            LogRecord::Append {
                group: GROUP,
                first_index: 5,
                entries: vec![bytes(b"five"), bytes(b""), bytes(b"7"), REPEATS.repeat(40).into()],
            },
            LogRecord::Truncate { group: GROUP, from: 6 },
            LogRecord::Purge { group: GROUP, upto: 4, log_id: bytes(b"id 4") },
            LogRecord::Vote { group: GROUP, vote: bytes(b"vote") },
            LogRecord::Committed { group: GROUP, log_id: bytes(b"id 5") },
            LogRecord::Destroy { group: GroupId(8) },
        ]
    }

    fn frame() -> (Vec<u8>, Vec<Change>) {
        let mut frame = Frame::new();
        records().iter().for_each(|record| frame.push(record));
        let length = frame.len();
        let (bytes, changes) = frame.finish(STAMP);
        assert_eq!(bytes.len(), length);
        (bytes, changes)
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let (mut bytes, changes) = frame();
        let length = bytes.len();
        bytes.extend_from_slice(&[0xff; 100]);
        assert_eq!(read_frame(&bytes, STAMP), Some((changes.clone(), length)));
        let Change::Append { entries, .. } = &changes[0] else { panic!("{changes:?}") };
        let entries = entries.iter().map(|span| {
            let (offset, end) = (span.offset as usize, (span.offset + span.bytes) as usize);
            read_entry(&bytes[offset..end]).unwrap()
        });
        assert_eq!(entries.collect::<Vec<_>>(), [&b"five"[..], b"", b"7", &REPEATS.repeat(40)]);
        let (end, changes) = Frame::end().finish(STAMP);
        assert_eq!(read_frame(&end, STAMP), Some((changes, end.len())));
    }

    #[test]
    fn a_frame_that_is_cut_or_changed_anywhere_is_none() {
        let (bytes, changes) = frame();
        let body = FRAME_HEADER_BYTES + u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        for length in 0..body {
            assert_eq!(read_frame(&bytes[..length], STAMP), None, "{length}");
        }
        for changed in 0..body {
            let mut bytes = bytes.clone();
            bytes[changed] ^= 0x10;
            assert_eq!(read_frame(&bytes, STAMP), None, "{changed}");
        }
        assert_eq!(read_frame(&bytes, STAMP + 1), None);
        assert_eq!(read_frame(&bytes, STAMP).unwrap().0, changes);
    }

    /// Bytes that are damaged, and bytes of any kind, are read without a panic, and never make more of themselves than they are.
    #[test]
    fn any_bytes_are_read_or_refused() {
        let (frame, changes) = frame();
        let Change::Append { entries, .. } = &changes[0] else { panic!("{changes:?}") };
        let mut seed = 1;
        let mut random = |bound: usize| (crate::twin::next_random(&mut seed) % bound as u64) as usize;
        for _ in 0..20_000 {
            let mut bytes = frame.clone();
            for _ in 0..1 + random(4) {
                let at = random(bytes.len());
                bytes[at] = [0, 0xff, random(256) as u8][random(3)];
            }
            bytes.truncate(random(bytes.len() + 1).max(FRAME_HEADER_BYTES));
            // A checksum that is right, as if whoever damaged it had meant it.
            let end = bytes.len();
            let body = (end - FRAME_HEADER_BYTES) as u32;
            bytes[4..8].copy_from_slice(&body.to_le_bytes());
            bytes[8..16].copy_from_slice(&STAMP.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[4..]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
            bytes.resize(end.next_multiple_of(FRAME_ALIGNMENT), 0);
            for change in read_frame(&bytes, STAMP).map(|(changes, _)| changes).unwrap_or_default() {
                let Change::Append { entries, .. } = change else { continue };
                assert!(entries.iter().map(|span| span.bytes as usize).sum::<usize>() <= bytes.len());
                for Span { offset, bytes: length } in entries {
                    read_entry(&bytes[offset as usize..(offset + length) as usize]);
                }
            }
            // An entry likewise.
            let Span { offset, bytes: length } = entries[3];
            let mut span = frame[offset as usize..(offset + length) as usize].to_vec();
            let at = ENTRY_HEADER_BYTES - 4 + random(span.len() - ENTRY_HEADER_BYTES + 4);
            span[at] = random(256) as u8;
            let crc = crc32c::crc32c(&span[8..]);
            span[4..8].copy_from_slice(&crc.to_le_bytes());
            assert!(read_entry(&span).is_none_or(|entry| entry.len() <= 255 * (span.len() + 1)));
        }
    }

    #[test]
    fn entries_whose_indexes_end_beyond_the_last_number_are_none() {
        let read = |first_index| {
            let mut frame = Frame::new();
            frame.push(&LogRecord::Append {
                group: GROUP,
                first_index,
                entries: vec![Bytes::from_static(b"entry"); 3],
            });
            read_frame(&frame.finish(STAMP).0, STAMP)
        };
        let (changes, _) = read(u64::MAX - 4).unwrap();
        let mut index = super::super::index::Index::default();
        changes.into_iter().for_each(|change| index.apply(change, 1, 0));
        assert_eq!(index.recovered(GROUP).last_index, Some(u64::MAX - 2));
        for beyond in [u64::MAX - 3, u64::MAX - 2, u64::MAX] {
            assert_eq!(read(beyond), None);
        }
    }

    #[test]
    fn the_record_of_a_replica_stays_as_it_is() {
        let mut frame = Frame::new();
        frame.push(&LogRecord::Replica { group: GROUP, replica: Bytes::from_static(b"who") });
        let (bytes, changes) = frame.finish(STAMP);
        assert_eq!(&bytes[FRAME_HEADER_BYTES..][..12], b"\x08\x07\0\0\0\x03\0\0\0who");
        assert_eq!(read_frame(&bytes, STAMP).unwrap().0, changes);
    }

    #[test]
    fn the_format_stays_as_it_is() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let golden = include_str!("../../tests/golden/segment.txt");
        let now = format!("header {}\nframe {}\n", hex(&header(3, STAMP)), hex(&frame().0));
        if std::env::var_os("EVERLOG_BLESS").is_some() {
            std::fs::write("tests/golden/segment.txt", &now).unwrap();
        }
        assert_eq!(now, golden);
        assert_eq!(read_header(&header(3, STAMP)), Ok((3, STAMP)));
        let mut changed = header(3, STAMP);
        changed[9] ^= 1;
        assert!(read_header(&changed).is_err());
        assert!(read_header(&changed[..20]).is_err());
    }
}
