//! A node under one seed: the production [`Lead`](super::lead::Lead), kernel and matching on a log, a disk and a clock that fail as the
//! seed says.
//!
//! ```text
//!   clients ─jobs─▶ leads of three partitions ─batches─▶ log: late, stalled, refused within the term, cut off by another leader
//!                     ▲      │ tasks          │ committed
//!   workers ─start────┘      ▼                ▼ chain (everlog_raft), rows (a twin that drops unsynced writes)
//!      ▲              matching               reads: late, of an earlier lead
//!      └──leases─────────────┘
//! ```
//!
//! What must hold afterwards: the events of a run have contiguous ids, and its rows [follow from](everlog_kernel::Run::follows_from)
//! them; at most one run of a workflow is open; what was acknowledged is there, once, also if the call had
//! no id and was made again; no timer fires early; an activity that may
//! be attempted once is handed out once; a message to another workflow counts once, also if its target has another run by the time it is
//! repeated; parents and children agree on what became of each other; what was told of an update is in the history, and nothing of one that
//! was rejected; schedules and the workflows that they start agree; what came to a run behind the event to
//! which it was reset has come to the run that goes on from there; no task is forgotten, whatever its priority and fairness key, and those of activities are there that wait for a
//! worker, whatever operators have done to them; and everything is in one partition, with all that follows from it, whatever slots have moved
//! to and fro while whoever drives that was killed.
//!
//! `world` is the clock and what happens when, `log` and `turns` are a partition, `clients`, `operators` and `workers` those who use it, `moves` whoever moves
//! slots between partitions, `checks` what must hold. Everything that goes to a partition goes through `World::carry`, as messages between partitions will.
//!
//! `EVERLOG_SIMULATION_SEEDS=COUNT`, or `FIRST..LAST`, runs those seeds instead of the ones of the gate, and `EVERLOG_SIMULATION_MINUTES=60` runs new
//! ones for so long. A failing seed is printed; it belongs into [`KEPT`].
//!
//! That faults are found is a test, too: [`FOUND`] names a seed for each that is put back.

mod checks;
mod clients;
mod families;
mod log;
mod moves;
mod operators;
mod resets;
mod schedules;
mod turns;
mod updates;
mod workers;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use everlog_random::seeds;

use world::{Story, World};

/// Seeds of the gate.
const SEEDS: u64 = 2000;

/// Seeds that found faults once, with the fault.
const KEPT: [(u64, &str); 4] = [
    (546, "a run that began before a message was sent by another clock hid the run that had taken it"),
    (796, "the same for a request to cancel"),
    (889, "a look at what was due was dropped when its slot froze, and not made up for when the slot stayed"),
    (6286, "a child did not know again that a run had closed which was not the one that had started it"),
];

/// A fault of the engine that is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sabotage {
    /// The rows of every committed entry are applied, whatever it was decided on.
    ChainUnchecked,
    /// Rows are read before the entry that opens the epoch is applied: something of an earlier lead may be on its way.
    OpenedTooEarly,
    /// Rows that an earlier lead asked for are taken.
    ReadsOfAnyLead,
    /// What a batch leads to leaves before the batch is durable.
    AnsweredTooEarly,
    /// A page of wake rows that cannot be read is taken for an empty one.
    OverdueForgotten,
    /// Time follows the wall clock forward.
    WallClockBelieved,
    /// What earlier leads did for calls without an id is not read.
    JournalForgotten,
    /// Earlier runs of a workflow are not asked whether they have taken a message.
    EarlierRunsForgotten,
    /// Whether a child was started before is asked of the current run alone.
    FirstRunsForgotten,
    /// What a run tells its schedule when it closes is lost.
    EndsUntold,
    /// Of what has happened behind the event to which a workflow is reset, nothing is read.
    ResetsBlind,
    /// Slots are given back to the partition that they were to leave, though the other one has not refused them.
    UnfrozenUnrefused,
    /// Slots are activated after their first page.
    PagesForgotten,
    /// Messages that have not arrived stay behind where slots have moved away.
    MessagesForgotten,
    /// Slots are copied before they are frozen.
    CopiedUnfrozen,
}

/// A seed that finds each. Changes of the engine move them; the test then looks for others, and tells which.
const FOUND: &[(Sabotage, u64)] = &[
    (Sabotage::ChainUnchecked, 3),
    (Sabotage::OpenedTooEarly, 12),
    (Sabotage::ReadsOfAnyLead, 63),
    (Sabotage::AnsweredTooEarly, 0),
    (Sabotage::OverdueForgotten, 2),
    (Sabotage::WallClockBelieved, 4),
    (Sabotage::JournalForgotten, 0),
    (Sabotage::EarlierRunsForgotten, 14),
    (Sabotage::FirstRunsForgotten, 409),
    (Sabotage::EndsUntold, 0),
    (Sabotage::ResetsBlind, 2),
    (Sabotage::UnfrozenUnrefused, 1),
    (Sabotage::PagesForgotten, 2),
    (Sabotage::MessagesForgotten, 5),
    (Sabotage::CopiedUnfrozen, 0),
];

/// Runs a seed; what it came to, or what went wrong.
fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<Story, String> {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime without I/O").block_on(async {
            let mut world = World::new(seed, sabotage);
            tokio::task::unconstrained(world.run()).await;
            world.story()
        })
    }));
    ran.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

#[test]
fn invariants_hold_whatever_log_disk_clock_and_readers_do() {
    let kept = KEPT.map(|(seed, _)| seed);
    let (stories, failed) = seeds::run_all(&kept, SEEDS, |seed| run(seed, None));
    assert!(failed.is_empty(), "{} seeds failed, the first: {:?}", failed.len(), &failed[..failed.len().min(3)]);
    let sum = |of: fn(&Story) -> u64| stories.iter().map(of).sum::<u64>();
    let (tasks, two_in_flight) = (sum(|story| story.tasks), sum(|story| story.two_in_flight));
    assert!(tasks > 0 && two_in_flight > 0, "{tasks} tasks, {two_in_flight} times two batches in flight");
    let moved = sum(|story| story.moved);
    assert!(moved > stories.len() as u64, "{moved} steps moved slots in {} stories", stories.len());
}

#[test]
fn faults_that_are_put_back_are_found() {
    for (sabotage, named) in FOUND {
        let finds = |seed: &u64| run(*seed, Some(*sabotage)).is_err();
        let seed = std::iter::once(*named).chain(0..SEEDS).find(finds);
        let seed = seed.unwrap_or_else(|| panic!("{sabotage:?} is not found"));
        if seed != *named {
            eprintln!("{sabotage:?} is found by seed {seed} now, not by {named}");
        }
        assert_eq!(run(seed, None).err(), None, "seed {seed} without a fault");
    }
}

#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in 0..3 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}
