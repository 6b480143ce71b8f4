//! Where the history of a run lies that began with a reset.
//!
//! A reset copies no events. The new run's own history rows begin with the event behind the reset; those before it stay where they are,
//! in the rows of the run that was reset (its *base*), or of the runs that this one in turn goes back to:
//!
//! ```text
//!   run A   1 2 3 4 5 6 7 8 9 10
//!   run B         │ 4 5 6 7                 reset of A before event 4: its ancestors are A until 4
//!   run C         │     │ 6 7 8 9           reset of B before event 6: A until 4, B until 6
//!   run D     │ 3 4 5                       reset of C before event 3: A until 3
//! ```
//!
//! Every run *holds* its base, and is noted there ([`HistoryHold`]). A run that is deleted while others hold it leaves its *remains*: the
//! events that they share, and who holds them. Nobody finds it any more. The remains go with the last run that holds them, and let go of their own base
//! then. All of these runs are of one workflow, so whatever happens to them is in one entry of the log.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::row::{decode, encode, required};
use super::{CorruptRow, PendingValue, Run};
use crate::RunId;
use crate::rows::RunRowKind;

/// What a run that began with a reset goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The run that was reset.
    pub base_run_id: RunId,
    /// Where the events before the run's own are, the oldest first.
    pub ancestors: Vec<Ancestor>,
    /// The id of the request to reset.
    pub request_id: String,
}

/// A stretch of history that lies with another run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// That run.
    pub run_id: RunId,
    /// The first event behind the stretch. It begins where the one before it ends.
    pub until: i64,
}

/// The value of a branch's row.
#[derive(Message)]
struct BranchRow {
    #[prost(bytes = "bytes", tag = "1")]
    base_run_id: Bytes,
    #[prost(message, repeated, tag = "2")]
    ancestors: Vec<AncestorRow>,
    #[prost(string, tag = "3")]
    request_id: String,
}

#[derive(Message)]
struct AncestorRow {
    #[prost(bytes = "bytes", tag = "1")]
    run_id: Bytes,
    #[prost(int64, tag = "2")]
    until: i64,
}

impl Branch {
    /// The branch of a run that goes on from `base` without its events from `until` on.
    pub(crate) fn of(base: &Run, until: i64, request_id: String) -> Branch {
        let mut ancestors = Vec::new();
        let inherited = base.branch.iter().flat_map(|branch| branch.ancestors.iter().copied());
        let own = Ancestor { run_id: base.id, until: i64::MAX };
        let mut from = 1;
        for ancestor in inherited.chain([own]) {
            if from < until {
                ancestors.push(Ancestor { until: ancestor.until.min(until), ..ancestor });
            }
            from = ancestor.until;
        }
        Branch { base_run_id: base.id, ancestors, request_id }
    }

    /// The run with whose rows an event lies, if that is an ancestor.
    pub fn owner_of(&self, event_id: i64) -> Option<RunId> {
        self.ancestors.iter().find(|ancestor| event_id < ancestor.until).map(|ancestor| ancestor.run_id)
    }

    /// The first event that lies with the run itself.
    pub fn first_own_event_id(&self) -> i64 {
        self.ancestors.last().map_or(1, |ancestor| ancestor.until)
    }

    /// The value of its row.
    pub(crate) fn to_row(&self) -> Bytes {
        let bytes = |id: RunId| Bytes::copy_from_slice(&id.0);
        let ancestor = |ancestor: &Ancestor| AncestorRow { run_id: bytes(ancestor.run_id), until: ancestor.until };
        encode(&BranchRow {
            base_run_id: bytes(self.base_run_id),
            ancestors: self.ancestors.iter().map(ancestor).collect(),
            request_id: self.request_id.clone(),
        })
    }

    /// From the value of its row.
    ///
    /// # Errors
    ///
    /// [`CorruptRow`] if it is none.
    pub fn from_row(value: &[u8]) -> Result<Branch, CorruptRow> {
        let row: BranchRow = decode(value)?;
        let run_id = |bytes: &Bytes, name: &str| -> Result<RunId, CorruptRow> {
            Ok(RunId(required(bytes[..].try_into().ok(), name)?))
        };
        let ancestor = |row: AncestorRow| Ok(Ancestor { run_id: run_id(&row.run_id, "ancestor")?, until: row.until });
        let ancestors = row.ancestors.into_iter().map(ancestor).collect::<Result<Vec<_>, CorruptRow>>()?;
        if ancestors.is_empty() || !ancestors.is_sorted_by(|one, next| one.until < next.until) {
            return Err(CorruptRow("a branch without ancestors, or with some in no order".into()));
        }
        Ok(Branch { base_run_id: run_id(&row.base_run_id, "base")?, ancestors, request_id: row.request_id })
    }

    /// Rough size in memory, bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Branch>() + self.ancestors.len() * size_of::<Ancestor>() + self.request_id.len()
    }
}

/// A run that goes on from this one, by its id: which events of this one's it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryHold {
    /// The first event that it does not need.
    pub until: i64,
}

/// The value of its row.
#[derive(Message)]
struct HoldRow {
    #[prost(int64, tag = "1")]
    until: i64,
}

impl PendingValue for HistoryHold {
    type Key = String;
    const KIND: RunRowKind = RunRowKind::HistoryHold;

    fn to_row(&self) -> Bytes {
        encode(&HoldRow { until: self.until })
    }

    fn from_row(_: &String, row: Bytes) -> Result<HistoryHold, CorruptRow> {
        let HoldRow { until } = decode(&row)?;
        if until < 1 {
            return Err(CorruptRow("a hold on no events".into()));
        }
        Ok(HistoryHold { until })
    }

    fn memory_bytes(&self) -> usize {
        size_of::<HistoryHold>()
    }
}

impl Run {
    /// The run that an event of this run's history was written for: this one, unless a reset has kept the event.
    pub(crate) fn owner_of(&self, event_id: i64) -> RunId {
        self.branch.as_ref().and_then(|branch| branch.owner_of(event_id)).unwrap_or(self.id)
    }

    /// Which run goes on from events that this one has written, if a reset of another one has kept the event.
    pub(crate) fn inherited_from(&self, event_id: i64) -> Option<RunId> {
        self.branch.as_ref()?.owner_of(event_id)
    }

    /// Gives a run that was rebuilt from a part of another one's history its own id.
    pub(crate) fn go_on_as(&mut self, run_id: RunId, branch: Branch) {
        let rebuilt_as = std::mem::replace(&mut self.id, run_id);
        let points = &mut Arc::make_mut(&mut self.info).reset_points;
        points.iter_mut().filter(|point| point.run_id == rebuilt_as).for_each(|point| point.run_id = run_id);
        self.branch = Some(Arc::new(branch));
        self.info_changed = true;
        self.workers_changed |= !self.info.reset_points.is_empty();
    }

    /// The first event that nobody needs who holds the run's history.
    pub(crate) fn held_until(&self) -> i64 {
        self.history_holds.values().map(|hold| hold.until).max().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::RunInfo;

    fn run(number: u8, branch: Option<Branch>) -> Run {
        let mut run = Run::new(RunId([number; 16]), RunInfo::default());
        run.branch = branch.map(Arc::new);
        run
    }

    fn ancestors(branch: &Branch) -> Vec<(u8, i64)> {
        branch.ancestors.iter().map(|ancestor| (ancestor.run_id.0[0], ancestor.until)).collect()
    }

    #[test]
    fn a_branch_goes_back_to_whoever_wrote_the_events() {
        let a = run(1, None);
        let b = run(2, Some(Branch::of(&a, 4, "b".into())));
        let c = run(3, Some(Branch::of(&b, 6, "c".into())));
        let branch = |run: &Run| ancestors(run.branch.as_deref().unwrap());
        assert_eq!((branch(&b), branch(&c)), (vec![(1, 4)], vec![(1, 4), (2, 6)]));
        for (until, expected) in
            [(3, vec![(1, 3)]), (4, vec![(1, 4)]), (5, vec![(1, 4), (2, 5)]), (9, vec![(1, 4), (2, 6), (3, 9)])]
        {
            let d = Branch::of(&c, until, "d".into());
            assert_eq!((ancestors(&d), d.base_run_id, d.first_own_event_id()), (expected, c.id, until));
        }
        let owners = [1, 3, 4, 5, 6, 7].map(|event_id| c.owner_of(event_id).0[0]);
        assert_eq!(owners, [1, 1, 2, 2, 3, 3]);
        assert_eq!((a.owner_of(1), a.inherited_from(1), c.inherited_from(6)), (a.id, None, None));
    }

    #[test]
    fn a_branch_is_read_as_it_was_written() {
        let base = run(7, Some(Branch::of(&run(1, None), 4, String::new())));
        let branch = Branch::of(&base, 300, "r".into());
        let row = branch.to_row();
        let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "0a1007070707070707070707070707070707 12140a1001010101010101010101010101010101 1004 \
             12150a1007070707070707070707070707070707 10ac02 1a0172"
                .replace(' ', "")
        );
        assert_eq!(Branch::from_row(&row).unwrap(), branch);
        let unordered = Branch { ancestors: branch.ancestors.iter().rev().copied().collect(), ..branch.clone() };
        let none = Branch { ancestors: Vec::new(), ..branch };
        for damaged in [unordered.to_row(), none.to_row(), Bytes::new(), row.slice(..row.len() - 1)] {
            assert!(Branch::from_row(&damaged).is_err());
        }
    }
}
