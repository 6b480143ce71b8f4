//! Reading what a reset needs (`everlog_kernel::reset`): the base's history, and what has come behind it.
//!
//! The lead knows how far histories go; their events are read from applied rows, on a thread for blocking work, and the kernel decides on what
//! was read. If more has happened meanwhile, the lead has it in memory mostly and adds it; otherwise it is read, and the kernel is asked
//! again. The events that are kept are read once: they do not change any more.

use bytes::Bytes;
use everlog_kernel::command::Reply;
use everlog_kernel::reset::{End, Kept, Later, Plan, Reset, not_at_boundary, plan};
use everlog_kernel::{Command, Rejection, RunId};
use everlog_model::{CallError, WorkflowRef, limits};
use everlog_proto::api::history::v1::{History, HistoryEvent};
use everlog_proto::api::workflowservice::v1::ResetWorkflowExecutionRequest;
use prost::Message;

use super::Partition;
use super::history_pages::{self, PageSize};
use super::load::Rows;

impl Partition {
    /// Resets a run, the current one if `run_id` names none. Returns the run that goes on from there, once it is durable.
    ///
    /// # Errors
    ///
    /// As [`Partition::execute`]; Unavailable if the history grows faster than it can be read.
    pub async fn reset_workflow(
        &self,
        address: WorkflowRef,
        run_id: Option<RunId>,
        request: ResetWorkflowExecutionRequest,
    ) -> Result<RunId, CallError> {
        let asked = request.clone();
        // What is seen here is applied by the time that it is told.
        let planned = self.inspect(address.clone(), run_id, move |workflow, _| plan(workflow, run_id, &asked)).await?;
        let (base_run_id, start_request_id, mut end) = match planned {
            Plan::Done(run_id) => return Ok(run_id),
            Plan::Read { base_run_id, start_request_id, end } => (base_run_id, start_request_id, end),
        };
        let (group, of, until) = (self.group(), address.clone(), request.workflow_task_finish_event_id);
        let is_stored = until < end.next_event_id;
        let kept = blocking(move || read_kept(&group, &of, base_run_id, &start_request_id, until, is_stored)).await?;
        let mut later = Later::new(&request, base_run_id);
        for _ in 0..limits::RESET_TRIES_MAX {
            later = self.read_later(&address, later, end).await?;
            if later.bytes() > limits::RESET_REAPPLIED_BYTES_MAX {
                return Err(Rejection::invalid("What is to be reapplied exceeds size limit.").into());
            }
            let reset = Reset { request: request.clone(), kept: kept.clone(), later: later.clone() };
            let command = Command::ResetWorkflow(Box::new(reset));
            match self.call(address.clone(), Some(base_run_id), command).await?.reply {
                Reply::Reset(run_id) => return Ok(run_id),
                Reply::HistoryGrew => {}
                reply => return Err(CallError::Failed(format!("unexpected reply to a reset: {reply:?}"))),
            }
            match later.goes_on() {
                Some((run_id, _)) => {
                    end = self.end_of(&address, run_id).await?.ok_or_else(Rejection::workflow_not_found)?
                }
                None => break,
            }
        }
        Err(CallError::Unavailable("the workflow's history grows too fast to be reset".to_owned()))
    }

    /// Reads on to the end of the last run; the one that is being read goes as far as `end`.
    async fn read_later(&self, address: &WorkflowRef, mut later: Later, mut end: End) -> Result<Later, CallError> {
        while let Some((run_id, from)) = later.goes_on() {
            let (group, of, to) = (self.group(), address.clone(), end.next_event_id);
            let events = blocking(move || read_events(&group, &of, run_id, from, to)).await?;
            later.take(run_id, end, events);
            if end.is_open || later.bytes() > limits::RESET_REAPPLIED_BYTES_MAX {
                break;
            }
            let Some((next_run_id, _)) = later.goes_on() else { break };
            match self.end_of(address, next_run_id).await? {
                Some(next) => end = next,
                None => later.ends(),
            }
        }
        Ok(later)
    }

    /// How far the history of a run goes. `None` if there is no such run any more.
    async fn end_of(&self, address: &WorkflowRef, run_id: RunId) -> Result<Option<End>, CallError> {
        let end =
            self.inspect(address.clone(), Some(run_id), move |workflow, _| Ok(workflow.run(Some(run_id)).map(End::of)));
        end.await
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, CallError> + Send + 'static,
) -> Result<T, CallError> {
    let read = everlog_storage::blocking::spawn(read).await;
    read.map_err(|error| CallError::Failed(format!("reading history: {error}")))?
}

/// Reads the run as it was before event `until`, which is stored, or is the start of a task that is not written yet.
pub(crate) fn read_kept(
    rows: &impl Rows,
    address: &WorkflowRef,
    base_run_id: RunId,
    start_request_id: &str,
    until: i64,
    is_stored: bool,
) -> Result<Kept, CallError> {
    if is_stored && !history_pages::begins_batch(rows, address, base_run_id, until)? {
        return Err(not_at_boundary(until).into());
    }
    let mut kept = Kept::default();
    read(rows, address, base_run_id, 1, until, |event| {
        kept.take(base_run_id, start_request_id, event)
            .map_err(|error| CallError::Corrupt(format!("the history of run {base_run_id}: {error}")))
    })?;
    Ok(kept)
}

/// Reads events `[from, to)`.
pub(crate) fn read_events(
    rows: &impl Rows,
    address: &WorkflowRef,
    run_id: RunId,
    from: i64,
    to: i64,
) -> Result<Vec<HistoryEvent>, CallError> {
    let mut events = Vec::new();
    read(rows, address, run_id, from, to, |event| {
        events.push(event);
        Ok(())
    })?;
    Ok(events)
}

fn read(
    rows: &impl Rows,
    address: &WorkflowRef,
    run_id: RunId,
    from: i64,
    to: i64,
    mut take: impl FnMut(HistoryEvent) -> Result<(), CallError>,
) -> Result<(), CallError> {
    let mut next = from;
    while next < to {
        let size = PageSize::batches(usize::MAX);
        let page = history_pages::read_blocking(rows, address, run_id, next, to, size)?;
        for batch in page.batches {
            for event in decode(run_id, batch)? {
                take(event)?;
            }
        }
        next = page.next_event_id;
    }
    Ok(())
}

/// The events of an encoded `History`.
pub(crate) fn decode(run_id: RunId, batch: Bytes) -> Result<Vec<HistoryEvent>, CallError> {
    let history = History::decode(batch);
    let history = history.map_err(|error| CallError::Corrupt(format!("the history of run {run_id}: {error}")))?;
    Ok(history.events)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use everlog_model::rows::history_range;
    use everlog_proto::api::enums::v1::EventType;
    use everlog_proto::api::history::v1::history_event::Attributes;
    use everlog_proto::api::history::v1::{
        ActivityTaskCompletedEventAttributes, ActivityTaskScheduledEventAttributes, ActivityTaskStartedEventAttributes,
        WorkflowExecutionStartedEventAttributes, WorkflowTaskCompletedEventAttributes,
        WorkflowTaskScheduledEventAttributes, WorkflowTaskStartedEventAttributes,
    };
    use everlog_storage::keys::KeyRange;
    use everlog_storage::state::{Direction, Row, StateError};

    use super::*;

    /// Rows in memory, and how many were read.
    #[derive(Default)]
    struct Counted {
        rows: BTreeMap<Bytes, Bytes>,
        read: Cell<usize>,
    }

    impl Rows for Counted {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
            self.read.set(self.read.get() + 1);
            Ok(self.rows.get(key).cloned())
        }

        fn scan(&self, range: KeyRange, direction: Direction, limit: usize) -> Result<Vec<Row>, StateError> {
            let found = self.rows.range(range).map(|(key, value)| (key.clone(), value.clone()));
            let found: Vec<Row> = match direction {
                Direction::Ascending => found.take(limit).collect(),
                Direction::Descending => found.rev().take(limit).collect(),
            };
            self.read.set(self.read.get() + found.len());
            Ok(found)
        }
    }

    fn address() -> WorkflowRef {
        let namespace = everlog_kernel::Namespace {
            id: Default::default(),
            name: "n".to_owned(),
            retention: Default::default(),
            ..everlog_kernel::Namespace::default()
        };
        WorkflowRef { namespace: namespace.into(), workflow_id: "w".into() }
    }

    /// A run with `activities` activities, one after the other, and the number of its events.
    fn stored(activities: i64) -> (Counted, i64) {
        let mut stored = Counted::default();
        let mut next = 1;
        let mut row = |attributes: Vec<Attributes>| {
            let key = history_range(&address(), RunId::default(), next, next + 1).start;
            let event = |(event_id, attributes)| HistoryEvent {
                event_id,
                event_time: Some(everlog_proto::wkt::Timestamp { seconds: 1_700_000_000, nanos: 7 }),
                event_type: match &attributes {
                    Attributes::WorkflowTaskStartedEventAttributes(_) => EventType::WorkflowTaskStarted.into(),
                    _ => EventType::MarkerRecorded.into(),
                },
                attributes: Some(attributes),
                ..HistoryEvent::default()
            };
            let count = attributes.len() as i64;
            let events = (next..).zip(attributes).map(event).collect();
            stored.rows.insert(key, History { events }.encode_to_vec().into());
            next += count;
            next
        };
        let scheduled = || {
            Attributes::WorkflowTaskScheduledEventAttributes(WorkflowTaskScheduledEventAttributes {
                attempt: 1,
                ..Default::default()
            })
        };
        let started = WorkflowExecutionStartedEventAttributes::default();
        let mut behind = row(vec![Attributes::WorkflowExecutionStartedEventAttributes(started), scheduled()]);
        for number in 0..activities {
            let started_event_id = behind;
            behind = row(vec![
                Attributes::WorkflowTaskStartedEventAttributes(WorkflowTaskStartedEventAttributes::default()),
                Attributes::WorkflowTaskCompletedEventAttributes(WorkflowTaskCompletedEventAttributes {
                    started_event_id,
                    ..Default::default()
                }),
                Attributes::ActivityTaskScheduledEventAttributes(ActivityTaskScheduledEventAttributes {
                    activity_id: number.to_string(),
                    ..Default::default()
                }),
            ]);
            let scheduled_event_id = behind - 1;
            behind = row(vec![
                Attributes::ActivityTaskStartedEventAttributes(ActivityTaskStartedEventAttributes {
                    scheduled_event_id,
                    ..Default::default()
                }),
                Attributes::ActivityTaskCompletedEventAttributes(ActivityTaskCompletedEventAttributes {
                    scheduled_event_id,
                    started_event_id: behind,
                    ..Default::default()
                }),
                scheduled(),
            ]);
        }
        let last = row(vec![
            Attributes::WorkflowTaskStartedEventAttributes(WorkflowTaskStartedEventAttributes::default()),
            Attributes::WorkflowTaskCompletedEventAttributes(WorkflowTaskCompletedEventAttributes::default()),
        ]);
        (stored, last)
    }

    #[test]
    fn the_events_that_are_kept_are_read_once() {
        const ACTIVITIES: i64 = 8_333;
        let (stored, next_event_id) = stored(ACTIVITIES);
        let until = next_event_id - 1;
        assert!(until > 50_000);
        let begun = std::time::Instant::now();
        let kept = read_kept(&stored, &address(), RunId::default(), "start", until, true).unwrap();
        let took = begun.elapsed();
        // A few rows more at the seams of pages.
        let (read, rows) = (stored.read.get(), stored.rows.len());
        assert!((rows..rows + rows / 100).contains(&read), "{read} of {rows} rows were read, in {took:?}");
        // Nothing is pending any more, so nothing is kept in memory of the events.
        assert!(kept.memory_bytes() < 16 * 1024, "{} bytes", kept.memory_bytes());
        eprintln!("{until} events were read in {took:?}");
    }

    #[test]
    fn a_place_that_is_none_is_refused() {
        let (stored, _) = stored(2);
        let read = |until| read_kept(&stored, &address(), RunId::default(), "start", until, true);
        for (until, is_place) in [(2, false), (3, true), (4, true), (5, false), (6, true), (8, false), (9, true)] {
            assert_eq!(read(until).is_ok(), is_place, "{until}");
        }
    }
}
