//! Every limit on a queue, a loop or a cache of the server, with its unit and its reason.

use std::time::Duration;

/// How long a node may take to stop in an orderly way: less than supervisors wait before they kill.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(20);

/// A request of up to this size is small, bytes: it comes in one frame.
pub const SMALL_REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Small requests that a node may have in memory at a time, from when they are read to when they are answered, bytes: tens of
/// thousands of polls, or of commands that wait for an fsync. Large requests have their own share, so that small ones pass by.
pub const SMALL_REQUESTS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The same of larger requests, bytes: sixteen of the largest that are usual, more than a disk takes at a time. Each is in memory up to
/// three times on its way into the log.
pub const LARGE_REQUESTS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Calls that a node answers at a time, each with its stream, its task and what waits for it, some 15 kB together: far more than take
/// part in all batches on their way. Those that wait for something to happen (polls, histories, queries) are not among them: they have
/// bounds of their own.
pub const CALLS_MAX: usize = 4_000;

/// Answers of more than 1 KiB that a node may have in memory until their callers have read them, bytes: 32 of the largest pages of
/// history. Calls beyond that are refused, because a caller that does not read could have any number. Before they are counted,
/// answers are few ([`HISTORY_PAGES_MAX`]) or small.
pub const ANSWERS_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Pages of history that a node reads at a time, each up to the size of a page and twice in memory until it is an answer; calls beyond that
/// wait. Without a bound a client that asks for 800 pages at once, and reads none, took a node to 1.8 GB above rest.
pub const HISTORY_PAGES_MAX: usize = 32;

/// Small requests that may wait for their share; they are in memory already. Those beyond it are refused at once.
pub const SMALL_REQUESTS_WAITING_MAX: usize = 4096;

/// Large requests that may wait for their share, each with a stream's window of 256 KiB in memory.
pub const LARGE_REQUESTS_WAITING_MAX: usize = 256;

/// How long a request waits for its share before it is refused with RESOURCE_EXHAUSTED, as for a place in a partition.
pub const REQUEST_ADMISSION_WAIT_MAX: Duration = PARTITION_ADMISSION_WAIT_MAX;

/// How long a request may take to be read: 140 kB/s for the largest.
pub const REQUEST_READ_TIME_MAX: Duration = Duration::from_secs(30);

/// Descriptors that are kept back from connections for the log, the rows and the runtime: an eighth of what the process may have,
/// within these bounds. A node without data has some thirty of them open; a large one a table for every 64 MiB of rows.
pub const DESCRIPTORS_KEPT: (usize, usize) = (64, 4096);

/// Descriptors that the process is taken to have if the system does not say: what most shells give.
pub const DESCRIPTORS_ASSUMED: usize = 1024;

/// Connections of a node, however many descriptors it has; an idle one takes some ten kilobytes.
pub const CONNECTIONS_MAX: usize = 32 * 1024;

/// What the rows in memory take when they are written, with a compaction after it, bytes: a write that fails for want of room ends the
/// process.
pub const DISK_FLUSH_BYTES: u64 = 192 * 1024 * 1024;

/// How often a node looks at how much its disk has left: what is written between two looks must fit into the reserve of the log.
pub const DISK_LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Jobs that may wait for a partition's loop; beyond this, callers wait. What they weigh is bounded apart from this.
pub const PARTITION_EVENTS_MAX: usize = 16 * 1024;

/// Memory of a partition for work that is not done, bytes, besides the workflows that it keeps: jobs that wait, and batches that form
/// or are in flight. A few of the largest requests; beyond it, callers wait. Everything takes some four times as much for a while,
/// as request, rows, entry and frame of the log.
pub const PARTITION_WORK_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Workflows that a partition may be reading at a time. Beyond it no jobs are taken, so that callers wait: the readers are behind.
pub const PARTITION_LOADS_MAX: usize = 1024;

/// Runs that are due and looked at in one turn, so that requests are not kept waiting by timers.
pub const PARTITION_TURN_WAKES_MAX: usize = 512;

/// Runs of a deleted namespace that a partition deletes at a time, how long it then does other things, and how often deleted namespaces
/// are looked at that seem to be empty.
pub const RECLAIM_PAGE_RUNS: usize = 64;
/// See [`RECLAIM_PAGE_RUNS`].
pub const RECLAIM_PAUSE: Duration = Duration::from_millis(200);
/// See [`RECLAIM_PAGE_RUNS`].
pub const RECLAIM_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked whether each batch job that runs is worked on.
pub const BATCH_JOB_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The first and the longest wait before a batch job tries again what may be possible in a while: with the tries that it has for a workflow,
/// this bridges most of a minute, far more than a failover takes.
pub const BATCH_JOB_AGAIN_WAIT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long a deleted namespace is known after it was seen empty: longer than its last wakes are in memory, and than its last messages
/// are sent again.
pub const NAMESPACE_KEPT_EMPTY: Duration = Duration::from_secs(5 * 60);

/// How long to look away from a run whose namespace is not known here yet: metadata arrives within milliseconds.
pub const NAMESPACE_WAIT: Duration = Duration::from_millis(200);

/// Causes of a failure that are kept, each inside of the one before. Messages nested more than 100 deep cannot be read, in rows as in
/// what workers are sent, and a failure stands inside of a few others there. Nobody reads so many.
pub const FAILURE_CAUSES_MAX: usize = 50;

/// How long a job that made the kernel panic is refused before it may be tried again.
pub const POISON_REFUSED: Duration = Duration::from_secs(60);

/// Such jobs that are remembered.
pub const POISONS_MAX: usize = 64;

/// The first and the longest wait before a lead is opened again that was lost within its term: a quorum is late.
pub const LEAD_AGAIN_WAIT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// The longest wait before a partition that has failed tries again.
pub const FAILED_LEAD_WAIT_MAX: Duration = Duration::from_secs(60);

/// A partition's clock is drawn towards the wall clock by one part in this many of the time that passes: slow enough that durations
/// stay what they are within a tenth, fast enough to follow any clock that NTP disciplines.
pub const CLOCK_SLEW_SHARE: u32 = 10;

/// How far ahead a wall clock must be to be taken for one that was stepped, and for how long before it is believed. NTP steps a
/// wrong clock back within that time; a machine that was suspended stays ahead.
pub const CLOCK_STEP_MIN: Duration = Duration::from_secs(10);
/// See [`CLOCK_STEP_MIN`].
pub const CLOCK_STEP_WAIT: Duration = Duration::from_secs(30);

/// How long a caller waits for a place among them before it is told RESOURCE_EXHAUSTED: longer than any fsync, shorter than
/// an SDK's patience.
pub const PARTITION_ADMISSION_WAIT_MAX: Duration = Duration::from_secs(2);

/// Events that a loop takes in one turn, before it proposes what they led to.
pub const PARTITION_TURN_EVENTS_MAX: usize = 1024;

/// Batches of a partition that are proposed and not yet applied. A second one is proposed only when it is full; more would
/// make the batches smaller and every command dearer.
pub const PARTITION_BATCHES_IN_FLIGHT_MAX: usize = 2;

/// Commands at which a batch is large enough: what a batch costs by itself is then small against its commands.
pub const PARTITION_BATCH_COMMANDS_FULL: usize = 16;

/// The longest that a batch waits for company, and how far apart the common departures of a node's batches then are: a few fsyncs
/// of a fast disk. On a slow one the batches in flight make the next ones wait anyway.
pub const PARTITION_BATCH_LINGER_MAX: Duration = Duration::from_millis(4);

/// Shares of the time of the threads that run tasks: below the first, batches do not wait for company; from the second on they wait
/// the longest. A node that is loaded evenly settles in between.
pub const NODE_LOAD_LINGER: (f64, f64) = (0.7, 0.9);

/// How often that share is looked at, at most: some hundred turns of tasks.
pub const NODE_LOAD_SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// Bytes of rows at which a forming batch takes no more commands: with one more command of the largest size an entry must stay well
/// below what replication sends at once.
pub const PARTITION_BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Log that a node of a cluster keeps for followers that are away, bytes over all groups: what two thousand workflows a second write in
/// four minutes. A follower that is away for longer is seeded.
pub const CLUSTER_LOG_TAIL_BYTES: u64 = 1 << 30;

/// Partitions of a new data directory: enough to use the cores of a small machine, few enough to share an fsync well.
pub const PARTITIONS_DEFAULT: u32 = 4;

/// Memory of the workflows that a node keeps, bytes: about 50,000 of them. Beyond it, the least recently used ones are dropped
/// and read again.
pub const WORKFLOW_CACHE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// How long a workflow that nobody touches stays in memory, at least; at most twice as long. Longer than the usual workflow task
/// timeout, so that what memory alone waits for is over by then.
pub const WORKFLOW_IDLE_MAX: Duration = Duration::from_secs(20);

/// The same for a closed workflow: long enough for callers that waited for its end to fetch the details.
pub const WORKFLOW_CLOSED_IDLE_MAX: Duration = Duration::from_secs(2);

/// Workflows that a partition looks at in one go to find idle ones: about as many as a turn can have brought in.
pub const WORKFLOW_CACHE_LOOKS_MAX: usize = 1024;

/// How often free memory goes back to the system: often enough to be seen soon after a burst, and far too rarely to cost anything.
pub const MEMORY_COLLECT_INTERVAL: Duration = Duration::from_secs(10);

/// How often a node looks whether rows are read at all, and gives back the memory of those it has read if not. As long as workflows
/// stay in memory: a pause between two steps is no rest.
pub const BLOCK_CACHE_REST_INTERVAL: Duration = Duration::from_secs(30);

/// Runs out of memory of which a partition remembers the sticky queue, about 30 bytes each.
pub const STICKY_RUNS_REMEMBERED_MAX: usize = 100_000;

/// History that is kept in memory for a cached run after it was applied, bytes: what the next workflow task of a sticky
/// worker needs.
pub const RUN_HISTORY_TAIL_BYTES_MAX: usize = 32 * 1024;

/// How often a reset is decided anew because the history has grown since it was read. What is in memory of it is added without that.
pub const RESET_TRIES_MAX: usize = 20;

/// Bytes of the events that a reset may reapply: what Temporal writes at once.
pub const RESET_REAPPLIED_BYTES_MAX: usize = 4 << 20;

/// Threads that load workflows, for all partitions: reads of a disk's queue depth, not of CPU.
pub const READER_THREADS: usize = 2;

/// Watchers of one run's history (long polls).
pub const RUN_WATCHERS_MAX: usize = 1000;

/// How long an update that no worker has answered is kept after somebody has asked for it last: callers ask again sooner.
pub const ADMITTED_UPDATE_KEPT: Duration = Duration::from_secs(60);

/// How far ahead a partition holds its wake rows in memory.
pub const WAKE_HORIZON: Duration = Duration::from_secs(60);

/// Wake rows read in one page.
pub const WAKE_PAGE_ROWS: usize = 4096;

/// How long it is remembered what was done for a call that has no id of its own: longer than anybody makes it again.
pub const JOURNAL_KEPT: Duration = Duration::from_secs(60);

/// Rows of the journal read in one page.
pub const JOURNAL_PAGE_ROWS: usize = 1024;

/// Rows of the journal that a batch deletes at most. It adds one at most, so they do not become more.
pub const JOURNAL_ROWS_DELETED_MAX: usize = 4;

/// Bytes of rows of a step at which a page of them is full.
pub const MOVE_PAGE_BYTES_MAX: usize = 1 << 20;

/// Runs whose rows a batch deletes at most where slots have moved away.
pub const MOVE_RUNS_DELETED_MAX: usize = 64;

/// How long it takes until such rows are looked for again that could not be read.
pub const MOVE_CLEAN_AGAIN_WAIT: Duration = Duration::from_secs(1);

/// How far the clock of a partition may be behind that of another one whose slots it takes: it waits for so long, with the slots frozen.
pub const MOVE_CLOCK_WAIT_MAX: Duration = Duration::from_millis(250);

/// Orders about steps that wait for a partition: whoever gives them waits for the answer of each.
pub const MOVE_ORDERS_MAX: usize = 16;

/// How long a partition takes at most to do something about a step.
pub const MOVE_STEP_TIME_MAX: Duration = Duration::from_secs(5);

/// Rows of the outbox read in one page.
pub const OUTBOX_PAGE_ROWS: usize = 1024;

/// Messages of a partition to other workflows that are on their way at a time, and their bytes: a round trip's worth, and no burden
/// on a target that is slow.
pub const OUTBOX_SENT_MAX: usize = 256;
/// See [`OUTBOX_SENT_MAX`].
pub const OUTBOX_SENT_BYTES_MAX: usize = 1024 * 1024;

/// The first and the longest wait before a message is sent again that may not have arrived; each is twice the one before.
pub const OUTBOX_AGAIN_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How long to wait until a message is sent again whose outcome is known and could not be recorded: its workflow cannot be read.
pub const OUTBOX_SETTLE_WAIT: Duration = Duration::from_secs(60);

/// How long a message may be on its way before the log and the metrics say so. It is sent again all the same.
pub const OUTBOX_OVERDUE: Duration = Duration::from_secs(24 * 3600);

/// How often a partition looks how old its messages are.
pub const OUTBOX_LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Tasks that a queue hands out a second at most.
pub const QUEUE_TASKS_PER_SECOND_MAX: f64 = 100_000.0;

/// Requests to Nexus services that wait at a node for the answers of workers.
pub const NEXUS_REQUESTS_MAX: usize = 10_000;

/// Calls to Nexus services that wait at a node to be made, bytes.
pub const NEXUS_CALL_BYTES_MAX: usize = 64 << 20;

/// Calls to Nexus services that a node makes at a time.
pub const NEXUS_CALLS_MAX: usize = 1000;

/// Runs that wait at a node to be archived.
pub const ARCHIVE_WAITING_MAX: usize = 10_000;

/// Runs that a node archives at a time. Each has some MiB of its history in memory.
pub const ARCHIVES_MAX: usize = 8;

/// How long nothing is archived to a URI that has just failed.
pub const ARCHIVE_PAUSE: Duration = Duration::from_secs(5);

/// From so many bytes of a history on, what follows goes into another object of the archive.
pub const ARCHIVE_OBJECT_BYTES: usize = 2 << 20;

/// Archived records that one call looks at.
pub const ARCHIVE_RECORDS_MAX: usize = 10_000;

/// Archived records that a call reads at a time.
pub const ARCHIVE_READS_MAX: usize = 16;

/// Nexus endpoints of a cluster. Each costs some hundred bytes on every node, up to 20 kB with a long description.
pub const NEXUS_ENDPOINTS_MAX: usize = 10_000;

/// Task queues that have settings of their own. Each costs a few hundred bytes on every node.
pub const CONFIGURED_QUEUES_MAX: usize = 10_000;

/// How long a worker process is remembered that has shut down: its polls that come late end empty.
pub const WORKER_SHUTDOWN_REMEMBERED: Duration = Duration::from_secs(300);

/// Worker processes that are remembered because they have shut down. Beyond that they are forgotten.
pub const WORKER_SHUTDOWNS_MAX: usize = 10_000;

/// Worker processes that a node keeps in mind, and bytes of what they have said of themselves.
pub const WORKERS_MAX: usize = 100_000;
/// Bytes of what workers have said of themselves that a node keeps in mind.
pub const WORKER_HEARTBEATS_BYTES_MAX: usize = 64 << 20;

/// A worker that was silent for so long is no longer listed. SDKs say how they are once a minute.
pub const WORKER_TTL: Duration = Duration::from_secs(5 * 60);

/// Workers in one page of a list, and bytes of what they have said of themselves, about.
pub const WORKER_PAGE_MAX: usize = 1000;
/// Bytes of what workers have said of themselves in a page of a list, about.
pub const WORKER_PAGE_BYTES_MAX: usize = 1 << 20;

/// Task rows read in one page.
pub const TASK_PAGE_ROWS: usize = 1024;

/// Events of history in the answer to a poll, and batches in a page of a history that is read: Temporal's default and maximum.
pub const HISTORY_PAGE_EVENTS_MAX: usize = 256;

/// A page of history that has so many bytes gets no further batch, of which none has more than a transaction.
pub const HISTORY_PAGE_BYTES_MAX: usize = 2 << 20;

/// Tasks of one queue and partition that matching keeps in memory; the others stay rows until there is room.
pub const QUEUE_TASKS_IN_MEMORY_MAX: usize = 10_000;

/// Fairness keys of one queue and partition of which matching has tasks in memory at a time, some hundred bytes each besides the tasks; those
/// of others stay rows, and have their turn when there is room.
pub const QUEUE_LANES_MAX: usize = 1_000;

/// Fairness keys that a queue remembers how far they have got, and what their limits leave them, some dozen bytes each. Keys beyond that do
/// not wait for anything are forgotten: when they come back they start like new ones.
pub const LANES_REMEMBERED_MAX: usize = 4_000;

/// Task queues that a node knows, one to two kilobytes each: those that were polled or offered tasks lately. Tasks of others stay rows.
pub const QUEUES_MAX: usize = 50_000;

/// How long the description of a queue waits for the first page of its tasks.
pub const QUEUE_READ_WAIT_MAX: Duration = Duration::from_secs(1);

/// Polls that may wait on one queue.
pub const QUEUE_POLLS_MAX: usize = 10_000;

/// Queries that wait for a worker on one queue.
pub const QUEUE_QUERIES_MAX: usize = 10_000;

/// How long a sticky queue without polls is still offered tasks.
pub const STICKY_POLLER_WINDOW: Duration = Duration::from_secs(10);

/// How long a queue without polls is remembered.
pub const QUEUE_IDLE_MAX: Duration = Duration::from_secs(5 * 60);

/// How often matching looks after what time alone changes: deserted sticky queues, idle queues, failed reads of task rows. A
/// fraction of the sticky window.
pub const QUEUE_SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long after it has caught up with a queue's rows matching reads them once more: a workflow task may be offered before
/// its row is there, and no commit that succeeds takes longer.
pub const BACKLOG_SETTLE: Duration = Duration::from_secs(10);

/// How long a poller is told of after its last poll: as long as Temporal does.
pub const POLLER_REMEMBERED: Duration = Duration::from_secs(5 * 60);

/// Pollers that are remembered for one queue, some hundred bytes each.
pub const QUEUE_POLLERS_REMEMBERED_MAX: usize = 10_000;

/// How long one node waits for the answer of another to a call of the internal service: longer than a commit on a slow disk, shorter
/// than the patience of those who wait behind it.
pub const INTERNAL_CALL_TIME_MAX: Duration = Duration::from_secs(5);

/// Calls of the internal service that a node answers at a time, each some kilobytes: as many as of clients.
pub const INTERNAL_CALLS_MAX: usize = CALLS_MAX;

/// The largest request of the internal service, bytes, besides what a client may send at most: a batch of offers or messages goes out
/// with the one that fills it.
pub const INTERNAL_BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How often a node tells the others which partitions it leads, and how many offers it has sent: what got lost is found out by then.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);

/// The first and the longest wait before a node that cannot be reached is offered tasks again.
pub const OFFER_AGAIN_WAIT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Tasks, and queries, that wait to be offered to another node; tasks beyond are left to their rows.
pub const OFFERS_WAITING_MAX: usize = 10_000;

/// Tasks in one offer to another node: a few hundred kilobytes.
pub const OFFER_TASKS_MAX: usize = 1_000;

/// Bytes of queries in one offer, besides the last of them.
pub const OFFER_QUERY_BYTES_MAX: usize = 1024 * 1024;

/// How long a query that could not be started is kept from other pollers, because the node where its caller waits cannot be reached.
pub const QUERY_AGAIN_WAIT: Duration = Duration::from_secs(1);

/// How long a call waits at most for a node that answers it: longer than a failover, shorter than the patience of clients.
pub const FORWARD_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a list waits at most until a majority confirms who leads.
pub const LEAD_CONFIRM_TIME_MAX: Duration = Duration::from_secs(1);

/// How long a call waits at most until this node knows the latest of the metadata. Without that it goes on with what is known here.
pub const METADATA_WAIT_MAX: Duration = Duration::from_secs(1);

/// The first and the longest wait before a call that was surely not done is tried again.
pub const FORWARD_AGAIN_WAIT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Length of a visibility query, bytes: room for 6,500 ids in one `IN`. Temporal has no bound but that of requests.
pub const VISIBILITY_QUERY_BYTES_MAX: usize = 256 * 1024;

/// Parentheses and NOTs around each other in a visibility query: reading and evaluating one recurse.
pub const VISIBILITY_QUERY_DEPTH_MAX: usize = 100;

/// Records in one page of a list; Temporal's `frontend.visibilityMaxPageSize`, which is its default too.
pub const VISIBILITY_PAGE_SIZE_MAX: usize = 1000;

/// A page of a list that has so many bytes gets no further record, of which none has more than a memo may and some kilobytes: a thousand of
/// those would be 2 GB.
pub const VISIBILITY_PAGE_BYTES_MAX: usize = 4 << 20;

/// Visibility rows that one step of a list or count examines before it lets others have the thread: about a millisecond. With a
/// filter of more than [`VISIBILITY_STEP_COMPARISONS`] comparisons they are fewer.
pub const VISIBILITY_SCAN_ROWS: usize = 4000;

/// Comparisons of a filter that reading a row outweighs.
pub const VISIBILITY_STEP_COMPARISONS: usize = 32;

/// Visibility rows that are counted as one remembered segment: what has to be read again when one of them changes.
pub const VISIBILITY_TALLY_SEGMENT_ROWS: usize = 16_000;

/// Remembered segments of counts, about a kilobyte each, for all partitions: every commit looks for those that it changes. Those of
/// the counts that were not asked for longest are forgotten.
pub const VISIBILITY_TALLY_SEGMENTS_MAX: usize = 512;

/// Length of a filter whose counts are remembered, bytes: longer ones name single runs, and are not asked again.
pub const VISIBILITY_TALLY_FILTER_BYTES_MAX: usize = 2048;

/// Steps of lists and counts at a time, for the whole node: what is left of two cores is for workflows.
pub const VISIBILITY_SCANS_MAX: usize = 4;

/// Worker deployments of a namespace; Temporal's `matching.maxDeployments`. Each is known on every node.
pub const DEPLOYMENTS_MAX: usize = 100;

/// Versions of a deployment; `matching.maxVersionsInDeployment`.
pub const DEPLOYMENT_VERSIONS_MAX: usize = 100;

/// Task queues of a version, by name; `matching.maxTaskQueuesInDeploymentVersion`.
pub const DEPLOYMENT_VERSION_QUEUES_MAX: usize = 100;

/// Versions that poll one task queue; `matching.maxVersionsInTaskQueue`.
pub const QUEUE_VERSIONS_MAX: usize = 200;

/// How often it is counted what is pinned to a version that drains. Temporal asks every three minutes, because its counts come late.
pub const DRAINAGE_INTERVAL: Duration = Duration::from_secs(10);

/// How often it is looked whether something is pinned to a version that has drained, or never was current.
pub const DRAINED_INTERVAL: Duration = Duration::from_secs(60);

/// How long until it is written once more that a version still drains, seconds.
pub const DRAINAGE_TOLD_SECONDS: i64 = 180;
