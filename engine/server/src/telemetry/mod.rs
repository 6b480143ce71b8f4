//! What a node tells about itself: logs on the standard error, metrics for Prometheus.

mod logs;
mod metrics;
mod process;

pub use logs::init_logs;
pub use metrics::{fold_histograms, install_recorder, render};
