//! Which formats of rows, entries and logs there are: the cluster has one version of them, and a release writes nothing that this version does not
//! have, whatever else it can read.
//!
//! ```text
//!   release A reads 1          node 1 ──announces 1–2──▶ metadata: all that belong to the cluster read 2
//!   release B reads 1 to 2                                  │ some time later, or `everlog cluster finalize`
//!                                                           ▼
//!                                              the cluster has format 2: only now may anybody write what A would not understand
//! ```
//!
//! While nodes of both releases are there, leads go back and forth between them. So whoever leads takes the version when its lead begins and keeps it
//! for that lead; when there is a newer one, the lead begins anew. Of the metadata each change is decided on the version that it stands behind.
//!
//! What needs no version: a field of a message between nodes that may be passed over, and a kind of message that the other end says it
//! takes (the transport's `features`).

use std::fmt;
use std::pin::Pin;

/// A version of the formats, as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FormatVersion(pub u32);

impl FormatVersion {
    /// What was there before there were versions.
    pub const FIRST: FormatVersion = FormatVersion(1);

    /// The newest that this release knows.
    pub const NEWEST: FormatVersion = FormatVersion(2);

    /// Whether something may be written in a cluster that has this version. Whoever writes what not all versions have asks here, and nowhere else.
    ///
    /// # Errors
    ///
    /// [`NotYet`] if not.
    pub fn allows(self, what: Gated) -> Result<(), NotYet> {
        if what.since() <= self { Ok(()) } else { Err(NotYet { what, version: self }) }
    }
}

impl fmt::Display for FormatVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What not all versions have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gated {
    /// Rows about slots that move from one partition to another, in the metadata and in partitions.
    SlotMoves,
}

impl Gated {
    /// The first version that has it.
    pub fn since(self) -> FormatVersion {
        match self {
            Gated::SlotMoves => FormatVersion(2),
        }
    }
}

impl fmt::Display for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Gated::SlotMoves => "a namespace with data cannot move to other partitions",
        })
    }
}

/// Something cannot be written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} before the cluster has format {}, and it has format {version}: that is raised once all nodes run a release that reads it (everlog cluster \
     status, everlog cluster finalize)",
    what.since()
)]
pub struct NotYet {
    /// What.
    pub what: Gated,
    /// What the cluster has, or had when the lead began.
    pub version: FormatVersion,
}

/// The versions that a release reads, all of them from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadableFormats {
    /// The oldest one.
    pub oldest: FormatVersion,
    /// The newest one.
    pub newest: FormatVersion,
}

impl ReadableFormats {
    /// What a node reads that has never said so: releases before there were versions.
    pub const FIRST: ReadableFormats = ReadableFormats { oldest: FormatVersion::FIRST, newest: FormatVersion::FIRST };

    /// What this release reads.
    pub const OF_THIS_RELEASE: ReadableFormats =
        ReadableFormats { oldest: FormatVersion::FIRST, newest: FormatVersion::NEWEST };

    /// What a node says that it reads; 0 if it does not say so.
    pub fn said(oldest: u32, newest: u32) -> ReadableFormats {
        match (oldest, newest) {
            (0, _) | (_, 0) => ReadableFormats::FIRST,
            (oldest, newest) => ReadableFormats { oldest: FormatVersion(oldest), newest: FormatVersion(newest) },
        }
    }

    /// Whether a version is among them.
    pub fn contains(self, version: FormatVersion) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// Refuses a cluster with a version that is not among them.
    ///
    /// # Errors
    ///
    /// One line for an operator.
    pub fn check(self, version: FormatVersion) -> Result<(), String> {
        match self.contains(version) {
            true => Ok(()),
            false => Err(format!(
                "the cluster has format {version}, and this release reads {self}: start a release that reads format {version}"
            )),
        }
    }
}

impl Default for ReadableFormats {
    fn default() -> ReadableFormats {
        ReadableFormats::OF_THIS_RELEASE
    }
}

impl fmt::Display for ReadableFormats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "format {}", self.newest),
            false => write!(f, "formats {} to {}", self.oldest, self.newest),
        }
    }
}

/// Tells which version the cluster has.
pub trait FormatSource: Send + Sync + 'static {
    /// The version, as far as this node has seen: it is never an older one later.
    fn format(&self) -> FormatVersion;

    /// Resolves when it is a newer one than `than`.
    fn until_newer_format(&self, than: FormatVersion) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// A cluster whose version never changes.
impl FormatSource for FormatVersion {
    fn format(&self) -> FormatVersion {
        *self
    }

    fn until_newer_format(&self, _: FormatVersion) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_version_does_not_have_is_refused_in_a_line() {
        assert_eq!(FormatVersion(2).allows(Gated::SlotMoves), Ok(()));
        assert_eq!(FormatVersion(3).allows(Gated::SlotMoves), Ok(()));
        let why = FormatVersion::FIRST.allows(Gated::SlotMoves).map_err(|why| why.to_string());
        let text = "a namespace with data cannot move to other partitions before the cluster has format 2, and it has format 1: that is raised \
                    once all nodes run a release that reads it (everlog cluster status, everlog cluster finalize)";
        assert_eq!(why, Err(text.to_owned()));
    }

    #[test]
    fn a_release_reads_its_range_and_nothing_else() {
        let range = ReadableFormats::said(2, 3);
        assert_eq!([1, 2, 3, 4].map(|version| range.contains(FormatVersion(version))), [false, true, true, false]);
        assert_eq!(ReadableFormats::said(0, 0), ReadableFormats::FIRST, "it was made before there were versions");
        let why = ReadableFormats::FIRST.check(FormatVersion(2));
        let text = "the cluster has format 2, and this release reads format 1: start a release that reads format 2";
        assert_eq!(why, Err(text.to_owned()));
        assert_eq!(range.check(FormatVersion(3)), Ok(()));
        assert_eq!(range.to_string(), "formats 2 to 3");
        // This release reads what it writes, and all that every gate asks for.
        assert!(ReadableFormats::OF_THIS_RELEASE.contains(FormatVersion::NEWEST));
        assert!(Gated::SlotMoves.since() <= FormatVersion::NEWEST);
    }
}
