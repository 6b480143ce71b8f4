//! One owner per partition: it holds the Raft group and the loop, and rebuilds whichever of them dies.
//!
//! A partition must not live on as half of itself: a Raft group that leads while nobody decides would keep other nodes from taking
//! over, and callers would wait for ever.

use everlog_model::limits;
use std::sync::Arc;
use std::time::Duration;

use everlog_raft::{GroupSlot, Node, NodeError};
use futures::FutureExt;

use super::event_loop::{End, EventLoop};
use super::status::Status;

/// Runs a partition until it is told to stop.
pub(crate) async fn run(mut event_loop: EventLoop, slot: GroupSlot, node: Arc<Node>) {
    let mut wait = limits::LEAD_AGAIN_WAIT.1;
    loop {
        let group = slot.read().clone();
        let partition = group.id();
        let ended = std::panic::AssertUnwindSafe(event_loop.run(&group)).catch_unwind().await;
        drop(group);
        let reason = match ended {
            Ok(End::Stopped) => break,
            Ok(End::Seeding) => {
                event_loop.status.send_replace(Status::NotServing("its rows are being replaced".to_owned()));
                // At once: the core is closed until then, and nothing has gone wrong.
                match reopen(&node, &slot).await {
                    Ok(()) => continue,
                    Err(error) => format!("its rows could not be replaced: {error}"),
                }
            }
            Ok(End::GroupStopped(reason)) => {
                tracing::error!(%partition, reason, "the Raft group of a partition has died");
                format!("its Raft group has died: {reason}")
            }
            Err(_) => {
                tracing::error!(%partition, "the loop of a partition panicked");
                "its loop panicked".to_owned()
            }
        };
        event_loop.status.send_replace(Status::NotServing(reason));
        if event_loop.pause_stopped(wait).await {
            break;
        }
        wait = (2 * wait).min(limits::FAILED_LEAD_WAIT_MAX);
        if reopen(&node, &slot).await.is_ok() {
            wait = wait.max(Duration::from_secs(1));
        }
    }
    if let Some(stopped) = event_loop.stopped.take() {
        // Whoever stopped the partition may have gone.
        let _ = stopped.send(());
    }
}

/// Opens a group again whose core is closed.
async fn reopen(node: &Node, slot: &GroupSlot) -> Result<(), NodeError> {
    let partition = slot.read().id();
    let group = node
        .reopen_group(partition)
        .await
        .inspect_err(|error| tracing::error!(%partition, %error, "the Raft group of a partition cannot be opened"))?;
    *slot.write() = group;
    Ok(())
}
