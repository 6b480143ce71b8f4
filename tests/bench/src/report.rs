//! Figures: what is printed as a table and as JSON lines, and written to files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::workloads::Outcome;

/// One measured and checked result. What was not measured is absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) server: String,
    pub(crate) workload: String,
    pub(crate) concurrency: usize,
    pub(crate) unit: String,
    pub(crate) units: u64,
    pub(crate) seconds: f64,
    /// Printed; never compared alone, for it says as much about the machine as about the server.
    pub(crate) units_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ms_per_unit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fsyncs_per_unit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fsyncs_counted_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) written_bytes_per_unit: Option<f64>,
    /// Voluntary context switches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wakeups_per_unit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_p99_ms: Option<f64>,
    /// Median of one fdatasync on the same file system, mean of before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fdatasync_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_p50_in_fdatasyncs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_p99_in_fdatasyncs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk_bytes: Option<u64>,
    /// What the files of the data directory take after the server was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disk_at_rest_bytes: Option<u64>,
    pub(crate) workflows_read_back: u64,
    pub(crate) events_read_back: u64,
    pub(crate) workflow_tasks_lost: u64,
    /// The server's own counters, per unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) counters_per_unit: BTreeMap<String, f64>,
    /// Figures of this workload alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) extra: BTreeMap<String, f64>,
}

impl Figure {
    pub(crate) fn new(server: &str, workload: &str, concurrency: usize, traced: bool, outcome: &Outcome) -> Self {
        let units = outcome.units.max(1) as f64;
        let usage = &outcome.usage;
        let seconds = usage.elapsed.as_secs_f64();
        let name = if outcome.part.is_empty() { workload.to_owned() } else { format!("{workload}/{}", outcome.part) };
        // strace slows the server down: latencies under it mean nothing.
        let quantile = |quantile| {
            let latency = outcome.latency.as_ref().filter(|_| !traced)?;
            latency.quantile_us(quantile).map(|us| us / 1000.0)
        };
        let (p50, p99) = (quantile(0.5), quantile(0.99));
        let fdatasync = usage.fdatasync_us.map(|(before, after)| (before + after) / 2000.0);
        let in_fdatasyncs = |latency: Option<f64>| latency.zip(fdatasync).map(|(latency, one)| latency / one.max(1e-6));
        let counters = usage.counters.iter().map(|(name, value)| ((*name).to_owned(), *value as f64 / units));
        Figure {
            server: server.to_owned(),
            workload: name,
            concurrency,
            unit: outcome.unit.to_owned(),
            units: outcome.units,
            seconds,
            units_per_second: outcome.units as f64 / seconds.max(1e-9),
            cpu_ms_per_unit: usage.cpu_s.map(|seconds| seconds * 1000.0 / units),
            fsyncs_per_unit: usage.fsyncs.map(|(fsyncs, _)| fsyncs as f64 / units),
            fsyncs_counted_by: usage.fsyncs.map(|(_, by)| by.to_owned()),
            written_bytes_per_unit: usage.write_bytes.map(|bytes| bytes as f64 / units),
            wakeups_per_unit: usage.wakeups.map(|wakeups| wakeups as f64 / units),
            latency_p50_ms: p50,
            latency_p99_ms: p99,
            fdatasync_p50_ms: fdatasync,
            latency_p50_in_fdatasyncs: in_fdatasyncs(p50),
            latency_p99_in_fdatasyncs: in_fdatasyncs(p99),
            rss_bytes: usage.rss_bytes,
            disk_bytes: usage.disk_bytes,
            disk_at_rest_bytes: None,
            workflows_read_back: outcome.read_back.workflows,
            events_read_back: outcome.read_back.events,
            workflow_tasks_lost: outcome.read_back.workflow_tasks_lost,
            counters_per_unit: counters.collect(),
            extra: outcome.extra.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        }
    }

    /// The figures that may be compared between servers, by name. All are costs: less is better.
    ///
    /// Latencies are compared as they are: the servers of a round ran one after the other, and the cost of an fdatasync can
    /// change between two probes by more than servers differ. CPU time of a few milliseconds says nothing and is left out, as are
    /// bytes of a server that keeps nothing on disk.
    pub(crate) fn costs(&self) -> Vec<(&'static str, f64)> {
        let cpu_s = self.cpu_ms_per_unit.map_or(0.0, |cpu_ms| cpu_ms * self.units as f64 / 1000.0);
        let all = [
            ("CPU time", self.cpu_ms_per_unit.filter(|_| cpu_s >= CPU_S_MIN)),
            ("fsyncs", self.fsyncs_per_unit),
            ("bytes written", self.written_bytes_per_unit.filter(|_| self.disk_at_rest_bytes.is_some())),
            ("latency p50", self.latency_p50_ms),
            ("latency p99", self.latency_p99_ms),
            ("memory", self.rss_bytes.map(|bytes| bytes as f64)),
            ("disk at rest", self.disk_at_rest_bytes.map(|bytes| bytes as f64)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.filter(|value| *value > 0.0)?))).collect()
    }
}

/// CPU time below which a comparison is one of whatever else the server happens to do.
const CPU_S_MIN: f64 = 0.005;

/// The columns of the table.
const COLUMNS: [&str; 14] = [
    "server",
    "workload",
    "conc",
    "units",
    "units/s",
    "cpu ms/unit",
    "fsync/unit",
    "KiB/unit",
    "p50 ms",
    "p99 ms",
    "p50/fdatasync",
    "RSS MiB",
    "disk MiB",
    "read back",
];

/// Figures as a table with aligned columns.
pub(crate) fn table(figures: &[Figure]) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
    let rows: Vec<[String; 14]> = figures
        .iter()
        .map(|figure| {
            let disk = figure.disk_at_rest_bytes.or(figure.disk_bytes);
            [
                figure.server.clone(),
                figure.workload.clone(),
                figure.concurrency.to_string(),
                format!("{} {}", figure.units, figure.unit),
                short(figure.units_per_second),
                number(figure.cpu_ms_per_unit),
                number(figure.fsyncs_per_unit),
                number(figure.written_bytes_per_unit.map(|bytes| bytes / 1024.0)),
                number(figure.latency_p50_ms),
                number(figure.latency_p99_ms),
                number(figure.latency_p50_in_fdatasyncs),
                number(figure.rss_bytes.map(|bytes| bytes as f64 / 1048576.0)),
                number(disk.map(|bytes| bytes as f64 / 1048576.0)),
                figure.workflows_read_back.to_string(),
            ]
        })
        .collect();
    aligned(&COLUMNS, &rows)
}

/// The ratios of a comparison as a table.
pub(crate) fn ratio_table(ratios: &[Ratio]) -> String {
    let rows: Vec<[String; 8]> = ratios
        .iter()
        .map(|ratio| {
            [
                ratio.workload.clone(),
                ratio.concurrency.to_string(),
                ratio.cost.clone(),
                ratio.server.clone(),
                short(ratio.median),
                short(ratio.minimum),
                short(ratio.maximum),
                ratio.pairs.to_string(),
            ]
        })
        .collect();
    aligned(&["workload", "conc", "cost", "server / everlog", "median", "min", "max", "pairs"], &rows)
}

fn aligned<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        for (column, cell) in cells.iter().enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let width = widths[column];
            // Writing to a String cannot fail.
            let _ = if column < 2 { write!(text, "{gap}{cell:<width$}") } else { write!(text, "{gap}{cell:>width$}") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    };
    line(*header);
    for row in rows {
        line(std::array::from_fn(|column| row[column].as_str()));
    }
    text
}

/// A number with about three digits that count.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 => format!("{value:.1}"),
        magnitude if magnitude >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// How many times more a server spends than Everlog, over all pairs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) workload: String,
    pub(crate) concurrency: usize,
    pub(crate) cost: String,
    /// The other server.
    pub(crate) server: String,
    pub(crate) median: f64,
    pub(crate) minimum: f64,
    pub(crate) maximum: f64,
    pub(crate) pairs: usize,
}

impl Ratio {
    /// The ratios of `others` (one list of figures per pair) over `everlog`, in the order of the workloads.
    pub(crate) fn of(everlog: &[Vec<Figure>], others: &[Vec<Figure>]) -> Vec<Ratio> {
        let mut ratios: Vec<(Ratio, Vec<f64>)> = Vec::new();
        for (ours, theirs) in everlog.iter().zip(others) {
            for our in ours {
                let same = |their: &&Figure| their.workload == our.workload && their.concurrency == our.concurrency;
                let Some(their) = theirs.iter().find(same) else { continue };
                let costs: BTreeMap<_, _> = their.costs().into_iter().collect();
                for (cost, ours) in our.costs() {
                    let Some(theirs) = costs.get(cost) else { continue };
                    add(&mut ratios, our, &their.server, cost, theirs / ours);
                }
            }
        }
        ratios.into_iter().map(|(ratio, values)| ratio.over(values)).collect()
    }

    fn over(mut self, mut values: Vec<f64>) -> Ratio {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        self.median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        self.minimum = values[0];
        self.maximum = values[values.len() - 1];
        self.pairs = values.len();
        self
    }
}

fn add(ratios: &mut Vec<(Ratio, Vec<f64>)>, figure: &Figure, server: &str, cost: &str, value: f64) {
    let same = |(ratio, _): &&mut (Ratio, Vec<f64>)| {
        ratio.workload == figure.workload && ratio.concurrency == figure.concurrency && ratio.cost == cost
    };
    if let Some((_, values)) = ratios.iter_mut().find(same) {
        values.push(value);
        return;
    }
    let ratio = Ratio {
        workload: figure.workload.clone(),
        concurrency: figure.concurrency,
        cost: cost.to_owned(),
        server: server.to_owned(),
        median: 0.0,
        minimum: 0.0,
        maximum: 0.0,
        pairs: 0,
    };
    ratios.push((ratio, vec![value]));
}

/// What `--out` holds and `chart` reads.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) figures: Vec<Figure>,
    pub(crate) ratios: Vec<Ratio>,
}

impl Results {
    pub(crate) fn write(&self, path: &Path) -> Result<(), BenchError> {
        let json = serde_json::to_string_pretty(self).map_err(|error| BenchError::Setup(error.to_string()))?;
        std::fs::write(path, json).map_err(|error| BenchError::file(path, error))
    }

    pub(crate) fn read(path: &Path) -> Result<Self, BenchError> {
        let json = std::fs::read_to_string(path).map_err(|error| BenchError::file(path, error))?;
        serde_json::from_str(&json).map_err(|error| BenchError::Setup(format!("{}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(server: &str, cpu_ms: f64) -> Figure {
        let json = format!(
            "{{\"server\":\"{server}\",\"workload\":\"w\",\"concurrency\":1,\"unit\":\"u\",\"units\":1000,\"seconds\":1,\
             \"units_per_second\":1,\"cpu_ms_per_unit\":{cpu_ms},\"workflows_read_back\":1,\"events_read_back\":1,\
             \"workflow_tasks_lost\":0}}"
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn ratios_are_per_pair() {
        let everlog = [vec![figure("everlog", 1.0)], vec![figure("everlog", 2.0)], vec![figure("everlog", 1.0)]];
        let other = [vec![figure("other", 10.0)], vec![figure("other", 10.0)], vec![figure("other", 30.0)]];
        let ratios = Ratio::of(&everlog, &other);
        assert_eq!(ratios.len(), 1);
        assert_eq!((ratios[0].median, ratios[0].minimum, ratios[0].maximum), (10.0, 5.0, 30.0));
        assert_eq!((ratios[0].cost.as_str(), ratios[0].pairs), ("CPU time", 3));
    }

    #[test]
    fn tables_align() {
        let table = table(&[figure("a", 1.0), figure("a-longer-name", 123.4)]);
        let ends: Vec<usize> = table.lines().map(str::len).collect();
        assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }
}
