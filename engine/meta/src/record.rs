//! A namespace as it is stored.
//!
//! The row is a version byte and the bincode encoding of [`Row`]; its id is in the key. A field is added by raising the version
//! and reading the older one too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::{Namespace, NamespaceId, Time};
use everlog_model::search_attributes;
use everlog_proto::api::enums::v1::{IndexedValueType, NamespaceState};
use serde::{Deserialize, Serialize};

use super::MetaError;

const VERSION: u8 = 1;

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
    /// When it was registered.
    pub created: Time,
    /// When it was changed last.
    pub updated: Time,
}

#[derive(Serialize, Deserialize)]
struct Row {
    name: String,
    retention: Duration,
    state: i32,
    description: String,
    owner_email: String,
    data: BTreeMap<String, String>,
    search_attributes: BTreeMap<String, i32>,
    created: Time,
    updated: Time,
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

    /// The same namespace with another retention.
    pub(super) fn set_retention(&mut self, retention: Duration) {
        self.namespace = Arc::new(Namespace { retention, ..Namespace::clone(&self.namespace) });
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let row = Row {
            name: self.namespace.name.clone(),
            retention: self.namespace.retention,
            state: self.state as i32,
            description: self.description.clone(),
            owner_email: self.owner_email.clone(),
            data: self.data.clone(),
            search_attributes: self.search_attributes.iter().map(|(name, kind)| (name.clone(), *kind as i32)).collect(),
            created: self.created,
            updated: self.updated,
        };
        let mut bytes = vec![VERSION];
        bincode::serde::encode_into_std_write(&row, &mut bytes, bincode::config::standard())
            .expect("a row is encoded into memory");
        bytes
    }

    pub(super) fn decode(id: NamespaceId, bytes: &[u8]) -> Result<NamespaceRecord, MetaError> {
        let corrupt = |why: &dyn std::fmt::Display| MetaError::Corrupt(format!("namespace {id}: {why}"));
        let (version, body) = bytes.split_first().ok_or_else(|| corrupt(&"an empty row"))?;
        if *version != VERSION {
            return Err(corrupt(&format_args!("a row of format {version}; this build reads {VERSION}")));
        }
        let (row, _): (Row, usize) =
            bincode::serde::decode_from_slice(body, bincode::config::standard()).map_err(|error| corrupt(&error))?;
        let search_attributes = row
            .search_attributes
            .into_iter()
            .filter_map(|(name, kind)| Some((name, IndexedValueType::try_from(kind).ok()?)))
            .collect();
        Ok(NamespaceRecord {
            namespace: Arc::new(Namespace { id, name: row.name, retention: row.retention }),
            state: NamespaceState::try_from(row.state).unwrap_or(NamespaceState::Registered),
            description: row.description,
            owner_email: row.owner_email,
            data: row.data,
            search_attributes,
            created: row.created,
            updated: row.updated,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> NamespaceRecord {
        NamespaceRecord {
            namespace: Arc::new(Namespace {
                id: NamespaceId([7; 16]),
                name: "orders".to_owned(),
                retention: Duration::from_secs(86_400),
            }),
            state: NamespaceState::Deprecated,
            description: "d".to_owned(),
            owner_email: "o@example.com".to_owned(),
            data: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            search_attributes: BTreeMap::from([("CustomerId".to_owned(), IndexedValueType::Keyword)]),
            created: Time(1),
            updated: Time(2),
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let record = record();
        assert_eq!(NamespaceRecord::decode(record.namespace.id, &record.encode()), Ok(record));
    }

    #[test]
    fn the_row_format_is_for_ever() {
        let golden = "01066f7264657273fc80510100000401640d6f406578616d706c652e636f6d01016b01760\
                      10a437573746f6d65724964040204";
        let hex: String = record().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
    }

    #[test]
    fn rows_of_another_format_are_refused() {
        let id = NamespaceId([7; 16]);
        assert!(matches!(NamespaceRecord::decode(id, &[]), Err(MetaError::Corrupt(_))));
        assert!(matches!(NamespaceRecord::decode(id, &[9, 1]), Err(MetaError::Corrupt(_))));
    }

    #[test]
    fn search_attributes_have_types() {
        let record = record();
        assert_eq!(record.search_attribute_type("CustomerId"), Some(IndexedValueType::Keyword));
        assert_eq!(record.search_attribute_type("StartTime"), Some(IndexedValueType::Datetime));
        assert_eq!(record.search_attribute_type("Nope"), None);
    }
}
