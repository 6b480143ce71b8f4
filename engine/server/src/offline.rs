//! The engines of a node that serves nobody, for what is done to its data while it is stopped.

use std::sync::Arc;

use everlog_meta::Topology;
use everlog_raft::NodeOptions;
use everlog_storage::directory::DataDirectory;
use everlog_storage::log::LogEngine;
use everlog_storage::rocks_state::{RocksState, StateOptions};
use everlog_storage::segment_log::{LogOptions, SegmentLog};
use everlog_storage::state::StateEngine;

use crate::node::{META_GROUP, NodeError};

/// The groups of a stopped node, none of which is open, and their rows.
pub(crate) struct Offline {
    pub(crate) raft: everlog_raft::Node,
    pub(crate) state: Arc<RocksState>,
}

impl Offline {
    /// Opens the engines of a data directory.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub(crate) fn open(directory: &DataDirectory) -> Result<Offline, NodeError> {
        let log = Arc::new(SegmentLog::open(&directory.log_path(), LogOptions::default())?);
        let state = Arc::new(RocksState::open(&directory.state_path(), StateOptions::default())?);
        let rows = Arc::clone(&state) as Arc<dyn StateEngine>;
        let raft = everlog_raft::Node::new(NodeOptions::default(), log as Arc<dyn LogEngine>, rows);
        Ok(Offline { raft, state })
    }

    /// What there is of the cluster, by the metadata that this node has, applied or not.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub(crate) async fn topology(&self) -> Result<Topology, NodeError> {
        let tail = self.raft.tail(META_GROUP).await?;
        Ok(Topology::read(&*self.state, META_GROUP, &tail)?)
    }
}
