//! What others may know of a partition: whether it serves, and how much it has to remember.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::job::Charge;

/// Whether a partition serves on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is led here, and takes commands.
    Serving,
    /// Another node leads it, or an election is under way.
    Following,
    /// It is led by nobody, for a reason that may not pass by itself.
    NotServing(String),
}

impl Status {
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Status::NotServing(reason) => Some(reason),
            Status::Serving | Status::Following => None,
        }
    }
}

/// How much a partition has in memory for work that is not done, bytes; what callers are admitted by.
#[derive(Debug)]
pub(crate) struct PartitionLoad {
    /// Jobs that wait: in the channel, for a turn, or for rows.
    waiting: Arc<AtomicUsize>,
    /// Workflows in memory, and batches that form or are in flight.
    held: AtomicUsize,
    bytes_max: usize,
    /// Callers that wait for room.
    wanting: AtomicUsize,
    room: Notify,
}

impl PartitionLoad {
    /// Nothing yet, of at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> PartitionLoad {
        PartitionLoad {
            waiting: Arc::default(),
            held: AtomicUsize::new(0),
            bytes_max,
            wanting: AtomicUsize::new(0),
            room: Notify::new(),
        }
    }

    /// Waits until there is room for a job of `bytes`.
    pub(crate) async fn admit(&self, bytes: usize) -> Charge {
        if let Some(charge) = self.try_admit(bytes) {
            return charge;
        }
        self.wanting.fetch_add(1, Ordering::Relaxed);
        let _wanting = Wanting(&self.wanting);
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Some(charge) = self.try_admit(bytes) {
                return charge;
            }
            room.await;
        }
    }

    /// The same, if there is room at once.
    pub(crate) fn try_admit(&self, bytes: usize) -> Option<Charge> {
        self.has_room(bytes).then(|| Charge::new(&self.waiting, bytes))
    }

    /// One job always has room, however large the rest is: what is done makes room, and waiting would not.
    fn has_room(&self, bytes: usize) -> bool {
        let waiting = self.waiting.load(Ordering::Relaxed);
        waiting == 0 || waiting + self.held.load(Ordering::Relaxed) + bytes <= self.bytes_max
    }

    /// Tells what is held now, after a turn.
    pub(crate) fn set_held(&self, bytes: usize) {
        self.held.store(bytes, Ordering::Relaxed);
        if self.wanting.load(Ordering::Relaxed) > 0 {
            self.room.notify_waiters();
        }
    }
}

/// A caller that waits for room, until it is dropped.
struct Wanting<'a>(&'a AtomicUsize);

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn jobs_wait_for_room_and_one_always_has_it() {
        let load = PartitionLoad::new(100);
        load.set_held(1000);
        let first = load.admit(500).await;
        let mut second = Box::pin(load.admit(10));
        assert!(second.as_mut().now_or_never().is_none());
        load.set_held(0);
        // The first one is still there.
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        load.set_held(0);
        let second = second.await;
        let third = load.admit(90).await;
        assert!(load.admit(1).now_or_never().is_none());
        drop((second, third));
        assert_eq!(load.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(load.wanting.load(Ordering::Relaxed), 0);
    }
}
