//! What the driver of a move asks of a partition: see [`everlog_model::Step`] for the order, and `lead/moves.rs` for what the partition does.
//!
//! Everything here may be asked again, and is answered once it is durable. [`CallError::NotDone`] says that it may be done later, here or where
//! the partition is led then; [`CallError::Failed`] that it must not be done, because the step is somewhere else.

use std::time::Duration;

use everlog_kernel::{NamespaceId, Time};
use everlog_model::{CallError, Moves, SlotSet, Step, StepRecord, WorkflowRef, limits};
use everlog_raft::Group;
use everlog_storage::blocking;
use tokio::sync::oneshot;

use super::Partition;
use super::lead::moves::{StepCommand, StepJob, StepReply};
use super::load::Rows;
use super::moving::{self, Cursor, Decision, Page, Plan};

/// How long to wait for a clock that is a little behind.
const CLOCK_WAIT: Duration = Duration::from_millis(2);

impl Partition {
    /// The first of these slots of a namespace whose rows have no more than about `bytes_max` together, for a step that is to take them
    /// away. One with rows is among them at least; slots without any come along.
    ///
    /// # Errors
    ///
    /// As all of these.
    pub async fn plan_step(
        &self,
        namespace_id: NamespaceId,
        slots: SlotSet,
        bytes_max: usize,
    ) -> Result<Plan, CallError> {
        let StepReply::Time(time) = self.ask_step(StepCommand::TellTime).await? else { return Err(unexpected()) };
        let slots = self.read_rows(move |group| moving::plan(group, namespace_id, &slots, bytes_max)).await?;
        Ok(Plan { slots, time })
    }

    /// Asks the target to be ready for the rows of a step. `time` is that of the source's [`Plan`].
    pub async fn begin_import(&self, step: Step, time: Time) -> Result<(), CallError> {
        self.do_step(StepCommand::BeginImport(step, time)).await
    }

    /// Has the source change nothing any more in the slots of a step. Returns its time: nothing in them is later.
    pub async fn freeze(&self, step: Step) -> Result<Time, CallError> {
        match self.ask_step(StepCommand::Freeze(step)).await? {
            StepReply::Time(time) => Ok(time),
            _ => Err(unexpected()),
        }
    }

    /// Reads a page of a frozen step from the source: the first one, or the one behind `after`.
    pub async fn export(&self, step: Step, after: Option<Cursor>) -> Result<Page, CallError> {
        let command = StepCommand::Export { step: step.clone(), with_journal: after.is_none() };
        let StepReply::Journal(journal) = self.ask_step(command).await? else { return Err(unexpected()) };
        let read = move |group: &Group| moving::export(group, &step, after.as_ref(), limits::MOVE_PAGE_BYTES_MAX);
        let mut page = self.read_rows(read).await?;
        page.set_journal(journal);
        Ok(page)
    }

    /// Puts a page into the target. Pages come in order; the last one makes it complete.
    pub async fn import(&self, step: Step, page: Page) -> Result<(), CallError> {
        self.do_step(StepCommand::Import(step, Box::new(page))).await
    }

    /// Gives the slots of a step to the target, which has all of their rows. `time` is when the source was frozen. Once this was answered, the
    /// decision stands.
    pub async fn activate(&self, step: Step, time: Time) -> Result<Decision, CallError> {
        let mut waited = Duration::ZERO;
        loop {
            match self.decide_step(StepCommand::Activate(step.clone(), time)).await {
                // Mostly the two clocks are a little apart.
                Err(CallError::NotDone(_)) if waited < limits::MOVE_CLOCK_WAIT_MAX => {
                    tokio::time::sleep(CLOCK_WAIT).await;
                    waited += CLOCK_WAIT;
                }
                decided => return decided,
            }
        }
    }

    /// Has the target refuse a step, unless it has the slots already: only then may the source be unfrozen.
    pub async fn refuse(&self, step: Step) -> Result<Decision, CallError> {
        self.decide_step(StepCommand::Refuse(step)).await
    }

    /// Gives the slots of a step back to the source. Only after the target has refused.
    pub async fn unfreeze(&self, step: Step) -> Result<(), CallError> {
        self.do_step(StepCommand::Unfreeze(step)).await
    }

    /// Takes the slots of a step away from the source, and has it delete their rows. Only after the target has them.
    pub async fn release(&self, step: Step) -> Result<(), CallError> {
        self.do_step(StepCommand::Release(step)).await
    }

    /// Whether the rows are deleted of a step that was released, or refused.
    pub async fn is_released(&self, step: Step) -> Result<bool, CallError> {
        match self.ask_step(StepCommand::TellWhetherClean(step)).await? {
            StepReply::IsClean(is_clean) => Ok(is_clean),
            _ => Err(unexpected()),
        }
    }

    /// Forgets a step that is over, and all earlier ones of its namespace. Only when everybody knows where its slots are: whoever looks for
    /// them here afterwards is believed.
    pub async fn forget(&self, step: Step) -> Result<(), CallError> {
        self.do_step(StepCommand::Forget(step)).await
    }

    /// The steps that the partition has rows of.
    pub async fn steps(&self) -> Result<Vec<StepRecord>, CallError> {
        match self.ask_step(StepCommand::TellSteps).await? {
            StepReply::Steps(steps) => Ok(steps),
            _ => Err(unexpected()),
        }
    }

    async fn do_step(&self, command: StepCommand) -> Result<(), CallError> {
        match self.ask_step(command).await? {
            StepReply::Done => Ok(()),
            _ => Err(unexpected()),
        }
    }

    async fn decide_step(&self, command: StepCommand) -> Result<Decision, CallError> {
        match self.ask_step(command).await? {
            StepReply::Decided(true) => Ok(Decision::Owned),
            StepReply::Decided(false) => Ok(Decision::Refused),
            _ => Err(unexpected()),
        }
    }

    async fn ask_step(&self, command: StepCommand) -> Result<StepReply, CallError> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let job = StepJob { command, reply };
            self.steps.send(job).await.map_err(|_| CallError::NotDone("the partition is stopping".to_owned()))?;
            answer.await.map_err(|_| CallError::Unavailable("the partition is led anew".to_owned()))?
        };
        let timed_out = |_| CallError::Unavailable(format!("partition {} does not answer", self.id));
        tokio::time::timeout(limits::MOVE_STEP_TIME_MAX, asked).await.map_err(timed_out)?
    }

    /// Reads rows on a thread for blocking work.
    async fn read_rows<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Group) -> Result<T, String> + Send + 'static,
    ) -> Result<T, CallError> {
        let group = self.group();
        let read = blocking::spawn(move || read(&group)).await;
        let read = read.map_err(|error| CallError::Failed(format!("reading rows of a move: {error}")))?;
        read.map_err(CallError::Corrupt)
    }

    /// What a caller is told who did not find what was there a moment ago: it may have moved.
    pub(crate) async fn unless_moved<T>(
        &self,
        address: &WorkflowRef,
        found: Result<T, CallError>,
    ) -> Result<T, CallError> {
        let Err(error) = found else { return found };
        let (namespace_id, slot) = (address.namespace.id, address.slot());
        match self.read_rows(read_moves).await {
            Ok(moves) if moves.is_closed(namespace_id, slot) => {
                Err(CallError::NotDone("its slot has moved to another partition".to_owned()))
            }
            _ => Err(error),
        }
    }
}

fn unexpected() -> CallError {
    CallError::Failed("an unexpected reply about a step".to_owned())
}

/// What the rows of a partition say of moves.
pub(crate) fn read_moves(rows: &impl Rows) -> Result<Moves, String> {
    use everlog_storage::state::Direction;
    // At any time there are very few, and one for each namespace that has moved.
    Moves::read(|range| rows.scan(range, Direction::Ascending, usize::MAX))
}
