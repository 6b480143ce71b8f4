//! The files of the log: the one that is written to, the older ones, and spare ones that are used again.
//!
//! ```text
//!   0000000000000007.seg   full, its last frame says so          ◀─ goes once none of its entries is needed
//!   0000000000000008.seg   full
//!   0000000000000009.seg   written to; begins with the hard state of every group, so that older ones may go
//!   spare-0000000000000006 was a segment, becomes one again
//! ```
//!
//! A file that is overwritten has no new length and no new blocks to be made durable with the data: an fdatasync then costs a third
//! less. So files are used again, and a new one is filled with zeros a step ahead of what is written to it. What is written are whole
//! pages, one at a time: the system need not read a page to change a part of it, and does not put pages together, all of which it would
//! write when one is changed.
//!
//! **Invariant: segments go in the order in which they were made.** A later frame may take back what an earlier one says, so none may
//! go as long as an older one is there. Where a group that is at rest keeps an old segment, its entries are written anew.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};
use super::format::{Change, Frame, HEADER_BYTES, header};
use super::index::Index;
use crate::log::LogRecord;

/// How far ahead of what is written a new file is filled with zeros, bytes: little enough to go along with a write.
const FILL_BYTES: usize = 64 << 10;
/// Frames up to this size, in bytes, are worth it: a larger one takes more to be written twice than its file's new length does.
const FILL_FRAME_BYTES_MAX: usize = 4 << 10;
/// What the system caches and writes at once, bytes.
const PAGE_BYTES: usize = 4096;
/// Memory of a write that is kept for the next one, bytes: a large one is rare.
const KEPT_BYTES: usize = 256 << 10;
/// Spare files that are kept: as many segments as may go at once when a busy node purges its log.
const SPARES_MAX: usize = 4;
/// Segments that the log may have beyond twice what its entries need, before old entries are written anew.
const SLACK_SEGMENTS: u64 = 4;
/// Bytes of entries that are written anew with one frame.
const MOVE_BYTES: usize = 1 << 20;
/// Beginning of a spare file's name.
pub(super) const SPARE: &str = "spare-";
/// End of a segment's name.
pub(super) const SEGMENT: &str = ".seg";

/// A file of the log.
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) stamp: u64,
    /// For messages.
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

impl Segment {
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }
}

/// What readers share with the writer.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) index: Index,
    /// By sequence number.
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
}

impl Shared {
    /// Records how many segments there are and what they are for. Whenever one comes or goes, which is rare.
    fn tell(&self) {
        metrics::gauge!("everlog_log_segments").set(self.segments.len() as f64);
        metrics::gauge!("everlog_log_entries_bytes").set(self.index.live_bytes_total() as f64);
    }
}

/// What the writer has to itself.
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    shared: Arc<Mutex<Shared>>,
    segment_bytes: u64,
    active: Arc<Segment>,
    /// Where the next frame goes in the active segment.
    position: u64,
    /// The page that the next frame begins in, as far as it is written.
    page: Vec<u8>,
    /// The segment's length; it is filled up to here.
    length: u64,
    spares: Vec<String>,
    /// The memory of the last frame.
    buffer: Vec<u8>,
    syncs: u64,
}

impl Segments {
    /// Begins a new segment behind `sequence`. `spares` are files that may be used.
    pub(super) fn begin(
        disk: Arc<dyn Disk>,
        shared: Arc<Mutex<Shared>>,
        segment_bytes: u64,
        sequence: u64,
        spares: Vec<String>,
    ) -> io::Result<Segments> {
        let mut spares = spares;
        while spares.len() > SPARES_MAX {
            spares.pop().map(|spare| disk.remove(&spare)).transpose()?;
        }
        let hard_state = shared.lock().index.hard_state();
        let new = NewSegment::make(&*disk, sequence, hard_state, spares.pop())?;
        let syncs = NewSegment::SYNCS;
        let NewSegment { position, page, length, .. } = new;
        let active = publish(&shared, new.segment, new.changes);
        let buffer = Vec::new();
        Ok(Segments { disk, shared, segment_bytes, active, position, page, length, spares, buffer, syncs })
    }

    /// An empty frame.
    pub(super) fn frame(&mut self) -> Frame {
        Frame::with(std::mem::take(&mut self.buffer))
    }

    /// How often files were synced since this was last asked.
    pub(super) fn take_syncs(&mut self) -> u64 {
        std::mem::take(&mut self.syncs)
    }

    /// Makes a frame durable, and what it holds known. After an error nobody knows what is on the disk.
    pub(super) fn append(&mut self, frame: Frame) -> io::Result<()> {
        // A frame that is larger than a segment gets one for itself.
        if self.position + frame.len() as u64 > self.segment_bytes {
            self.rotate()?;
        }
        let (changes, begin) = self.write(frame)?;
        let mut shared = self.shared.lock();
        for change in changes {
            shared.index.apply(change, self.active.sequence, begin);
        }
        Ok(())
    }

    /// Returns what the frame holds, and where it begins.
    fn write(&mut self, frame: Frame) -> io::Result<(Vec<Change>, u32)> {
        let begin = u32::try_from(self.position).map_err(|_| io::Error::other("a segment of the log beyond 4 GiB"))?;
        let (bytes, changes) = frame.finish(self.active.stamp);
        self.length = write_pages(&*self.active.file, &mut self.page, self.position, &bytes, self.length)?;
        self.position += bytes.len() as u64;
        self.active.file.sync_data()?;
        self.syncs += 1;
        if bytes.capacity() <= KEPT_BYTES {
            self.buffer = bytes;
        }
        Ok((changes, begin))
    }

    /// Ends the active segment and begins the next one.
    fn rotate(&mut self) -> io::Result<()> {
        self.write(Frame::end())?;
        let hard_state = self.shared.lock().index.hard_state();
        let new = NewSegment::make(&*self.disk, self.active.sequence + 1, hard_state, self.spares.pop())?;
        self.syncs += NewSegment::SYNCS;
        (self.position, self.page, self.length) = (new.position, new.page, new.length);
        self.active = publish(&self.shared, new.segment, new.changes);
        Ok(())
    }

    /// Lets go of old segments that nothing needs, and, where there are far more of them than entries, writes the entries of the
    /// oldest ones anew. `slack` is how many more there may be.
    pub(super) fn tidy(&mut self, slack: Slack) -> io::Result<()> {
        self.let_go()?;
        let mut steps = self.shared.lock().segments.len();
        while steps > 0 && self.has_too_many(slack) {
            steps -= 1;
            self.move_oldest()?;
            self.let_go()?;
        }
        if slack == Slack::Least {
            while self.spares.len() > 1 {
                self.spares.pop().map(|spare| self.disk.remove(&spare)).transpose()?;
            }
        }
        Ok(())
    }

    fn has_too_many(&self, slack: Slack) -> bool {
        let shared = self.shared.lock();
        let live = shared.index.live_bytes_total();
        let allowed = match slack {
            Slack::Usual => 2 * live + SLACK_SEGMENTS * self.segment_bytes,
            Slack::Least => live + live / 2 + self.segment_bytes,
        };
        shared.segments.len() as u64 * self.segment_bytes > allowed && shared.segments.len() > 1
    }

    /// The oldest segments go as long as they have no entries.
    fn let_go(&mut self) -> io::Result<()> {
        loop {
            let mut shared = self.shared.lock();
            let Some((&sequence, _)) = shared.segments.first_key_value() else { return Ok(()) };
            if sequence == self.active.sequence || shared.index.live_bytes(sequence) > 0 {
                return Ok(());
            }
            shared.index.forget(sequence);
            let Some(gone) = shared.segments.remove(&sequence) else { return Ok(()) };
            shared.tell();
            drop(shared);
            // One that a large write had for itself takes too much disk to be kept.
            let is_usual = gone.file.length()? <= 2 * self.segment_bytes + FILL_BYTES as u64;
            // Whoever still reads it must not see it change.
            if is_usual && self.spares.len() < SPARES_MAX && Arc::into_inner(gone).is_some() {
                let spare = format!("{SPARE}{sequence:016x}");
                self.disk.rename(&segment_name(sequence), &spare)?;
                self.spares.push(spare);
            } else {
                self.disk.remove(&segment_name(sequence))?;
            }
            // Before the next one goes: what is there after a crash must have no gaps.
            self.disk.sync()?;
            self.syncs += 1;
        }
    }

    /// Writes the entries of the oldest segment into the active one.
    fn move_oldest(&mut self) -> io::Result<()> {
        let (oldest, mut entries) = {
            let shared = self.shared.lock();
            let Some((&sequence, segment)) = shared.segments.first_key_value() else { return Ok(()) };
            if sequence == self.active.sequence {
                return Ok(());
            }
            (Arc::clone(segment), shared.index.entries_in(sequence))
        };
        entries.sort_unstable_by_key(|(group, index, _)| (*group, *index));
        for part in entries.chunk_by(|(group, index, _), (next, following, _)| group == next && index + 1 == *following)
        {
            let mut rest = part;
            while let Some((group, first_index, _)) = rest.first() {
                let mut located = Vec::new();
                let mut bytes = 0;
                while let Some((_, _, location)) = rest.first().filter(|_| bytes < MOVE_BYTES) {
                    located.push((Arc::clone(&oldest), *location));
                    bytes += location.bytes as usize;
                    rest = &rest[1..];
                }
                let entries = super::read_entries(&located)?;
                let mut frame = self.frame();
                frame.push(&LogRecord::Append { group: *group, first_index: *first_index, entries });
                self.append(frame)?;
            }
        }
        tracing::debug!(segment = oldest.sequence, entries = entries.len(), "entries of the log were written anew");
        Ok(())
    }
}

/// How many more segments there may be than entries need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slack {
    /// While others wait.
    Usual,
    /// When there is time.
    Least,
}

/// A file that has become a segment.
struct NewSegment {
    segment: Segment,
    position: u64,
    page: Vec<u8>,
    length: u64,
    changes: Vec<Change>,
}

impl NewSegment {
    /// Of the directory, the file, and the directory.
    const SYNCS: u64 = 3;

    /// Makes a segment of a spare file or a new one. It has its name only once all that it begins with is durable.
    fn make(
        disk: &dyn Disk,
        sequence: u64,
        hard_state: Vec<LogRecord>,
        spare: Option<String>,
    ) -> io::Result<NewSegment> {
        let unnamed = spare.unwrap_or_else(|| format!("{SPARE}new"));
        let file = disk.open_or_create(&unnamed)?;
        // It must not be found under an earlier name with what it becomes now.
        disk.sync()?;
        let stamp = random()?;
        let mut frame = Frame::new();
        hard_state.iter().for_each(|record| frame.push(record));
        let (bytes, changes) = frame.finish(stamp);
        let bytes = [&header(sequence, stamp)[..], &bytes].concat();
        let mut page = Vec::new();
        let length = write_pages(&*file, &mut page, 0, &bytes, file.length()?)?;
        let position = bytes.len() as u64;
        file.sync_data()?;
        let name = segment_name(sequence);
        disk.rename(&unnamed, &name)?;
        disk.sync()?;
        let segment = Segment { sequence, stamp, path: disk.path(&name), file };
        Ok(NewSegment { segment, position, page, length, changes })
    }
}

/// Lets readers know of a segment and of what it begins with.
fn publish(shared: &Mutex<Shared>, segment: Segment, changes: Vec<Change>) -> Arc<Segment> {
    let segment = Arc::new(segment);
    let mut shared = shared.lock();
    for change in changes {
        shared.index.apply(change, segment.sequence, HEADER_BYTES as u32);
    }
    shared.segments.insert(segment.sequence, Arc::clone(&segment));
    shared.tell();
    segment
}

/// Writes `bytes` at `position` of a file of `length` bytes. `page` is what the page holds that they begin in, and then the one that
/// they end in. Returns the file's length, which has grown by more than was written if it has grown.
fn write_pages(file: &dyn DiskFile, page: &mut Vec<u8>, position: u64, bytes: &[u8], length: u64) -> io::Result<u64> {
    const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
    let mut at = position - page.len() as u64;
    page.extend_from_slice(bytes);
    let written = page.len();
    page.extend_from_slice(&ZEROS[..written.next_multiple_of(PAGE_BYTES) - written]);
    let end = at + page.len() as u64;
    let fill = if end > length && bytes.len() <= FILL_FRAME_BYTES_MAX { FILL_BYTES } else { 0 };
    for bytes in page.chunks(PAGE_BYTES).chain(std::iter::repeat_n(&ZEROS[..], fill / PAGE_BYTES)) {
        file.write_at(bytes, at)?;
        at += PAGE_BYTES as u64;
    }
    page.drain(..written - written % PAGE_BYTES);
    page.truncate(written % PAGE_BYTES);
    page.shrink_to(KEPT_BYTES);
    Ok(length.max(end + fill as u64))
}

pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}{SEGMENT}")
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u64::from_le_bytes(bytes))
}
