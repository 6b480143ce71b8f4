//! A group whose Raft core died is made anew from disk: nothing that was acknowledged is lost, and no other group is touched.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod common;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use common::{lead, put};
use everlog_raft::{ChainPosition, Group, GroupReplica, Leadership, Node, NodeOptions, ProposeError, StopReason};
use everlog_storage::keys::KeyRange;
use everlog_storage::log::{Completion, LogEngine, LogError, LogRecord, RecoveredGroup};
use everlog_storage::state::{Direction, Row, RowBatch, RowsView, StagedRows, StateEngine, StateError, StateSnapshot};
use everlog_storage::twin::{CrashLog, CrashState};
use everlog_storage::{Follow, GroupId, Wake, Watch};

const NONE: u32 = u32::MAX;

/// Engines that panic once: in the core of a group when it appends, or in its state machine when it applies. The disk may be full for
/// a while.
struct Fragile<E> {
    engine: E,
    victim: AtomicU32,
    /// How many flushes find no room, from now on.
    flushes_without_room: AtomicU32,
}

impl<E> Fragile<E> {
    fn new(engine: E) -> Arc<Fragile<E>> {
        Arc::new(Fragile { engine, victim: AtomicU32::new(NONE), flushes_without_room: AtomicU32::new(0) })
    }

    fn kill(&self, group: GroupId) {
        self.victim.store(group.0, Ordering::SeqCst);
    }

    fn used_by(&self, group: GroupId) {
        if self.victim.compare_exchange(group.0, NONE, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            panic!("the test asked for it");
        }
    }
}

impl LogEngine for Fragile<CrashLog> {
    fn submit(&self, record: LogRecord, completion: Option<Completion>) {
        if let LogRecord::Append { group, .. } = &record {
            self.used_by(*group);
        }
        self.engine.submit(record, completion);
    }

    fn recover(&self, group: GroupId) -> Result<RecoveredGroup, LogError> {
        self.engine.recover(group)
    }

    fn read(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Result<Vec<Bytes>, LogError> {
        self.engine.read(group, range, bytes_max)
    }

    fn entries_bytes(&self, group: GroupId) -> u64 {
        self.engine.entries_bytes(group)
    }

    fn tail_start(&self, group: GroupId, bytes_max: u64) -> Option<u64> {
        self.engine.tail_start(group, bytes_max)
    }

    fn compact(&self) -> Result<(), LogError> {
        self.engine.compact()
    }

    fn close(&self) -> Result<(), LogError> {
        self.engine.close()
    }
}

impl StateEngine for Fragile<CrashState> {
    fn commit(&self, group: GroupId, applied: &[u8], batches: &[RowBatch]) -> Result<(), StateError> {
        self.used_by(group);
        self.engine.commit(group, applied, batches)
    }

    fn applied(&self, group: GroupId) -> Result<Option<Bytes>, StateError> {
        self.engine.applied(group)
    }

    fn get(&self, group: GroupId, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.engine.get(group, key)
    }

    fn may_exist(&self, group: GroupId, key: &[u8]) -> bool {
        self.engine.may_exist(group, key)
    }

    fn scan(
        &self,
        group: GroupId,
        range: Range<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Row>, StateError> {
        self.engine.scan(group, range, direction, limit)
    }

    fn view(&self, group: GroupId, ranges: &[KeyRange]) -> Result<Box<dyn RowsView>, StateError> {
        self.engine.view(group, ranges)
    }

    fn watch(&self, group: GroupId, range: Range<&[u8]>) -> Watch {
        self.engine.watch(group, range)
    }

    fn follow(&self, group: GroupId, range: Range<&[u8]>, wake: Wake) -> Follow {
        self.engine.follow(group, range, wake)
    }

    fn snapshot(&self, group: GroupId) -> Result<Box<dyn StateSnapshot>, StateError> {
        self.engine.snapshot(group)
    }

    fn replace_group(
        &self,
        group: GroupId,
        applied: &[u8],
        rows: &mut dyn Iterator<Item = Row>,
    ) -> Result<(), StateError> {
        self.engine.replace_group(group, applied, rows)
    }

    fn stage(&self, group: GroupId, applied: &[u8]) -> Result<Box<dyn StagedRows>, StateError> {
        self.engine.stage(group, applied)
    }

    fn drop_group(&self, group: GroupId) -> Result<(), StateError> {
        self.engine.drop_group(group)
    }

    fn flush(&self) -> Result<(), StateError> {
        let fails = |left: u32| left.checked_sub(1);
        if self.flushes_without_room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
            return Err(StateError("No space left on device (os error 28)".to_owned()));
        }
        self.engine.flush()
    }
}

async fn died(group: &Group) {
    let died = Leadership::Stopped { reason: StopReason::Died };
    group.leadership().wait_for(|now| *now == died).await.unwrap();
}

#[tokio::test]
async fn a_dead_group_is_opened_again() {
    const VICTIM: GroupId = GroupId(1);
    for killed_in_core in [true, false] {
        let (log, state) = (Fragile::new(CrashLog::new(1)), Fragile::new(CrashState::new(1)));
        let node = Node::new(NodeOptions::default(), log.clone(), state.clone());
        let victim = node.create_group(GroupReplica::founding(VICTIM)).await.unwrap();
        let other = node.create_group(GroupReplica::founding(GroupId(2))).await.unwrap();
        let (mut victim_lead, mut other_lead) = (lead(&victim).await, lead(&other).await);
        for i in 0..10 {
            victim_lead.write(put(&format!("k{i}"), vec![i])).await;
            other_lead.write(put(&format!("k{i}"), vec![i])).await;
        }
        assert_eq!(node.reopen_group(VICTIM).await.unwrap().applied_index(), victim.applied_index(), "it lives");
        victim_lead.write(put("k10", "still the same group")).await;

        if killed_in_core {
            log.kill(VICTIM)
        } else {
            state.kill(VICTIM)
        }
        let lost = victim_lead.propose(put("lost", "x")).unwrap();
        assert_eq!(lost.await.unwrap(), Err(ProposeError::Unknown(VICTIM)));
        died(&victim).await;
        assert!(matches!(victim_lead.propose(put("k", "x")), Err(ProposeError::Stopped(VICTIM))), "and not counted");
        other_lead.write(put("k10", "nothing happened here")).await;

        let term = other_lead.next.epoch.term;
        let reopened = node.reopen_group(VICTIM).await.unwrap();
        let mut new_lead = lead(&reopened).await;
        for i in 0..10 {
            assert_eq!(reopened.get(format!("k{i}").as_bytes()).unwrap(), Some(Bytes::from(vec![i])));
        }
        // What the core lost was in no log; what the state machine did not apply was, and is applied now.
        assert_eq!(reopened.get(b"lost").unwrap().is_some(), !killed_in_core);
        assert_eq!(
            reopened.was_applied(ChainPosition { sequence: victim_lead.next.sequence - 1, ..victim_lead.next }),
            !killed_in_core
        );
        assert!(new_lead.next.epoch > victim_lead.next.epoch);
        new_lead.write(put("again", "x")).await;
        other_lead.write(put("k11", "nor here")).await;
        assert_eq!(*other.leadership().borrow(), Leadership::Leader { term });

        // And it can die once more, after rows were flushed and the log was purged.
        node.flush().await.unwrap();
        state.kill(VICTIM);
        drop(new_lead.propose(put("later", "x")).unwrap().await);
        died(&reopened).await;
        let reopened = node.reopen_group(VICTIM).await.unwrap();
        lead(&reopened).await.write(put("k", "x")).await;
        assert!(reopened.get(b"later").unwrap().is_some() && reopened.get(b"again").unwrap().is_some());
        node.shutdown().await.unwrap();
        assert!(node.reopen_group(VICTIM).await.is_err());
    }
}

#[tokio::test]
async fn a_dead_group_is_opened_again_once_there_is_room() {
    const VICTIM: GroupId = GroupId(1);
    let (log, state) = (Fragile::new(CrashLog::new(1)), Fragile::new(CrashState::new(1)));
    let node = Node::new(NodeOptions::default(), log.clone(), state.clone());
    let victim = node.create_group(GroupReplica::founding(VICTIM)).await.unwrap();
    let mut leading = lead(&victim).await;
    leading.write(put("k", "x")).await;
    state.kill(VICTIM);
    drop(leading.propose(put("later", "x")).unwrap().await);
    died(&victim).await;
    state.flushes_without_room.store(3, Ordering::SeqCst);
    let reopened = node.reopen_group(VICTIM).await.unwrap();
    assert_eq!(state.flushes_without_room.load(Ordering::SeqCst), 0);
    lead(&reopened).await.write(put("k", "y")).await;
    assert!(reopened.get(b"later").unwrap().is_some());
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_creation_that_was_cut_off_is_finished_by_creating_again() {
    let (log, replica) = (Arc::new(CrashLog::new(1)), GroupReplica::founding(GroupId(1)));
    // All that a creation had made durable when the power failed: which replica it is.
    let record = LogRecord::Replica { group: GroupId(1), replica: Bytes::from_static(&[1, 1, 1]) };
    log.submit(record, Some(Box::new(|written| written.unwrap())));
    let node = Node::new(NodeOptions::default(), log, Arc::new(CrashState::new(1)));
    let group = node.create_group(replica).await.unwrap();
    lead(&group).await.write(put("k", "x")).await;
    assert_eq!(node.open_group(replica).await.unwrap().applied_index(), group.applied_index());
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_failed_engine_is_not_a_dead_group() {
    let (log, state) = (Fragile::new(CrashLog::new(1)), Fragile::new(CrashState::new(1)));
    let node = Node::new(NodeOptions::default(), log.clone(), state);
    let group = node.create_group(GroupReplica::founding(GroupId(1))).await.unwrap();
    let mut lead = lead(&group).await;
    log.engine.fail_sync();
    drop(lead.propose(put("k", "x")).unwrap().await);
    let failed = Leadership::Stopped { reason: StopReason::EngineFailed };
    group.leadership().wait_for(|now| *now == failed).await.unwrap();
    assert!(node.reopen_group(GroupId(1)).await.is_err(), "only a new process can tell what is on the disk");
    assert!(node.reopen_group(GroupId(9)).await.is_err(), "it was never opened");
    node.halt().await;
}
