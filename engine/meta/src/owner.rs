//! Keeps the meta group open.

use std::sync::Arc;
use std::time::Duration;

use everlog_raft::{GroupSlot, Leadership, Node, StopReason};

/// How long until a group that died is opened again: at first, and at most.
const REOPEN_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Opens the meta group again whenever its Raft core dies, until it is shut down or an engine fails.
pub async fn keep_open(node: Arc<Node>, slot: GroupSlot) {
    let mut wait = REOPEN_WAIT.0;
    // The group that is in the slot has stopped, and could not be opened.
    let mut is_closed = false;
    loop {
        let mut leadership = slot.read().leadership();
        let stopped = leadership.wait_for(|now| matches!(now, Leadership::Stopped { .. })).await.map(|now| *now);
        match stopped {
            Ok(Leadership::Stopped { reason: StopReason::Shutdown | StopReason::EngineFailed }) => return,
            // Nothing has gone wrong, and the core is closed until it is opened again.
            Ok(Leadership::Stopped { reason: StopReason::Seeding }) if !is_closed => {}
            _ => {
                if !is_closed {
                    tracing::error!("the Raft group of the metadata has died");
                }
                tokio::time::sleep(wait).await;
                wait = (2 * wait).min(REOPEN_WAIT.1);
            }
        }
        drop(leadership);
        let group = slot.read().id();
        match node.reopen_group(group).await {
            Ok(group) => {
                *slot.write() = group;
                is_closed = false;
            }
            Err(error) => {
                tracing::error!(%error, "the Raft group of the metadata cannot be opened");
                is_closed = true;
            }
        }
    }
}
