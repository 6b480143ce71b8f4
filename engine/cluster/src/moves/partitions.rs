//! What partitions do in steps of moves, here and at other nodes.

use std::sync::Arc;

use everlog_kernel::Time;
use everlog_meta::Namespaces;
use everlog_model::{CallError, NodeId, SlotSet, Step, StepId, limits};
use everlog_partition::{Cursor, Decision, Page, Partition, Route, Router};
use everlog_proto::internal::{MoveAction, MoveStepRequest, MoveStepResponse};
use everlog_storage::GroupId;
use futures::FutureExt;
use futures::future::BoxFuture;
use prost::Message;

use super::StepPartitions;
use crate::wire::{metadata_from_wire, namespace_id};
use crate::{Nodes, Places};

/// The partitions of a cluster, as one node reaches them.
pub struct MovePartitions {
    /// The metadata.
    pub namespaces: Arc<Namespaces>,
    /// The way to partitions.
    pub router: Router,
    /// The other nodes, if there are any.
    pub nodes: Option<Arc<Nodes>>,
    /// Which nodes there should be.
    pub places: Option<Arc<Places>>,
}

impl StepPartitions for MovePartitions {
    fn ask(&self, request: MoveStepRequest) -> BoxFuture<'_, Result<MoveStepResponse, CallError>> {
        async move {
            match (self.router.route(GroupId(request.partition)), &self.nodes) {
                (Route::There(node), Some(nodes)) => nodes.move_step(node, request).await,
                _ => self.ask_here(request).await,
            }
        }
        .boxed()
    }

    fn have_all_seen(&self) -> BoxFuture<'_, bool> {
        async move {
            let (Some(nodes), Some(places)) = (&self.nodes, &self.places) else { return true };
            let members: Vec<NodeId> = places.picture().members().map(|(node, _)| node).collect();
            nodes.have_seen(members, self.namespaces.seen()).await
        }
        .boxed()
    }
}

impl MovePartitions {
    /// Has a partition do its part that is led here. A step that the metadata do not know is over: somebody was late.
    ///
    /// # Errors
    ///
    /// As those of the partition's own.
    pub async fn ask_here(&self, request: MoveStepRequest) -> Result<MoveStepResponse, CallError> {
        let seen = self.namespaces.until_seen(metadata_from_wire(request.seen.unwrap_or_default()));
        let late = |_| CallError::NotDone("the metadata has not come so far here".to_owned());
        tokio::time::timeout(limits::METADATA_WAIT_MAX, seen).await.map_err(late)?;
        let unreadable = || CallError::Failed("the request for a step of a move cannot be read".to_owned());
        let namespace_id = namespace_id(&request.namespace_id).map_err(|_| unreadable())?;
        let slots = SlotSet::decode(&request.slots).ok_or_else(unreadable)?;
        let (id, from, to) = (StepId(request.step_id), GroupId(request.from), GroupId(request.to));
        let step = Step { id, namespace_id, slots, from, to };
        let action = request.action();
        if action != MoveAction::Plan && !self.namespaces.knows_step(namespace_id, id) {
            return Err(CallError::Failed(format!("step {id} of a move is over")));
        }
        let Route::Here(partition) = self.router.route(GroupId(request.partition)) else {
            return Err(CallError::NotDone("another node leads the partition".to_owned()));
        };
        done(&partition, action, step, request).await
    }
}

async fn done(
    partition: &Partition,
    action: MoveAction,
    step: Step,
    request: MoveStepRequest,
) -> Result<MoveStepResponse, CallError> {
    let nothing = MoveStepResponse::default();
    let time = Time(request.time_ns);
    let decided = |decision: Decision| MoveStepResponse { is_owned: decision == Decision::Owned, ..nothing.clone() };
    Ok(match action {
        MoveAction::Unknown => return Err(CallError::Failed("nothing that this version knows".to_owned())),
        MoveAction::Plan => {
            let bytes_max = usize::try_from(request.bytes_max).unwrap_or(usize::MAX);
            let plan = partition.plan_step(step.namespace_id, step.slots, bytes_max).await?;
            MoveStepResponse { slots: plan.slots.encode().into(), time_ns: plan.time.0, ..nothing }
        }
        MoveAction::Freeze => MoveStepResponse { time_ns: partition.freeze(step).await?.0, ..nothing },
        MoveAction::Export => {
            let after = (!request.after.is_empty()).then_some(Cursor(request.after));
            let page = partition.export(step, after).await?;
            let next = page.next().map(|Cursor(next)| next).unwrap_or_default();
            MoveStepResponse { page: page.encode_to_vec().into(), next, ..nothing }
        }
        MoveAction::BeginImport => partition.begin_import(step, time).await.map(|()| nothing)?,
        MoveAction::Import => {
            let page = Page::decode(request.page);
            let page = page.map_err(|error| CallError::Failed(format!("a page of rows cannot be read: {error}")))?;
            partition.import(step, page).await.map(|()| nothing)?
        }
        MoveAction::Activate => decided(partition.activate(step, time).await?),
        MoveAction::Refuse => decided(partition.refuse(step).await?),
        MoveAction::Unfreeze => partition.unfreeze(step).await.map(|()| nothing)?,
        MoveAction::Release => partition.release(step).await.map(|()| nothing)?,
        MoveAction::IsReleased => MoveStepResponse { is_released: partition.is_released(step).await?, ..nothing },
        MoveAction::Forget => partition.forget(step).await.map(|()| nothing)?,
    })
}
