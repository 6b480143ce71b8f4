//! Runs workloads against one server and turns their outcomes into figures.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::Client;
use crate::error::BenchError;
use crate::load::Extent;
use crate::measure::Target;
use crate::progress::Progress;
use crate::report::Figure;
use crate::restate;
use crate::servers::{Server, ServerKind};
use crate::workloads::{Context, WORKLOADS, Workload};

/// How long a server may take until its namespace can be used.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// How much each workload does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    /// So many units, whatever the workload.
    Count(u64),
    /// As long as that, where a workload can end by the clock.
    Duration(Duration),
    /// This part of what the workload does in a full run.
    Scale(f64),
    /// The workload's small number for smoke tests.
    Smoke,
}

impl Size {
    fn extent(self, workload: &Workload) -> Extent {
        match self {
            Size::Count(count) => Extent::Count(count),
            Size::Duration(duration) => Extent::Duration(duration),
            Size::Scale(scale) => match workload.usual {
                Extent::Count(count) => Extent::Count((count as f64 * scale).ceil() as u64),
                Extent::Duration(duration) => Extent::Duration(duration.mul_f64(scale.max(0.0))),
            },
            Size::Smoke => Extent::Count(workload.smoke_count),
        }
    }
}

/// A server to run workloads against.
pub(crate) struct Session {
    name: String,
    address: String,
    namespace: String,
    target: Target,
    server: Option<Server>,
    progress: Progress,
}

impl Session {
    /// A server that runs already.
    pub(crate) fn with_target(address: String, namespace: String, target: Target, progress: Progress) -> Self {
        Session { name: "target".to_owned(), address, namespace, target, server: None, progress }
    }

    /// A server that this program has started. With `strace`, fsyncs are counted by it and nothing is timed.
    pub(crate) fn with_server(server: Server, strace: bool, progress: Progress) -> Self {
        Session {
            name: server.kind().name().to_owned(),
            address: server.address().to_owned(),
            namespace: "default".to_owned(),
            target: Target { strace, ..server.target() },
            server: Some(server),
            progress,
        }
    }

    /// Runs one workload with one concurrency.
    pub(crate) async fn run(
        &mut self,
        workload: &'static Workload,
        concurrency: usize,
        size: Size,
    ) -> Result<Vec<Figure>, BenchError> {
        self.progress.workload(&format!("{} {} (×{concurrency})", self.name, workload.name));
        let outcomes = match &self.server {
            Some(server) if server.kind() == ServerKind::Restate => {
                let run = restate::Run {
                    ingress: server.address(),
                    admin: &server.admin_address(),
                    target: self.target.clone(),
                    concurrency,
                    extent: size.extent(workload),
                    progress: &self.progress,
                    prefix: &unique_prefix(workload.name),
                };
                run.workload(workload.name).await
            }
            _ => self.run_temporal_workload(workload, concurrency, size).await,
        };
        self.progress.clear();
        let figure = |outcome| Figure::new(&self.name, workload.name, concurrency, self.target.strace, outcome);
        Ok(outcomes?.iter().map(figure).collect())
    }

    async fn run_temporal_workload(
        &mut self,
        workload: &'static Workload,
        concurrency: usize,
        size: Size,
    ) -> Result<Vec<crate::workloads::Outcome>, BenchError> {
        self.progress.phase("connecting", 0);
        let client = Client::connect(&self.address, &self.namespace, CONNECT_PATIENCE).await?;
        let context = Context {
            client: Arc::new(client),
            address: self.address.clone(),
            target: Mutex::new(self.target.clone()),
            server: self.server.take().map(tokio::sync::Mutex::new),
            concurrency,
            extent: size.extent(workload),
            usual: workload.usual,
            progress: self.progress.clone(),
            prefix: unique_prefix(workload.name),
        };
        let outcomes = (workload.run)(&context).await;
        self.server = context.server.map(tokio::sync::Mutex::into_inner);
        if let Some(server) = &self.server {
            self.target = Target { strace: self.target.strace, ..server.target() };
        }
        outcomes
    }

    /// Stops a server that this program has started.
    pub(crate) async fn stop(self) -> Result<(), BenchError> {
        match self.server {
            Some(server) => server.stop().await,
            None => Ok(()),
        }
    }
}

/// The concurrencies that a workload is run with: all of them, or only the highest.
pub(crate) fn concurrencies(workload: &Workload, wanted: &[usize]) -> Vec<usize> {
    if workload.by_concurrency { wanted.to_vec() } else { wanted.iter().max().copied().into_iter().collect() }
}

/// The workloads with these names or numbers; `all` is all of them.
pub(crate) fn select(names: &[String]) -> Result<Vec<&'static Workload>, BenchError> {
    static LIST: [Workload; WORKLOADS.len()] = WORKLOADS;
    if names.iter().any(|name| name == "all") {
        return Ok(LIST.iter().collect());
    }
    let find = |name: &String| {
        let found = LIST.iter().find(|workload| workload.name == name || workload.number.to_string() == *name);
        found.ok_or_else(|| {
            let known: Vec<_> = LIST.iter().map(|workload| workload.name).collect();
            BenchError::Setup(format!("workload {name:?} is none of all, {}", known.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

/// Ids that no earlier run on the same server has used.
fn unique_prefix(name: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    format!("bench-{name}-{now:x}")
}
