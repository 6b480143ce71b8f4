//! The rows of a run that do not lie with it: its wake, its tasks, and what lists show of it.
//!
//! They follow from what lies with the run, so that whoever moves or deletes a run as a whole need not look for them. That they do is what
//! every transition sees to (`txn/finish.rs`, and the `rows.rs` of the state machines beside workflows).

use crate::rows::RowKey;
use crate::state::Run;
use crate::transition::VisibilityKey;
use crate::{ActivityExecutions, BatchJob, RunId, Schedule, Time};

impl Run {
    /// The keys of the run's rows in other tables, if it was just read from its rows. None, if it is only there because others hold its history.
    pub fn secondary_rows(&self) -> Vec<RowKey> {
        if self.state.is_remains {
            return Vec::new();
        }
        let close_time = self.state.close_time.unwrap_or(Time::MAX);
        let listed = VisibilityKey { close_time, start_time: self.info.start_time, run_id: self.id };
        let wake = self.state.wake_at.map(|at| RowKey::Wake(at, self.id));
        let workflow_task = self.workflow_task_row.iter().map(|(key, _)| RowKey::Task(key.clone()));
        let activities = self
            .activities
            .values()
            .filter_map(|activity| Some(RowKey::Task(self.activity_task_key(activity, activity.task_row_time?))));
        std::iter::once(RowKey::Visibility(listed)).chain(wake).chain(workflow_task).chain(activities).collect()
    }
}

impl Schedule {
    /// The keys of its rows in other tables. None, if it is not there.
    pub fn secondary_rows(&self) -> Vec<RowKey> {
        self.live.as_ref().map_or_else(Vec::new, |live| live.secondary_rows().collect())
    }
}

impl BatchJob {
    /// The keys of its rows in other tables. None, if it is not there.
    pub fn secondary_rows(&self) -> Vec<RowKey> {
        self.live.as_ref().map_or_else(Vec::new, |live| live.secondary_rows().collect())
    }
}

impl ActivityExecutions {
    /// The keys of a run's rows in other tables, if it was just read from its rows. None, if it is not there.
    pub fn secondary_rows(&self, run_id: RunId) -> Vec<RowKey> {
        self.runs.get(&run_id).map_or_else(Vec::new, |run| run.secondary_rows().collect())
    }
}
