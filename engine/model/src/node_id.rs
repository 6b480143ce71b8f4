//! Which node of the cluster.

/// A node. Numbers begin with 1 and are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A cluster of one node: it leads everything, and everything is at home there.
#[derive(Clone, Copy, Debug)]
pub struct OneNode;
