//! Which worker processes there are: what they say of themselves once a minute.
//!
//! None of it is durable. A worker that is silent for [`WORKER_TTL`] is no longer listed, and a node that starts knows of each worker when
//! it speaks next. Every node is told of every worker, so that each can answer alone.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use everlog_kernel::NamespaceId;
use everlog_model::FastMap;
use everlog_model::limits::{WORKER_HEARTBEATS_BYTES_MAX, WORKER_TTL, WORKERS_MAX};
use everlog_proto::api::enums::v1::WorkerStatus;
use everlog_proto::api::worker::v1::WorkerHeartbeat;
use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use prost::Message;
use tokio::time::Instant;

/// How often those are let go that are no longer listed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Workers that are looked at while others wait.
const CHUNK: usize = 256;

/// The workers of all namespaces.
pub struct Workers {
    known: Mutex<Known>,
    count: Gauge,
    left_out: Counter,
}

struct Known {
    namespaces: FastMap<NamespaceId, BTreeMap<String, Worker>>,
    count: usize,
    bytes: usize,
    swept: Instant,
}

/// A worker as it was last heard of.
struct Worker {
    /// Its heartbeat, encoded: decoded it takes several times as much.
    heartbeat: Bytes,
    heard: Instant,
}

impl Default for Workers {
    fn default() -> Workers {
        Workers {
            known: Mutex::new(Known { namespaces: FastMap::default(), count: 0, bytes: 0, swept: Instant::now() }),
            count: metrics::gauge!("everlog_workers"),
            left_out: metrics::counter!("everlog_workers_left_out_total"),
        }
    }
}

impl Workers {
    /// Workers say how they are. One that has shut down is forgotten at once. One that is too many is not kept, and counted.
    pub fn heard(&self, namespace_id: NamespaceId, heartbeats: &[WorkerHeartbeat]) {
        let now = Instant::now();
        let mut known = self.known.lock();
        if now.duration_since(known.swept) >= SWEEP_INTERVAL {
            known.sweep(now);
        }
        for heartbeat in heartbeats {
            let key = &heartbeat.worker_instance_key;
            known.remove(namespace_id, key);
            if heartbeat.status() != WorkerStatus::Shutdown
                && !known.insert(namespace_id, key.clone(), heartbeat.encode_to_vec().into(), now)
            {
                self.left_out.increment(1);
            }
        }
        self.count.set(known.count as f64);
    }

    /// A worker, if it was heard of lately.
    pub fn get(&self, namespace_id: NamespaceId, worker_instance_key: &str) -> Option<WorkerHeartbeat> {
        let now = Instant::now();
        let known = self.known.lock();
        let worker = known.namespaces.get(&namespace_id)?.get(worker_instance_key)?;
        worker.is_there(now).then(|| WorkerHeartbeat::decode(worker.heartbeat.clone()).ok()).flatten()
    }

    /// The workers of a namespace behind the key `after`, in the order of their keys, as far as `take` wants them.
    pub fn each(
        &self,
        namespace_id: NamespaceId,
        after: Option<&str>,
        mut take: impl FnMut(WorkerHeartbeat) -> std::ops::ControlFlow<()>,
    ) {
        let now = Instant::now();
        let mut after = after.map(str::to_owned);
        loop {
            let chunk = self.chunk(namespace_id, after.as_deref(), now);
            let is_last = chunk.len() < CHUNK;
            for (key, heartbeat) in chunk {
                if let Some(Ok(heartbeat)) = heartbeat.map(WorkerHeartbeat::decode)
                    && take(heartbeat).is_break()
                {
                    return;
                }
                after = Some(key);
            }
            if is_last {
                return;
            }
        }
    }

    /// The next keys, each with its heartbeat if that is not too old.
    fn chunk(&self, namespace_id: NamespaceId, after: Option<&str>, now: Instant) -> Vec<(String, Option<Bytes>)> {
        let known = self.known.lock();
        let Some(workers) = known.namespaces.get(&namespace_id) else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let next = workers.range::<str, _>((from, Bound::Unbounded)).take(CHUNK);
        next.map(|(key, worker)| (key.clone(), worker.is_there(now).then(|| worker.heartbeat.clone()))).collect()
    }
}

impl Known {
    /// Whether there was room for it.
    fn insert(&mut self, namespace_id: NamespaceId, key: String, heartbeat: Bytes, now: Instant) -> bool {
        let bytes = self.bytes + key.len() + heartbeat.len();
        if self.count >= WORKERS_MAX || bytes > WORKER_HEARTBEATS_BYTES_MAX {
            return false;
        }
        self.count += 1;
        self.bytes = bytes;
        self.namespaces.entry(namespace_id).or_default().insert(key, Worker { heartbeat, heard: now });
        true
    }

    fn remove(&mut self, namespace_id: NamespaceId, key: &str) {
        let Some(workers) = self.namespaces.get_mut(&namespace_id) else { return };
        if let Some(worker) = workers.remove(key) {
            self.count -= 1;
            self.bytes -= key.len() + worker.heartbeat.len();
        }
        if workers.is_empty() {
            self.namespaces.remove(&namespace_id);
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        let (mut count, mut bytes) = (0, 0);
        self.namespaces.retain(|_, workers| {
            workers.retain(|_, worker| worker.is_there(now));
            count += workers.len();
            bytes += workers.iter().map(|(key, worker)| key.len() + worker.heartbeat.len()).sum::<usize>();
            !workers.is_empty()
        });
        (self.count, self.bytes) = (count, bytes);
    }
}

impl Worker {
    fn is_there(&self, now: Instant) -> bool {
        now.duration_since(self.heard) < WORKER_TTL
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    const NAMESPACE: NamespaceId = NamespaceId([1; 16]);

    fn worker(key: &str) -> WorkerHeartbeat {
        WorkerHeartbeat { worker_instance_key: key.into(), task_queue: "q".into(), ..WorkerHeartbeat::default() }
    }

    fn keys(workers: &Workers, after: Option<&str>) -> Vec<String> {
        let mut keys = Vec::new();
        workers.each(NAMESPACE, after, |worker| {
            keys.push(worker.worker_instance_key);
            ControlFlow::Continue(())
        });
        keys
    }

    #[tokio::test(start_paused = true)]
    async fn workers_are_there_until_they_shut_down_or_are_silent() {
        let workers = Workers::default();
        for key in ["b", "a", "c"] {
            workers.heard(NAMESPACE, &[worker(key)]);
        }
        workers.heard(NamespaceId([2; 16]), &[worker("other")]);
        assert_eq!(keys(&workers, None), ["a", "b", "c"]);
        assert_eq!(keys(&workers, Some("a")), ["b", "c"]);
        assert_eq!(keys(&workers, Some("aa")), ["b", "c"]);
        let gone = WorkerHeartbeat { status: WorkerStatus::Shutdown.into(), ..worker("b") };
        workers.heard(NAMESPACE, std::slice::from_ref(&gone));
        assert_eq!((keys(&workers, None), workers.get(NAMESPACE, "b")), (vec!["a".into(), "c".into()], None));
        tokio::time::advance(WORKER_TTL - Duration::from_secs(1)).await;
        workers.heard(NAMESPACE, &[WorkerHeartbeat { sdk_name: "new".into(), ..worker("c") }]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(keys(&workers, None), ["c"]);
        assert_eq!(workers.get(NAMESPACE, "c").unwrap().sdk_name, "new");
        assert_eq!(workers.get(NAMESPACE, "a"), None);
        tokio::time::advance(WORKER_TTL).await;
        workers.heard(NAMESPACE, &[worker("d")]);
        let known = workers.known.lock();
        assert_eq!((known.count, known.namespaces.len()), (1, 1));
        assert_eq!(known.bytes, 1 + worker("d").encoded_len());
    }

    #[tokio::test]
    async fn there_are_no_more_than_there_may_be() {
        let workers = Workers::default();
        let large = "x".repeat(WORKER_HEARTBEATS_BYTES_MAX / 2);
        for key in ["a", "b", "c"] {
            workers.heard(NAMESPACE, &[WorkerHeartbeat { sdk_name: large.clone(), ..worker(key) }]);
        }
        assert_eq!(keys(&workers, None), ["a"]);
        // One that is known is known anew.
        workers.heard(NAMESPACE, &[worker("a")]);
        workers.heard(NAMESPACE, &[worker("d")]);
        assert_eq!(keys(&workers, None), ["a", "d"]);
    }

    #[tokio::test]
    async fn many_are_looked_at_a_chunk_at_a_time() {
        let workers = Workers::default();
        let expected: Vec<String> = (0..3 * CHUNK).map(|number| format!("{number:05}")).collect();
        for key in &expected {
            workers.heard(NAMESPACE, &[worker(key)]);
        }
        assert_eq!(keys(&workers, None), expected);
        let mut taken = 0;
        workers.each(NAMESPACE, None, |_| {
            taken += 1;
            if taken == CHUNK + 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(taken, CHUNK + 1);
    }
}
