//! What the metadata say of the formats that the cluster writes, and of those that its nodes read.
//!
//! | row | content |
//! |---|---|
//! | `formats` | the version that the cluster has, and since when all nodes read a newer one ([`ClusterFormat`]) |
//! | `formats/<node>` | what a node reads, as it said when it started, and whether the cluster went on without it ([`NodeFormats`]) |
//!
//! A node's formats are no part of its row `node/<node>`: a release that knows of no formats writes that one, and would forget them.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_model::{FormatSource, FormatVersion, ReadableFormats};
use everlog_storage::NodeId;
use prost::Message;

use super::topology::{Topology, TopologyChange};
use super::view::View;
use super::{MetaError, Namespaces};

/// The version of formats that a cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterFormat {
    /// Whoever writes, writes no newer one.
    pub version: FormatVersion,
    /// Whether the cluster is being founded: nobody may want to go back to an earlier release, so it is raised as soon as all nodes have said what they read.
    pub is_new: bool,
    /// The newer version that all nodes read, and since when.
    pub ready: Option<ReadyFormat>,
}

/// A version that all nodes read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyFormat {
    /// Which one.
    pub version: FormatVersion,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
}

/// What a node reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFormats {
    /// What it said.
    pub readable: ReadableFormats,
    /// The version that the cluster got without it: its release must be replaced, or the node.
    pub left_out_of: Option<FormatVersion>,
}

impl Default for ClusterFormat {
    /// Of a cluster in whose metadata nothing is said of it.
    fn default() -> ClusterFormat {
        ClusterFormat { version: FormatVersion::FIRST, is_new: false, ready: None }
    }
}

impl Default for NodeFormats {
    /// Of a node that has said nothing.
    fn default() -> NodeFormats {
        NodeFormats { readable: ReadableFormats::FIRST, left_out_of: None }
    }
}

#[derive(Clone, PartialEq, Message)]
struct ClusterFormatMessage {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bool, tag = "2")]
    is_new: bool,
    #[prost(uint32, tag = "3")]
    ready_version: u32,
    #[prost(uint64, tag = "4")]
    ready_since_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct NodeFormatsMessage {
    #[prost(uint32, tag = "1")]
    oldest: u32,
    #[prost(uint32, tag = "2")]
    newest: u32,
    /// 0: of none.
    #[prost(uint32, tag = "3")]
    left_out_of: u32,
}

fn corrupt(what: &str, why: impl std::fmt::Display) -> MetaError {
    MetaError::Corrupt(format!("{what}: {why}"))
}

impl ClusterFormat {
    /// Of a cluster that has this version for good.
    pub fn of(version: FormatVersion) -> ClusterFormat {
        ClusterFormat { version, ..ClusterFormat::default() }
    }

    /// The value of its row.
    pub fn encode(self) -> Bytes {
        let message = ClusterFormatMessage {
            version: self.version.0,
            is_new: self.is_new,
            ready_version: self.ready.map_or(0, |ready| ready.version.0),
            ready_since_ms: self.ready.map_or(0, |ready| ready.since_ms),
        };
        message.encode_to_vec().into()
    }

    /// What a row says.
    ///
    /// # Errors
    ///
    /// [`MetaError::Corrupt`] if that means nothing.
    pub fn decode(value: &[u8]) -> Result<ClusterFormat, MetaError> {
        const WHAT: &str = "format of the cluster";
        let message = ClusterFormatMessage::decode(value).map_err(|error| corrupt(WHAT, error))?;
        let ClusterFormatMessage { version, is_new, ready_version, ready_since_ms: since_ms } = message;
        if version == 0 {
            return Err(corrupt(WHAT, "it has no version"));
        }
        let ready = (ready_version > 0).then_some(ReadyFormat { version: FormatVersion(ready_version), since_ms });
        Ok(ClusterFormat { version: FormatVersion(version), is_new, ready })
    }

    /// What follows when all nodes read `readable` and it is `now_ms`, if that is something else: a newer version that all read is had once they have read it
    /// for `hold`; for ever not, if there is none.
    pub fn next(self, readable: FormatVersion, now_ms: u64, hold: Option<Duration>) -> ClusterFormat {
        if readable <= self.version {
            return ClusterFormat { ready: None, ..self };
        }
        let hold_ms = hold.map(|hold| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX));
        match self.ready.filter(|ready| ready.version == readable) {
            _ if self.is_new => ClusterFormat::of(readable),
            Some(ready) if hold_ms.is_some_and(|hold| now_ms.saturating_sub(ready.since_ms) >= hold) => {
                ClusterFormat::of(readable)
            }
            Some(_) => self,
            None => ClusterFormat { ready: Some(ReadyFormat { version: readable, since_ms: now_ms }), ..self },
        }
    }
}

impl NodeFormats {
    /// The value of its row.
    pub fn encode(self) -> Bytes {
        let message = NodeFormatsMessage {
            oldest: self.readable.oldest.0,
            newest: self.readable.newest.0,
            left_out_of: self.left_out_of.map_or(0, |version| version.0),
        };
        message.encode_to_vec().into()
    }

    /// What a row says.
    ///
    /// # Errors
    ///
    /// [`MetaError::Corrupt`] if that means nothing.
    pub fn decode(value: &[u8]) -> Result<NodeFormats, MetaError> {
        const WHAT: &str = "formats of a node";
        let message = NodeFormatsMessage::decode(value).map_err(|error| corrupt(WHAT, error))?;
        let NodeFormatsMessage { oldest, newest, left_out_of } = message;
        if oldest == 0 || oldest > newest {
            return Err(corrupt(WHAT, "it reads none"));
        }
        let left_out_of = (left_out_of > 0).then_some(FormatVersion(left_out_of));
        Ok(NodeFormats { readable: ReadableFormats::said(oldest, newest), left_out_of })
    }
}

impl Topology {
    /// What a node reads, as far as it has said so.
    pub fn formats_of(&self, node: NodeId) -> NodeFormats {
        self.node_formats.get(&node).copied().unwrap_or_default()
    }

    /// The newest version that all of these nodes read, by what they have said and by what they say now: one that was restarted with an earlier release may
    /// not have got round to saying so.
    pub fn readable_by(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
        now: impl Fn(NodeId) -> Option<ReadableFormats>,
    ) -> FormatVersion {
        let newest = |node| {
            let NodeFormats { readable, left_out_of } = self.formats_of(node);
            // Nobody waits for a node that was left out.
            let said = left_out_of.is_none().then_some(readable.newest)?;
            Some(now(node).map_or(said, |now| now.newest.min(said)))
        };
        nodes.into_iter().filter_map(newest).min().unwrap_or(FormatVersion::FIRST)
    }

    /// The change that has the metadata say what a node reads, if they do not.
    ///
    /// # Errors
    ///
    /// One line if the node does not read what the cluster has.
    pub fn announced(&self, node: NodeId, readable: ReadableFormats) -> Result<Vec<TopologyChange>, String> {
        readable.check(self.format.version).map_err(|why| format!("node {node}: {why}"))?;
        let said = NodeFormats { readable, left_out_of: None };
        let is_known = self.node_formats.get(&node) == Some(&said);
        Ok(if is_known { Vec::new() } else { vec![TopologyChange::NodeFormats(node, said)] })
    }

    /// The changes with which the cluster has the newest version that all `members` but those `without` read, of those that this node reads.
    ///
    /// # Errors
    ///
    /// One line if a member is in the way, or need not be left out.
    pub fn finalized(
        &self,
        members: &BTreeSet<NodeId>,
        without: &BTreeSet<NodeId>,
        here: ReadableFormats,
        now: impl Fn(NodeId) -> Option<ReadableFormats>,
    ) -> Result<Vec<TopologyChange>, String> {
        if let Some(unknown) = without.difference(members).next() {
            return Err(format!("there is no node {unknown}"));
        }
        if let Some(up) = without.iter().find(|node| now(**node).is_some()) {
            return Err(format!("node {up} answers, so it is not lost: start it with a release that reads {here}"));
        }
        let others = members.difference(without).copied();
        let version = self.readable_by(others, &now).min(here.newest);
        let has = self.format.version;
        if version <= has && has < here.newest {
            let next = FormatVersion(has.0 + 1);
            let others = members.difference(without).filter(|node| self.formats_of(**node).left_out_of.is_none());
            let mut reads = others.map(|node| (*node, self.readable_by([*node], &now)));
            let (node, reads) = reads.find(|(_, reads)| *reads < next).ok_or("no node is left")?;
            return Err(format!(
                "the cluster keeps format {has}: node {node} reads no newer one than format {reads}. Start it with the new release, or, if it is lost, \
                 leave it out: --without-node {node}"
            ));
        }
        if let Some(able) = without.iter().find(|node| self.formats_of(**node).readable.newest >= version.max(has)) {
            return Err(format!("node {able} reads format {}: it need not be left out", version.max(has)));
        }
        if version <= has {
            return Ok(Vec::new());
        }
        let left_out = without.iter().map(|node| {
            let said = NodeFormats { left_out_of: Some(version), ..self.formats_of(*node) };
            TopologyChange::NodeFormats(*node, said)
        });
        Ok(left_out.chain([TopologyChange::Format(ClusterFormat::of(version))]).collect())
    }
}

/// What is written down of formats when a cluster is founded with nodes that say what they read; `here` is what the one reads that writes it.
pub fn founded_formats(said: &BTreeMap<NodeId, Option<ReadableFormats>>, here: ReadableFormats) -> Vec<TopologyChange> {
    let known = said.iter().filter_map(|(node, said)| Some((*node, (*said)?)));
    let known: Vec<_> = known
        .map(|(node, ReadableFormats { oldest, newest })| {
            let readable = ReadableFormats { oldest, newest: newest.min(here.newest) };
            (node, NodeFormats { readable, left_out_of: None })
        })
        .collect();
    let version = known.iter().map(|(_, formats)| formats.readable.newest).min().unwrap_or(FormatVersion::FIRST);
    let format = match known.len() == said.len() {
        true => ClusterFormat::of(version),
        false => ClusterFormat { is_new: true, ..ClusterFormat::default() },
    };
    let known = known.into_iter().map(|(node, formats)| TopologyChange::NodeFormats(node, formats));
    known.chain([TopologyChange::Format(format)]).collect()
}

impl FormatSource for Namespaces {
    fn format(&self) -> FormatVersion {
        self.view.borrow().topology.format.version
    }

    fn until_newer_format(&self, than: FormatVersion) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut view = self.view.clone();
        Box::pin(async move {
            let newer = |view: &Arc<View>| view.topology.format.version > than;
            if view.wait_for(newer).await.is_err() {
                // The server stops.
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn reads(newest: u32) -> ReadableFormats {
        ReadableFormats::said(1, newest)
    }

    /// Nodes that have said that they read up to these versions; 0 has said nothing.
    fn topology(newest: &[u32]) -> Topology {
        let said = (1..).zip(newest).filter(|(_, newest)| **newest > 0);
        let said =
            said.map(|(node, newest)| (NodeId(node), NodeFormats { readable: reads(*newest), left_out_of: None }));
        Topology { node_formats: said.collect(), ..Topology::default() }
    }

    fn nodes(ids: &[u32]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn take(topology: &mut Topology, changes: Vec<TopologyChange>) {
        for change in changes {
            match change {
                TopologyChange::Format(format) => topology.format = format,
                TopologyChange::NodeFormats(node, formats) => drop(topology.node_formats.insert(node, formats)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_row_formats_are_for_ever() {
        let ready = Some(ReadyFormat { version: FormatVersion(300), since_ms: 300 });
        for (format, golden) in [
            (ClusterFormat::default(), "0801"),
            (ClusterFormat { is_new: true, ..ClusterFormat::of(FormatVersion(2)) }, "08021001"),
            (ClusterFormat { ready, ..ClusterFormat::of(FormatVersion(2)) }, "080218ac0220ac02"),
        ] {
            assert_eq!(hex(&format.encode()), golden);
            assert_eq!(ClusterFormat::decode(&format.encode()), Ok(format));
        }
        for (formats, golden) in [
            (NodeFormats::default(), "08011001"),
            (NodeFormats { readable: reads(2), left_out_of: Some(FormatVersion(3)) }, "080110021803"),
        ] {
            assert_eq!(hex(&formats.encode()), golden);
            assert_eq!(NodeFormats::decode(&formats.encode()), Ok(formats));
        }
        for bytes in [&b""[..], b"\xff", b"\x10\x01", b"\x08\x02\x10\x01"] {
            assert!(matches!(NodeFormats::decode(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
        }
        for bytes in [&b""[..], b"\xff", b"\x10\x01"] {
            assert!(matches!(ClusterFormat::decode(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
        }
    }

    #[test]
    fn a_version_that_all_read_is_had_when_they_have_read_it_for_long_enough() {
        let hour = u64::try_from(HOUR.as_millis()).unwrap();
        let old = ClusterFormat::default();
        let two = FormatVersion(2);
        assert_eq!(old.next(FormatVersion::FIRST, 5, Some(HOUR)), old);
        let ready = old.next(two, 5, Some(HOUR));
        assert_eq!(ready.ready, Some(ReadyFormat { version: two, since_ms: 5 }));
        assert_eq!(ready.next(two, 5 + hour - 1, Some(HOUR)), ready);
        assert_eq!(ready.next(two, 5 + hour, Some(HOUR)), ClusterFormat::of(two));
        assert_eq!(ready.next(two, 5 + 1000 * hour, None), ready, "never by itself");
        // One of them went back to the earlier release, and comes again: it begins anew.
        assert_eq!(ready.next(FormatVersion::FIRST, 6, Some(HOUR)), old);
        // They read a still newer one.
        let three = ready.next(FormatVersion(3), 7, Some(HOUR));
        assert_eq!(three.ready, Some(ReadyFormat { version: FormatVersion(3), since_ms: 7 }));
        // A clock that went back raises nothing.
        assert_eq!(ready.next(two, 0, Some(HOUR)), ready);
        let new = ClusterFormat { is_new: true, ..old };
        assert_eq!(new.next(two, 5, None), ClusterFormat::of(two));
        assert_eq!(new.next(FormatVersion::FIRST, 5, None), new);
    }

    #[test]
    fn a_node_that_is_down_counts_by_what_it_said_and_one_that_is_up_also_by_what_it_says() {
        let topology = topology(&[2, 2, 2]);
        let all = nodes(&[1, 2, 3]);
        assert_eq!(topology.readable_by(all.clone(), |_| None), FormatVersion(2));
        let went_back = |node| (node == NodeId(3)).then_some(reads(1));
        assert_eq!(topology.readable_by(all, went_back), FormatVersion(1));
        assert_eq!(topology.readable_by(nodes(&[1, 4]), |_| None), FormatVersion(1), "node 4 has said nothing");
    }

    #[test]
    fn a_cluster_goes_on_without_lost_nodes_and_they_are_marked() {
        let here = reads(2);
        let mut topology = topology(&[2, 2, 0, 2]);
        let all = nodes(&[1, 2, 3, 4]);
        let up = |node: NodeId| (node != NodeId(3)).then_some(here);
        let why = topology.finalized(&all, &nodes(&[]), here, up).unwrap_err();
        assert!(why.contains("node 3 reads no newer one than format 1") && why.ends_with("--without-node 3"), "{why}");
        let why = topology.finalized(&all, &nodes(&[4]), here, up).unwrap_err();
        assert!(why.contains("node 4 answers"), "{why}");
        assert_eq!(topology.finalized(&all, &nodes(&[9]), here, up), Err("there is no node 9".to_owned()));
        let able = topology.finalized(&all, &nodes(&[3, 4]), here, |_| None).unwrap_err();
        assert_eq!(able, "node 4 reads format 2: it need not be left out");

        let changes = topology.finalized(&all, &nodes(&[3]), here, up).unwrap();
        take(&mut topology, changes);
        assert_eq!(topology.format, ClusterFormat::of(FormatVersion(2)));
        assert_eq!(topology.formats_of(NodeId(3)).left_out_of, Some(FormatVersion(2)));
        assert_eq!(topology.finalized(&all, &nodes(&[]), here, up), Ok(Vec::new()), "again");
        // It comes back as it was, and with another release.
        let why = topology.announced(NodeId(3), reads(1)).unwrap_err();
        assert_eq!(
            why,
            "node 3: the cluster has format 2, and this release reads format 1: start a release that reads format 2"
        );
        let changes = topology.announced(NodeId(3), here).unwrap();
        take(&mut topology, changes);
        assert_eq!(topology.formats_of(NodeId(3)), NodeFormats { readable: here, left_out_of: None });
        assert_eq!(topology.announced(NodeId(3), here), Ok(Vec::new()));
    }

    #[test]
    fn a_new_cluster_has_the_newest_that_all_of_its_founders_read() {
        let founded = |said: &[(u32, Option<u32>)], here| {
            let said = said.iter().map(|(node, newest)| (NodeId(*node), newest.map(reads))).collect();
            let mut topology = Topology::default();
            take(&mut topology, founded_formats(&said, reads(here)));
            topology
        };
        let one = founded(&[(1, Some(2))], 2);
        assert_eq!((one.format, one.node_formats.len()), (ClusterFormat::of(FormatVersion(2)), 1));
        assert_eq!(founded(&[(1, Some(2)), (2, Some(9))], 2).format, ClusterFormat::of(FormatVersion(2)));
        assert_eq!(founded(&[(1, Some(2)), (2, Some(1))], 2).format, ClusterFormat::of(FormatVersion(1)));
        let unsure = founded(&[(1, Some(2)), (2, None)], 2);
        assert_eq!(unsure.format, ClusterFormat { is_new: true, ..ClusterFormat::default() });
        assert_eq!(unsure.formats_of(NodeId(1)).readable, reads(2));
    }
}
