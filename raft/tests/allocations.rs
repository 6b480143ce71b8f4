//! The guard for copies: a batch is encoded once, and those bytes are the entry in cache, log and apply.

#![allow(unsafe_code, reason = "an allocator that counts can be had no other way")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use common::{lead, put};
use everlog_raft::{GroupReplica, Node, NodeOptions};
use everlog_storage::GroupId;
use everlog_storage::twin::{CrashLog, CrashState};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as asked by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as asked by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[tokio::test]
async fn a_batch_is_encoded_once() {
    const PROPOSALS: usize = 20;
    const BYTES: usize = 1 << 20;
    let node = Node::new(NodeOptions::default(), Arc::new(CrashLog::new(1)), Arc::new(CrashState::new(1)));
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.expect("a new group");
    let mut lead = lead(&group).await;
    lead.write(put("key", "warm")).await;
    let value = Bytes::from(vec![7; BYTES]);
    let before = ALLOCATED.load(Ordering::Relaxed);
    for _ in 0..PROPOSALS {
        lead.write(put("key", value.clone())).await;
    }
    let allocated = (ALLOCATED.load(Ordering::Relaxed) - before) as f64 / (PROPOSALS * BYTES) as f64;
    // The entry's bytes, and a little for what goes with them. Neither log nor rows of the twins copy anything.
    assert!((1.0..1.1).contains(&allocated), "a proposal allocates {allocated:.2} times its batch");
    node.shutdown().await.expect("stopped");
}
