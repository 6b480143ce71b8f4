//! Which lock guards which queue.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use everlog_kernel::transition::TaskKind;
use everlog_model::QueueId;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::queue::Queue;
use super::upkeep::errands_of;
use super::{Matching, QueryIndex, SHARDS, Shard};

impl Matching {
    pub(crate) fn shard(&self, id: &QueueId) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(id) as usize % SHARDS]
    }

    pub(crate) fn query_index(&self, query_id: u64) -> &Mutex<QueryIndex> {
        &self.queries[query_id as usize % SHARDS]
    }

    /// Does something to a queue, which is made if it is not there; `None` if there is no room for one more.
    pub(crate) fn with_queue<T>(&self, id: QueueId, act: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        let mut shard = self.shard(&id).lock();
        if !shard.contains_key(&id) {
            if self.queues.load(Ordering::Relaxed) >= self.bounds.queues {
                return None;
            }
            self.queues.fetch_add(1, Ordering::Relaxed);
            let id = Arc::new(id.clone());
            shard.insert(id.clone(), self.new_queue(id));
        }
        let queue = shard.get_mut(&id)?;
        let result = act(queue);
        let errands = errands_of(queue);
        drop(shard);
        self.run_errands(errands);
        Some(result)
    }

    pub(crate) fn with_existing<T>(&self, id: &QueueId, act: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        let mut shard = self.shard(id).lock();
        let queue = shard.get_mut(id)?;
        let result = act(queue);
        let errands = errands_of(queue);
        drop(shard);
        self.run_errands(errands);
        Some(result)
    }

    /// Looks at the queue of that name or, if there is none, at the normal queue that has a sticky one of that name.
    pub(crate) fn with_normal_or_sticky<T>(
        &self,
        id: &QueueId,
        mut look: impl FnMut(&mut Queue, Option<&str>) -> T,
    ) -> Option<T> {
        let found = self.with_existing(id, |queue| look(queue, None));
        if found.is_some() {
            return found;
        }
        for shard in &self.shards {
            let mut shard = shard.lock();
            let home = shard.values_mut().find(|queue| {
                let other = queue.id();
                other.namespace_id == id.namespace_id && other.kind == id.kind && queue.line(Some(&id.name)).is_some()
            });
            if let Some(queue) = home {
                return Some(look(queue, Some(&id.name)));
            }
        }
        None
    }

    pub(crate) fn for_each_queue(&self, mut act: impl FnMut(&mut Queue)) {
        for shard in &self.shards {
            let mut errands = Vec::new();
            for queue in shard.lock().values_mut() {
                act(queue);
                errands.extend(errands_of(queue));
            }
            self.run_errands(errands);
        }
    }

    pub(crate) fn new_queue(&self, id: Arc<QueueId>) -> Queue {
        let meters = match id.kind {
            TaskKind::Workflow => &self.workflow_meters,
            TaskKind::Activity => &self.activity_meters,
        };
        // Numbers of leases, polls and page requests are not given out again by a later queue of the same name.
        let first_number = self.queues_created.fetch_add(1, Ordering::Relaxed) << 40;
        // Settings are for all versions.
        let settings = self.settings.read().get(&QueueId { version: None, ..QueueId::clone(&id) }).cloned();
        let settings = settings.unwrap_or_default();
        let mut queue = Queue::new(id, self.bounds.tasks, meters.clone(), first_number, settings, Instant::now());
        let left_out = self.left_out.load(Ordering::Acquire);
        for partition in self.leads.read().keys() {
            queue.open_partition(*partition, left_out);
        }
        queue
    }
}
