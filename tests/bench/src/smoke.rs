//! All workloads with small counts: correctness is checked, no time is asserted.

use std::time::Duration;

use crate::error::BenchError;
use crate::run::{Session, Size, select};
use crate::say;

const CONCURRENCY: usize = 8;
/// Time limit of one workload.
const WORKLOAD_MAX: Duration = Duration::from_secs(60);

/// Runs everything and answers whether nothing failed. The last line is the tally, alone.
pub(crate) async fn run(mut session: Session) -> Result<bool, BenchError> {
    let (mut passed, mut failed) = (0, 0);
    for workload in select(&["all".to_owned()])? {
        let ran = tokio::time::timeout(WORKLOAD_MAX, session.run(workload, CONCURRENCY, Size::Smoke)).await;
        let ran = ran.unwrap_or_else(|_| Err(BenchError::Limit(format!("{} s", WORKLOAD_MAX.as_secs()))));
        match ran {
            Ok(figures) => {
                passed += 1;
                let units: u64 = figures.iter().map(|figure| figure.units).sum();
                let events: u64 = figures.iter().map(|figure| figure.events_read_back).sum();
                say(&format!("ok      {:<16} {units} units, {events} events read back", workload.name));
            }
            Err(BenchError::Skipped(reason)) => say(&format!("skipped {:<16} {reason}", workload.name)),
            Err(error) => {
                failed += 1;
                say(&format!("FAILED  {:<16} {error}", workload.name));
            }
        }
    }
    session.stop().await?;
    say(&format!("{passed} passed, {failed} failed"));
    Ok(failed == 0)
}
