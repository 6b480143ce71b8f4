//! Time that is skipped, for tests: a server that is started so passes over the time in which nothing happens.
//!
//! ```text
//!   callers ──lock, unlock, sleep──▶ ┌ SkippedTime ──────────────────────────┐
//!                                    │ locks     what callers hold           │──now──▶ clocks of all partitions
//!   leads ──after each turn────────▶ │ standing  what is in hand, what is next│
//!                                    │ sleepers  who waits for which time    │──a skip──▶ leads and sleepers look again
//!                                    └────────────────────────────────────────┘
//! ```
//!
//! Whenever nothing holds it back, time jumps to the next moment at which a timer, a timeout, a retry, a schedule or somebody who sleeps is
//! due. Otherwise it passes as it always does. What holds it back is counted as Temporal's test server does (`SelfAdvancingTimerImpl` of its
//! Java SDK): the locks of callers and what workers have in hand are one sum, so that an activity which sleeps by unlocking lets time jump
//! although it is an activity that runs. Unlike there a workflow task, or a message between workflows, always holds it: their time is the
//! server's own, and who unlocks once too often would let them time out.
//!
//! A jump is decided only while no lead is amid a turn, so that each turn has one time. Only what is kept in memory is known here; leads
//! therefore keep all wakes in memory where time is skipped. Polls, deadlines of calls and everything between nodes know nothing of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use everlog_kernel::{Standing, Time};
use everlog_storage::GroupId;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::clock::Reading;

/// The time of a server that skips it. See the module.
#[derive(Debug)]
pub struct SkippedTime {
    state: Mutex<State>,
    /// Told after each jump, and when somebody may wake.
    jumps: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    /// When it began, by both clocks of the machine.
    began: Instant,
    began_at: Time,
    /// How much was skipped since.
    skipped: Duration,
    /// The locks of callers, less what they have unlocked of what workers hold.
    locks: i64,
    /// Turns of leads, and queries that wait for a worker.
    holds: usize,
    /// How far the leads have come, by partition.
    standing: HashMap<GroupId, Standing>,
    /// Who sleeps until when; and whether it locks when it wakes.
    sleepers: BTreeMap<(Time, u64), bool>,
    last_sleeper: u64,
}

/// Somebody has unlocked what was not locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Unbalanced lock and unlock calls")]
pub struct Unbalanced;

impl SkippedTime {
    /// Time that begins now.
    pub fn new(is_locked: bool) -> SkippedTime {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let state = State {
            began: Instant::now(),
            began_at: Time::default().plus(since_epoch),
            skipped: Duration::ZERO,
            locks: i64::from(is_locked),
            holds: 0,
            standing: HashMap::new(),
            sleepers: BTreeMap::new(),
            last_sleeper: 0,
        };
        SkippedTime { state: Mutex::new(state), jumps: watch::Sender::new(()) }
    }

    /// What time it is.
    pub fn now(&self) -> Time {
        self.state.lock().now()
    }

    /// Has time pass as it always does, until it is unlocked as often.
    pub fn lock(&self) {
        self.state.lock().locks += 1;
    }

    /// Takes a lock away.
    ///
    /// # Errors
    ///
    /// [`Unbalanced`] if nothing holds time back.
    pub fn unlock(&self) -> Result<(), Unbalanced> {
        self.change(State::unlock)
    }

    /// Waits until `duration` has passed.
    pub async fn sleep(&self, duration: Duration) {
        let sleeper = self.change(|state| {
            let until = state.now().plus(duration);
            state.lie_down(until, false)
        });
        self.wake(sleeper).await;
    }

    /// Waits until `time`.
    pub async fn sleep_until(&self, time: Time) {
        let sleeper = self.change(|state| state.lie_down(time, false));
        self.wake(sleeper).await;
    }

    /// Takes a lock away until `duration` has passed. It is back at that very moment, before anything that is due later happens.
    ///
    /// # Errors
    ///
    /// [`Unbalanced`] if nothing holds time back.
    pub async fn sleep_unlocked(&self, duration: Duration) -> Result<(), Unbalanced> {
        let sleeper = self.change(|state| {
            state.unlock()?;
            let until = state.now().plus(duration);
            Ok(state.lie_down(until, true))
        })?;
        self.wake(sleeper).await;
        Ok(())
    }

    /// Has time pass as it always does, until what is returned is dropped.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.state.lock().holds += 1;
        Hold(Arc::clone(self))
    }

    /// What the clocks say. Time was skipped for both of them.
    pub(crate) fn read(&self) -> Reading {
        let state = self.state.lock();
        let passed = state.began.elapsed();
        Reading { instant: state.began + passed, wall: state.at(passed), skipped: state.skipped }
    }

    /// To hear that time has jumped.
    pub(crate) fn jumps(&self) -> watch::Receiver<()> {
        self.jumps.subscribe()
    }

    /// A lead tells how it stands after a turn.
    pub(crate) fn stands(&self, partition: GroupId, standing: Standing) {
        self.change(|state| state.standing.insert(partition, standing));
    }

    /// A lead has ended.
    pub(crate) fn forget(&self, partition: GroupId) {
        self.change(|state| state.standing.remove(&partition));
    }

    /// Changes what holds time back, and skips what is to be skipped then.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let has_jumped = state.advance();
        drop(state);
        if has_jumped {
            self.jumps.send_replace(());
        }
        result
    }

    /// Waits until a sleeper wakes.
    async fn wake(&self, sleeper: (Time, u64)) {
        // A caller that goes away sleeps no more.
        let _leaves = Leaves { time: self, sleeper };
        let mut jumps = self.jumps.subscribe();
        loop {
            let left = self.change(|state| state.sleepers.contains_key(&sleeper).then(|| sleeper.0.since(state.now())));
            let Some(left) = left else { return };
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                // The sender is in `self`.
                _ = jumps.changed() => {}
            }
        }
    }
}

impl State {
    fn now(&self) -> Time {
        self.at(self.began.elapsed())
    }

    fn at(&self, passed: Duration) -> Time {
        self.began_at.plus(passed).plus(self.skipped)
    }

    fn unlock(&mut self) -> Result<(), Unbalanced> {
        let Standing { steps, calls, .. } = self.standing();
        if self.locks + count(steps) + count(calls) <= 0 {
            return Err(Unbalanced);
        }
        self.locks -= 1;
        Ok(())
    }

    fn lie_down(&mut self, until: Time, locks: bool) -> (Time, u64) {
        self.last_sleeper += 1;
        let sleeper = (until, self.last_sleeper);
        self.sleepers.insert(sleeper, locks);
        sleeper
    }

    fn standing(&self) -> Standing {
        self.standing.values().copied().fold(Standing::default(), Standing::and)
    }

    /// Skips time for as long as nothing holds it back and something is due later, and wakes who has slept enough. Returns whether there is
    /// something new to see.
    fn advance(&mut self) -> bool {
        let mut has_jumped = self.wake_sleepers();
        loop {
            let Standing { steps, calls, next } = self.standing();
            if self.holds > 0 || steps > 0 || self.locks + count(calls) > 0 {
                return has_jumped;
            }
            let sleeper = self.sleepers.keys().next().map(|(until, _)| *until);
            let Some(next) = next.into_iter().chain(sleeper).min() else { return has_jumped };
            let ahead = next.since(self.now());
            if ahead.is_zero() {
                // A lead is about to see to it.
                return has_jumped;
            }
            self.skipped += ahead;
            self.wake_sleepers();
            has_jumped = true;
        }
    }

    /// Wakes who has slept enough. Returns whether there is any.
    fn wake_sleepers(&mut self) -> bool {
        let now = self.now();
        let mut woken = false;
        while let Some(sleeper) = self.sleepers.first_entry().filter(|sleeper| sleeper.key().0 <= now) {
            self.locks += i64::from(sleeper.remove());
            woken = true;
        }
        woken
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX / 4)
}

/// Keeps time from being skipped for as long as it lives.
#[derive(Debug)]
pub struct Hold(Arc<SkippedTime>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.change(|state| state.holds -= 1);
    }
}

/// Takes a sleeper out who does not wait any more; the lock that it has taken away is back then.
struct Leaves<'a> {
    time: &'a SkippedTime,
    sleeper: (Time, u64),
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.time.change(|state| {
            if let Some(locks) = state.sleepers.remove(&self.sleeper) {
                state.locks += i64::from(locks);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Hours since `begun`, and that it is hardly more than that.
    fn hours(time: &SkippedTime, begun: Time) -> u64 {
        let passed = time.now().since(begun);
        assert!(passed.as_secs() % 3600 < 60, "{passed:?}");
        passed.as_secs() / 3600
    }

    fn standing(steps: usize, calls: usize, next: Time) -> Standing {
        Standing { steps, calls, next: Some(next) }
    }

    #[test]
    fn time_jumps_to_what_is_due_next_once_nothing_holds_it_back() {
        let time = SkippedTime::new(true);
        let begun = time.now();
        let (first, second) = (GroupId(1), GroupId(2));
        time.stands(first, standing(1, 0, begun.plus(2 * HOUR)));
        time.stands(second, standing(0, 1, begun.plus(3 * HOUR)));
        assert_eq!(time.unlock(), Ok(()));
        assert_eq!(hours(&time, begun), 0, "a workflow task and an activity are in hand");
        time.stands(second, standing(0, 0, begun.plus(3 * HOUR)));
        assert_eq!(hours(&time, begun), 0, "a workflow task is in hand");
        time.stands(first, standing(0, 0, begun.plus(2 * HOUR)));
        assert_eq!(hours(&time, begun), 2);
        // What is due is seen to first.
        time.stands(second, standing(0, 0, begun.plus(3 * HOUR)));
        assert_eq!(hours(&time, begun), 2);
        time.lock();
        time.stands(first, Standing::default());
        assert_eq!(hours(&time, begun), 2, "it is locked");
        assert_eq!(time.unlock(), Ok(()));
        assert_eq!(hours(&time, begun), 3);
    }

    #[test]
    fn nobody_unlocks_more_than_there_is() {
        let time = SkippedTime::new(true);
        assert_eq!(time.unlock(), Ok(()));
        assert_eq!(time.unlock(), Err(Unbalanced));
        time.stands(GroupId(1), standing(0, 1, Time::MAX));
        assert_eq!(time.unlock(), Ok(()), "an activity may unlock what it holds");
        assert_eq!(time.unlock(), Err(Unbalanced));
    }

    #[test]
    fn a_workflow_task_holds_time_whatever_was_unlocked() {
        let time = SkippedTime::new(false);
        let begun = time.now();
        time.stands(GroupId(1), standing(0, 1, begun.plus(HOUR)));
        assert_eq!(time.unlock(), Ok(()));
        assert_eq!(hours(&time, begun), 1);
        time.stands(GroupId(1), standing(1, 0, begun.plus(2 * HOUR)));
        assert_eq!(hours(&time, begun), 1);
    }

    #[test]
    fn a_turn_has_one_time() {
        let time = Arc::new(SkippedTime::new(false));
        let begun = time.now();
        let turn = time.hold();
        time.stands(GroupId(1), standing(0, 0, begun.plus(HOUR)));
        assert_eq!(hours(&time, begun), 0);
        drop(turn);
        assert_eq!(hours(&time, begun), 1);
    }

    #[test]
    fn a_lead_that_has_ended_holds_nothing() {
        let time = SkippedTime::new(false);
        let begun = time.now();
        time.stands(GroupId(1), standing(1, 1, begun));
        time.stands(GroupId(2), standing(0, 0, begun.plus(HOUR)));
        time.forget(GroupId(1));
        assert_eq!(hours(&time, begun), 1);
    }

    #[tokio::test]
    async fn who_sleeps_unlocked_has_its_lock_back_before_anything_else_happens() {
        let time = SkippedTime::new(true);
        let begun = time.now();
        time.stands(GroupId(1), standing(0, 0, begun.plus(3 * HOUR)));
        assert_eq!(time.sleep_unlocked(2 * HOUR).await, Ok(()));
        assert_eq!(hours(&time, begun), 2);
        assert_eq!(time.unlock(), Ok(()));
        assert_eq!(hours(&time, begun), 3);
        assert_eq!(time.sleep_unlocked(HOUR).await, Err(Unbalanced));
    }

    #[tokio::test]
    async fn who_goes_away_sleeps_no_more() {
        let time = SkippedTime::new(true);
        let begun = time.now();
        time.lock();
        let soon = Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, time.sleep_unlocked(HOUR)).await.is_err(), "another lock is there");
        assert!(tokio::time::timeout(soon, time.sleep(HOUR)).await.is_err());
        assert_eq!((time.unlock(), time.unlock(), time.unlock()), (Ok(()), Ok(()), Err(Unbalanced)));
        assert_eq!(hours(&time, begun), 0);
    }

    #[tokio::test]
    async fn sleepers_wake_in_order_and_the_past_is_no_wait() {
        let time = SkippedTime::new(true);
        let begun = time.now();
        time.sleep_until(begun).await;
        time.sleep_until(Time::default()).await;
        let order = Mutex::new(Vec::new());
        let sleep = async |hours: u32| {
            time.sleep_until(begun.plus(hours * HOUR)).await;
            order.lock().push(hours);
        };
        let unlock = async {
            tokio::task::yield_now().await;
            time.unlock().unwrap();
        };
        tokio::join!(sleep(1), sleep(2), unlock);
        assert_eq!(*order.lock(), [1, 2]);
        assert_eq!(hours(&time, begun), 2);
    }

    #[tokio::test]
    async fn a_locked_sleep_takes_its_time() {
        let time = SkippedTime::new(true);
        let begun = Instant::now();
        time.sleep(Duration::from_millis(20)).await;
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }
}
