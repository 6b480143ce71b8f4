//! Asks other nodes.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use everlog_kernel::deployment::VersionQueue;
use everlog_kernel::{NamespaceId, Rejection};
use everlog_matching::nexus::{NexusQueue, NexusReply, NotAnswered};
use everlog_matching::{QueueStats, Source};
use everlog_model::{CallError, NodeId, QueueId, Share, limits};
use everlog_partition::TaskRows;
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::enums::v1::ResourceExhaustedCause;
use everlog_proto::api::nexus::v1 as nexus;
use everlog_proto::api::worker::v1::WorkerHeartbeat;
use everlog_proto::internal::{
    AnnounceRequest, DispatchNexusRequest, Empty, EndPollsRequest, EnrolRequest, EnrolResponse, InternalClient,
    LedGroup, MoveStepRequest, MoveStepResponse, NodeReport, OfferRequest, RecentPollerRequest, RegisterWorkerRequest,
    SteerRequest, TaskPageRequest, VisibilityRequest, VisibleRun, Wanted, WorkersHeardRequest,
};
use everlog_raft::{ChainPosition, Group};
use everlog_storage::GroupId;
use everlog_visibility::{Ask, ByStatus, Page, Position};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use http::{Request, Response};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::Peers;
use crate::book::{LeadBook, Sender};
use crate::freshness::{Freshness, ReadBound};
use crate::operations::Leads;
use crate::wire::{
    bytes_of, error_from_status, lead_to_wire, metadata_from_wire, metadata_to_wire, nexus_reply_from_wire,
};

/// How much later than a worker's time is up another node may say so.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// The other nodes of the cluster, as one of them sees them.
pub struct Nodes {
    me: NodeId,
    /// Another number at each start of this node.
    incarnation: u64,
    peers: Arc<dyn Peers>,
    /// The task rows of this node, which the others ask for.
    pub(crate) rows: TaskRows,
    pub(crate) book: LeadBook,
    leads: OnceLock<Arc<Leads>>,
    freshness: Freshness,
}

/// The way to one node, as generated clients want it.
#[derive(Clone)]
pub(crate) struct Way {
    node: NodeId,
    peers: Arc<dyn Peers>,
}

impl Service<Request<Body>> for Way {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.peers.call(self.node, request).map(Ok).boxed()
    }
}

/// Waits for the answer of another node, but not for ever.
pub(crate) async fn answered<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(limits::INTERNAL_CALL_TIME_MAX, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::unavailable("another node did not answer in time")),
    }
}

/// Which runs a list or count asks of other nodes.
#[derive(Clone, Debug)]
pub struct AskedRuns {
    /// The namespace.
    pub namespace_id: NamespaceId,
    /// What is asked for.
    pub ask: Ask,
    /// Who may answer.
    pub bound: ReadBound,
}

impl AskedRuns {
    fn of(&self, shares: &[Share], after: Option<Position>, limit: usize) -> VisibilityRequest {
        let wanted = match &self.ask {
            Ask::Query(query) => Wanted::Query(query.clone()),
            Ask::Schedules(query) => Wanted::Schedules(query.clone()),
            Ask::BatchJobs(query) => Wanted::BatchJobs(query.clone()),
            Ask::Activities(query) => Wanted::Activities(query.clone()),
            Ask::Open(request) => Wanted::Open(request.encode_to_vec().into()),
            Ask::Closed(request) => Wanted::Closed(request.encode_to_vec().into()),
        };
        VisibilityRequest {
            namespace_id: bytes_of(self.namespace_id.0),
            partitions: shares.iter().map(|share| share.partition.0).collect(),
            slots: shares.iter().filter_map(|share| Some(share.slots.as_ref()?.encode().into())).collect(),
            wanted: Some(wanted),
            after: after.map(|position| position.to_vec().into()).unwrap_or_default(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            stale_max_ms: match self.bound {
                ReadBound::Stale(bound) => u64::try_from(bound.as_millis()).unwrap_or(u64::MAX),
                ReadBound::Lease | ReadBound::Quorum => 0,
            },
            asks_quorum: self.bound == ReadBound::Quorum,
        }
    }
}

impl Nodes {
    /// The nodes behind `peers`, seen by `me`, which has these task rows.
    pub fn new(me: NodeId, peers: Arc<dyn Peers>, rows: TaskRows) -> Arc<Nodes> {
        let mut incarnation = [0; 8];
        getrandom::fill(&mut incarnation).expect("the system has random numbers once it has started");
        Arc::new(Nodes {
            me,
            incarnation: u64::from_ne_bytes(incarnation),
            peers,
            rows,
            book: LeadBook::default(),
            leads: OnceLock::new(),
            freshness: Freshness::default(),
        })
    }

    /// Names the leads of this node, of which the others hear whether it takes more of them.
    pub fn set_leads(&self, leads: &Arc<Leads>) {
        // They are named once.
        let _ = self.leads.set(Arc::clone(leads));
    }

    /// What a node says of itself.
    pub(crate) async fn report(&self, node: NodeId, time_max: Duration) -> Result<NodeReport, Status> {
        let mut client = self.client(node);
        match tokio::time::timeout(time_max, client.report(Empty {})).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::unavailable(format!("no answer within {time_max:?}"))),
        }
    }

    /// Has a node do what an operator wants.
    /// A certificate for somebody, if that node leads the metadata.
    pub(crate) async fn enrol(&self, node: NodeId, request: EnrolRequest) -> Result<EnrolResponse, Status> {
        answered(self.client(node).enrol(request)).await
    }

    /// Has a node do something.
    pub(crate) async fn steer(&self, node: NodeId, request: SteerRequest) -> Result<Empty, Status> {
        answered(self.client(node).steer(request)).await
    }

    /// The way to them.
    pub fn peers(&self) -> &Arc<dyn Peers> {
        &self.peers
    }

    pub(crate) fn client(&self, node: NodeId) -> InternalClient<Way> {
        // An answer is as large as what a client would be told.
        InternalClient::new(Way { node, peers: Arc::clone(&self.peers) }).max_decoding_message_size(usize::MAX)
    }

    fn sender(&self, batches: u64) -> Sender {
        Sender { node: self.me, incarnation: self.incarnation, batches }
    }

    /// Tells a node which partitions this one leads, and how many batches of offers it has been sent.
    pub(crate) async fn announce(&self, node: NodeId, batches: u64) -> Result<(), Status> {
        let leads = self.book.own().into_iter().map(lead_to_wire).collect();
        let is_draining = self.leads.get().is_some_and(|leads| leads.is_draining());
        let request = AnnounceRequest { sender: Some(self.sender(batches).to_wire()), leads, is_draining };
        if let Some(leads) = self.leads.get() {
            self.freshness.note_led(&leads.groups());
        }
        let asked = Instant::now();
        let answer = answered(self.client(node).announce(request)).await?;
        for LedGroup { group, applied_index } in answer.led {
            self.freshness.told(GroupId(group), asked, applied_index);
        }
        Ok(())
    }

    /// Whether the rows of a replica of this node surely have all that was acknowledged so long ago.
    pub fn may_read(&self, group: &Group, bound: Duration) -> bool {
        self.freshness.may_read(group, bound)
    }

    /// Sends a batch of offers, the number of which is `batches`.
    pub(crate) async fn offer(&self, node: NodeId, batches: u64, offer: OfferRequest) -> Result<(), Status> {
        let request = OfferRequest { sender: Some(self.sender(batches).to_wire()), ..offer };
        answered(self.client(node).offer(request)).await.map(|_| ())
    }

    /// The way to a page of the task rows of another node's lead.
    pub(crate) fn task_page(
        &self,
        node: NodeId,
        lead: Source,
        queue: &QueueId,
        after: bytes::Bytes,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<everlog_proto::internal::Task>, Status>> + Send + use<> {
        let request = TaskPageRequest {
            lead: Some(lead_to_wire(lead)),
            namespace_id: bytes_of(queue.namespace_id.0),
            kind: queue.kind as u32,
            task_queue: queue.name.clone(),
            after,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let mut client = self.client(node);
        async move { answered(client.task_page(request)).await.map(|page| page.tasks) }
    }

    /// Up to `limit` runs behind `after` in partitions that another node leads.
    ///
    /// # Errors
    ///
    /// When the node cannot answer for all of them.
    pub async fn list(
        &self,
        node: NodeId,
        shares: &[Share],
        asked: &AskedRuns,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Page, CallError> {
        let request = asked.of(shares, after, limit);
        let page = answered(self.client(node).visibility_page(request)).await;
        let page = page.map_err(|status| error_from_status(&status))?;
        let run = |run: VisibleRun| Some((run.position[..].try_into().ok()?, run.record));
        let runs = page.runs.into_iter().map(run).collect::<Option<_>>();
        let runs = runs.ok_or_else(|| CallError::Failed(format!("node {node} lists runs without a position")))?;
        Ok(Page { runs, has_more: page.has_more })
    }

    /// How many runs there are in partitions that another node leads, by status.
    ///
    /// # Errors
    ///
    /// As [`Nodes::list`].
    pub async fn count(&self, node: NodeId, shares: &[Share], asked: &AskedRuns) -> Result<ByStatus, CallError> {
        let request = asked.of(shares, None, 0);
        let counted = answered(self.client(node).visibility_count(request)).await;
        let counted = counted.map_err(|status| error_from_status(&status))?;
        Ok(counted.counts.into_iter().map(|status| (status.status, status.count)).collect())
    }

    /// How far the metadata has come at a node, if that leads it.
    ///
    /// # Errors
    ///
    /// When the node does not lead it, or does not answer.
    pub async fn metadata_position(&self, node: NodeId) -> Result<ChainPosition, CallError> {
        let position = answered(self.client(node).metadata_position(Empty {})).await;
        position.map(metadata_from_wire).map_err(|status| error_from_status(&status))
    }

    /// Waits until all other nodes that can be reached have seen so much of the metadata, but not for long.
    pub async fn await_metadata(&self, position: ChainPosition) {
        self.tell_all("a node has not seen the latest of the metadata", |mut node| async move {
            node.await_metadata(metadata_to_wire(position)).await
        })
        .await;
    }

    /// Whether all of these nodes have seen so much of the metadata. One that does not say so has not.
    pub(crate) async fn have_seen(&self, nodes: impl IntoIterator<Item = NodeId>, position: ChainPosition) -> bool {
        let seen = nodes.into_iter().filter(|node| *node != self.me).map(|node| async move {
            answered(self.client(node).await_metadata(metadata_to_wire(position))).await.is_ok()
        });
        join_all(seen).await.into_iter().all(|seen| seen)
    }

    /// Has a partition that another node leads do its part in a step of a namespace's move.
    pub(crate) async fn move_step(
        &self,
        node: NodeId,
        request: MoveStepRequest,
    ) -> Result<MoveStepResponse, CallError> {
        answered(self.client(node).move_step(request)).await.map_err(|status| error_from_status(&status))
    }

    /// Whether anyone polled a queue that is at home at another node in the last `within`. Taken to be so if the node does not answer.
    pub async fn has_recent_poller(&self, node: NodeId, queue: &QueueId, within: Duration) -> bool {
        self.queue_state(node, queue, within).await.map_or(true, |(is_polled, _)| is_polled)
    }

    /// Has a worker answer a request to a Nexus service whose queue is at home at another node.
    ///
    /// # Errors
    ///
    /// When the node does not answer. Then a worker may have been asked.
    pub async fn dispatch_nexus(
        &self,
        node: NodeId,
        queue: &NexusQueue,
        request: nexus::Request,
        time: Duration,
    ) -> Result<Result<NexusReply, NotAnswered>, CallError> {
        let request = DispatchNexusRequest {
            namespace_id: bytes_of(queue.namespace_id.0),
            task_queue: queue.name.clone(),
            request: Some(request),
            time_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        };
        let mut client = self.client(node);
        match tokio::time::timeout(time + ANSWER_TIME, client.dispatch_nexus(request)).await {
            Ok(Ok(answer)) => Ok(nexus_reply_from_wire(answer.into_inner())),
            Ok(Err(status)) => Err(error_from_status(&status)),
            Err(_) => Ok(Err(NotAnswered::TimedOut)),
        }
    }

    /// How the queue of a version stands that is at home at another node, and whether anyone has polled it in the last `within`.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn queue_state(
        &self,
        node: NodeId,
        queue: &QueueId,
        within: Duration,
    ) -> Result<(bool, QueueStats), CallError> {
        let request = RecentPollerRequest {
            namespace_id: bytes_of(queue.namespace_id.0),
            kind: queue.kind as u32,
            task_queue: queue.name.clone(),
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            version: queue.version.as_deref().cloned(),
        };
        let answer = answered(self.client(node).recent_poller(request)).await;
        let answer = answer.map_err(|status| error_from_status(&status))?;
        let stats = QueueStats {
            backlog: answer.backlog,
            backlog_age: Duration::from_millis(answer.backlog_age_ms),
            add_rate: answer.add_rate,
            dispatch_rate: answer.dispatch_rate,
        };
        Ok((answer.is_polled, stats))
    }

    /// Has the node that leads the metadata take in that a version of workers polls a queue. Returns how far metadata has come with it.
    ///
    /// # Errors
    ///
    /// [`CallError::Rejected`] if there are too many, and when the node does not lead it, or does not answer.
    pub async fn register_worker(
        &self,
        node: NodeId,
        namespace_id: NamespaceId,
        version: WorkerDeploymentVersion,
        queue: VersionQueue,
    ) -> Result<ChainPosition, CallError> {
        let request = RegisterWorkerRequest {
            namespace_id: bytes_of(namespace_id.0),
            version: Some(version),
            kind: queue.kind,
            task_queue: queue.name,
        };
        let answer = answered(self.client(node).register_worker(request)).await;
        let answer = answer.map_err(|status| error_from_status(&status))?;
        match answer.refusal {
            Some(refusal) => Err(CallError::Rejected(Rejection::ResourceExhausted {
                cause: ResourceExhaustedCause::WorkerDeploymentLimits,
                message: refusal.into(),
            })),
            None => Ok(metadata_from_wire(answer.position.unwrap_or_default())),
        }
    }

    /// Tells all other nodes how workers are. One that cannot be reached is told when they speak next.
    pub async fn workers_heard(&self, namespace_id: NamespaceId, heartbeats: Vec<WorkerHeartbeat>) {
        let request = WorkersHeardRequest { namespace_id: bytes_of(namespace_id.0), heartbeats };
        self.tell_all("a node was not told how workers are", |mut node| {
            let request = request.clone();
            async move { node.workers_heard(request).await }
        })
        .await;
    }

    /// Ends the polls of a worker process at all other nodes. One that cannot be reached ends them in their time.
    pub async fn end_polls(&self, namespace_id: NamespaceId, sticky: Option<&str>, worker_instance_key: &str) {
        let request = EndPollsRequest {
            namespace_id: bytes_of(namespace_id.0),
            sticky: sticky.map(str::to_owned),
            worker_instance_key: worker_instance_key.to_owned(),
        };
        self.tell_all("a node was not told that a worker shuts down", |mut node| {
            let request = request.clone();
            async move { node.end_polls(request).await }
        })
        .await;
    }

    /// Tells all other nodes something, and waits until they have answered, or for long enough. Of those that have not, `otherwise` is
    /// logged.
    async fn tell_all<Told>(&self, otherwise: &'static str, tell: impl Fn(InternalClient<Way>) -> Told)
    where
        Told: Future<Output = Result<tonic::Response<Empty>, Status>>,
    {
        let told = self.peers.nodes().into_iter().map(|node| {
            let told = tell(self.client(node));
            async move {
                if let Err(status) = answered(told).await {
                    tracing::debug!(%node, %status, "{otherwise}");
                }
            }
        });
        join_all(told).await;
    }
}
