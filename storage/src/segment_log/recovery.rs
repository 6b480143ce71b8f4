//! Reads the segments at a start, and tells a write that a crash cut off from one that was lost later.
//!
//! There is one frame on its way to the disk at any time, so a crash leaves at most one that is not whole, at the very end, and
//! nobody was told that it is durable. Whatever else is not whole was acknowledged once, and the log is not opened.
//!
//! The newest segment is written on where its last whole frame ends, so that a start needs no space and no new file.

use std::io;
use std::sync::Arc;

use super::blocks::{Blocks, End};
use super::disk::{Disk, DiskFile};
use super::format::{Change, FRAME_ALIGNMENT, HEADER_BYTES, has_stamp, read_frame, read_header};
use super::segments::{SEGMENT, SPARE, Segment, Shared, segment_name};
use crate::log::LogError;

/// What a directory holds.
pub(super) struct Recovered {
    pub(super) shared: Shared,
    /// Where the newest segment goes on, if there is one.
    pub(super) newest: Option<Newest>,
    pub(super) spares: Vec<String>,
}

/// The segment that is written to.
pub(super) struct Newest {
    pub(super) segment: Arc<Segment>,
    /// Where its frames end.
    pub(super) end: End,
    /// Nothing may follow in this segment.
    pub(super) is_ended: bool,
}

/// Reads all segments on `disk`.
pub(super) fn recover(disk: &dyn Disk) -> Result<Recovered, LogError> {
    let failed = |error: io::Error| LogError(format!("{}: {error}", disk.path("").display()));
    disk.create().map_err(failed)?;
    let (sequences, spares) = list(disk).map_err(failed)?;
    let mut shared = Shared::default();
    if let Some(gap) = sequences.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        let path = disk.path(&segment_name(gap[1] - 1));
        return Err(LogError(format!("{} is missing, but segments before and behind it are there", path.display())));
    }
    let mut newest = None;
    for sequence in &sequences {
        let path = disk.path(&segment_name(*sequence));
        let is_newest = Some(sequence) == sequences.last();
        let recovered = recover_segment(disk, &mut shared, *sequence, is_newest)
            .map_err(|error| LogError(format!("{}: {error}", path.display())))?;
        shared.segments.insert(*sequence, Arc::clone(&recovered.segment));
        newest = Some(recovered);
    }
    Ok(Recovered { shared, newest, spares })
}

/// Sequence numbers of the segments, ascending, and spare files.
fn list(disk: &dyn Disk) -> io::Result<(Vec<u64>, Vec<String>)> {
    let (mut sequences, mut spares) = (Vec::new(), Vec::new());
    for name in disk.list()? {
        if name.starts_with(SPARE) {
            spares.push(name);
        } else if let Some(sequence) = name.strip_suffix(SEGMENT).and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            sequences.push(sequence);
        }
    }
    sequences.sort_unstable();
    spares.sort_unstable();
    Ok((sequences, spares))
}

fn recover_segment(disk: &dyn Disk, shared: &mut Shared, sequence: u64, is_newest: bool) -> io::Result<Newest> {
    let corrupt = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let name = segment_name(sequence);
    let file = disk.open(&name)?;
    let mut bytes = vec![0; usize::try_from(file.length()?).map_err(io::Error::other)?];
    file.read_at(&mut bytes, 0)?;
    let (named, stamp) = read_header(&bytes).map_err(|what| corrupt(what.to_owned()))?;
    if named != sequence {
        return Err(corrupt(format!("it is segment {named} by its content")));
    }
    let segment = Arc::new(Segment { sequence, stamp, path: disk.path(&name), file });
    let (mut last, mut position, mut is_ended) = (HEADER_BYTES, HEADER_BYTES, false);
    while !is_ended && let Some((changes, length)) = read_frame(&bytes[position..], stamp) {
        let frame = u32::try_from(position).map_err(|_| corrupt("it is larger than 4 GiB".to_owned()))?;
        is_ended = changes.contains(&Change::End);
        for change in changes {
            shared.index.apply(change, sequence, frame);
        }
        (last, position) = (position, position + length);
    }
    if position == HEADER_BYTES {
        return Err(corrupt("its first frame is damaged".to_owned()));
    }
    if !is_ended && !is_newest {
        return Err(corrupt(format!("it is damaged at byte {position}: it does not end there")));
    }
    if !is_ended {
        let behind = (position + FRAME_ALIGNMENT..bytes.len()).step_by(FRAME_ALIGNMENT);
        let mut behind = behind.filter(|at| has_stamp(&bytes[*at..], stamp));
        if let Some(next) = behind.find(|at| read_frame(&bytes[*at..], stamp).is_some()) {
            return Err(corrupt(format!("it is damaged at byte {position}: it goes on at byte {next}")));
        }
    }
    if is_newest {
        // A process that was killed may have left the last frame in the system's cache only. A sync that failed leaves it there as if it
        // were on the disk, so that only writing it again brings it there.
        write_again(&*segment.file, &bytes, last, position)?;
    }
    let block = position - position % segment.file.block_bytes();
    let end = End::of(position as u64, bytes.len() as u64, &bytes[block..position]);
    Ok(Newest { segment, end, is_ended })
}

/// Writes what is in a file from one place to another once more, and makes it durable.
fn write_again(file: &dyn DiskFile, bytes: &[u8], from: usize, to: usize) -> io::Result<()> {
    let begin = from - from % file.block_bytes();
    let mut blocks = Blocks::default();
    blocks.extend(&bytes[begin..to]);
    blocks.pad(file.block_bytes());
    file.write_at(blocks.bytes(), begin as u64)?;
    file.sync_data()
}
