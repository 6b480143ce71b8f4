//! What a server used: CPU from its clock, bytes from /proc, its own counters from its Prometheus endpoint, fsyncs from either those or
//! strace, disk and memory, and what one fdatasync costs on the same file system.
//!
//! Everything is the difference between two snapshots around the measured section. Nothing here talks to the server's API.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::error::BenchError;
use crate::http;

/// Syncs of one probe, and its time limit.
const PROBE_SYNCS_MAX: usize = 200;
const PROBE_TIME_MAX: Duration = Duration::from_secs(2);
/// How long strace may take to attach or to write its summary.
const STRACE_PATIENCE: Duration = Duration::from_secs(20);

/// The server process under measurement. What is not known is not measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    /// Process id.
    pub(crate) pid: Option<u32>,
    /// Where the server keeps its data, if on disk.
    pub(crate) data_dir: Option<PathBuf>,
    /// URL of its Prometheus endpoint, if it has counters that are known here.
    pub(crate) metrics: Option<String>,
    /// Count fsyncs with strace. Costs so much that CPU and latency are then left out.
    pub(crate) strace: bool,
    /// The other nodes of its cluster, whose use counts as its own: process id, and URL of the Prometheus endpoint.
    pub(crate) others: Vec<(u32, String)>,
    /// Directory for the fdatasync probe; on the file system of the data.
    pub(crate) probe_dir: PathBuf,
}

/// What was used between two snapshots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// Wall clock time of the section.
    pub(crate) elapsed: Duration,
    /// User and system CPU time of the server.
    pub(crate) cpu_s: Option<f64>,
    /// Bytes that the server caused to be written to storage (/proc/PID/io).
    pub(crate) write_bytes: Option<u64>,
    /// fsync and fdatasync calls, and who counted them.
    pub(crate) fsyncs: Option<(u64, &'static str)>,
    /// How often its threads have gone to sleep and were woken again: voluntary context switches of the threads that it has now.
    pub(crate) wakeups: Option<u64>,
    /// The server's own counters, by name.
    pub(crate) counters: HashMap<&'static str, u64>,
    /// Resident memory at the end.
    pub(crate) rss_bytes: Option<u64>,
    /// What the files of the data directory take at the end.
    pub(crate) disk_bytes: Option<u64>,
    /// Median of fdatasync before and after the section, in microseconds.
    pub(crate) fdatasync_us: Option<(f64, f64)>,
}

/// A section under measurement.
pub(crate) struct Meter {
    target: Target,
    began: Instant,
    before: Snapshot,
    probe_us: Option<f64>,
    strace: Option<Strace>,
}

impl Meter {
    /// Probes the disk, takes the first snapshot and begins.
    pub(crate) async fn start(target: Target) -> Result<Self, BenchError> {
        let probe_us = probe(&target).await?;
        let strace = match target.pid {
            Some(pid) if target.strace => Some(Strace::attach(pid).await?),
            _ => None,
        };
        let before = Snapshot::take(&target).await?;
        Ok(Meter { target, began: Instant::now(), before, probe_us, strace })
    }

    /// Ends the section.
    pub(crate) async fn stop(self) -> Result<Usage, BenchError> {
        let elapsed = self.began.elapsed();
        let after = Snapshot::take(&self.target).await?;
        let counted = match self.strace {
            Some(strace) => Some((strace.detach().await?, "strace")),
            None => None,
        };
        let probe_us = probe(&self.target).await?;
        let counters: HashMap<_, _> = after
            .counters
            .iter()
            .map(|(name, value)| (*name, value.saturating_sub(self.before.counters.get(name).copied().unwrap_or(0))))
            .collect();
        let own = FSYNC_COUNTERS.iter().find_map(|name| Some((*counters.get(name)?, "own counter")));
        Ok(Usage {
            elapsed,
            cpu_s: difference(self.before.cpu_s, after.cpu_s).filter(|_| !self.target.strace),
            write_bytes: self.before.write_bytes.zip(after.write_bytes).map(|(a, b)| b.saturating_sub(a)),
            fsyncs: counted.or(own),
            wakeups: self.before.wakeups.zip(after.wakeups).map(|(a, b)| b.saturating_sub(a)),
            counters,
            rss_bytes: after.rss_bytes,
            disk_bytes: self.target.data_dir.as_deref().map(disk_bytes).transpose()?,
            fdatasync_us: self.probe_us.zip(probe_us),
        })
    }
}

fn difference(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    before.zip(after).map(|(before, after)| after - before)
}

/// Counters of synced log writes. Everlog's was compared with strace and is equal to it.
const FSYNC_COUNTERS: [&str; 2] = ["everlog_log_fsyncs_total", "restate_rocksdb_wal_synced_total"];
/// The servers' own counters that are read.
const COUNTERS: [&str; 6] = [
    FSYNC_COUNTERS[0],
    FSYNC_COUNTERS[1],
    "everlog_log_bytes_total",
    "everlog_log_records_total",
    "everlog_state_rows_total",
    "everlog_state_bytes_total",
];

struct Snapshot {
    cpu_s: Option<f64>,
    write_bytes: Option<u64>,
    rss_bytes: Option<u64>,
    wakeups: Option<u64>,
    counters: HashMap<&'static str, u64>,
}

impl Snapshot {
    async fn take(target: &Target) -> Result<Self, BenchError> {
        let mut whole = Snapshot::of(target.pid, target.metrics.as_deref()).await?;
        for (pid, metrics) in &target.others {
            whole.add(Snapshot::of(Some(*pid), Some(metrics)).await?);
        }
        Ok(whole)
    }

    async fn of(pid: Option<u32>, metrics: Option<&str>) -> Result<Self, BenchError> {
        let counters = match metrics {
            Some(url) => counters(&String::from_utf8_lossy(&http::get(url).await?.body)),
            None => HashMap::new(),
        };
        let Some(pid) = pid else {
            return Ok(Snapshot { cpu_s: None, write_bytes: None, rss_bytes: None, wakeups: None, counters });
        };
        Ok(Snapshot {
            cpu_s: Some(cpu_s(pid)?),
            // Only the owner of a process may read this file.
            write_bytes: read_proc(pid, "io").ok().and_then(|io| field(&io, "write_bytes:")),
            rss_bytes: rss_bytes(pid)?,
            wakeups: wakeups(pid),
            counters,
        })
    }

    fn add(&mut self, other: Snapshot) {
        let sum = |one: Option<u64>, other: Option<u64>| one.zip(other).map(|(one, other)| one + other);
        self.cpu_s = self.cpu_s.zip(other.cpu_s).map(|(one, other)| one + other);
        self.write_bytes = sum(self.write_bytes, other.write_bytes);
        self.rss_bytes = sum(self.rss_bytes, other.rss_bytes);
        self.wakeups = sum(self.wakeups, other.wakeups);
        for (name, value) in other.counters {
            *self.counters.entry(name).or_default() += value;
        }
    }
}

/// Resident memory of a process.
pub(crate) fn rss_bytes(pid: u32) -> Result<Option<u64>, BenchError> {
    Ok(field(&read_proc(pid, "status")?, "VmRSS:").map(|kib| kib * 1024))
}

/// The highest that the resident memory of a process has been since it began, or since [`forget_rss_peak`].
pub(crate) fn rss_peak_bytes(pid: u32) -> Result<Option<u64>, BenchError> {
    Ok(field(&read_proc(pid, "status")?, "VmHWM:").map(|kib| kib * 1024))
}

/// Lets the peak begin anew at what is resident now.
pub(crate) fn forget_rss_peak(pid: u32) -> Result<(), BenchError> {
    let path = PathBuf::from(format!("/proc/{pid}/clear_refs"));
    fs::write(&path, "5").map_err(|error| BenchError::file(&path, error))
}

/// Voluntary context switches of all threads that live. None where /proc does not tell.
fn wakeups(pid: u32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let status = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    Some(status.filter_map(|status| field(&status, "voluntary_ctxt_switches:")).sum())
}

fn read_proc(pid: u32, file: &str) -> Result<String, BenchError> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    fs::read_to_string(&path).map_err(|error| BenchError::file(&path, error))
}

/// User and system time of all threads of a process, those that have ended included. To the nanosecond, where /proc counts ticks of
/// ten milliseconds: a fast server is done with hundreds of workflows in a few of those.
fn cpu_s(pid: u32) -> Result<f64, BenchError> {
    let failed = |error: &dyn std::fmt::Display| BenchError::Setup(format!("CPU clock of process {pid}: {error}"));
    let pid = i32::try_from(pid).map_err(|error| failed(&error))?;
    let time = clock_getcpuclockid(Pid::from_raw(pid)).and_then(ClockId::now).map_err(|error| failed(&error))?;
    Ok(Duration::from(time).as_secs_f64())
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// The known counters of a Prometheus exposition, summed over their labels.
fn counters(exposition: &str) -> HashMap<&'static str, u64> {
    let mut values = HashMap::new();
    for line in exposition.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or_default();
        let (Some(known), Ok(value)) = (COUNTERS.iter().find(|known| **known == name), value.parse::<f64>()) else {
            continue;
        };
        *values.entry(*known).or_insert(0) += value as u64;
    }
    values
}

/// What the files of a directory take, in bytes: their blocks, without those that are only reserved past a file's end, as stores
/// do for their logs. Files that vanish while it is read are not an error: servers compact.
pub(crate) fn disk_bytes(directory: &Path) -> Result<u64, BenchError> {
    let mut total = 0;
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = fs::read_dir(&directory).map_err(|error| BenchError::file(&directory, error))?;
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                pending.push(entry.path());
            } else {
                total += metadata.len().min(metadata.blocks() * 512);
            }
        }
    }
    Ok(total)
}

async fn probe(target: &Target) -> Result<Option<f64>, BenchError> {
    let directory = target.probe_dir.clone();
    if directory.as_os_str().is_empty() || target.strace {
        return Ok(None);
    }
    let probed = tokio::task::spawn_blocking(move || fdatasync_p50_us(&directory)).await;
    probed.map_err(|panic| BenchError::Setup(panic.to_string()))?.map(Some)
}

/// The median time of an append of 4 KiB and its fdatasync, in microseconds.
fn fdatasync_p50_us(directory: &Path) -> Result<f64, BenchError> {
    let failed = |error| BenchError::io(format!("fdatasync probe in {}", directory.display()), error);
    let mut file = tempfile::tempfile_in(directory).map_err(failed)?;
    let block = [0x5a; 4096];
    let began = Instant::now();
    let mut times = Vec::with_capacity(PROBE_SYNCS_MAX);
    while times.len() < PROBE_SYNCS_MAX && (began.elapsed() < PROBE_TIME_MAX || times.is_empty()) {
        let at = Instant::now();
        file.write_all(&block).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        times.push(at.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2].as_secs_f64() * 1e6)
}

/// An attached strace that counts syncs.
struct Strace {
    child: Child,
    summary: tempfile::NamedTempFile,
}

impl Strace {
    async fn attach(pid: u32) -> Result<Self, BenchError> {
        let failed = |error| BenchError::io("strace", error);
        let summary = tempfile::NamedTempFile::new().map_err(failed)?;
        let mut child = Command::new("strace")
            .args(["-f", "-c", "-e", "trace=fsync,fdatasync", "-p", &pid.to_string(), "-o"])
            .arg(summary.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stderr = child.stderr.take().expect("it was asked for a line above");
        let mut lines = BufReader::new(stderr).lines();
        let attached = async {
            while let Some(line) = lines.next_line().await.map_err(failed)? {
                if line.contains("attached") {
                    return Ok(());
                }
            }
            Err(BenchError::Setup(format!("strace cannot attach to process {pid}")))
        };
        tokio::time::timeout(STRACE_PATIENCE, attached)
            .await
            .map_err(|_| BenchError::Limit(format!("strace did not attach to process {pid}")))??;
        // Keep reading, so that strace never blocks on its own messages.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Strace { child, summary })
    }

    async fn detach(mut self) -> Result<u64, BenchError> {
        if let Some(pid) = self.child.id() {
            signal(pid, "INT").await?;
        }
        tokio::time::timeout(STRACE_PATIENCE, self.child.wait())
            .await
            .map_err(|_| BenchError::Limit("strace did not end".to_owned()))?
            .map_err(|error| BenchError::io("strace", error))?;
        let path = self.summary.path();
        Ok(summed_calls(&fs::read_to_string(path).map_err(|error| BenchError::file(path, error))?))
    }
}

/// Calls of fsync and fdatasync in a summary of `strace -c`.
fn summed_calls(summary: &str) -> u64 {
    let calls = |line: &str| -> Option<u64> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(*fields.last()?, "fsync" | "fdatasync").then(|| fields.get(3)?.parse().ok())?
    };
    summary.lines().filter_map(calls).sum()
}

/// Sends a signal by name; the standard library can only kill.
pub(crate) async fn signal(pid: u32, name: &str) -> Result<(), BenchError> {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status().await;
    sent.map(|_| ()).map_err(|error| BenchError::io("kill", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_labels() {
        let text = "# HELP x y\neverlog_log_fsyncs_total 7\neverlog_state_rows_total{group=\"1\"} 2\n\
                    everlog_state_rows_total{group=\"2\"} 3\nother_total 9\n";
        let values = counters(text);
        assert_eq!(values.get("everlog_log_fsyncs_total"), Some(&7));
        assert_eq!(values.get("everlog_state_rows_total"), Some(&5));
        assert_eq!(values.len(), 2);
    }

    #[test]
    fn cpu_time_is_that_of_the_process() {
        let (before, began) = (cpu_s(std::process::id()).unwrap(), Instant::now());
        while began.elapsed() < Duration::from_millis(20) {
            std::hint::black_box(began);
        }
        let used = cpu_s(std::process::id()).unwrap() - before;
        assert!(used > 0.001, "{used}");
        assert!(cpu_s(u32::MAX).is_err());
    }

    #[test]
    fn strace_summaries_are_summed() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
                       ------ ----------- ----------- --------- --------- ----------------\n \
                       95.24    0.012000         120       100           fdatasync\n  \
                       4.76    0.000600         120         5         1 fsync\n\
                       ------ ----------- ----------- --------- --------- ----------------\n\
                       100.00    0.012600         120       105         1 total\n";
        assert_eq!(summed_calls(summary), 105);
    }
}
