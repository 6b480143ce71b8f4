//! Who still reads a group's log, and from where: a purge leaves that.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The pins of one group. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct LogPins(Arc<Mutex<BTreeMap<u64, usize>>>);

impl LogPins {
    /// The first entry that is pinned; `u64::MAX` if none is.
    pub(crate) fn first(&self) -> u64 {
        self.0.lock().first_key_value().map_or(u64::MAX, |(index, _)| *index)
    }

    pub(crate) fn pin(&self, from: u64) -> LogPin {
        *self.0.lock().entry(from).or_default() += 1;
        LogPin { pins: self.clone(), from }
    }
}

/// Keeps the entries of a group's log from an index on, as long as it lives. What is pinned counts against no bound: whoever pins sees to it
/// that it ends.
#[must_use = "entries are kept only while this lives"]
pub struct LogPin {
    pins: LogPins,
    from: u64,
}

impl Drop for LogPin {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock();
        if let Some(count) = pins.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_pin_counts_while_it_lives() {
        let pins = LogPins::default();
        assert_eq!(pins.first(), u64::MAX);
        let (seven, five, again) = (pins.pin(7), pins.pin(5), pins.pin(5));
        drop(five);
        assert_eq!(pins.first(), 5);
        drop(again);
        assert_eq!(pins.first(), 7);
        drop(seven);
        assert_eq!(pins.first(), u64::MAX);
    }
}
