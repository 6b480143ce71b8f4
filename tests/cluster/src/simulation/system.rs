//! The operating system of a simulation: its clocks, its random numbers, and which node a task is of.
//!
//! Everything that a process would ask the system for comes from the seed, as madsim does it: the two functions of the C library that
//! tell the time and give random bytes are defined here, and answer a thread that is a simulation by itself. So hash maps, ids, elections and the
//! order in which tasks run are the same whenever a seed is run, and no crate has to know. What other threads ask goes to the system.
//!
//! A task is of the node of the task that has spawned it ([`on_node`]); the clocks are those of that node.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_void;
use std::panic::Location;
use std::time::Duration;

use everlog_random::Random;
use nix::libc;
use tokio::runtime::{Builder, RngSeed, Runtime};
use tokio::task::{Id, JoinHandle};
use tokio::time::Instant;

/// Nodes of a simulation, at most; the place before them is for whoever looks on from outside.
const NODES_MAX: usize = 8;

/// What wall clocks say at the beginning.
const WALL_START: u64 = 1_700_000_000_000_000_000;

/// The monotonic clocks at the beginning: far from zero, since some subtract.
const MONOTONIC_START: u64 = 1_000_000_000_000_000;

thread_local! {
    static IS_SIMULATED: Cell<bool> = const { Cell::new(false) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
    /// Nanoseconds since the beginning.
    static NOW: Cell<u64> = const { Cell::new(0) };
    static NODE: Cell<usize> = const { Cell::new(0) };
    /// What the wall clock of each node is off by, nanoseconds.
    static WALL_OFFSET: [Cell<i64>; NODES_MAX] = const { [const { Cell::new(0) }; NODES_MAX] };
    /// How much faster each node's clocks run, in millionths.
    static DRIFT: [Cell<i64>; NODES_MAX] = const { [const { Cell::new(0) }; NODES_MAX] };
    static TRACE: Cell<u64> = const { Cell::new(0) };
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Every poll so far, if they are kept.
    static POLLS: RefCell<Option<Vec<Poll>>> = const { RefCell::new(None) };
    static TASKS: RefCell<Tasks> = RefCell::new(Tasks::default());
}

/// The tasks that there are, by the order in which they were spawned, with their nodes.
#[derive(Default)]
struct Tasks {
    spawned: u64,
    alive: HashMap<Id, (u64, usize)>,
}

/// A poll of a task: when, which, and where that was spawned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Poll {
    now: u64,
    task: u64,
    node: usize,
    spawned_at: &'static Location<'static>,
}

/// From now on polls are kept, for whoever wants to know where two runs part.
pub(super) fn keep_polls() {
    POLLS.set(Some(Vec::new()));
}

/// The polls that were kept.
pub(super) fn polls() -> Vec<Poll> {
    POLLS.take().unwrap_or_default()
}

/// Makes this thread a simulation under a seed, and its runtime. A thread is one once.
pub(super) fn begin(seed: u64) -> Runtime {
    assert!(!IS_SIMULATED.get(), "a thread is a simulation once");
    IS_SIMULATED.set(true);
    RANDOM.set(Random::new(seed).any());
    everlog_storage::blocking::simulate(super::disk::blocking_delay);
    let mut runtime = Builder::new_current_thread();
    runtime.enable_time().start_paused(true).rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()));
    runtime.on_task_spawn(|task| {
        TASKS.with_borrow_mut(|tasks| {
            tasks.spawned += 1;
            tasks.alive.insert(task.id(), (tasks.spawned, NODE.get()));
        });
    });
    runtime.on_before_task_poll(|task| {
        let (number, node) = TASKS.with_borrow(|tasks| tasks.alive.get(&task.id()).copied().unwrap_or_default());
        NODE.set(node);
        let now = Instant::now();
        let start = START.get().unwrap_or(now);
        START.set(Some(start));
        NOW.set(u64::try_from((now - start).as_nanos()).unwrap_or(u64::MAX));
        note(number);
        note(NOW.get());
        POLLS.with_borrow_mut(|polls| {
            if let Some(polls) = polls {
                polls.push(Poll { now: NOW.get(), task: number, node, spawned_at: task.spawned_at() });
            }
        });
    });
    runtime.on_after_task_poll(|_| NODE.set(0));
    runtime.on_task_terminate(|task| {
        TASKS.with_borrow_mut(|tasks| {
            tasks.alive.remove(&task.id());
        });
    });
    runtime.build().expect("a runtime without I/O")
}

/// Adds to what tells one run from another: when which task was polled, and whatever else is noted.
pub(super) fn note(what: u64) {
    TRACE.set((TRACE.get() ^ what).wrapping_mul(0x0100_0000_01b3).rotate_left(23));
}

/// What tells this run from others.
pub(super) fn trace() -> u64 {
    TRACE.get()
}

/// Nanoseconds since the beginning, by no node's clock.
pub(super) fn now() -> u64 {
    NOW.get()
}

/// Does something as a node: what is spawned is of that node, and clocks are its clocks.
pub(super) fn on_node<T>(node: usize, act: impl FnOnce() -> T) -> T {
    let before = NODE.replace(node);
    let done = act();
    NODE.set(before);
    done
}

/// Spawns a task of a node.
pub(super) fn spawn_on<T: Send + 'static>(
    node: usize,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    on_node(node, || tokio::spawn(task))
}

/// The node that the running task is of; 0 if it is of none.
pub(super) fn node() -> usize {
    NODE.get()
}

/// Sets the wall clock of a node forward or back.
pub(super) fn step_wall_clock(node: usize, by_ms: i64) {
    WALL_OFFSET.with(|offsets| offsets[node].set(offsets[node].get() + by_ms * 1_000_000));
}

/// Has the clocks of a node run faster by so many millionths.
pub(super) fn set_drift(node: usize, millionths: i64) {
    DRIFT.with(|drifts| drifts[node].set(millionths));
}

/// How long something takes by the clock of no node that takes `time` by the one of `node`.
pub(super) fn drifted(node: usize, time: Duration) -> Duration {
    let drift = DRIFT.with(|drifts| drifts[node].get());
    time.mul_f64(1_000_000.0 / (1_000_000 + drift) as f64)
}

/// A random number that everything which follows depends on.
fn next_random() -> u64 {
    let mut random = Random::new(RANDOM.get());
    let any = random.any();
    RANDOM.set(any);
    any
}

fn monotonic(node: usize) -> u64 {
    let now = NOW.get();
    let drift = DRIFT.with(|drifts| drifts[node].get());
    let ahead = i128::from(now) * i128::from(drift) / 1_000_000;
    now.saturating_add_signed(i64::try_from(ahead).unwrap_or(0))
}

/// The C library's own, for all that is not simulated. Errors are told as it tells them.
#[allow(unsafe_code, reason = "takes the place of a function of the C library")]
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: u32) -> isize {
    if !IS_SIMULATED.get() {
        // SAFETY: the caller's arguments go to the system as they are.
        let filled = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return filled as isize;
    }
    if length == 0 || buffer.is_null() {
        return 0;
    }
    // SAFETY: the caller owns `length` bytes at `buffer`, and nobody else has them while it waits.
    let bytes = unsafe {
        std::ptr::write_bytes(buffer.cast::<u8>(), 0, length);
        std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length)
    };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next_random().to_le_bytes()[..chunk.len()]);
    }
    length as isize
}

/// The C library's own, for all that is not simulated.
#[allow(unsafe_code, reason = "takes the place of a function of the C library")]
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    let now = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE if IS_SIMULATED.get() => {
            let offset = WALL_OFFSET.with(|offsets| offsets[NODE.get()].get());
            (WALL_START + monotonic(NODE.get())).saturating_add_signed(offset)
        }
        libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_COARSE | libc::CLOCK_BOOTTIME if IS_SIMULATED.get() => {
            MONOTONIC_START + monotonic(NODE.get())
        }
        _ => {
            // SAFETY: the caller's arguments go to the system as they are.
            return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as libc::c_int;
        }
    };
    let told = libc::timespec { tv_sec: (now / 1_000_000_000) as i64, tv_nsec: (now % 1_000_000_000) as i64 };
    // SAFETY: the caller gives a place for the time.
    unsafe { time.write(told) };
    0
}
