//! The metadata of a cluster, as nodes see it that do not lead its group.
//!
//! A node's view follows what is applied on it, which comes a little later than where the group is led. Whoever must not miss a change
//! that somebody was told of asks the leader how far the metadata has come, and waits until the view is there.

use everlog_model::SlotSource;
use everlog_raft::{ChainPosition, ReadConsistency};
use everlog_storage::NodeId;
use tokio::time::Instant;

use super::{MetaError, Namespaces};

impl Namespaces {
    /// The other node that leads the metadata, as far as is known.
    pub fn leader(&self) -> Option<NodeId> {
        let me = self.me?;
        self.group.read().leader().filter(|leader| *leader != me)
    }

    /// How far the metadata has come, if this node leads it.
    ///
    /// # Errors
    ///
    /// [`MetaError::LedElsewhere`] or [`MetaError::Unavailable`] if it does not, or cannot tell.
    pub async fn position(&self) -> Result<ChainPosition, MetaError> {
        if let Some(leader) = self.leader() {
            return Err(MetaError::LedElsewhere(leader));
        }
        let group = self.group.read().clone();
        let confirmed = group.read_barrier(ReadConsistency::Lease).await;
        confirmed.map_err(|error| MetaError::Unavailable(error.to_string()))?;
        Ok(group.applied_chain().position)
    }

    /// Waits until the view has what `ask`, given the node that leads the metadata, says is there. Callers that come while others wait
    /// share their answer if it was asked for after they came.
    ///
    /// # Errors
    ///
    /// What `ask` says.
    pub async fn catch_up_with<E>(&self, ask: impl AsyncFnOnce(NodeId) -> Result<ChainPosition, E>) -> Result<(), E> {
        let came = Instant::now();
        let mut looked = self.looking.lock().await;
        if looked.is_some_and(|looked| looked > came) {
            return Ok(());
        }
        // Whoever leads has all of it.
        let Some(leader) = self.leader() else { return Ok(()) };
        let asked = Instant::now();
        let position = ask(leader).await?;
        // An error means that the server stops.
        let _ = self.view_at(position).await;
        *looked = Some(asked);
        Ok(())
    }

    /// How far this node's view has come.
    pub fn seen(&self) -> ChainPosition {
        self.view.borrow().position
    }

    /// Waits until the view has come so far.
    pub async fn until_seen(&self, position: ChainPosition) {
        // An error means that the server stops.
        let _ = self.view_at(position).await;
    }

    /// Whether it is known which partition holds which slot.
    pub fn is_founded(&self) -> bool {
        !self.default_partitions().is_empty()
    }
}
