//! Gives back to the system what the allocator keeps for later.
//!
//! After a burst most of the memory that it took is free, but still the process's: the allocator returns it when it is next asked
//! for some, and an idle node does not ask. So it is told to from time to time.

use std::sync::Arc;

use everlog_model::limits;
use everlog_storage::EngineMemory;
use everlog_storage::rocks_state::RocksState;

/// Runs for ever: returns free memory to the system, drops the caches of an idle node, and reports what the rows use.
pub async fn give_back(state: Arc<RocksState>) {
    let mut collecting = tokio::time::interval(limits::MEMORY_COLLECT_INTERVAL);
    let mut resting = tokio::time::interval(limits::BLOCK_CACHE_REST_INTERVAL);
    for interval in [&mut collecting, &mut resting] {
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            _ = collecting.tick() => {
                collect();
                report(&state.memory());
            }
            _ = resting.tick() => {
                let state = Arc::clone(&state);
                // A panic in there is logged by its thread.
                let _ = tokio::task::spawn_blocking(move || state.rest()).await;
            }
        }
    }
}

fn report(memory: &EngineMemory) {
    let parts =
        [("memtables", memory.memtables), ("block_cache", memory.block_cache), ("table_readers", memory.table_readers)];
    for (part, bytes) in parts {
        metrics::gauge!("everlog_state_memory_bytes", "part" => part).set(bytes as f64);
    }
}

/// The heap of this thread, and what all threads have let go of.
#[allow(unsafe_code, reason = "the allocator has no safe interface for this")]
fn collect() {
    // SAFETY: takes no pointers, and may be called at any time from any thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
