//! Runs whose retention is over in a namespace that archives them: they stay until somebody has done that.
//!
//! ```text
//!   closed ──retention──▶ expired ──Effect::Archive──▶ whoever archives ──DeleteWorkflow──▶ gone
//!                            │  ▲
//!                            └──┘ nothing is heard for a while: asked again
//! ```
//!
//! Asking writes nothing. The wake row that has brought it about stays where it is, so that each new leader asks anew; and the longer it has
//! been asked in vain, the longer are the pauses, so that an archive that is away for days costs little.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::transition::Effect;
use crate::txn::Txn;
use crate::{RunId, Time, Workflow, runs, visibility};

/// How soon it is asked again at first.
const WAIT_MIN: Duration = Duration::from_secs(10);

/// The longest pause.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// What an archive gets of a run, besides its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// How many events there are, and one more.
    pub next_event_id: i64,
    /// When the run closed.
    pub close_time: Time,
    /// What lists show of it: an encoded `WorkflowExecutionInfo`.
    pub record: Bytes,
}

/// A run that may be archived: one whose retention is over, and that nobody wants deleted without that.
pub fn expired(workflow: &Workflow, run_id: RunId, now: Time) -> Option<Expired> {
    let run = workflow.run(Some(run_id)).filter(|run| runs::is_expired(run, now) && !run.state.deletion_asked)?;
    Some(Expired {
        next_event_id: run.state.next_event_id,
        close_time: run.state.close_time?,
        record: visibility::record(run, &workflow.id).encode_to_vec().into(),
    })
}

/// Asks for the run to be archived, unless that was just done.
pub(crate) fn ask(txn: &mut Txn<'_>) {
    let now = txn.now();
    if txn.run.archive_again_at.is_some_and(|again| again > now) {
        return;
    }
    let overdue = txn.run.state.delete_time.map_or(Duration::ZERO, |due| now.since(due));
    txn.run.archive_again_at = Some(now.plus((overdue / 2).clamp(WAIT_MIN, WAIT_MAX)));
    let run_id = txn.run.id;
    txn.effects.push(Effect::Archive { run_id });
}
