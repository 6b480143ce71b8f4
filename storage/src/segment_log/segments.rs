//! The files of the log: the one that is written to, older ones, and spare ones.
//!
//! ```text
//!   0000000000000007.seg   full, its last frame says so; removed once none of its entries is needed
//!   0000000000000008.seg   full
//!   0000000000000009.seg   written to; begins with the hard state of every group, so that older ones may go
//!   spare-0000000000000006 was a segment, becomes one again
//! ```
//!
//! Overwriting a file changes neither its length nor its blocks, so fdatasync costs a third less. That is why files are recycled, and why
//! a new file is filled with zeros a little ahead of the frames. Whole blocks are written (`blocks.rs`).
//!
//! **Invariant: segments go in the order in which they were made.** A later frame may take back what an earlier one says, so a segment
//! stays as long as an older one does. When an idle group keeps an old segment, its entries are rewritten.
//!
//! **Invariant: a frame that was handed in can be written when the disk is full.** The active segment has its space from the beginning, and
//! a spare file with a segment's space is kept open. Both together are more than what can be on its way when the server begins to refuse
//! work, and enough for deletions and compaction. When they are used up, a frame waits ([`WriteError::Exhausted`]).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::LogOptions;
use super::blocks::End;
use super::disk::{Disk, DiskFile, is_exhausted};
use super::format::{Change, Frame, HEADER_BYTES};
use super::index::Index;
use super::moving::Moving;
use super::recovery::Newest;
use super::spare::{NewSegment, Spare, allocate, capacity, whole_pages};

/// Memory of a frame that is kept for the next one, bytes: a large one is rare.
const KEPT_BYTES: usize = 256 << 10;
/// Spare files that are kept: as many segments as may go at once when a busy node purges its log.
const SPARES_MAX: usize = 4;
/// Segments that the log may have beyond twice what its entries need, before old entries are rewritten.
const SLACK_SEGMENTS: u64 = 4;
/// Old segments that go in one step. Each takes a sync of the directory.
const LET_GO_MAX: usize = 4;
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

/// Why nothing was written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// There is no space, or no descriptor. Nothing is lost: the same frame may be tried again.
    Exhausted(io::Error),
    /// Nobody knows what is on the disk.
    Failed(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> WriteError {
        if is_exhausted(&error) { WriteError::Exhausted(error) } else { WriteError::Failed(error) }
    }
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (WriteError::Exhausted(error) | WriteError::Failed(error)) = self;
        error.fmt(f)
    }
}

/// What the writer has to itself.
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    shared: Arc<Mutex<Shared>>,
    segment_bytes: u64,
    active: Arc<Segment>,
    /// The active segment has its last frame.
    is_ended: bool,
    /// Where the active segment is written on.
    end: End,
    /// The active segment has its space up to here.
    allocated: u64,
    spares: Vec<Spare>,
    /// How far the oldest segment has been emptied.
    moving: Option<Moving>,
    move_bytes_max: usize,
    /// Rewriting entries was found to free nothing, and nothing was appended since.
    is_futile: bool,
    /// The memory of the last frame.
    buffer: Vec<u8>,
    syncs: u64,
    moved_bytes: u64,
}

impl Segments {
    /// Goes on with what a start found. A log without a segment gets its first one.
    pub(super) fn begin(
        disk: Arc<dyn Disk>,
        shared: Arc<Mutex<Shared>>,
        options: &LogOptions,
        newest: Option<Newest>,
        spare_names: Vec<String>,
    ) -> Result<Segments, WriteError> {
        let segment_bytes = options.segment_bytes;
        let mut spares = Vec::new();
        for name in spare_names {
            if spares.len() < SPARES_MAX {
                spares.push(Spare::open(&*disk, name, segment_bytes)?);
            } else {
                disk.remove(&name)?;
            }
        }
        // Names that a process left which was killed. Otherwise an overwritten file could be found under an earlier name.
        disk.sync().map_err(WriteError::Failed)?;
        let mut syncs = 1;
        let newest = match newest {
            Some(newest) => {
                syncs += 1;
                newest
            }
            None => {
                let spare = spares.pop().map_or_else(|| Spare::make(&*disk, segment_bytes), Ok)?;
                let new = NewSegment::make(&*disk, 1, &[], &spare)?;
                syncs += NewSegment::SYNCS;
                let segment = publish(&shared, new.segment, new.changes);
                Newest { segment, end: new.end, is_ended: false }
            }
        };
        let Newest { segment: active, end, is_ended } = newest;
        // A log on a full disk is opened, too.
        let allocated = allocate(&*active.file, capacity(segment_bytes), end.length).unwrap_or(end.length);
        let mut segments = Segments {
            disk,
            shared,
            segment_bytes,
            active,
            is_ended,
            end,
            allocated,
            spares,
            moving: None,
            move_bytes_max: options.move_bytes_max,
            is_futile: false,
            buffer: Vec::new(),
            syncs,
            moved_bytes: 0,
        };
        match segments.keep_spare() {
            Ok(()) | Err(WriteError::Exhausted(_)) => Ok(segments),
            Err(failed) => Err(failed),
        }
    }

    /// An empty frame.
    pub(super) fn frame(&mut self) -> Frame {
        Frame::with(std::mem::take(&mut self.buffer))
    }

    /// How often files were synced since this was last asked.
    pub(super) fn take_syncs(&mut self) -> u64 {
        std::mem::take(&mut self.syncs)
    }

    /// Bytes of entries that were rewritten since this was last asked.
    pub(super) fn take_moved_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.moved_bytes)
    }

    /// Bytes that can be written although the disk is full.
    pub(super) fn reserve_bytes(&self) -> u64 {
        let spares: u64 = self.spares.iter().map(|spare| spare.allocated).sum();
        self.allocated.saturating_sub(self.end.position) + spares
    }

    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    /// Makes a frame durable, and what it holds known. The frame is used up unless the error says that it may be tried again.
    pub(super) fn append(&mut self, frame: &mut Frame) -> Result<(), WriteError> {
        // A frame that is larger than a segment gets one for itself.
        if self.is_ended || self.end.position + frame.len() as u64 > self.segment_bytes {
            self.rotate()?;
        }
        let begin = self.write(frame)?;
        let (buffer, changes) = std::mem::replace(frame, Frame::new()).into_parts();
        if buffer.capacity() <= KEPT_BYTES {
            self.buffer = buffer;
        }
        self.is_futile = false;
        let mut shared = self.shared.lock();
        for change in changes {
            shared.index.apply(change, self.active.sequence, begin);
        }
        Ok(())
    }

    /// Returns where the frame begins.
    fn write(&mut self, frame: &mut Frame) -> Result<u32, WriteError> {
        let begin =
            u32::try_from(self.end.position).map_err(|_| io::Error::other("a segment of the log beyond 4 GiB"))?;
        let bytes = frame.seal(self.active.stamp);
        let file = &*self.active.file;
        // Before anything is written: what is known to fit need not be taken back.
        self.allocated = allocate(file, whole_pages(self.end.position + bytes.len() as u64), self.allocated)?;
        self.end.write(file, bytes)?;
        file.sync_data().map_err(WriteError::Failed)?;
        self.syncs += 1;
        Ok(begin)
    }

    /// Ends the active segment and begins the next one. May be tried again.
    fn rotate(&mut self) -> Result<(), WriteError> {
        self.keep_spare()?;
        if !self.is_ended {
            self.write(&mut Frame::end())?;
            self.is_ended = true;
        }
        let hard_state = self.shared.lock().index.hard_state();
        let Some(spare) = self.spares.last() else { return Ok(()) };
        let new = NewSegment::make(&*self.disk, self.active.sequence + 1, &hard_state, spare)?;
        self.syncs += NewSegment::SYNCS;
        self.allocated = spare.allocated.max(new.end.length);
        self.spares.pop();
        self.end = new.end;
        self.active = publish(&self.shared, new.segment, new.changes);
        self.is_ended = false;
        Ok(())
    }

    /// Sees to it that there is a spare file: it is what is written to when the disk is full.
    fn keep_spare(&mut self) -> Result<(), WriteError> {
        if self.spares.is_empty() {
            self.spares.push(Spare::make(&*self.disk, self.segment_bytes)?);
        }
        Ok(())
    }

    /// A step of giving back what is not needed: a few old segments go, or some entries of the oldest one are rewritten if there are
    /// far more segments than entries. `slack` is how many more there may be. Whether another step has something to do.
    pub(super) fn tidy(&mut self, slack: Slack) -> Result<bool, WriteError> {
        let gone = self.let_go()?;
        let mut is_moving = false;
        if gone == 0 && self.has_too_many(slack) {
            let began = Instant::now();
            let moved = self.move_entries(slack)?;
            is_moving = !self.is_futile;
            if moved > 0 {
                self.moved_bytes += moved as u64;
                metrics::histogram!("everlog_log_move_seconds").record(began.elapsed().as_secs_f64());
            }
        }
        if slack == Slack::Least {
            while self.spares.len() > 1 {
                self.spares.pop().map(|spare| self.disk.remove(&spare.name)).transpose()?;
            }
        }
        self.keep_spare()?;
        Ok(gone > 0 || is_moving)
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

    /// The oldest segments go as long as they have no entries, up to a few. Returns how many went.
    fn let_go(&mut self) -> Result<usize, WriteError> {
        for gone in 0..LET_GO_MAX {
            let mut shared = self.shared.lock();
            let Some((&sequence, _)) = shared.segments.first_key_value() else { return Ok(gone) };
            if sequence == self.active.sequence || shared.index.live_bytes(sequence) > 0 {
                return Ok(gone);
            }
            shared.index.forget(sequence);
            let Some(segment) = shared.segments.remove(&sequence) else { return Ok(gone) };
            shared.tell();
            drop(shared);
            let length = segment.file.length().map_err(WriteError::Failed)?;
            // One that a large write had for itself takes too much disk to be kept.
            let is_usual = length <= 2 * capacity(self.segment_bytes);
            // A reader that still has it must not see it change.
            let name = format!("{SPARE}{sequence:016x}");
            if is_usual
                && self.spares.len() < SPARES_MAX
                && let Some(segment) = Arc::into_inner(segment)
                && self.disk.rename(&segment_name(sequence), &name).is_ok()
            {
                let allocated = allocate(&*segment.file, capacity(self.segment_bytes), length).unwrap_or(length);
                self.spares.push(Spare { name, file: segment.file, allocated });
            } else {
                // It is forgotten, so it must go before a newer one does.
                self.disk.remove(&segment_name(sequence)).map_err(WriteError::Failed)?;
            }
            // Before the next one goes: what is there after a crash must have no gaps.
            self.disk.sync().map_err(WriteError::Failed)?;
            self.syncs += 1;
        }
        Ok(LET_GO_MAX)
    }

    /// Rewrites some entries of the oldest segment. Returns how many bytes of them.
    fn move_entries(&mut self, slack: Slack) -> Result<usize, WriteError> {
        let oldest = {
            let shared = self.shared.lock();
            shared.segments.first_key_value().map(|(_, segment)| Arc::clone(segment))
        };
        let Some(oldest) = oldest.filter(|oldest| oldest.sequence != self.active.sequence && !self.is_futile) else {
            return Ok(0);
        };
        let moving = self.moving.take().filter(|moving| moving.segment == oldest.sequence);
        let mut moving = moving.unwrap_or_else(|| Moving::begin(&oldest));
        let mut frame = self.frame();
        let collected = moving.collect(&oldest, &self.shared, self.move_bytes_max, &mut frame)?;
        if !frame.is_empty() {
            self.append(&mut frame)?;
        }
        // Emptying it has only filled another one.
        let is_full = 10 * moving.moved_bytes as u64 > 9 * self.segment_bytes;
        self.is_futile = slack == Slack::Least && collected.is_last && is_full;
        self.moving = Some(moving);
        Ok(collected.bytes)
    }

    /// Sequence numbers of the oldest and the active segment.
    pub(super) fn sequences(&self) -> (u64, u64) {
        let oldest = self.shared.lock().segments.keys().next().copied();
        (oldest.unwrap_or(self.active.sequence), self.active.sequence)
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

pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}{SEGMENT}")
}
