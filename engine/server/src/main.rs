//! The `everlog` binary: reads the command line, starts a node, and ends it when told to.

mod cli;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;
use cli::{Cli, Command, Refused};
use everlog_server::descriptors::Descriptors;
use everlog_server::node::{self, NodeError};
use everlog_server::settings::{DataLocation, Settings, SettingsError};
use everlog_server::telemetry;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong flags, settings or data directory.
const EXIT_USAGE: u8 = 2;

/// Everything else.
const EXIT_FAILURE: u8 = 1;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Refused::Help(text)) => return print(&text),
        Err(Refused::Wrong(line)) => return fail(EXIT_USAGE, &line),
    };
    let settings = match cli.command {
        Command::Version => return print(&format!("everlog {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "everlog", &mut script);
            return print(&String::from_utf8_lossy(&script));
        }
        Command::Cluster(command) => {
            return match command.run() {
                Ok(text) => print(&text),
                Err(line) => fail(EXIT_FAILURE, &line),
            };
        }
        Command::Dev(args) => args.settings(),
        Command::Server(args) => args.settings(),
    };
    match settings.and_then(|settings| telemetry::init_logs(&settings.log).map(|()| settings)) {
        Ok(settings) => run(settings),
        Err(SettingsError(line)) => fail(EXIT_USAGE, &line),
    }
}

fn run(mut settings: Settings) -> ExitCode {
    telemetry::install_recorder();
    // Removed when it is dropped, after the node has let go of it.
    let mut ephemeral = None;
    if settings.data == DataLocation::Ephemeral {
        match tempfile::Builder::new().prefix("everlog-").tempdir() {
            Ok(directory) => {
                settings.data = DataLocation::Directory(directory.path().to_owned());
                ephemeral = Some(directory);
            }
            Err(error) => return fail(EXIT_FAILURE, &format!("cannot make a temporary directory: {error}")),
        }
    }
    let descriptors = Descriptors::raise();
    // One core is left to the threads that write the log and the rows: with as many workers as cores they take turns, which
    // costs more than it gains (measured on two cores: a tenth of the CPU).
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(cores.saturating_sub(1).max(1)).enable_all().thread_name("everlog");
    // Tasks run in the order in which they are woken, so that a partition finds all commands that have arrived, and a connection
    // all answers that are ready (measured: a fifth of the CPU). The repository's cargo configuration turns this on.
    #[cfg(tokio_unstable)]
    builder.disable_lifo_slot();
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(EXIT_FAILURE, &format!("cannot start threads: {error}")),
    };
    let result = runtime.block_on(async {
        let leftover = ephemeral.as_ref().map(|directory| directory.path().to_owned());
        let shutdown = stop_signal(leftover).map_err(NodeError::Io)?;
        node::run(settings, descriptors, shutdown).await
    });
    match &result {
        // What still runs may hang in the disk that failed, and whoever waits for it would, too.
        Err(NodeError::Raft(_) | NodeError::Late(_)) => runtime.shutdown_background(),
        _ => drop(runtime),
    }
    drop(ephemeral);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ NodeError::Directory(_)) => fail(EXIT_USAGE, &error.to_string()),
        Err(error @ (NodeError::Raft(_) | NodeError::Late(_))) => {
            fail(EXIT_FAILURE, &error.to_string());
            end_at_once(EXIT_FAILURE)
        }
        Err(error) => fail(EXIT_FAILURE, &error.to_string()),
    }
}

/// Ends the process without what libraries have registered for its end: threads of RocksDB that still run would find their locks gone.
#[allow(unsafe_code, reason = "no safe function ends a process this way")]
fn end_at_once(code: u8) -> ! {
    // Lines that wait to be written.
    let _ = std::io::stdout().flush();
    // SAFETY: it takes a number, and does not return.
    unsafe { nix::libc::_exit(code.into()) }
}

/// Resolves at the first SIGTERM or SIGINT; the second one ends the process at once, and removes `leftover`.
fn stop_signal(leftover: Option<PathBuf>) -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        next(&mut terminate, &mut interrupt).await;
        tracing::info!("stopping; once more to stop at once");
        tokio::spawn(async move {
            next(&mut terminate, &mut interrupt).await;
            if let Some(directory) = leftover {
                // Files that are written meanwhile may stay; the system clears its temporary directory.
                let _ = std::fs::remove_dir_all(directory);
            }
            end_at_once(EXIT_FAILURE);
        });
    })
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has gone away, as `head` does.
        Err(_) => ExitCode::from(EXIT_FAILURE),
    }
}

fn fail(code: u8, line: &str) -> ExitCode {
    // Nothing can be told if the standard error is gone.
    let _ = writeln!(std::io::stderr(), "everlog: {}", line.replace('\n', " "));
    ExitCode::from(code)
}
