//! Reads the segments at a start, and tells a write that a crash cut off from one that was lost later.
//!
//! There is one frame on its way to the disk at any time, so a crash leaves at most one that is not whole, at the very end, and
//! nobody was told that it is durable. Whatever else is not whole was acknowledged once, and the log is not opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{Change, FRAME_ALIGNMENT, Frame, HEADER_BYTES, read_frame, read_header};
use super::segments::{SEGMENT, SPARE, Segment, Shared, segment_path, sync_directory};
use crate::log::LogError;

/// What a directory holds.
pub(super) struct Recovered {
    pub(super) shared: Shared,
    /// Sequence number of the newest segment; 0 if there is none.
    pub(super) newest: u64,
    pub(super) spares: Vec<PathBuf>,
}

/// Reads all segments in `directory`. The last one is ended, so that the next one can begin.
pub(super) fn recover(directory: &Path) -> Result<Recovered, LogError> {
    let failed = |error: io::Error| LogError(format!("{}: {error}", directory.display()));
    let (sequences, spares) = list(directory).map_err(failed)?;
    let newest = sequences.last().copied().unwrap_or(0);
    let mut shared = Shared::default();
    if let Some(gap) = sequences.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        let path = segment_path(directory, gap[1] - 1);
        return Err(LogError(format!("{} is missing, but segments before and behind it are there", path.display())));
    }
    for sequence in &sequences {
        let path = segment_path(directory, *sequence);
        let segment = recover_segment(&mut shared, path.clone(), *sequence, *sequence == newest)
            .map_err(|error| LogError(format!("{}: {error}", path.display())))?;
        shared.segments.insert(*sequence, Arc::new(segment));
    }
    Ok(Recovered { shared, newest, spares })
}

/// Sequence numbers of the segments, ascending, and spare files.
fn list(directory: &Path) -> io::Result<(Vec<u64>, Vec<PathBuf>)> {
    let (mut sequences, mut spares) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(SPARE) {
            spares.push(entry.path());
        } else if let Some(sequence) = name.strip_suffix(SEGMENT).and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            sequences.push(sequence);
        }
    }
    sequences.sort_unstable();
    spares.sort_unstable();
    Ok((sequences, spares))
}

fn recover_segment(shared: &mut Shared, path: PathBuf, sequence: u64, is_newest: bool) -> io::Result<Segment> {
    let corrupt = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let bytes = std::fs::read(&path)?;
    let (named, stamp) = read_header(&bytes).map_err(|what| corrupt(what.to_owned()))?;
    if named != sequence {
        return Err(corrupt(format!("it is segment {named} by its content")));
    }
    let file = File::options().read(true).write(true).open(&path)?;
    let segment = Segment { sequence, stamp, path, file };
    let mut position = HEADER_BYTES;
    while let Some((changes, length)) = read_frame(&bytes[position..], stamp) {
        let frame = u32::try_from(position).map_err(|_| corrupt("it is larger than 4 GiB".to_owned()))?;
        let is_end = changes.contains(&Change::End);
        for change in changes {
            shared.index.apply(change, sequence, frame);
        }
        if is_end {
            return Ok(segment);
        }
        position += length;
    }
    if position == HEADER_BYTES {
        return Err(corrupt("its first frame is damaged".to_owned()));
    }
    if !is_newest {
        return Err(corrupt(format!("it is damaged at byte {position}: it does not end there")));
    }
    let behind = (position + FRAME_ALIGNMENT..bytes.len()).step_by(FRAME_ALIGNMENT);
    if let Some(next) = behind.into_iter().find(|next| read_frame(&bytes[*next..], stamp).is_some()) {
        return Err(corrupt(format!("it is damaged at byte {position}: it goes on at byte {next}")));
    }
    let (end, _) = Frame::end().finish(stamp);
    segment.file.write_all_at(&end, position as u64)?;
    segment.file.sync_data()?;
    Ok(segment)
}

/// Makes the directory of a log if it is not there.
pub(super) fn create(directory: &Path) -> Result<(), LogError> {
    let failed = |error: io::Error| LogError(format!("{}: {error}", directory.display()));
    if directory.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(directory).map_err(failed)?;
    directory.parent().map_or(Ok(()), sync_directory).map_err(failed)
}
