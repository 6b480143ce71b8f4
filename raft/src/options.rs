//! The settings of a node, with their units and reasons.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy, StepDownPolicy};

use crate::node::NodeError;
use crate::types::NodeInfo;

/// Settings of a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// This node. Its id must not change over the life of its data: a group that it creates takes it as replica id.
    pub node: NodeInfo,
    /// Name of the cluster, for log lines.
    pub cluster_name: String,
    /// How often a leader says that it lives. A group whose only member is this node sends none and does not tick at all.
    pub heartbeat_interval: Duration,
    /// Shortest silence after which a follower campaigns. More than ten times the 99th percentile of an fsync.
    pub election_timeout_min: Duration,
    /// Longest such silence. Every node must have the same value: leases are derived from it.
    pub election_timeout_max: Duration,
    /// Entry cache of one group, in bytes of payload. Entries that are not yet durable and applied stay beyond it.
    pub entry_cache_bytes_max: usize,
    /// Largest batch that is proposed, in bytes as encoded. A multiple of what a request may carry; what every replica, and every
    /// connection between them, must be able to hold at once.
    pub entry_bytes_max: usize,
    /// Most entries that are applied in one write to the state engine.
    pub apply_entries_max: usize,
    /// Payload bytes after which a write to the state engine is not added to.
    pub apply_bytes_max: usize,
    /// Payload bytes applied since the last flush, over all groups, that cause the next one. Bounds the replay after a crash.
    pub flush_bytes: u64,
    /// Entries applied since the last flush in any one group that cause the next one. Bounds the log.
    pub flush_entries: u64,
    /// Rows never stay unflushed for longer, so that an idle group's log does not stay either.
    pub flush_interval: Duration,
    /// Durable entries that are kept in the log all the same, for followers that lag: bytes on disk, over all groups; the largest logs give
    /// first. A start reads them.
    pub log_tail_bytes: u64,
    /// What each group may keep of it, however many there are.
    pub log_tail_bytes_min: u64,
    /// Bytes a second that this node takes in at most to seed replicas that fell behind the log: disk and network are there for others, too.
    pub seed_bytes_per_second: u64,
}

impl Default for NodeOptions {
    fn default() -> NodeOptions {
        NodeOptions {
            node: NodeInfo { node_id: 1, ..NodeInfo::default() },
            cluster_name: "everlog".to_string(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(400),
            election_timeout_max: Duration::from_millis(800),
            entry_cache_bytes_max: 2 << 20,
            entry_bytes_max: 8 << 20,
            apply_entries_max: 512,
            apply_bytes_max: 1 << 20,
            flush_bytes: 64 << 20,
            flush_entries: 200_000,
            flush_interval: Duration::from_secs(30),
            log_tail_bytes: 32 << 20,
            log_tail_bytes_min: 128 << 10,
            seed_bytes_per_second: 64 << 20,
        }
    }
}

impl NodeOptions {
    /// openraft's configuration of a group. `ticks` is false for a group whose only member is this node: it has nobody to
    /// send heartbeats to and nobody whose silence could mean anything, and an idle group then costs no CPU at all.
    pub(crate) fn raft_config(&self, ticks: bool) -> Result<Config, NodeError> {
        let heartbeat_interval = millis(self.heartbeat_interval);
        let config = Config {
            cluster_name: self.cluster_name.clone(),
            heartbeat_interval,
            // A follower that acknowledged replication within the interval needs no heartbeat.
            heartbeat_min_interval: Some(heartbeat_interval),
            election_timeout_min: millis(self.election_timeout_min),
            election_timeout_max: millis(self.election_timeout_max),
            enable_tick: ticks,
            enable_pre_vote: Some(true),
            // The saved committed index lags and rows may roll back in a crash, so a leader that restarts must be elected
            // again: only the commit of its new term proves what was committed before.
            enable_leader_restore: Some(false),
            // The flusher alone decides when a snapshot position moves and what is purged.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::from(u32::MAX),
            purge_batch_size: 1024,
            max_payload_entries: 512,
            max_append_entries: Some(4096),
            api_channel_size: Some(4096),
            removed_leader_step_down: StepDownPolicy::After(150),
            ..Config::default()
        };
        config.validate().map_err(|error| NodeError(format!("raft settings: {error}")))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
