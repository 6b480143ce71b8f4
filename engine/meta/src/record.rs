//! A namespace as it is stored.
//!
//! The row is a [`Row`], a protobuf message that may gain fields; its id is in the key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::{Deployments, Namespace, NamespaceId, Time};
use everlog_model::search_attributes;
use everlog_proto::api::enums::v1::{IndexedValueType, NamespaceState};
use prost::Message;

use super::MetaError;
use super::archival::{Archival, ArchivalRow};
use super::pools::PoolId;
use super::replication::{Replication, ReplicationRow};

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceRecord {
    /// What decisions need of it: id, name, retention.
    pub namespace: Arc<Namespace>,
    /// Whether new runs may be started in it.
    pub state: NamespaceState,
    /// For people.
    pub description: String,
    /// For people.
    pub owner_email: String,
    /// Whatever its owners keep with it.
    pub data: BTreeMap<String, String>,
    /// Its own search attributes.
    pub search_attributes: BTreeMap<String, IndexedValueType>,
    /// Binaries of workers that are not to complete workflow tasks, by their checksums.
    pub bad_binaries: BTreeMap<String, BadBinary>,
    /// When it was registered.
    pub created: Time,
    /// When it was changed last.
    pub updated: Time,
    /// Set once it is deleted with all that is in it.
    pub deletion: Option<Deletion>,
    /// The pool of partitions that it is in, but for what of it has moved to another.
    pub pool: PoolId,
    /// When it was the last time that something of it moved to another pool, or came back from there; 0 if nothing ever has.
    pub moved: Time,
    /// Which regions it is in, if it is a global one.
    pub replication: Option<Replication>,
    /// Whether histories are archived, and where.
    pub history_archival: Archival,
    /// Whether what lists show is archived, and where.
    pub visibility_archival: Archival,
}

/// Why the binary of a worker is bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadBinary {
    /// For people.
    pub reason: String,
    /// Who says so.
    pub operator: String,
    /// Since when.
    pub created: Time,
}

/// What is to become of a deleted namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// When it was asked for.
    pub asked: Time,
    /// How long after that the namespace itself is kept at least, without its workflows.
    pub delay: Duration,
}

/// The value of a namespace's row. Tags are never used twice.
#[derive(Message)]
struct Row {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    retention_ns: u64,
    #[prost(enumeration = "NamespaceState", tag = "3")]
    state: i32,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(string, tag = "5")]
    owner_email: String,
    #[prost(btree_map = "string, string", tag = "6")]
    data: BTreeMap<String, String>,
    #[prost(btree_map = "string, enumeration(IndexedValueType)", tag = "7")]
    search_attributes: BTreeMap<String, i32>,
    #[prost(sfixed64, tag = "8")]
    created_ns: i64,
    #[prost(sfixed64, tag = "9")]
    updated_ns: i64,
    #[prost(message, optional, tag = "10")]
    deletion: Option<DeletionRow>,
    #[prost(btree_map = "string, message", tag = "11")]
    bad_binaries: BTreeMap<String, BadBinaryRow>,
    #[prost(uint32, tag = "12")]
    pool: u32,
    #[prost(message, optional, tag = "13")]
    replication: Option<ReplicationRow>,
    #[prost(message, optional, tag = "14")]
    history_archival: Option<ArchivalRow>,
    #[prost(message, optional, tag = "15")]
    visibility_archival: Option<ArchivalRow>,
    #[prost(sfixed64, tag = "16")]
    moved_ns: i64,
}

#[derive(Clone, PartialEq, Message)]
struct BadBinaryRow {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    operator: String,
    #[prost(sfixed64, tag = "3")]
    created_ns: i64,
}

#[derive(Clone, Message)]
struct DeletionRow {
    #[prost(sfixed64, tag = "1")]
    asked_ns: i64,
    #[prost(uint64, tag = "2")]
    delay_ns: u64,
}

impl NamespaceRecord {
    /// The name.
    pub fn name(&self) -> &str {
        &self.namespace.name
    }

    /// The type of a search attribute, a system one or one of the namespace's own.
    pub fn search_attribute_type(&self, name: &str) -> Option<IndexedValueType> {
        search_attributes::system_type(name).or_else(|| self.search_attributes.get(name).copied())
    }

    /// The same namespace with another name.
    pub(super) fn rename(&mut self, name: String) {
        self.namespace = Arc::new(Namespace { name, ..Namespace::clone(&self.namespace) });
    }

    /// The same namespace with another retention.
    pub(super) fn set_retention(&mut self, retention: Duration) {
        self.namespace = Arc::new(Namespace { retention, ..Namespace::clone(&self.namespace) });
    }

    /// Changes what is archived, where it is said.
    pub(super) fn set_archival(&mut self, history: Option<Archival>, visibility: Option<Archival>) {
        self.history_archival = history.unwrap_or_else(|| std::mem::take(&mut self.history_archival));
        self.visibility_archival = visibility.unwrap_or_else(|| std::mem::take(&mut self.visibility_archival));
        let archives = self.history_archival.is_enabled || self.visibility_archival.is_enabled;
        self.namespace = Arc::new(Namespace { archives, ..Namespace::clone(&self.namespace) });
    }

    /// The same namespace with these deployments, which have rows of their own.
    pub(super) fn with_deployments(mut self, deployments: Option<Arc<Deployments>>) -> NamespaceRecord {
        let deployments = deployments.unwrap_or_default();
        if self.namespace.deployments != deployments {
            self.namespace = Arc::new(Namespace { deployments, ..Namespace::clone(&self.namespace) });
        }
        self
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let row = Row {
            name: self.namespace.name.clone(),
            retention_ns: u64::try_from(self.namespace.retention.as_nanos()).unwrap_or(u64::MAX),
            state: self.state as i32,
            description: self.description.clone(),
            owner_email: self.owner_email.clone(),
            data: self.data.clone(),
            search_attributes: self.search_attributes.iter().map(|(name, kind)| (name.clone(), *kind as i32)).collect(),
            created_ns: self.created.0,
            updated_ns: self.updated.0,
            deletion: self.deletion.map(|Deletion { asked, delay }| DeletionRow {
                asked_ns: asked.0,
                delay_ns: u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX),
            }),
            bad_binaries: self.bad_binaries.iter().map(|(checksum, bad)| (checksum.clone(), bad.to_row())).collect(),
            pool: self.pool.0,
            replication: self.replication.as_ref().map(Replication::to_row),
            history_archival: self.history_archival.to_row(),
            visibility_archival: self.visibility_archival.to_row(),
            moved_ns: self.moved.0,
        };
        row.encode_to_vec()
    }

    pub(super) fn decode(id: NamespaceId, bytes: &[u8]) -> Result<NamespaceRecord, MetaError> {
        let corrupt = |why: &dyn std::fmt::Display| MetaError::Corrupt(format!("namespace {id}: {why}"));
        let row = Row::decode(bytes).map_err(|error| corrupt(&error))?;
        if row.name.is_empty() {
            return Err(corrupt(&"a row without a name"));
        }
        let retention = Duration::from_nanos(row.retention_ns);
        let search_attributes = row
            .search_attributes
            .into_iter()
            .filter_map(|(name, kind)| Some((name, IndexedValueType::try_from(kind).ok()?)))
            .collect();
        let history_archival = Archival::from_row(row.history_archival);
        let visibility_archival = Archival::from_row(row.visibility_archival);
        let archives = history_archival.is_enabled || visibility_archival.is_enabled;
        Ok(NamespaceRecord {
            namespace: Arc::new(Namespace { id, name: row.name, retention, archives, ..Namespace::default() }),
            state: NamespaceState::try_from(row.state).unwrap_or(NamespaceState::Registered),
            description: row.description,
            owner_email: row.owner_email,
            data: row.data,
            search_attributes,
            bad_binaries: row
                .bad_binaries
                .into_iter()
                .map(|(checksum, row)| (checksum, BadBinary::from_row(row)))
                .collect(),
            created: Time(row.created_ns),
            updated: Time(row.updated_ns),
            deletion: row
                .deletion
                .map(|row| Deletion { asked: Time(row.asked_ns), delay: Duration::from_nanos(row.delay_ns) }),
            pool: PoolId(row.pool),
            moved: Time(row.moved_ns),
            replication: row.replication.map(Replication::from_row),
            history_archival,
            visibility_archival,
        })
    }
}

impl BadBinary {
    fn to_row(&self) -> BadBinaryRow {
        let BadBinary { reason, operator, created } = self.clone();
        BadBinaryRow { reason, operator, created_ns: created.0 }
    }

    fn from_row(row: BadBinaryRow) -> BadBinary {
        BadBinary { reason: row.reason, operator: row.operator, created: Time(row.created_ns) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn record() -> NamespaceRecord {
        NamespaceRecord {
            namespace: Arc::new(Namespace {
                id: NamespaceId([7; 16]),
                name: "orders".to_owned(),
                retention: Duration::from_secs(86_400),
                ..Namespace::default()
            }),
            state: NamespaceState::Deprecated,
            description: "d".to_owned(),
            owner_email: "o@example.com".to_owned(),
            data: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            search_attributes: BTreeMap::from([("CustomerId".to_owned(), IndexedValueType::Keyword)]),
            bad_binaries: BTreeMap::new(),
            created: Time(1),
            updated: Time(2),
            deletion: None,
            pool: PoolId::DEFAULT,
            moved: Time(0),
            replication: None,
            history_archival: Archival::default(),
            visibility_archival: Archival::default(),
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let record = record();
        assert_eq!(NamespaceRecord::decode(record.namespace.id, &record.encode()), Ok(record));
    }

    #[test]
    fn the_row_format_is_for_ever() {
        let golden = "0a066f7264657273108080bc8ac9d21318022201642a0d6f406578616d706c652e636f6d32060a016b1201763a0e0a0a4375\
                      73746f6d657249641002410100000000000000490200000000000000";
        let hex: String = record().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
    }

    #[test]
    fn a_deletion_has_its_field() {
        let deletion = Deletion { asked: Time(3), delay: Duration::from_nanos(5) };
        let record = NamespaceRecord { deletion: Some(deletion), ..record() };
        assert!(record.encode().ends_with(b"\x52\x0b\x09\x03\0\0\0\0\0\0\0\x10\x05"));
        assert_eq!(NamespaceRecord::decode(record.namespace.id, &record.encode()), Ok(record));
    }

    #[test]
    fn bad_binaries_have_their_field() {
        let bad = BadBinary { reason: "r".to_owned(), operator: "o".to_owned(), created: Time(3) };
        let record = NamespaceRecord { bad_binaries: BTreeMap::from([("c".to_owned(), bad)]), ..record() };
        assert!(record.encode().ends_with(b"\x5a\x14\x0a\x01c\x12\x0f\x0a\x01r\x12\x01o\x19\x03\0\0\0\0\0\0\0"));
        assert_eq!(NamespaceRecord::decode(record.namespace.id, &record.encode()), Ok(record));
    }

    #[test]
    fn a_pool_has_its_field() {
        let record = NamespaceRecord { pool: PoolId(300), ..record() };
        assert!(record.encode().ends_with(b"\x60\xac\x02"));
        assert_eq!(NamespaceRecord::decode(record.namespace.id, &record.encode()), Ok(record));
    }

    #[test]
    fn a_move_has_its_field() {
        let record = NamespaceRecord { moved: Time(3), ..record() };
        assert!(record.encode().ends_with(b"\x81\x01\x03\0\0\0\0\0\0\0"));
        assert_eq!(NamespaceRecord::decode(record.namespace.id, &record.encode()), Ok(record));
    }

    #[test]
    fn archival_has_its_fields() {
        let history_archival = Archival { is_enabled: true, uri: "file:///h".to_owned() };
        let visibility_archival = Archival { is_enabled: false, uri: "s3://v".to_owned() };
        let mut record = record();
        record.set_archival(Some(history_archival), Some(visibility_archival));
        assert!(record.encode().ends_with(b"\x72\x0d\x08\x01\x12\x09file:///h\x7a\x08\x12\x06s3://v"));
        let read = NamespaceRecord::decode(record.namespace.id, &record.encode());
        assert!(read.as_ref().is_ok_and(|read| read.namespace.archives), "{read:?}");
        assert_eq!(read, Ok(record));
    }

    #[test]
    fn what_a_later_version_added_is_skipped() {
        // Field 1,000, of bytes.
        let later = [&record().encode()[..], b"\xc2\x3e\x03new"].concat();
        assert_eq!(NamespaceRecord::decode(NamespaceId([7; 16]), &later), Ok(record()));
    }

    #[test]
    fn rows_that_are_damaged_are_refused() {
        let row = record().encode();
        for damaged in [&b""[..], b"\x09\x01", b"\xff", &row[..row.len() - 1]] {
            let read = NamespaceRecord::decode(NamespaceId([7; 16]), damaged);
            assert!(matches!(read, Err(MetaError::Corrupt(_))), "{damaged:?}");
        }
    }

    #[test]
    fn search_attributes_have_types() {
        let record = record();
        assert_eq!(record.search_attribute_type("CustomerId"), Some(IndexedValueType::Keyword));
        assert_eq!(record.search_attribute_type("StartTime"), Some(IndexedValueType::Datetime));
        assert_eq!(record.search_attribute_type("Nope"), None);
    }
}
