//! A cluster of one.

/// A cluster of one node: it leads everything, and everything is at home there.
#[derive(Clone, Copy, Debug)]
pub struct OneNode;
