//! Files that wait to become a segment, and how they do.
//!
//! A spare file is open and has its space: when the disk is full or the process has no descriptor left, the log still has a segment's
//! worth to write. That is enough for what was proposed by then, and for the deletions and the compaction that make room again.

use std::io;
use std::sync::Arc;

use super::blocks::{End, FILL_BYTES, PAGE_BYTES};
use super::disk::{Disk, DiskFile};
use super::format::{Change, Frame, header};
use super::segments::{SPARE, Segment, WriteError, segment_name};
use crate::log::LogRecord;

/// A file that waits to become a segment.
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) file: Arc<dyn DiskFile>,
    /// It has its space up to here.
    pub(super) allocated: u64,
}

impl Spare {
    /// A new one. No other one is there, so that its name is free.
    pub(super) fn make(disk: &dyn Disk, segment_bytes: u64) -> io::Result<Spare> {
        let name = format!("{SPARE}new");
        let file = disk.open_or_create(&name)?;
        let allocated = allocate(&*file, capacity(segment_bytes), 0)?;
        Ok(Spare { name, file, allocated })
    }

    /// One that a start found. It may have less space than a segment takes if the disk is full.
    pub(super) fn open(disk: &dyn Disk, name: String, segment_bytes: u64) -> io::Result<Spare> {
        let file = disk.open(&name)?;
        let length = file.length()?;
        let allocated = allocate(&*file, capacity(segment_bytes), length).unwrap_or(length);
        Ok(Spare { name, file, allocated })
    }
}

/// A file that has become a segment.
pub(super) struct NewSegment {
    pub(super) segment: Segment,
    pub(super) end: End,
    pub(super) changes: Vec<Change>,
}

impl NewSegment {
    /// Of the file and the directory.
    pub(super) const SYNCS: u64 = 2;

    /// Makes a segment of a spare file. It has its name only once all that it begins with is durable.
    pub(super) fn make(
        disk: &dyn Disk,
        sequence: u64,
        hard_state: &[LogRecord],
        spare: &Spare,
    ) -> Result<NewSegment, WriteError> {
        let file = Arc::clone(&spare.file);
        let stamp = random()?;
        let mut frame = Frame::new();
        hard_state.iter().for_each(|record| frame.push(record));
        let bytes = [&header(sequence, stamp)[..], frame.seal(stamp)].concat();
        allocate(&*file, whole_pages(bytes.len() as u64), spare.allocated)?;
        let mut end = End::of(0, file.length()?, &[]);
        end.write(&*file, &bytes)?;
        file.sync_data().map_err(WriteError::Failed)?;
        let name = segment_name(sequence);
        disk.rename(&spare.name, &name)?;
        disk.sync().map_err(WriteError::Failed)?;
        let segment = Segment { sequence, stamp, path: disk.path(&name), file };
        let (_, changes) = frame.into_parts();
        Ok(NewSegment { segment, end, changes })
    }
}

/// Sees to it that a file has its space up to `length`, where it has it up to `allocated`. Returns up to where it has it now.
pub(super) fn allocate(file: &dyn DiskFile, length: u64, allocated: u64) -> io::Result<u64> {
    if length > allocated {
        file.allocate(length)?;
    }
    Ok(allocated.max(length))
}

/// Bytes of a file that takes a segment: with the frame that ends it, and with what it is filled with ahead.
pub(super) fn capacity(segment_bytes: u64) -> u64 {
    whole_pages(segment_bytes) + FILL_BYTES as u64
}

pub(super) fn whole_pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES as u64)
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u64::from_le_bytes(bytes))
}
