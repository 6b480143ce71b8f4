//! Groups on the production engines: create, propose, restart, fence, flush and purge.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{lead, leads, put};
use everlog_raft::{
    EntryStamp, GroupReplica, Hlc, LeadEpoch, Leadership, Node, NodeOptions, ProposeError, ReadConsistency, StopReason,
};
use everlog_random::Random;
use everlog_storage::state::Direction;
use everlog_storage::{GroupId, LogOptions, RocksState, SegmentLog, StateOptions};

fn node(dir: &Path, options: NodeOptions) -> Node {
    let log = SegmentLog::open(&dir.join("log"), LogOptions::default()).unwrap();
    let state = RocksState::open(&dir.join("state"), StateOptions::default()).unwrap();
    Node::new(options, Arc::new(log), Arc::new(state))
}

/// Purges as soon as anything can be.
fn eager() -> NodeOptions {
    NodeOptions { log_tail_bytes: 0, log_tail_bytes_min: 0, ..NodeOptions::default() }
}

#[tokio::test]
async fn a_new_group_elects_itself_and_applies() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), NodeOptions::default());
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;

    let index = lead.write(put("a", "1")).await;
    assert_eq!(group.applied_index(), index);
    assert_eq!(group.get(b"a").unwrap(), Some(Bytes::from_static(b"1")));
    let rows = group.scan(&b""[..]..&b"z"[..], Direction::Ascending, 10).unwrap();
    assert_eq!(rows, [(Bytes::from_static(b"a"), Bytes::from_static(b"1"))]);
    for consistency in [ReadConsistency::Linearizable, ReadConsistency::Lease, ReadConsistency::Stale] {
        group.read_barrier(consistency).await.unwrap();
    }
    node.shutdown().await.unwrap();
    assert_eq!(*group.leadership().borrow(), Leadership::Stopped { reason: StopReason::Shutdown });
    assert!(matches!(lead.propose(put("b", "1")), Err(ProposeError::Stopped(GroupId(1)))));
    assert!(group.read_barrier(ReadConsistency::Lease).await.is_err());
}

#[tokio::test]
async fn pipelined_proposals_resolve_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), NodeOptions::default());
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    let mut last = 0;
    for round in 0..50 {
        let mut outcomes = Vec::new();
        for i in 0..4 {
            outcomes.push(lead.propose(put("key", format!("{round}.{i}"))).unwrap());
        }
        for outcome in outcomes {
            let index = outcome.await.unwrap().unwrap();
            assert!(index > last);
            last = index;
        }
        assert_eq!(group.get(b"key").unwrap(), Some(Bytes::from(format!("{round}.3"))));
    }
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stale_term_is_refused_and_never_applied() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), NodeOptions::default());
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    let term = lead.next.epoch.term;
    for stale in [0, term - 1, term + 1] {
        let chain = LeadEpoch { term: stale, opening: 0 }.start();
        let stamp = EntryStamp { chain, hlc: Hlc(0) };
        let outcome = group.propose(stamp, put("stale", "x")).unwrap().await.unwrap();
        assert_eq!(outcome, Err(ProposeError::NotLeader(GroupId(1))));
    }
    let applied = lead.write(put("fresh", "x")).await;
    node.shutdown().await.unwrap();
    drop((node, group, lead));

    let node = self::node(dir.path(), NodeOptions::default());
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let next_term = leads(&group).await;
    assert!(next_term > term, "a restart is a new term");
    assert_eq!(group.applied_index(), applied + 1, "nothing but the new leader's blank entry was added");
    assert_eq!(group.get(b"stale").unwrap(), None);
    assert_eq!(group.get(b"fresh").unwrap(), Some(Bytes::from_static(b"x")));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_restart_replays_and_serves_many_groups() {
    let dir = tempfile::tempdir().unwrap();
    for run in 0..4_u64 {
        let node = node(dir.path(), eager());
        for id in 0..5 {
            let group = node.create_group(GroupReplica::founding(GroupId(id))).await.unwrap();
            let mut lead = lead(&group).await;
            for before in 0..run {
                let key = format!("run{before}");
                assert_eq!(group.get(key.as_bytes()).unwrap(), Some(Bytes::from(format!("{id}"))));
            }
            lead.write(put(&format!("run{run}"), format!("{id}"))).await;
            if run % 2 == 0 {
                node.flush().await.unwrap();
                assert_eq!(group.purged_index(), group.durable_index());
            }
        }
        if run < 2 {
            node.shutdown().await.unwrap();
        } else {
            node.halt().await;
        }
    }
}

#[tokio::test]
async fn the_log_is_purged_behind_a_flush_and_only_there() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), eager());
    let group = node.create_group(GroupReplica::founding(GroupId(3))).await.unwrap();
    let mut lead = lead(&group).await;
    for i in 0..20 {
        let index = lead.write(put("key", format!("{i}"))).await;
        assert!(group.purged_index().unwrap_or(0) < index);
        if i % 5 == 4 {
            node.flush().await.unwrap();
            assert_eq!(group.durable_index(), Some(index));
            assert_eq!(group.purged_index(), Some(index));
        }
    }
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_tail_of_the_log_is_bounded_in_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = NodeOptions { log_tail_bytes: 200_000, log_tail_bytes_min: 30_000, ..NodeOptions::default() };
    let node = node(dir.path(), options);
    let mut random = Random::new(1);
    let mut kept = Vec::new();
    let mut groups = Vec::new();
    // The first group is small enough to keep everything; the others share what it leaves.
    for (id, entries, bytes) in [(1, 100, 100), (2, 100, 5_000), (3, 400, 1_000)] {
        let group = node.create_group(GroupReplica::founding(GroupId(id))).await.unwrap();
        let mut lead = lead(&group).await;
        for _ in 0..entries {
            lead.write(put("key", random.bytes(bytes))).await;
        }
        assert_eq!(group.purged_index(), None, "nothing is durable yet");
        groups.push(group);
    }
    node.flush().await.unwrap();
    for group in &groups {
        assert!(group.purged_index() <= group.durable_index());
        kept.push(group.applied_index() - group.purged_index().unwrap_or(0));
    }
    assert_eq!(groups[0].purged_index(), None);
    assert!((15..=20).contains(&kept[1]) && (70..=100).contains(&kept[2]), "{kept:?}");

    let mut lead = lead(&groups[1]).await;
    let pin = groups[1].pin_log(groups[1].applied_index());
    for _ in 0..100 {
        lead.write(put("key", random.bytes(5_000))).await;
    }
    node.flush().await.unwrap();
    assert!(groups[1].applied_index() - groups[1].purged_index().unwrap() > 100, "what is pinned stays");
    drop(pin);
    node.flush().await.unwrap();
    assert!(groups[1].applied_index() - groups[1].purged_index().unwrap() < 25);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn enough_applied_bytes_cause_a_flush() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), NodeOptions { flush_bytes: 100_000, ..eager() });
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    // Never ends unless something flushes and purges.
    while group.purged_index().unwrap_or(0) < 50 {
        lead.write(put("key", vec![7; 10_000])).await;
    }
    assert!(group.purged_index() <= group.durable_index());
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_large_log_is_replayed_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let node = node(path, NodeOptions { entry_cache_bytes_max: 0, ..NodeOptions::default() });
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    let mut outcomes = Vec::new();
    for i in 0..3_000 {
        outcomes.push(lead.propose(put(&format!("key{i}"), format!("{i}"))).unwrap());
    }
    for outcome in outcomes {
        outcome.await.unwrap().unwrap();
    }
    node.halt().await;
    drop((node, group, lead));

    // A lost state directory with a log that was never purged: everything comes back from the log.
    std::fs::remove_dir_all(path.join("state")).unwrap();
    let node = self::node(path, NodeOptions::default());
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    leads(&group).await;
    for i in 0..3_000 {
        assert_eq!(group.get(format!("key{i}").as_bytes()).unwrap(), Some(Bytes::from(format!("{i}"))));
    }
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn engines_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let node = node(path, eager());
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    lead.write(put("a", "1")).await;
    node.flush().await.unwrap();
    node.shutdown().await.unwrap();
    drop((node, group, lead));

    std::fs::rename(path.join("state"), path.join("kept")).unwrap();
    let node = self::node(path, eager());
    let error = node.create_group(GroupReplica::founding(GroupId(1))).await.err().unwrap().to_string();
    assert!(error.contains("purged up to") && error.contains("no rows"), "{error}");
    node.shutdown().await.unwrap();
    drop(node);

    std::fs::remove_dir_all(path.join("state")).unwrap();
    std::fs::rename(path.join("kept"), path.join("state")).unwrap();
    let node = self::node(path, eager());
    let known = GroupReplica::founding(GroupId(1));
    for (other, error) in [
        (
            GroupReplica { replica: 1 << 32, ..known },
            "group 1: this node has replica 1 of epoch 1, not replica 4294967296 of epoch 1",
        ),
        (
            GroupReplica { group_epoch: 2, ..known },
            "group 1: this node has replica 1 of epoch 1, not replica 1 of epoch 2",
        ),
        (GroupReplica::founding(GroupId(2)), "group 2: it is not on this node"),
    ] {
        assert_eq!(node.open_group(other).await.err().unwrap().to_string(), error);
    }
    for other in [GroupReplica { replica: 2, ..known }, GroupReplica { group_epoch: 0, ..known }] {
        assert!(node.create_group(other).await.is_err());
    }
    assert!(node.create_group(GroupReplica { group_epoch: 2, ..known }).await.is_err());
    let group = node.open_group(known).await.unwrap();
    leads(&group).await;
    node.shutdown().await.unwrap();
    drop((node, group));

    std::fs::remove_dir_all(path.join("log")).unwrap();
    let node = self::node(path, eager());
    let error = node.create_group(GroupReplica::founding(GroupId(1))).await.err().unwrap().to_string();
    assert!(error.contains("the log is missing"), "{error}");
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_refused_where_it_is_proposed() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), NodeOptions { entry_bytes_max: 1_000, ..NodeOptions::default() });
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    let applied = group.applied_index();
    let overhead = put("a", "").encoded_len() + 1;
    let refused = lead.propose(put("a", vec![7; 1_001 - overhead]));
    let too_large = ProposeError::TooLarge { group: GroupId(1), bytes: 1_001, bytes_max: 1_000 };
    assert_eq!(refused.unwrap_err(), too_large);
    assert_eq!(lead.write(put("a", vec![7; 1_000 - overhead])).await, applied + 1);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn only_a_leader_has_a_lease() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), NodeOptions::default());
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    leads(&group).await;
    // Alone, it needs nobody to say so.
    let now = Instant::now();
    assert!(group.lease_valid(now) && group.lease_valid(now + Duration::from_secs(3600)));
    node.shutdown().await.unwrap();
    assert!(!group.lease_valid(now));
}

#[tokio::test]
async fn a_restarted_replica_holds_its_vote_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = || NodeOptions { election_timeout_max: Duration::from_secs(500), ..NodeOptions::default() };
    for is_new in [true, false] {
        let node = node(dir.path(), options());
        let before = Instant::now();
        let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
        assert_eq!(group.may_grant_vote(before, false), is_new);
        assert!(group.may_grant_vote(before, true));
        assert!(group.may_grant_vote(Instant::now() + Duration::from_secs(500), false));
        leads(&group).await;
        node.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_applied_never_reaches_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), NodeOptions::default());
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    let applied = group.applied_index();
    for key in ["", "\0"] {
        assert!(matches!(lead.propose(put(key, "x")), Err(ProposeError::Invalid(GroupId(1), _))));
    }
    let index = lead.write(put("a", "x")).await;
    assert_eq!(index, applied + 1);
    node.shutdown().await.unwrap();
}
