//! Where the workers poll that have runs cached, for runs that left the leader's memory.
//!
//! A run's sticky queue is in no row. If it were lost with the run, a worker that has an idle workflow cached would be sent the
//! whole history again with the next task. So it stays behind in some thirty bytes, and is put back when the run is read again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use everlog_kernel::RunId;
use everlog_kernel::state::Sticky;
use everlog_model::limits;

/// Sticky queues of runs that are not in memory. Bounded: when the younger generation is full it becomes the older one, which is
/// forgotten. Lives as long as the leadership in which the queues were learnt.
#[derive(Debug, Default)]
pub(crate) struct StickyMemory {
    younger: HashMap<RunId, Arc<Sticky>>,
    older: HashMap<RunId, Arc<Sticky>>,
    /// A worker has one queue for all its runs: each is here once.
    queues: HashSet<Arc<Sticky>>,
}

impl StickyMemory {
    /// Remembers a run's queue.
    pub(crate) fn insert(&mut self, run_id: RunId, sticky: &Sticky) {
        if self.younger.len() >= limits::STICKY_RUNS_REMEMBERED_MAX / 2 {
            self.older = std::mem::take(&mut self.younger);
            self.queues.retain(|queue| Arc::strong_count(queue) > 1);
        }
        let queue = match self.queues.get(sticky) {
            Some(queue) => Arc::clone(queue),
            None => {
                let queue = Arc::new(sticky.clone());
                self.queues.insert(Arc::clone(&queue));
                queue
            }
        };
        self.younger.insert(run_id, queue);
    }

    /// Takes a run's queue, if it is remembered. It must not be asked for twice: the run's next transition may change it.
    pub(crate) fn take(&mut self, run_id: RunId) -> Option<Sticky> {
        // Both: an older one is out of date.
        let older = self.older.remove(&run_id);
        let queue = self.younger.remove(&run_id).or(older)?;
        Some((*queue).clone())
    }

    /// Runs that are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.younger.len() + self.older.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: usize) -> RunId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        RunId(id)
    }

    fn sticky(task_queue: &str) -> Sticky {
        Sticky { task_queue: task_queue.to_owned(), schedule_to_start_timeout: None }
    }

    #[test]
    fn the_last_queue_is_remembered_and_only_once() {
        let mut memory = StickyMemory::default();
        memory.insert(run(1), &sticky("a"));
        memory.insert(run(2), &sticky("a"));
        assert_eq!((memory.len(), memory.queues.len()), (2, 1));
        memory.insert(run(1), &sticky("b"));
        assert_eq!(memory.take(run(1)), Some(sticky("b")));
        assert_eq!((memory.take(run(1)), memory.take(run(3))), (None, None));
        assert_eq!(memory.take(run(2)), Some(sticky("a")));
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_the_newest() {
        const RUNS: usize = 3 * limits::STICKY_RUNS_REMEMBERED_MAX;
        let mut memory = StickyMemory::default();
        for number in 0..RUNS {
            memory.insert(run(number), &sticky(&format!("worker-{}", number / 1000)));
            assert!(memory.len() <= limits::STICKY_RUNS_REMEMBERED_MAX);
        }
        assert!(memory.queues.len() <= RUNS / 1000);
        assert!(memory.queues.len() <= limits::STICKY_RUNS_REMEMBERED_MAX / 1000 + 2, "{}", memory.queues.len());
        let kept = (0..RUNS).rev().take_while(|number| memory.take(run(*number)).is_some()).count();
        assert!(kept >= limits::STICKY_RUNS_REMEMBERED_MAX / 2, "{kept}");
    }
}
