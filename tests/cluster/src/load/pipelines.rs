//! Workflows with activities, a timer and signals, one caller each, all of which must complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use everlog_proto::api::common::v1::WorkflowType;
use everlog_proto::api::enums::v1::EventType;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;
use everlog_random::Random;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Client, duration, is_transient, payloads, queue, run};
use crate::failure::Failure;
use crate::program::{ONCE, Program, activity_id, signals};
use crate::record::Recorder;
use crate::worker::{Activity, Done};

/// How long a caller insists on one thing: nodes are away for shorter than that.
const INSIST_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a caller waits for the end of its workflow, and how long one call of that waits.
const END_TIME_MAX: Duration = Duration::from_secs(120);
const WAIT: Duration = Duration::from_secs(10);
/// Signals of each workflow.
const SIGNALS: usize = 3;
const TASK_TIME_MAX: Duration = Duration::from_secs(3);
/// Histories that are read at a time.
const READS: usize = 8;

/// What was acknowledged of one workflow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledged {
    pub(crate) run_id: String,
    pub(crate) signals: BTreeSet<u32>,
    /// Signals that were sent, and nobody knows whether they arrived.
    pub(crate) doubtful: BTreeSet<u32>,
}

/// What was found when all was read back.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) checked: u64,
    pub(crate) lost: Vec<String>,
    pub(crate) doubled: Vec<String>,
    pub(crate) failed: Vec<String>,
}

/// Callers of workflows of their own.
#[derive(Clone)]
pub(crate) struct Pipelines {
    pub(crate) client: Arc<Client>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) task_queue: String,
    pub(crate) acknowledged: Arc<Mutex<BTreeMap<String, Acknowledged>>>,
    pub(crate) started: Arc<AtomicUsize>,
}

impl Pipelines {
    /// Starts one workflow after the other in each lane until `stop` is true, and waits for the end of each. The lanes are local tasks.
    pub(crate) fn start(&self, lanes: usize, seed: u64, stop: &watch::Receiver<bool>) -> JoinSet<Result<(), Failure>> {
        let mut running = JoinSet::new();
        for lane in 0..lanes {
            let (pipelines, stop, mut random) =
                (self.clone(), stop.clone(), Random::new(seed ^ (lane as u64 + 1) << 40));
            running.spawn_local(async move {
                while !*stop.borrow() {
                    let number = pipelines.started.fetch_add(1, Ordering::Relaxed);
                    let id = format!("pipeline-{number}");
                    let one = pipelines.one(&id, lane, &mut random).await;
                    one.map_err(|Failure(text)| Failure(format!("{id}: {text}")))?;
                }
                Ok(())
            });
        }
        running
    }

    async fn one(&self, id: &str, lane: usize, random: &mut Random) -> Result<(), Failure> {
        let request = StartWorkflowExecutionRequest {
            workflow_id: id.to_owned(),
            workflow_type: Some(WorkflowType { name: "pipeline".to_owned() }),
            task_queue: Some(queue(&self.task_queue)),
            input: Some(payloads(&Program::Pipeline { signals: SIGNALS })),
            request_id: format!("{id}-start"),
            workflow_task_timeout: Some(duration(TASK_TIME_MAX)),
            ..Default::default()
        };
        let started =
            self.client.insist(lane, INSIST_TIME_MAX, async |node| self.client.start(node, request.clone()).await);
        let run_id = started.await?.run_id;
        let acknowledged = Acknowledged { run_id: run_id.clone(), ..Default::default() };
        self.acknowledged.lock().insert(id.to_owned(), acknowledged);
        let mut sent = 0;
        while sent < SIGNALS {
            let (number, node) = (self.recorder.next(), self.client.near(random.below(self.client.nodes())));
            if random.one_in(3) {
                // Without an id it is sent once: it may be lost if nobody has acknowledged it.
                match self.client.signal(node, run(id, &run_id), "signal", number, None).await {
                    Ok(()) => sent += usize::from(self.note(id, |one| one.signals.insert(number))),
                    Err(status) if is_transient(&status) => drop(self.note(id, |one| one.doubtful.insert(number))),
                    // Those that nobody has acknowledged were enough for it to complete.
                    Err(_) if self.is_doubtful(id) => break,
                    Err(status) => return Err(status.into()),
                }
                continue;
            }
            let request_id = format!("{id}-{number}");
            self.note(id, |one| one.doubtful.insert(number));
            let signaled = self.client.insist(node, INSIST_TIME_MAX, async |node| {
                self.client.signal(node, run(id, &run_id), "signal", number, Some(request_id.clone())).await
            });
            match signaled.await {
                Ok(()) => sent += usize::from(self.note(id, |one| one.signals.insert(number))),
                Err(_) if self.note(id, |one| one.doubtful.len() > 1) => break,
                Err(error) => return Err(error),
            }
        }
        self.until_closed(id, &run_id, random).await
    }

    fn is_doubtful(&self, id: &str) -> bool {
        self.note(id, |one| !one.doubtful.is_empty())
    }

    fn note(&self, id: &str, change: impl FnOnce(&mut Acknowledged) -> bool) -> bool {
        self.acknowledged.lock().get_mut(id).is_some_and(change)
    }

    /// Waits at one node after the other, as a client that is told to reconnect.
    async fn until_closed(&self, id: &str, run_id: &str, random: &mut Random) -> Result<(), Failure> {
        let until = tokio::time::Instant::now() + END_TIME_MAX;
        let mut token = Vec::new();
        let mut node = random.below(self.client.nodes());
        loop {
            match self.client.history_page(node, run(id, run_id), token.clone(), Some(WAIT)).await {
                Ok((events, _)) if !events.is_empty() => return Ok(()),
                Ok((_, next)) => token = next,
                Err(status) if is_transient(&status) => {
                    node = (node + 1) % self.client.nodes();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(status) => return Err(status.into()),
            }
            if tokio::time::Instant::now() > until {
                let events = self.client.history(node, run(id, run_id)).await?;
                let last = events.last().map(|event| (event.event_id, event.event_type()));
                return Err(Failure(format!("it hangs; its last event is {last:?}")));
            }
        }
    }

    /// Reads every workflow back, and compares it with what callers and workers were told.
    pub(crate) async fn read_back(&self, done: &Done) -> Result<Found, Failure> {
        let all = self.acknowledged.lock().clone();
        let mut found = Found::default();
        let mut checks = stream::iter(all.into_iter().enumerate())
            .map(|(number, (id, acknowledged))| async move {
                let mut found = Found::default();
                self.check(number % self.client.nodes(), &id, &acknowledged, done, &mut found).await?;
                Ok::<_, Failure>(found)
            })
            .buffer_unordered(READS);
        while let Some(one) = checks.next().await {
            let Found { checked, lost, doubled, failed } = one?;
            found.checked += checked;
            found.lost.extend(lost);
            found.doubled.extend(doubled);
            found.failed.extend(failed);
        }
        let twice = done.handed_out.iter().filter(|((.., activity), count)| activity == ONCE && **count > 1);
        found.doubled.extend(twice.map(|(activity, count)| format!("{activity:?} was handed out {count} times")));
        Ok(found)
    }

    async fn check(
        &self,
        node: usize,
        id: &str,
        acknowledged: &Acknowledged,
        done: &Done,
        found: &mut Found,
    ) -> Result<(), Failure> {
        let run_id = &acknowledged.run_id;
        let read =
            self.client.insist(node, INSIST_TIME_MAX, async |node| self.client.history(node, run(id, run_id)).await);
        let Ok(events) = read.await else {
            found.lost.push(format!("{id}: the run that was started is not there"));
            return Ok(());
        };
        if !events.iter().zip(1..).all(|(event, expected)| event.event_id == expected) {
            found.lost.push(format!("{id}: its history has holes"));
        }
        if events.last().map(|event| event.event_type()) != Some(EventType::WorkflowExecutionCompleted) {
            found.failed.push(format!("{id}: the last event is {:?}", events.last().map(|event| event.event_type())));
        }
        let numbers: Vec<u32> = signals(&events).into_iter().map(|(number, _)| number).collect();
        let there: BTreeSet<u32> = numbers.iter().copied().collect();
        if there.len() < numbers.len() {
            found.doubled.push(format!("{id}: a signal is there twice: {numbers:?}"));
        }
        let lost: Vec<_> = acknowledged.signals.difference(&there).collect();
        if !lost.is_empty() {
            found.lost.push(format!("{id}: acknowledged signals are lost: {lost:?}"));
        }
        let known: BTreeSet<_> = acknowledged.signals.union(&acknowledged.doubtful).copied().collect();
        if !there.is_subset(&known) {
            found.doubled.push(format!("{id}: signals that nobody sent: {numbers:?}, sent were {known:?}"));
        }
        found.checked += 1 + acknowledged.signals.len() as u64;
        let (mut completed, mut starts) = (BTreeSet::new(), 0);
        for event in &events {
            match &event.attributes {
                Some(Attributes::ActivityTaskCompletedEventAttributes(one)) => {
                    let activity = activity_id(&events, one.scheduled_event_id).unwrap_or_default();
                    if !completed.insert(activity.to_owned()) {
                        found.doubled.push(format!("{id}: activity {activity} has completed twice"));
                    }
                }
                Some(Attributes::ActivityTaskStartedEventAttributes(one))
                    if activity_id(&events, one.scheduled_event_id) == Some(ONCE) =>
                {
                    starts += one.attempt;
                }
                _ => {}
            }
        }
        if starts > 1 {
            found.doubled.push(format!("{id}: activity {ONCE} was started {starts} times"));
        }
        let is_of_run = |activity: &Activity| activity.0 == id && activity.1 == *run_id;
        for activity in done.completed.keys().filter(|activity| is_of_run(activity)) {
            found.checked += 1;
            if !completed.contains(&activity.2) {
                found.lost.push(format!("{id}: the acknowledged completion of activity {} is lost", activity.2));
            }
        }
        Ok(())
    }
}
