//! The metrics recorder, and what it shows to Prometheus.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::process;

/// Bounds of the histograms of durations, seconds: from a batch in memory to a long poll.
const SECONDS_BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0];

/// Bounds of the other histograms: sizes of batches, entries and rows.
const SIZE_BUCKETS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0, 16_384.0, 262_144.0, 4_194_304.0];

/// How often samples are folded: a busy node takes some ten thousand of them in that time.
const FOLD_INTERVAL: Duration = Duration::from_secs(1);

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts recording metrics. A process has one recorder; further calls change nothing.
pub fn install_recorder() {
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new()
            .set_buckets(&SIZE_BUCKETS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            })
            .and_then(PrometheusBuilder::install_recorder);
        let handle = match builder {
            Ok(handle) => handle,
            Err(error) => {
                tracing::warn!(%error, "metrics are off");
                return None;
            }
        };
        metrics::gauge!("everlog_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Some(handle)
    });
}

/// Folds the samples of histograms again and again, for as long as it is polled: they are kept one by one until then, and
/// nobody may ever ask for the metrics.
pub async fn fold_histograms() {
    let mut interval = tokio::time::interval(FOLD_INTERVAL);
    loop {
        interval.tick().await;
        if let Some(Some(handle)) = RECORDER.get() {
            handle.run_upkeep();
        }
    }
}

/// Everything that was recorded, in Prometheus' text form; what the process uses is measured now.
pub fn render() -> String {
    process::measure();
    match RECORDER.get() {
        Some(Some(handle)) => {
            // Histograms keep samples until they are asked to fold them.
            handle.run_upkeep();
            handle.render()
        }
        _ => String::new(),
    }
}
