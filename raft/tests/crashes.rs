//! Power failures and failing disks, on the engines' twins: what was acknowledged is there afterwards, and nothing is
//! acknowledged that a crash could take back.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use common::{Lead, lead, put};
use everlog_raft::{Group, GroupReplica, Leadership, Node, NodeOptions, ProposalOutcome, ProposeError, StopReason};
use everlog_random::Random;
use everlog_storage::GroupId;
use everlog_storage::state::{Direction, Row, RowBatch, RowChange};
use everlog_storage::twin::{CrashLog, CrashState};
use tokio::sync::oneshot::error::TryRecvError;

const SEEDS: u64 = 60;
const CRASHES: usize = 6;
const IN_FLIGHT_MAX: usize = 4;

fn key(random: &mut Random) -> Bytes {
    Bytes::from(format!("k{:02}", random.below(30)))
}

fn batch(random: &mut Random) -> RowBatch {
    let changes = 1 + random.below(4);
    let change = |random: &mut Random| match random.below(10) {
        0..7 => RowChange::Put { key: key(random), value: Bytes::from(random.any().to_be_bytes().to_vec()) },
        7..9 => RowChange::Delete { key: key(random) },
        _ => {
            let (one, other) = (key(random), key(random));
            RowChange::DeleteRange { start: one.clone().min(other.clone()), end: one.max(other) }
        }
    };
    RowBatch { changes: (0..changes).map(|_| change(random)).collect() }
}

/// The rows of one group as they must be, and the proposals whose outcome is not known yet, in order.
#[derive(Default)]
struct Model {
    rows: BTreeMap<Bytes, Bytes>,
    pending: VecDeque<RowBatch>,
}

impl Model {
    fn apply_next(&mut self) {
        for change in self.pending.pop_front().expect("a proposal was made").changes {
            match change {
                RowChange::Put { key, value } => drop(self.rows.insert(key, value)),
                RowChange::Delete { key } => drop(self.rows.remove(&key)),
                RowChange::DeleteRange { start, end } => self.rows.retain(|key, _| *key < start || *key >= end),
            }
        }
    }

    /// After a crash: `found` must be the acknowledged rows, changed by some number of the proposals with an unknown outcome,
    /// in the order in which they were made.
    fn settle(&mut self, found: &[Row], context: &str) {
        loop {
            if found.iter().map(|(key, value)| (key, value)).eq(self.rows.iter()) {
                break;
            }
            assert!(!self.pending.is_empty(), "{context}: rows differ: found {found:?}, expected {:?}", self.rows);
            self.apply_next();
        }
        self.pending.clear();
    }
}

/// One group of a running node.
struct Running {
    group: Group,
    lead: Lead,
    outcomes: VecDeque<ProposalOutcome>,
}

fn rows(group: &Group) -> Vec<Row> {
    group.scan(&b"k"[..]..&b"l"[..], Direction::Ascending, usize::MAX).unwrap()
}

fn check_purge(group: &Group, context: &str) {
    assert!(group.purged_index() <= group.durable_index(), "{context}: purged beyond what is durable");
    assert!(group.durable_index() <= Some(group.applied_index()), "{context}: durable before it is applied");
}

#[tokio::test]
async fn what_was_acknowledged_survives_crashes() {
    for seed in 0..SEEDS {
        survive_crashes(seed).await;
    }
}

async fn survive_crashes(seed: u64) {
    let mut random = Random::new(seed);
    let mut log = Arc::new(CrashLog::new(seed));
    let mut state = Arc::new(CrashState::new(seed));
    let mut models: Vec<Model> = (0..3).map(|_| Model::default()).collect();
    for crash in 0..CRASHES {
        let context = format!("seed {seed}, crash {crash}");
        let options = NodeOptions {
            entry_cache_bytes_max: random.below(2_000),
            apply_entries_max: 1 + random.below(4),
            flush_bytes: 200 + random.below_u64(2_000),
            log_tail_bytes: random.below_u64(400),
            log_tail_bytes_min: random.below_u64(100),
            ..NodeOptions::default()
        };
        let node = Node::new(options, log.clone(), state.clone());
        let mut groups = Vec::new();
        for (id, model) in models.iter_mut().enumerate() {
            let group = node
                .create_group(GroupReplica::founding(GroupId(id as u32)))
                .await
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            let lead = lead(&group).await;
            model.settle(&rows(&group), &context);
            groups.push(Running { group, lead, outcomes: VecDeque::new() });
        }
        run(&mut random, &node, &log, &mut groups, &mut models, &context).await;

        // Rows first: a flush that gets between the two must not make rows durable that the log is about to lose.
        let crashed_state = if random.below(2) == 0 { state.crash() } else { state.crash_anywhere() };
        let crashed_log = log.crash();
        node.halt().await;
        for (running, model) in groups.iter_mut().zip(&mut models) {
            check_purge(&running.group, &context);
            let mut lost = false;
            for mut outcome in running.outcomes.drain(..) {
                match outcome.try_recv() {
                    Ok(Ok(_)) => {
                        assert!(!lost, "{context}: acknowledged behind a proposal that was not");
                        model.apply_next();
                    }
                    Ok(Err(ProposeError::Unknown(_))) => lost = true,
                    other => panic!("{context}: a crash leaves outcomes unknown, not {other:?}"),
                }
            }
        }
        (log, state) = (Arc::new(crashed_log), Arc::new(crashed_state));
    }
}

/// Proposes, awaits, flushes and delays syncs at random.
async fn run(
    random: &mut Random,
    node: &Node,
    log: &CrashLog,
    groups: &mut [Running],
    models: &mut [Model],
    context: &str,
) {
    let mut held = false;
    for _ in 0..random.below(120) {
        let at = random.below(groups.len());
        let (running, model) = (&mut groups[at], &mut models[at]);
        match random.below(10) {
            0..5 if running.outcomes.len() < IN_FLIGHT_MAX => {
                let batch = batch(random);
                model.pending.push_back(batch.clone());
                running.outcomes.push_back(running.lead.propose(batch).unwrap());
            }
            5..7 if !held => {
                if let Some(outcome) = running.outcomes.pop_front() {
                    outcome.await.unwrap().unwrap_or_else(|error| panic!("{context}: {error}"));
                    model.apply_next();
                }
                if running.outcomes.is_empty() {
                    assert!(rows(&running.group).iter().map(|(k, v)| (k, v)).eq(model.rows.iter()), "{context}");
                }
            }
            7 => {
                held = !held;
                if held { log.hold_sync() } else { log.release_sync() }
            }
            8 => {
                node.flush().await.unwrap();
                check_purge(&running.group, context);
            }
            _ => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_durable() {
    let log = Arc::new(CrashLog::new(1));
    let node = Node::new(NodeOptions::default(), log.clone(), Arc::new(CrashState::new(1)));
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    let applied = group.applied_index();
    log.hold_sync();
    let mut outcomes = Vec::new();
    for i in 0..4 {
        let waiting = log.unsynced();
        outcomes.push(lead.propose(put("key", vec![i])).unwrap());
        while log.unsynced() == waiting {
            tokio::task::yield_now().await;
        }
    }
    // Everything is on its way to the disk; let whoever would answer too early do so.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    for outcome in &mut outcomes {
        assert_eq!(outcome.try_recv(), Err(TryRecvError::Empty));
    }
    assert_eq!(group.get(b"key").unwrap(), None);
    log.release_sync();
    for (i, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome.await.unwrap(), Ok(applied + 1 + i as u64));
    }
    assert_eq!(group.get(b"key").unwrap(), Some(Bytes::from_static(&[3])));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_failed_fsync_is_fatal() {
    let log = Arc::new(CrashLog::new(1));
    let node = Node::new(NodeOptions::default(), log.clone(), Arc::new(CrashState::new(1)));
    let fatal = node.fatal();
    let (one, other) = (
        node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap(),
        node.create_group(GroupReplica::founding(GroupId(2))).await.unwrap(),
    );
    let (mut one_lead, mut other_lead) = (lead(&one).await, lead(&other).await);
    log.fail_sync();
    let outcome = one_lead.propose(put("key", "1")).unwrap();
    assert_eq!(outcome.await.unwrap(), Err(ProposeError::Unknown(GroupId(1))));
    assert!(!fatal.await.to_string().is_empty());
    one.leadership().wait_for(|now| *now == Leadership::Stopped { reason: StopReason::EngineFailed }).await.unwrap();
    assert!(matches!(one_lead.propose(put("key", "2")), Err(ProposeError::Stopped(_))));
    assert_eq!(one.get(b"key").unwrap(), None);

    // The log is shared, so no other group can go on either.
    let outcome = other_lead.propose(put("key", "1")).unwrap();
    assert_eq!(outcome.await.unwrap(), Err(ProposeError::Unknown(GroupId(2))));
    other.leadership().wait_for(|now| *now == Leadership::Stopped { reason: StopReason::EngineFailed }).await.unwrap();
    node.halt().await;
}

#[tokio::test]
async fn a_failed_flush_is_fatal_and_purges_nothing() {
    let state = Arc::new(CrashState::new(1));
    let options = NodeOptions { log_tail_bytes: 0, log_tail_bytes_min: 0, ..NodeOptions::default() };
    let node = Node::new(options, Arc::new(CrashLog::new(1)), state.clone());
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    lead.write(put("key", "1")).await;
    state.fail_flush();
    assert!(node.flush().await.is_err());
    node.fatal().await;
    assert_eq!((group.durable_index(), group.purged_index()), (None, None));
    node.halt().await;
}
