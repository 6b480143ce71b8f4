//! State machines of their own beside workflows: the lead treats all of them alike.

use everlog_kernel::{
    BatchJob, BatchJobCommand, Context, EntityKind, Rejection, RunId, Schedule, ScheduleCommand, Time, Transition,
    batch_job, schedule,
};

/// A state machine, or the place of one that is not there.
pub(crate) enum Machine {
    Schedule(Box<Schedule>),
    BatchJob(Box<BatchJob>),
}

/// A command to a state machine.
pub(crate) enum MachineCommand {
    Schedule(ScheduleCommand),
    BatchJob(BatchJobCommand),
}

impl Machine {
    /// The place of one. `None` if that is a workflow's.
    pub(crate) fn new(kind: EntityKind, id: &str) -> Option<Machine> {
        match kind {
            EntityKind::Workflow => None,
            EntityKind::Schedule => Some(Machine::Schedule(Box::new(Schedule::new(id)))),
            EntityKind::BatchJob => Some(Machine::BatchJob(Box::new(BatchJob::new(id)))),
        }
    }

    /// Decides a command, as the kernel does. It is for a machine of this kind: both come from the same id.
    pub(crate) fn decide(
        &mut self,
        command: MachineCommand,
        context: &mut Context<'_>,
    ) -> Result<Transition, Rejection> {
        match (self, command) {
            (Machine::Schedule(schedule), MachineCommand::Schedule(command)) => {
                schedule::decide(schedule, command, context)
            }
            (Machine::BatchJob(job), MachineCommand::BatchJob(command)) => batch_job::decide(job, command, context),
            (Machine::Schedule(_) | Machine::BatchJob(_), _) => Err(Rejection::workflow_not_found()),
        }
    }

    /// Whether it is there.
    pub(crate) fn exists(&self) -> bool {
        match self {
            Machine::Schedule(schedule) => schedule.exists(),
            Machine::BatchJob(job) => job.exists(),
        }
    }

    /// When it is to be woken next, and under which run id its wake stands.
    pub(crate) fn next_look(&self) -> Option<(RunId, Time)> {
        match self {
            Machine::Schedule(schedule) => schedule.next_look(),
            Machine::BatchJob(job) => job.next_look(),
        }
    }

    /// Rough size in memory, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Machine::Schedule(schedule) => schedule.memory_bytes(),
            Machine::BatchJob(job) => job.memory_bytes(),
        }
    }
}

impl MachineCommand {
    /// What it is called in logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            MachineCommand::Schedule(command) => command.name(),
            MachineCommand::BatchJob(command) => command.name(),
        }
    }
}

/// What an entity of a kind is called in messages.
pub(crate) fn name(kind: EntityKind) -> &'static str {
    match kind {
        EntityKind::Workflow => "workflow",
        EntityKind::Schedule => "schedule",
        EntityKind::BatchJob => "batch job",
    }
}
