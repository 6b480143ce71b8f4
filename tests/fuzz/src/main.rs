//! Fuzz targets that stable Rust runs. Each takes what comes from outside or from the disk: bytes that must be refused or understood, and
//! never end the process.
//!
//! ```text
//! everlog-fuzz                              every target for some seconds (the gate)
//! everlog-fuzz rows tokens --minutes 10     these, for ten minutes each
//! everlog-fuzz rows --replay FILE           one input
//! ```
//!
//! A run begins with the seeds (made in code, so that they follow the formats) and the files of `corpus/TARGET`, and then changes them
//! at random (`tests/random/src/mutate.rs`). Guidance comes from outcomes: an input whose outcome was not seen before (another refusal, another number
//! of rows) joins those that are changed. Coverage of the code would guide better, but on stable Rust it costs a build of everything with
//! `-C instrument-coverage` and a read of all counters after each input; libFuzzer's own instrumentation needs nightly.
//!
//! An input that fails is made smaller and kept in `corpus/TARGET`, where every later run begins with it: that is its regression test.
//! What has been mended stays there. Seeds are fixed unless `--seed` says otherwise, so a run of the gate finds the same things again.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;

use crate::corpus::Corpus;
use crate::run::{Finding, Run};
use crate::targets::Target;

mod corpus;
mod run;
mod targets;

/// Fuzz targets for Everlog.
#[derive(Parser)]
#[command(name = "everlog-fuzz", version)]
struct Cli {
    /// Targets; all, if none is named.
    targets: Vec<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 5, conflicts_with = "minutes")]
    seconds: u64,
    /// The same in minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Where random numbers begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this input alone.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Keep inputs with new outcomes in the corpus, up to a bound.
    #[arg(long)]
    grow: bool,
    /// Where the input of the moment is noted: the run is a child of another one, which looks there if this one is ended.
    #[arg(long, hide = true, value_name = "FILE")]
    child: Option<PathBuf>,
    /// The server's binary, for the targets that talk to one.
    #[arg(long, value_name = "PATH", default_value = "everlog")]
    everlog_bin: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let all = targets::all(&cli.everlog_bin);
    let known: Vec<&str> = all.iter().map(|target| target.name()).collect();
    if let Some(unknown) = cli.targets.iter().find(|name| !known.contains(&name.as_str())) {
        say(&format!("target {unknown:?} is none of {}", known.join(", ")));
        return ExitCode::from(2);
    }
    let chosen = |name: &str| cli.targets.is_empty() || cli.targets.iter().any(|target| target == name);
    let mut failed = 0;
    if cli.child.is_some() || cli.replay.is_some() {
        for target in all.into_iter().filter(|target| chosen(target.name())) {
            failed += usize::from(!alone(&cli, target));
        }
        return if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let names: Vec<&str> = known.into_iter().filter(|name| chosen(name)).collect();
    for name in &names {
        failed += usize::from(!in_child(&cli, name));
    }
    say(&format!("{} passed, {failed} failed", names.len() - failed));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a target in this process and tells of it. Answers whether nothing was found.
fn alone(cli: &Cli, target: Box<dyn Target>) -> bool {
    let name = target.name();
    let corpus = Corpus::of(name);
    let time = Duration::from_secs(cli.minutes.map_or(cli.seconds, |minutes| minutes * 60));
    let mut run = Run::new(target, cli.seed, cli.child.as_deref());
    let done = match &cli.replay {
        Some(file) => run.replay(file),
        None => run.go(&corpus, time, cli.grow),
    };
    let sound = done.is_ok();
    match done {
        Ok(line) => say(&format!("ok      {name:<16} {line}")),
        Err(Finding { what, input }) => tell(name, &what, Some(&input).filter(|_| cli.replay.is_none())),
    }
    sound
}

/// Runs a target in a process of its own: an input can end the process, as one that asks for more memory than there is does.
fn in_child(cli: &Cli, name: &str) -> bool {
    let run = || -> std::io::Result<bool> {
        let current = tempfile::NamedTempFile::new()?;
        let mut child = Command::new(std::env::current_exe()?);
        child.arg(name).arg("--child").arg(current.path()).arg("--everlog-bin").arg(&cli.everlog_bin);
        let seconds = cli.minutes.map_or(cli.seconds, |minutes| minutes * 60);
        child.args(["--seconds", &seconds.to_string(), "--seed", &cli.seed.to_string()]);
        if cli.grow {
            child.arg("--grow");
        }
        let status = child.status()?;
        if status.code().is_none() {
            tell(name, &format!("the process ends with {status}"), Some(&run::noted(current.path())?));
        }
        Ok(status.success())
    };
    run().unwrap_or_else(|error| {
        tell(name, &error.to_string(), None);
        false
    })
}

/// Tells what was found, and keeps the input.
fn tell(name: &str, what: &str, input: Option<&Vec<u8>>) {
    say(&format!("FAILED  {name:<16} {what}"));
    let Some(input) = input.filter(|input| !input.is_empty()) else { return };
    match Corpus::of(name).keep("crash", input) {
        Ok(path) => say(&format!("        the input: {}", path.display())),
        Err(error) => say(&format!("        the input cannot be kept ({error}): {input:02x?}")),
    }
}

/// Prints a line on standard output. A closed pipe is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
