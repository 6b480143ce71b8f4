//! What a node knows of the metadata: a view of the applied rows of the meta group, on every node that has a replica of it.
//!
//! ```text
//!   meta group ──applied──▶ rows ──which changed──▶ feed ──▶ View ──▶ readers, all of them the same one
//!                                                             └──▶ writers: decide on a view, propose behind its position
//! ```
//!
//! A view is never changed, only replaced, and holds at least what was applied at its position.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use everlog_kernel::{Deployments, NamespaceId};
use everlog_model::{FastMap, SlotTable, StepId};
use everlog_proto::api::taskqueue::v1::TaskQueueConfig;
use everlog_raft::{ChainPosition, Group, GroupSlot};
use everlog_storage::keys::{self, MetaKind, meta_range, meta_row};
use everlog_storage::state::Direction;
use everlog_storage::{ChangedRows, Follow};
use tokio::sync::{Notify, watch};

use super::MetaError;
use super::deployments::DeploymentKey;
use super::moves::{MoveKey, NamespaceMove, PastStep};
use super::nexus_endpoints::{EndpointId, NexusEndpoint};
use super::operations::{OperationKey, Operations};
use super::record::NamespaceRecord;
use super::slots;
use super::task_queues::{self, ConfiguredQueue};
use super::topology::{Topology, TopologyKey};

/// Rows read at once.
const PAGE_ROWS: usize = 1024;

/// How long until rows that could not be read are read again.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// The metadata at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Everything up to here is in it; later changes may be.
    pub(super) position: ChainPosition,
    pub(super) by_id: FastMap<NamespaceId, Arc<NamespaceRecord>>,
    pub(super) by_name: BTreeMap<String, Arc<NamespaceRecord>>,
    /// Of namespaces that have any. What follows from them for task queues is in the namespaces' records.
    pub(super) deployments: FastMap<NamespaceId, Arc<Deployments>>,
    /// Those that have settings.
    pub(super) task_queues: FastMap<ConfiguredQueue, Arc<TaskQueueConfig>>,
    pub(super) nexus_endpoints: BTreeMap<EndpointId, Arc<NexusEndpoint>>,
    /// Namespaces that move to another pool.
    pub(super) moves: FastMap<NamespaceId, Arc<NamespaceMove>>,
    /// Steps of moves that are over, but for what their partitions have about them.
    pub(super) past_steps: BTreeMap<StepId, Arc<PastStep>>,
    /// The greatest id of a step that was given out.
    pub(super) last_step: StepId,
    /// None before the cluster was founded.
    pub(super) slots: Option<Arc<SlotTable>>,
    /// What they say of the cluster itself.
    pub(super) topology: Arc<Topology>,
    /// What was changed lately for calls that may be made again.
    pub(super) operations: Arc<Operations>,
}

impl View {
    /// The whole of it, from rows.
    fn read(group: &Group) -> Result<View, MetaError> {
        let mut view = View { position: group.applied_chain().position, ..View::default() };
        let whole = meta_range(MetaKind::Namespace).start..meta_range(MetaKind::Other).end;
        let mut start = whole.start;
        loop {
            let rows = group.scan(&start..&whole.end, Direction::Ascending, PAGE_ROWS).map_err(unreadable)?;
            for (key, value) in &rows {
                view.put(key, Some(value))?;
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE_ROWS => start = keys::after(key),
                _ => return Ok(view),
            }
        }
    }

    /// The view that follows this one, when these rows were written to.
    fn next(&self, group: &Group, changed: ChangedRows, position: ChainPosition) -> Result<View, MetaError> {
        let ChangedRows::Keys(changed) = changed else { return View::read(group) };
        let mut view = View { position, ..self.clone() };
        for key in &changed {
            view.put(key, group.get(key).map_err(unreadable)?.as_ref())?;
        }
        Ok(view)
    }

    /// Takes in a row, or that it is gone. Rows of other kinds are for others.
    fn put(&mut self, key: &[u8], value: Option<&Bytes>) -> Result<(), MetaError> {
        if let Some(id) = key.strip_prefix(&*meta_row(MetaKind::Namespace, b"")) {
            let id = NamespaceId(id.try_into().map_err(|_| MetaError::Corrupt(format!("key {key:?}")))?);
            let record = value.map(|value| NamespaceRecord::decode(id, value)).transpose()?;
            let deployments = self.deployments.get(&id);
            let record = record.map(|record| Arc::new(record.with_deployments(deployments.cloned())));
            let before = match &record {
                Some(record) => self.by_id.insert(id, Arc::clone(record)),
                None => self.by_id.remove(&id),
            };
            if let Some(before) = before {
                self.by_name.remove(before.name());
            }
            if let Some(record) = record {
                self.by_name.insert(record.name().to_owned(), record);
            }
        } else if let Some(row) = DeploymentKey::of_key(key) {
            self.put_deployment(&row?, value)?;
        } else if let Some(queue) = ConfiguredQueue::of_key(key) {
            match value {
                Some(value) => self.task_queues.insert(queue?, Arc::new(task_queues::decode(value)?)),
                None => self.task_queues.remove(&queue?),
            };
        } else if let Some(about) = TopologyKey::of(key) {
            Arc::make_mut(&mut self.topology).put(about?, value.map(|value| &value[..]))?;
        } else if let Some(about) = MoveKey::of(key) {
            self.put_move(about?, value)?;
        } else if let Some(key) = OperationKey::of_key(key) {
            Arc::make_mut(&mut self.operations).put(key?, value)?;
        } else if let Some(id) = EndpointId::of_key(key) {
            let id = id?;
            match value {
                Some(value) => self.nexus_endpoints.insert(id, Arc::new(NexusEndpoint::decode(id, value)?)),
                None => self.nexus_endpoints.remove(&id),
            };
        } else if key == &*slots::key() {
            self.slots = value.map(|value| slots::decode(value)).transpose()?.map(Arc::new);
        }
        Ok(())
    }
}

/// Tells of everything in a part of the view, and of each thing that changes from then on, for as long as there is a view. `None` is what is
/// gone.
pub(super) async fn follow<K: Clone + Eq + std::hash::Hash, V: PartialEq>(
    mut view: watch::Receiver<Arc<View>>,
    part: impl Fn(&View) -> &FastMap<K, Arc<V>>,
    mut tell: impl FnMut(&K, Option<&Arc<V>>),
) {
    let mut told = FastMap::default();
    loop {
        let now = part(&view.borrow_and_update()).clone();
        for (key, value) in &now {
            if told.get(key) != Some(value) {
                tell(key, Some(value));
            }
        }
        for key in told.keys().filter(|key| !now.contains_key(key)) {
            tell(key, None);
        }
        told = now;
        if view.changed().await.is_err() {
            return;
        }
    }
}

fn unreadable(error: impl std::fmt::Display) -> MetaError {
    MetaError::Unavailable(error.to_string())
}

/// Keeps a view up to date.
pub(super) struct Feed {
    group: GroupSlot,
    follow: Follow,
    refresh: Arc<Notify>,
    view: watch::Sender<Arc<View>>,
    unreadable: watch::Sender<Option<MetaError>>,
}

impl Feed {
    /// Reads the view and follows what changes from then on, once it is [run](Feed::run). `refresh` makes it look again.
    pub(super) fn start(group: GroupSlot, refresh: Arc<Notify>) -> Result<Feed, MetaError> {
        let whole = meta_range(MetaKind::Namespace).start..meta_range(MetaKind::Other).end;
        let changed = Arc::clone(&refresh);
        // Before the first look, so that nothing is missed.
        let follow = group.read().follow_rows(&whole.start..&whole.end, Box::new(move || changed.notify_one()));
        let view = watch::Sender::new(Arc::new(View::read(&group.read().clone())?));
        Ok(Feed { group, follow, refresh, view, unreadable: watch::Sender::new(None) })
    }

    pub(super) fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Why the view has stopped to follow, once a row cannot be read.
    pub(super) fn unreadable(&self) -> watch::Receiver<Option<MetaError>> {
        self.unreadable.subscribe()
    }

    /// Runs for as long as anybody looks at the view, or until a row of the metadata means nothing to this build: what it knows would
    /// be out of date for ever.
    pub(super) async fn run(self) {
        let feed = Arc::new(self);
        let mut is_behind = false;
        loop {
            tokio::select! {
                () = feed.refresh.notified() => {}
                () = feed.view.closed() => return,
            }
            let looking = Arc::clone(&feed);
            let looked = everlog_storage::blocking::spawn(move || looking.look(is_behind)).await;
            is_behind = !matches!(looked, Ok(Ok(())));
            if let Ok(Err(error @ MetaError::Corrupt(_))) = looked {
                feed.unreadable.send_replace(Some(error));
                // Nobody is told that the view is gone: the node is about to stop.
                return feed.view.closed().await;
            }
            if let Ok(Err(error)) = looked {
                tracing::error!(%error, "the metadata cannot be read; what this node knows of it is out of date");
            }
            if is_behind {
                tokio::time::sleep(RETRY_WAIT).await;
                feed.refresh.notify_one();
            }
        }
    }

    /// Brings the view up to date, from all rows if changes were missed.
    fn look(&self, is_behind: bool) -> Result<(), MetaError> {
        // In this order: every change up to the position is among those taken, or was taken before.
        let position = self.group.read().applied_chain().position;
        let mut changed = self.follow.take();
        if is_behind {
            changed = ChangedRows::All;
        }
        let before = Arc::clone(&self.view.borrow());
        if before.position == position && changed == ChangedRows::Keys(BTreeSet::new()) {
            return Ok(());
        }
        let next = before.next(&self.group.read().clone(), changed, position)?;
        self.view.send_replace(Arc::new(next));
        Ok(())
    }
}
