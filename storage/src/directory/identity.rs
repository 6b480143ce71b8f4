//! The NODE file: which node of which cluster a data directory belongs to.
//!
//! ```text
//! cluster 67e55044-10b1-426f-9247-bb680e5fe0c8
//! node 1
//! starts 17
//! bootstrap done
//! ```
//!
//! Written to another file, synced and renamed, so that there is always a whole one. Lines that are not known are an error of nobody:
//! they are dropped at the next start, so whoever adds one raises the format of the directory.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::{DataDirectory, DirectoryError, LOG, NODE, STATE, exists, holds_data, io_error, sync_directory};

const NODE_UNFINISHED: &str = "NODE.new";

/// Who a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The cluster.
    pub cluster_id: uuid::Uuid,
    /// The node's id in it, from 1.
    pub node_id: u32,
    /// How often the node was started; of two values that are claimed for one node the greater is the newer.
    pub start_count: u32,
    /// Whether the groups that a cluster begins with were all created. Until then, whoever starts the node goes on creating them.
    pub is_bootstrapped: bool,
}

impl NodeIdentity {
    fn encode(&self) -> String {
        let NodeIdentity { cluster_id, node_id, start_count, is_bootstrapped } = self;
        let bootstrap = if *is_bootstrapped { "done" } else { "pending" };
        format!("cluster {cluster_id}\nnode {node_id}\nstarts {start_count}\nbootstrap {bootstrap}\n")
    }

    fn decode(text: &str) -> Result<NodeIdentity, &'static str> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let number = |name: &str| value(name).and_then(|number| number.parse().ok());
        Ok(NodeIdentity {
            cluster_id: value("cluster").and_then(|id| id.parse().ok()).ok_or("no line \"cluster <uuid>\"")?,
            node_id: number("node").filter(|id| *id > 0).ok_or("no line \"node <number>\"")?,
            start_count: number("starts").ok_or("no line \"starts <number>\"")?,
            is_bootstrapped: match value("bootstrap") {
                Some("done") => true,
                Some("pending") => false,
                _ => return Err("no line \"bootstrap done\" or \"bootstrap pending\""),
            },
        })
    }
}

impl DataDirectory {
    /// Who this node is, with this start counted, and durably so. A directory that is used for the first time becomes node `node_id` of
    /// `cluster_id`. To be called before the engines are opened, once a start.
    pub fn count_start(&self, cluster_id: uuid::Uuid, node_id: u32) -> Result<NodeIdentity, DirectoryError> {
        let known = match self.read_identity()? {
            Some(known) => known,
            None => {
                for engine in [LOG, STATE] {
                    if holds_data(&self.path().join(engine))? {
                        return Err(self.corrupt("it is missing, but there is data"));
                    }
                }
                NodeIdentity { cluster_id, node_id, start_count: 0, is_bootstrapped: false }
            }
        };
        let identity = NodeIdentity { start_count: known.start_count.saturating_add(1), ..known };
        self.write_identity(&identity)?;
        Ok(identity)
    }

    /// Writes down that the groups that a cluster begins with are there.
    pub fn finish_bootstrap(&self) -> Result<(), DirectoryError> {
        self.change_identity(|identity| identity.is_bootstrapped = true)
    }

    /// Changes who this node is, which must be known.
    pub(super) fn change_identity(&self, change: impl FnOnce(&mut NodeIdentity)) -> Result<(), DirectoryError> {
        let mut identity = self.read_identity()?.ok_or_else(|| self.corrupt("it is missing"))?;
        change(&mut identity);
        self.write_identity(&identity)
    }

    /// Who this node is, if it ever was somebody.
    pub fn identity(&self) -> Result<Option<NodeIdentity>, DirectoryError> {
        self.read_identity()
    }

    fn read_identity(&self) -> Result<Option<NodeIdentity>, DirectoryError> {
        let path = self.path().join(NODE);
        if !exists(&path)? {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(io_error(&path, "read the file"))?;
        NodeIdentity::decode(&text).map(Some).map_err(|why| self.corrupt(why))
    }

    fn write_identity(&self, identity: &NodeIdentity) -> Result<(), DirectoryError> {
        let unfinished = self.path().join(NODE_UNFINISHED);
        write_synced(&unfinished, &identity.encode()).map_err(io_error(&unfinished, "write the file"))?;
        let path = self.path().join(NODE);
        std::fs::rename(&unfinished, &path).map_err(io_error(&path, "replace the file"))?;
        sync_directory(self.path())
    }

    fn corrupt(&self, why: &str) -> DirectoryError {
        DirectoryError::CorruptNode { path: self.path().join(NODE), why: why.to_owned() }
    }
}

pub(super) fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
