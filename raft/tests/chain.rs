//! The chain of entries: whatever is refused or skipped on the way, the rows are those of a chain without a gap.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use common::{lead, leads, put};
use everlog_raft::{
    AppliedChain, ChainPosition, EntryStamp, Group, GroupReplica, Hlc, LeadEpoch, Node, NodeOptions, ProposalOutcome,
    ProposeError,
};
use everlog_random::Random;
use everlog_storage::GroupId;
use everlog_storage::state::Direction;
use everlog_storage::twin::{CrashLog, CrashState};

const GROUP: GroupId = GroupId(1);

fn node(seed: u64) -> (Node, Arc<CrashLog>, Arc<CrashState>) {
    let (log, state) = (Arc::new(CrashLog::new(seed)), Arc::new(CrashState::new(seed)));
    (Node::new(NodeOptions::default(), log.clone(), state.clone()), log, state)
}

/// A proposal that sets the row that is named after its position.
fn propose(group: &Group, chain: ChainPosition) -> ProposalOutcome {
    group.propose(EntryStamp { chain, hlc: Hlc(chain.sequence) }, put(&format!("k{chain}"), "x")).unwrap()
}

#[tokio::test]
async fn a_proposal_behind_one_that_is_missing_is_skipped_and_told_so() {
    let (node, ..) = node(1);
    let group = node.create_group(GroupReplica::founding(GROUP)).await.unwrap();
    let term = leads(&group).await;
    assert_eq!(group.applied_chain(), AppliedChain::default());
    let opening = LeadEpoch { term, opening: 0 }.start();
    propose(&group, opening).await.unwrap().unwrap();
    let (first, second) = (opening.next(), opening.next().next());

    let before = group.applied_index();
    assert_eq!(propose(&group, second).await.unwrap(), Err(ProposeError::Skipped(GROUP)));
    assert_eq!(group.applied_index(), before + 1, "the position moves on");
    assert_eq!(group.applied_chain().position, opening, "the chain does not");
    assert_eq!(group.get(format!("k{second}").as_bytes()).unwrap(), None);
    assert!(group.was_applied(opening) && !group.was_applied(first) && !group.was_applied(second));

    let reopened = opening.epoch.reopened().start();
    propose(&group, reopened).await.unwrap().unwrap();
    assert_eq!(propose(&group, first).await.unwrap(), Err(ProposeError::Skipped(GROUP)), "its epoch is over");
    assert!(group.was_applied(opening) && !group.was_applied(first) && group.was_applied(reopened));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_chain_survives_a_restart() {
    let (node, mut log, mut state) = node(1);
    let group = node.create_group(GroupReplica::founding(GROUP)).await.unwrap();
    let mut first = lead(&group).await;
    for i in 0..5 {
        first.write(put("key", vec![i])).await;
    }
    node.flush().await.unwrap();
    for i in 5..9 {
        first.write(put("key", vec![i])).await;
    }
    let last = group.applied_chain();
    assert_eq!(last.position.sequence, 8);
    // Half of it is in the position that was flushed, the rest is applied again from the log.
    for crash in 0..20 {
        (state, log) = (Arc::new(state.crash()), Arc::new(log.crash()));
        let node = Node::new(NodeOptions::default(), log.clone(), state.clone());
        let group = node.create_group(GroupReplica::founding(GROUP)).await.unwrap();
        let mut next = lead(&group).await;
        assert!(next.next.epoch > last.position.epoch);
        let end = group.applied_chain();
        if crash == 0 {
            assert_eq!(end, last);
        }
        next.write(put("key", "again")).await;
        assert_eq!(group.applied_chain().position, ChainPosition { sequence: 0, ..next.next });
        assert!(group.applied_chain().hlc > end.hlc);
        assert_eq!(group.was_applied(last.position), crash < 16, "crash {crash}");
        assert!(!group.was_applied(last.position.next()));
        node.halt().await;
    }
}

/// A leader that proposes ahead of what is applied, while Raft refuses any of its proposals (by a term that is not its own, as it
/// refuses them by a lease that has run out): whatever it refuses, the rows of each epoch are a prefix of what was proposed.
#[tokio::test]
async fn rows_are_always_those_of_a_chain_without_a_gap() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (node, ..) = node(seed);
        let group = node.create_group(GroupReplica::founding(GROUP)).await.unwrap();
        let term = leads(&group).await;
        let refused_in_ten = random.below_u64(6);
        // What each epoch proposed, and what became of it.
        let mut outcomes: Vec<(ChainPosition, ProposalOutcome)> = Vec::new();
        let mut epoch = LeadEpoch { term, opening: 0 };
        for _ in 0..1 + random.below_u64(4) {
            let mut next = epoch.start();
            for _ in 0..random.below_u64(12) {
                if random.below_u64(10) < refused_in_ten {
                    let mut refused = next;
                    refused.epoch.term += 1;
                    assert_eq!(propose(&group, refused).await.unwrap(), Err(ProposeError::NotLeader(GROUP)));
                } else {
                    outcomes.push((next, propose(&group, next)));
                }
                // It does not know yet what became of it.
                next = next.next();
                if random.below_u64(4) == 0 {
                    tokio::task::yield_now().await;
                }
            }
            epoch = epoch.reopened();
        }
        let mut applied: BTreeMap<LeadEpoch, u64> = BTreeMap::new();
        for (position, outcome) in outcomes {
            let key = format!("k{position}");
            let row = outcome.await.unwrap();
            match &row {
                Ok(_) => {
                    let count = applied.entry(position.epoch).or_default();
                    assert_eq!(position.sequence, *count, "seed {seed}: a gap in front of {position}");
                    *count += 1;
                }
                Err(error) => assert_eq!(*error, ProposeError::Skipped(GROUP), "seed {seed}"),
            }
            assert_eq!(group.get(key.as_bytes()).unwrap().is_some(), row.is_ok(), "seed {seed}: {position}");
            assert_eq!(group.was_applied(position), row.is_ok(), "seed {seed}: {position}");
        }
        let rows = group.scan(&b"k"[..]..&b"l"[..], Direction::Ascending, usize::MAX).unwrap();
        let mut expected: Vec<Bytes> = applied
            .iter()
            .flat_map(|(epoch, count)| (0..*count).map(|sequence| ChainPosition { epoch: *epoch, sequence }))
            .map(|position| Bytes::from(format!("k{position}")))
            .collect();
        expected.sort();
        assert!(rows.iter().map(|(key, _)| key).eq(&expected), "seed {seed}");
        node.shutdown().await.unwrap();
    }
}
