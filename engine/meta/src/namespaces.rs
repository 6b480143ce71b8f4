//! The namespaces: found in the view, changed through the log of the meta group.
//!
//! A change is decided on a view and applied only if nothing came between ([`Namespaces::change`]), whichever node makes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use everlog_kernel::{Namespace, NamespaceId, Time};
use everlog_model::{NamespaceSource, SlotSource, SlotTable, search_attributes};
use everlog_proto::api::enums::v1::{IndexedValueType, NamespaceState};
use everlog_raft::{AppliedChain, ChainPosition, EntryStamp, Group, GroupSlot, Hlc, Leadership, ProposeError};
use everlog_storage::GroupId;
use everlog_storage::keys::{MetaKind, meta_row};
use everlog_storage::state::{RowBatch, RowChange};
use tokio::sync::{Notify, watch};

use super::MetaError;
use super::record::NamespaceRecord;
use super::slots;
use super::view::{Feed, View};

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

/// How long a change waits for leadership of the meta group and for its entry to be applied.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long until a change is decided again that came too late or met no leader.
const CHANGE_AGAIN_WAIT: Duration = Duration::from_millis(5);

/// The namespaces of the cluster, and the rest of its metadata.
pub struct Namespaces {
    group: GroupSlot,
    view: watch::Receiver<Arc<View>>,
    /// Makes the view look again.
    refresh: Arc<Notify>,
    /// Changes that this node makes go one by one: side by side, all but one would be in vain.
    changing: tokio::sync::Mutex<()>,
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
    /// Reads the metadata, and keeps up with it from then on. What is not applied here yet comes later: see [`Namespaces::catch_up`].
    ///
    /// # Errors
    ///
    /// [`MetaError::Corrupt`] or [`MetaError::Unavailable`] if a row is not readable.
    pub async fn open(group: GroupSlot) -> Result<Arc<Namespaces>, MetaError> {
        let refresh = Arc::new(Notify::new());
        let feed = {
            let (group, refresh) = (Arc::clone(&group), Arc::clone(&refresh));
            blocking(move || Feed::start(group, refresh)).await?
        };
        let view = feed.view();
        tokio::spawn(feed.run());
        Ok(Arc::new(Namespaces { group, view, refresh, changing: tokio::sync::Mutex::new(()) }))
    }

    /// Waits until this node leads the meta group and knows all of the metadata.
    ///
    /// # Errors
    ///
    /// [`MetaError::Unavailable`] if the group has stopped.
    pub async fn catch_up(&self) -> Result<(), MetaError> {
        let group = self.group.read().clone();
        until_led(&group).await?;
        self.view_at(group.applied_chain().position).await.map(|_| ())
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

    /// Which partition holds which slot; `wanted` if that was never written down.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn slots_or_set(&self, wanted: SlotTable) -> Result<Arc<SlotTable>, MetaError> {
        let wanted = Arc::new(wanted);
        self.change(|view| match &view.slots {
            Some(known) => Ok((Vec::new(), Arc::clone(known))),
            None => {
                let row = RowChange::Put { key: slots::key(), value: slots::encode(&wanted) };
                Ok((vec![row], Arc::clone(&wanted)))
            }
        })
        .await
    }

    /// What this node knows of the metadata now. Follows what is applied here; on a node that does not lead it may be behind.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// The namespace with a name.
    pub fn by_name(&self, name: &str) -> Option<Arc<NamespaceRecord>> {
        self.view.borrow().by_name.get(name).cloned()
    }

    /// The namespace with an id.
    pub fn record_by_id(&self, id: NamespaceId) -> Option<Arc<NamespaceRecord>> {
        self.view.borrow().by_id.get(&id).cloned()
    }

    /// Up to `limit` namespaces whose names come behind `after`, by name; deleted ones only if `include_deleted`.
    pub fn list(&self, after: Option<&str>, limit: usize, include_deleted: bool) -> Page {
        use std::ops::Bound::{Excluded, Unbounded};
        let view = self.view();
        let from = after.map_or(Unbounded, Excluded);
        let mut rest = view
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
        self.change(|view| {
            if view.by_name.contains_key(&new.name) {
                return Err(MetaError::AlreadyExists(new.name.clone()));
            }
            if view.by_id.len() >= NAMESPACES_MAX {
                return Err(MetaError::Invalid(format!("cannot have more than {NAMESPACES_MAX} namespaces").into()));
            }
            let (now, new) = (now(), new.clone());
            Ok(saved(NamespaceRecord {
                namespace: Arc::new(Namespace { id, name: new.name, retention: new.retention }),
                state: NamespaceState::Registered,
                description: new.description,
                owner_email: new.owner_email,
                data: new.data,
                search_attributes: BTreeMap::new(),
                created: now,
                updated: now,
            }))
        })
        .await
    }

    /// Changes a namespace. `change` is given its record; the record's id and name stay what they are. It is called again when
    /// another change came first.
    ///
    /// # Errors
    ///
    /// [`MetaError::NotFound`], what `change` returns, and see there.
    pub async fn update(
        &self,
        name: &str,
        change: impl Fn(&mut NamespaceChange<'_>) -> Result<(), MetaError>,
    ) -> Result<Arc<NamespaceRecord>, MetaError> {
        self.change(|view| {
            let before = view.by_name.get(name).ok_or_else(|| MetaError::NotFound(name.to_owned()))?;
            let mut record = NamespaceRecord::clone(before);
            change(&mut NamespaceChange { record: &mut record })?;
            if record == **before {
                return Ok((Vec::new(), Arc::clone(before)));
            }
            record.updated = now();
            Ok(saved(record))
        })
        .await
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
            for (attribute, kind) in &attributes {
                known.entry(attribute.clone()).or_insert(*kind);
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

    /// Makes the changes that `decide` wants on what it is shown, and returns what it returns with them once they are applied and
    /// shown here. Whoever came first with another change made `decide`'s view an old one, so it is asked again.
    async fn change<T>(
        &self,
        decide: impl Fn(&View) -> Result<(Vec<RowChange>, T), MetaError>,
    ) -> Result<T, MetaError> {
        let attempts = async {
            let _turn = self.changing.lock().await;
            loop {
                if let Some(outcome) = self.try_change(&decide).await? {
                    return Ok(outcome);
                }
                tokio::time::sleep(CHANGE_AGAIN_WAIT).await;
            }
        };
        match tokio::time::timeout(CHANGE_WAIT_MAX, attempts).await {
            Ok(outcome) => outcome,
            Err(_) => Err(MetaError::Unavailable("the metadata group does not answer".to_owned())),
        }
    }

    /// `None` if the changes were surely not made and `decide` is to look again.
    async fn try_change<T>(
        &self,
        decide: &impl Fn(&View) -> Result<(Vec<RowChange>, T), MetaError>,
    ) -> Result<Option<T>, MetaError> {
        let group = self.group.read().clone();
        let term = until_led(&group).await?;
        let view = self.view_at(group.applied_chain().position).await?;
        let (changes, outcome) = decide(&view)?;
        if changes.is_empty() {
            return Ok(Some(outcome));
        }
        // The entry is applied only if it follows the last one of the view: this is the comparison of versions, for all rows at once.
        let hlc = Hlc(u64::try_from(now().0).unwrap_or(0));
        let chain = AppliedChain { position: view.position, hlc }.next_in(term);
        let proposed = group.propose(EntryStamp { chain, hlc }, RowBatch { changes });
        let result = match proposed {
            Ok(applied) => applied.await.unwrap_or(Err(ProposeError::Unknown(group.id()))),
            Err(error) => Err(error),
        };
        match result {
            Ok(_) => self.view_at(chain).await.map(|_| Some(outcome)),
            Err(ProposeError::Skipped(_) | ProposeError::NotLeader(_)) => Ok(None),
            Err(error) => Err(MetaError::Unavailable(error.to_string())),
        }
    }

    /// The view, once it has what was applied at `position`.
    async fn view_at(&self, position: ChainPosition) -> Result<Arc<View>, MetaError> {
        self.refresh.notify_one();
        let mut view = self.view.clone();
        let reached = view.wait_for(|view| view.position >= position).await;
        reached.map(|view| Arc::clone(&view)).map_err(|_| MetaError::Unavailable("the server stops".to_owned()))
    }
}

impl NamespaceSource for Namespaces {
    fn by_id(&self, id: NamespaceId) -> Option<Arc<Namespace>> {
        self.view.borrow().by_id.get(&id).map(|record| Arc::clone(&record.namespace))
    }
}

impl SlotSource for Namespaces {
    fn partition_of(&self, slot: u16) -> Option<GroupId> {
        self.view.borrow().slots.as_ref().map(|slots| slots.owner(slot).partition)
    }

    fn partitions(&self) -> Vec<GroupId> {
        let view = self.view.borrow();
        view.slots.iter().flat_map(|slots| slots.partitions()).collect()
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
    pub fn set_texts(&mut self, description: &str, owner_email: &str) {
        if !description.is_empty() {
            self.record.description = description.to_owned();
        }
        if !owner_email.is_empty() {
            self.record.owner_email = owner_email.to_owned();
        }
    }

    /// Adds and replaces data, key by key.
    pub fn merge_data<'a>(&mut self, data: impl IntoIterator<Item = (&'a String, &'a String)>) {
        self.record.data.extend(data.into_iter().map(|(key, value)| (key.clone(), value.clone())));
    }
}

/// The row that keeps a record, and the record.
fn saved(record: NamespaceRecord) -> (Vec<RowChange>, Arc<NamespaceRecord>) {
    let key = meta_row(MetaKind::Namespace, &record.namespace.id.0);
    (vec![RowChange::Put { key, value: record.encode().into() }], Arc::new(record))
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
