//! Whole clusters under one seed: every node of them in one thread, production code above network, disk, clocks and random numbers.
//!
//! ```text
//!   callers, workers ─gRPC messages─▶ frontends ─▶ routers ─▶ partition loops, matching ─▶ Raft groups   × 3 or 5 nodes
//!         │                                            ╲──────── calls, Raft's messages ────────╱
//!         ▼                                             network: late, lost, cut, cut one way, flapping   disks: slow, lose what was not synced
//!      checker                                          clocks: drift, steps                             nodes: killed, started, given new disks
//! ```
//!
//! What must hold: at any moment, one leader a term, one lease a group, equal rows at equal positions, and no log that is purged further than rows
//! are durable; afterwards, an order that explains what callers were told, replicas that are equal, and nobody who waits for ever.
//!
//! `system` is what a process asks its system for, and makes a seed the same story each time: it tells the nodes' tasks, clocks and random
//! numbers. `node` is a process, put together as `everlog-server` does it, `disk` its disk, `world` the cluster and its faults, `operator`
//! whoever gives lost nodes new disks, and adds and removes nodes, `watch` what is looked at while it runs.
//!
//! The test runs as many seeds as fit in the gate's time. `EVERLOG_SIMULATION_SEEDS=COUNT`, or `FIRST..LAST`, runs those instead, and
//! `EVERLOG_SIMULATION_MINUTES=60` new ones for so long. A failing seed is printed; it belongs into [`KEPT`]. That faults are found is a
//! test, too: [`FOUND`] names seeds for each that is put back. `EVERLOG_SIMULATION_SABOTAGE=StaleLease` has the first test run with that one, to
//! look for such seeds: it fails with those that find it.

mod disk;
mod node;
mod operator;
mod system;
mod watch;
mod world;

use std::cell::RefCell;
use std::sync::Once;

use everlog_raft::sabotage;
use everlog_random::seeds;

use world::{Story, World};

/// Seeds of the gate.
const SEEDS: u64 = 50;

/// Seeds that found faults once, with the fault.
const KEPT: [(u64, &str); 3] = [
    (8, "a leader that had handed its lead over answered by its lease, while another one led"),
    (33, "a completion that was on its way at the end was not known to the checker"),
    (59, "a node that had just started did not get over it that another one had registered its namespaces"),
];

/// A fault that is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sabotage {
    /// One of the Raft crate.
    Raft(sabotage::Sabotage),
    /// Entries are acknowledged before they are on the disk.
    AppendNotDurable,
    /// Votes are told before they are on the disk.
    VoteNotDurable,
    /// A node whose disk is lost comes back as the replicas that it was.
    ReusedReplicaId,
}

/// The faults that are put back, each with seeds that find it. Changes of the product move them, mostly not all at once.
const FOUND: &[(Sabotage, &[u64])] = &[
    (Sabotage::Raft(sabotage::Sabotage::StaleLease), &[59, 75]),
    (Sabotage::Raft(sabotage::Sabotage::LeaseAfterHandover), &[6, 11, 29, 63]),
    (Sabotage::Raft(sabotage::Sabotage::MessageForAnyReplica), &[2, 24, 37, 51]),
    (Sabotage::Raft(sabotage::Sabotage::SkippedBarrier), &[1, 60]),
    (Sabotage::AppendNotDurable, &[82, 126, 139, 152, 25, 37, 85, 122]),
    (Sabotage::VoteNotDurable, &[524, 68, 284, 84, 188]),
    (Sabotage::ReusedReplicaId, &[2, 8, 15, 24]),
];

thread_local! {
    /// What has panicked on this thread.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs a seed, on a thread of its own; what it came to, or what went wrong.
fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<Story, String> {
    // What a process makes once, and keeps, must be there: it would take random numbers of the first seed.
    static WARM: Once = Once::new();
    WARM.call_once(|| drop(run_keeping(u64::MAX, None, false)));
    run_keeping(seed, sabotage, false).0
}

/// The same; also when which task was polled, if that is to be kept.
fn run_keeping(seed: u64, sabotage: Option<Sabotage>, keeps_polls: bool) -> (Result<Story, String>, Vec<system::Poll>) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        show_logs();
        let otherwise = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() == Some(THREAD) {
                PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            } else {
                otherwise(panic);
            }
        }));
    });
    const THREAD: &str = "simulation";
    // Futures that are not optimised are large.
    let thread = std::thread::Builder::new().name(THREAD.to_owned()).stack_size(64 << 20);
    let thread = thread.spawn(move || {
        let runtime = system::begin(seed);
        if keeps_polls {
            system::keep_polls();
        }
        disk::begin(seed);
        sabotage::put_back(match sabotage {
            Some(Sabotage::Raft(sabotage)) => Some(sabotage),
            _ => None,
        });
        let story = runtime.block_on(async move {
            // A task, so that it is seen when it is polled.
            tokio::spawn(World::tell(seed, sabotage)).await
        });
        // Tasks that are still there are dropped with it.
        drop(runtime);
        let panics = PANICS.take();
        let story = match story {
            _ if !panics.is_empty() => Err(format!("something panicked: {}", panics.join("\n"))),
            Ok(story) => story,
            Err(error) => Err(error.to_string()),
        };
        (story, system::polls())
    });
    let story = thread.expect("a thread").join();
    story.unwrap_or_else(|_| (Err("the simulation itself panicked".to_owned()), Vec::new()))
}

/// Shows what nodes log, if `RUST_LOG` says so: for whoever looks into a seed.
fn show_logs() {
    struct SimulatedTime;
    impl tracing_subscriber::fmt::time::FormatTime for SimulatedTime {
        fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
            write!(writer, "{:>9} us, node {}", system::now() / 1000, system::node())
        }
    }
    if std::env::var_os("RUST_LOG").is_some() {
        let shown = tracing_subscriber::fmt().with_timer(SimulatedTime).with_writer(std::io::stderr).with_ansi(false);
        // Whichever test comes first.
        let _ = shown.with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
    }
}

/// The fault that is to be put back.
fn sabotage_wanted() -> Option<Sabotage> {
    let name = std::env::var("EVERLOG_SIMULATION_SABOTAGE").ok()?;
    let has_name = |sabotage: &Sabotage| match sabotage {
        Sabotage::Raft(sabotage) => format!("{sabotage:?}") == name,
        sabotage => format!("{sabotage:?}") == name,
    };
    let known = FOUND.iter().map(|(sabotage, _)| *sabotage).find(has_name);
    Some(known.unwrap_or_else(|| panic!("there is no {name} among {FOUND:?}")))
}

#[test]
fn invariants_hold_whatever_nodes_links_disks_and_clocks_do() {
    let began = std::time::Instant::now();
    let (kept, sabotage) = (KEPT.map(|(seed, _)| seed), sabotage_wanted());
    let (stories, failed) = seeds::run_all(&kept, SEEDS, |seed| run(seed, sabotage));
    let sum = |of: fn(&Story) -> u64| stories.iter().map(of).sum::<u64>();
    let (acknowledged, unknown, faults) = (sum(|s| s.acknowledged), sum(|s| s.unknown), sum(|s| s.faults));
    eprintln!(
        "{} seeds in {:?}: {acknowledged} acknowledged operations, {unknown} of which nobody knows, {faults} faults, {} terms, \
         {} seconds",
        stories.len() + failed.len(),
        began.elapsed(),
        sum(|s| s.terms),
        sum(|s| s.milliseconds) / 1000,
    );
    let numbers: Vec<_> = failed.iter().map(|(seed, _)| seed).collect();
    assert!(failed.is_empty(), "{} seeds failed: {numbers:?}", failed.len());
    assert!(acknowledged > 0 && faults > 0, "{acknowledged} operations, {faults} faults");
}

#[test]
fn faults_that_are_put_back_are_found() {
    for (sabotage, seeds) in FOUND {
        let found = seeds.iter().find(|seed| run(**seed, Some(*sabotage)).is_err());
        let found = found.unwrap_or_else(|| panic!("{sabotage:?} is found by none of {seeds:?} any more"));
        assert_eq!(run(*found, None).err(), None, "seed {found} without a fault");
    }
}

#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in 0..3 {
        let first = run(seed, None);
        if run(seed, None) == first {
            continue;
        }
        let [(_, one), (_, other)] = [(), ()].map(|()| run_keeping(seed, None, true));
        let parted = one.iter().zip(&other).position(|(one, other)| one != other);
        let around = |polls: &[system::Poll], at: usize| polls[at.saturating_sub(3)..polls.len().min(at + 2)].to_vec();
        let where_ = parted.map(|at| (around(&one, at), around(&other, at)));
        panic!("seed {seed} tells two stories, which part at poll {parted:?}: {where_:#?}");
    }
}
