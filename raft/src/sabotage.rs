//! Faults that are put back on purpose, on one thread, to see that a simulation finds them. Builds for production have none of this.

#[cfg(feature = "sabotage")]
use std::cell::Cell;

/// A fault of this crate that is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A leader trusts its lease for eight times as long as it may.
    StaleLease,
    /// A leader that has handed its lead over goes on trusting its lease.
    LeaseAfterHandover,
    /// A message for another replica of the group is taken for one's own.
    MessageForAnyReplica,
    /// Whoever believes to lead reads without asking anybody.
    SkippedBarrier,
    /// Rows of a leader are installed also where the log has more than they hold.
    SnapshotOverNewerLog,
}

#[cfg(feature = "sabotage")]
thread_local! {
    static NOW: Cell<Option<Sabotage>> = const { Cell::new(None) };
}

/// From now on this thread has this fault, or none.
#[cfg(feature = "sabotage")]
pub fn put_back(sabotage: Option<Sabotage>) {
    NOW.set(sabotage);
}

#[cfg(feature = "sabotage")]
pub(crate) fn is(sabotage: Sabotage) -> bool {
    NOW.get() == Some(sabotage)
}

#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub(crate) fn is(_: Sabotage) -> bool {
    false
}
