//! What parents and children must agree on once every message has arrived.

use std::collections::{HashMap, HashSet};

use everlog_kernel::RunId;
use everlog_kernel::outbox::child_run_id;
use everlog_kernel::state::Run;
use everlog_proto::api::enums::v1::ParentClosePolicy;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes;

use super::resets::FoundResets;

/// What is in the histories of parents and children.
#[derive(Default)]
pub(super) struct Families {
    /// Every child that a run has asked for, by run and event.
    asked: HashMap<(RunId, i64), Child>,
    /// First runs of children, and their chains that go on.
    begun: HashSet<RunId>,
    going_on: HashSet<RunId>,
    /// How often a closed parent has asked a chain to cancel, by the chain and the parent's run.
    canceled: HashMap<(RunId, String), u32>,
}

/// What a parent knows of a child.
struct Child {
    parent_is_open: bool,
    /// The run whose event has asked for it, if a reset has kept that.
    asked_by: RunId,
    policy: ParentClosePolicy,
    /// Events that tell of it, in order.
    told: Vec<Told>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Started,
    Refused,
    Ended,
}

impl Families {
    /// Takes in a run with its events: those of its history, then those that wait for their place in it.
    pub(super) fn run<'a>(&mut self, run: &Run, events: impl Iterator<Item = &'a HistoryEvent>) {
        let mut ends = Vec::new();
        for event in events {
            match &event.attributes {
                Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) => {
                    self.started(run, started.parent_workflow_execution.is_some());
                }
                Some(Attributes::StartChildWorkflowExecutionInitiatedEventAttributes(initiated)) => {
                    let policy = initiated.parent_close_policy();
                    let owner = run.branch.as_ref().and_then(|branch| branch.owner_of(event.event_id));
                    let asked_by = owner.unwrap_or(run.id);
                    let child = Child { parent_is_open: run.is_open(), asked_by, policy, told: Vec::new() };
                    self.asked.insert((run.id, event.event_id), child);
                }
                Some(Attributes::WorkflowExecutionCancelRequestedEventAttributes(cancel))
                    if cancel.external_initiated_event_id == 0 =>
                {
                    if let Some(parent) = &cancel.external_workflow_execution {
                        *self.canceled.entry((first_run_id(run), parent.run_id.clone())).or_default() += 1;
                    }
                }
                Some(attributes) => ends.extend(told(attributes)),
                None => {}
            }
        }
        for (initiated, told) in ends {
            let child = self.asked.get_mut(&(run.id, initiated)).expect("a child was asked for");
            child.told.push(told);
        }
    }

    fn started(&mut self, run: &Run, is_child: bool) {
        let first_run_id = first_run_id(run);
        if is_child {
            self.begun.insert(first_run_id);
        }
        if run.is_open() {
            self.going_on.insert(first_run_id);
        }
    }

    pub(super) fn check(&self, resets: &FoundResets) {
        for ((chain, parent), times) in &self.canceled {
            // A reset tells the run that goes on what its base was told.
            assert!(*times == 1 || resets.is_chain_of_one(*chain), "{parent} has canceled {chain} {times} times");
        }
        for ((parent, initiated), child) in &self.asked {
            let child_run = child_run_id(child.asked_by, *initiated);
            let (begun, goes_on) = (self.begun.contains(&child_run), self.going_on.contains(&child_run));
            let name = format!("child {initiated} of {parent}");
            // What is told first is recorded first, and nothing twice.
            let order = [&[][..], &[Told::Started], &[Told::Started, Told::Ended], &[Told::Refused]];
            assert!(order.contains(&&child.told[..]), "{name}: {:?}", child.told);
            assert!(begun || !child.told.contains(&Told::Started), "{name} is not there");
            // Of several resets each asks for it, and one that asks later may be the first that gets it.
            let is_shared = child.asked_by != *parent || resets.was_reset(*parent);
            let is_unknown = begun && child.told.contains(&Told::Refused);
            assert!(!is_unknown || is_shared, "{name} is there, and its parent does not know");
            if resets.is_chain_of_one(child_run) {
                // It may go on after its end.
                continue;
            }
            // Whose parent had closed before that was reset, has told its end to nobody.
            let is_inherited = !resets.were_closed_by_it(*parent, child.asked_by);
            if child.parent_is_open && !is_inherited {
                let expected = match (begun, goes_on) {
                    (false, _) => &[Told::Refused][..],
                    (true, true) => &[Told::Started],
                    (true, false) => &[Told::Started, Told::Ended],
                };
                assert_eq!(child.told, expected, "{name} of an open run");
            } else {
                // A run that is closed by a reset leaves its children to the one that goes on.
                let is_left = resets.was_reset(*parent) || child.asked_by != *parent;
                let outlives = goes_on && child.policy == ParentClosePolicy::Terminate && !is_left;
                assert!(!outlives, "{name} has outlived its parent");
            }
        }
    }
}

fn first_run_id(run: &Run) -> RunId {
    run.info.started.decode().first_execution_run_id.parse().expect("a run has a first run")
}

/// The child that an event tells of, and what it tells.
fn told(attributes: &Attributes) -> Option<(i64, Told)> {
    use Attributes as A;
    Some(match attributes {
        A::ChildWorkflowExecutionStartedEventAttributes(a) => (a.initiated_event_id, Told::Started),
        A::StartChildWorkflowExecutionFailedEventAttributes(a) => (a.initiated_event_id, Told::Refused),
        A::ChildWorkflowExecutionCompletedEventAttributes(a) => (a.initiated_event_id, Told::Ended),
        A::ChildWorkflowExecutionFailedEventAttributes(a) => (a.initiated_event_id, Told::Ended),
        A::ChildWorkflowExecutionCanceledEventAttributes(a) => (a.initiated_event_id, Told::Ended),
        A::ChildWorkflowExecutionTimedOutEventAttributes(a) => (a.initiated_event_id, Told::Ended),
        A::ChildWorkflowExecutionTerminatedEventAttributes(a) => (a.initiated_event_id, Told::Ended),
        _ => return None,
    })
}
