//! Benchmarks of any server that speaks Temporal's gRPC API, with a worker of their own that costs next to nothing.
//!
//! `run` measures one server, `compare` starts several and takes turns between them, `smoke` runs every workload small and
//! checks correctness alone, `chart` draws a comparison. Counts come first: CPU time, fsyncs and bytes per unit of work are
//! properties of the server, throughput is one of the machine. No figure is printed whose workflows were not read back and
//! found right.
//!
//! Read `workloads/mod.rs` for what is measured, `measure.rs` for how, and `worker.rs` for what the client does.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::compare::Comparison;
use crate::error::BenchError;
use crate::measure::Target;
use crate::progress::Progress;
use crate::report::Results;
use crate::run::{Session, Size, concurrencies, select};
use crate::servers::{Binaries, Server, ServerKind};

mod chart;
mod check;
mod client;
mod compare;
mod error;
mod histogram;
mod http;
mod load;
mod measure;
mod program;
mod progress;
mod report;
mod restate;
mod run;
mod servers;
mod smoke;
mod worker;
mod workloads;

/// Benchmarks of servers that speak Temporal's gRPC API.
#[derive(Parser)]
#[command(name = "everlog-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure one server: one that runs already (--target) or one that is started for it (--server).
    Run(RunArgs),
    /// Start several servers, take turns between them, and print the ratios.
    Compare(CompareArgs),
    /// Run all workloads with small counts and check correctness alone.
    Smoke(SmokeArgs),
    /// List the workloads.
    List,
    /// Draw the ratios of a comparison.
    Chart(ChartArgs),
}

#[derive(Args)]
struct What {
    /// Workloads by name or number, or all.
    #[arg(long, short, value_name = "NAME", value_delimiter = ',', default_value = "all")]
    workload: Vec<String>,
    /// Callers at the same time, one run for each.
    #[arg(long, short, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 8, 64])]
    concurrency: Vec<usize>,
    /// Units of each run, instead of each workload's own number.
    #[arg(long, value_name = "UNITS", conflicts_with_all = ["duration", "scale"])]
    count: Option<u64>,
    /// Time of each run (30s, 10m), for workloads that can end by the clock.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "scale")]
    duration: Option<Duration>,
    /// Part of each workload's own number of units.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    scale: f64,
    /// Write figures and ratios to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl What {
    fn size(&self) -> Size {
        match (self.count, self.duration) {
            (Some(count), _) => Size::Count(count),
            (None, Some(duration)) => Size::Duration(duration),
            (None, None) => Size::Scale(self.scale),
        }
    }
}

#[derive(Args)]
struct RunArgs {
    /// Address of a running server.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "server", required_unless_present = "server")]
    target: Option<String>,
    /// Namespace; registered if it is missing.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Process id of the running server, for CPU, memory and bytes.
    #[arg(long, value_name = "PID", requires = "target")]
    pid: Option<u32>,
    /// Its data directory, for disk use.
    #[arg(long, value_name = "DIR", requires = "target")]
    data_dir: Option<PathBuf>,
    /// Its Prometheus endpoint, for Everlog's and Restate's own counters.
    #[arg(long, value_name = "URL", requires = "target")]
    metrics: Option<String>,
    /// Start this server for the run instead.
    #[arg(long, value_enum)]
    server: Option<ServerKind>,
    /// Where the data of a started server is kept while it runs, and where fdatasync is probed.
    #[arg(long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Count fsyncs with strace. Slows the server down, so CPU and latency are left out.
    #[arg(long)]
    strace: bool,
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    binaries: Binaries,
}

#[derive(Args)]
struct CompareArgs {
    /// Servers that Everlog is compared with.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [ServerKind::TemporalFile, ServerKind::TemporalMemory])]
    with: Vec<ServerKind>,
    /// Rounds; every round gives one pair per server.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pairs: usize,
    /// Do not use strace, in a round of its own, for servers that do not count their fsyncs.
    #[arg(long)]
    no_strace: bool,
    /// Where the data directories are made; decides the file system.
    #[arg(long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Draw the ratios to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    binaries: Binaries,
}

#[derive(Args)]
struct SmokeArgs {
    /// Address of a running server, instead of starting one.
    #[arg(long, value_name = "HOST:PORT")]
    target: Option<String>,
    /// Which server to start.
    #[arg(long, value_enum, default_value = "everlog")]
    server: ServerKind,
    #[command(flatten)]
    binaries: Binaries,
}

#[derive(Args)]
struct ChartArgs {
    /// What `compare --out` has written.
    results: PathBuf,
    /// The SVG file to write.
    svg: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Verb::Run(args) => run(args).await,
        Verb::Compare(args) => compare(args).await,
        Verb::Smoke(args) => smoke(args).await,
        Verb::List => list(),
        Verb::Chart(args) => chart(args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(args: RunArgs) -> Result<bool, BenchError> {
    let workloads = select(&args.what.workload)?;
    let progress = Progress::start();
    let scratch = tempfile::Builder::new().prefix("everlog-bench-").tempdir_in(&args.directory);
    let scratch = scratch.map_err(|error| BenchError::file(&args.directory, error))?;
    let mut session = match (args.server, args.target) {
        (Some(kind), _) => {
            let server = Server::start(kind, &args.binaries, scratch.path()).await?;
            Session::with_server(server, args.strace, progress.clone())
        }
        (None, Some(address)) => {
            let target = Target {
                pid: args.pid,
                data_dir: args.data_dir,
                metrics: args.metrics,
                strace: args.strace,
                others: Vec::new(),
                probe_dir: args.directory.clone(),
            };
            Session::with_target(address, args.namespace, target, progress.clone())
        }
        (None, None) => return Err(BenchError::Setup("give --target or --server".to_owned())),
    };
    let (mut results, mut sound) = (Results::default(), true);
    for workload in workloads {
        for concurrency in concurrencies(workload, &args.what.concurrency) {
            match session.run(workload, concurrency, args.what.size()).await {
                Ok(figures) => results.figures.extend(figures),
                Err(error) => {
                    sound &= matches!(error, BenchError::Skipped(_));
                    complain(&BenchError::Setup(format!("{} (×{concurrency}): {error}", workload.name)));
                }
            }
        }
    }
    session.stop().await?;
    say(report::table(&results.figures).trim_end());
    for figure in &results.figures {
        say(&serde_json::to_string(figure).map_err(|error| BenchError::Setup(error.to_string()))?);
    }
    if let Some(path) = &args.what.out {
        results.write(path)?;
    }
    Ok(sound)
}

async fn compare(args: CompareArgs) -> Result<bool, BenchError> {
    let progress = Progress::start();
    let comparison = Comparison {
        size: args.what.size(),
        workloads: select(&args.what.workload)?,
        concurrency: args.what.concurrency.clone(),
        binaries: args.binaries,
        others: args.with.into_iter().filter(|kind| *kind != ServerKind::Everlog).collect(),
        pairs: args.pairs.max(1),
        strace: !args.no_strace,
        directory: args.directory,
    };
    let results = comparison.run(&progress).await?;
    say(report::table(&results.figures).trim_end());
    say("");
    say(report::ratio_table(&results.ratios).trim_end());
    if let Some(path) = &args.what.out {
        results.write(path)?;
    }
    if let Some(path) = &args.chart {
        std::fs::write(path, chart::svg(&results.ratios)).map_err(|error| BenchError::file(path, error))?;
    }
    Ok(!results.ratios.is_empty())
}

async fn smoke(args: SmokeArgs) -> Result<bool, BenchError> {
    let progress = Progress::start();
    let scratch = tempfile::tempdir().map_err(|error| BenchError::io("temporary directory", error))?;
    let session = match args.target {
        Some(address) => Session::with_target(address, "default".to_owned(), Target::default(), progress),
        None => {
            let server = Server::start(args.server, &args.binaries, scratch.path()).await?;
            Session::with_server(server, false, progress)
        }
    };
    smoke::run(session).await
}

fn list() -> Result<bool, BenchError> {
    for workload in select(&["all".to_owned()])? {
        say(&format!("{:>2}  {:<16} {}", workload.number, workload.name, workload.summary));
    }
    Ok(true)
}

fn chart(args: ChartArgs) -> Result<bool, BenchError> {
    let results = Results::read(&args.results)?;
    std::fs::write(&args.svg, chart::svg(&results.ratios)).map_err(|error| BenchError::file(&args.svg, error))?;
    Ok(true)
}

/// Prints a line on standard output. A closed pipe is no reason to fail.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn complain(error: &BenchError) {
    let _ = writeln!(std::io::stderr(), "everlog-bench: {error}");
}

/// 500ms, 30s, 10m, or seconds alone.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("{text:?}: write 500ms, 30s or 10m")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?}: write 500ms, 30s or 10m"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}
