//! The workflows that a partition has in memory, bounded in bytes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use everlog_kernel::{NamespaceId, RunId, Time, Workflow};

use super::Address;
use super::event_loop::Job;
use super::history::HistoryTail;

/// A workflow in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey {
    pub(crate) namespace_id: NamespaceId,
    pub(crate) workflow_id: Arc<str>,
}

impl CacheKey {
    pub(crate) fn of(address: &Address) -> CacheKey {
        CacheKey { namespace_id: address.namespace.id, workflow_id: Arc::clone(&address.workflow_id) }
    }
}

/// What is in memory of a workflow.
pub(crate) struct Entry {
    /// The state, ahead of the log; `None` until it is loaded.
    pub(crate) workflow: Option<Workflow>,
    /// Jobs that wait for rows to be read.
    pub(crate) waiting: Vec<Job>,
    /// Runs that are known not to exist.
    pub(crate) absent: HashSet<RunId>,
    /// Runs that are being read.
    pub(crate) loading: HashSet<RunId>,
    /// The newest events of each run.
    pub(crate) tails: HashMap<RunId, HistoryTail>,
    /// For which time each run stands among the wakes.
    pub(crate) armed: HashMap<RunId, Time>,
    /// The last batch with rows of the workflow.
    pub(crate) last_batch: u64,
    /// Used since the eviction hand passed.
    used: bool,
    /// What was counted for it.
    bytes: usize,
}

impl Entry {
    fn new() -> Entry {
        Entry {
            workflow: None,
            waiting: Vec::new(),
            absent: HashSet::new(),
            loading: HashSet::new(),
            tails: HashMap::new(),
            armed: HashMap::new(),
            last_batch: 0,
            used: true,
            bytes: 0,
        }
    }

    /// Rough size, bytes.
    fn measure(&self) -> usize {
        let runs: usize =
            self.workflow.iter().flat_map(|workflow| workflow.runs.values()).map(|run| run.memory_bytes()).sum();
        // The maps' tables, the key (which the cache has twice), and what the allocator rounds up.
        const OVERHEAD_BYTES: usize = 1024;
        let tails: usize = self.tails.values().map(HistoryTail::bytes).sum();
        size_of::<Entry>() + OVERHEAD_BYTES + runs + tails
    }

    /// Whether dropping it loses nothing that rows do not have or that somebody waits for.
    fn is_clean(&self, committed: u64) -> bool {
        self.waiting.is_empty()
            && self.last_batch <= committed
            && self.workflow.as_ref().is_some_and(|workflow| {
                workflow.runs.values().all(|run| {
                    !run.workflow_task_started() && run.unsaved_activities.is_empty() && run.queries.is_empty()
                })
            })
    }

    /// Drops closed runs that are not the current one, of a workflow whose rows are all durable.
    pub(crate) fn forget_closed_runs(&mut self, committed: u64) {
        const RUNS_KEPT: usize = 3;
        if self.last_batch > committed {
            return;
        }
        let Some(workflow) = &mut self.workflow else { return };
        if workflow.runs.len() <= RUNS_KEPT {
            return;
        }
        let current = workflow.current.as_ref().map(|current| current.run_id);
        workflow.runs.retain(|run_id, run| run.is_open() || Some(*run_id) == current);
        self.tails.retain(|run_id, _| workflow.runs.contains_key(run_id));
        self.armed.retain(|run_id, _| workflow.runs.contains_key(run_id));
    }
}

/// The cache: second-chance eviction ("clock", Corbató 1968) over entries that are clean.
#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<CacheKey, Entry>,
    hand: VecDeque<CacheKey>,
    bytes: usize,
}

impl Cache {
    /// The entry of a workflow, made if there is none.
    pub(crate) fn entry(&mut self, key: &CacheKey) -> &mut Entry {
        if !self.entries.contains_key(key) {
            self.entries.insert(key.clone(), Entry::new());
            self.hand.push_back(key.clone());
        }
        let entry = self.entries.get_mut(key).expect("it was there or was inserted above");
        entry.used = true;
        entry
    }

    /// The entry of a workflow, if it is there.
    pub(crate) fn get_mut(&mut self, key: &CacheKey) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// Forgets a workflow.
    pub(crate) fn remove(&mut self, key: &CacheKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    /// Counts an entry anew, after it has changed.
    pub(crate) fn recount(&mut self, key: &CacheKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            let bytes = entry.measure();
            self.bytes = self.bytes - entry.bytes + bytes;
            entry.bytes = bytes;
        }
    }

    /// Drops clean entries until at most `bytes_max` bytes are left, or all were looked at.
    pub(crate) fn evict(&mut self, bytes_max: usize, committed: u64) {
        // Every entry may be passed twice: once to lose its mark, once to be dropped.
        let mut looks = 2 * self.hand.len();
        while self.bytes > bytes_max && looks > 0 {
            looks -= 1;
            let Some(key) = self.hand.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.used || !entry.is_clean(committed) {
                entry.used = false;
                self.hand.push_back(key);
                continue;
            }
            self.remove(&key);
        }
    }

    /// Bytes counted.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Workflows in memory.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Empties the cache; what waits in it is for the caller to refuse.
    pub(crate) fn drain(&mut self) -> Vec<Job> {
        let waiting = self.entries.drain().flat_map(|(_, entry)| entry.waiting).collect();
        *self = Cache::default();
        waiting
    }
}
