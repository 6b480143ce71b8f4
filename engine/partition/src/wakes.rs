//! When which run is to be looked at: the near future in memory, the rest in rows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use everlog_kernel::{RunId, Time};
use everlog_model::{EntityRef, limits};
use everlog_storage::keys::WakeKey;

use super::load::Rows;
use crate::memory;

/// A run to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wake {
    pub(crate) time: Time,
    pub(crate) entity: EntityRef,
    pub(crate) run_id: RunId,
}

/// The wakes in memory. A wake may be there twice, or for nothing: whoever is woken looks for itself.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    heap: BinaryHeap<Reverse<Wake>>,
    /// Wake rows due up to here are in memory, or being read.
    pub(crate) horizon: Time,
    /// Whether a page of them is being read.
    pub(crate) reading: bool,
}

impl Wakes {
    /// Adds a wake.
    pub(crate) fn push(&mut self, wake: Wake) {
        self.heap.push(Reverse(wake));
    }

    /// When the first one is due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse(wake)| wake.time)
    }

    /// Takes one that is due.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<Wake> {
        if self.next()? > now {
            return None;
        }
        let due = self.heap.pop().map(|Reverse(wake)| wake);
        if let Some(wakes) = memory::shrunk_capacity(self.heap.len(), self.heap.capacity()) {
            self.heap.shrink_to(wakes);
        }
        due
    }
}

/// A page of wake rows.
pub(crate) struct WakePage {
    pub(crate) wakes: Vec<Wake>,
    /// Where the next page starts; `None` when every row up to the horizon was read.
    pub(crate) next: Option<bytes::Bytes>,
    /// Rows due up to this time are read by this page and its successors.
    pub(crate) horizon: Time,
}

/// Reads wake rows from `start` (or the first one) up to `horizon`. Blocks.
pub(crate) fn read_page(group: &impl Rows, start: Option<bytes::Bytes>, horizon: Time) -> Result<WakePage, String> {
    let (rows, next) = group.page(WakeKey::until(horizon.0), start, limits::WAKE_PAGE_ROWS)?;
    let wakes = rows
        .iter()
        .map(|(key, _)| {
            let key = WakeKey::decode(key).map_err(|error| error.to_string())?;
            let entity = EntityRef::decode(key.place.kind().into(), key.namespace, key.id)?;
            Ok(Wake { time: Time(key.fire_time_ns), entity, run_id: RunId(key.run_id) })
        })
        .collect::<Result<_, String>>()?;
    Ok(WakePage { wakes, next, horizon })
}
