//! Watches one group's Raft core: says who leads, and notices when the core dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use everlog_storage::GroupId;
use openraft::ServerState;
use openraft::async_runtime::{Instant as _, WatchReceiver};
use openraft::errors::Fatal;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::InstantOf;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::failure::FailureReport;
use crate::group::{Leadership, RaftGroup, StopReason};
use crate::types::{ReplicaId, TypeConfig};

/// How often it is looked within the time that a leader may go unanswered.
const SILENCE_LOOKS: u32 = 8;

/// Runs until the group's Raft core has ended, for whatever reason, and leaves `leadership` at Stopped.
///
/// A leader that no majority has answered for `silence_max` is not announced as one until it is answered again, though openraft goes on
/// leading: nothing that it decides could be acknowledged, and whoever waits for it is to be told.
#[expect(clippy::too_many_arguments, reason = "a task's own parts, given once")]
pub(crate) async fn supervise(
    group: GroupId,
    raft: RaftGroup,
    mut applied_term: watch::Receiver<u64>,
    failure: FailureReport,
    leadership: watch::Sender<Leadership>,
    leader: Arc<AtomicU32>,
    closed_for_seed: Arc<AtomicBool>,
    silence_max: Duration,
) {
    let mut server = raft.server_metrics();
    let data = raft.data_metrics();
    let mut led: Option<(u64, Instant)> = None;
    let mut look = tokio::time::interval(silence_max / SILENCE_LOOKS);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let is_leader = metrics::gauge!("everlog_raft_is_leader", "group" => group.to_string());
    let mut ticks = None;
    loop {
        let (mut now, mut known, alone) = {
            let server = server.borrow_and_update();
            let leads = leadership_of(&server, *applied_term.borrow_and_update());
            (leads, leader_node(&server), is_alone(&server))
        };
        if let (Leadership::Leader { term }, Some(false)) = (now, alone) {
            let since = match led {
                Some((led, since)) if led == term => since,
                _ => led.insert((term, Instant::now())).1,
            };
            let answered = data.borrow_watched().last_quorum_acked;
            let silence =
                answered.map_or(Duration::MAX, |answered| InstantOf::<TypeConfig>::now() - answered.into_inner());
            if silence.min(since.elapsed()) > silence_max {
                (now, known) = (Leadership::Follower, 0);
            }
        }
        leader.store(known, Ordering::Relaxed);
        let changed = leadership.send_if_modified(|known| std::mem::replace(known, now) != now);
        if changed {
            tracing::info!(%group, leadership = ?now, "raft leadership");
            is_leader.set(if matches!(now, Leadership::Leader { .. }) { 1.0 } else { 0.0 });
        }
        // A group without other members has no heartbeats to send and none to miss.
        if let Some(alone) = alone
            && ticks != Some(!alone)
        {
            raft.runtime_config().tick(!alone);
            ticks = Some(!alone);
        }
        tokio::select! {
            changed = server.changed() => if changed.is_err() { break },
            changed = applied_term.changed() => if changed.is_err() { break },
            _ = look.tick(), if led.is_some() => {}
        }
    }
    is_leader.set(0.0);
    leader.store(0, Ordering::Relaxed);
    let running_state = raft.metrics().borrow_watched().running_state.clone();
    let reason = match running_state {
        Err(Fatal::Stopped) if closed_for_seed.load(Ordering::Acquire) => StopReason::Seeding,
        Err(Fatal::Stopped) => {
            tracing::info!(%group, "raft group stopped");
            StopReason::Shutdown
        }
        // A state machine or log store that failed has said so before its group stopped.
        Err(error) if failure.first().is_some() => {
            tracing::error!(%group, %error, "raft group stopped, an engine failed");
            StopReason::EngineFailed
        }
        Err(error) => {
            tracing::error!(%group, %error, "raft group died");
            StopReason::Died
        }
        Ok(()) => {
            tracing::error!(%group, "raft group died: its core panicked");
            StopReason::Died
        }
    };
    leadership.send_replace(Leadership::Stopped { reason });
}

/// A leader is announced once it has applied an entry of its own term: the first of them is its blank entry, behind which all
/// entries of earlier terms are applied.
fn leadership_of(server: &RaftServerMetrics<TypeConfig>, applied_term: u64) -> Leadership {
    let term = server.vote.leader_id.term;
    let leads =
        server.state == ServerState::Leader && server.vote.committed && server.vote.leader_id.voted_for == server.id;
    if leads && applied_term == term { Leadership::Leader { term } } else { Leadership::Follower }
}

/// The node of the replica that leads; 0 if none is known.
fn leader_node(server: &RaftServerMetrics<TypeConfig>) -> u32 {
    let leader = server.current_leader.and_then(|leader| server.membership_config.membership().get_node(&leader));
    leader.and_then(|node| u32::try_from(node.node_id).ok()).unwrap_or(0)
}

/// Whether this replica is the group's only member; `None` before the group has members.
fn is_alone(server: &RaftServerMetrics<TypeConfig>) -> Option<bool> {
    let mut members = server.membership_config.nodes().map(|(replica, _)| *replica);
    let first: ReplicaId = members.next()?;
    Some(first == server.id && members.next().is_none())
}
