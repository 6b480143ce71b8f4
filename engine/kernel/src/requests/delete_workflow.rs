//! A request to delete a run: what is known of it, and that it ever was.

use std::time::Duration;

use crate::Rejection;
use crate::command::Reply;
use crate::terminate::terminate;
use crate::txn::Txn;
use crate::workflow_task::SERVER_IDENTITY;

/// How long an open run is kept once it is terminated, so that whoever waits for its end is told.
const KEPT_AFTER_END: Duration = Duration::from_millis(500);

/// Has the run deleted: at once if it is closed, and otherwise soon after its end. The deletion is what follows from the time that is set
/// here, as it does at the end of the namespace's retention. Nobody archives it first.
pub(crate) fn apply(txn: &mut Txn<'_>) -> Result<Reply, Rejection> {
    let mut delete_time = txn.now();
    if txn.run.is_open() {
        terminate(txn, "Delete workflow execution".to_owned(), None, SERVER_IDENTITY.to_owned(), Vec::new());
        delete_time = delete_time.plus(KEPT_AFTER_END);
    }
    txn.run.state.delete_time = Some(delete_time);
    txn.run.state.deletion_asked = true;
    txn.touch();
    Ok(Reply::Done)
}
