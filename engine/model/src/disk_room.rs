//! Whether the disk has room for new work.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What was last seen of the disk. While it is short of room, clients may begin nothing new; work in progress goes on, and what ends or
/// deletes something is taken.
#[derive(Debug, Default)]
pub struct DiskRoom {
    is_short: AtomicBool,
    free_bytes: AtomicU64,
}

impl DiskRoom {
    /// Takes note of `free_bytes`, and of whether a write `is_held` up for space or a descriptor right now. Below `mark_bytes` the disk is
    /// short of room, and stays so until there is a quarter more than that: what makes room comes in pieces. Returns whether that has
    /// changed.
    pub fn note(&self, free_bytes: u64, mark_bytes: u64, is_held: bool) -> bool {
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        let was_short = self.is_short.load(Ordering::Relaxed);
        let needed = if was_short { mark_bytes.saturating_add(mark_bytes / 4) } else { mark_bytes };
        let is_short = is_held || free_bytes < needed;
        self.is_short.store(is_short, Ordering::Relaxed);
        was_short != is_short
    }

    /// The bytes that are left, if these are too few for new work.
    pub fn shortage(&self) -> Option<u64> {
        self.is_short.load(Ordering::Relaxed).then(|| self.free_bytes.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_ends_when_there_is_a_quarter_more() {
        let room = DiskRoom::default();
        assert_eq!(room.shortage(), None);
        for (free, is_held, changed, shortage) in [
            (100, false, false, None),
            (99, false, true, Some(99)),
            (124, false, false, Some(124)),
            (125, false, true, None),
            (100, false, false, None),
            (1000, true, true, Some(1000)),
            (1000, false, true, None),
        ] {
            assert_eq!((room.note(free, 100, is_held), room.shortage()), (changed, shortage), "{free}");
        }
    }
}
