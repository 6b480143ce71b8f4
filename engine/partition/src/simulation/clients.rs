//! Clients: what they ask for, and what they remember of the answers.

use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::command::Reply;
use everlog_kernel::outbox::{MessageBody, Outcome};
use everlog_kernel::{Command, Limits, RunCommand, RunId};
use everlog_model::{CallError, OperationId, WorkflowRef};
use everlog_proto::api::common::v1::{RetryPolicy, WorkflowType};
use everlog_proto::api::enums::v1::WorkflowIdConflictPolicy;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::{
    SignalWithStartWorkflowExecutionRequest, SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest,
};
use everlog_raft::LeadEpoch;
use everlog_storage::keys::OutboxKey;
use tokio::sync::oneshot;

use super::Sabotage;
use super::resets::Resetting;
use super::workers::{Held, seconds};
use super::world::{Event, World};
use crate::job::{Answer, Charge, Job, Work};
use crate::load::{Read, ReadRows};
use crate::outbox::{Delivery, Parcel};

/// Workflows of each partition: few, so that commands meet.
pub(super) const WORKFLOWS: usize = 2;

/// Requests of a burst: more than make a batch full.
const BURST: usize = 20;

/// How often a call without an id is made: together in far less time than the journal remembers it.
const TRIES: u32 = 5;

/// What a client or a worker waits for.
pub(super) enum Asked {
    Start,
    Signal(String),
    /// A signal without an id, which is made again as the node does that a client has called.
    SignalAgain {
        operation: OperationId,
        workflow_id: String,
        name: String,
        tries: u32,
    },
    Task(Box<Held>),
    /// A workflow task's end, with which the next one may come.
    Completion,
    Reset(Box<Resetting>),
    /// A partition that has sent a message, under a lead.
    Message {
        partition: usize,
        epoch: LeadEpoch,
        key: OutboxKey,
    },
    Other,
}

/// A call that is not answered.
pub(super) struct Call {
    asked: Asked,
    answer: oneshot::Receiver<Result<Answer, CallError>>,
}

/// The id of a workflow of a partition.
pub(super) fn workflow_id(partition: usize, number: usize) -> String {
    format!("{partition}-{number}")
}

/// The partition that a workflow begins in.
pub(super) fn prefix_of(workflow_id: &str) -> usize {
    let (partition, _) = workflow_id.split_once('-').expect("an id names its partition");
    partition.parse().expect("an id names its partition")
}

pub(super) fn queue() -> Option<TaskQueue> {
    Some(TaskQueue { name: "q".to_owned(), ..TaskQueue::default() })
}

impl World {
    pub(super) fn address(&self, workflow_id: &str) -> WorkflowRef {
        WorkflowRef { namespace: Arc::clone(&self.namespace), workflow_id: workflow_id.into() }
    }

    /// Sends a command to where its workflow is.
    pub(super) fn send(&mut self, workflow_id: &str, run_id: Option<RunId>, command: impl Into<Command>, asked: Asked) {
        let job = self.call(workflow_id, run_id, command.into(), asked);
        let home = self.home_of(workflow_id);
        self.carry(home, job);
    }

    /// A command of somebody who waits for its answer.
    fn call(&mut self, workflow_id: &str, run_id: Option<RunId>, command: Command, asked: Asked) -> Job {
        let (reply, answer) = oneshot::channel();
        let work = Work::Command { command, reply: Some(reply) };
        let operation = match &asked {
            Asked::SignalAgain { operation, .. } => Some(*operation),
            _ => None,
        };
        let job = Job { address: self.address(workflow_id), run_id, work, operation, charge: Charge::default() };
        self.calls.push(Call { asked, answer });
        job
    }

    /// Carries a message to where its target is, as a `Carrier` does. Sometimes it is sent again because nobody has heard of what became of it: the
    /// first one arrives first, since a node takes what comes in order and a lead that follows begins behind all that was decided before.
    pub(super) fn deliver(&mut self, partition: usize, epoch: LeadEpoch, parcel: Parcel) {
        let Parcel { key, message } = parcel;
        if self.sabotage == Some(Sabotage::EndsUntold) && matches!(message.body, MessageBody::ScheduledClosed(_)) {
            let rows = ReadRows::Delivered(key, Delivery::Settled(Outcome::Delivered));
            return self.read_done(partition, Read { epoch, rows });
        }
        let (target, run_id) = (&message.target_workflow_id, message.target_run_id);
        if self.faults && self.random.percent(10) {
            let job = self.call(target, run_id, crate::deliver::receipt(&message), Asked::Other);
            let home = self.home_of(target);
            self.after(Duration::ZERO, Event::Arrive { partition: home, job: Box::new(job) });
        }
        let asked = Asked::Message { partition, epoch, key };
        self.send(target, run_id, crate::deliver::receipt(&message), asked);
    }

    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn client(&mut self) {
        if !self.faults {
            return;
        }
        let delay = self.delay(Duration::from_millis(300));
        self.after(delay, Event::Client);
        let partition = self.random.below(self.partitions.len());
        self.request(partition);
    }

    /// Fills a batch, and more.
    pub(super) fn burst(&mut self, partition: usize) {
        for _ in 0..BURST {
            self.signal_with_start(partition);
        }
    }

    fn request(&mut self, partition: usize) {
        match self.random.below(18) {
            15..=17 => {
                let workflow_id = self.some_workflow(partition);
                self.operate(&workflow_id);
            }
            12 | 13 => self.schedule(partition),
            14 => {
                let workflow_id = self.some_workflow(partition);
                self.reset(&workflow_id);
            }
            10 | 11 => {
                let workflow_id = self.some_workflow(partition);
                self.update(&workflow_id);
            }
            0..=3 => self.start(partition),
            4..=6 => self.signal(partition),
            7 | 8 => self.signal_with_start(partition),
            _ => self.terminate(partition),
        }
    }

    fn some_workflow(&mut self, partition: usize) -> String {
        workflow_id(partition, self.random.below(WORKFLOWS))
    }

    fn start(&mut self, partition: usize) {
        let (workflow_id, number) = (self.some_workflow(partition), self.number());
        let conflict = if self.random.percent(30) {
            WorkflowIdConflictPolicy::TerminateExisting
        } else {
            WorkflowIdConflictPolicy::Fail
        };
        let priority = Some(self.some_priority());
        let request = StartWorkflowExecutionRequest {
            workflow_id: workflow_id.clone(),
            workflow_type: Some(WorkflowType { name: "T".to_owned() }),
            task_queue: queue(),
            priority,
            request_id: format!("start-{number}"),
            workflow_id_conflict_policy: conflict as i32,
            retry_policy: self.random.percent(25).then(|| RetryPolicy {
                initial_interval: Some(seconds(1)),
                maximum_attempts: 3,
                ..RetryPolicy::default()
            }),
            cron_schedule: if self.random.percent(20) { "@every 1s" } else { "" }.to_owned(),
            ..StartWorkflowExecutionRequest::default()
        };
        let command = Command::start(request, &Limits::default()).expect("the request is valid");
        self.send(&workflow_id, None, command, Asked::Start);
    }

    /// A name that no other signal has.
    pub(super) fn signal_name(&mut self) -> String {
        let name = format!("signal-{}", self.number());
        self.signals.insert(name.clone(), false);
        name
    }

    fn signal(&mut self, partition: usize) {
        let (workflow_id, name) = (self.some_workflow(partition), self.signal_name());
        if self.random.percent(50) {
            let operation = OperationId::from_bytes(u128::from(self.number()).to_be_bytes());
            return self.signal_again(operation, workflow_id, name, 1);
        }
        let request = SignalWorkflowExecutionRequest {
            signal_name: name.clone(),
            request_id: name.clone(),
            ..SignalWorkflowExecutionRequest::default()
        };
        self.send(&workflow_id, None, RunCommand::SignalWorkflow(Box::new(request)), Asked::Signal(name));
    }

    fn signal_again(&mut self, operation: OperationId, workflow_id: String, name: String, tries: u32) {
        let request =
            SignalWorkflowExecutionRequest { signal_name: name.clone(), ..SignalWorkflowExecutionRequest::default() };
        let command = RunCommand::SignalWorkflow(Box::new(request));
        let asked = Asked::SignalAgain { operation, workflow_id: workflow_id.clone(), name, tries };
        self.send(&workflow_id, None, command, asked);
    }

    fn signal_with_start(&mut self, partition: usize) {
        let (workflow_id, name) = (self.some_workflow(partition), self.signal_name());
        let request = SignalWithStartWorkflowExecutionRequest {
            workflow_id: workflow_id.clone(),
            workflow_type: Some(WorkflowType { name: "T".to_owned() }),
            task_queue: queue(),
            request_id: name.clone(),
            signal_name: name.clone(),
            ..SignalWithStartWorkflowExecutionRequest::default()
        };
        let command = Command::signal_with_start(request, &Limits::default()).expect("the request is valid");
        self.send(&workflow_id, None, command, Asked::Signal(name));
    }

    fn terminate(&mut self, partition: usize) {
        if self.random.percent(30) {
            let workflow_id = self.some_workflow(partition);
            let request = Box::new(TerminateWorkflowExecutionRequest::default());
            self.send(&workflow_id, None, RunCommand::TerminateWorkflow(request), Asked::Other);
        }
    }

    /// Clients and workers take what has come for them.
    pub(super) fn hear(&mut self) {
        let mut index = 0;
        while index < self.calls.len() {
            let answer = match self.calls[index].answer.try_recv() {
                Ok(answer) => Some(answer),
                Err(oneshot::error::TryRecvError::Closed) => None,
                Err(oneshot::error::TryRecvError::Empty) => {
                    index += 1;
                    continue;
                }
            };
            let call = self.calls.swap_remove(index);
            self.told(call.asked, answer);
        }
        self.hear_of_updates();
        self.hear_of_resets();
        self.look_at_polls();
    }

    fn told(&mut self, asked: Asked, answer: Option<Result<Answer, CallError>>) {
        match (asked, answer) {
            (Asked::Start, Some(Ok(Answer { reply: Reply::Started(started), .. }))) => {
                self.started.push(started.run_id);
            }
            (Asked::Message { partition, epoch, key }, answer) => {
                let delivery = match answer {
                    // What is told may be lost on its way back.
                    _ if self.faults && self.random.percent(10) => Delivery::Again,
                    Some(Ok(_)) => Delivery::Settled(Outcome::Delivered),
                    Some(Err(CallError::Rejected(rejection))) => {
                        Outcome::of_rejection(&rejection).map_or(Delivery::Again, Delivery::Settled)
                    }
                    Some(Err(_)) | None => Delivery::Again,
                };
                self.read_done(partition, Read { epoch, rows: ReadRows::Delivered(key, delivery) });
            }
            (Asked::Signal(name), Some(Ok(_))) => {
                self.signals.insert(name, true);
            }
            (Asked::SignalAgain { operation, workflow_id, name, tries }, answer) => {
                let is_known = match &answer {
                    // What is told may be lost on its way back.
                    Some(Ok(_)) => !(self.faults && self.random.percent(20)),
                    Some(Err(error)) => !matches!(error, CallError::Unavailable(_) | CallError::NotDone(_)),
                    None => false,
                };
                match answer {
                    Some(Ok(_)) if is_known => drop(self.signals.insert(name, true)),
                    _ if !is_known && tries < TRIES => self.signal_again(operation, workflow_id, name, tries + 1),
                    _ => {}
                }
            }
            (Asked::Reset(of), Some(Ok(Answer { reply, .. }))) => self.was_reset(*of, reply),
            (Asked::Task(held), answer) => self.task_answered(*held, answer),
            (Asked::Completion, Some(Ok(Answer { reply: Reply::WorkflowTaskCompleted(completed), .. }))) => {
                if let Some(next) = completed.next {
                    self.started(Reply::WorkflowTaskStarted(next));
                }
            }
            _ => {}
        }
    }
}
