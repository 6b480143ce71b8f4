//! What the benchmark's workflows do. A program is the workflow's input; its state is folded from history events alone, so a
//! worker can answer a task from a cached state and the newest events, or from the whole history, with the same result.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{
    Command, CompleteWorkflowExecutionCommandAttributes, FailWorkflowExecutionCommandAttributes,
    ScheduleActivityTaskCommandAttributes, StartTimerCommandAttributes,
};
use everlog_proto::api::common::v1::{ActivityType, Payloads};
use everlog_proto::api::enums::v1::{CommandType, EventType};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes as EventAttributes;
use serde::{Deserialize, Serialize};

use crate::client::{normal_queue, payloads, wire_duration};

/// How long an attempt of an activity may take; the server then tries again. Attempts are lost when an overloaded server hands
/// one to a poll that has timed out, as workflow tasks are, and those have ten seconds too.
const ACTIVITY_TIMEOUT: Duration = Duration::from_secs(10);

/// The input of a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Program {
    /// `count` activities one after the other, then completes. None at all: completes with its first task.
    Sequential { count: u32 },
    /// `count` activities at once; completes when all have.
    FanOut { count: u32 },
    /// `count` timers due at the same instant; completes when all have fired.
    Timers { count: u32, due_unix_ms: u64 },
    /// Completes with the `count`th signal.
    Signals { count: u32 },
    /// Stays open and answers queries.
    Idle,
}

impl Program {
    /// The program as workflow input.
    pub(crate) fn encode(&self) -> Payloads {
        payloads(serde_json::to_vec(self).expect("an enum of integers always encodes"))
    }

    fn decode(input: &Payloads) -> Option<Self> {
        serde_json::from_slice(&input.payloads.first()?.data).ok()
    }
}

/// The state of one run, folded from its events.
#[derive(Clone, Debug)]
pub(crate) struct RunState {
    program: Program,
    activities_scheduled: u32,
    activities_completed: u32,
    timers_started: u32,
    timers_fired: u32,
    signals: u32,
    failed: bool,
}

impl RunState {
    /// The state at the start of a run; none when the first event is not the start of one of the benchmark's workflows.
    pub(crate) fn at_start(first: &HistoryEvent) -> Option<Self> {
        let Some(EventAttributes::WorkflowExecutionStartedEventAttributes(started)) = &first.attributes else {
            return None;
        };
        Some(RunState {
            program: Program::decode(started.input.as_ref()?)?,
            activities_scheduled: 0,
            activities_completed: 0,
            timers_started: 0,
            timers_fired: 0,
            signals: 0,
            failed: false,
        })
    }

    /// Takes in one event.
    pub(crate) fn observe(&mut self, event: &HistoryEvent) {
        match event.event_type() {
            EventType::ActivityTaskScheduled => self.activities_scheduled += 1,
            EventType::ActivityTaskCompleted => self.activities_completed += 1,
            EventType::ActivityTaskFailed | EventType::ActivityTaskTimedOut => self.failed = true,
            EventType::TimerStarted => self.timers_started += 1,
            EventType::TimerFired => self.timers_fired += 1,
            EventType::WorkflowExecutionSignaled => self.signals += 1,
            _ => {}
        }
    }

    /// When the timers of this run are due, for runs that have such.
    pub(crate) fn timers_due(&self) -> Option<SystemTime> {
        match self.program {
            Program::Timers { due_unix_ms, .. } => Some(UNIX_EPOCH + Duration::from_millis(due_unix_ms)),
            _ => None,
        }
    }

    /// The commands that answer a workflow task in this state.
    pub(crate) fn decide(&self, task_queue: &str, now: SystemTime) -> Vec<Command> {
        if self.failed {
            return vec![fail()];
        }
        match self.program {
            Program::Sequential { count } if self.activities_completed >= count => vec![self.complete()],
            Program::Sequential { .. } if self.activities_scheduled == self.activities_completed => {
                vec![schedule_activity(self.activities_scheduled, task_queue)]
            }
            Program::FanOut { count } if self.activities_completed >= count => vec![self.complete()],
            Program::FanOut { count } if self.activities_scheduled == 0 => {
                (0..count).map(|index| schedule_activity(index, task_queue)).collect()
            }
            Program::Timers { count, .. } if self.timers_fired >= count => vec![self.complete()],
            Program::Timers { count, due_unix_ms } if self.timers_started == 0 => {
                let delay = (UNIX_EPOCH + Duration::from_millis(due_unix_ms)).duration_since(now).unwrap_or_default();
                (0..count).map(|index| start_timer(index, delay.max(Duration::from_millis(1)))).collect()
            }
            Program::Signals { count } if self.signals >= count => vec![self.complete()],
            _ => Vec::new(),
        }
    }

    /// What a query is answered with: how many activities, timers and signals are done.
    pub(crate) fn answer(&self) -> Payloads {
        payloads((self.activities_completed + self.timers_fired + self.signals).to_string().into_bytes())
    }

    fn complete(&self) -> Command {
        let attributes = CompleteWorkflowExecutionCommandAttributes { result: Some(self.answer()) };
        command(
            CommandType::CompleteWorkflowExecution,
            Attributes::CompleteWorkflowExecutionCommandAttributes(attributes),
        )
    }
}

/// Whether the command ends its run.
pub(crate) fn closes(command: &Command) -> bool {
    matches!(command.command_type(), CommandType::CompleteWorkflowExecution | CommandType::FailWorkflowExecution)
}

fn schedule_activity(index: u32, task_queue: &str) -> Command {
    let attributes = ScheduleActivityTaskCommandAttributes {
        activity_id: index.to_string(),
        activity_type: Some(ActivityType { name: "bench".to_owned() }),
        task_queue: Some(normal_queue(task_queue)),
        input: Some(payloads(index.to_string().into_bytes())),
        start_to_close_timeout: Some(wire_duration(ACTIVITY_TIMEOUT)),
        ..Default::default()
    };
    command(CommandType::ScheduleActivityTask, Attributes::ScheduleActivityTaskCommandAttributes(attributes))
}

fn start_timer(index: u32, delay: Duration) -> Command {
    let attributes =
        StartTimerCommandAttributes { timer_id: index.to_string(), start_to_fire_timeout: Some(wire_duration(delay)) };
    command(CommandType::StartTimer, Attributes::StartTimerCommandAttributes(attributes))
}

fn fail() -> Command {
    let failure = Failure { message: "an activity did not complete".to_owned(), ..Default::default() };
    let attributes = FailWorkflowExecutionCommandAttributes { failure: Some(failure) };
    command(CommandType::FailWorkflowExecution, Attributes::FailWorkflowExecutionCommandAttributes(attributes))
}

fn command(command_type: CommandType, attributes: Attributes) -> Command {
    Command { command_type: command_type as i32, attributes: Some(attributes), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everlog_proto::api::history::v1::WorkflowExecutionStartedEventAttributes;

    fn state(program: Program, events: &[EventType]) -> RunState {
        let started = WorkflowExecutionStartedEventAttributes { input: Some(program.encode()), ..Default::default() };
        let first = HistoryEvent {
            event_id: 1,
            event_type: EventType::WorkflowExecutionStarted as i32,
            attributes: Some(EventAttributes::WorkflowExecutionStartedEventAttributes(started)),
            ..Default::default()
        };
        let mut state = RunState::at_start(&first).unwrap();
        for event_type in events {
            state.observe(&HistoryEvent { event_type: *event_type as i32, ..Default::default() });
        }
        state
    }

    #[test]
    fn commands_follow_from_events() {
        use EventType::*;
        let cases: &[(Program, &[EventType], &[CommandType])] = &[
            (Program::Sequential { count: 0 }, &[], &[CommandType::CompleteWorkflowExecution]),
            (Program::Sequential { count: 2 }, &[], &[CommandType::ScheduleActivityTask]),
            (Program::Sequential { count: 2 }, &[ActivityTaskScheduled], &[]),
            (
                Program::Sequential { count: 2 },
                &[ActivityTaskScheduled, ActivityTaskCompleted],
                &[CommandType::ScheduleActivityTask],
            ),
            (
                Program::Sequential { count: 1 },
                &[ActivityTaskScheduled, ActivityTaskCompleted],
                &[CommandType::CompleteWorkflowExecution],
            ),
            (
                Program::Sequential { count: 1 },
                &[ActivityTaskScheduled, ActivityTaskTimedOut],
                &[CommandType::FailWorkflowExecution],
            ),
            (Program::FanOut { count: 2 }, &[], &[CommandType::ScheduleActivityTask; 2]),
            (Program::FanOut { count: 2 }, &[ActivityTaskScheduled, ActivityTaskScheduled, ActivityTaskCompleted], &[]),
            (Program::Timers { count: 2, due_unix_ms: 1 }, &[], &[CommandType::StartTimer; 2]),
            (
                Program::Timers { count: 1, due_unix_ms: 1 },
                &[TimerStarted, TimerFired],
                &[CommandType::CompleteWorkflowExecution],
            ),
            (Program::Signals { count: 1 }, &[], &[]),
            (Program::Signals { count: 1 }, &[WorkflowExecutionSignaled], &[CommandType::CompleteWorkflowExecution]),
            (Program::Idle, &[WorkflowExecutionSignaled], &[]),
        ];
        for (program, events, expected) in cases {
            let commands = state(program.clone(), events).decide("q", SystemTime::now());
            let types: Vec<_> = commands.iter().map(Command::command_type).collect();
            assert_eq!(&types, expected, "{program:?} after {events:?}");
        }
    }
}
