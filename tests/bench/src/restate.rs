//! The workloads that Restate has an equivalent for, over its HTTP ingress: single-activity, ten-activities and start-burst.
//!
//! Restate pushes to the handler where Temporal's workers poll, and its durable steps run inside the handler; the figures
//! compare what the *server* spends on the same unit of work. Read-back goes through its SQL endpoint: every invocation must
//! have completed with a journal of the right number of steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::check::ReadBack;
use crate::error::BenchError;
use crate::http::HttpConnection;
use crate::load::{Extent, closed_loop};
use crate::measure::{Meter, Target};
use crate::progress::Progress;
use crate::workloads::Outcome;

/// The names of the workloads that can be run.
pub(crate) const WORKLOADS: [&str; 3] = ["single-activity", "ten-activities", "start-burst"];

const WARM_UP: u64 = 16;
/// How long a burst may take to drain before it is read back.
const DRAIN_POLLS_MAX: u32 = 600;

/// A running Restate and how to load it.
pub(crate) struct Run<'a> {
    pub(crate) ingress: &'a str,
    pub(crate) admin: &'a str,
    pub(crate) target: Target,
    pub(crate) concurrency: usize,
    pub(crate) extent: Extent,
    pub(crate) progress: &'a Progress,
    pub(crate) prefix: &'a str,
}

impl Run<'_> {
    /// Runs one workload by name.
    pub(crate) async fn workload(&self, name: &str) -> Result<Vec<Outcome>, BenchError> {
        let (steps, path, unit) = match name {
            "single-activity" => (1, "/bench/sequential", "workflow"),
            "ten-activities" => (10, "/bench/sequential", "workflow"),
            "start-burst" => (1, "/bench/sequential/send", "start"),
            _ => return Err(BenchError::Skipped(format!("restate has no equivalent of {name}"))),
        };
        let connections = Arc::new(Connections::open(self.ingress, self.concurrency).await?);
        let call = |phase: &'static str| {
            let (connections, prefix) = (connections.clone(), self.prefix.to_owned());
            move |number: u64| {
                let (connections, key) = (connections.clone(), format!("{prefix}-{phase}-{number}"));
                async move { connections.call(number, path, &key, steps).await }
            }
        };
        closed_loop(self.concurrency, Extent::Count(WARM_UP), self.progress, call("warm")).await?;
        let before = self.completed(steps).await?;
        let meter = Meter::start(self.target.clone()).await?;
        self.progress.phase("invocations", 0);
        let load = closed_loop(self.concurrency, self.extent, self.progress, call("run")).await?;
        let usage = meter.stop().await?;
        let units = load.latency.total();
        let read_back = self.read_back(before, units, steps).await?;
        Ok(vec![Outcome {
            part: "",
            unit,
            units,
            usage,
            latency: Some(load.latency),
            read_back,
            extra: BTreeMap::new(),
        }])
    }

    /// Waits until all invocations have completed; the journal of each must hold its steps.
    async fn read_back(&self, before: u64, units: u64, steps: u32) -> Result<ReadBack, BenchError> {
        self.progress.phase("reading back", units);
        let mut found = 0;
        for _ in 0..DRAIN_POLLS_MAX {
            found = self.completed(steps).await?.saturating_sub(before);
            if found >= units {
                return Ok(ReadBack { workflows: units, events: units * journal_entries(steps), ..Default::default() });
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Err(BenchError::Check(format!("{found} of {units} invocations have completed with a full journal")))
    }

    /// Invocations with a full journal, without an error.
    async fn completed(&self, steps: u32) -> Result<u64, BenchError> {
        let query = format!(
            "SELECT COUNT(*) AS n FROM sys_invocation WHERE target_service_name = 'bench' \
             AND status = 'completed' AND completion_result = 'success' AND journal_size = {}",
            journal_entries(steps)
        );
        let body = serde_json::json!({ "query": query }).to_string();
        let response = HttpConnection::open(self.admin).await?.send("POST", "/query", body.as_bytes()).await?;
        let answer: serde_json::Value = serde_json::from_slice(&response.body).unwrap_or_default();
        answer["rows"][0]["n"].as_u64().ok_or_else(|| {
            BenchError::Check(format!(
                "restate's query: {} {}",
                response.status,
                String::from_utf8_lossy(&response.body)
            ))
        })
    }
}

/// Journal entries of a completed invocation: input, a command and a completion per step, output.
fn journal_entries(steps: u32) -> u64 {
    2 + 2 * u64::from(steps)
}

/// One connection per caller; a caller that finds its connection taken waits.
struct Connections(Vec<Mutex<HttpConnection>>);

impl Connections {
    async fn open(address: &str, count: usize) -> Result<Self, BenchError> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count.max(1) {
            connections.push(Mutex::new(HttpConnection::open(address).await?));
        }
        Ok(Connections(connections))
    }

    async fn call(&self, number: u64, path: &str, key: &str, steps: u32) -> Result<(), BenchError> {
        let free = self.0.iter().find_map(|connection| connection.try_lock().ok());
        let mut connection = match free {
            Some(connection) => connection,
            None => self.0[number as usize % self.0.len()].lock().await,
        };
        let response = connection.send("POST", path, format!("{{\"count\":{steps}}}").as_bytes()).await?;
        if (200..300).contains(&response.status) {
            Ok(())
        } else {
            let body = String::from_utf8_lossy(&response.body).into_owned();
            Err(BenchError::Check(format!("restate answered {key} with {}: {body}", response.status)))
        }
    }
}
