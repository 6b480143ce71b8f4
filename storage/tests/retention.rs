//! Many runs that expire while others are read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use everlog_storage::state::{Direction, RowBatch, StateEngine};
use everlog_storage::{GroupId, RocksState, StateOptions};

const GROUP: GroupId = GroupId(1);
const RUNS: u32 = 20_000;
/// Runs at the beginning and at the end whose time is compared.
const SAMPLE: u32 = 1_000;
const ROWS: u8 = 5;

fn run(number: u32) -> Vec<u8> {
    [&b"run"[..], &number.to_be_bytes()].concat()
}

/// Deletes a run as retention does, then reads another one.
fn expire(state: &RocksState, number: u32) -> Duration {
    let begun = Instant::now();
    let mut batch = RowBatch::new();
    batch.delete_range(run(number), run(number + 1));
    state.commit(GROUP, &number.to_be_bytes(), &[batch]).unwrap();
    let other = (RUNS + number)..(RUNS + number + 1);
    let rows = state.scan(GROUP, &run(other.start)..&run(other.end), Direction::Ascending, usize::MAX).unwrap();
    assert_eq!(rows.len(), usize::from(ROWS));
    begun.elapsed()
}

#[test]
fn what_expired_does_not_slow_down_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let state = RocksState::open(dir.path(), StateOptions::default()).unwrap();
    for number in 0..2 * RUNS {
        let mut batch = RowBatch::new();
        (0..ROWS).for_each(|row| batch.put([&run(number)[..], &[row]].concat(), vec![row; 50]));
        state.commit(GROUP, b"written", &[batch]).unwrap();
    }
    state.flush().unwrap();
    let times: Vec<Duration> = (0..RUNS).map(|number| expire(&state, number)).collect();
    // The middle one: others use the machine, too.
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (first, last) = (median(&times[..SAMPLE as usize]), median(&times[(RUNS - SAMPLE) as usize..]));
    assert!(last < 4 * first, "{first:?} at first, {last:?} after {RUNS} runs");
    let left = state.scan(GROUP, &run(0)..&run(RUNS), Direction::Ascending, usize::MAX).unwrap();
    assert_eq!(left, []);
}
