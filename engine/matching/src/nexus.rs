//! Requests to Nexus services meet workers that poll for them.
//!
//! A request is no task with a row: whoever makes it waits for the worker's answer, and makes it again if there is none. So it is in memory
//! only, at the home of its queue, for as long as its caller waits.
//!
//! ```text
//!   caller ──dispatch──▶ ┌ queue ──────────┐
//!                        │ requests, polls │ ──request, token──▶ worker
//!   worker ──poll──────▶ └─────────────────┘                       │
//!   caller ◀──────────────────────answer, by the token─────────────┘
//! ```
//!
//! A token is a number that nobody can guess: only who was given the request can answer it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use everlog_kernel::NamespaceId;
use everlog_kernel::transition::TaskKind;
use everlog_model::{FastMap, QueueId, limits};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::nexus::v1::{HandlerError, Request, Response};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::handle::AtHome;
use super::rates::RollingCount;
use super::scaling::{Hints, Standing, Waited};
use super::{PollerDescription, ScalingHint, ScalingRules, WorkerVersion};

/// How long it is known who has polled a queue.
const POLLERS_KNOWN: Duration = Duration::from_secs(300);

/// How often queues are forgotten that nobody needs.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Workers that are known of a queue.
const POLLERS_MAX: usize = 1000;

/// A queue of requests to Nexus services.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NexusQueue {
    /// Its namespace.
    pub namespace_id: NamespaceId,
    /// Its name.
    pub name: String,
}

impl NexusQueue {
    /// The queue with which it has its home in common: that of workflow tasks with the same name.
    pub fn home(&self) -> QueueId {
        QueueId::new(self.namespace_id, TaskKind::Workflow, &*self.name)
    }
}

/// A worker's poll.
#[derive(Clone, Debug)]
pub struct NexusPoll {
    /// The queue.
    pub queue: NexusQueue,
    /// The worker.
    pub identity: String,
    /// Names the worker process, where the SDK tells.
    pub worker_instance_key: String,
    /// Of the worker's code, where the worker tells.
    pub version: Option<Arc<WorkerVersion>>,
    /// When its worker is told to poll more or less.
    pub scaling: ScalingRules,
}

/// A request in a worker's hands.
#[derive(Clone, Debug, PartialEq)]
pub struct NexusTask {
    /// What its answer must name.
    pub id: u128,
    /// The request.
    pub request: Request,
    /// Until when its caller waits.
    pub deadline: Instant,
}

/// What a worker has said.
#[derive(Clone, Debug, PartialEq)]
pub enum NexusReply {
    /// The service's answer.
    Response(Box<Response>),
    /// The service could not be asked, or not answer.
    Failure(Box<Failure>),
    /// The same, as old workers say it.
    HandlerError(Box<HandlerError>),
}

/// How a poll has ended.
#[derive(Debug)]
pub enum NexusMatched {
    /// With a request, and whether the worker should have more polls open, or fewer.
    Task(Box<NexusTask>, Option<ScalingHint>),
    /// Nothing came before the deadline, or the server is draining.
    Nothing,
    /// As many polls as may be wait already.
    Full,
    /// The queue is at home on another node by now, or nobody knows where.
    Elsewhere,
}

/// Why nobody has answered a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnswered {
    /// No worker has in time.
    TimedOut,
    /// As many requests as may be wait already.
    Full,
}

/// The requests that wait at this node, and who polls for them.
#[derive(Default)]
pub struct NexusTasks {
    at_home: AtHome,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lines: FastMap<NexusQueue, Line>,
    callers: FastMap<u128, oneshot::Sender<NexusReply>>,
    last_poll: u64,
    is_draining: bool,
    swept: Option<Instant>,
}

#[derive(Default)]
struct Line {
    tasks: VecDeque<NexusTask>,
    polls: VecDeque<Waiting>,
    pollers: FastMap<String, Poller>,
    hints: Hints,
    flow: Option<Flow>,
}

/// Requests that came and were handed out lately.
struct Flow {
    added: RollingCount,
    dispatched: RollingCount,
}

impl Flow {
    fn new(now: Instant) -> Flow {
        Flow { added: RollingCount::new(now), dispatched: RollingCount::new(now) }
    }
}

/// A poll that waits.
struct Waiting {
    number: u64,
    worker_instance_key: String,
    since: Instant,
    scaling: ScalingRules,
    sender: oneshot::Sender<(NexusTask, Option<ScalingHint>)>,
}

struct Poller {
    last_access: SystemTime,
    version: Option<Arc<WorkerVersion>>,
}

impl NexusTasks {
    pub(super) fn new(at_home: AtHome) -> NexusTasks {
        NexusTasks { at_home, state: Mutex::default() }
    }

    /// Has a worker answer a request until `deadline`. Dropped, the request is taken back.
    ///
    /// # Errors
    ///
    /// [`NotAnswered`] if none does.
    pub async fn dispatch(
        &self,
        queue: NexusQueue,
        request: Request,
        deadline: Instant,
    ) -> Result<NexusReply, NotAnswered> {
        let id = random();
        let (sender, answer) = oneshot::channel();
        let _caller = {
            let mut state = self.state.lock();
            if state.callers.len() >= limits::NEXUS_REQUESTS_MAX {
                return Err(NotAnswered::Full);
            }
            state.callers.insert(id, sender);
            state.count_added(&queue);
            state.offer(queue.clone(), NexusTask { id, request, deadline });
            Caller { tasks: self, queue, id }
        };
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) | Err(_) => Err(NotAnswered::TimedOut),
        }
    }

    /// Waits for a request until `until`. Dropping the future ends the poll; a request that it was given by then goes to another one.
    pub async fn poll(&self, poll: NexusPoll, until: Instant) -> NexusMatched {
        let mut waiting = {
            let mut state = self.state.lock();
            if state.is_draining || until <= Instant::now() {
                return NexusMatched::Nothing;
            }
            if !self.at_home.has(&poll.queue.home()) {
                return NexusMatched::Elsewhere;
            }
            state.sweep();
            state.last_poll += 1;
            let number = state.last_poll;
            let State { lines, callers, .. } = &mut *state;
            if lines.len() >= limits::QUEUES_MAX && !lines.contains_key(&poll.queue) {
                return NexusMatched::Full;
            }
            let line = lines.entry(poll.queue.clone()).or_default();
            if line.pollers.len() < POLLERS_MAX || line.pollers.contains_key(&poll.identity) {
                let poller = Poller { last_access: SystemTime::now(), version: poll.version.clone() };
                line.pollers.insert(poll.identity.clone(), poller);
            }
            let now = Instant::now();
            while let Some(task) = line.tasks.pop_front() {
                if callers.contains_key(&task.id) {
                    let hint = line.hand_out(&poll.scaling, Waited { poll: Duration::ZERO, task: true }, now);
                    return NexusMatched::Task(Box::new(task), hint);
                }
            }
            if line.polls.len() >= limits::QUEUE_POLLS_MAX {
                return NexusMatched::Full;
            }
            let (sender, receiver) = oneshot::channel();
            let worker_instance_key = poll.worker_instance_key.clone();
            let scaling = poll.scaling;
            line.polls.push_back(Waiting { number, worker_instance_key, since: now, scaling, sender });
            WaitingPoll { tasks: self, queue: poll.queue, number, receiver }
        };
        match tokio::time::timeout_at(until, &mut waiting.receiver).await {
            Ok(Ok((task, hint))) => NexusMatched::Task(Box::new(task), hint),
            Ok(Err(_)) | Err(_) => NexusMatched::Nothing,
        }
    }

    /// Answers a request. False if nobody waits for that any more.
    pub fn answer(&self, id: u128, reply: NexusReply) -> bool {
        let caller = self.state.lock().callers.remove(&id);
        caller.is_some_and(|caller| caller.send(reply).is_ok())
    }

    /// Who has polled a queue lately.
    pub fn pollers(&self, queue: &NexusQueue) -> Vec<PollerDescription> {
        let state = self.state.lock();
        let pollers = state.lines.get(queue).into_iter().flat_map(|line| &line.pollers);
        let known = pollers.filter(|(_, poller)| poller.is_known());
        known
            .map(|(identity, poller)| PollerDescription {
                identity: identity.clone(),
                last_access: poller.last_access,
                rate_per_second: None,
                version: poller.version.clone(),
            })
            .collect()
    }

    /// Ends the polls of a worker process.
    pub(super) fn end_polls_of(&self, worker_instance_key: &str) {
        if worker_instance_key.is_empty() {
            return;
        }
        for line in self.state.lock().lines.values_mut() {
            line.polls.retain(|poll| poll.worker_instance_key != worker_instance_key);
        }
    }

    /// Ends the polls of queues that are at home elsewhere from now on.
    pub(super) fn end_polls_elsewhere(&self, is_elsewhere: impl Fn(&NexusQueue) -> bool) {
        for (queue, line) in &mut self.state.lock().lines {
            if is_elsewhere(queue) {
                line.polls.clear();
            }
        }
    }

    /// The server stops: every poll ends empty, now and from here on.
    pub(super) fn drain(&self) {
        let mut state = self.state.lock();
        state.is_draining = true;
        state.lines.values_mut().for_each(|line| line.polls.clear());
    }
}

impl State {
    /// Gives a request to the poll that waits longest, or has it wait.
    fn offer(&mut self, queue: NexusQueue, mut task: NexusTask) {
        let line = self.lines.entry(queue).or_default();
        let now = Instant::now();
        while let Some(poll) = line.polls.pop_front() {
            let hint = line.hand_out(&poll.scaling, Waited { poll: now.duration_since(poll.since), task: false }, now);
            match poll.sender.send((task, hint)) {
                Ok(()) => return,
                // Its worker has gone away.
                Err((back, _)) => task = back,
            }
        }
        line.tasks.push_back(task);
    }

    fn count_added(&mut self, queue: &NexusQueue) {
        let now = Instant::now();
        let line = self.lines.entry(queue.clone()).or_default();
        line.flow.get_or_insert_with(|| Flow::new(now)).added.count(now);
    }

    /// Forgets the queues that nobody needs.
    fn sweep(&mut self) {
        let now = Instant::now();
        if self.swept.is_some_and(|swept| now.duration_since(swept) < SWEEP_INTERVAL) {
            return;
        }
        self.swept = Some(now);
        self.lines.retain(|_, line| {
            line.pollers.retain(|_, poller| poller.is_known());
            !line.tasks.is_empty() || !line.polls.is_empty() || !line.pollers.is_empty()
        });
    }
}

impl Line {
    /// Counts a request that is handed out, and says whether the worker is to poll more or less. Requests are no backlog: those that nobody
    /// takes at once soon go.
    fn hand_out(&mut self, rules: &ScalingRules, waited: Waited, now: Instant) -> Option<ScalingHint> {
        let flow = self.flow.get_or_insert_with(|| Flow::new(now));
        flow.dispatched.count(now);
        let standing = || {
            let (added, dispatched) = (flow.added.per_second(now), flow.dispatched.per_second(now));
            Standing { added, dispatched, ..Standing::default() }
        };
        self.hints.hint(rules, waited, self.pollers.len(), now, standing)
    }
}

impl Poller {
    fn is_known(&self) -> bool {
        self.last_access.elapsed().is_ok_and(|age| age < POLLERS_KNOWN)
    }
}

/// Who waits for an answer.
struct Caller<'a> {
    tasks: &'a NexusTasks,
    queue: NexusQueue,
    id: u128,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let mut state = self.tasks.state.lock();
        state.callers.remove(&self.id);
        if let Some(line) = state.lines.get_mut(&self.queue) {
            line.tasks.retain(|task| task.id != self.id);
        }
    }
}

/// A poll that waits.
struct WaitingPoll<'a> {
    tasks: &'a NexusTasks,
    queue: NexusQueue,
    number: u64,
    receiver: oneshot::Receiver<(NexusTask, Option<ScalingHint>)>,
}

impl Drop for WaitingPoll<'_> {
    fn drop(&mut self) {
        let mut state = self.tasks.state.lock();
        if let Some(line) = state.lines.get_mut(&self.queue) {
            line.polls.retain(|poll| poll.number != self.number);
        }
        // What it was given and has not taken is for another one.
        if let Ok((task, _)) = self.receiver.try_recv()
            && state.callers.contains_key(&task.id)
        {
            state.offer(self.queue.clone(), task);
        }
    }
}

/// A number that nobody can guess.
fn random() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has random numbers once it has started");
    u128::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> NexusQueue {
        NexusQueue { namespace_id: NamespaceId([1; 16]), name: "q".to_owned() }
    }

    fn poll(identity: &str) -> NexusPoll {
        let (identity, key) = (identity.to_owned(), format!("{identity}-key"));
        NexusPoll {
            queue: queue(),
            identity,
            worker_instance_key: key,
            version: None,
            scaling: ScalingRules::default(),
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn reply() -> NexusReply {
        NexusReply::Response(Box::default())
    }

    async fn take(tasks: &NexusTasks, identity: &str) -> Option<NexusTask> {
        match tasks.poll(poll(identity), soon()).await {
            NexusMatched::Task(task, _) => Some(*task),
            NexusMatched::Nothing | NexusMatched::Full | NexusMatched::Elsewhere => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_answered_by_who_was_given_it() {
        let tasks = NexusTasks::default();
        let (answer, ()) = tokio::join!(tasks.dispatch(queue(), Request::default(), soon()), async {
            let task = take(&tasks, "w").await.unwrap();
            assert!(!tasks.answer(task.id ^ 1, reply()));
            assert!(tasks.answer(task.id, reply()));
            assert!(!tasks.answer(task.id, reply()), "it was answered");
        });
        assert_eq!(answer, Ok(reply()));
        assert_eq!(tasks.pollers(&queue()).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn polls_wait_in_line_and_one_that_is_gone_is_passed_over() {
        let tasks = NexusTasks::default();
        let gone = tasks.poll(poll("gone"), soon());
        let waits = tokio::time::timeout(Duration::from_millis(1), gone).await;
        assert!(waits.is_err());
        let (task, _) = tokio::join!(take(&tasks, "w"), async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            tasks.dispatch(queue(), Request::default(), soon()).await
        });
        assert!(task.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_nobody_answers_is_forgotten() {
        let tasks = NexusTasks::default();
        assert_eq!(tasks.dispatch(queue(), Request::default(), soon()).await, Err(NotAnswered::TimedOut));
        assert_eq!(take(&tasks, "w").await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_lost_poll_was_given_goes_to_another_one() {
        let tasks = NexusTasks::default();
        let lost = Box::pin(tasks.poll(poll("lost"), soon()));
        let mut lost = lost;
        assert!(futures::poll!(&mut lost).is_pending());
        let mut call = Box::pin(tasks.dispatch(queue(), Request::default(), soon()));
        assert!(futures::poll!(&mut call).is_pending());
        drop(lost);
        let task = take(&tasks, "w").await.unwrap();
        assert!(tasks.answer(task.id, reply()));
        assert_eq!(call.await, Ok(reply()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_told_to_poll_more_while_requests_pile_up_and_less_when_it_waits() {
        let tasks = NexusTasks::default();
        let mut calls: Vec<_> = (0..3).map(|_| Box::pin(tasks.dispatch(queue(), Request::default(), soon()))).collect();
        for call in &mut calls {
            assert!(futures::poll!(call).is_pending());
        }
        let mut hints = Vec::new();
        for _ in 0..3 {
            let NexusMatched::Task(_, hint) = tasks.poll(poll("w"), soon()).await else {
                panic!("three requests wait")
            };
            hints.push(hint);
        }
        assert_eq!(hints, [Some(ScalingHint::More), Some(ScalingHint::More), None]);
        let (matched, _) = tokio::join!(tasks.poll(poll("w"), soon()), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            tokio::time::timeout(Duration::from_millis(1), tasks.dispatch(queue(), Request::default(), soon())).await
        });
        assert!(matches!(matched, NexusMatched::Task(_, Some(ScalingHint::Fewer))), "{matched:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn polls_end_with_their_worker_and_with_the_server() {
        let tasks = NexusTasks::default();
        let began = Instant::now();
        let (ended, ()) = tokio::join!(tasks.poll(poll("w"), soon()), async { tasks.end_polls_of("w-key") });
        assert!(matches!(ended, NexusMatched::Nothing));
        let (ended, ()) = tokio::join!(tasks.poll(poll("w"), soon()), async { tasks.drain() });
        assert!(matches!(ended, NexusMatched::Nothing));
        assert!(matches!(tasks.poll(poll("w"), soon()).await, NexusMatched::Nothing));
        assert_eq!(began, Instant::now());
    }
}
