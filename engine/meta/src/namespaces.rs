//! The namespaces: an index in memory over rows of the meta group, and the changes to them.
//!
//! One change at a time: read, modify, propose, wait until it is applied, and only then show it in the index. After a proposal
//! whose outcome is unknown the index is read again from the rows before the next change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use everlog_kernel::{Namespace, NamespaceId, Time};
use everlog_model::{NamespaceSource, search_attributes};
use everlog_proto::api::enums::v1::{IndexedValueType, NamespaceState};
use everlog_raft::{EntryStamp, Group, Hlc, Leadership, ProposeError};
use everlog_storage::keys::{MetaKind, meta_range, meta_row};
use everlog_storage::state::{Direction, RowBatch, RowChange};
use parking_lot::RwLock;

use super::MetaError;
use super::record::NamespaceRecord;

/// The namespace that is the server's own. Its name is Temporal's: clients leave it out of lists by that name.
pub const SYSTEM_NAMESPACE: &str = "temporal-system";

/// The id of [`SYSTEM_NAMESPACE`], the same in every Temporal cluster.
const SYSTEM_NAMESPACE_ID: &str = "32049b68-7872-4094-8e63-d0dd59896a83";

/// How long closed runs are kept where nobody says: what Temporal's development server does.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(24 * 3600);

/// Namespaces of a cluster. Each costs a few hundred bytes on every node.
const NAMESPACES_MAX: usize = 10_000;

/// Search attributes that a namespace may have of its own.
const SEARCH_ATTRIBUTES_MAX: usize = 500;

/// Rows read at once.
const PAGE_ROWS: usize = 1024;

/// How long a change waits for leadership of the meta group and for its entry to be applied.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(10);

/// The row that says how many partitions there are: a big-endian u32.
const PARTITIONS_ROW: &[u8] = b"partitions";

/// The namespaces of the cluster.
pub struct Namespaces {
    group: Group,
    index: RwLock<Index>,
    /// Held by the change that is being made; true if the index must be read again first.
    changing: tokio::sync::Mutex<bool>,
}

#[derive(Default)]
struct Index {
    by_id: HashMap<NamespaceId, Arc<NamespaceRecord>>,
    by_name: BTreeMap<String, Arc<NamespaceRecord>>,
}

/// A namespace to be registered.
#[derive(Clone, Debug, Default)]
pub struct NewNamespace {
    /// Its name.
    pub name: String,
    /// How long closed runs are kept.
    pub retention: Duration,
    /// For people.
    pub description: String,
    /// For people.
    pub owner_email: String,
    /// Whatever its owners keep with it.
    pub data: BTreeMap<String, String>,
}

/// A page of the list of namespaces.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In the order of their names.
    pub namespaces: Vec<Arc<NamespaceRecord>>,
    /// Where the next page starts, if there is one: behind this name.
    pub next: Option<String>,
}

impl Namespaces {
    /// Reads the namespaces; waits until this node leads the meta group.
    ///
    /// # Errors
    ///
    /// [`MetaError::Corrupt`] if a row is not readable, [`MetaError::Unavailable`] if the group has stopped.
    pub async fn open(group: Group) -> Result<Arc<Namespaces>, MetaError> {
        until_led(&group).await?;
        let namespaces = Namespaces { group, index: RwLock::default(), changing: tokio::sync::Mutex::new(false) };
        namespaces.load().await?;
        Ok(Arc::new(namespaces))
    }

    /// Registers the namespaces that must be there and are not: the server's own, and `names`; gives each of `names` the
    /// search attributes in `attributes` that it lacks.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn ensure<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
        attributes: &[(String, IndexedValueType)],
    ) -> Result<(), MetaError> {
        if self.by_name(SYSTEM_NAMESPACE).is_none() {
            let id = SYSTEM_NAMESPACE_ID.parse().map_err(|_| MetaError::Corrupt(SYSTEM_NAMESPACE_ID.to_owned()))?;
            let system = NewNamespace {
                name: SYSTEM_NAMESPACE.to_owned(),
                retention: 7 * DEFAULT_RETENTION,
                description: "the server's own namespace".to_owned(),
                ..NewNamespace::default()
            };
            self.register_with_id(id, system).await?;
        }
        for name in names {
            if self.by_name(name).is_none() {
                let new =
                    NewNamespace { name: name.to_owned(), retention: DEFAULT_RETENTION, ..NewNamespace::default() };
                self.register(new).await?;
            }
            let missing: Vec<_> = attributes
                .iter()
                .filter(|(attribute, _)| {
                    self.by_name(name).is_some_and(|now| !now.search_attributes.contains_key(attribute))
                })
                .cloned()
                .collect();
            if !missing.is_empty() {
                self.add_search_attributes(name, missing).await?;
            }
        }
        Ok(())
    }

    /// How many partitions the cluster has; `wanted` if that was never written down.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn partitions_or_set(&self, wanted: u32) -> Result<u32, MetaError> {
        let mut changing = self.changing.lock().await;
        let key = meta_row(MetaKind::Other, PARTITIONS_ROW);
        let group = self.group.clone();
        let row = {
            let key = key.clone();
            blocking(move || group.get(&key).map_err(|error| MetaError::Unavailable(error.to_string()))).await?
        };
        if let Some(value) = row {
            let bytes: [u8; 4] = value.as_ref().try_into().map_err(|_| MetaError::Corrupt("partitions".to_owned()))?;
            return Ok(u32::from_be_bytes(bytes));
        }
        let value = Bytes::copy_from_slice(&wanted.to_be_bytes());
        self.propose(&mut changing, vec![RowChange::Put { key, value }]).await?;
        Ok(wanted)
    }

    /// The namespace with a name.
    pub fn by_name(&self, name: &str) -> Option<Arc<NamespaceRecord>> {
        self.index.read().by_name.get(name).cloned()
    }

    /// The namespace with an id.
    pub fn record_by_id(&self, id: NamespaceId) -> Option<Arc<NamespaceRecord>> {
        self.index.read().by_id.get(&id).cloned()
    }

    /// Up to `limit` namespaces whose names come behind `after`, by name; deleted ones only if `include_deleted`.
    pub fn list(&self, after: Option<&str>, limit: usize, include_deleted: bool) -> Page {
        use std::ops::Bound::{Excluded, Unbounded};
        let index = self.index.read();
        let from = after.map_or(Unbounded, Excluded);
        let mut rest = index
            .by_name
            .range::<str, _>((from, Unbounded))
            .map(|(_, record)| record)
            .filter(|record| include_deleted || record.state != NamespaceState::Deleted);
        let namespaces: Vec<_> = rest.by_ref().take(limit).cloned().collect();
        let more = rest.next().is_some();
        let next = namespaces.last().filter(|_| more).map(|record| record.name().to_owned());
        Page { namespaces, next }
    }

    /// Registers a namespace under a new id.
    ///
    /// # Errors
    ///
    /// [`MetaError::AlreadyExists`], and see there.
    pub async fn register(&self, new: NewNamespace) -> Result<Arc<NamespaceRecord>, MetaError> {
        self.register_with_id(NamespaceId(uuid::Uuid::new_v4().into_bytes()), new).await
    }

    async fn register_with_id(&self, id: NamespaceId, new: NewNamespace) -> Result<Arc<NamespaceRecord>, MetaError> {
        let mut changing = self.changing.lock().await;
        self.refresh(&mut changing).await?;
        if self.by_name(&new.name).is_some() {
            return Err(MetaError::AlreadyExists(new.name));
        }
        if self.index.read().by_id.len() >= NAMESPACES_MAX {
            return Err(MetaError::Invalid(format!("cannot have more than {NAMESPACES_MAX} namespaces").into()));
        }
        let now = now();
        let record = NamespaceRecord {
            namespace: Arc::new(Namespace { id, name: new.name, retention: new.retention }),
            state: NamespaceState::Registered,
            description: new.description,
            owner_email: new.owner_email,
            data: new.data,
            search_attributes: BTreeMap::new(),
            created: now,
            updated: now,
        };
        self.save(&mut changing, record).await
    }

    /// Changes a namespace. `change` is given its record; the record's id and name stay what they are.
    ///
    /// # Errors
    ///
    /// [`MetaError::NotFound`], what `change` returns, and see there.
    pub async fn update(
        &self,
        name: &str,
        change: impl FnOnce(&mut NamespaceChange<'_>) -> Result<(), MetaError>,
    ) -> Result<Arc<NamespaceRecord>, MetaError> {
        let mut changing = self.changing.lock().await;
        self.refresh(&mut changing).await?;
        let before = self.by_name(name).ok_or_else(|| MetaError::NotFound(name.to_owned()))?;
        let mut record = NamespaceRecord::clone(&before);
        change(&mut NamespaceChange { record: &mut record })?;
        if record == *before {
            return Ok(before);
        }
        record.updated = now();
        self.save(&mut changing, record).await
    }

    /// Adds search attributes to a namespace. Those that are there keep their types.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] for names that are the system's, and for too many; see there.
    pub async fn add_search_attributes(
        &self,
        name: &str,
        attributes: Vec<(String, IndexedValueType)>,
    ) -> Result<Arc<NamespaceRecord>, MetaError> {
        if let Some((reserved, _)) = attributes.iter().find(|(attribute, _)| search_attributes::is_reserved(attribute))
        {
            return Err(MetaError::Invalid(format!("Search attribute {reserved} is reserved by system.").into()));
        }
        if attributes.iter().any(|(_, kind)| *kind == IndexedValueType::Unspecified) {
            let message =
                "Unable to create search attributes: cannot have more than 0 search attribute of type Unspecified.";
            return Err(MetaError::Invalid(message.into()));
        }
        self.update(name, |change| {
            let known = &mut change.record.search_attributes;
            for (attribute, kind) in attributes {
                known.entry(attribute).or_insert(kind);
            }
            if known.len() > SEARCH_ATTRIBUTES_MAX {
                let message = format!(
                    "Unable to create search attributes: cannot have more than {SEARCH_ATTRIBUTES_MAX} search attributes."
                );
                return Err(MetaError::Invalid(message.into()));
            }
            Ok(())
        })
        .await
    }

    /// Removes search attributes from a namespace; unknown ones are passed over.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] for those of the system; see there.
    pub async fn remove_search_attributes(&self, name: &str, attributes: &[String]) -> Result<(), MetaError> {
        if let Some(reserved) = attributes.iter().find(|attribute| search_attributes::is_reserved(attribute)) {
            let message = format!("Unable to remove non-custom search attributes: {reserved}.");
            return Err(MetaError::Invalid(message.into()));
        }
        self.update(name, |change| {
            change.record.search_attributes.retain(|attribute, _| !attributes.contains(attribute));
            Ok(())
        })
        .await
        .map(|_| ())
    }

    async fn save(&self, changing: &mut bool, record: NamespaceRecord) -> Result<Arc<NamespaceRecord>, MetaError> {
        let id = record.namespace.id.0;
        let changes = vec![
            RowChange::Put { key: meta_row(MetaKind::Namespace, &id), value: record.encode().into() },
            RowChange::Put {
                key: meta_row(MetaKind::NamespaceName, record.name().as_bytes()),
                value: Bytes::copy_from_slice(&id),
            },
        ];
        self.propose(changing, changes).await?;
        let record = Arc::new(record);
        self.index.write().insert(Arc::clone(&record));
        Ok(record)
    }

    async fn propose(&self, changing: &mut bool, changes: Vec<RowChange>) -> Result<(), MetaError> {
        let applied = async {
            let term = until_led(&self.group).await?;
            let unavailable = |error: ProposeError| MetaError::Unavailable(error.to_string());
            // One change at a time: it follows what is applied, or is skipped.
            let hlc = Hlc(u64::try_from(now().0).unwrap_or(0));
            let stamp = EntryStamp { chain: self.group.applied_chain().next_in(term), hlc };
            let outcome = self.group.propose(stamp, RowBatch { changes }).map_err(unavailable)?;
            match outcome.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(unavailable(error)),
                Err(_) => Err(MetaError::Unavailable("the proposal was dropped".to_owned())),
            }
        };
        // Whoever asked may go away in the middle; the next change then cannot rely on the index.
        *changing = true;
        let result = match tokio::time::timeout(CHANGE_WAIT_MAX, applied).await {
            Ok(result) => result,
            Err(_) => Err(MetaError::Unavailable("the metadata group does not answer".to_owned())),
        };
        if result.is_ok() {
            *changing = false;
        }
        result
    }

    /// Reads the rows again if a change may have been made that the index does not show.
    async fn refresh(&self, changing: &mut bool) -> Result<(), MetaError> {
        if *changing {
            match tokio::time::timeout(CHANGE_WAIT_MAX, until_led(&self.group)).await {
                Ok(led) => led?,
                Err(_) => return Err(MetaError::Unavailable("the metadata group has no leader".to_owned())),
            };
            self.load().await?;
            *changing = false;
        }
        Ok(())
    }

    async fn load(&self) -> Result<(), MetaError> {
        let group = self.group.clone();
        let index = blocking(move || Index::read(&group)).await?;
        *self.index.write() = index;
        Ok(())
    }
}

impl NamespaceSource for Namespaces {
    fn by_id(&self, id: NamespaceId) -> Option<Arc<Namespace>> {
        self.index.read().by_id.get(&id).map(|record| Arc::clone(&record.namespace))
    }
}

/// A namespace that is being changed.
pub struct NamespaceChange<'a> {
    record: &'a mut NamespaceRecord,
}

impl NamespaceChange<'_> {
    /// Its state. Deleted is for ever, and nothing becomes registered again.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] if it may not get that state.
    pub fn set_state(&mut self, state: NamespaceState) -> Result<(), MetaError> {
        use NamespaceState::{Deleted, Deprecated, Registered};
        let allowed = self.record.state == state
            || matches!((self.record.state, state), (Registered, Deprecated | Deleted) | (Deprecated, Deleted));
        if !allowed {
            return Err(MetaError::Invalid("Invalid namespace state update.".into()));
        }
        self.record.state = state;
        Ok(())
    }

    /// How long runs that close from now on are kept.
    pub fn set_retention(&mut self, retention: Duration) {
        self.record.set_retention(retention);
    }

    /// Sets what is not empty.
    pub fn set_texts(&mut self, description: String, owner_email: String) {
        if !description.is_empty() {
            self.record.description = description;
        }
        if !owner_email.is_empty() {
            self.record.owner_email = owner_email;
        }
    }

    /// Adds and replaces data, key by key.
    pub fn merge_data(&mut self, data: impl IntoIterator<Item = (String, String)>) {
        self.record.data.extend(data);
    }
}

impl Index {
    fn read(group: &Group) -> Result<Index, MetaError> {
        let mut index = Index::default();
        let range = meta_range(MetaKind::Namespace);
        let prefix = meta_row(MetaKind::Namespace, b"").len();
        let mut start = range.start;
        loop {
            let rows = group
                .scan(&start..&range.end, Direction::Ascending, PAGE_ROWS)
                .map_err(|error| MetaError::Unavailable(error.to_string()))?;
            for (key, value) in &rows {
                let id = key[prefix..].try_into().map_err(|_| MetaError::Corrupt(format!("key {key:?}")))?;
                index.insert(Arc::new(NamespaceRecord::decode(NamespaceId(id), value)?));
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE_ROWS => start = everlog_storage::keys::after(key),
                _ => return Ok(index),
            }
        }
    }

    fn insert(&mut self, record: Arc<NamespaceRecord>) {
        self.by_name.insert(record.name().to_owned(), Arc::clone(&record));
        self.by_id.insert(record.namespace.id, record);
    }
}

/// Waits until this node leads the group, and says in which term.
async fn until_led(group: &Group) -> Result<u64, MetaError> {
    let mut leadership = group.leadership();
    let led = leadership.wait_for(|now| !matches!(now, Leadership::Follower)).await.map(|now| *now);
    match led {
        Ok(Leadership::Leader { term }) => Ok(term),
        _ => Err(MetaError::Unavailable("the metadata group has stopped".to_owned())),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MetaError> + Send + 'static,
) -> Result<T, MetaError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| MetaError::Unavailable(error.to_string()))?
}

fn now() -> Time {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
}
