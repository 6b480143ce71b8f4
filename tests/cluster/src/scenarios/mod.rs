//! What must hold of three nodes whatever the moment: one test each, in this order, on one cluster.

mod away;
mod command_line;
mod everywhere;
mod failover;
mod failures;
mod formation;
mod membership;
mod metadata;
mod moves;
mod new_disk;
mod placements;
mod reads;
mod recovery;
mod upgrade;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use everlog_proto::api::common::v1::WorkflowType;
use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;

use crate::client::{Client, Seen, duration, payloads, queue};
use crate::failure::Failure;
use crate::harness::Cluster;
use crate::program::Program;
use crate::record::Recorder;

pub(crate) use away::seeded;
pub(crate) use command_line::commands;
pub(crate) use everywhere::{namespaces, tasks, workflows};
pub(crate) use failover::fail_over;
pub(crate) use failures::{kills, quorum, wiped};
pub(crate) use formation::{any_order, restarted_while_forming};
pub(crate) use membership::{join_and_leave, one_grows};
pub(crate) use metadata::changed_once;
pub(crate) use moves::moves_under_load;
pub(crate) use new_disk::takes_the_place;
pub(crate) use placements::placed_anew;
pub(crate) use reads::while_cut_off;
pub(crate) use recovery::{one_is_left, two_are_left};
pub(crate) use upgrade::node_by_node;

/// How long something may take that nothing stands in the way of.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What the tests work with.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) seen: Arc<Seen>,
    pub(crate) binary: PathBuf,
    /// For more clusters.
    pub(crate) directory: PathBuf,
}

impl Stage {
    fn client(&self, namespace: &str) -> Result<Arc<Client>, Failure> {
        Ok(Arc::new(Client::new(&self.cluster.addresses(), namespace, &self.seen)?))
    }

    fn recorder() -> Arc<Recorder> {
        Arc::new(Recorder::new())
    }
}

/// A start of a program, under a request id that is the workflow's.
fn start_of(id: &str, task_queue: &str, program: &Program) -> StartWorkflowExecutionRequest {
    StartWorkflowExecutionRequest {
        workflow_id: id.to_owned(),
        workflow_type: Some(WorkflowType { name: "test".to_owned() }),
        task_queue: Some(queue(task_queue)),
        input: Some(payloads(program)),
        request_id: format!("{id}-start"),
        workflow_task_timeout: Some(duration(Duration::from_secs(3))),
        ..Default::default()
    }
}

/// Waits until a run has closed, and returns its last event's type.
async fn until_closed(
    client: &Client,
    node: usize,
    id: &str,
    run_id: &str,
) -> Result<everlog_proto::api::enums::v1::EventType, Failure> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut node = node;
    while tokio::time::Instant::now() < until {
        let execution = crate::client::run(id, run_id);
        match client.history_page(node, execution, Vec::new(), Some(Duration::from_secs(5))).await {
            Ok((events, _)) => {
                if let Some(last) = events.last() {
                    return Ok(last.event_type());
                }
            }
            Err(status) if crate::client::is_transient(&status) => {
                node = (node + 1) % client.nodes();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
    Err(Failure(format!("{id} does not end")))
}
