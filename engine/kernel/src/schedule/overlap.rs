//! What becomes of starts that are due, by their overlap policies: a pure function, as in Temporal's buffer.go.

use everlog_proto::api::enums::v1::ScheduleOverlapPolicy as Policy;

use super::state::{End, Start};

/// What is to be done with a buffer of starts.
#[derive(Debug, PartialEq)]
pub(super) struct Sorted {
    /// Starts that others may overlap.
    pub(super) overlapping: Vec<Start>,
    /// The start whose turn it is, of all others.
    pub(super) next: Option<Start>,
    /// What waits on.
    pub(super) buffered: Vec<Start>,
    /// What is to happen to those that run.
    pub(super) end_running: End,
    pub(super) skipped: i64,
}

/// Sorts a buffer. `is_running` tells whether a workflow runs that is not to be overlapped.
pub(super) fn sort(buffer: Vec<Start>, is_running: bool, policy_of: impl Fn(&Start) -> Policy) -> Sorted {
    let mut sorted =
        Sorted { overlapping: Vec::new(), next: None, buffered: Vec::new(), end_running: End::Not, skipped: 0 };
    for start in buffer {
        let policy = policy_of(&start);
        if policy == Policy::AllowAll {
            sorted.overlapping.push(start);
        } else if !is_running && sorted.next.is_none() {
            sorted.next = Some(start);
        } else {
            match policy {
                Policy::BufferOne if sorted.buffered.is_empty() => sorted.buffered.push(start),
                Policy::BufferAll => sorted.buffered.push(start),
                // What is only about to start is replaced.
                Policy::CancelOther | Policy::TerminateOther if !is_running => sorted.next = Some(start),
                Policy::CancelOther => {
                    sorted.end_running = sorted.end_running.max(End::Cancel);
                    sorted.buffered.push(start);
                }
                Policy::TerminateOther => {
                    sorted.end_running = End::Terminate;
                    sorted.buffered.push(start);
                }
                _ => sorted.skipped += 1,
            }
        }
    }
    if sorted.end_running != End::Not {
        // They would be ended at once.
        sorted.overlapping.clear();
    }
    sorted
}
