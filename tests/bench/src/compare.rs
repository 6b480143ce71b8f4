//! Compares Everlog with other servers. Each measurement has a fresh server with an empty directory; the servers take turns
//! (A B A B ...), so that whatever the machine does to one it does to the other, and a ratio is taken within each round.
//!
//! fsyncs are a server's own count where it has one. For the others they are counted in one more, shorter round under strace,
//! which times nothing. strace slows a server down, and one that shares syncs between callers then shares fewer: no such
//! server may be counted that way.

use std::path::PathBuf;

use crate::error::BenchError;
use crate::measure::disk_bytes;
use crate::progress::Progress;
use crate::report::{Figure, Ratio, Results};
use crate::run::{Session, Size, concurrencies};
use crate::servers::{Binaries, Server, ServerKind};
use crate::workloads::Workload;
use crate::{restate, say};

/// Units of a round that only counts fsyncs.
const STRACE_COUNT: u64 = 300;

/// What to compare, and how often.
pub(crate) struct Comparison {
    pub(crate) binaries: Binaries,
    /// Against whom; Everlog itself always takes part.
    pub(crate) others: Vec<ServerKind>,
    pub(crate) workloads: Vec<&'static Workload>,
    pub(crate) concurrency: Vec<usize>,
    pub(crate) size: Size,
    pub(crate) pairs: usize,
    pub(crate) strace: bool,
    /// Where data directories are made; decides the file system.
    pub(crate) directory: PathBuf,
}

impl Comparison {
    /// Runs everything. A workload that fails on one server is reported and left out, on all.
    pub(crate) async fn run(&self, progress: &Progress) -> Result<Results, BenchError> {
        let kinds: Vec<ServerKind> = [ServerKind::Everlog].into_iter().chain(self.others.iter().copied()).collect();
        let mut results = Results::default();
        for workload in &self.workloads {
            for concurrency in concurrencies(workload, &self.concurrency) {
                let kinds: Vec<ServerKind> = kinds.iter().copied().filter(|kind| runs(*kind, workload)).collect();
                if kinds.len() < 2 {
                    continue;
                }
                match self.rounds(&kinds, workload, concurrency, progress).await {
                    Ok(rounds) => add(&mut results, rounds),
                    Err(error) => say(&format!("{} (×{concurrency}) left out: {error}", workload.name)),
                }
            }
        }
        Ok(results)
    }

    /// The figures by server, then by round.
    async fn rounds(
        &self,
        kinds: &[ServerKind],
        workload: &'static Workload,
        concurrency: usize,
        progress: &Progress,
    ) -> Result<Vec<Vec<Vec<Figure>>>, BenchError> {
        let mut rounds: Vec<Vec<Vec<Figure>>> = vec![Vec::new(); kinds.len()];
        for round in 0..self.pairs {
            for (kind, of_kind) in kinds.iter().zip(&mut rounds) {
                let figures = self.once(*kind, workload, concurrency, self.size, false, progress).await?;
                say(&format!("round {} of {}: {}", round + 1, self.pairs, brief(&figures)));
                of_kind.push(figures);
            }
        }
        if self.strace {
            let own_count =
                |figures: &&mut Vec<Vec<Figure>>| figures.iter().flatten().any(|one| one.fsyncs_per_unit.is_some());
            for (kind, of_kind) in kinds.iter().zip(&mut rounds) {
                if own_count(&of_kind) {
                    continue;
                }
                let counted =
                    self.once(*kind, workload, concurrency, Size::Count(STRACE_COUNT), true, progress).await?;
                for figure in of_kind.iter_mut().flatten() {
                    let same = counted.iter().find(|counted| counted.workload == figure.workload);
                    figure.fsyncs_per_unit = same.and_then(|counted| counted.fsyncs_per_unit);
                    figure.fsyncs_counted_by = same.and_then(|counted| counted.fsyncs_counted_by.clone());
                }
            }
        }
        Ok(rounds)
    }

    /// One measurement, with a second and a third try where a server did not become usable: that says nothing of what is measured, and
    /// would take the rounds before with it.
    async fn once(
        &self,
        kind: ServerKind,
        workload: &'static Workload,
        concurrency: usize,
        size: Size,
        strace: bool,
        progress: &Progress,
    ) -> Result<Vec<Figure>, BenchError> {
        const TRIES: usize = 3;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.attempt(kind, workload, concurrency, size, strace, progress).await {
                Err(error @ BenchError::Connect { .. }) if tries < TRIES => {
                    say(&format!("{} {}: {error}; once more", kind.name(), workload.name));
                }
                done => return done,
            }
        }
    }

    /// One workload on a fresh server.
    async fn attempt(
        &self,
        kind: ServerKind,
        workload: &'static Workload,
        concurrency: usize,
        size: Size,
        strace: bool,
        progress: &Progress,
    ) -> Result<Vec<Figure>, BenchError> {
        let directory = tempfile::Builder::new().prefix("everlog-bench-").tempdir_in(&self.directory);
        let directory = directory.map_err(|error| BenchError::file(&self.directory, error))?;
        let server = Server::start(kind, &self.binaries, directory.path()).await?;
        let mut session = Session::with_server(server, strace, progress.clone());
        let figures = session.run(workload, concurrency, size).await;
        session.stop().await?;
        let mut figures = figures?;
        if kind.durable() {
            let at_rest = disk_bytes(directory.path())?;
            figures.iter_mut().for_each(|figure| figure.disk_at_rest_bytes = Some(at_rest));
        }
        Ok(figures)
    }
}

/// Whether a server has an equivalent of the workload.
fn runs(kind: ServerKind, workload: &Workload) -> bool {
    match kind {
        ServerKind::Restate => restate::WORKLOADS.contains(&workload.name),
        ServerKind::TemporalMemory => workload.name != "kill-nine",
        ServerKind::Everlog | ServerKind::EverlogThreeNodes | ServerKind::EverlogBefore | ServerKind::TemporalFile => {
            true
        }
    }
}

fn add(results: &mut Results, rounds: Vec<Vec<Vec<Figure>>>) {
    if let Some((everlog, others)) = rounds.split_first() {
        for other in others {
            results.ratios.extend(Ratio::of(everlog, other));
        }
    }
    results.figures.extend(rounds.into_iter().flatten().flatten());
}

fn brief(figures: &[Figure]) -> String {
    let one = |figure: &Figure| {
        let cpu = figure.cpu_ms_per_unit.map_or_else(String::new, |cpu| format!(", {cpu:.3} ms CPU each"));
        let p50 = figure.latency_p50_ms.map_or_else(String::new, |p50| format!(", p50 {p50:.2} ms"));
        let Figure { server, workload, concurrency, units, unit, .. } = figure;
        format!("{server} {workload} (×{concurrency}): {units} {unit}s{cpu}{p50}")
    };
    figures.iter().map(one).collect::<Vec<_>>().join("; ")
}
