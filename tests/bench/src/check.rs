//! Reads every acknowledged workflow back and checks its events. A figure whose read-back failed is never printed.

use std::sync::Arc;
use std::time::Duration;

use everlog_proto::api::enums::v1::EventType;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::history::v1::history_event::Attributes;
use tokio::task::JoinSet;

use crate::client::{Client, Execution};
use crate::error::BenchError;
use crate::histogram::Histogram;
use crate::program::Program;
use crate::progress::Progress;

/// Histories read at the same time.
const READERS: usize = 8;
/// Wrong histories that are named in one error.
const NAMED_MAX: usize = 3;

/// What the history of a workflow must look like.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// Started, its first workflow task scheduled, and no worker.
    Unstarted,
    /// Like that, and its input has so many bytes.
    UnstartedWith(usize),
    /// So many signals, whatever else there is.
    Signalled(u32),
    /// The program ran to its end; an idle one has answered its first task.
    Ran(Program),
}

/// A workflow that the server acknowledged, and what it must look like.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) execution: Execution,
    pub(crate) expected: Expected,
}

/// What was read back, all of it as expected.
#[derive(Clone, Default)]
pub(crate) struct ReadBack {
    /// Histories read.
    pub(crate) workflows: u64,
    /// Events in them.
    pub(crate) events: u64,
    /// Workflow tasks that failed or timed out on the way; legal, and a sign of overload.
    pub(crate) workflow_tasks_lost: u64,
    /// By how much timers fired after they were due, by the server's own event times.
    pub(crate) timer_lateness: Option<Histogram>,
}

impl ReadBack {
    fn add(&mut self, other: &ReadBack) {
        self.workflows += other.workflows;
        self.events += other.events;
        self.workflow_tasks_lost += other.workflow_tasks_lost;
        if let Some(lateness) = &other.timer_lateness {
            self.timer_lateness.get_or_insert_with(Histogram::new).merge(lateness);
        }
    }
}

/// Reads all of `acknowledged` and checks each.
pub(crate) async fn read_back(
    client: &Arc<Client>,
    acknowledged: Vec<Acknowledged>,
    progress: &Progress,
) -> Result<ReadBack, BenchError> {
    progress.phase("reading back", acknowledged.len() as u64);
    let acknowledged = Arc::new(acknowledged);
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let (client, acknowledged, progress) = (client.clone(), acknowledged.clone(), progress.clone());
        readers.spawn(async move {
            let mut found = ReadBack::default();
            let mut wrong = Vec::new();
            for workflow in acknowledged.iter().skip(reader).step_by(READERS) {
                let events = client.history(&workflow.execution).await?;
                match check(&events, &workflow.expected) {
                    Ok(one) => found.add(&one),
                    Err(reason) if wrong.len() < NAMED_MAX => {
                        wrong.push(format!("{}: {reason}", workflow.execution.workflow_id));
                    }
                    Err(_) => {}
                }
                progress.step();
            }
            if wrong.is_empty() { Ok(found) } else { Err(BenchError::Check(wrong.join("; "))) }
        });
    }
    let mut total = ReadBack::default();
    while let Some(reader) = readers.join_next().await {
        total.add(&reader.map_err(|panic| BenchError::Check(panic.to_string()))??);
    }
    Ok(total)
}

/// Checks one history.
pub(crate) fn check(events: &[HistoryEvent], expected: &Expected) -> Result<ReadBack, String> {
    let mut found = ReadBack { workflows: 1, events: events.len() as u64, ..Default::default() };
    ids_are_contiguous(events)?;
    nothing_inside_workflow_tasks(events)?;
    let types: Vec<EventType> = events.iter().map(HistoryEvent::event_type).collect();
    let (types, lost) = without_lost_workflow_tasks(&types);
    found.workflow_tasks_lost = lost;
    let first = types.first().copied();
    same("first event", first, Some(EventType::WorkflowExecutionStarted))?;
    match expected {
        Expected::Unstarted => {
            same("events", types.as_slice(), [EventType::WorkflowExecutionStarted, EventType::WorkflowTaskScheduled])?
        }
        Expected::UnstartedWith(bytes) => {
            same("events", types.as_slice(), [EventType::WorkflowExecutionStarted, EventType::WorkflowTaskScheduled])?;
            let input = events.first().and_then(|first| match &first.attributes {
                Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) => started.input.as_ref(),
                _ => None,
            });
            let length = input.and_then(|input| input.payloads.first()).map(|payload| payload.data.len());
            same("bytes of the input", length, Some(*bytes))?;
        }
        Expected::Signalled(count) => occurs(&types, EventType::WorkflowExecutionSignaled, *count)?,
        Expected::Ran(Program::Sequential { count }) => same("events", types, sequential(*count))?,
        Expected::Ran(Program::FanOut { count }) => {
            for event_type in
                [EventType::ActivityTaskScheduled, EventType::ActivityTaskStarted, EventType::ActivityTaskCompleted]
            {
                occurs(&types, event_type, *count)?;
            }
            completed(&types)?;
        }
        Expected::Ran(Program::Timers { count, due_unix_ms }) => {
            occurs(&types, EventType::TimerStarted, *count)?;
            occurs(&types, EventType::TimerFired, *count)?;
            completed(&types)?;
            found.timer_lateness = Some(lateness(events, *due_unix_ms)?);
        }
        Expected::Ran(Program::Signals { count }) => {
            occurs(&types, EventType::WorkflowExecutionSignaled, *count)?;
            completed(&types)?;
        }
        Expected::Ran(Program::Idle) => {
            occurs(&types, EventType::WorkflowExecutionCompleted, 0)?;
            if !types.contains(&EventType::WorkflowTaskCompleted) {
                return Err("no workflow task completed".to_owned());
            }
        }
    }
    Ok(found)
}

fn ids_are_contiguous(events: &[HistoryEvent]) -> Result<(), String> {
    for (position, event) in events.iter().enumerate() {
        same("event id", event.event_id, position as i64 + 1)?;
    }
    Ok(())
}

fn nothing_inside_workflow_tasks(events: &[HistoryEvent]) -> Result<(), String> {
    for pair in events.windows(2) {
        let ends = matches!(
            pair[1].event_type(),
            EventType::WorkflowTaskCompleted | EventType::WorkflowTaskFailed | EventType::WorkflowTaskTimedOut
        );
        if pair[0].event_type() == EventType::WorkflowTaskStarted && !ends {
            return Err(format!("event {} lies inside a workflow task", pair[1].event_id));
        }
    }
    Ok(())
}

/// Leaves out attempts of workflow tasks that failed or timed out, and says how many there were.
fn without_lost_workflow_tasks(types: &[EventType]) -> (Vec<EventType>, u64) {
    let mut kept: Vec<EventType> = Vec::with_capacity(types.len());
    let mut lost = 0;
    for event_type in types {
        if !matches!(event_type, EventType::WorkflowTaskFailed | EventType::WorkflowTaskTimedOut) {
            kept.push(*event_type);
            continue;
        }
        lost += 1;
        if kept.last() == Some(&EventType::WorkflowTaskStarted) {
            kept.pop();
        }
        if let Some(scheduled) = kept.iter().rposition(|kept| *kept == EventType::WorkflowTaskScheduled) {
            kept.remove(scheduled);
        }
    }
    (kept, lost)
}

fn sequential(activities: u32) -> Vec<EventType> {
    const WORKFLOW_TASK: [EventType; 3] =
        [EventType::WorkflowTaskScheduled, EventType::WorkflowTaskStarted, EventType::WorkflowTaskCompleted];
    const ACTIVITY: [EventType; 3] =
        [EventType::ActivityTaskScheduled, EventType::ActivityTaskStarted, EventType::ActivityTaskCompleted];
    let mut types = vec![EventType::WorkflowExecutionStarted];
    types.extend(WORKFLOW_TASK);
    for _ in 0..activities {
        types.extend(ACTIVITY);
        types.extend(WORKFLOW_TASK);
    }
    types.push(EventType::WorkflowExecutionCompleted);
    types
}

fn occurs(types: &[EventType], wanted: EventType, count: u32) -> Result<(), String> {
    let found = types.iter().filter(|event_type| **event_type == wanted).count();
    same(wanted.as_str_name(), found, count as usize)
}

fn completed(types: &[EventType]) -> Result<(), String> {
    same("last event", types.last().copied(), Some(EventType::WorkflowExecutionCompleted))
}

fn lateness(events: &[HistoryEvent], due_unix_ms: u64) -> Result<Histogram, String> {
    let mut lateness = Histogram::new();
    let mut started = std::collections::HashMap::new();
    for event in events {
        let at = event.event_time.unwrap_or_default();
        let at = Duration::new(at.seconds.max(0) as u64, at.nanos.max(0) as u32);
        match &event.attributes {
            Some(Attributes::TimerStartedEventAttributes(timer)) => {
                let delay = timer.start_to_fire_timeout.unwrap_or_default();
                started
                    .insert(event.event_id, at + Duration::new(delay.seconds.max(0) as u64, delay.nanos.max(0) as u32));
            }
            Some(Attributes::TimerFiredEventAttributes(timer)) => {
                let due = started.remove(&timer.started_event_id);
                let due =
                    due.ok_or_else(|| format!("event {} fires a timer twice or out of nowhere", event.event_id))?;
                // The server's clock may tick in milliseconds; less than one is not early.
                if at + Duration::from_millis(1) < due {
                    return Err(format!("timer {} fired {:?} early", timer.timer_id, due - at));
                }
                lateness.record(at.saturating_sub(due.max(Duration::from_millis(due_unix_ms))));
            }
            _ => {}
        }
    }
    Ok(lateness)
}

fn same<T: PartialEq<U> + std::fmt::Debug, U: std::fmt::Debug>(
    what: &str,
    found: T,
    expected: U,
) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} {found:?} instead of {expected:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EventType::*;

    fn history(types: &[EventType]) -> Vec<HistoryEvent> {
        let event = |(position, event_type): (usize, &EventType)| HistoryEvent {
            event_id: position as i64 + 1,
            event_type: *event_type as i32,
            ..Default::default()
        };
        types.iter().enumerate().map(event).collect()
    }

    fn one_activity() -> Expected {
        Expected::Ran(Program::Sequential { count: 1 })
    }

    #[test]
    fn a_right_history_passes() {
        assert!(check(&history(&sequential(1)), &one_activity()).is_ok());
        assert!(check(&history(&[WorkflowExecutionStarted, WorkflowTaskScheduled]), &Expected::Unstarted).is_ok());
    }

    #[test]
    fn a_lost_workflow_task_is_counted_and_passes() {
        let mut types = sequential(1);
        types.splice(1..1, [WorkflowTaskScheduled, WorkflowTaskStarted, WorkflowTaskTimedOut]);
        assert_eq!(check(&history(&types), &one_activity()).unwrap().workflow_tasks_lost, 1);
    }

    #[test]
    fn wrong_histories_are_refused() {
        let right = sequential(1);
        let mut missing = right.clone();
        missing.remove(6);
        let mut twice = right.clone();
        twice.insert(6, ActivityTaskCompleted);
        let mut inside = right.clone();
        inside.insert(3, WorkflowExecutionSignaled);
        for (name, types) in [("missing", missing), ("twice", twice), ("inside", inside), ("none", Vec::new())] {
            assert!(check(&history(&types), &one_activity()).is_err(), "{name}");
        }
        let mut gap = history(&right);
        gap[4].event_id = 17;
        assert!(check(&gap, &one_activity()).is_err(), "gap");
    }
}
