//! One line on standard error that says what is going on; rewritten in place on a terminal, repeated rarely elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often the line is rewritten on a terminal.
const TERMINAL_PERIOD: Duration = Duration::from_millis(500);
/// How often it is repeated in a log.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// A handle on the line; clones share it.
#[derive(Clone)]
pub(crate) struct Progress(Arc<State>);

struct State {
    workload: Mutex<String>,
    phase: Mutex<(String, Instant)>,
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Starts to print, until the last clone is gone.
    pub(crate) fn start() -> Self {
        let state = Arc::new(State {
            workload: Mutex::new(String::new()),
            phase: Mutex::new((String::new(), Instant::now())),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        });
        let watched = Arc::downgrade(&state);
        let terminal = std::io::stderr().is_terminal();
        let period = if terminal { TERMINAL_PERIOD } else { LOG_PERIOD };
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(state) = watched.upgrade() else { return };
                let line = state.line();
                let mut stderr = std::io::stderr().lock();
                // A closed standard error is no reason to stop a measurement.
                let _ = if terminal { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
                let _ = stderr.flush();
            }
        });
        Progress(state)
    }

    /// Names what is measured.
    pub(crate) fn workload(&self, name: &str) {
        name.clone_into(&mut self.0.workload.lock().expect("never poisoned: nothing panics under it"));
    }

    /// Begins a phase of `total` steps; 0 when the number is not known.
    pub(crate) fn phase(&self, name: &str, total: u64) {
        *self.0.phase.lock().expect("never poisoned: nothing panics under it") = (name.to_owned(), Instant::now());
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// One step of the phase is done.
    pub(crate) fn step(&self) {
        self.0.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Clears the line, so that something can be printed.
    pub(crate) fn clear(&self) {
        let mut stderr = std::io::stderr().lock();
        if stderr.is_terminal() {
            let _ = write!(stderr, "\r\x1b[K");
        }
    }
}

impl State {
    fn line(&self) -> String {
        let workload = self.workload.lock().expect("never poisoned: nothing panics under it").clone();
        let (phase, since) = self.phase.lock().expect("never poisoned: nothing panics under it").clone();
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        let seconds = since.elapsed().as_secs_f64();
        let of = if total > 0 { format!("/{total}") } else { String::new() };
        format!("{workload}: {phase} {done}{of} in {seconds:.0} s ({:.0}/s)", done as f64 / seconds.max(0.001))
    }
}
