//! What the process uses, as the kernel of the operating system tells it. Only Linux tells it this way.

/// Clock ticks a second in `/proc/self/stat`: 100 on every architecture that Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// The unit of memory in `/proc/self/status`, bytes.
const KIB: f64 = 1024.0;

/// Measures CPU time, memory, threads and open files, and records them under the names that Prometheus clients use.
pub(super) fn measure() {
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some(seconds) = cpu_seconds(&stat)
    {
        metrics::gauge!("process_cpu_seconds_total").set(seconds);
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        if let Some(kib) = status_field(&status, "VmRSS:") {
            metrics::gauge!("process_resident_memory_bytes").set(kib * KIB);
        }
        if let Some(threads) = status_field(&status, "Threads:") {
            metrics::gauge!("process_threads").set(threads);
        }
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(f64::from(u32::try_from(files.count()).unwrap_or(u32::MAX)));
    }
}

/// User and system time in a line of `/proc/self/stat`. The command's name stands in parentheses and may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let user: f64 = fields.get(11)?.parse().ok()?;
    let system: f64 = fields.get(12)?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The first number behind a name in `/proc/self/status`.
fn status_field(status: &str, name: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let stat = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 100";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("nonsense"), None);
        let status = "Name:\teverlog\nVmRSS:\t  2048 kB\nThreads:\t7\n";
        assert_eq!((status_field(status, "VmRSS:"), status_field(status, "Threads:")), (Some(2048.0), Some(7.0)));
        assert_eq!(status_field(status, "VmSwap:"), None);
    }
}
