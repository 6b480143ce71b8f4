//! One replica under one seed: entries of its group, rows of leaders that have got as far as they have, and crashes, in any order.

use everlog_random::{Random, seeds};
use everlog_storage::GroupId;
use everlog_storage::log::{LogEngine, LogRecord};
use everlog_storage::state::{RowBatch, StateEngine};
use everlog_storage::twin::{CrashLog, CrashState};

use super::tests::{position, recovered, vote};
use super::*;
use crate::encoding;
use crate::types::{Entry, GroupReplica, Payload, log_id};

const GROUP: GroupId = GroupId(1);
const TERM: u64 = 1;
const SEEDS: u64 = 300;
const STEPS: usize = 60;

/// Seeds that find a replica whose rows are replaced whatever its log has.
#[cfg(feature = "sabotage")]
const FIND_OLDER_ROWS: &[u64] = &[0, 1, 2];

/// A replica, and what it has said that it has.
struct Replica {
    random: Random,
    log: Arc<CrashLog>,
    state: Arc<CrashState>,
    /// The last entry of its group.
    end: u64,
    /// The last entry that it has acknowledged, which it must never be without.
    acknowledged: u64,
}

impl Replica {
    /// With the entry that its group began with.
    fn new(seed: u64) -> Replica {
        let (log, state) = (Arc::new(CrashLog::new(seed)), Arc::new(CrashState::new(seed)));
        let replica = encoding::encode_replica(&GroupReplica::founding(GROUP));
        log.submit(LogRecord::Replica { group: GROUP, replica }, None);
        log.submit(LogRecord::Vote { group: GROUP, vote: encoding::encode_vote(&vote(TERM, 5, true)) }, None);
        let mut replica = Replica { random: Random::new(seed), log, state, end: 0, acknowledged: 0 };
        replica.append(0..=0);
        replica.commit(0);
        replica.state.flush().unwrap();
        replica
    }

    fn append(&mut self, range: std::ops::RangeInclusive<u64>) {
        let entry = |index| encoding::encode_entry(Entry { log_id: log_id(TERM, index), payload: Payload::Blank }).1;
        let (first_index, entries) = (*range.start(), range.clone().map(entry).collect::<Vec<_>>());
        if !entries.is_empty() {
            self.log.submit(LogRecord::Append { group: GROUP, first_index, entries }, None);
        }
        self.acknowledged = *range.end();
    }

    /// Applies the entries up to `index`.
    fn commit(&self, index: u64) {
        let mut batch = RowBatch::new();
        batch.put(&b"index"[..], index.to_string());
        self.state.commit(GROUP, &position(TERM, index), &[batch]).unwrap();
    }

    fn applied(&self) -> AppliedPosition {
        encoding::decode_position(&self.state.applied(GROUP).unwrap().unwrap()).unwrap()
    }

    async fn step(&mut self) {
        match self.random.below(8) {
            0..=2 => {
                self.end += self.random.below_u64(4);
                self.append(self.acknowledged + 1..=self.end);
            }
            3 => {
                let ahead = self.acknowledged - self.applied().log_id.index;
                let index = self.acknowledged - self.random.below_u64(ahead + 1);
                self.commit(index);
            }
            4 => self.state.flush().unwrap(),
            5 | 6 => {
                self.end += self.random.below_u64(4);
                // Of a leader that leads no more, say: it has been on its way for as long as it likes.
                let index = self.random.below_u64(self.end + 1);
                self.seeded(index).await;
            }
            _ => {
                self.log = Arc::new(self.log.crash());
                self.state = Arc::new(self.state.crash());
            }
        }
        let log = recovered(Arc::<CrashLog>::clone(&self.log));
        settle(&log, Some(self.applied().log_id)).await.unwrap();
    }

    async fn seeded(&mut self, index: u64) {
        // As before the core of a replica is opened again.
        self.state.flush().unwrap();
        let mut staged = self.state.stage(GROUP, &position(TERM, index)).unwrap();
        staged.add(vec![("index".into(), index.to_string().into())]).unwrap();
        let seeding = Seeding { position: log_id(TERM, index), vote: vote(TERM, 5, true) };
        let log = recovered(Arc::<CrashLog>::clone(&self.log));
        install(&log, Some(self.applied()), &FailureReport::new(), staged, seeding).await.unwrap();
        self.acknowledged = self.acknowledged.max(index);
    }

    /// Everything that it has acknowledged is in its log, or in its rows and behind what the log begins with.
    fn check(&self) -> Result<(), String> {
        let found = self.log.recover(GROUP).unwrap();
        let purged = recovered(Arc::<CrashLog>::clone(&self.log)).purged().map(|purged| purged.index);
        let applied = self.applied().log_id.index;
        let last = found.last_index.or(purged).unwrap_or_default();
        let row = self.state.get(GROUP, b"index").unwrap();
        if last < self.acknowledged {
            return Err(format!("it has acknowledged {} and has no more than {last}", self.acknowledged));
        }
        if purged.is_some_and(|purged| applied < purged) {
            return Err(format!("its log begins behind {purged:?}, and its rows are at {applied}"));
        }
        if row != Some(applied.to_string().into()) {
            return Err(format!("its rows at {applied} are those of {row:?}"));
        }
        Ok(())
    }
}

fn run(seed: u64) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut replica = Replica::new(seed);
        for step in 0..STEPS {
            replica.step().await;
            replica.check().map_err(|wrong| format!("step {step}: {wrong}"))?;
        }
        Ok(())
    })
}

#[test]
fn no_order_of_entries_seeds_and_crashes_loses_what_was_acknowledged() {
    let (_, failed) = seeds::run_all(&[], SEEDS, run);
    assert!(failed.is_empty(), "{failed:?}");
}

#[cfg(feature = "sabotage")]
#[test]
fn rows_that_are_older_than_the_log_are_found() {
    let with_it = |seed| {
        sabotage::put_back(Some(Sabotage::SnapshotOverNewerLog));
        let outcome = run(seed);
        sabotage::put_back(None);
        outcome
    };
    let found = FIND_OLDER_ROWS.iter().find(|seed| with_it(**seed).is_err());
    let found = found.unwrap_or_else(|| panic!("none of {FIND_OLDER_ROWS:?} finds it any more"));
    assert_eq!(run(*found), Ok(()));
}
