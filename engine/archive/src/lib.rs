//! The archive: where runs are kept once their retention is over, as objects in files or in S3.
//!
//! ```text
//!   file:///archive            a namespace's URI; what is below it is the same for s3://bucket/path
//!   └─ <namespace id>
//!      ├─ history/<run id>/000000.pb, 000001.pb, ...             the events of a run, in the order in which they were written
//!      └─ visibility/<day of its end>/<how much of that was left>-<run id>.pb     what lists show of it
//! ```
//!
//! Names follow from the run alone, so what is archived again is the same objects, written once more. [`HistoryUpload`] has the form of
//! the one kind and [`records`](Records) that of the other. Nothing here knows why something is archived, or when; and nothing is ever deleted here.

mod history;
mod records;
mod stores;
mod uri;

use everlog_kernel::{NamespaceId, RunId};

pub use history::{HistoryPage, HistoryPosition, HistoryUpload, PageSize, read_history};
pub use records::{RecordPosition, Records, put_record};
pub use stores::{Archive, Place};

/// What an operator sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// Histories.
    pub history: PartOptions,
    /// What lists show.
    pub visibility: PartOptions,
    /// Whether `file://` may be archived to, and where.
    pub file: Option<FileOptions>,
    /// What `s3://` means.
    pub s3: Option<S3Options>,
}

/// What an operator sets of histories, or of what lists show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartOptions {
    /// Whether it is archived where namespaces say so.
    pub is_enabled: bool,
    /// Whether what was archived can be read.
    pub is_read: bool,
    /// Whether a new namespace is archived that says nothing of it.
    pub is_default: bool,
    /// Where a namespace is archived that does not say where.
    pub default_uri: String,
}

/// Where files may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// The directory that all of them are in; anywhere, if there is none.
    pub root: Option<String>,
}

/// A service that speaks S3.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Options {
    /// Its URL; that of AWS in the region, if there is none.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: String,
    /// Whose it is that is archived.
    pub access_key_id: String,
    /// What proves that.
    pub secret_access_key: String,
    /// Whether a bucket is the first part of a path, and not of a host's name.
    pub path_style: bool,
}

/// Without the secret.
impl std::fmt::Debug for S3Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Options")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .field("path_style", &self.path_style)
            .finish_non_exhaustive()
    }
}

/// A run in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedRun {
    /// Its namespace.
    pub namespace_id: NamespaceId,
    /// What that is called.
    pub namespace: String,
    /// Its workflow.
    pub workflow_id: String,
    /// Which one it is.
    pub run_id: RunId,
}

/// Why something was not archived, or not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Nothing can be archived to that URI. In Temporal's words.
    #[error("{0}")]
    Uri(String),
    /// There is no history of that run.
    #[error("requested workflow history does not exist")]
    NoHistory,
    /// The store does not do it now.
    #[error("the archive does not answer: {0}")]
    Unavailable(String),
    /// What is stored is not what it should be.
    #[error("the archive is not readable: {0}")]
    Corrupt(String),
}

impl From<object_store::Error> for ArchiveError {
    fn from(error: object_store::Error) -> ArchiveError {
        ArchiveError::Unavailable(error.to_string())
    }
}
