//! Disks that took the place of lost ones: one row for each node that this has happened to.
//!
//! A node is known by its id, its disk by the id of its data directory. When the disk is lost, what it had promised is, too: votes, and entries
//! that it acknowledged. So its replicas never come back. The new disk gets replicas with new ids, by its number.

use std::collections::BTreeMap;

use bytes::Bytes;
use everlog_storage::NodeId;
use everlog_storage::keys::{MetaKind, meta_row};
use everlog_storage::state::RowChange;
use prost::Message;

use super::{MetaError, Namespaces};

/// The disk of a node that has lost one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeDisk {
    /// The data directory.
    pub directory_id: uuid::Uuid,
    /// How many disks of the node were lost before it.
    pub number: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Row {
    #[prost(bytes = "bytes", tag = "1")]
    directory_id: Bytes,
    #[prost(uint32, tag = "2")]
    number: u32,
}

/// The key of a node's row.
fn key(node: NodeId) -> Bytes {
    meta_row(MetaKind::Other, &[PREFIX, &node.0.to_be_bytes()].concat())
}

const PREFIX: &[u8] = b"disk/";

/// The node whose row lies under `key`, if that is one of these rows.
pub(super) fn node_of_key(key: &[u8]) -> Option<Result<NodeId, MetaError>> {
    let id = key.strip_prefix(&*meta_row(MetaKind::Other, PREFIX))?;
    let id = id.try_into().map(|id| NodeId(u32::from_be_bytes(id)));
    Some(id.map_err(|_| MetaError::Corrupt(format!("key {key:?}"))))
}

fn encode(disk: NodeDisk) -> Bytes {
    let directory_id = Bytes::copy_from_slice(disk.directory_id.as_bytes());
    Row { directory_id, number: disk.number }.encode_to_vec().into()
}

pub(super) fn decode(value: &[u8]) -> Result<NodeDisk, MetaError> {
    let corrupt = |why: &str| MetaError::Corrupt(format!("disk of a node: {why}"));
    let Row { directory_id, number } = Row::decode(value).map_err(|error| corrupt(&error.to_string()))?;
    let directory_id = uuid::Uuid::from_slice(&directory_id).map_err(|error| corrupt(&error.to_string()))?;
    if number == 0 {
        return Err(corrupt("it has no number"));
    }
    Ok(NodeDisk { directory_id, number })
}

impl Namespaces {
    /// The disks that took the place of lost ones, as far as this node has seen.
    pub fn disks(&self) -> BTreeMap<NodeId, NodeDisk> {
        self.view.borrow().disks.clone()
    }

    /// Waits until there are other ones than these.
    pub async fn until_other_disks(&self, known: &BTreeMap<NodeId, NodeDisk>) {
        let mut view = self.view.clone();
        // An error means that the server stops.
        let _ = view.wait_for(|view| view.disks != *known).await;
    }

    /// A data directory takes the place of a node's disk, which is lost for ever from then on. The same one once more changes nothing.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] if it is another node's, and see there.
    pub async fn replace_disk(&self, node: NodeId, directory_id: uuid::Uuid) -> Result<NodeDisk, MetaError> {
        self.change(|view| {
            let known = view.disks.get(&node);
            if let Some(same) = known.filter(|disk| disk.directory_id == directory_id) {
                return Ok((Vec::new(), *same));
            }
            if let Some((other, _)) = view.disks.iter().find(|(_, disk)| disk.directory_id == directory_id) {
                return Err(MetaError::Invalid(format!("{directory_id} is the data directory of node {other}").into()));
            }
            let disk = NodeDisk { directory_id, number: known.map_or(0, |disk| disk.number) + 1 };
            Ok((vec![RowChange::Put { key: key(node), value: encode(disk) }], disk))
        })
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_row_format_is_for_ever() {
        let disk = NodeDisk { directory_id: uuid::Uuid::from_u128(0x0102_0304), number: 300 };
        let bytes = encode(disk);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0a100000000000000000000000000102030410ac02");
        assert_eq!(decode(&bytes), Ok(disk));
        for bytes in [&b""[..], b"\xff", &bytes[..18], b"\x0a\x01\x01\x10\x01"] {
            assert!(matches!(decode(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
        }
    }

    #[test]
    fn a_row_is_found_by_its_node() {
        assert_eq!(node_of_key(&key(NodeId(258))), Some(Ok(NodeId(258))));
        assert_eq!(node_of_key(&meta_row(MetaKind::Other, b"slots")), None);
        assert!(matches!(node_of_key(&meta_row(MetaKind::Other, b"disk/1")), Some(Err(_))));
    }
}
