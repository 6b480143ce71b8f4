//! Finds the entries of the oldest segment that are still needed, a step at a time, so that they can be rewritten.
//!
//! A step reads and moves a bounded amount, because appends wait meanwhile. It reads the segment's frames in order and asks the index
//! which of their entries are still where the frame has them; nothing needs to search the index.

use std::io;

use parking_lot::Mutex;

use super::format::{Change, FRAME_HEADER_BYTES, Frame, HEADER_BYTES, frame_bytes, read_frame};
use super::index::Location;
use super::segments::{Segment, Shared};

/// Most that a step reads, bytes, beyond the frame that it ends in.
const READ_BYTES_MAX: usize = 4 << 20;

/// How far a segment's entries have been moved.
#[derive(Clone, Debug)]
pub(super) struct Moving {
    /// Sequence number of the segment.
    pub(super) segment: u64,
    /// The next frame to be looked at.
    position: u64,
    /// Bytes of entries that were moved.
    pub(super) moved_bytes: usize,
}

/// What a step has found.
pub(super) struct Collected {
    /// Bytes of entries.
    pub(super) bytes: usize,
    /// The segment has no others.
    pub(super) is_last: bool,
}

impl Moving {
    pub(super) fn begin(segment: &Segment) -> Moving {
        Moving { segment: segment.sequence, position: HEADER_BYTES as u64, moved_bytes: 0 }
    }

    /// Puts the next entries that are needed into `frame`: about `bytes_max` bytes, but at least one entry if there is one.
    pub(super) fn collect(
        &mut self,
        segment: &Segment,
        shared: &Mutex<Shared>,
        bytes_max: usize,
        frame: &mut Frame,
    ) -> io::Result<Collected> {
        let (mut read, mut bytes) = (0, 0);
        while read < READ_BYTES_MAX && bytes < bytes_max {
            if shared.lock().index.live_bytes(segment.sequence) == bytes as u64 {
                self.moved_bytes += bytes;
                return Ok(Collected { bytes, is_last: true });
            }
            let found = self.read(segment)?;
            let (changes, length) = read_frame(&found, segment.stamp).ok_or_else(|| self.damaged(segment))?;
            let begin = u32::try_from(self.position).map_err(io::Error::other)?;
            let mut is_cut = false;
            for change in changes {
                let Change::Append { group, first_index, entries } = change else { continue };
                let shared = shared.lock();
                let mut run: Vec<&[u8]> = Vec::new();
                let mut run_begin = first_index;
                for (span, index) in entries.into_iter().zip(first_index..) {
                    let location =
                        Location { segment: segment.sequence, offset: begin + span.offset, bytes: span.bytes };
                    if bytes >= bytes_max {
                        is_cut = true;
                        break;
                    }
                    if shared.index.is_at(group, index, location) {
                        if run.is_empty() {
                            run_begin = index;
                        }
                        bytes += span.bytes as usize;
                        run.push(&found[span.offset as usize..(span.offset + span.bytes) as usize]);
                    } else if !run.is_empty() {
                        frame.push_spans(group, run_begin, std::mem::take(&mut run).into_iter());
                    }
                }
                drop(shared);
                if !run.is_empty() {
                    frame.push_spans(group, run_begin, run.into_iter());
                }
            }
            read += length;
            // What was moved out of a frame is not found in it when it is looked at again.
            if !is_cut {
                self.position += length as u64;
            }
        }
        self.moved_bytes += bytes;
        let is_last = shared.lock().index.live_bytes(segment.sequence) == bytes as u64;
        Ok(Collected { bytes, is_last })
    }

    /// The bytes of the next frame.
    fn read(&self, segment: &Segment) -> io::Result<Vec<u8>> {
        let mut header = [0; FRAME_HEADER_BYTES];
        segment.read(self.position, &mut header)?;
        let length = frame_bytes(&header, segment.stamp).ok_or_else(|| self.damaged(segment))?;
        // The length is not to be trusted before the checksum is known to be right.
        if self.position + length as u64 > segment.file.length()? {
            return Err(self.damaged(segment));
        }
        let mut bytes = vec![0; length];
        segment.read(self.position, &mut bytes)?;
        Ok(bytes)
    }

    fn damaged(&self, segment: &Segment) -> io::Error {
        let message = format!("{}: the frame at byte {} is damaged", segment.path.display(), self.position);
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}
