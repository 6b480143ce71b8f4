//! Which seeds a simulation runs, and running them: those of the gate, or those that variables of the environment name.
//!
//! `EVERLOG_SIMULATION_SEEDS=COUNT`, or `FIRST..LAST`, names them; `EVERLOG_SIMULATION_MINUTES=60` has new ones run for so long.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What became of seeds: what those came to that passed, and what was wrong with the others, by their numbers.
pub type Outcomes<T> = (Vec<T>, Vec<(u64, String)>);

/// Runs seeds on as many threads as there are processors: `kept` and the first `count`, unless the environment names others.
///
/// # Panics
///
/// If a variable says no numbers, or a run panics.
pub fn run_all<T: Send>(kept: &[u64], count: u64, run: impl Fn(u64) -> Result<T, String> + Sync) -> Outcomes<T> {
    let begun = Instant::now();
    let until =
        variable("EVERLOG_SIMULATION_MINUTES").map(|minutes| begun + Duration::from_secs(60 * number(&minutes)));
    let seeds = seeds(kept, count);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let (passed, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let seed = match (until, seeds.get(usize::try_from(number).expect("a small number"))) {
                        (None, Some(seed)) => *seed,
                        (Some(until), _) if Instant::now() < until => count + number,
                        _ => return,
                    };
                    match run(seed) {
                        Ok(story) => passed.lock().expect(NO_PANIC).push(story),
                        Err(error) => {
                            eprintln!("seed {seed}: {error}");
                            failed.lock().expect(NO_PANIC).push((seed, error));
                        }
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect(NO_PANIC);
    failed.sort();
    (passed.into_inner().expect(NO_PANIC), failed)
}

const NO_PANIC: &str = "nobody panics who has it";

fn seeds(kept: &[u64], count: u64) -> Vec<u64> {
    let kept = kept.iter().copied();
    match variable("EVERLOG_SIMULATION_SEEDS").as_deref().map(|seeds| seeds.split_once("..").ok_or(seeds)) {
        Some(Ok((first, last))) => (number(first)..number(last)).collect(),
        Some(Err(count)) => kept.chain(0..number(count)).collect(),
        None => kept.chain(0..count).collect(),
    }
}

/// What a variable says, if it is set.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
