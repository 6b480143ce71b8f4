//! Schedules that clients use, and what they and the workflows that they start must agree on once every message has arrived.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use everlog_kernel::state::Run;
use everlog_kernel::{Context, EntityKind, Ids, Limits, Reply, RunId, ScheduleCommand, Time, schedule};
use everlog_proto::api::common::v1::WorkflowType;
use everlog_proto::api::schedule::v1::schedule_action::Action;
use everlog_proto::api::schedule::v1::{
    BackfillRequest, IntervalSpec, Schedule, ScheduleAction, SchedulePatch, SchedulePolicies, ScheduleSpec,
    ScheduleState, TriggerImmediatelyRequest,
};
use everlog_proto::api::workflow::v1::NewWorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::{CreateScheduleRequest, PatchScheduleRequest};
use everlog_proto::wkt::Timestamp;

use super::clients::{Asked, WORKFLOWS, queue, workflow_id};
use super::workers::seconds;
use super::world::{TwinRows, World};
use crate::load::{Found as Loaded, LoadRequest, serve};
use crate::machine::Machine;

/// Policies by their numbers, the one of the schedule among them.
const POLICIES: usize = 7;

/// What is in the histories of workflows that schedules have started.
#[derive(Default)]
pub(super) struct Scheduled {
    /// First runs of chains, by the id of their start.
    begun: HashMap<String, RunId>,
    /// Chains that go on.
    going_on: HashSet<RunId>,
    /// What schedules take for going on, with the chain.
    believed: Vec<(String, RunId)>,
}

impl World {
    /// A client creates a schedule, or has one act.
    pub(super) fn schedule(&mut self, partition: usize) {
        let id = format!("{partition}-schedule");
        let number = self.number();
        let request_id = format!("schedule-{number}");
        let policy = self.random.below(POLICIES) as i32;
        let command = match self.random.below(6) {
            0 => ScheduleCommand::Create(Box::new(self.creation(partition, request_id))),
            1 if self.random.percent(10) => ScheduleCommand::Delete,
            _ => {
                let trigger = TriggerImmediatelyRequest { overlap_policy: policy, scheduled_time: None };
                let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
                let backfill =
                    BackfillRequest { start_time: at(1_000_000), end_time: at(1_000_020), overlap_policy: policy };
                let is_backfill = self.random.percent(20);
                let patch = SchedulePatch {
                    trigger_immediately: (!is_backfill).then_some(trigger),
                    backfill_request: is_backfill.then_some(backfill).into_iter().collect(),
                    ..SchedulePatch::default()
                };
                let request =
                    PatchScheduleRequest { patch: Some(patch), request_id, ..PatchScheduleRequest::default() };
                ScheduleCommand::Patch(Box::new(request))
            }
        };
        self.send(&id, None, command, Asked::Other);
    }

    fn creation(&mut self, partition: usize, request_id: String) -> CreateScheduleRequest {
        // Workflows of any partition, under ids that clients use as well.
        let other = (partition + self.random.below(self.partitions.len())) % self.partitions.len();
        let start = NewWorkflowExecutionInfo {
            workflow_id: workflow_id(other, self.random.below(WORKFLOWS)),
            workflow_type: Some(WorkflowType { name: "T".to_owned() }),
            task_queue: queue(),
            ..NewWorkflowExecutionInfo::default()
        };
        let every = IntervalSpec { interval: Some(seconds(1 + self.random.below(3) as i64)), phase: None };
        let definition = Schedule {
            spec: Some(ScheduleSpec { interval: vec![every], ..ScheduleSpec::default() }),
            action: Some(ScheduleAction { action: Some(Action::StartWorkflow(start)) }),
            policies: Some(SchedulePolicies {
                overlap_policy: self.random.below(POLICIES) as i32,
                keep_original_workflow_id: true,
                ..SchedulePolicies::default()
            }),
            // It comes to rest before the end.
            state: Some(ScheduleState { limited_actions: true, remaining_actions: 4, ..ScheduleState::default() }),
        };
        CreateScheduleRequest { schedule: Some(definition), request_id, ..CreateScheduleRequest::default() }
    }

    /// What a partition's schedule takes for going on.
    pub(super) fn check_schedule(&self, rows: &TwinRows<'_>, partition: usize, now: Time, found: &mut Scheduled) {
        let id = format!("{partition}-schedule");
        let entity = self.address(&id).entity_of(EntityKind::Schedule);
        let request = LoadRequest { entity, born: 0, runs: Vec::new(), with_current: true, search: None };
        let Ok(Loaded::Machine(Machine::Schedule(mut schedule))) = serve(rows, request).found else {
            panic!("rows are readable")
        };
        if !schedule.exists() {
            return;
        }
        assert!(!schedule.has_unsettled(), "{id} does not know what became of its starts");
        let overdue = schedule.next_look().filter(|(_, look)| look.plus(Duration::from_secs(5)) < now);
        assert_eq!(overdue, None, "{id} was forgotten by time");
        let mut context =
            Context { now, latest: now, namespace: &self.namespace, limits: &Limits::default(), ids: &mut Ids::new(0) };
        let described = schedule::decide(&mut schedule, ScheduleCommand::Describe, &mut context);
        let Ok(Reply::Schedule(described, _)) = described.expect("it is there").reply else { panic!("a description") };
        let info = described.info.unwrap_or_default();
        let running = info.running_workflows.into_iter().map(|run| run.run_id.parse().expect("a run id"));
        found.believed.extend(running.map(|run_id| (id.clone(), run_id)));
    }
}

impl Scheduled {
    /// Takes in a run.
    pub(super) fn run(&mut self, run: &Run) {
        if run.info.scheduled_by.is_none() {
            return;
        }
        if run.first_run_id() == run.id {
            let other = self.begun.insert(run.info.start_request_id.clone(), run.id);
            assert_eq!(other, None, "{} was started twice", run.info.start_request_id);
        }
        if run.is_open() {
            self.going_on.insert(run.first_run_id());
        }
    }

    pub(super) fn check(&self) {
        for (schedule, run_id) in &self.believed {
            assert!(self.going_on.contains(run_id), "{schedule} does not know that {run_id} has ended");
        }
    }
}
