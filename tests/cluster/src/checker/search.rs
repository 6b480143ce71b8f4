//! The search for an order in which all operations make sense.

use std::collections::HashSet;

use super::model::{Call, Model, Operation, Outcome, Refusal};

/// Operations of one workflow id, at most: as many as a set of them has bits.
const OPERATIONS_MAX: usize = u128::BITS as usize;

/// Steps of the model after which the search gives up. A history of a hundred operations of which ten are concurrent takes some
/// thousands.
pub(crate) const STEPS_MAX: u64 = 3_000_000;

/// What became of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none. For people: how far the best attempt came, and what could not follow.
    Impossible(String),
    /// It was not found out within the bounds.
    TooLong(String),
}

/// Looks for an order, in `steps_max` steps of the model at most.
pub(crate) fn check(operations: &[Operation], steps_max: u64) -> Verdict {
    check_with(operations, &[], steps_max)
}

/// The same for servers that make a call again whose outcome they do not know, if it has a request id. Such an id counts for one run, so
/// a call that is made again after another run has become the current one is not known again: it may have happened twice, the first time
/// at some moment between its call and what its caller was told of.
pub(crate) fn check_with_repeats(operations: &[Operation], steps_max: u64) -> Verdict {
    let may_be_repeated = |operation: &&Operation| {
        let has_request_id = matches!(operation.call, Call::Start { .. } | Call::Signal { has_request_id: true, .. });
        has_request_id && operation.outcome != Outcome::Unknown
    };
    let repeats = operations.iter().filter(may_be_repeated);
    let firsts: Vec<_> =
        repeats.map(|operation| Operation { outcome: Outcome::Unknown, ..operation.clone() }).collect();
    check_with(operations, &firsts, steps_max)
}

/// `firsts`: first attempts of some of the operations, which may have happened before those.
fn check_with(operations: &[Operation], firsts: &[Operation], steps_max: u64) -> Verdict {
    // A read that was not answered says nothing and does nothing.
    let relevant = |operation: &&Operation| {
        let reads = matches!(operation.call, Call::Describe { .. } | Call::History { .. } | Call::List);
        !(reads && operation.outcome == Outcome::Unknown)
    };
    let mut operations: Vec<&Operation> = operations.iter().filter(relevant).chain(firsts).collect();
    if operations.len() > OPERATIONS_MAX {
        return Verdict::TooLong(format!("{} operations, more than {OPERATIONS_MAX}", operations.len()));
    }
    // Those that were answered first are tried first, those that were not answered last.
    operations.sort_by_key(|operation| (returned_at(operation), operation.called_at));
    let answered = operations.iter().filter(|operation| operation.outcome != Outcome::Unknown).count();
    let is_first_of = |first: &Operation, operation: &Operation| {
        let is_same = (first.called_at, &first.call) == (operation.called_at, &operation.call);
        is_same && operation.outcome != Outcome::Unknown
    };
    let then = |operation: &&Operation| {
        let is_first = firsts.iter().any(|first| std::ptr::eq(first, *operation));
        operations.iter().position(|other| is_first && is_first_of(operation, other))
    };
    let then = operations.iter().map(then).collect();
    let mut search = Search {
        operations,
        then,
        answered,
        tried: HashSet::new(),
        steps: 0,
        steps_max,
        path: Vec::new(),
        best: Best::default(),
    };
    match search.from(0, &Model::default()) {
        Found::Order => Verdict::Linearizable,
        Found::None => Verdict::Impossible(search.explain()),
        Found::GaveUp => Verdict::TooLong(format!("no order was found in {steps_max} steps; {}", search.explain())),
    }
}

/// Whether an operation with this outcome changes nothing, whenever it happens. A signal that is known already does now, but may have gone to
/// a later run; a completion that is answered with NotFound may have been done before.
fn never_changes(call: &Call, outcome: &Outcome) -> bool {
    match (call, outcome) {
        (_, Outcome::Unknown) | (Call::Complete { .. }, Outcome::Refused(Refusal::NotFound)) => false,
        (Call::Describe { .. } | Call::History { .. } | Call::List, _) | (_, Outcome::Refused(_)) => true,
        _ => false,
    }
}

fn returned_at(operation: &Operation) -> u64 {
    if operation.outcome == Outcome::Unknown { u64::MAX } else { operation.returned_at }
}

enum Found {
    Order,
    None,
    GaveUp,
}

/// The attempt in which most answered operations had their place.
#[derive(Default)]
struct Best {
    answered: usize,
    path: Vec<usize>,
    model: Model,
}

struct Search<'a> {
    operations: Vec<&'a Operation>,
    /// For a first attempt, the operation that it must happen before.
    then: Vec<Option<usize>>,
    answered: usize,
    /// Which operations had happened in which state: whatever comes after that was tried.
    tried: HashSet<(u128, Model)>,
    steps: u64,
    steps_max: u64,
    path: Vec<usize>,
    best: Best,
}

impl Search<'_> {
    fn from(&mut self, happened: u128, model: &Model) -> Found {
        let answered = self.path.iter().filter(|at| self.operations[**at].outcome != Outcome::Unknown).count();
        if answered > self.best.answered || self.best.path.is_empty() {
            self.best = Best { answered, path: self.path.clone(), model: model.clone() };
        }
        if answered == self.answered {
            return Found::Order;
        }
        if !self.tried.insert((happened, model.clone())) {
            return Found::None;
        }
        let candidates = self.candidates(happened);
        let mut ways = Vec::new();
        for at in candidates {
            self.steps += 1;
            if self.steps > self.steps_max {
                return Found::GaveUp;
            }
            let Operation { call, outcome, .. } = self.operations[at];
            let after = model.after(call, outcome);
            if never_changes(call, outcome) && after.as_slice() == std::slice::from_ref(model) {
                // So it may as well be now as later.
                ways = vec![(at, after)];
                break;
            }
            ways.push((at, after));
        }
        for (at, after) in ways {
            let is_unknown = self.operations[at].outcome == Outcome::Unknown;
            // One without an answer that changes nothing need not have happened.
            for next in after.iter().filter(|next| !(is_unknown && *next == model)) {
                self.path.push(at);
                let found = self.from(happened | 1 << at, next);
                self.path.pop();
                if !matches!(found, Found::None) {
                    return found;
                }
            }
        }
        Found::None
    }

    /// What may be next: everything that was called before all that has not happened yet was answered.
    fn candidates(&self, happened: u128) -> Vec<usize> {
        let waiting = || (0..self.operations.len()).filter(|at| happened & (1 << at) == 0);
        let first_return = waiting().map(|at| returned_at(self.operations[at])).min().unwrap_or(u64::MAX);
        let is_late = |at: &usize| self.then[*at].is_some_and(|then| happened & (1 << then) != 0);
        waiting().filter(|at| self.operations[*at].called_at <= first_return && !is_late(at)).collect()
    }

    fn explain(&self) -> String {
        let Best { path, model, .. } = &self.best;
        let happened = path.iter().fold(0, |happened, at| happened | 1u128 << at);
        let line = |at: usize| {
            let Operation { called_at, by, call, outcome, .. } = self.operations[at];
            let returned_at = match outcome {
                Outcome::Unknown => "...".to_owned(),
                _ => self.operations[at].returned_at.to_string(),
            };
            format!("    {called_at}..{returned_at} {by}: {call:?} -> {outcome:?}")
        };
        let mut lines = vec!["the longest order that makes sense:".to_owned()];
        lines.extend(path.iter().map(|at| line(*at)));
        lines.push(format!("  leads to: {}", model.summary()));
        lines.push("  where none of these can follow:".to_owned());
        lines.extend(self.candidates(happened).into_iter().map(line));
        let mut left: Vec<usize> = (0..self.operations.len()).filter(|at| happened & (1 << at) == 0).collect();
        left.sort_by_key(|at| self.operations[*at].called_at);
        lines.push(format!("  {} of {} operations are left:", left.len(), self.operations.len()));
        lines.extend(left.into_iter().map(line));
        lines.join("\n")
    }
}
