//! GetWorkflowExecutionHistory, forwards and backwards.
//!
//! A read fixes the run and the end of the history when it begins, and pages to that end. Only then, and only if the caller
//! wants to wait, is the history looked at again: a wait that ends without news answers with no events and a token, so that
//! the caller comes back; no token means that there is nothing more to come.

use std::time::Duration;

use bytes::Bytes;
use everlog_kernel::{RunCommand, RunId};
use everlog_model::{RunView, WorkflowRef};
use everlog_proto::api::enums::v1::{EventType, HistoryEventFilterType};
use everlog_proto::api::history::v1::{
    History, HistoryEvent, WorkflowExecutionContinuedAsNewEventAttributes, history_event::Attributes,
};
use everlog_proto::api::workflowservice::v1::{
    GetWorkflowExecutionHistoryRequest, GetWorkflowExecutionHistoryResponse as PlainResponse,
    GetWorkflowExecutionHistoryReverseRequest, GetWorkflowExecutionHistoryReverseResponse,
};
use everlog_proto::encoded::{EncodedHistory, GetWorkflowExecutionHistoryResponse};
use prost::Message;
use tokio::time::Instant;

use super::call::Call;
use super::errors::Error;
use super::execute::explain;
use super::history_token::HistoryToken;
use super::{Frontend, address, validate};

/// Reads the history of a run.
pub(super) async fn get_workflow_execution_history(
    frontend: &Frontend,
    call: Call,
    request: GetWorkflowExecutionHistoryRequest,
) -> Result<GetWorkflowExecutionHistoryResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let (workflow_id, run_id) = validate::execution(request.execution.as_ref())?;
    let read = Read {
        frontend,
        address: address(&namespace, workflow_id),
        until: call.wait_until(frontend.config(&request.namespace).frontend.history_wait_max),
        page_events_max: page_events_max(frontend, &request.namespace, request.maximum_page_size),
        wait: request.wait_new_event,
        call,
    };
    let token = HistoryToken::decode(&request.next_page_token, run_id)?;
    if request.history_event_filter_type() == HistoryEventFilterType::CloseEvent {
        read.close_event(token, run_id).await
    } else {
        read.events(token, run_id).await
    }
}

fn page_events_max(frontend: &Frontend, namespace: &str, wanted: i32) -> usize {
    let most = frontend.config(namespace).frontend.history_page_events_max;
    usize::try_from(wanted).ok().filter(|wanted| *wanted > 0).map_or(most, |wanted| wanted.min(most))
}

struct Read<'a> {
    frontend: &'a Frontend,
    call: Call,
    address: WorkflowRef,
    /// Until when to wait for news.
    until: Instant,
    page_events_max: usize,
    wait: bool,
}

impl Read<'_> {
    async fn view(&self, run_id: Option<RunId>) -> Result<RunView, Error> {
        let partition = self.frontend.router.partition_of(&self.address)?;
        let view = partition.view(self.address.clone(), run_id, None, Duration::ZERO);
        view.await.map_err(|error| explain(error, &self.address, run_id))
    }

    /// Waits until the run has an event `seen` or has closed; not longer than the caller has time.
    async fn news(&self, run_id: RunId, seen: i64) -> Result<RunView, Error> {
        let partition = self.frontend.router.partition_of(&self.address)?;
        let wait = self.until.saturating_duration_since(Instant::now());
        tokio::select! {
            view = partition.view(self.address.clone(), Some(run_id), Some(seen), wait) => {
                view.map_err(|error| explain(error, &self.address, Some(run_id)))
            }
            // The server stops: as if nothing happened in time.
            () = self.frontend.drained() => self.view(Some(run_id)).await,
        }
    }

    /// Everything, page by page.
    async fn events(
        &self,
        token: Option<HistoryToken>,
        run_id: Option<RunId>,
    ) -> Result<GetWorkflowExecutionHistoryResponse, Error> {
        let mut token = match token {
            Some(token) => token,
            None => {
                let view = self.view(run_id).await?;
                HistoryToken {
                    run_id: view.run_id,
                    from: 1,
                    to: view.next_event_id,
                    is_open: view.is_open,
                    is_task: false,
                }
            }
        };
        if token.from == token.to && !token.is_task {
            if !self.wait || !token.is_open {
                return Ok(response(Vec::new(), None));
            }
            let view = self.news(token.run_id, token.to).await?;
            token.to = token.to.max(view.next_event_id);
            token.is_open = view.is_open;
            if token.from == token.to {
                return Ok(response(Vec::new(), token.is_open.then_some(&token)));
            }
        }
        let partition = self.frontend.router.partition_of(&self.address)?;
        let page = partition
            .read_history(&self.address, token.run_id, token.from, token.to, self.page_events_max)
            .await
            .map_err(|error| explain(error, &self.address, Some(token.run_id)))?;
        token.from = page.next_event_id;
        let mut batches = page.batches;
        if token.from < token.to {
            return Ok(response(batches, Some(&token)));
        }
        if let Some(tail) = self.tail(&token).await? {
            batches.push(tail);
        }
        let goes_on = self.wait && token.is_open && !token.is_task;
        Ok(response(batches, goes_on.then_some(&token)))
    }

    /// The events of the workflow task that a worker has in hand. They are not in the history yet, and stand behind the last page. A
    /// caller that waits for news gets them when they are stored, since until then they may still be taken back.
    async fn tail(&self, token: &HistoryToken) -> Result<Option<Bytes>, Error> {
        if self.wait || !token.is_open {
            return Ok(None);
        }
        let mut view = self.view(Some(token.run_id)).await?;
        // Transient tasks are for those who replay; people would see events come and go.
        let is_shown = token.is_task || !view.tail_is_transient || !self.call.is_for_people;
        if !is_shown || view.tail.is_empty() {
            return Ok(None);
        }
        // A worker reads on in a task that its token proves; for anybody else an id must mean one event for ever.
        if !token.is_task && !view.tail_is_saved {
            let run_id = Some(token.run_id);
            self.frontend.execute_done(self.address.clone(), run_id, RunCommand::SaveWorkflowTaskStart).await?;
            view = self.view(run_id).await?;
        }
        let is_there = view.next_event_id == token.to && (token.is_task || view.tail_is_saved);
        Ok((is_there && !view.tail.is_empty()).then_some(view.tail))
    }

    /// The event that closed the run, and nothing else.
    async fn close_event(
        &self,
        token: Option<HistoryToken>,
        run_id: Option<RunId>,
    ) -> Result<GetWorkflowExecutionHistoryResponse, Error> {
        let mut view = self.view(token.map(|token| token.run_id).or(run_id)).await?;
        while self.wait && view.is_open && Instant::now() < self.until && !*self.frontend.draining.borrow() {
            view = self.news(view.run_id, view.next_event_id).await?;
        }
        let token = HistoryToken {
            run_id: view.run_id,
            from: view.next_event_id,
            to: view.next_event_id,
            is_open: view.is_open,
            is_task: false,
        };
        if view.is_open {
            return Ok(response(Vec::new(), self.wait.then_some(&token)));
        }
        let partition = self.frontend.router.partition_of(&self.address)?;
        let page = partition
            .read_history(&self.address, view.run_id, view.next_event_id - 1, view.next_event_id, 1)
            .await
            .map_err(|error| explain(error, &self.address, Some(view.run_id)))?;
        let batches = if self.call.follows_next_run_id {
            page.batches
        } else {
            page.batches.into_iter().map(|batch| follow_by_continue_as_new(batch, &self.address.workflow_id)).collect()
        };
        Ok(response(batches, None))
    }
}

fn response(batches: Vec<Bytes>, token: Option<&HistoryToken>) -> GetWorkflowExecutionHistoryResponse {
    GetWorkflowExecutionHistoryResponse {
        message: PlainResponse {
            next_page_token: token.map(HistoryToken::encode).unwrap_or_default(),
            ..PlainResponse::default()
        },
        history: Some(EncodedHistory { batches }),
    }
}

/// Old clients follow a chain of runs only by ContinuedAsNew: a close event that names a next run (a retry, a cron schedule) is
/// shown to them as one.
fn follow_by_continue_as_new(batch: Bytes, workflow_id: &str) -> Bytes {
    let Ok(mut history) = History::decode(batch.clone()) else { return batch };
    let Some(event) = history.events.last_mut() else { return batch };
    let next_run_id = match &event.attributes {
        Some(Attributes::WorkflowExecutionCompletedEventAttributes(closed)) => &closed.new_execution_run_id,
        Some(Attributes::WorkflowExecutionFailedEventAttributes(closed)) => &closed.new_execution_run_id,
        Some(Attributes::WorkflowExecutionTimedOutEventAttributes(closed)) => &closed.new_execution_run_id,
        _ => return batch,
    };
    if next_run_id.is_empty() {
        return batch;
    }
    tracing::debug!(workflow_id, %next_run_id, "a close event is shown as ContinuedAsNew");
    let attributes = WorkflowExecutionContinuedAsNewEventAttributes {
        new_execution_run_id: next_run_id.clone(),
        ..WorkflowExecutionContinuedAsNewEventAttributes::default()
    };
    *event = HistoryEvent {
        event_type: EventType::WorkflowExecutionContinuedAsNew as i32,
        attributes: Some(Attributes::WorkflowExecutionContinuedAsNewEventAttributes(attributes)),
        ..event.clone()
    };
    history.encode_to_vec().into()
}

/// Reads the history of a run from its end.
pub(super) async fn get_workflow_execution_history_reverse(
    frontend: &Frontend,
    _call: Call,
    request: GetWorkflowExecutionHistoryReverseRequest,
) -> Result<GetWorkflowExecutionHistoryReverseResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let (workflow_id, run_id) = validate::execution(request.execution.as_ref())?;
    let address = address(&namespace, workflow_id);
    let partition = frontend.router.partition_of(&address)?;
    let (run_id, to) = match HistoryToken::decode(&request.next_page_token, run_id)? {
        Some(token) => (token.run_id, token.to),
        None => {
            let view = partition.view(address.clone(), run_id, None, Duration::ZERO).await;
            let view = view.map_err(|error| explain(error, &address, run_id))?;
            (view.run_id, view.next_event_id)
        }
    };
    let events_max = page_events_max(frontend, &request.namespace, request.maximum_page_size);
    let from = to.saturating_sub(i64::try_from(events_max).unwrap_or(i64::MAX)).max(1);
    let page = partition
        .read_history(&address, run_id, from, to, events_max)
        .await
        .map_err(|error| explain(error, &address, Some(run_id)))?;
    let mut events = Vec::with_capacity(events_max);
    for batch in page.batches {
        let history = History::decode(batch)
            .map_err(|error| Error::Corrupt(format!("the history of run {run_id} is not readable: {error}")))?;
        events.extend(history.events);
    }
    events.reverse();
    // The token's `from` is not used on the way back.
    let token = HistoryToken { run_id, from: 1, to: from, is_open: false, is_task: false };
    Ok(GetWorkflowExecutionHistoryReverseResponse {
        history: Some(History { events }),
        next_page_token: if from > 1 { token.encode() } else { Vec::new() },
    })
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::history::v1::WorkflowExecutionFailedEventAttributes;

    use super::*;

    fn failed(new_execution_run_id: &str) -> Bytes {
        let attributes = WorkflowExecutionFailedEventAttributes {
            new_execution_run_id: new_execution_run_id.to_owned(),
            ..WorkflowExecutionFailedEventAttributes::default()
        };
        let event = HistoryEvent {
            event_id: 7,
            event_type: EventType::WorkflowExecutionFailed as i32,
            attributes: Some(Attributes::WorkflowExecutionFailedEventAttributes(attributes)),
            ..HistoryEvent::default()
        };
        History { events: vec![event] }.encode_to_vec().into()
    }

    #[test]
    fn old_clients_see_a_retried_run_as_continued() {
        let shown = follow_by_continue_as_new(failed("next"), "w");
        let event = History::decode(shown).unwrap().events.remove(0);
        assert_eq!((event.event_id, event.event_type()), (7, EventType::WorkflowExecutionContinuedAsNew));
        let Some(Attributes::WorkflowExecutionContinuedAsNewEventAttributes(attributes)) = event.attributes else {
            panic!("{event:?}")
        };
        assert_eq!(attributes.new_execution_run_id, "next");
        assert_eq!(follow_by_continue_as_new(failed(""), "w"), failed(""));
    }
}
