//! What is written to a segment, in whole blocks.

use std::io;

use super::disk::DiskFile;

/// What the system caches and writes at once, bytes. No disk has larger blocks.
pub(super) const PAGE_BYTES: usize = 4096;
/// How far ahead of what is written a new file is filled with zeros, bytes: little enough to go along with a write.
pub(super) const FILL_BYTES: usize = 64 << 10;
/// Frames up to this size, in bytes, are worth it: a larger one takes more to be written twice than its file's new length does.
const FILL_FRAME_BYTES_MAX: usize = 4 << 10;
/// Memory of a write that is kept for the next one, bytes: a large one is rare.
const KEPT_BYTES: usize = 256 << 10;

static ZEROS: Zeros = Zeros([0; FILL_BYTES]);

#[repr(align(4096))]
struct Zeros([u8; FILL_BYTES]);

/// Where a file is written on: behind its last frame.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Where the next frame goes.
    pub(super) position: u64,
    /// The file's length. It is filled up to here.
    pub(super) length: u64,
    /// The block that the next frame begins in, as far as it is written.
    block: Blocks,
}

impl End {
    /// The end of a file of `length` bytes, whose frames end at `position`. Its blocks up to there are `block_bytes` each, and the last of
    /// them begins with `block`.
    pub(super) fn of(position: u64, length: u64, block: &[u8]) -> End {
        let mut end = End { position, length, block: Blocks::default() };
        end.block.extend(block);
        end
    }

    /// Writes `bytes`, which are durable only after a sync. If there is an error the same may be tried again. A file that grows is made a
    /// little longer than it need be.
    pub(super) fn write(&mut self, file: &dyn DiskFile, bytes: &[u8]) -> io::Result<()> {
        let block_bytes = file.block_bytes();
        let before = self.block.bytes().len();
        let begin = self.position - before as u64;
        self.block.extend(bytes);
        let written = self.block.bytes().len();
        self.block.pad(block_bytes);
        let end = begin + self.block.bytes().len() as u64;
        let fill = if end > self.length && bytes.len() <= FILL_FRAME_BYTES_MAX { FILL_BYTES } else { 0 };
        let result = file.write_at(self.block.bytes(), begin);
        let result = result.and_then(|()| if fill > 0 { file.write_at(&ZEROS.0, end) } else { Ok(()) });
        if result.is_err() {
            self.block.keep(0, before);
            return result;
        }
        self.block.keep(written - written % block_bytes, written);
        self.position += bytes.len() as u64;
        self.length = self.length.max(end + fill as u64);
        Ok(())
    }
}

/// Bytes that begin at a multiple of [`PAGE_BYTES`] in memory: a disk takes no others when the system's cache is left out.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Has room for a page in front of the bytes.
    memory: Vec<u8>,
    begin: usize,
    length: usize,
}

impl Blocks {
    /// Whether `bytes` lie in memory as these do.
    pub(super) fn are_aligned(bytes: &[u8]) -> bool {
        bytes.as_ptr().align_offset(PAGE_BYTES) == 0
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.length]
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.grow(bytes.len()).copy_from_slice(bytes);
    }

    /// Adds zeros up to a multiple of `block_bytes`.
    pub(super) fn pad(&mut self, block_bytes: usize) {
        self.grow(self.length.next_multiple_of(block_bytes) - self.length).fill(0);
    }

    /// Keeps only some of the bytes. They are fewer than a block, or nothing goes in front of them.
    fn keep(&mut self, from: usize, to: usize) {
        self.memory.copy_within(self.begin + from..self.begin + to, self.begin);
        self.length = to - from;
        if self.memory.len() > KEPT_BYTES + PAGE_BYTES {
            self.replace(self.length);
        }
    }

    /// Adds bytes of any content.
    fn grow(&mut self, bytes: usize) -> &mut [u8] {
        let (before, after) = (self.length, self.length + bytes);
        if self.begin + after > self.memory.len() {
            self.replace(after.next_power_of_two());
        }
        self.length = after;
        &mut self.memory[self.begin + before..self.begin + after]
    }

    fn replace(&mut self, bytes: usize) {
        let memory = vec![0; bytes + PAGE_BYTES];
        let begin = memory.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        let length = self.length;
        let old = std::mem::replace(self, Blocks { memory, begin, length });
        self.memory[begin..begin + length].copy_from_slice(old.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_and_are_aligned_as_they_come_and_go() {
        let mut random = everlog_random::Random::new(1);
        let (mut blocks, mut expected) = (Blocks::default(), Vec::new());
        for step in 0..2000_usize {
            let length = [0, 7, 512, 5000, 300_000][random.below(5)];
            let added: Vec<u8> = (0..length).map(|at| (step + at) as u8).collect();
            blocks.extend(&added);
            expected.extend(added);
            blocks.pad(512);
            expected.resize(expected.len().next_multiple_of(512), 0);
            assert!(expected.is_empty() || Blocks::are_aligned(blocks.bytes()));
            assert!(blocks.bytes() == expected, "step {step}");
            let from = expected.len() - expected.len().min(random.below(600));
            blocks.keep(from, expected.len());
            expected.drain(..from);
            assert!(blocks.bytes() == expected, "step {step}");
            assert!(blocks.memory.len() <= KEPT_BYTES + PAGE_BYTES);
        }
    }
}
