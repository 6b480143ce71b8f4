//! How a replica is seeded that needs entries which are gone: the leader asks its host, and the host pulls the rows.
//!
//! ```text
//!   leader's node                                    follower's node
//!   SEED {position, vote} ───────────────────────▶   takes its turn
//!        ◀─────────────────────── SEED_ROWS {after}  one at a time: what is on its way is bounded, and the pace is the follower's
//!   chunk ───────────────────────────────────────▶   gathered beside the rows that are served
//!        ◀────────────── answer to SEED              once the replica is open again with them
//! ```
//!
//! A seed that fails, for whatever reason, leaves the replica as it was; the leader asks again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use everlog_storage::export::{self, Totals};
use everlog_storage::state::{StagedRows, StateEngine};
use everlog_storage::{GroupId, NodeId, blocking as blocking_work};
use everlog_transport::{Incoming, Lane, Transport};
use openraft::errors::Unreachable;
use openraft::storage::Snapshot;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;

use super::adapter::PeerConnection;
use super::kind;
use super::receive::read;
use super::wire::{Address, decode, encode};
use crate::encoding::{self, LogIdRecord, VoteRecord, read_record, write_record};
use crate::group::Group;
use crate::node::{OpenGroups, blocking};
use crate::sabotage::{self, Sabotage};
use crate::seed::{Next, ReadySeed, SeedSources, Seeding};
use crate::snapshot::GroupSnapshot;
use crate::types::{CommittedLeaderId, GroupReplica, LogId, NodeInfo, ReplicaId, TypeConfig, Vote};

#[derive(Serialize, Deserialize)]
struct SeedAsk {
    address: Address,
    /// The seed's number at the leader's node.
    seed: u64,
    /// The leader's own vote.
    vote: VoteRecord,
    /// The encoded applied position of the rows.
    position: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
enum SeedAnswer {
    /// The replica has everything up to here on its disk.
    Has { last: LogIdRecord, vote: VoteRecord },
    /// It has not.
    Failed(String),
}

#[derive(Serialize, Deserialize)]
struct RowsAsk {
    seed: u64,
    after: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
enum RowsAnswer {
    /// A chunk, which is the rest of the message.
    Chunk,
    /// There are no more.
    End { rows: u64, sum: u64 },
    /// There is no such seed.
    Gone,
}

impl PeerConnection {
    /// Has the replica seed itself from a snapshot, and waits until it has. The vote that it has then.
    pub(super) async fn seed(
        &self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeaderId, ReplicaId, NodeInfo, GroupSnapshot>,
    ) -> Result<Vote, Unreachable<TypeConfig>> {
        let GroupSnapshot::View(view) = snapshot.snapshot else {
            return Err(self.unreachable("there are no rows to seed it with"));
        };
        let (Some(last), Some(position)) = (snapshot.meta.last_log_id, view.applied()) else {
            return Err(self.unreachable("nothing is applied that could seed it"));
        };
        let _pin = self.network.pins.pin(last.index + 1);
        let offer = self.network.seed_sources.offer(view);
        let ask =
            SeedAsk { address: self.address(), seed: offer.number, vote: (&vote).into(), position: position.to_vec() };
        let answer =
            self.call(Lane::Bulk, kind::SEED, encode(&ask)).await.map_err(|failed| self.unreachable(failed))?;
        match decode::<SeedAnswer>("answer to a seed", &answer) {
            // openraft takes the snapshot's position as acknowledged next: less than that must not pass for success.
            Ok(SeedAnswer::Has { last: has, vote }) => match LogId::from(has) >= last {
                true => Ok(vote.into()),
                false => Err(self.unreachable("it was seeded with less than was asked for")),
            },
            Ok(SeedAnswer::Failed(why)) => Err(self.unreachable(why)),
            Err(error) => Err(self.unreachable(error)),
        }
    }
}

/// Seeds replicas of this node, one after the other, and gives rows to those of other nodes.
pub(crate) struct SeedHost {
    parts: Arc<Parts>,
    /// The last seed of each replica: a later one ends it. Not of each group: whoever leads that may still ask for a replica that is lost and
    /// whose place another one takes.
    running: Mutex<HashMap<(GroupId, ReplicaId), AbortHandle>>,
}

struct Parts {
    groups: OpenGroups,
    state: Arc<dyn StateEngine>,
    transport: Arc<dyn Transport>,
    sources: SeedSources,
    bytes_per_second: u64,
    turn: Semaphore,
    bytes: metrics::Counter,
    seconds: metrics::Histogram,
}

impl SeedHost {
    pub(crate) fn new(
        groups: OpenGroups,
        state: Arc<dyn StateEngine>,
        transport: Arc<dyn Transport>,
        sources: SeedSources,
        bytes_per_second: u64,
    ) -> SeedHost {
        metrics::describe_counter!(
            "everlog_seed_bytes_total",
            metrics::Unit::Bytes,
            "Bytes that were received to seed replicas which fell behind the log."
        );
        metrics::describe_histogram!(
            "everlog_seed_seconds",
            metrics::Unit::Seconds,
            "How long it took to seed a replica, from its turn until it was open again."
        );
        metrics::describe_counter!("everlog_seeds_total", "Replicas that were seeded, or were to be, by outcome.");
        let parts = Parts {
            groups,
            state,
            transport,
            sources,
            bytes_per_second: bytes_per_second.max(1),
            turn: Semaphore::new(1),
            bytes: metrics::counter!("everlog_seed_bytes_total"),
            seconds: metrics::histogram!("everlog_seed_seconds"),
        };
        SeedHost { parts: Arc::new(parts), running: Mutex::default() }
    }

    pub(super) fn receive(&self, runtime: &Handle, incoming: Incoming) {
        let parts = Arc::clone(&self.parts);
        if incoming.kind == kind::SEED_ROWS {
            blocking_work::spawn_on(runtime, move || parts.give_rows(incoming));
            return;
        }
        let Incoming { from, body, mut answer, .. } = incoming;
        let Some(ask) = read(decode::<SeedAsk>("seed", &body)) else {
            return answer.send(encode(&SeedAnswer::Failed("the message cannot be read".to_owned())));
        };
        let (group, replica) = (ask.address.group(), ask.address.to);
        let task = runtime.spawn(async move {
            tokio::select! {
                outcome = parts.seed(from, ask) => {
                    let label = if outcome.is_ok() { "seeded" } else { "failed" };
                    metrics::counter!("everlog_seeds_total", "outcome" => label).increment(1);
                    answer.send(encode(&outcome.unwrap_or_else(|why| {
                        tracing::warn!(%group, why, "a replica that fell behind the log was not seeded");
                        SeedAnswer::Failed(why)
                    })));
                }
                // The leader waits no more: it leads no more, say.
                () = answer.cancelled() => {}
            }
        });
        let mut running = self.running.lock();
        running.retain(|_, seed| !seed.is_finished());
        if let Some(before) = running.insert((group, replica), task.abort_handle()) {
            before.abort();
        }
    }
}

impl Drop for SeedHost {
    fn drop(&mut self) {
        self.running.get_mut().values().for_each(AbortHandle::abort);
    }
}

impl Parts {
    fn give_rows(&self, incoming: Incoming) {
        let Some(RowsAsk { seed, after }) = read(decode("rows of a seed", &incoming.body)) else { return };
        let (head, chunk) = match self.sources.next(seed, after.map(Bytes::from)) {
            Ok(Next::Chunk(chunk)) => (RowsAnswer::Chunk, chunk),
            Ok(Next::End(Totals { rows, sum })) => (RowsAnswer::End { rows, sum }, Bytes::new()),
            Ok(Next::Gone) => (RowsAnswer::Gone, Bytes::new()),
            Err(error) => {
                tracing::error!(%error, "rows for a seed cannot be read");
                (RowsAnswer::Gone, Bytes::new())
            }
        };
        let mut bytes = BytesMut::with_capacity(32 + chunk.len()).writer();
        write_record(&mut bytes, &head);
        let mut bytes = bytes.into_inner();
        bytes.put_slice(&chunk);
        incoming.answer.send(bytes.freeze());
    }

    fn addressed(&self, address: &Address) -> Option<(GroupReplica, Group)> {
        let (replica, group) = self.groups.get(address.group())?;
        let is_meant = replica.group_epoch == address.group_epoch && replica.replica == address.to;
        (is_meant || sabotage::is(Sabotage::MessageForAnyReplica)).then_some((replica, group))
    }

    async fn seed(&self, from: NodeId, ask: SeedAsk) -> Result<SeedAnswer, String> {
        let SeedAsk { address, seed, vote, position: encoded } = ask;
        let (replica, group) = self.addressed(&address).ok_or("the replica is not there")?;
        let position = encoding::decode_position(&encoded).map_err(text)?.log_id;
        let seeding = Seeding { position, vote: vote.into() };
        if !seeding.vote.committed {
            return Err("whoever offers rows does not lead".to_owned());
        }
        // What the log has is only waited for: the replica may have acknowledged more than the seed holds.
        if group.log().contains(position).await.map_err(text)? {
            group.log().settle().await.map_err(text)?;
            return self.has(&address, position);
        }
        let _turn = self.turn.acquire().await.map_err(text)?;
        let started = Instant::now();
        tracing::info!(group = %replica.group, source = %from, %position, "a replica fell behind the log and is seeded");
        let (staged, bytes, rows) = self.pull(from, replica.group, seed, encoded).await?;
        let (done, outcome) = oneshot::channel();
        if !self.groups.give_seed(replica, ReadySeed { staged, seeding, done }) {
            return Err("the replica was closed meanwhile".to_owned());
        }
        // Whoever keeps the group open sees that, and opens it again with what it was given.
        let _ = group.raft().shutdown().await;
        drop(group);
        outcome.await.map_err(|_| "the node is being stopped".to_owned())??;
        self.seconds.record(started.elapsed());
        tracing::info!(
            group = %replica.group, source = %from, reason = "it fell behind the log", bytes, rows, %position,
            duration_ms = started.elapsed().as_millis() as u64, "a replica was seeded"
        );
        self.has(&address, position)
    }

    /// What the replica that is here now can say of itself.
    fn has(&self, address: &Address, position: LogId) -> Result<SeedAnswer, String> {
        let (_, group) = self.addressed(address).ok_or("the replica is not there")?;
        let vote = group.log().vote().ok_or("the replica has no vote")?;
        Ok(SeedAnswer::Has { last: (&position).into(), vote: (&vote).into() })
    }

    /// Gathers all rows. Their bytes as they came, and how many they are.
    async fn pull(
        &self,
        from: NodeId,
        group: GroupId,
        seed: u64,
        position: Vec<u8>,
    ) -> Result<(Box<dyn StagedRows>, u64, u64), String> {
        let state = self.state.clone();
        let mut staged = blocking(move || state.stage(group, &position)).await.map_err(text)?;
        let (mut totals, mut bytes, mut after) = (Totals::default(), 0, None::<Bytes>);
        let started = tokio::time::Instant::now();
        loop {
            let rows_ask = RowsAsk { seed, after: after.as_ref().map(|after| after.to_vec()) };
            let answer =
                self.transport.call(from, Lane::Bulk, kind::SEED_ROWS, encode(&rows_ask)).await.map_err(text)?;
            let (head, chunk) = read_record::<RowsAnswer>("rows of a seed", &answer).map_err(text)?;
            match head {
                RowsAnswer::Gone => return Err("the rows are not offered any more".to_owned()),
                RowsAnswer::End { rows, sum } if (Totals { rows, sum }) == totals => return Ok((staged, bytes, rows)),
                RowsAnswer::End { .. } => return Err("not all rows have arrived as they were sent".to_owned()),
                RowsAnswer::Chunk => {}
            }
            let chunk = answer.slice_ref(chunk);
            bytes += chunk.len() as u64;
            self.bytes.increment(chunk.len() as u64);
            let last;
            let counted;
            (staged, counted, last) = blocking(move || {
                let (rows, counted) = export::read_chunk(&chunk).map_err(text)?;
                let last = rows.last().map(|(key, _)| key.clone());
                staged.add(rows).map_err(text)?;
                Ok::<_, String>((staged, counted, last))
            })
            .await
            .map_err(text)?;
            totals.add(counted);
            after = Some(last.ok_or("a chunk without rows")?);
            tokio::time::sleep_until(
                started + std::time::Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64),
            )
            .await;
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LeaderId, log_id};

    #[test]
    fn bytes_stay_what_they_are() {
        let vote = Vote { leader_id: LeaderId { term: 3, voted_for: 9 }, committed: true };
        let address = Address::new(GroupId(5), 1, 7, 8);
        let ask = SeedAsk { address, seed: 4, vote: (&vote).into(), position: b"at".to_vec() };
        assert_eq!(&encode(&ask)[..], b"\x05\x01\x08\x07\x04\x03\x09\x01\x02at");
        let has = SeedAnswer::Has { last: (&log_id(3, 20)).into(), vote: (&vote).into() };
        assert_eq!(&encode(&has)[..], [0, 3, 20, 3, 9, 1]);
        assert_eq!(&encode(&SeedAnswer::Failed("no".to_owned()))[..], b"\x01\x02no");
        assert_eq!(&encode(&RowsAsk { seed: 4, after: Some(b"key".to_vec()) })[..], b"\x04\x01\x03key");
        assert_eq!(&encode(&RowsAnswer::Chunk)[..], [0]);
        assert_eq!(&encode(&RowsAnswer::End { rows: 2, sum: 3 })[..], [1, 2, 3]);
        assert_eq!(&encode(&RowsAnswer::Gone)[..], [2]);
    }
}
