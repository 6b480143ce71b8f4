//! A new node that is killed half-way through making its groups finishes at the next start; one that was finished makes none again.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use everlog_meta::{MetaError, Namespaces};
use everlog_model::SlotTable;
use everlog_raft::{EntryStamp, GroupReplica, Hlc, Leadership, NodeOptions};
use everlog_server::node::{Node, NodeError, Options};
use everlog_storage::keys::{MetaKind, meta_row};
use everlog_storage::log::LogEngine;
use everlog_storage::state::{RowBatch, StateEngine};
use everlog_storage::{DataDirectory, GroupId, LogOptions, RocksState, SegmentLog, StateOptions};
use parking_lot::RwLock;

const PARTITIONS: u32 = 3;

/// Does what a first start does, up to a step, and stops there without a flush, as a kill would.
async fn killed_after(path: &Path, step: u32) {
    let directory = DataDirectory::open(path).unwrap();
    if step == 0 {
        return;
    }
    directory.count_start(directory.id(), 1).unwrap();
    if step == 1 {
        return;
    }
    let log = Arc::new(SegmentLog::open(&directory.log_path(), LogOptions::default()).unwrap());
    let state = Arc::new(RocksState::open(&directory.state_path(), StateOptions::default()).unwrap());
    let engines = (Arc::clone(&log) as Arc<dyn LogEngine>, Arc::clone(&state) as Arc<dyn StateEngine>);
    let node = everlog_raft::Node::new(NodeOptions::default(), engines.0, engines.1);
    let mut left = step - 1;
    if left > 1 {
        let meta = node.create_group(GroupReplica::founding(GroupId(0))).await.unwrap();
        left -= 1;
        if left > 1 {
            let meta = Namespaces::open(Arc::new(RwLock::new(meta)), None).await.unwrap();
            let partitions: Vec<_> = (1..=PARTITIONS).map(GroupId).collect();
            meta.slots_or_set(SlotTable::even(&partitions).unwrap(), &[]).await.unwrap();
            for id in 1..left - 1 {
                node.create_group(GroupReplica::founding(GroupId(id))).await.unwrap();
            }
        }
    }
    node.halt().await;
    log.close().unwrap();
}

async fn start(path: &Path) -> Result<Node, NodeError> {
    let options = Options {
        partitions: PARTITIONS,
        cache_bytes_max: 1 << 20,
        tables_open_max: 100,
        ..Options::of_one(path.to_owned())
    };
    // The tasks of the node before may let go of its engines a moment after it has stopped, which a process that ended would not show.
    for _ in 0..STARTS_MAX {
        match Node::start(options.clone()).await {
            Err(NodeError::State(error)) if error.to_string().contains("lock hold by current process") => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            started => return started,
        }
    }
    Node::start(options).await
}

/// Waits until nobody has the rows of a node that has stopped: whoever closes them last writes once more.
async fn let_go(path: &Path) {
    for _ in 0..STARTS_MAX {
        if RocksState::open(&path.join("state"), StateOptions::default()).is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("somebody still has the rows");
}

/// How often a start is tried while the engines are still held.
const STARTS_MAX: u32 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_that_was_cut_off_is_finished() {
    // 0: the directory is there; 1: it knows its node; 2: the engines are; 3: the metadata's group; 4..: the number of partitions,
    // and each of them but the mark that all are there.
    for step in 0..=4 + PARTITIONS {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path();
        killed_after(path, step).await;
        for _ in 0..2 {
            let node = start(path).await.unwrap_or_else(|error| panic!("step {step}: {error}"));
            assert_eq!(node.parts.router.partitions().all().len(), PARTITIONS as usize, "step {step}");
            node.stop().await.unwrap();
            let text = std::fs::read_to_string(path.join("NODE")).unwrap();
            assert!(text.ends_with("bootstrap done\n"), "step {step}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_engines_does_not_found_its_groups_again() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path();
    start(path).await.unwrap().stop().await.unwrap();
    let_go(path).await;
    for engine in ["log", "state"] {
        std::fs::remove_dir_all(path.join(engine)).unwrap();
        std::fs::create_dir(path.join(engine)).unwrap();
    }
    let error = start(path).await.err().unwrap();
    assert_eq!(error.to_string(), "group 0: it is not on this node");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_cannot_be_read_is_told_of_and_no_view_goes_on_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let log = Arc::new(SegmentLog::open(&directory.path().join("log"), LogOptions::default()).unwrap());
    let state = Arc::new(RocksState::open(&directory.path().join("state"), StateOptions::default()).unwrap());
    let node = everlog_raft::Node::new(NodeOptions::default(), Arc::clone(&log) as _, Arc::clone(&state) as _);
    let group = node.create_group(GroupReplica::founding(GroupId(0))).await.unwrap();
    let meta = Namespaces::open(Arc::new(RwLock::new(group.clone())), None).await.unwrap();
    meta.catch_up().await.unwrap();
    let Leadership::Leader { term } = *group.leadership().borrow() else { panic!("this node leads") };
    let applied = group.applied_chain();
    let stamp = EntryStamp { chain: applied.next_in(term), hlc: Hlc(applied.hlc.0 + 1) };
    let mut rows = RowBatch::new();
    rows.put(meta_row(MetaKind::Namespace, &[7; 16]), &b"\xff"[..]);
    group.propose(stamp, rows).unwrap().await.unwrap().unwrap();
    let error = tokio::time::timeout(Duration::from_secs(10), meta.unreadable()).await.unwrap();
    assert!(matches!(error, MetaError::Corrupt(_)), "{error:?}");
    node.shutdown().await.unwrap();
}
