//! The workflows that a partition has in memory: bounded in bytes, and gone when nobody has touched them for a while.

use std::collections::{HashSet, VecDeque, btree_map};

use everlog_kernel::state::{AdmittedUpdate, WorkflowTask};
use everlog_kernel::{RunId, Time, Workflow};
use everlog_model::{EntityRef, FastMap, limits};

use super::history::HistoryTail;
use super::job::Job;
use super::load::MessageSearch;
use super::machine::Machine;
use super::sticky_memory::StickyMemory;
use crate::memory;

/// What is in memory of a workflow.
pub(crate) struct Entry {
    /// The state, ahead of the log; `None` until it is loaded.
    pub(crate) workflow: Option<Workflow>,
    /// The same of a state machine of its own.
    pub(crate) machine: Option<Machine>,
    /// Jobs that wait for rows to be read.
    pub(crate) waiting: Vec<Job>,
    /// Runs that are known not to exist.
    pub(crate) absent: AbsentRuns,
    /// Runs that are being read.
    pub(crate) loading: HashSet<RunId>,
    /// Messages for which earlier runs were searched, or are, for a job that waits: and whether they were found.
    pub(crate) searches: Vec<(MessageSearch, Option<bool>)>,
    /// What belongs to its runs besides their state.
    pub(crate) runs: RunEntries,
    /// The last batch with rows of the workflow.
    pub(crate) last_batch: u64,
    /// Tells it apart from others that were or will be in memory of the same workflow.
    pub(crate) born: u64,
    /// When it was last asked for.
    used: Time,
    /// What was counted for it.
    bytes: usize,
    /// Whether it stands among the closed ones.
    among_closed: bool,
}

/// Runs that do not exist: the last few that were asked for, since a caller may ask for any number.
#[derive(Debug, Default)]
pub(crate) struct AbsentRuns(VecDeque<RunId>);

impl AbsentRuns {
    const MAX: usize = 8;

    /// Whether a run is known not to exist.
    pub(crate) fn contains(&self, run_id: &RunId) -> bool {
        self.0.contains(run_id)
    }

    /// A run does exist.
    pub(crate) fn remove(&mut self, run_id: &RunId) {
        self.0.retain(|absent| absent != run_id);
    }

    /// Remembers that a run does not exist.
    pub(crate) fn insert(&mut self, run_id: RunId) {
        if self.contains(&run_id) {
            return;
        }
        if self.0.len() == Self::MAX {
            self.0.pop_front();
        }
        self.0.push_back(run_id);
    }
}

/// Runs of a workflow; nearly always one, so that a list is smaller and faster than a map.
#[derive(Debug, Default)]
pub(crate) struct RunEntries(Vec<RunEntry>);

/// What is in memory of a run besides its state.
#[derive(Debug)]
struct RunEntry {
    run_id: RunId,
    /// Its newest events.
    tail: HistoryTail,
    /// For which time it stands among the wakes.
    armed: Option<Time>,
}

impl RunEntries {
    /// The newest events of a run, if there are any in memory.
    pub(crate) fn tail(&self, run_id: RunId) -> Option<&HistoryTail> {
        self.0.iter().find(|run| run.run_id == run_id).map(|run| &run.tail)
    }

    /// The same, to add to.
    pub(crate) fn tail_mut(&mut self, run_id: RunId) -> &mut HistoryTail {
        &mut self.get_mut(run_id).tail
    }

    /// Drops from all tails what is applied with `batch` or before it, and not needed.
    pub(crate) fn trim_tails(&mut self, batch: u64) {
        for run in &mut self.0 {
            run.tail.trim(batch);
        }
    }

    /// For which time a run stands among the wakes.
    pub(crate) fn armed(&self, run_id: RunId) -> Option<Time> {
        self.0.iter().find(|run| run.run_id == run_id)?.armed
    }

    /// Notes for which time a run stands among the wakes.
    pub(crate) fn set_armed(&mut self, run_id: RunId, armed: Option<Time>) {
        self.get_mut(run_id).armed = armed;
    }

    fn get_mut(&mut self, run_id: RunId) -> &mut RunEntry {
        let position = self.0.iter().position(|run| run.run_id == run_id).unwrap_or_else(|| {
            self.0.reserve_exact(1);
            self.0.push(RunEntry { run_id, tail: HistoryTail::default(), armed: None });
            self.0.len() - 1
        });
        &mut self.0[position]
    }
}

impl Entry {
    fn new(now: Time, born: u64) -> Entry {
        Entry {
            workflow: None,
            machine: None,
            waiting: Vec::new(),
            absent: AbsentRuns::default(),
            loading: HashSet::new(),
            searches: Vec::new(),
            runs: RunEntries::default(),
            last_batch: 0,
            born,
            used: now,
            bytes: 0,
            among_closed: false,
        }
    }

    /// Forgets a run that is deleted.
    pub(crate) fn remove_run(&mut self, run_id: RunId) {
        self.runs.0.retain(|run| run.run_id != run_id);
        self.absent.insert(run_id);
    }

    /// Rough size, bytes.
    fn measure(&self) -> usize {
        let runs: usize =
            self.workflow.iter().flat_map(|workflow| workflow.runs.values()).map(|run| run.memory_bytes()).sum();
        // The maps' tables, the queue for eviction, the workflow's id, and what the allocator rounds up.
        const OVERHEAD_BYTES: usize = 512;
        let tails: usize = self.runs.0.iter().map(|run| size_of::<RunEntry>() + run.tail.bytes()).sum();
        let machine = self.machine.as_ref().map_or(0, Machine::memory_bytes);
        size_of::<Entry>() + OVERHEAD_BYTES + runs + tails + machine
    }

    /// Whether dropping it loses nothing that rows (or, for the sticky queue, [`StickyMemory`]) do not have or that somebody
    /// waits for.
    fn is_clean(&self, now: Time, committed: u64) -> bool {
        if !self.waiting.is_empty() || self.last_batch > committed {
            return false;
        }
        // All that a state machine knows is in its rows.
        self.machine.is_some()
            || self.workflow.as_ref().is_some_and(|workflow| {
                workflow.runs.values().all(|run| {
                    let task = run.state.workflow_task.as_ref();
                    let is_written = |task: &WorkflowTask| match &task.started {
                        Some(started) => started.is_saved(),
                        None => !task.offered_sticky && !task.is_speculative,
                    };
                    let is_given_up = |update: &AdmittedUpdate| update.asked.plus(limits::ADMITTED_UPDATE_KEPT) <= now;
                    task.is_none_or(is_written)
                        && run.unsaved_activities.is_empty()
                        && run.queries.is_empty()
                        && run.admitted_updates.iter().all(is_given_up)
                })
            })
    }

    /// Whether nothing of it runs any more.
    fn is_closed(&self) -> bool {
        self.workflow.as_ref().is_some_and(|workflow| workflow.runs.values().all(|run| !run.is_open()))
            || self.machine.as_ref().is_some_and(|machine| !machine.exists())
    }

    /// Drops closed runs that are not the current one, of a workflow whose rows are all durable.
    pub(crate) fn forget_closed_runs(&mut self, committed: u64) {
        const RUNS_KEPT: usize = 3;
        if self.last_batch > committed {
            return;
        }
        if let Some(machine) = &mut self.machine {
            machine.forget_closed();
        }
        let Some(workflow) = &mut self.workflow else { return };
        if workflow.runs.len() <= RUNS_KEPT {
            return;
        }
        let current = workflow.current.as_ref().map(|current| current.run_id);
        workflow.runs.retain(|run_id, run| run.is_open() || Some(*run_id) == current);
        self.runs.0.retain(|run| workflow.runs.contains_key(&run.run_id));
    }
}

/// The cache. Entries stand in a queue in the order in which they were last looked at; one that was used since then is given
/// another turn ("second chance", or "clock", Corbató 1968), and one that was not is dropped once it is clean.
#[derive(Default)]
pub(crate) struct Cache {
    entries: FastMap<EntityRef, Box<Entry>>,
    queue: VecDeque<Place>,
    /// Workflows that were found closed, in that order: they need not stay for as long.
    closed: VecDeque<Place>,
    bytes: usize,
    births: u64,
    sticky: StickyMemory,
}

/// An entry's place in the queue.
struct Place {
    at: Time,
    key: EntityRef,
}

impl Cache {
    /// The entry of a workflow that is wanted `now`, made if there is none.
    pub(crate) fn entry(&mut self, key: &EntityRef, now: Time) -> &mut Entry {
        if !self.entries.contains_key(key) {
            self.births += 1;
            let mut entry = Entry::new(now, self.births);
            entry.bytes = entry.measure();
            self.bytes += entry.bytes;
            self.entries.insert(key.clone(), Box::new(entry));
            self.queue.push_back(Place { at: now, key: key.clone() });
        }
        let entry = self.entries.get_mut(key).expect("it was there or was inserted above");
        entry.used = now;
        entry
    }

    /// The workflows that are there.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &EntityRef> {
        self.entries.keys()
    }

    /// The entry of a workflow, if it is there.
    pub(crate) fn get_mut(&mut self, key: &EntityRef) -> Option<&mut Entry> {
        self.entries.get_mut(key).map(|entry| &mut **entry)
    }

    /// Forgets a workflow.
    pub(crate) fn remove(&mut self, key: &EntityRef) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.bytes;
        Some(*entry)
    }

    /// Forgets workflows, whatever rows do not have of them.
    pub(crate) fn take_out(&mut self, has: impl Fn(&EntityRef) -> bool) -> Vec<Entry> {
        let left: Vec<EntityRef> = self.entries.keys().filter(|key| has(key)).cloned().collect();
        left.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Puts runs that were read from rows into a workflow's entry, with the sticky queues that they had.
    pub(crate) fn add_runs(&mut self, key: &EntityRef, found: Workflow) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let workflow = entry.workflow.get_or_insert_with(|| Workflow {
            id: found.id,
            current: found.current,
            runs: Default::default(),
        });
        for (run_id, mut run) in found.runs {
            // Only runs that are not in memory were asked for, so nothing newer is replaced.
            if let btree_map::Entry::Vacant(vacant) = workflow.runs.entry(run_id) {
                run.sticky = self.sticky.take(run_id);
                vacant.insert(run);
            }
        }
        self.recount(key);
    }

    /// Counts an entry anew, after it has changed.
    pub(crate) fn recount(&mut self, key: &EntityRef) {
        if let Some(entry) = self.entries.get_mut(key) {
            let bytes = entry.measure();
            self.bytes = self.bytes - entry.bytes + bytes;
            entry.bytes = bytes;
        }
    }

    /// Counts an entry anew at `now`, and takes note if the workflow has closed or does not exist. For entries that have changed, and
    /// all rows of which are durable.
    pub(crate) fn recount_durable(&mut self, key: &EntityRef, now: Time) {
        self.recount(key);
        if let Some(entry) = self.entries.get_mut(key)
            && !entry.among_closed
            && entry.is_closed()
        {
            entry.among_closed = true;
            self.closed.push_back(Place { at: now, key: key.clone() });
        }
    }

    /// Drops clean entries: some of those that nobody has used for [`limits::WORKFLOW_IDLE_MAX`], and the ones used least
    /// recently until at most `bytes_max` bytes are left, or all were looked at.
    pub(crate) fn evict(&mut self, now: Time, bytes_max: usize, committed: u64) {
        // Every entry may be passed twice: once because it was used, once to be dropped. The next turn goes on where this one ends.
        let mut looks = (2 * self.queue.len()).min(4 * limits::WORKFLOW_CACHE_LOOKS_MAX);
        while self.bytes > bytes_max && looks > 0 {
            looks -= 1;
            self.look(now, committed);
        }
        for _ in 0..limits::WORKFLOW_CACHE_LOOKS_MAX {
            if self.queue.front().is_none_or(|place| place.at.plus(limits::WORKFLOW_IDLE_MAX) > now) {
                break;
            }
            self.look(now, committed);
        }
        for _ in 0..limits::WORKFLOW_CACHE_LOOKS_MAX {
            match self.closed.front() {
                Some(closed) if closed.at.plus(limits::WORKFLOW_CLOSED_IDLE_MAX) <= now => {
                    self.look_closed(now, committed)
                }
                _ => break,
            }
        }
        self.shrink();
    }

    /// When [`Cache::evict`] has something to do for idle entries.
    pub(crate) fn next_look(&self) -> Option<Time> {
        let idle = self.queue.front().map(|place| place.at.plus(limits::WORKFLOW_IDLE_MAX));
        let closed = self.closed.front().map(|closed| closed.at.plus(limits::WORKFLOW_CLOSED_IDLE_MAX));
        idle.into_iter().chain(closed).min()
    }

    /// Looks at the workflow that was found closed first: drops it, unless somebody was there since.
    fn look_closed(&mut self, now: Time, committed: u64) {
        let Some(Place { at, key }) = self.closed.pop_front() else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if !entry.is_closed() {
            entry.among_closed = false;
        } else if entry.used > at {
            let at = entry.used;
            self.closed.push_back(Place { at, key });
        } else if entry.is_clean(now, committed) {
            self.remove(&key);
        } else {
            entry.among_closed = false;
        }
    }

    /// Looks at the first entry of the queue: drops it, or gives it another turn.
    fn look(&mut self, now: Time, committed: u64) {
        let Some(Place { at, key }) = self.queue.pop_front() else { return };
        let Some(entry) = self.entries.get(&key) else { return };
        if entry.used > at || !entry.is_clean(now, committed) {
            self.queue.push_back(Place { at: now, key });
            return;
        }
        let entry = self.remove(&key);
        for run in entry.iter().flat_map(|entry| &entry.workflow).flat_map(|workflow| workflow.runs.values()) {
            if let Some(sticky) = run.sticky.as_ref().filter(|_| run.is_open()) {
                self.sticky.insert(run.id, sticky);
            }
        }
    }

    /// Gives back what the tables took when there were many more entries.
    fn shrink(&mut self) {
        if let Some(entries) = memory::shrunk_capacity(self.entries.len(), self.entries.capacity()) {
            self.entries.shrink_to(entries);
            self.queue.shrink_to(entries);
            self.closed.shrink_to(entries);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use everlog_kernel::state::{Current, RunInfo, Sticky, WorkflowTask};
    use everlog_kernel::{EntityKind, Lane, NamespaceId, Run};
    use everlog_proto::api::enums::v1::WorkflowExecutionStatus;

    use super::*;

    const RUN: RunId = RunId([1; 16]);

    fn at(seconds: u64) -> Time {
        Time(0).plus(Duration::from_secs(seconds))
    }

    fn key(number: usize) -> EntityRef {
        EntityRef { kind: EntityKind::Workflow, namespace_id: NamespaceId::default(), id: number.to_string().into() }
    }

    /// A workflow with one run that waits for nothing.
    fn workflow() -> Workflow {
        let run = Run::new(RUN, RunInfo::default());
        Workflow { current: Some(Current { run_id: RUN }), runs: [(RUN, Box::new(run))].into(), ..Workflow::new("w") }
    }

    fn run(cache: &mut Cache, number: usize) -> &mut Run {
        let entry = cache.get_mut(&key(number)).unwrap();
        entry.workflow.as_mut().unwrap().runs.get_mut(&RUN).unwrap()
    }

    fn cache(workflows: usize) -> Cache {
        let mut cache = Cache::default();
        for number in 0..workflows {
            cache.entry(&key(number), at(0)).workflow = Some(workflow());
            cache.recount(&key(number));
        }
        cache
    }

    /// How long an idle workflow stays.
    fn idle() -> u64 {
        limits::WORKFLOW_IDLE_MAX.as_secs()
    }

    #[test]
    fn idle_workflows_leave_and_used_ones_stay() {
        let mut cache = cache(3);
        let bytes = cache.bytes();
        cache.evict(at(idle() - 1), usize::MAX, 0);
        assert_eq!(cache.len(), 3);
        cache.entry(&key(1), at(1));
        assert_eq!(cache.next_look(), Some(at(idle())));
        cache.evict(at(idle()), usize::MAX, 0);
        assert_eq!(cache.len(), 1);
        assert_eq!(cache.bytes(), bytes / 3);
        // It is looked at again when it may have been idle for long enough, and not before.
        assert_eq!(cache.next_look(), Some(at(2 * idle())));
        cache.evict(at(2 * idle()), usize::MAX, 0);
        assert_eq!((cache.len(), cache.bytes(), cache.next_look()), (0, 0, None));
    }

    #[test]
    fn closed_workflows_leave_earlier() {
        let closed = limits::WORKFLOW_CLOSED_IDLE_MAX.as_secs();
        let mut cache = cache(3);
        for number in 0..2 {
            run(&mut cache, number).state.status = WorkflowExecutionStatus::Completed as i32;
        }
        for number in 0..3 {
            cache.recount_durable(&key(number), at(1));
        }
        assert_eq!(cache.next_look(), Some(at(1 + closed)));
        // Somebody wants to know how one of them ended.
        cache.entry(&key(1), at(2));
        cache.evict(at(closed), usize::MAX, 0);
        assert_eq!(cache.len(), 3);
        cache.evict(at(1 + closed), usize::MAX, 0);
        assert!(cache.get_mut(&key(0)).is_none() && cache.len() == 2);
        assert_eq!(cache.next_look(), Some(at(2 + closed)));
        // One that was started again is not closed.
        run(&mut cache, 2).state.status = WorkflowExecutionStatus::Completed as i32;
        cache.recount_durable(&key(2), at(3));
        run(&mut cache, 2).state.status = WorkflowExecutionStatus::Running as i32;
        cache.evict(at(3 + closed), usize::MAX, 0);
        assert!(cache.get_mut(&key(2)).is_some() && cache.len() == 1);
    }

    #[test]
    fn what_only_memory_knows_stays() {
        let task = WorkflowTask {
            scheduled_event_id: 2,
            scheduled_time: at(0),
            original_scheduled_time: at(0),
            attempt: 1,
            start_to_close_timeout: Duration::from_secs(10),
            started: None,
            offered_sticky: false,
            is_speculative: false,
            lane: Lane::NONE,
        };
        let mut cache = cache(5);
        run(&mut cache, 0).state.workflow_task = Some(task.clone());
        run(&mut cache, 1).state.workflow_task = Some(WorkflowTask { offered_sticky: true, ..task });
        run(&mut cache, 2).unsaved_activities.insert(5);
        cache.get_mut(&key(3)).unwrap().last_batch = 7;
        // Not read yet.
        cache.get_mut(&key(4)).unwrap().workflow = None;
        cache.evict(at(idle()), 0, 6);
        // A task that waits in its normal queue is in the rows.
        assert_eq!(cache.len(), 4);
        cache.evict(at(3 * idle()), 0, 7);
        assert_eq!(cache.len(), 3);
        run(&mut cache, 2).unsaved_activities.clear();
        cache.evict(at(4 * idle()), 0, 7);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_run_comes_back_with_its_sticky_queue() {
        let sticky = Sticky { task_queue: "s".to_owned(), schedule_to_start_timeout: Some(Duration::from_secs(5)) };
        let mut cache = cache(1);
        run(&mut cache, 0).sticky = Some(sticky.clone());
        cache.evict(at(idle()), usize::MAX, 0);
        assert_eq!(cache.len(), 0);
        cache.entry(&key(0), at(idle()));
        cache.add_runs(&key(0), workflow());
        assert_eq!(run(&mut cache, 0).sticky, Some(sticky));
        // What a change of leader leaves is nothing.
        cache.evict(at(2 * idle()), usize::MAX, 0);
        cache.drain();
        cache.entry(&key(0), at(2 * idle()));
        cache.add_runs(&key(0), workflow());
        assert_eq!(run(&mut cache, 0).sticky, None);
    }

    #[test]
    fn bytes_are_bounded_and_tables_shrink() {
        const WORKFLOWS: usize = 20_000;
        let mut cache = cache(WORKFLOWS);
        let bytes = cache.bytes() / WORKFLOWS;
        let mut turns = 0;
        while cache.len() > 100 {
            cache.evict(at(1), 100 * bytes, 0);
            turns += 1;
        }
        assert_eq!(cache.len(), 100);
        assert!(
            turns > 1 && turns < WORKFLOWS / limits::WORKFLOW_CACHE_LOOKS_MAX,
            "a turn does a bounded part: {turns}"
        );
        assert!(cache.entries.capacity() < WORKFLOWS / 2, "{}", cache.entries.capacity());
        assert!(cache.queue.capacity() < WORKFLOWS / 2, "{}", cache.queue.capacity());
    }

    #[test]
    fn idle_workflows_leave_a_few_at_a_time() {
        let mut cache = cache(limits::WORKFLOW_CACHE_LOOKS_MAX + 1);
        cache.evict(at(idle()), usize::MAX, 0);
        assert_eq!(cache.len(), 1);
        // There is more to do at once.
        assert_eq!(cache.next_look(), Some(at(idle())));
    }
}
