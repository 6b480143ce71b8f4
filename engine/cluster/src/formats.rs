//! Has the cluster get the newest formats that all of its nodes read, and has nodes say which they read.
//!
//! ```text
//!   a node that starts ──announces what it reads──▶ whoever leads the metadata: row formats/<node>
//!   whoever leads the metadata: all that belong to the cluster have read a newer version for long enough ──▶ row formats
//!   an operator: everlog cluster finalize [--without-node n] ──▶ the same, at once, or without nodes that are lost
//! ```
//!
//! A node that does not read the cluster's version refuses to start, is refused by all others, and ends when it sees one coming. See
//! [`everlog_model::FormatVersion`] for who asks what may be written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use everlog_meta::{MetaError, Namespaces, Topology, TopologyChange, founded_formats};
use everlog_model::{FormatSource, FormatVersion, NodeId, ReadableFormats};
use everlog_transport::{Abilities, Links};

use crate::Places;

/// What nodes ask of each other that not all releases answer. Before it is sent, whoever sends it looks whether the other node takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// To write down which formats a node reads, and to raise the cluster's: `formats` and `finalize` of `SteerRequest`.
    Formats,
}

impl Feature {
    /// All that this release takes.
    const ALL: [Feature; 1] = [Feature::Formats];

    /// For ever.
    fn bit(self) -> u64 {
        match self {
            Feature::Formats => 1,
        }
    }

    /// Whether a node takes it.
    pub fn is_in(self, abilities: &Abilities) -> bool {
        abilities.features & self.bit() != 0
    }
}

/// What a node of this release that reads these formats says that it can.
pub fn abilities(readable: ReadableFormats) -> Abilities {
    let features = Feature::ALL.iter().fold(0, |features, feature| features | feature.bit());
    Abilities { formats: (readable.oldest.0, readable.newest.0), features }
}

/// What a node reads, and what it knows of the others.
pub struct Formats {
    /// The node.
    pub me: NodeId,
    /// What it reads.
    pub readable: ReadableFormats,
    /// The metadata.
    pub namespaces: Arc<Namespaces>,
    /// How the cluster should be, if there are other nodes.
    pub places: Option<Arc<Places>>,
    /// The connections to these.
    pub links: Option<Arc<dyn Links>>,
    /// How long all nodes must have read a newer version until the cluster has it; none: an operator says when.
    pub finalize_after: Option<Duration>,
}

impl Formats {
    /// Refuses to go on where the cluster has formats that this node does not read.
    ///
    /// # Errors
    ///
    /// One line for an operator.
    pub fn check(&self) -> Result<(), String> {
        self.readable.check(self.namespaces.format())
    }

    /// Resolves when the cluster has formats that this node does not read, by what it sees or by what another one says to it.
    pub fn outgrown(&self) -> impl Future<Output = String> + Send + 'static {
        let (namespaces, readable) = (Arc::clone(&self.namespaces), self.readable);
        let outdated = self.links.as_ref().map(|links| links.outdated());
        async move {
            let told = async {
                match outdated {
                    Some(outdated) => outdated.await,
                    None => std::future::pending().await,
                }
            };
            let seen = async {
                let mut version = namespaces.format();
                loop {
                    if let Err(why) = readable.check(version) {
                        return why;
                    }
                    namespaces.until_newer_format(version).await;
                    version = namespaces.format();
                }
            };
            tokio::select! {
                why = told => why,
                why = seen => why,
            }
        }
    }

    /// What is written down of formats when a cluster is founded by these nodes.
    pub fn founding(&self, founders: impl IntoIterator<Item = NodeId>) -> Vec<TopologyChange> {
        let said = founders.into_iter().map(|node| (node, self.said(node)));
        founded_formats(&said.collect::<BTreeMap<_, _>>(), self.readable)
    }

    /// What a node says that it reads, if that is known at the moment.
    fn said(&self, node: NodeId) -> Option<ReadableFormats> {
        if node == self.me {
            return Some(self.readable);
        }
        let abilities = self.links.as_ref()?.abilities(node)?;
        let (oldest, newest) = abilities.formats;
        Some(ReadableFormats::said(oldest, newest))
    }

    /// The nodes whose word counts.
    fn members(&self, topology: &Topology) -> BTreeSet<NodeId> {
        match &self.places {
            Some(places) => places.picture_of(topology).members().map(|(node, _)| node).collect(),
            None => BTreeSet::from([self.me]),
        }
    }

    /// Whether a node takes what it is asked about formats.
    pub(crate) fn takes(&self, node: NodeId) -> bool {
        let abilities = || self.links.as_ref()?.abilities(node);
        node == self.me || abilities().is_some_and(|abilities| Feature::Formats.is_in(&abilities))
    }

    /// Whether the metadata say what this node reads.
    pub(crate) fn is_announced(&self) -> bool {
        let topology = self.namespaces.topology();
        let said = topology.node_formats.get(&self.me);
        said.is_some_and(|said| said.readable == self.readable && said.left_out_of.is_none())
    }

    /// Writes down what a node reads. Only where the metadata are led.
    pub(crate) async fn note(&self, node: NodeId, readable: ReadableFormats) -> Result<(), MetaError> {
        self.namespaces
            .change_topology_once(|topology| {
                let is_member = self.members(topology).contains(&node);
                let changes = match is_member {
                    true => topology.announced(node, readable),
                    false => Err(format!("there is no node {node}")),
                };
                Ok((changes.map_err(|why| MetaError::Invalid(why.into()))?, ()))
            })
            .await
    }

    /// Has the cluster get the newest version that all members but those `without` read. Only where the metadata are led.
    pub(crate) async fn finalize(&self, without: &BTreeSet<NodeId>) -> Result<(), MetaError> {
        self.namespaces
            .change_topology_once(|topology| {
                let members = self.members(topology);
                let changes = topology.finalized(&members, without, self.readable, |node| self.said(node));
                Ok((changes.map_err(|why| MetaError::Invalid(why.into()))?, ()))
            })
            .await
    }

    /// Has the cluster get the newest version that all members read once they have for long enough. Only where the metadata are led. Returns the version if
    /// it is a new one.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn carry_on(&self, now_ms: u64) -> Result<Option<FormatVersion>, MetaError> {
        let next = |topology: &Topology| {
            let readable = topology.readable_by(self.members(topology), |node| self.said(node));
            let next = topology.format.next(readable.min(self.readable.newest), now_ms, self.finalize_after);
            (next != topology.format).then_some(next)
        };
        // Mostly there is nothing to do, which is seen without asking whether this node leads.
        if next(&self.namespaces.topology()).is_none() {
            return Ok(None);
        }
        self.namespaces
            .change_topology(|topology| {
                let next = next(topology);
                let raised = next.map(|next| next.version).filter(|version| *version > topology.format.version);
                Ok((next.map(TopologyChange::Format).into_iter().collect(), raised))
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_has_its_bit_for_ever() {
        assert_eq!(Feature::ALL.map(Feature::bit), [1]);
        let here = abilities(ReadableFormats::OF_THIS_RELEASE);
        assert!(here.reads(FormatVersion::NEWEST.0) && Feature::ALL.iter().all(|feature| feature.is_in(&here)));
        let earlier = Abilities::default();
        assert!(earlier.reads(1) && !earlier.reads(2) && !Feature::Formats.is_in(&earlier));
    }
}
