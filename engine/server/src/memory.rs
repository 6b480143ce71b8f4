//! Gives back to the system what the allocator keeps for later.
//!
//! After a burst most of the memory that it took is free, but still the process's: the allocator returns it when it is next asked
//! for some, and an idle node does not ask. So it is told to from time to time.

use crate::limits;

/// Entries for which a table always keeps room.
const TABLE_ENTRIES_MIN: usize = 1024;

/// How many entries a table with `entries` is to keep room for, if it has room for so many more that giving it back is worth it.
pub(crate) fn shrunk_capacity(entries: usize, capacity: usize) -> Option<usize> {
    let wanted = (2 * entries).max(TABLE_ENTRIES_MIN);
    (capacity > 4 * wanted).then_some(wanted)
}

/// Returns free memory to the system every [`limits::MEMORY_COLLECT_INTERVAL`], for ever.
pub async fn give_back() {
    let mut interval = tokio::time::interval(limits::MEMORY_COLLECT_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        collect();
    }
}

/// The heap of this thread, and what all threads have let go of.
#[allow(unsafe_code, reason = "the allocator has no safe interface for this")]
fn collect() {
    // SAFETY: takes no pointers, and may be called at any time from any thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
