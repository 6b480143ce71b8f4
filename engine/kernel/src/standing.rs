//! Whether time has to wait, where it is skipped: what of an entity is in somebody's hands at the moment, and when it goes on by itself.
//!
//! A server for tests passes over time in which nothing happens. It must not do so while a worker is at work on a workflow or an activity:
//! that takes as long as it takes. What waits for a time, a retry that backs off among it, is what time is skipped to.

use everlog_proto::api::enums::v1::NexusOperationCancellationState as CancelState;

use crate::state::{Activity, NexusOperation};
use crate::{Run, Time, Workflow};

/// Where an entity stands, or several of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Steps that the server or a workflow's code is about to make, which take no time: workflow tasks, messages.
    pub steps: usize,
    /// What takes time of its own: attempts of activities and calls of Nexus operations that a worker has, or waits for.
    pub calls: usize,
    /// When the next thing happens by itself.
    pub next: Option<Time>,
}

impl Standing {
    /// Of both.
    #[must_use]
    pub fn and(self, other: Standing) -> Standing {
        Standing {
            steps: self.steps + other.steps,
            calls: self.calls + other.calls,
            next: self.next.into_iter().chain(other.next).min(),
        }
    }
}

impl Workflow {
    /// Of its runs. That closed ones are deleted in time is nothing that anybody waits for.
    pub fn standing(&self) -> Standing {
        self.runs.values().map(|run| run.standing()).fold(Standing::default(), Standing::and)
    }
}

impl Run {
    fn standing(&self) -> Standing {
        if !self.is_open() {
            let is_telling = !self.children.is_empty() && !self.state.is_remains;
            return Standing { steps: usize::from(is_telling), ..Standing::default() };
        }
        let activities = self.activities.values().filter(|activity| activity.is_in_hand()).count();
        let operations = self.nexus_operations.values().map(|operation| operation.calls()).sum::<usize>();
        Standing {
            steps: usize::from(self.state.workflow_task.is_some()),
            calls: activities + operations,
            next: self.next_deadline(),
        }
    }
}

impl Activity {
    /// Whether a worker has it, or may take it.
    pub(crate) fn is_in_hand(&self) -> bool {
        self.started.is_some() || self.is_ready()
    }
}

impl NexusOperation {
    /// How many calls of it go on. One that goes on by itself needs none.
    fn calls(&self) -> usize {
        let is_called = !self.is_started() && !self.is_backing_off;
        let is_canceled = self.cancel.as_ref().is_some_and(|cancel| cancel.state == CancelState::Scheduled);
        usize::from(is_called) + usize::from(is_canceled)
    }
}
