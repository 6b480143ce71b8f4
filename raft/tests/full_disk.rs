//! Rows on a disk that is full for a while: they wait for room, and nothing is lost.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{lead, put};
use everlog_raft::{GroupReplica, Node, NodeOptions};
use everlog_storage::{GroupId, LogOptions, RocksState, SegmentLog, StateOptions};
use futures::FutureExt;
use tokio::time::timeout;

/// RocksDB looks for room every five seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file system in memory, while it is mounted.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    /// None without the right to mount.
    fn new(path: &'a Path) -> Option<Mounted<'a>> {
        std::fs::create_dir(path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64M", "tmpfs"]).arg(path).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Mounted(path))
    }

    /// Takes all that is free.
    fn fill(&self) {
        let bytes = vec![0; 4096];
        let mut file = std::fs::File::create(self.0.join("ballast")).unwrap();
        while std::io::Write::write_all(&mut file, &bytes).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Also if something is still open in it.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

async fn start(directory: &Path) -> Node {
    let log = SegmentLog::open(&directory.join("log"), LogOptions::default()).unwrap();
    let options = StateOptions { memtable_bytes: 256 << 10, memtables_max: 2, ..StateOptions::default() };
    let state = RocksState::open(&directory.join("small/state"), options).unwrap();
    Node::new(NodeOptions::default(), Arc::new(log), Arc::new(state))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_wait_for_room_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let small = directory.path().join("small");
    let Some(mounted) = Mounted::new(&small) else {
        eprintln!("not run: a file system cannot be mounted here");
        return;
    };
    let node = start(directory.path()).await;
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut leading = lead(&group).await;
    leading.write(put("first", "row")).await;
    mounted.fill();
    assert!(timeout(Duration::from_secs(1), node.flush()).await.is_err(), "it cannot be flushed");
    // More than fits into memory before something must be written.
    let outcomes: Vec<_> =
        (0..40_u8).map(|i| leading.propose(put(&format!("key {i}"), vec![i; 64 << 10])).unwrap()).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.fatal().now_or_never().map(|error| error.to_string()), None);
    mounted.make_room();
    for outcome in outcomes {
        timeout(PATIENCE, outcome).await.unwrap().unwrap().unwrap();
    }
    timeout(PATIENCE, node.flush()).await.unwrap().unwrap();
    // As if it were killed: what was flushed must be there, and what was not is in the log.
    drop(leading);
    drop(group);
    node.halt().await;
    drop(node);

    let node = start(directory.path()).await;
    let group = node.open_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    drop(lead(&group).await);
    assert_eq!(group.get(b"first").unwrap(), Some(Bytes::from_static(b"row")));
    for i in 0..40_u8 {
        assert_eq!(group.get(format!("key {i}").as_bytes()).unwrap().unwrap(), vec![i; 64 << 10]);
    }
    node.shutdown().await.unwrap();
}
