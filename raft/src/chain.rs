//! The chain of a group's entries: which of them may be applied, decided alike on every replica.
//!
//! A leader decides each batch on what the batches before it leave, and several are on their way at once. Raft may refuse one of
//! them and accept the next, even within one term (its lease ran out for a moment). The next one must then not be applied: it
//! was decided on rows that will never be. So every entry says which one it follows.
//!
//! ```text
//!   epoch (term, opening)     one uninterrupted lead: whoever begins to lead, or lost a batch, opens a new one
//!   sequence                  0 opens the epoch, 1, 2, 3 .. follow
//!
//!   apply:  sequence = 0 and epoch > last epoch           the entry opens its epoch; its rows are applied
//!           epoch = last epoch and sequence = last + 1    its rows are applied
//!           anything else                                 its rows are skipped, the chain stays where it is
//! ```
//!
//! What this buys: once the opening of an epoch is applied, everything that earlier epochs had on its way is either among the
//! rows or will never be; and the rows are always those of a sequence of batches without a gap.

use std::fmt;
use std::sync::Arc;

/// One uninterrupted lead of a group. Later leads are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeadEpoch {
    /// The Raft term that it leads in. Real terms begin at 1.
    pub term: u64,
    /// Counts the openings within the term.
    pub opening: u32,
}

/// Where an entry stands among those of its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainPosition {
    /// The lead that proposed it.
    pub epoch: LeadEpoch,
    /// 0 opens the epoch; each later entry has one more than the one before it.
    pub sequence: u64,
}

/// A time of a hybrid logical clock: nanoseconds since 1970 where clocks are right, and never less than what was seen before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

/// What a proposal says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryStamp {
    /// Where it stands in the chain.
    pub chain: ChainPosition,
    /// When it was decided.
    pub hlc: Hlc,
}

/// The end of the chain as far as it is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedChain {
    /// The last entry whose rows were applied; of term 0 while there was none.
    pub position: ChainPosition,
    /// The latest time of any applied entry. A new lead's clock starts behind it.
    pub hlc: Hlc,
}

impl LeadEpoch {
    /// The next lead in the same term.
    pub fn reopened(self) -> LeadEpoch {
        LeadEpoch { term: self.term, opening: self.opening + 1 }
    }

    /// The position that opens this epoch.
    pub fn start(self) -> ChainPosition {
        ChainPosition { epoch: self, sequence: 0 }
    }
}

impl ChainPosition {
    /// The position behind this one.
    pub fn next(self) -> ChainPosition {
        ChainPosition { epoch: self.epoch, sequence: self.sequence + 1 }
    }
}

impl AppliedChain {
    /// The next position for a proposer in `term` that never has more than one proposal on its way.
    pub fn next_in(&self, term: u64) -> ChainPosition {
        if self.position.epoch.term == term { self.position.next() } else { LeadEpoch { term, opening: 0 }.start() }
    }

    /// The epoch that begins when a replica (again) begins to lead in `term`, if nothing else is on its way.
    pub fn next_epoch(&self, term: u64) -> LeadEpoch {
        let last = self.position.epoch;
        if last.term == term { last.reopened() } else { LeadEpoch { term, opening: 0 } }
    }
}

impl fmt::Display for LeadEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.opening)
    }
}

impl fmt::Display for ChainPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.sequence)
    }
}

/// Epochs before the present one whose ends are remembered: for as long as somebody may still ask what became of a proposal.
pub(crate) const EPOCHS_REMEMBERED: usize = 16;

/// Whether the rows of an entry count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainStep {
    /// They do.
    Applied,
    /// They do not: an entry that it was decided on is missing.
    Skipped,
}

/// The chain of a group as of its applied position. Copied with every position, so its past is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    pub(crate) end: AppliedChain,
    /// The last entry of each of the epochs before, oldest first.
    pub(crate) before: Arc<[ChainPosition]>,
}

impl Chain {
    /// Takes the next committed entry and says whether its rows are to be applied.
    pub fn step(&mut self, stamp: &EntryStamp) -> ChainStep {
        let (last, entry) = (self.end.position, stamp.chain);
        let opens = entry.sequence == 0 && entry.epoch > last.epoch;
        // The chain of a new group is of term 0, in which nobody leads: it cannot be gone on with.
        if entry.epoch.term == 0 || (!opens && entry != last.next()) {
            return ChainStep::Skipped;
        }
        if opens && last != ChainPosition::default() {
            let forgotten = (self.before.len() + 1).saturating_sub(EPOCHS_REMEMBERED);
            self.before = self.before[forgotten..].iter().copied().chain([last]).collect();
        }
        self.end = AppliedChain { position: entry, hlc: self.end.hlc.max(stamp.hlc) };
        ChainStep::Applied
    }

    /// Where the chain ends.
    pub fn end(&self) -> AppliedChain {
        self.end
    }

    /// Whether the rows of `position` were applied, as far as its epoch is remembered.
    pub fn was_applied(&self, position: ChainPosition) -> bool {
        let end = self.before.iter().chain([&self.end.position]).find(|end| end.epoch == position.epoch);
        position.epoch.term > 0 && end.is_some_and(|end| position.sequence <= end.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(term: u64, opening: u32, sequence: u64) -> ChainPosition {
        ChainPosition { epoch: LeadEpoch { term, opening }, sequence }
    }

    /// The positions that count, of entries that are committed in this order.
    fn counted(entries: &[(u64, u32, u64)]) -> Vec<ChainPosition> {
        let mut chain = Chain::default();
        let entries = entries.iter().map(|(term, opening, sequence)| position(*term, *opening, *sequence));
        entries.filter(|entry| chain.step(&EntryStamp { chain: *entry, hlc: Hlc(0) }) == ChainStep::Applied).collect()
    }

    #[test]
    fn an_entry_counts_when_it_follows_the_last_one_that_counted() {
        type Entries = &'static [(u64, u32, u64)];
        let table: &[(&str, Entries, Entries)] = &[
            ("in order", &[(1, 0, 0), (1, 0, 1), (1, 0, 2)], &[(1, 0, 0), (1, 0, 1), (1, 0, 2)]),
            ("nothing opened", &[(1, 0, 1)], &[]),
            ("term 0 is nobody's", &[(0, 0, 0), (0, 0, 1), (0, 1, 0)], &[]),
            ("a gap ends the epoch", &[(1, 0, 0), (1, 0, 2), (1, 0, 3)], &[(1, 0, 0)]),
            ("until it is filled", &[(1, 0, 0), (1, 0, 2), (1, 0, 1), (1, 0, 2)], &[(1, 0, 0), (1, 0, 1), (1, 0, 2)]),
            ("twice", &[(1, 0, 0), (1, 0, 1), (1, 0, 1)], &[(1, 0, 0), (1, 0, 1)]),
            ("opened twice", &[(1, 0, 0), (1, 0, 0)], &[(1, 0, 0)]),
            ("opened again", &[(1, 0, 0), (1, 0, 2), (1, 1, 0), (1, 1, 1)], &[(1, 0, 0), (1, 1, 0), (1, 1, 1)]),
            ("an earlier epoch is over", &[(1, 0, 0), (1, 1, 0), (1, 0, 1)], &[(1, 0, 0), (1, 1, 0)]),
            ("and cannot be opened", &[(1, 1, 0), (1, 0, 0)], &[(1, 1, 0)]),
            ("an opening that is lost", &[(1, 0, 0), (1, 1, 1), (1, 0, 1)], &[(1, 0, 0), (1, 0, 1)]),
            ("a later term", &[(1, 7, 0), (2, 0, 0), (2, 0, 1)], &[(1, 7, 0), (2, 0, 0), (2, 0, 1)]),
            (
                "an entry of a later term that opens nothing",
                &[(1, 0, 0), (2, 0, 1), (1, 0, 1)],
                &[(1, 0, 0), (1, 0, 1)],
            ),
        ];
        for (name, entries, expected) in table {
            let expected: Vec<_> = expected.iter().map(|(t, o, s)| position(*t, *o, *s)).collect();
            assert_eq!(counted(entries), expected, "{name}");
        }
    }

    #[test]
    fn what_was_applied_is_remembered_for_some_epochs() {
        let mut chain = Chain::default();
        assert!(!chain.was_applied(ChainPosition::default()));
        for opening in 0..20 {
            for sequence in 0..=u64::from(opening) {
                let stamp = EntryStamp { chain: position(3, opening, sequence), hlc: Hlc(0) };
                assert_eq!(chain.step(&stamp), ChainStep::Applied);
            }
        }
        assert_eq!(chain.before.len(), EPOCHS_REMEMBERED);
        for opening in 0..20 {
            let remembered = opening >= 3;
            assert_eq!(chain.was_applied(position(3, opening, u64::from(opening))), remembered, "{opening}");
            assert!(!chain.was_applied(position(3, opening, u64::from(opening) + 1)), "{opening}");
        }
        assert!(!chain.was_applied(position(3, 20, 0)));
        assert!(!chain.was_applied(position(2, 19, 0)));
    }

    #[test]
    fn time_never_goes_back() {
        let mut chain = Chain::default();
        for (sequence, hlc, latest) in [(0, 5, 5), (1, 3, 5), (2, 9, 9)] {
            chain.step(&EntryStamp { chain: position(1, 0, sequence), hlc: Hlc(hlc) });
            assert_eq!(chain.end.hlc, Hlc(latest));
        }
        // What is skipped says nothing about time either.
        chain.step(&EntryStamp { chain: position(1, 0, 7), hlc: Hlc(99) });
        assert_eq!(chain.end.hlc, Hlc(9));
    }
}
