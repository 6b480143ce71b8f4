//! What queues have done outside of their locks, and what time alone brings about.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use everlog_model::{QueueId, limits};
use tokio::time::Instant;

use super::super::queue::{Errand, Queue};
use super::super::tasks::{Position, WaitingTask};
use super::Matching;

impl Matching {
    pub(super) fn run_errands(&self, errands: impl IntoIterator<Item = (Arc<QueueId>, Errand)>) {
        for (queue, errand) in errands {
            let me = self.me.clone();
            match errand {
                Errand::WakeAt(at) => {
                    self.runtime.spawn(async move {
                        tokio::time::sleep_until(at).await;
                        if let Some(matching) = me.upgrade() {
                            matching.with_existing(&queue, |queue| queue.wake(Instant::now()));
                        }
                    });
                }
                Errand::Fetch(fetch) => {
                    let after = (fetch.after != Position::FIRST).then_some(fetch.after);
                    let page = self.backlog.ready_tasks(fetch.partition, (*queue).clone(), after, fetch.limit);
                    self.runtime.spawn(async move {
                        let page = page.await;
                        if let Some(matching) = me.upgrade() {
                            let is_here = |task: &WaitingTask| {
                                let pinned = task.version.as_deref();
                                matching.version_of(&queue, pinned, &task.address.workflow_id) == queue.version
                            };
                            let take = |queue: &mut Queue| queue.take_page(fetch, page, is_here, Instant::now());
                            matching.with_existing(&queue, take);
                            matching.page_taken.notify_waiters();
                        }
                    });
                }
            }
        }
    }

    /// What time alone brings about: sticky lines without pollers empty, idle queues go, failed page requests are repeated.
    fn sweep(&self) {
        let now = Instant::now();
        self.shut_down.write().retain(|_, at| now.duration_since(*at) < limits::WORKER_SHUTDOWN_REMEMBERED);
        for shard in &self.shards {
            let mut errands = Vec::new();
            shard.lock().retain(|_, queue| {
                queue.sweep(now);
                errands.extend(errands_of(queue));
                let stays = !queue.is_idle(now);
                if !stays {
                    self.queues.fetch_sub(1, Ordering::Relaxed);
                }
                stays
            });
            self.run_errands(errands);
        }
    }
}

/// What a queue wants to have done. Allocates only if there is something.
pub(super) fn errands_of(queue: &mut Queue) -> Vec<(Arc<QueueId>, Errand)> {
    let errands = queue.take_errands();
    errands.into_iter().map(|errand| (queue.id().clone(), errand)).collect()
}

pub(super) async fn keep_up(matching: Weak<Matching>) {
    let mut tick = tokio::time::interval(limits::QUEUE_SWEEP_INTERVAL);
    loop {
        tick.tick().await;
        let Some(matching) = matching.upgrade() else { return };
        matching.sweep();
    }
}
