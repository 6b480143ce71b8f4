//! The RECOVERING file: what a data directory is being made part of, after most of its cluster was lost. While it is there no node may run on it.
//!
//! ```text
//! cluster 67e55044-10b1-426f-9247-bb680e5fe0c8
//! ```

use std::path::PathBuf;

use super::identity::write_synced;
use super::{DataDirectory, DirectoryError, Founding, exists, io_error, sync_directory};

const RECOVERING: &str = "RECOVERING";

impl DataDirectory {
    /// The id of the cluster that this directory is being made part of, if a recovery was begun and not finished.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn recovering(&self) -> Result<Option<uuid::Uuid>, DirectoryError> {
        let path = self.recovering_path();
        if !exists(&path)? {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(io_error(&path, "read the file"))?;
        let id = text.strip_prefix("cluster ").and_then(|id| id.trim_end().parse().ok());
        let corrupt = || DirectoryError::CorruptNode { path, why: "no line \"cluster <uuid>\"".to_owned() };
        id.map(Some).ok_or_else(corrupt)
    }

    /// Refuses a directory whose recovery was cut off.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Recovering`] then, and see [`DataDirectory::recovering`].
    pub fn check_whole(&self) -> Result<(), DirectoryError> {
        match self.recovering()? {
            Some(_) => Err(DirectoryError::Recovering { path: self.path().to_owned() }),
            None => Ok(()),
        }
    }

    /// Writes down that this directory is about to be made part of the cluster `cluster_id`. Until that is finished it is of no use.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn begin_recovery(&self, cluster_id: uuid::Uuid) -> Result<(), DirectoryError> {
        let path = self.recovering_path();
        write_synced(&path, &format!("cluster {cluster_id}\n")).map_err(io_error(&path, "write the file"))?;
        sync_directory(self.path())
    }

    /// Makes this directory part of the cluster that `founding` tells of. `is_bootstrapped`: whether it has the metadata; if not it waits for them,
    /// as a node that joins does.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn finish_recovery(&self, founding: &Founding, is_bootstrapped: bool) -> Result<(), DirectoryError> {
        self.found(founding)?;
        self.change_identity(|identity| {
            identity.cluster_id = founding.cluster_id;
            identity.is_bootstrapped = is_bootstrapped;
        })?;
        let path = self.recovering_path();
        std::fs::remove_file(&path).map_err(io_error(&path, "remove the file"))?;
        sync_directory(self.path())
    }

    fn recovering_path(&self) -> PathBuf {
        self.path().join(RECOVERING)
    }
}

#[cfg(test)]
mod tests {
    use super::super::FoundingMember;
    use super::*;

    #[test]
    fn a_directory_is_of_no_use_until_its_recovery_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(dir.path()).unwrap();
        let (before, after) = (uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2));
        directory.count_start(before, 3).unwrap();
        directory.finish_bootstrap().unwrap();
        directory.check_whole().unwrap();
        directory.begin_recovery(after).unwrap();
        directory.begin_recovery(after).unwrap();
        assert_eq!(directory.recovering().unwrap(), Some(after));
        let refused = directory.check_whole().unwrap_err().to_string();
        assert!(refused.contains("was cut off") && !refused.contains('\n'), "{refused}");

        let member = FoundingMember { directory_id: directory.id(), address: "n:1".to_owned(), disk: 0 };
        let founding = Founding {
            cluster_id: after,
            name: "c".to_owned(),
            proposer: directory.id(),
            attempt: 1,
            partitions: 6,
            election_timeout_ms: 500,
            members: vec![member],
            former: Vec::new(),
            joined: None,
        };
        directory.finish_recovery(&founding, false).unwrap();
        directory.check_whole().unwrap();
        let identity = directory.identity().unwrap().unwrap();
        assert_eq!((identity.cluster_id, identity.node_id, identity.start_count), (after, 3, 1));
        assert!(!identity.is_bootstrapped);
        assert_eq!(directory.founded().unwrap(), Some(founding));

        directory.begin_recovery(after).unwrap();
        std::fs::write(directory.recovering_path(), "nonsense").unwrap();
        directory.recovering().unwrap_err();
    }
}
