//! Resets: clients send workflows back to one of their workflow tasks, and what others have asked of them since is not to be lost.

use std::collections::{HashMap, HashSet};

use everlog_kernel::command::Reply;
use everlog_kernel::reset::{End, Kept, Later, Reset};
use everlog_kernel::state::Run;
use everlog_kernel::{Command, RunId};
use everlog_model::CallError;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::api::workflowservice::v1::ResetWorkflowExecutionRequest;
use tokio::sync::oneshot;

use super::Sabotage;
use super::clients::Asked;
use super::world::{TwinRows, World};
use crate::job::{Charge, Job, Work};
use crate::reset::{read_events, read_kept};

/// How often a client tries again whose reset was overtaken by events.
const TRIES_MAX: u32 = 20;

/// A client that resets a workflow.
pub(super) struct Resetting {
    workflow_id: String,
    request: ResetWorkflowExecutionRequest,
    /// The run that is reset, once it is known, and what was read of it.
    read: Option<(RunId, Kept, Later)>,
    tries: u32,
}

/// What a client is told of a run: its id, the request id of its start, and how far its history goes.
type Seen = Option<(RunId, String, End)>;

/// A client that waits to be told so.
pub(super) struct Look {
    of: Resetting,
    seen: oneshot::Receiver<Result<Seen, CallError>>,
}

impl World {
    /// A client begins to reset a workflow.
    pub(super) fn reset(&mut self, workflow_id: &str) {
        let request = ResetWorkflowExecutionRequest {
            request_id: format!("reset-{}", self.number()),
            reason: "simulated".to_owned(),
            ..ResetWorkflowExecutionRequest::default()
        };
        let workflow_id = workflow_id.to_owned();
        self.look(Resetting { workflow_id, request, read: None, tries: 0 });
    }

    /// Asks how far the history goes that is to be read next.
    fn look(&mut self, of: Resetting) {
        let run_id = match &of.read {
            None => None,
            Some((_, _, later)) => later.goes_on().map(|(run_id, _)| run_id),
        };
        let (tell, seen) = oneshot::channel();
        let work = Work::Inspect(Box::new(move |outcome| {
            let see = |run: &Run| (run.id, run.info.start_request_id.clone(), End::of(run));
            let seen = outcome.map(|(workflow, _)| workflow.run(run_id).map(see));
            Box::new(move |durable| drop(tell.send(durable.and(seen))))
        }));
        let job =
            Job { address: self.address(&of.workflow_id), run_id, work, operation: None, charge: Charge::default() };
        let partition = self.home_of(&of.workflow_id);
        self.looks.push(Look { of, seen });
        self.carry(partition, job);
    }

    /// Clients take what they are told, and read on.
    pub(super) fn hear_of_resets(&mut self) {
        let mut index = 0;
        while index < self.looks.len() {
            match self.looks[index].seen.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => index += 1,
                told => {
                    let Look { of, .. } = self.looks.swap_remove(index);
                    if let Ok(Ok(seen)) = told {
                        self.read_on(of, seen);
                    }
                }
            }
        }
    }

    fn read_on(&mut self, mut of: Resetting, seen: Seen) {
        let address = self.address(&of.workflow_id);
        let group = self.partitions[self.true_home_of(&of.workflow_id)].group;
        let disk = std::sync::Arc::clone(&self.disk);
        let rows = TwinRows(&disk, group);
        // A disk that was killed may not have what was told before.
        let read = |run_id: RunId, from: i64, to: i64| read_events(&rows, &address, run_id, from, to).ok();
        let (base, kept, mut later) = match (of.read.take(), &seen) {
            (Some(read), _) => read,
            (None, Some((base, start_request_id, end))) => {
                let Some(events) = read(*base, 1, end.next_event_id) else { return };
                let Some(until) = self.place(&events, end.next_event_id) else { return };
                of.request.workflow_task_finish_event_id = until;
                let Ok(kept) = read_kept(&rows, &address, *base, start_request_id, until, true) else { return };
                let later = Later::new(&of.request, *base);
                (*base, kept, later)
            }
            (None, None) => return,
        };
        match (later.goes_on(), seen) {
            (Some((run_id, from)), Some((_, _, end))) => {
                let events = read(run_id, from, end.next_event_id);
                let is_blind = self.sabotage == Some(Sabotage::ResetsBlind);
                let Some(events) = events else { return };
                later.take(run_id, end, if is_blind { Vec::new() } else { events });
            }
            (Some(_), None) => later.ends(),
            (None, _) => {}
        }
        let is_open = later.read().1.is_open;
        let goes_on = later.goes_on().is_some();
        if goes_on && !is_open {
            of.read = Some((base, kept, later));
            return self.look(of);
        }
        let reset = Reset { request: of.request.clone(), kept: kept.clone(), later: later.clone() };
        let workflow_id = of.workflow_id.clone();
        of.read = Some((base, kept, later));
        let command = Command::ResetWorkflow(Box::new(reset));
        self.send(&workflow_id, Some(base), command, Asked::Reset(Box::new(of)));
    }

    /// The event behind the start of some workflow task.
    fn place(&mut self, events: &[HistoryEvent], next_event_id: i64) -> Option<i64> {
        let is_start =
            |event: &&HistoryEvent| matches!(event.attributes, Some(Attributes::WorkflowTaskStartedEventAttributes(_)));
        let places: Vec<i64> = events.iter().filter(is_start).map(|event| event.event_id + 1).collect();
        if places.is_empty() {
            return None;
        }
        Some(places[self.random.below(places.len())]).filter(|until| *until < next_event_id)
    }

    pub(super) fn was_reset(&mut self, mut of: Resetting, reply: Reply) {
        match reply {
            Reply::Reset(run_id) => self.started.push(run_id),
            Reply::HistoryGrew if of.tries < TRIES_MAX => {
                of.tries += 1;
                self.look(of);
            }
            _ => {}
        }
    }
}

/// What the histories have of workflows that were reset.
#[derive(Default)]
pub(super) struct FoundResets {
    /// Signals of each run, with the events that have them.
    signals: HashMap<RunId, Vec<(i64, String)>>,
    /// Runs that go on from another one: that, and the first event of their own.
    went_on: HashMap<RunId, (RunId, i64)>,
    /// Runs that a reset has closed.
    closed_by_reset: HashSet<RunId>,
    /// First runs of chains in which there is a reset.
    chains: HashSet<RunId>,
}

impl FoundResets {
    /// Takes in a run with its history and the events that wait for their place in it.
    pub(super) fn run<'a>(&mut self, run: &Run, events: impl Iterator<Item = &'a HistoryEvent>) {
        let signals = self.signals.entry(run.id).or_default();
        for event in events {
            match &event.attributes {
                Some(Attributes::WorkflowExecutionSignaledEventAttributes(signal)) => {
                    assert!(
                        signals.iter().all(|(_, name)| *name != signal.signal_name),
                        "{} is twice in run {}",
                        signal.signal_name,
                        run.id
                    );
                    signals.push((event.event_id, signal.signal_name.clone()));
                }
                Some(Attributes::WorkflowExecutionTerminatedEventAttributes(end))
                    if end.identity == "history-resetter" && run.state.reset_run_id.is_some() =>
                {
                    self.closed_by_reset.insert(run.id);
                }
                _ => {}
            }
        }
        if let Some(branch) = &run.branch {
            self.went_on.insert(run.id, (branch.base_run_id, branch.first_own_event_id()));
            self.chains.insert(run.first_run_id());
        }
    }

    /// What came to a run behind the event to which it was reset has come to the run that goes on from there.
    pub(super) fn check(&self) {
        for (run_id, (base, until)) in &self.went_on {
            let own: HashSet<&String> = self.signals[run_id].iter().map(|(_, name)| name).collect();
            for (event_id, name) in &self.signals[base] {
                assert!(
                    own.contains(name),
                    "{name}, event {event_id} of {base}, is lost in {run_id}, reset to {until}"
                );
            }
        }
    }

    /// Whether each run of a chain of resets, from `run_id` back to `first`, was closed by the reset that the next one began with.
    pub(super) fn were_closed_by_it(&self, run_id: RunId, first: RunId) -> bool {
        let mut run_id = run_id;
        while run_id != first {
            match self.went_on.get(&run_id) {
                Some((base, _)) if self.closed_by_reset.contains(base) => run_id = *base,
                _ => return false,
            }
        }
        true
    }

    /// Whether a run of the chain that began with this run began with a reset.
    pub(super) fn is_chain_of_one(&self, first_run_id: RunId) -> bool {
        self.chains.contains(&first_run_id)
    }

    /// Whether some run of a chain of resets goes on from this one.
    pub(super) fn was_reset(&self, run_id: RunId) -> bool {
        self.went_on.values().any(|(base, _)| *base == run_id)
    }
}
