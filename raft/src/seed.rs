//! A replica that fell behind the log is seeded with rows of the leader's.
//!
//! ```text
//!   openraft asks for a snapshot ──▶ adapter: keeps a view, pins the log, asks the follower's host to seed itself
//!   host: pulls chunk after chunk beside the running replica ──▶ closes its core ──▶ [`install`] ──▶ opens it again ──▶ answers
//! ```
//!
//! A snapshot is never installed in a running core. What is installed, and the log that belongs to it, are two engines that have no
//! common write, so the log says first what is about to happen:
//!
//! ```text
//!   Replica{seeding: position, vote} ─▶ ingest the rows, durable ─▶ Truncate all ─▶ Purge up to the position ─▶ Vote ─▶ Replica
//! ```
//!
//! Whoever finds the first of these records at a start, and rows that are at the position, does what follows the ingest once more. With other
//! rows the log is as it was, too, and the replica is the one that it was before: [`settle`] decides. Either way nothing that was
//! acknowledged is lost.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use everlog_storage::export::{self, Totals};
use everlog_storage::state::{StagedRows, StateError, StateSnapshot};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::failure::FailureReport;
use crate::log_store::GroupLog;
use crate::progress::AppliedPosition;
use crate::sabotage::{self, Sabotage};
use crate::types::{LogId, Vote};

/// What a replica is about to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seeding {
    /// The last entry that the rows hold.
    pub(crate) position: LogId,
    /// The vote of whoever sent them, a leader. Never made up: two committed votes of one term that name different replicas exclude each other.
    pub(crate) vote: Vote,
}

/// Rows that were received in full, and wait for the core of their replica to be closed.
pub(crate) struct ReadySeed {
    pub(crate) staged: Box<dyn StagedRows>,
    pub(crate) seeding: Seeding,
    /// Hears what became of it once the replica is open again.
    pub(crate) done: oneshot::Sender<Result<(), String>>,
}

/// Puts rows in the place of those of a replica whose core is closed and whose log is settled. A replica whose log has the position already
/// stays as it is: it may have acknowledged more.
pub(crate) async fn install(
    log: &GroupLog,
    applied: Option<AppliedPosition>,
    failure: &FailureReport,
    staged: Box<dyn StagedRows>,
    seeding: Seeding,
) -> io::Result<()> {
    let has_more =
        applied.is_some_and(|applied| applied.log_id >= seeding.position) || log.contains(seeding.position).await?;
    if has_more && !sabotage::is(Sabotage::SnapshotOverNewerLog) {
        return Ok(());
    }
    log.begin_seeding(seeding).await?;
    let installed = everlog_storage::blocking::spawn(move || staged.install()).await.map_err(io::Error::other)?;
    match installed {
        Ok(()) => log.end_seeding(seeding).await,
        Err(error) => {
            if error.is_exhausted() {
                log.abandon_seeding().await?;
            } else {
                failure.report(&error);
            }
            Err(io::Error::other(error))
        }
    }
}

/// Finishes what a crash has cut off, with the position of the rows that are there. True if there was anything to do; what was known of the
/// log is then to be read again.
pub(crate) async fn settle(log: &GroupLog, rows_at: Option<LogId>) -> io::Result<bool> {
    let Some(seeding) = log.seeding() else { return Ok(false) };
    if rows_at == Some(seeding.position) {
        log.end_seeding(seeding).await?;
    } else {
        log.abandon_seeding().await?;
    }
    Ok(true)
}

/// The greater of two votes; `own` if neither is.
pub(crate) fn greater_vote(own: Option<Vote>, other: Vote) -> Vote {
    match own {
        Some(own) if other <= own => own,
        _ => other,
    }
}

/// The views that replicas of other nodes are being seeded from. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct SeedSources(Arc<Mutex<Sources>>);

#[derive(Default)]
struct Sources {
    last: u64,
    sources: HashMap<u64, Arc<Mutex<Source>>>,
}

struct Source {
    view: Box<dyn StateSnapshot>,
    /// The last key that was sent.
    after: Option<Bytes>,
    totals: Totals,
}

/// What follows in a seed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A chunk.
    Chunk(Bytes),
    /// There are no more rows; these are all.
    End(Totals),
    /// There is no such seed, or it is not there that it was left.
    Gone,
}

impl SeedSources {
    /// Offers a view to whoever knows its number, as long as what is returned lives.
    pub(crate) fn offer(&self, view: Box<dyn StateSnapshot>) -> Offer {
        let mut sources = self.0.lock();
        sources.last += 1;
        let number = sources.last;
        let source = Source { view, after: None, totals: Totals::default() };
        sources.sources.insert(number, Arc::new(Mutex::new(source)));
        Offer { sources: self.clone(), number }
    }

    /// What follows `after` in seed `number`. Blocks on the disk.
    pub(crate) fn next(&self, number: u64, after: Option<Bytes>) -> Result<Next, StateError> {
        let source = self.0.lock().sources.get(&number).cloned();
        let Some(source) = source else { return Ok(Next::Gone) };
        let mut source = source.lock();
        if source.after != after {
            return Ok(Next::Gone);
        }
        Ok(match export::next_chunk(source.view.as_ref(), after.as_deref())? {
            Some(chunk) => {
                source.totals.add(chunk.totals);
                source.after = Some(chunk.last_key);
                Next::Chunk(chunk.bytes)
            }
            None => Next::End(source.totals),
        })
    }
}

/// A view that is offered.
pub(crate) struct Offer {
    sources: SeedSources,
    pub(crate) number: u64,
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.sources.0.lock().sources.remove(&self.number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod simulation;

#[cfg(test)]
mod tests {
    use everlog_storage::GroupId;
    use everlog_storage::log::{LogEngine, LogRecord};
    use everlog_storage::state::{RowBatch, StateEngine};
    use everlog_storage::twin::{CrashLog, CrashState};

    use super::*;
    use crate::encoding;
    use crate::progress::GroupProgress;
    use crate::types::{Entry, GroupReplica, LeaderId, Payload, StoredMembership, log_id};

    const GROUP: GroupId = GroupId(1);

    pub(super) fn vote(term: u64, replica: u64, committed: bool) -> Vote {
        Vote { leader_id: LeaderId { term, voted_for: replica }, committed }
    }

    pub(super) fn position(term: u64, index: u64) -> Bytes {
        encoding::encode_position(&AppliedPosition::new(log_id(term, index), StoredMembership::default()))
    }

    /// A replica with entries 0 to 9 of term 1, of which rows hold those up to 4.
    fn replica() -> (CrashLog, CrashState) {
        let (log, state) = (CrashLog::new(1), CrashState::new(1));
        let identity = GroupReplica::founding(GROUP);
        log.submit(LogRecord::Replica { group: GROUP, replica: encoding::encode_replica(&identity) }, None);
        log.submit(LogRecord::Vote { group: GROUP, vote: encoding::encode_vote(&vote(1, 5, true)) }, None);
        for index in 0..10 {
            let (_, bytes) = encoding::encode_entry(Entry { log_id: log_id(1, index), payload: Payload::Blank });
            log.submit(LogRecord::Append { group: GROUP, first_index: index, entries: vec![bytes] }, None);
        }
        let mut batch = RowBatch::new();
        batch.put(&b"old"[..], &b"1"[..]);
        state.commit(GROUP, &position(1, 4), &[batch]).unwrap();
        state.flush().unwrap();
        (log, state)
    }

    pub(super) fn recovered(log: Arc<dyn LogEngine>) -> GroupLog {
        let progress = Arc::new(GroupProgress::new(1, None));
        GroupLog::recover(GROUP, log, progress, FailureReport::new(), 0).unwrap()
    }

    fn staged(state: &CrashState, term: u64, index: u64) -> Box<dyn StagedRows> {
        let mut staged = state.stage(GROUP, &position(term, index)).unwrap();
        staged.add(vec![(Bytes::from("new"), Bytes::from("2"))]).unwrap();
        staged
    }

    fn rows_at(state: &CrashState) -> LogId {
        encoding::decode_position(&state.applied(GROUP).unwrap().unwrap()).unwrap().log_id
    }

    /// What is there is one replica or the other, as a whole.
    async fn check(log: CrashLog, state: &CrashState, position: LogId) -> bool {
        let engine: Arc<dyn LogEngine> = Arc::new(log);
        let log = recovered(engine.clone());
        settle(&log, Some(rows_at(state))).await.unwrap();
        let log = recovered(engine.clone());
        assert_eq!((log.seeding(), log.replica()), (None, Some(GroupReplica::founding(GROUP))));
        let found = engine.recover(GROUP).unwrap();
        let is_new = rows_at(state) == position;
        if is_new {
            assert_eq!((found.first_index, log.purged()), (None, Some(position)));
            assert_eq!(log.vote(), Some(vote(3, 6, true)));
            assert_eq!(
                (state.get(GROUP, b"old").unwrap(), state.get(GROUP, b"new").unwrap()),
                (None, Some("2".into()))
            );
        } else {
            assert_eq!((rows_at(state), found.first_index, found.last_index), (log_id(1, 4), Some(0), Some(9)));
            assert_eq!((log.vote(), log.purged()), (Some(vote(1, 5, true)), None));
            assert!(state.get(GROUP, b"old").unwrap().is_some() && state.get(GROUP, b"new").unwrap().is_none());
        }
        is_new
    }

    /// Over every write of the sequence: those to the log that a crash keeps, and whether the rows were ingested.
    #[tokio::test]
    async fn a_crash_at_any_write_leaves_the_old_replica_or_the_new_one() {
        for position in [log_id(3, 20), log_id(3, 7)] {
            let seeding = Seeding { position, vote: vote(3, 6, true) };
            let mut outcomes = Vec::new();
            for kept in 0..6 {
                let (engine, state) = replica();
                let (engine, state) = (Arc::new(engine), Arc::new(state));
                let log = recovered(engine.clone());
                let staged = staged(&state, 3, position.index);
                if kept == 0 {
                    engine.hold_sync();
                    let begun = log.begin_seeding(seeding);
                    futures::pin_mut!(begun);
                    assert!(futures::poll!(begun).is_pending());
                    outcomes.push(check(engine.crash_keeping(0), &state, position).await);
                    continue;
                }
                log.begin_seeding(seeding).await.unwrap();
                if kept == 1 {
                    drop(staged);
                    outcomes.push(check(engine.crash_keeping(0), &state, position).await);
                    continue;
                }
                staged.install().unwrap();
                engine.hold_sync();
                let ended = log.end_seeding(seeding);
                futures::pin_mut!(ended);
                assert!(futures::poll!(ended).is_pending());
                outcomes.push(check(engine.crash_keeping(kept - 2), &state.crash(), position).await);
            }
            assert_eq!(outcomes, [false, false, true, true, true, true], "{position}");
        }
    }

    #[tokio::test]
    async fn rows_are_installed_only_where_the_log_does_not_have_their_position() {
        for (at, is_new) in [(log_id(1, 9), false), (log_id(1, 3), false), (log_id(3, 20), true), (log_id(3, 7), true)]
        {
            let (engine, state) = replica();
            let log = recovered(Arc::new(engine));
            let applied = encoding::decode_position(&state.applied(GROUP).unwrap().unwrap()).unwrap();
            let seeding = Seeding { position: at, vote: vote(3, 6, true) };
            let staged = staged(&state, at.leader_id.term, at.index);
            install(&log, Some(applied), &FailureReport::new(), staged, seeding).await.unwrap();
            assert_eq!(state.get(GROUP, b"new").unwrap().is_some(), is_new, "{at}");
            assert_eq!(log.vote(), Some(if is_new { vote(3, 6, true) } else { vote(1, 5, true) }), "{at}");
        }
    }

    #[tokio::test]
    async fn without_room_the_replica_is_what_it_was() {
        let (engine, state) = replica();
        let engine = Arc::new(engine);
        let log = recovered(engine.clone());
        let seeding = Seeding { position: log_id(3, 20), vote: vote(3, 6, true) };
        let (staged, failure) = (staged(&state, 3, 20), FailureReport::new());
        state.refuse_staged(true);
        assert!(install(&log, None, &failure, staged, seeding).await.is_err());
        assert!(failure.first().is_none(), "a full disk is no failure");
        assert!(!check(engine.crash_keeping(usize::MAX), &state, seeding.position).await);
    }

    #[test]
    fn a_vote_is_never_lowered() {
        for (own, other, greater) in [
            (None, vote(3, 6, true), vote(3, 6, true)),
            (Some(vote(1, 5, true)), vote(3, 6, true), vote(3, 6, true)),
            (Some(vote(4, 5, false)), vote(3, 6, true), vote(4, 5, false)),
            (Some(vote(3, 6, false)), vote(3, 6, true), vote(3, 6, true)),
            // It voted for another one, but this one leads.
            (Some(vote(3, 5, false)), vote(3, 6, true), vote(3, 6, true)),
        ] {
            assert_eq!(greater_vote(own, other), greater, "{own:?} {other:?}");
        }
    }

    #[test]
    fn a_source_goes_on_only_where_it_was_left() {
        let (_, state) = replica();
        let sources = SeedSources::default();
        let offer = sources.offer(state.snapshot(GROUP).unwrap());
        assert!(matches!(sources.next(offer.number, None).unwrap(), Next::Chunk(_)));
        assert_eq!(sources.next(offer.number, None).unwrap(), Next::Gone);
        assert!(matches!(sources.next(offer.number, Some("old".into())).unwrap(), Next::End(Totals { rows: 1, .. })));
        let number = offer.number;
        drop(offer);
        assert_eq!(sources.next(number, Some("old".into())).unwrap(), Next::Gone);
    }
}
