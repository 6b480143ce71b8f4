//! Work that blocks on the disk, which is done apart from the tasks of the runtime.
//!
//! On threads, but for a simulation of whole nodes on one thread ([`simulate`]): there it is a task, which takes as long as the simulation
//! says, so that a seed decides what happens before it and what after it.

use std::cell::RefCell;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// How long a piece of work takes.
type Delay = Box<dyn Fn() -> Duration>;

thread_local! {
    static SIMULATED: RefCell<Option<Delay>> = const { RefCell::new(None) };
}

/// Does `work` where it may block. Must be called within a tokio runtime.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    spawn_on(&Handle::current(), work)
}

/// The same, from outside of the runtime.
pub fn spawn_on<T: Send + 'static>(runtime: &Handle, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match simulated_delay() {
        None => runtime.spawn_blocking(work),
        Some(delay) => runtime.spawn(async move {
            tokio::time::sleep(delay).await;
            work()
        }),
    }
}

/// From now on, work that is begun on this thread is done on it, once `delay` has passed. For simulations.
pub fn simulate(delay: impl Fn() -> Duration + 'static) {
    SIMULATED.with(|simulated| *simulated.borrow_mut() = Some(Box::new(delay)));
}

/// Whether this thread is a simulation, in which nothing is left to other threads.
pub fn is_simulated() -> bool {
    SIMULATED.with(|simulated| simulated.borrow().is_some())
}

fn simulated_delay() -> Option<Duration> {
    SIMULATED.with(|simulated| simulated.borrow().as_ref().map(|delay| delay()))
}
