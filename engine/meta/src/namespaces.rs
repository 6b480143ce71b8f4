//! The namespaces: found in the view, registered through the log of the meta group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::{Namespace, NamespaceId, Time};
use everlog_model::{NamespaceSource, Share, SlotSource, SlotTable};
use everlog_proto::api::enums::v1::{IndexedValueType, NamespaceState};
use everlog_raft::GroupSlot;
use everlog_storage::state::RowChange;
use everlog_storage::{GroupId, NodeId};
use tokio::sync::{Notify, watch};

use super::MetaError;
use super::archival::Archival;
use super::change::{now, saved, until_led};
use super::pools::{PlaceGroups, Pool, PoolId, WantedPool};
use super::record::NamespaceRecord;
use super::replication::Replication;
use super::slots;
use super::topology::{Topology, TopologyChange};
use super::view::{Feed, View};

/// The namespace that is the server's own. Its name is Temporal's: clients leave it out of lists by that name.
pub const SYSTEM_NAMESPACE: &str = "temporal-system";

/// The id of [`SYSTEM_NAMESPACE`], the same in every Temporal cluster.
const SYSTEM_NAMESPACE_ID: &str = "32049b68-7872-4094-8e63-d0dd59896a83";

/// How long closed runs are kept where nobody says: what Temporal's development server does.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(24 * 3600);

/// Namespaces of a cluster. Each costs a few hundred bytes on every node.
const NAMESPACES_MAX: usize = 10_000;

/// The namespaces of the cluster, and the rest of its metadata.
pub struct Namespaces {
    pub(super) group: GroupSlot,
    pub(super) view: watch::Receiver<Arc<View>>,
    /// Makes the view look again.
    pub(super) refresh: Arc<Notify>,
    /// Changes that this node makes go one by one: side by side, all but one would be in vain.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// This node, if there are others.
    pub(super) me: Option<NodeId>,
    /// Whoever looks at what another node has goes one by one, and when that was last.
    pub(super) looking: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    unreadable: watch::Receiver<Option<MetaError>>,
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
    /// Which regions it is in, if it is a global one.
    pub replication: Option<Replication>,
    /// Whether histories are archived, and where.
    pub history_archival: Archival,
    /// Whether what lists show is archived, and where.
    pub visibility_archival: Archival,
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
    ///
    /// `me` is this node, if there are others that may lead the metadata.
    pub async fn open(group: GroupSlot, me: Option<NodeId>) -> Result<Arc<Namespaces>, MetaError> {
        let refresh = Arc::new(Notify::new());
        let feed = {
            let (group, refresh) = (Arc::clone(&group), Arc::clone(&refresh));
            blocking(move || Feed::start(group, refresh)).await?
        };
        let (view, unreadable) = (feed.view(), feed.unreadable());
        tokio::spawn(feed.run());
        let (changing, looking) = (tokio::sync::Mutex::new(()), tokio::sync::Mutex::new(None));
        Ok(Arc::new(Namespaces { group, view, refresh, changing, me, looking, unreadable }))
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
        retention: Duration,
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
            let unasked = |_: &Topology, _: &Pool| Ok(Vec::new());
            let made = self.register_with_id(id, &WantedPool::Default, &unasked, system).await;
            made.map(drop).or_else(is_there)?;
        }
        for name in names {
            if self.by_name(name).is_none() {
                let new = NewNamespace { name: name.to_owned(), retention, ..NewNamespace::default() };
                self.register(new).await.map(drop).or_else(is_there)?;
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

    /// Which partition of the pool `default` holds which slot; `wanted` if that was never written down. Then `founding` is written down with it.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn slots_or_set(
        &self,
        wanted: SlotTable,
        founding: &[TopologyChange],
    ) -> Result<Arc<SlotTable>, MetaError> {
        let wanted = Arc::new(wanted);
        self.change(|view| match &view.slots {
            Some(known) => Ok((Vec::new(), Arc::clone(known))),
            None => {
                let row = RowChange::Put { key: slots::key(), value: slots::encode(&wanted) };
                let founding = founding.iter().map(TopologyChange::row);
                Ok((founding.chain([row]).collect(), Arc::clone(&wanted)))
            }
        })
        .await
    }

    /// Resolves with the reason when a row of the metadata cannot be read: this node would know less and less of it.
    pub fn unreadable(&self) -> impl Future<Output = MetaError> + Send + 'static {
        let mut unreadable = self.unreadable.clone();
        async move {
            let error = unreadable.wait_for(Option::is_some).await.ok().and_then(|error| error.clone());
            match error {
                Some(error) => error,
                // The view is looked at no longer.
                None => std::future::pending().await,
            }
        }
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
        let view = Arc::clone(&self.view.borrow());
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

    /// Registers a namespace under a new id, in the pool that the cluster was founded with.
    ///
    /// # Errors
    ///
    /// [`MetaError::AlreadyExists`], and see there.
    pub async fn register(&self, new: NewNamespace) -> Result<Arc<NamespaceRecord>, MetaError> {
        let unasked = |_: &Topology, _: &Pool| Ok(Vec::new());
        self.register_in(&WantedPool::Default, &unasked, new).await
    }

    /// Registers a namespace under a new id, in a pool that is made if it is not there: `place` says where its groups are to be.
    ///
    /// # Errors
    ///
    /// [`MetaError::AlreadyExists`], [`MetaError::Protected`] with what `place` says, and see there.
    pub async fn register_in(
        &self,
        wanted: &WantedPool,
        place: &PlaceGroups<'_>,
        new: NewNamespace,
    ) -> Result<Arc<NamespaceRecord>, MetaError> {
        self.register_with_id(NamespaceId(uuid::Uuid::new_v4().into_bytes()), wanted, place, new).await
    }

    async fn register_with_id(
        &self,
        id: NamespaceId,
        wanted: &WantedPool,
        place: &PlaceGroups<'_>,
        new: NewNamespace,
    ) -> Result<Arc<NamespaceRecord>, MetaError> {
        self.change_once(|view| {
            if view.by_name.contains_key(&new.name) {
                return Err(MetaError::AlreadyExists(new.name.clone()));
            }
            if view.by_id.len() >= NAMESPACES_MAX {
                return Err(MetaError::Invalid(format!("cannot have more than {NAMESPACES_MAX} namespaces").into()));
            }
            let (now, new) = (now(), new.clone());
            let (pool, mut rows) = view.pool(wanted, place)?;
            let mut record = NamespaceRecord {
                namespace: Arc::new(Namespace { id, name: new.name, retention: new.retention, ..Namespace::default() }),
                state: NamespaceState::Registered,
                description: new.description,
                owner_email: new.owner_email,
                data: new.data,
                search_attributes: BTreeMap::new(),
                bad_binaries: BTreeMap::new(),
                created: now,
                updated: now,
                deletion: None,
                pool,
                moved: Time(0),
                replication: new.replication,
                history_archival: Archival::default(),
                visibility_archival: Archival::default(),
            };
            record.set_archival(Some(new.history_archival), Some(new.visibility_archival));
            let (of_namespace, record) = saved(record);
            rows.extend(of_namespace);
            Ok((rows, record))
        })
        .await
    }
}

impl NamespaceSource for Namespaces {
    fn by_id(&self, id: NamespaceId) -> Option<Arc<Namespace>> {
        self.view.borrow().by_id.get(&id).map(|record| Arc::clone(&record.namespace))
    }
}

impl SlotSource for Namespaces {
    fn partition_of(&self, namespace_id: NamespaceId, slot: u16) -> Option<GroupId> {
        self.view.borrow().partition_of(namespace_id, slot)
    }

    fn shares_of(&self, namespace_id: NamespaceId) -> Vec<Share> {
        self.view.borrow().shares_of(namespace_id)
    }

    fn default_partitions(&self) -> Vec<GroupId> {
        self.partitions_in(PoolId::DEFAULT).into_iter().collect()
    }
}

/// A node that has just started may see later that somebody has registered a namespace: it is there, which is all that is wanted.
fn is_there(error: MetaError) -> Result<(), MetaError> {
    match error {
        MetaError::AlreadyExists(_) => Ok(()),
        error => Err(error),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MetaError> + Send + 'static,
) -> Result<T, MetaError> {
    everlog_storage::blocking::spawn(work).await.map_err(|error| MetaError::Unavailable(error.to_string()))?
}
