//! State machines of their own beside workflows: the lead treats all of them alike.

use everlog_kernel::{
    ActivityExecutionCommand, ActivityExecutions, BatchJob, BatchJobCommand, Context, EntityKind, Rejection, RunId,
    Schedule, ScheduleCommand, Standing, Time, Transition, activity_execution, batch_job, schedule,
};
use everlog_model::RunView;

/// A state machine, or the place of one that is not there.
pub(crate) enum Machine {
    Schedule(Box<Schedule>),
    BatchJob(Box<BatchJob>),
    Activity(Box<ActivityExecutions>),
}

/// What is known of a run of a machine: its transitions are counted where a workflow's events are.
fn view((run_id, transition_count, is_open): (RunId, i64, bool)) -> RunView {
    RunView { run_id, next_event_id: transition_count, is_open, ..RunView::default() }
}

/// A command to a state machine.
pub(crate) enum MachineCommand {
    Schedule(ScheduleCommand),
    BatchJob(BatchJobCommand),
    Activity(ActivityExecutionCommand),
}

impl Machine {
    /// The place of one. `None` if that is a workflow's.
    pub(crate) fn new(kind: EntityKind, id: &str) -> Option<Machine> {
        match kind {
            EntityKind::Workflow => None,
            EntityKind::Schedule => Some(Machine::Schedule(Box::new(Schedule::new(id)))),
            EntityKind::BatchJob => Some(Machine::BatchJob(Box::new(BatchJob::new(id)))),
            EntityKind::Activity => Some(Machine::Activity(Box::new(ActivityExecutions::new(id)))),
        }
    }

    /// Decides a command, as the kernel does, on the run that it names, where there may be several. It is for a machine of this kind: both
    /// come from the same id.
    pub(crate) fn decide(
        &mut self,
        run_id: Option<RunId>,
        command: MachineCommand,
        context: &mut Context<'_>,
    ) -> Result<Transition, Rejection> {
        match (self, command) {
            (Machine::Schedule(schedule), MachineCommand::Schedule(command)) => {
                schedule::decide(schedule, command, context)
            }
            (Machine::BatchJob(job), MachineCommand::BatchJob(command)) => batch_job::decide(job, command, context),
            (Machine::Activity(executions), MachineCommand::Activity(command)) => {
                activity_execution::decide(executions, run_id, command, context)
            }
            (Machine::Schedule(_) | Machine::BatchJob(_) | Machine::Activity(_), _) => {
                Err(Rejection::workflow_not_found())
            }
        }
    }

    /// Whether it is there.
    pub(crate) fn exists(&self) -> bool {
        match self {
            Machine::Schedule(schedule) => schedule.exists(),
            Machine::BatchJob(job) => job.exists(),
            Machine::Activity(executions) => executions.exists(),
        }
    }

    /// When it is to be woken next, and under which run id its wake stands; each run by itself, where there may be several.
    pub(crate) fn looks(&self) -> impl Iterator<Item = (RunId, Time)> {
        let (one, several) = match self {
            Machine::Schedule(schedule) => (schedule.next_look(), None),
            Machine::BatchJob(job) => (job.next_look(), None),
            Machine::Activity(executions) => (None, Some(executions.looks())),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }

    /// How it stands.
    pub(crate) fn standing(&self) -> Standing {
        match self {
            Machine::Schedule(schedule) => schedule.standing(),
            Machine::BatchJob(job) => job.standing(),
            Machine::Activity(executions) => executions.standing(),
        }
    }

    /// Whether it may have a run that is not in memory.
    pub(crate) fn lacks(&self, run_id: RunId) -> bool {
        match self {
            Machine::Schedule(_) | Machine::BatchJob(_) => false,
            Machine::Activity(executions) => !executions.has(run_id),
        }
    }

    /// Takes in runs that were read.
    pub(crate) fn merge(&mut self, found: Machine) {
        if let (Machine::Activity(executions), Machine::Activity(found)) = (self, found) {
            executions.merge(*found);
        }
    }

    /// Drops runs from memory that have ended before the current one. Their rows have them.
    pub(crate) fn forget_closed(&mut self) {
        if let Machine::Activity(executions) = self {
            executions.forget_closed();
        }
    }

    /// What those hear who wait for a run to change.
    pub(crate) fn views(&self) -> impl Iterator<Item = RunView> {
        let executions = match self {
            Machine::Activity(executions) => Some(executions.views().map(view)),
            Machine::Schedule(_) | Machine::BatchJob(_) => None,
        };
        executions.into_iter().flatten()
    }

    /// The same of one run, or of the current one.
    pub(crate) fn view(&self, run_id: Option<RunId>) -> Option<RunView> {
        match self {
            Machine::Activity(executions) => executions.view(run_id).map(view),
            Machine::Schedule(_) | Machine::BatchJob(_) => None,
        }
    }

    /// Rough size in memory, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Machine::Schedule(schedule) => schedule.memory_bytes(),
            Machine::BatchJob(job) => job.memory_bytes(),
            Machine::Activity(executions) => executions.memory_bytes(),
        }
    }
}

impl MachineCommand {
    /// What it is called in logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            MachineCommand::Schedule(command) => command.name(),
            MachineCommand::BatchJob(command) => command.name(),
            MachineCommand::Activity(command) => command.name(),
        }
    }
}

/// What an entity of a kind is called in messages.
pub(crate) fn name(kind: EntityKind) -> &'static str {
    match kind {
        EntityKind::Workflow => "workflow",
        EntityKind::Schedule => "schedule",
        EntityKind::BatchJob => "batch job",
        EntityKind::Activity => "activity",
    }
}
