//! What the nodes of a cluster ask of each other: the messages of `everlog.internal.v1`.
//!
//! They are derived here rather than compiled from a file, since nobody else speaks this service. The rules are those of rows: a tag is
//! never used twice, unknown fields are skipped, and the bytes stay what they are (`tests`), because nodes of different versions run
//! side by side. Ids are 16 bytes, positions of tasks those of their keys.

use bytes::Bytes;
use prost::Message;

use crate::api::common::v1::WorkerVersionStamp;
use crate::api::deployment::v1::WorkerDeploymentVersion;
use crate::api::failure::v1::Failure;
use crate::api::nexus::v1 as nexus;
use crate::api::query::v1::WorkflowQuery;
use crate::api::worker::v1::WorkerHeartbeat;

tonic::include_proto!("everlog.internal.v1.Internal");

pub use internal_client::InternalClient;
pub use internal_server::{Internal, InternalServer};

/// Nothing to say.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Empty {}

/// Who sends offers, and how many batches of them so far: a gap says that some were lost.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Sender {
    /// The node.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// Another number at each start of the node.
    #[prost(fixed64, tag = "2")]
    pub incarnation: u64,
    /// Batches so far, this one included.
    #[prost(uint64, tag = "3")]
    pub batches: u64,
}

/// A lead of a partition.
#[derive(Clone, PartialEq, Message)]
pub struct Lead {
    /// The partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Which of its leads, a number of 16 bytes, the highest first.
    #[prost(bytes = "bytes", tag = "2")]
    pub lead: Bytes,
}

/// Which partitions the sender leads. Repeated, so that none that is lost matters for long.
#[derive(Clone, PartialEq, Message)]
pub struct AnnounceRequest {
    /// Who says so.
    #[prost(message, optional, tag = "1")]
    pub sender: Option<Sender>,
    /// All of its leads.
    #[prost(message, repeated, tag = "2")]
    pub leads: Vec<Lead>,
    /// It takes no more of them.
    #[prost(bool, tag = "3")]
    pub is_draining: bool,
}

/// What the node says that was told of leads.
#[derive(Clone, PartialEq, Message)]
pub struct AnnounceResponse {
    /// Its groups that nobody else can lead while it answers.
    #[prost(message, repeated, tag = "1")]
    pub led: Vec<LedGroup>,
}

/// How far a group is where it is led.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct LedGroup {
    /// The group.
    #[prost(uint32, tag = "1")]
    pub group: u32,
    /// The last entry that is applied.
    #[prost(uint64, tag = "2")]
    pub applied_index: u64,
}

/// A workflow.
#[derive(Clone, PartialEq, Message)]
pub struct Workflow {
    /// Its namespace.
    #[prost(bytes = "bytes", tag = "1")]
    pub namespace_id: Bytes,
    /// Its id.
    #[prost(string, tag = "2")]
    pub workflow_id: String,
}

/// A task that is ready.
#[derive(Clone, PartialEq, Message)]
pub struct Task {
    /// Its workflow.
    #[prost(message, optional, tag = "1")]
    pub workflow: Option<Workflow>,
    /// For which kind of worker: the number of the kind.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// The normal queue.
    #[prost(string, tag = "3")]
    pub task_queue: String,
    /// Where it stands there.
    #[prost(bytes = "bytes", tag = "4")]
    pub position: Bytes,
    /// Its attempt.
    #[prost(int32, tag = "5")]
    pub attempt: i32,
    /// The sticky queue to try first.
    #[prost(string, optional, tag = "6")]
    pub sticky: Option<String>,
    /// The version of the workers that may have it.
    #[prost(message, optional, tag = "7")]
    pub version: Option<WorkerDeploymentVersion>,
    /// Whose it is: the number of the entity's kind.
    #[prost(uint32, tag = "8")]
    pub entity_kind: u32,
    /// How much the lane weighs in which it stands, in thousandths, if the task says so.
    #[prost(uint32, tag = "9")]
    pub weight: u32,
}

/// A task, and the lead that offers it.
#[derive(Clone, PartialEq, Message)]
pub struct OfferedTask {
    /// Who offers it.
    #[prost(message, optional, tag = "1")]
    pub lead: Option<Lead>,
    /// The task.
    #[prost(message, optional, tag = "2")]
    pub task: Option<Task>,
}

/// A query for a worker.
#[derive(Clone, PartialEq, Message)]
pub struct OfferedQuery {
    /// Its workflow.
    #[prost(message, optional, tag = "1")]
    pub workflow: Option<Workflow>,
    /// The number under which its caller waits.
    #[prost(fixed64, tag = "2")]
    pub query_id: u64,
    /// The run that is asked.
    #[prost(bytes = "bytes", tag = "3")]
    pub run_id: Bytes,
    /// The query.
    #[prost(message, optional, tag = "4")]
    pub query: Option<WorkflowQuery>,
    /// The normal queue.
    #[prost(string, tag = "5")]
    pub task_queue: String,
    /// The sticky queue to try first.
    #[prost(string, optional, tag = "6")]
    pub sticky: Option<String>,
    /// The version of the workers that alone can answer it.
    #[prost(message, optional, tag = "7")]
    pub version: Option<WorkerDeploymentVersion>,
}

/// What leads have for the home of some queues.
#[derive(Clone, PartialEq, Message)]
pub struct OfferRequest {
    /// Who sends it.
    #[prost(message, optional, tag = "1")]
    pub sender: Option<Sender>,
    /// Tasks that are ready, in the order in which they became so.
    #[prost(message, repeated, tag = "2")]
    pub tasks: Vec<OfferedTask>,
    /// Queries.
    #[prost(message, repeated, tag = "3")]
    pub queries: Vec<OfferedQuery>,
    /// Queries whose callers have given up.
    #[prost(fixed64, repeated, tag = "4")]
    pub withdrawn_queries: Vec<u64>,
}

/// A poller is at hand for a workflow task.
#[derive(Clone, PartialEq, Message)]
pub struct WorkflowTaskStart {
    /// The task's `scheduled_event_id`.
    #[prost(int64, tag = "1")]
    pub scheduled_event_id: i64,
    /// The task's attempt.
    #[prost(int32, tag = "2")]
    pub attempt: i32,
    /// The queue that was polled, sticky or normal.
    #[prost(string, tag = "3")]
    pub task_queue: String,
    /// The worker.
    #[prost(string, tag = "4")]
    pub identity: String,
    /// Names the poll.
    #[prost(string, tag = "5")]
    pub request_id: String,
    /// The build of the worker's code, where it tells.
    #[prost(message, optional, tag = "6")]
    pub worker_version: Option<WorkerVersionStamp>,
    /// The version of the worker, if it has one.
    #[prost(message, optional, tag = "7")]
    pub deployment_version: Option<WorkerDeploymentVersion>,
}

/// A poller is at hand for an activity task.
#[derive(Clone, PartialEq, Message)]
pub struct ActivityTaskStart {
    /// The task's `scheduled_event_id`.
    #[prost(int64, tag = "1")]
    pub scheduled_event_id: i64,
    /// The task's attempt.
    #[prost(int32, tag = "2")]
    pub attempt: i32,
    /// The worker.
    #[prost(string, tag = "3")]
    pub identity: String,
    /// Names the poll.
    #[prost(string, tag = "4")]
    pub request_id: String,
    /// The queue that the task stood in.
    #[prost(string, tag = "5")]
    pub task_queue: String,
    /// Where it stood there.
    #[prost(bytes = "bytes", tag = "6")]
    pub position: Bytes,
    /// Whose activity it is: the number of the entity's kind.
    #[prost(uint32, tag = "7")]
    pub entity_kind: u32,
    /// The worker's SDK, as far as it tells.
    #[prost(string, tag = "8")]
    pub sdk_name: String,
    /// The version of that.
    #[prost(string, tag = "9")]
    pub sdk_version: String,
    /// The version of the worker, if it has one.
    #[prost(message, optional, tag = "10")]
    pub deployment_version: Option<WorkerDeploymentVersion>,
}

/// A poller is at hand for a query.
#[derive(Clone, PartialEq, Message)]
pub struct QueryStart {
    /// The number under which the query's caller waits.
    #[prost(fixed64, tag = "1")]
    pub query_id: u64,
    /// The queue that was polled, sticky or normal.
    #[prost(string, tag = "2")]
    pub task_queue: String,
}

/// Asks the node that leads a workflow to start one of its tasks.
#[derive(Clone, PartialEq, Message)]
pub struct StartTaskRequest {
    /// The workflow.
    #[prost(message, optional, tag = "1")]
    pub workflow: Option<Workflow>,
    /// The run.
    #[prost(bytes = "bytes", tag = "2")]
    pub run_id: Bytes,
    /// What is started.
    #[prost(oneof = "Start", tags = "3, 4, 5")]
    pub start: Option<Start>,
}

/// What is started.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Start {
    /// A workflow task.
    #[prost(message, tag = "3")]
    WorkflowTask(WorkflowTaskStart),
    /// An activity task.
    #[prost(message, tag = "4")]
    ActivityTask(ActivityTaskStart),
    /// A query.
    #[prost(message, tag = "5")]
    Query(QueryStart),
}

/// What the poller gets.
#[derive(Clone, PartialEq, Message)]
pub struct StartTaskResponse {
    /// The started task; nothing if it is not there any more.
    #[prost(message, optional, tag = "1")]
    pub started: Option<StartedTask>,
}

/// A task that was started.
#[derive(Clone, PartialEq, Message)]
pub struct StartedTask {
    /// The encoded response to the poll: a `PollWorkflowTaskQueueResponse` without its history, or a `PollActivityTaskQueueResponse`.
    #[prost(bytes = "bytes", tag = "1")]
    pub poll: Bytes,
    /// Encoded `History` messages with consecutive events.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub history: Vec<Bytes>,
    /// The event that the next page of history starts at, if this is not the last page.
    #[prost(int64, optional, tag = "3")]
    pub next_page_from: Option<i64>,
    /// The first event that the stored history did not have when the task was started.
    #[prost(int64, tag = "4")]
    pub history_to: i64,
}

/// Asks for tasks of a queue that wait in rows.
#[derive(Clone, PartialEq, Message)]
pub struct TaskPageRequest {
    /// The lead whose rows they are.
    #[prost(message, optional, tag = "1")]
    pub lead: Option<Lead>,
    /// The queue's namespace.
    #[prost(bytes = "bytes", tag = "2")]
    pub namespace_id: Bytes,
    /// The number of the queue's kind.
    #[prost(uint32, tag = "3")]
    pub kind: u32,
    /// The queue's name.
    #[prost(string, tag = "4")]
    pub task_queue: String,
    /// The position behind which they stand; empty for the first ones.
    #[prost(bytes = "bytes", tag = "5")]
    pub after: Bytes,
    /// How many at most.
    #[prost(uint32, tag = "6")]
    pub limit: u32,
}

/// Tasks in order; none at the end.
#[derive(Clone, PartialEq, Message)]
pub struct TaskPageResponse {
    /// The tasks.
    #[prost(message, repeated, tag = "1")]
    pub tasks: Vec<Task>,
}

/// Messages to workflows that the asked node leads.
#[derive(Clone, PartialEq, Message)]
pub struct DeliverRequest {
    /// Each as it is in its row of the outbox.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub messages: Vec<Bytes>,
}

/// What became of each message, in their order.
#[derive(Clone, PartialEq, Message)]
pub struct DeliverResponse {
    /// The outcomes: [`outcome`].
    #[prost(uint32, repeated, tag = "1")]
    pub outcomes: Vec<u32>,
}

/// What became of a message.
pub mod outcome {
    /// It is not known; it is to be sent again.
    pub const AGAIN: u32 = 0;
    /// The target has it.
    pub const DELIVERED: u32 = 1;
    /// There is no such workflow, or it has closed.
    pub const NOT_FOUND: u32 = 2;
    /// The target takes no more signals.
    pub const TOO_MANY_SIGNALS: u32 = 3;
    /// Another run is in the way of a child.
    pub const ALREADY_EXISTS: u32 = 4;
}

/// Asks for the runs that match, of partitions that the asked node leads, or has replicas of.
#[derive(Clone, PartialEq, Message)]
pub struct VisibilityRequest {
    /// The namespace.
    #[prost(bytes = "bytes", tag = "1")]
    pub namespace_id: Bytes,
    /// The partitions.
    #[prost(uint32, repeated, tag = "2")]
    pub partitions: Vec<u32>,
    /// What is asked for.
    #[prost(oneof = "Wanted", tags = "3, 4, 5, 8, 9, 10")]
    pub wanted: Option<Wanted>,
    /// The position behind which the runs stand; empty for the first ones.
    #[prost(bytes = "bytes", tag = "6")]
    pub after: Bytes,
    /// How many at most, of a page.
    #[prost(uint32, tag = "7")]
    pub limit: u32,
    /// A replica answers whose rows have all that was acknowledged so many milliseconds ago; 0: whoever leads answers.
    #[prost(uint64, tag = "11")]
    pub stale_max_ms: u64,
    /// Whoever leads asks a majority first.
    #[prost(bool, tag = "12")]
    pub asks_quorum: bool,
    /// The slots that are looked for in each of the partitions, in a form of their own; none if the namespace is not known to move.
    #[prost(bytes = "bytes", repeated, tag = "13")]
    pub slots: Vec<Bytes>,
}

/// Which runs are asked for.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Wanted {
    /// Those that a query names.
    #[prost(string, tag = "3")]
    Query(String),
    /// An encoded `ListOpenWorkflowExecutionsRequest`.
    #[prost(bytes = "bytes", tag = "4")]
    Open(Bytes),
    /// An encoded `ListClosedWorkflowExecutionsRequest`.
    #[prost(bytes = "bytes", tag = "5")]
    Closed(Bytes),
    /// Schedules that a query names.
    #[prost(string, tag = "8")]
    Schedules(String),
    /// Batch jobs that a query names.
    #[prost(string, tag = "9")]
    BatchJobs(String),
    /// Activities that a query names, which are no workflow's.
    #[prost(string, tag = "10")]
    Activities(String),
}

/// A run as lists show it.
#[derive(Clone, PartialEq, Message)]
pub struct VisibleRun {
    /// Where it stands.
    #[prost(bytes = "bytes", tag = "1")]
    pub position: Bytes,
    /// The encoded record.
    #[prost(bytes = "bytes", tag = "2")]
    pub record: Bytes,
}

/// A page of runs, in order.
#[derive(Clone, PartialEq, Message)]
pub struct VisibilityPageResponse {
    /// The runs.
    #[prost(message, repeated, tag = "1")]
    pub runs: Vec<VisibleRun>,
    /// Whether there may be more behind them.
    #[prost(bool, tag = "2")]
    pub has_more: bool,
}

/// How many runs have a status.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct StatusCount {
    /// The number of the status.
    #[prost(int64, tag = "1")]
    pub status: i64,
    /// How many.
    #[prost(int64, tag = "2")]
    pub count: i64,
}

/// Counts of runs.
#[derive(Clone, PartialEq, Message)]
pub struct VisibilityCountResponse {
    /// By status.
    #[prost(message, repeated, tag = "1")]
    pub counts: Vec<StatusCount>,
}

/// Asks the home of a queue whether anybody polls it.
#[derive(Clone, PartialEq, Message)]
pub struct RecentPollerRequest {
    /// The queue's namespace.
    #[prost(bytes = "bytes", tag = "1")]
    pub namespace_id: Bytes,
    /// The number of the queue's kind.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// The queue's name.
    #[prost(string, tag = "3")]
    pub task_queue: String,
    /// How long ago counts, milliseconds.
    #[prost(uint64, tag = "4")]
    pub within_ms: u64,
    /// The version of the workers; none for those of whichever.
    #[prost(message, optional, tag = "5")]
    pub version: Option<WorkerDeploymentVersion>,
}

/// Whether anybody has polled a queue.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RecentPollerResponse {
    /// Somebody has.
    #[prost(bool, tag = "1")]
    pub is_polled: bool,
    /// Tasks that wait.
    #[prost(uint64, tag = "2")]
    pub backlog: u64,
    /// How long the oldest of them has, milliseconds.
    #[prost(uint64, tag = "3")]
    pub backlog_age_ms: u64,
    /// Tasks that were added lately, per second.
    #[prost(double, tag = "4")]
    pub add_rate: f64,
    /// Tasks that were handed out lately, per second.
    #[prost(double, tag = "5")]
    pub dispatch_rate: f64,
}

/// A worker of a version polls a queue that it is not known to poll: the node that leads the metadata is to know.
#[derive(Clone, PartialEq, Message)]
pub struct RegisterWorkerRequest {
    /// The namespace.
    #[prost(bytes = "bytes", tag = "1")]
    pub namespace_id: Bytes,
    /// The version.
    #[prost(message, optional, tag = "2")]
    pub version: Option<WorkerDeploymentVersion>,
    /// A `TaskQueueType`.
    #[prost(int32, tag = "3")]
    pub kind: i32,
    /// The queue's name.
    #[prost(string, tag = "4")]
    pub task_queue: String,
}

/// Whether it knows now.
#[derive(Clone, PartialEq, Message)]
pub struct RegisterWorkerResponse {
    /// Why not: there are too many.
    #[prost(string, optional, tag = "1")]
    pub refusal: Option<String>,
    /// How far metadata has come with it.
    #[prost(message, optional, tag = "2")]
    pub position: Option<MetadataPosition>,
}

/// Asks the home of a queue to have a worker answer a request to a Nexus service.
#[derive(Clone, PartialEq, Message)]
pub struct DispatchNexusRequest {
    /// The queue's namespace.
    #[prost(bytes = "bytes", tag = "1")]
    pub namespace_id: Bytes,
    /// The queue's name.
    #[prost(string, tag = "2")]
    pub task_queue: String,
    /// The request.
    #[prost(message, optional, tag = "3")]
    pub request: Option<nexus::Request>,
    /// How long its caller waits, milliseconds.
    #[prost(uint64, tag = "4")]
    pub time_ms: u64,
}

/// What a worker has answered; nothing, if none has in time.
#[derive(Clone, PartialEq, Message)]
pub struct DispatchNexusResponse {
    /// The service's answer.
    #[prost(message, optional, tag = "1")]
    pub response: Option<nexus::Response>,
    /// Why it has none.
    #[prost(message, optional, tag = "2")]
    pub failure: Option<Failure>,
    /// The same, as old workers say it.
    #[prost(message, optional, tag = "3")]
    pub handler_error: Option<nexus::HandlerError>,
}

/// A worker shuts down: its polls end.
#[derive(Clone, PartialEq, Message)]
pub struct EndPollsRequest {
    /// Its namespace.
    #[prost(bytes = "bytes", tag = "1")]
    pub namespace_id: Bytes,
    /// Its sticky queue, if it has one.
    #[prost(string, optional, tag = "2")]
    pub sticky: Option<String>,
    /// Names the worker process, if it does.
    #[prost(string, tag = "3")]
    pub worker_instance_key: String,
}

/// Workers have said how they are.
#[derive(Clone, PartialEq, Message)]
pub struct WorkersHeardRequest {
    /// Their namespace.
    #[prost(bytes = "bytes", tag = "1")]
    pub namespace_id: Bytes,
    /// What they have said.
    #[prost(message, repeated, tag = "2")]
    pub heartbeats: Vec<WorkerHeartbeat>,
}

/// How far metadata has come. Whoever has seen as much as the node that leads it has seen every change that was answered.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct MetadataPosition {
    /// The term of the last lead.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// Which opening in that term.
    #[prost(uint32, tag = "2")]
    pub opening: u32,
    /// Entries since then.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
}

/// What a partition is to do in a step of a namespace's move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum MoveAction {
    /// Nothing that this version knows.
    Unknown = 0,
    /// Says which of the slots make a step: the first ones whose rows are not more than so many bytes, and one at least.
    Plan = 1,
    /// Takes nothing for the slots any more.
    Freeze = 2,
    /// Gives a page of their rows.
    Export = 3,
    /// Is about to get them.
    BeginImport = 4,
    /// Gets a page of their rows.
    Import = 5,
    /// Has them from now on.
    Activate = 6,
    /// Will never have them by this step.
    Refuse = 7,
    /// Has them as before.
    Unfreeze = 8,
    /// Deletes what it has of them.
    Release = 9,
    /// Says whether it has nothing of them any more.
    IsReleased = 10,
    /// Deletes its row about the step.
    Forget = 11,
}

/// Has a partition, which the asked node leads, do its part in a step of a namespace's move. Each may be asked for more than once.
#[derive(Clone, PartialEq, Message)]
pub struct MoveStepRequest {
    /// The metadata that the asked node must have seen before.
    #[prost(message, optional, tag = "1")]
    pub seen: Option<MetadataPosition>,
    /// The partition.
    #[prost(uint32, tag = "2")]
    pub partition: u32,
    /// What it is to do.
    #[prost(enumeration = "MoveAction", tag = "3")]
    pub action: i32,
    /// The namespace.
    #[prost(bytes = "bytes", tag = "4")]
    pub namespace_id: Bytes,
    /// The step.
    #[prost(uint64, tag = "5")]
    pub step_id: u64,
    /// Its slots, in a form of their own.
    #[prost(bytes = "bytes", tag = "6")]
    pub slots: Bytes,
    /// The partition that has them before.
    #[prost(uint32, tag = "7")]
    pub from: u32,
    /// The partition that has them afterwards.
    #[prost(uint32, tag = "8")]
    pub to: u32,
    /// Bytes of rows that a step may have.
    #[prost(uint64, tag = "9")]
    pub bytes_max: u64,
    /// Where a page of rows begins; empty for the first one.
    #[prost(bytes = "bytes", tag = "10")]
    pub after: Bytes,
    /// A page of rows.
    #[prost(bytes = "bytes", tag = "11")]
    pub page: Bytes,
    /// The time that the partition which gives the slots had come to, in nanoseconds.
    #[prost(sfixed64, tag = "12")]
    pub time_ns: i64,
}

/// What came of it.
#[derive(Clone, PartialEq, Message)]
pub struct MoveStepResponse {
    /// The slots that make a step.
    #[prost(bytes = "bytes", tag = "1")]
    pub slots: Bytes,
    /// The time that the partition has come to, in nanoseconds.
    #[prost(sfixed64, tag = "2")]
    pub time_ns: i64,
    /// A page of rows.
    #[prost(bytes = "bytes", tag = "3")]
    pub page: Bytes,
    /// Where the next page begins; empty if there is none.
    #[prost(bytes = "bytes", tag = "4")]
    pub next: Bytes,
    /// The slots are the partition's by this step; otherwise they never will be.
    #[prost(bool, tag = "5")]
    pub is_owned: bool,
    /// The partition has nothing of the slots any more.
    #[prost(bool, tag = "6")]
    pub is_released: bool,
}

/// What a node says of itself: its figures, and its groups as its replicas see them.
#[derive(Clone, PartialEq, Message)]
pub struct NodeReport {
    /// The node.
    #[prost(message, optional, tag = "1")]
    pub node: Option<crate::cluster::Node>,
    /// Its groups. Whoever leads one says so; nobody says it of another.
    #[prost(message, repeated, tag = "2")]
    pub groups: Vec<crate::cluster::Group>,
    /// Who waits at it for a place in the cluster.
    #[prost(message, repeated, tag = "3")]
    pub waiting: Vec<WaitingNode>,
}

/// A node with an empty data directory that waits for a place.
#[derive(Clone, PartialEq, Message)]
pub struct WaitingNode {
    /// The data directory.
    #[prost(bytes = "bytes", tag = "1")]
    pub directory_id: Bytes,
    /// Where it is dialled, `host:port`.
    #[prost(string, tag = "2")]
    pub address: String,
}

/// A lead that is to go to another node.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SteeredTransfer {
    /// The group.
    #[prost(uint32, tag = "1")]
    pub group: u32,
    /// The node.
    #[prost(uint32, tag = "2")]
    pub to_node: u32,
}

/// What an operator wants of a node. It does all of it as far as it can, and answers at once.
#[derive(Clone, PartialEq, Message)]
pub struct SteerRequest {
    /// Whether it gives all leads away and takes no more; nothing: as it is.
    #[prost(bool, optional, tag = "1")]
    pub is_draining: Option<bool>,
    /// Groups whose leads it keeps once it has them.
    #[prost(uint32, repeated, tag = "2")]
    pub kept: Vec<u32>,
    /// Groups whose leads it keeps no more.
    #[prost(uint32, repeated, tag = "3")]
    pub released: Vec<u32>,
    /// Leads that it gives away, if it has them.
    #[prost(message, repeated, tag = "4")]
    pub transfers: Vec<SteeredTransfer>,
    /// A disk that takes the place of a lost one, if this node leads the metadata.
    #[prost(message, optional, tag = "5")]
    pub new_disk: Option<NewDisk>,
    /// A node that joins, if this node leads the metadata.
    #[prost(message, optional, tag = "6")]
    pub new_node: Option<NewNode>,
    /// A node that is to leave or to stay, if this node leads the metadata.
    #[prost(message, optional, tag = "7")]
    pub leaving: Option<LeavingNode>,
    /// A group that has the replicas it should have, if this node leads the metadata.
    #[prost(message, optional, tag = "8")]
    pub settled: Option<SettledGroup>,
    /// Where and what a node is, if this node leads the metadata.
    #[prost(message, optional, tag = "9")]
    pub labels: Option<LabelledNode>,
    /// Placements as they are in their rows, if this node leads the metadata.
    #[prost(bytes = "bytes", repeated, tag = "10")]
    pub placements: Vec<Bytes>,
    /// A placement that is not needed any more, if this node leads the metadata; empty: none.
    #[prost(string, tag = "11")]
    pub deleted_placement: String,
    /// The cluster's certificate authority as it is in its row, if this node leads the metadata and none is known; empty: none.
    #[prost(bytes = "bytes", tag = "12")]
    pub authority: Bytes,
    /// The certificate that a node has, if this node leads the metadata.
    #[prost(message, optional, tag = "13")]
    pub certificate: Option<NumberedRow>,
    /// A new join token, if this node leads the metadata.
    #[prost(message, optional, tag = "14")]
    pub new_token: Option<NumberedRow>,
    /// A join token that is taken back, if this node leads the metadata.
    #[prost(fixed64, optional, tag = "15")]
    pub revoked_token: Option<u64>,
    /// The id under which the metadata are changed once, however often this is asked; empty: none.
    #[prost(bytes = "bytes", tag = "16")]
    pub operation: Bytes,
    /// Which formats a node reads, if this node leads the metadata.
    #[prost(message, optional, tag = "17")]
    pub formats: Option<FormatsOfNode>,
    /// The cluster is to get the newest formats that its nodes read, if this node leads the metadata.
    #[prost(message, optional, tag = "18")]
    pub finalize: Option<Finalize>,
}

/// Which formats a node reads.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct FormatsOfNode {
    /// The node.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// The oldest one.
    #[prost(uint32, tag = "2")]
    pub oldest: u32,
    /// The newest one.
    #[prost(uint32, tag = "3")]
    pub newest: u32,
}

/// Has the cluster get the newest formats that its nodes read.
#[derive(Clone, PartialEq, Message)]
pub struct Finalize {
    /// Lost nodes that are not waited for.
    #[prost(uint32, repeated, tag = "1")]
    pub without: Vec<u32>,
}

/// Something that has a number, as it is in its row.
#[derive(Clone, PartialEq, Message)]
pub struct NumberedRow {
    /// Which one.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    /// The row.
    #[prost(bytes = "bytes", tag = "2")]
    pub row: Bytes,
}

/// Somebody who asks for a certificate, by what it has proven to whoever passes this on to the node that leads the metadata.
#[derive(Clone, PartialEq, Message)]
pub struct EnrolRequest {
    /// Its data directory.
    #[prost(bytes = "bytes", tag = "1")]
    pub directory_id: Bytes,
    /// Where it is dialled, `host:port`.
    #[prost(string, tag = "2")]
    pub address: String,
    /// The token that it has.
    #[prost(fixed64, optional, tag = "3")]
    pub token: Option<u64>,
    /// The node that it is; 0: it has no certificate. With neither it knows the secret that founders share.
    #[prost(uint32, tag = "4")]
    pub node: u32,
    /// Its signing request.
    #[prost(bytes = "bytes", tag = "5")]
    pub request: Bytes,
}

/// The certificate of somebody who has asked for it.
#[derive(Clone, PartialEq, Message)]
pub struct EnrolResponse {
    /// The node that it is.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// The certificate, PEM.
    #[prost(string, tag = "2")]
    pub certificate: String,
    /// That of the cluster's authority, PEM.
    #[prost(string, tag = "3")]
    pub authority: String,
}

/// Where and what a node is.
#[derive(Clone, PartialEq, Message)]
pub struct LabelledNode {
    /// The node.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// Its region.
    #[prost(string, tag = "2")]
    pub region: String,
    /// The zone of that.
    #[prost(string, tag = "3")]
    pub zone: String,
    /// Whatever else, by name.
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: std::collections::BTreeMap<String, String>,
}

/// A node that joins.
#[derive(Clone, PartialEq, Message)]
pub struct NewNode {
    /// The id of its data directory.
    #[prost(bytes = "bytes", tag = "1")]
    pub directory_id: Bytes,
    /// Where it is dialled, `host:port`.
    #[prost(string, tag = "2")]
    pub address: String,
    /// The id that it is to have; 0: the next one.
    #[prost(uint32, tag = "3")]
    pub node: u32,
}

/// A node that is to leave, or to stay after all.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct LeavingNode {
    /// The node.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// Whether it stays.
    #[prost(bool, tag = "2")]
    pub stays: bool,
}

/// A group that has the replicas it should have, and no others.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SettledGroup {
    /// The group.
    #[prost(uint32, tag = "1")]
    pub group: u32,
    /// Of which version of what it should have this is said.
    #[prost(uint64, tag = "2")]
    pub version: u64,
}

/// A data directory that takes the place of a node's disk.
#[derive(Clone, PartialEq, Message)]
pub struct NewDisk {
    /// The node.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// The directory's id.
    #[prost(bytes = "bytes", tag = "2")]
    pub directory_id: Bytes,
}

#[cfg(test)]
mod tests;
