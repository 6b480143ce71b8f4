//! The replicas of a node: it opens those that it should have, and removes those that their groups do not need any more.
//!
//! ```text
//!   metadata: group 3 is to have replicas on nodes 1, 2, 4 ──▶ node 4: makes an empty replica
//!                                                          ├─▶ leader of group 3: node 4 learns ─▶ has the rows ─▶ votes instead of node 3 ─▶ reports
//!                                                          └─▶ metadata: that is settled ──▶ node 3: removes its replica
//! ```
//!
//! Nothing is kept but what the metadata, the groups and the logs say, so whoever starts or leads next goes on. What a node has read of the
//! metadata may be old, above all when it has just started. So a replica is made only once this node has asked whoever leads the
//! metadata whether there is something newer: one that was removed must never be made again, since its votes and acknowledgements are
//! forgotten. To open what is there, and to remove what is over, any view will do: what is over once is over for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_cluster::{Leads, Nodes, Operations, Picture, Places, leads};
use everlog_meta::{Namespaces, Reads, TopologyChange};
use everlog_partition::Partitions;
use everlog_raft::{GroupSlot, GroupSlots, NodeError};
use everlog_storage::GroupId;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::membership::Membership;

/// How often a node looks at what is not as it should be.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the node that should lead a new group has to found it, before the others do.
const FOUND_WAIT: Duration = Duration::from_secs(2);

/// How long a step of one group may keep the others waiting.
const STEP_TIME_MAX: Duration = Duration::from_secs(10);

/// The replicas of a node of a cluster.
pub(crate) struct Replicas {
    pub(crate) raft: Arc<everlog_raft::Node>,
    pub(crate) membership: Membership,
    pub(crate) places: Arc<Places>,
    pub(crate) namespaces: Arc<Namespaces>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) groups: GroupSlots,
    pub(crate) leads: Arc<Leads>,
    pub(crate) partitions: Partitions,
}

/// Opens the partitions of a node that starts: those that it has, and, when the cluster is founded, those that it is founded with.
pub(crate) async fn open_known(
    raft: &everlog_raft::Node,
    membership: &Membership,
    places: &Places,
    is_bootstrapped: bool,
) -> Result<Vec<GroupSlot>, NodeError> {
    let topology = places.topology();
    let picture = places.picture_of(&topology);
    let is_founding = !is_bootstrapped && membership.is_founder();
    let mut groups = Vec::new();
    for partition in picture.partitions() {
        let wanted = picture.replica_on(membership.me, partition);
        let group = match (raft.replica_here(partition).await?, wanted) {
            (Some(here), Some(wanted)) if here == wanted => raft.open_group(here).await?,
            (None, Some(wanted)) if is_founding && !topology.groups.contains_key(&partition) => {
                raft.create_replica(wanted).await?
            }
            _ => continue,
        };
        groups.push(Arc::new(RwLock::new(group)));
    }
    Ok(groups)
}

impl Replicas {
    /// Has this node have the replicas that it should have, for as long as it is polled.
    pub(crate) async fn follow(self: Arc<Replicas>) {
        let mut is_up_to_date = false;
        let mut leftovers = true;
        let mut seen_unfounded = BTreeMap::new();
        loop {
            let topology = self.places.topology();
            self.membership.follow(&topology);
            let picture = self.places.picture_of(&topology);
            let mut is_done = true;
            let was_up_to_date = is_up_to_date;
            for partition in picture.partitions() {
                if let Some(group) = self.groups.get(partition) {
                    group.confirm_reads(picture.placement_of(partition).reads == Reads::Linearizable);
                }
                let brought = async {
                    let is_here = self.bring_here(partition, &picture, &mut is_up_to_date, leftovers).await?;
                    self.serve(partition, &picture);
                    Ok(is_here && self.found(partition, &picture, &mut is_up_to_date, &mut seen_unfounded).await?)
                };
                is_done &= brought.await.unwrap_or_else(|NodeError(error)| {
                    tracing::warn!(%partition, error, "this node does not have the replica that it should have");
                    false
                });
            }
            leftovers = false;
            if is_up_to_date && !was_up_to_date {
                // What waited for that goes on.
                continue;
            }
            let changed = self.namespaces.until_other_topology(&topology);
            if is_done {
                changed.await;
            } else {
                let _ = tokio::time::timeout(LOOK_INTERVAL, changed).await;
            }
        }
    }

    /// Has this node have the replica of a partition that it should have, or none. False if that has to wait.
    async fn bring_here(
        &self,
        partition: GroupId,
        picture: &Picture,
        is_up_to_date: &mut bool,
        leftovers: bool,
    ) -> Result<bool, NodeError> {
        let wanted = picture.replica_on(self.membership.me, partition);
        let mut here = self.raft.replica_here(partition).await?;
        if let Some(known) = here.filter(|here| Some(*here) != wanted) {
            if !picture.is_over(partition, known.replica) {
                // The metadata that this node has seen are older than its replica.
                return Ok(false);
            }
            self.partitions.remove(partition).await;
            self.groups.remove(partition);
            self.raft.discard_group(partition).await?;
            here = None;
        } else if here.is_none() && (leftovers || wanted.is_some()) {
            // What a removal has left that was cut off.
            self.raft.discard_group(partition).await?;
        }
        let Some(wanted) = wanted else { return Ok(true) };
        let group = match here {
            Some(_) if self.groups.get(partition).is_some() => return Ok(true),
            Some(here) => self.raft.open_group(here).await?,
            None => {
                if !*is_up_to_date {
                    *is_up_to_date = self.catch_up().await;
                    // What was seen before that may be old.
                    return Ok(false);
                }
                tracing::info!(%partition, replica = wanted.replica, "this node gets a replica");
                self.raft.create_replica(wanted).await?
            }
        };
        group.confirm_reads(picture.placement_of(partition).reads == Reads::Linearizable);
        self.groups.add(Arc::new(RwLock::new(group)));
        Ok(true)
    }

    /// Founds a partition that was made after its cluster, if nobody has yet and this node is one of those that may. The one that should lead it does so
    /// first; each of the others only if that one does not come. All of them name the same replicas, so it is one group whoever comes first. False
    /// if that has to wait.
    async fn found(
        &self,
        partition: GroupId,
        picture: &Picture,
        is_up_to_date: &mut bool,
        seen: &mut BTreeMap<GroupId, Instant>,
    ) -> Result<bool, NodeError> {
        let founders = picture.founders_of(partition);
        let here = picture.replica_on(self.membership.me, partition);
        let place = founders.iter().position(|(replica, _)| here.is_some_and(|here| here.replica == *replica));
        let group = self.groups.get(partition).filter(|group| !group.is_founded());
        let Some((place, group)) = place.zip(group) else {
            seen.remove(&partition);
            return Ok(true);
        };
        let seen = *seen.entry(partition).or_insert_with(Instant::now);
        if !*is_up_to_date {
            // By what was seen before that, it may have been founded and moved since.
            *is_up_to_date = self.catch_up().await;
            return Ok(false);
        }
        if place == 0 || seen.elapsed() > FOUND_WAIT {
            group.found(&founders.into_iter().collect()).await?;
        }
        Ok(false)
    }

    /// Has a replica that is here take calls. Not before it is known that its group is founded: until then others may be told to found it, and what it
    /// had would be gone.
    fn serve(&self, partition: GroupId, picture: &Picture) {
        if self.partitions.get(partition).is_none()
            && picture.founders_of(partition).is_empty()
            && let Some(slot) = self.groups.slot(partition)
        {
            self.partitions.add(slot);
        }
    }

    /// Waits until this node has seen what there was of the metadata when it asked. False if nobody says.
    async fn catch_up(&self) -> bool {
        if self.namespaces.is_led_here() {
            return true;
        }
        let asked = async |leader| self.nodes.metadata_position(leader).await;
        self.namespaces.leader().is_some() && self.namespaces.catch_up_with(asked).await.is_ok()
    }

    /// Has the groups that are led here have the replicas that they should have, for as long as it is polled.
    pub(crate) async fn lead(self: Arc<Replicas>, operations: Arc<Operations>) {
        loop {
            let topology = self.places.topology();
            let picture = self.places.picture_of(&topology);
            let as_founded = topology.groups.is_empty() && topology.disks.is_empty();
            let leading = self.leads.groups().into_iter().filter(|group| !as_founded && leads(group));
            for group in leading {
                let id = group.id();
                let step = tokio::time::timeout(STEP_TIME_MAX, group.bring_to(&picture.replicas_of(id))).await;
                match step {
                    Ok(Ok(true)) => {
                        let row = topology.groups.get(&id).filter(|row| !row.is_settled);
                        if let Some(row) = row
                            && let Err(status) = operations.settled(id, row.version).await
                        {
                            tracing::info!(group = %id, %status, "nobody was told that a group has its replicas");
                        }
                    }
                    Ok(Ok(false)) | Err(_) => {}
                    Ok(Err(error)) => {
                        tracing::info!(%error, "a group does not have the replicas yet that it should have");
                    }
                }
            }
            let _ = tokio::time::timeout(LOOK_INTERVAL, self.namespaces.until_other_topology(&topology)).await;
        }
    }

    /// Has the metadata say where and what this node is, as its settings say since it started.
    pub(crate) async fn announce(self: Arc<Replicas>, operations: Arc<Operations>) {
        let Membership { me, labels, .. } = &self.membership;
        loop {
            // What was seen before that may be old.
            if self.catch_up().await {
                if self.places.picture().labels(*me) == labels {
                    return;
                }
                if let Err(status) = operations.labelled(labels.clone()).await {
                    tracing::info!(%status, "nobody was told where and what this node is");
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Has leads go to whom should have them as soon as the metadata say so, for as long as it is polled.
    pub(crate) async fn hand_on(self: Arc<Replicas>) {
        loop {
            let topology = self.places.topology();
            self.leads.look();
            self.namespaces.until_other_topology(&topology).await;
        }
    }

    /// Plans which nodes should have which replicas as long as the metadata are led here, for as long as it is polled.
    pub(crate) async fn plan(self: Arc<Replicas>) {
        loop {
            let topology = self.places.topology();
            if self.namespaces.is_led_here() {
                if let Err(error) = self.namespaces.note_regions().await {
                    tracing::info!(%error, "new regions cannot be written down now");
                }
                match self.places.carry_on(|node| self.membership.health(node)).await {
                    Ok(changes) => changes.iter().for_each(say),
                    Err(error) => tracing::info!(%error, "what should be where cannot be written down now"),
                }
            }
            let wait = tokio::time::timeout(LOOK_INTERVAL, self.namespaces.until_other_topology(&topology));
            let _ = wait.await;
        }
    }
}

fn say(change: &TopologyChange) {
    match change {
        TopologyChange::Placement(placement) => tracing::info!(?placement, "a placement"),
        TopologyChange::NoPlacement(name) => tracing::info!(name, "a placement is no more"),
        TopologyChange::Format(format) => tracing::info!(?format, "the formats of the cluster"),
        TopologyChange::NodeFormats(node, formats) => tracing::info!(%node, ?formats, "the formats of a node"),
        TopologyChange::Authority(_) => tracing::info!("the cluster has an authority"),
        TopologyChange::Certificate(node, certificate) => tracing::info!(%node, ?certificate, "a certificate"),
        TopologyChange::Token(id, row) => tracing::info!(id, ?row, "a join token"),
        TopologyChange::NoToken(id) => tracing::info!(id, "a join token is no more"),
        TopologyChange::Node(node, row) => tracing::info!(%node, membership = ?row.membership, "a node"),
        TopologyChange::Group(group, row) if row.is_settled => {
            tracing::info!(%group, preferred = %row.replicas[0].node, "a group should be led by another node");
        }
        TopologyChange::Group(group, row) => {
            let on = |is_voter| {
                let placed = row.replicas.iter().filter(|placed| placed.is_voter == is_voter);
                placed.map(|placed| placed.node.0).collect::<Vec<_>>()
            };
            let leave: BTreeMap<_, _> = row.leaving.iter().map(|placed| (placed.node.0, placed.generation)).collect();
            tracing::info!(%group, voters = ?on(true), learners = ?on(false), ?leave, "a group should have other replicas");
        }
    }
}
