//! What is looked at while a cluster runs.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;
use everlog_raft::{Leadership, ReplicaId};
use everlog_storage::state::StateEngine;
use everlog_storage::{GroupId, NodeId};

use super::node::Process;
use super::system;

/// What was seen so far, and what of it must not be.
#[derive(Default)]
pub(super) struct Seen {
    leaders: BTreeMap<(GroupId, u64), NodeId>,
    rows: BTreeMap<(GroupId, Bytes), (u64, NodeId)>,
    /// How far replicas are, of processes that live.
    applied: BTreeMap<(NodeId, GroupId), Applied>,
    pub(super) wrong: Vec<String>,
}

/// How far a replica is in a process.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Applied {
    process: u64,
    replica: ReplicaId,
    index: u64,
}

impl Seen {
    /// How many terms had a leader.
    pub(super) fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }

    fn found(&mut self, what: String) {
        // The first says most.
        if self.wrong.len() < 5 {
            self.wrong.push(format!("{} ms: {what}", system::now() / 1_000_000));
        }
    }

    /// Who leads, and whose lease holds, of the processes that live.
    pub(super) fn look_at_leaders<'a>(&mut self, processes: impl Iterator<Item = (NodeId, &'a Process)>) {
        let mut leases: BTreeMap<GroupId, Vec<NodeId>> = BTreeMap::new();
        for (node, process) in processes {
            for group in process.raft.groups() {
                let id = group.id();
                // What is known of one that is being opened anew is being replaced.
                if matches!(*group.leadership().borrow(), Leadership::Stopped { .. }) {
                    continue;
                }
                if let Leadership::Leader { term } = *group.leadership().borrow() {
                    let known = *self.leaders.entry((id, term)).or_insert(node);
                    if known != node {
                        self.found(format!("nodes {known} and {node} lead group {id} in term {term}"));
                    }
                }
                let now =
                    Applied { process: process.number, replica: group.replica_id(), index: group.applied_index() };
                let before = self.applied.insert((node, id), now);
                let before = before.filter(|before| (before.process, before.replica) == (now.process, now.replica));
                if let Some(before) = before.filter(|before| before.index > now.index) {
                    self.found(format!("node {node} goes back from {} to {} in group {id}", before.index, now.index));
                }
                if system::on_node(node.0 as usize, || group.lease_valid(Instant::now())) {
                    leases.entry(id).or_default().push(node);
                }
                if group.purged_index() > group.durable_index() && group.purged_index().is_some() {
                    self.found(format!("node {node} has purged the log of group {id} behind its durable rows"));
                }
            }
        }
        for (group, nodes) in leases {
            if nodes.len() > 1 {
                self.found(format!("nodes {nodes:?} have leases of group {group} at one time"));
            }
        }
    }

    /// The rows of a node's replica of a group: at each position every replica has the same.
    pub(super) fn look_at_rows(&mut self, node: NodeId, state: &dyn StateEngine, group: GroupId) {
        let Some((position, sum)) = rows_of(state, group) else { return };
        let (known, at) = *self.rows.entry((group, position)).or_insert((sum, node));
        if known != sum {
            self.found(format!("nodes {at} and {node} have other rows of group {group} at the same position"));
        }
    }
}

/// The position of a node's replica of a group, and a sum of its rows.
pub(super) fn rows_of(state: &dyn StateEngine, group: GroupId) -> Option<(Bytes, u64)> {
    // One that has crashed has none to be looked at.
    let snapshot = state.snapshot(group).ok()?;
    let position = snapshot.applied()?;
    let mut sum = DefaultHasher::new();
    let mut add = |key: &[u8], value: &[u8]| {
        (key, value).hash(&mut sum);
        ControlFlow::Continue(())
    };
    snapshot.visit(None, &mut add).ok()?;
    Some((position, sum.finish()))
}
