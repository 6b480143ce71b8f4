//! What the workflows of the tests do. Each task is answered from the whole history alone, as a worker does that has just started.

use std::time::Duration;

use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{
    Command, CompleteWorkflowExecutionCommandAttributes, ScheduleActivityTaskCommandAttributes,
    StartTimerCommandAttributes,
};
use everlog_proto::api::common::v1::{ActivityType, RetryPolicy};
use everlog_proto::api::enums::v1::{CommandType, EventType};
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes as Event;
use serde::{Deserialize, Serialize};

use crate::client::{duration, payloads, queue, value};

/// The activity that may be started once.
pub(crate) const ONCE: &str = "once";
/// The activity that is tried until it succeeds.
pub(crate) const AGAIN: &str = "again";
/// The signal that ends a [`Program::Register`].
pub(crate) const FINISH: &str = "finish";

const TIMER: Duration = Duration::from_millis(300);
const ACTIVITY_TIME_MAX: Duration = Duration::from_secs(5);

/// The input of a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Program {
    /// An activity that may be started once, a timer, an activity that is tried again, and so many signals. Then it completes.
    Pipeline { signals: usize },
    /// Completes when it is told to.
    Register,
}

/// What a history says so far.
#[derive(Debug, Default)]
struct Progress {
    once_scheduled: bool,
    once_ended: bool,
    timer_started: bool,
    timer_fired: bool,
    again_scheduled: bool,
    again_completed: bool,
}

/// The numbers and names of the signals in a history, in order.
pub(crate) fn signals(events: &[HistoryEvent]) -> Vec<(u32, String)> {
    let attributes = events.iter().filter_map(|event| match &event.attributes {
        Some(Event::WorkflowExecutionSignaledEventAttributes(signaled)) => Some(signaled),
        _ => None,
    });
    attributes.map(|one| (value(one.input.as_ref()).unwrap_or(0), one.signal_name.clone())).collect()
}

/// The program of the run with this history.
pub(crate) fn program(events: &[HistoryEvent]) -> Option<Program> {
    match &events.first()?.attributes {
        Some(Event::WorkflowExecutionStartedEventAttributes(started)) => value(started.input.as_ref()),
        _ => None,
    }
}

/// The id of the activity that was scheduled by an event.
pub(crate) fn activity_id(events: &[HistoryEvent], scheduled_event_id: i64) -> Option<&str> {
    let scheduled = events.iter().find(|event| event.event_id == scheduled_event_id)?;
    match &scheduled.attributes {
        Some(Event::ActivityTaskScheduledEventAttributes(scheduled)) => Some(&scheduled.activity_id),
        _ => None,
    }
}

impl Program {
    /// The commands that answer a task with this history.
    pub(crate) fn decide(&self, events: &[HistoryEvent], task_queue: &str) -> Vec<Command> {
        match self {
            Program::Register if signals(events).iter().any(|(_, name)| name == FINISH) => vec![complete()],
            Program::Register => Vec::new(),
            Program::Pipeline { signals: wanted } => {
                let progress = Progress::of(events);
                match progress {
                    Progress { once_scheduled: false, .. } => vec![activity(ONCE, 1, task_queue)],
                    Progress { once_ended: true, timer_started: false, .. } => vec![timer()],
                    Progress { timer_fired: true, again_scheduled: false, .. } => vec![activity(AGAIN, 0, task_queue)],
                    Progress { again_completed: true, .. } if signals(events).len() >= *wanted => vec![complete()],
                    _ => Vec::new(),
                }
            }
        }
    }
}

impl Progress {
    fn of(events: &[HistoryEvent]) -> Progress {
        let mut progress = Progress::default();
        let is_once = |scheduled_event_id| activity_id(events, scheduled_event_id) == Some(ONCE);
        for event in events {
            match &event.attributes {
                Some(Event::ActivityTaskScheduledEventAttributes(a)) if a.activity_id == ONCE => {
                    progress.once_scheduled = true;
                }
                Some(Event::ActivityTaskScheduledEventAttributes(_)) => progress.again_scheduled = true,
                Some(Event::ActivityTaskCompletedEventAttributes(a)) if is_once(a.scheduled_event_id) => {
                    progress.once_ended = true;
                }
                Some(Event::ActivityTaskCompletedEventAttributes(_)) => progress.again_completed = true,
                Some(Event::ActivityTaskTimedOutEventAttributes(a)) if is_once(a.scheduled_event_id) => {
                    progress.once_ended = true;
                }
                _ => match event.event_type() {
                    EventType::TimerStarted => progress.timer_started = true,
                    EventType::TimerFired => progress.timer_fired = true,
                    _ => {}
                },
            }
        }
        progress
    }
}

/// Whether commands end a run.
pub(crate) fn closes(commands: &[Command]) -> bool {
    commands.iter().any(|command| command.command_type() == CommandType::CompleteWorkflowExecution)
}

fn activity(id: &str, attempts_max: i32, task_queue: &str) -> Command {
    let attributes = ScheduleActivityTaskCommandAttributes {
        activity_id: id.to_owned(),
        activity_type: Some(ActivityType { name: id.to_owned() }),
        task_queue: Some(queue(task_queue)),
        input: Some(payloads(&id)),
        start_to_close_timeout: Some(duration(ACTIVITY_TIME_MAX)),
        retry_policy: Some(RetryPolicy {
            initial_interval: Some(duration(Duration::from_millis(200))),
            backoff_coefficient: 1.0,
            maximum_attempts: attempts_max,
            ..Default::default()
        }),
        ..Default::default()
    };
    command(CommandType::ScheduleActivityTask, Attributes::ScheduleActivityTaskCommandAttributes(attributes))
}

fn timer() -> Command {
    let attributes =
        StartTimerCommandAttributes { timer_id: "pause".to_owned(), start_to_fire_timeout: Some(duration(TIMER)) };
    command(CommandType::StartTimer, Attributes::StartTimerCommandAttributes(attributes))
}

fn complete() -> Command {
    let attributes = CompleteWorkflowExecutionCommandAttributes { result: Some(payloads(&"done")) };
    command(CommandType::CompleteWorkflowExecution, Attributes::CompleteWorkflowExecutionCommandAttributes(attributes))
}

fn command(command_type: CommandType, attributes: Attributes) -> Command {
    Command { command_type: command_type as i32, attributes: Some(attributes), ..Default::default() }
}
