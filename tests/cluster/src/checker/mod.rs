//! Whether what callers saw of a workflow id can be explained at all: linearizability.
//!
//! Every recorded operation must have happened at one moment between its call and its answer, in an order in which a single server
//! without any failure would have given the same answers. An operation whose answer was lost may have happened at any moment after
//! its call, or never. Workflow ids do not influence each other, so each one's history is checked by itself (linearizability is local:
//! Herlihy and Wing, 1990) and stays short.
//!
//! The search is Wing and Gong's (1993) with Lowe's memory of what was tried before (2017): [`search`]. What a single server answers is
//! [`model`].

mod model;
mod search;

#[cfg(test)]
mod generated;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use model::SignalNumber;
pub(crate) use model::{Call, Conflict, Operation, Outcome, Refusal, RequestId, Reuse, RunNumber, Status};
pub(crate) use search::{STEPS_MAX, Verdict, check, check_with_repeats};
