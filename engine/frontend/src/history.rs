//! GetWorkflowExecutionHistory, forwards and backwards.
//!
//! A read fixes the run when it begins, and goes on page by page to the end of its history; pages never split what was written at once.
//! The last one has what came since the reading began. If the caller wants to wait, the history is then looked at again: a wait that ends
//! without news answers with no events and a token, so that the caller comes back; no token means that there is nothing more to come.
//!
//! A workflow task in a worker's hands is part of the history, though its start is written with its end. One that follows a failure is not;
//! its events are shown behind the last page, but not to people.
//!
//! Where reads may be stale, a run that has closed is read from the replica of the called node, which nobody changes any more.
//!
//! A run that is named and not there any more may be in the archive (`archived.rs`), whose pages are read to their end without waiting.

use std::time::Duration;

use bytes::Bytes;
use everlog_kernel::{RunCommand, RunId};
use everlog_meta::NamespaceRecord;
use everlog_model::{RunView, WorkflowRef};
use everlog_partition::{HistoryPage, PageSize, Replica};
use everlog_proto::api::enums::v1::{EventType, HistoryEventFilterType, TimeoutType};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{Failure, TimeoutFailureInfo};
use everlog_proto::api::history::v1::{
    History, HistoryEvent, WorkflowExecutionContinuedAsNewEventAttributes, history_event::Attributes,
};
use everlog_proto::api::workflowservice::v1::{
    GetWorkflowExecutionHistoryRequest, GetWorkflowExecutionHistoryResponse as PlainResponse,
    GetWorkflowExecutionHistoryReverseRequest, GetWorkflowExecutionHistoryReverseResponse,
};
use everlog_proto::encoded::{EncodedHistory, GetWorkflowExecutionHistoryResponse};
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::archived::{self, ArchivedToken};
use super::call::Call;
use super::errors::Error;
use super::execute::explain;
use super::history_token::HistoryToken;
use super::response_body::with_share;
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
        page_batches_max: page_batches_max(frontend, &request.namespace, request.maximum_page_size),
        wait: request.wait_new_event,
        call,
        closed: None,
    };
    let size = read.page_batches_max;
    let from_archive = |run_id, token| archived::history(frontend, &namespace, workflow_id, run_id, token, size);
    if let (Some(token), Some(run_id)) = (ArchivedToken::decode(&request.next_page_token), run_id) {
        return from_archive(run_id, Some(token)).await;
    }
    let token = HistoryToken::decode(&request.next_page_token, run_id)?;
    let read = read.by_replica(&namespace, token.as_ref().map(|token| token.run_id).or(run_id)).await?;
    // Whoever has read a part of it would have that twice: it has to begin anew once the run has gone.
    let may_be_archived = token.is_none() && !request.skip_archival;
    let found = if request.history_event_filter_type() == HistoryEventFilterType::CloseEvent {
        read.close_event(token, run_id).await
    } else {
        read.events(token, run_id).await
    };
    match (found, run_id) {
        (Err(error), Some(run_id)) if may_be_archived && archived::is_wanted(frontend, &error) => {
            from_archive(run_id, None).await
        }
        (found, _) => found,
    }
}

fn page_batches_max(frontend: &Frontend, namespace: &str, wanted: i32) -> usize {
    let most = frontend.config(namespace).frontend.history_page_events_max;
    usize::try_from(wanted).ok().filter(|wanted| *wanted > 0).map_or(most, |wanted| wanted.min(most)).max(1)
}

struct Read<'a> {
    frontend: &'a Frontend,
    call: Call,
    address: WorkflowRef,
    /// Until when to wait for news.
    until: Instant,
    page_batches_max: usize,
    wait: bool,
    /// The replica of this node to read a run from that has closed there, and the run.
    closed: Option<(Replica, RunView)>,
}

impl Read<'_> {
    /// The same by the replica of this node, if that may be and the run has closed there.
    async fn by_replica(self, namespace: &NamespaceRecord, run_id: Option<RunId>) -> Result<Self, Error> {
        let Some(replica) = self.call.reads.replica(self.frontend, namespace, &self.address)? else { return Ok(self) };
        // What it does not have, or not yet, is read where the workflow is led.
        let view = replica.closed(&self.address, run_id).await.ok().flatten();
        Ok(Read { closed: view.map(|view| (replica, view)), ..self })
    }

    async fn view(&self, run_id: Option<RunId>) -> Result<RunView, Error> {
        if let Some((_, view)) = &self.closed {
            return Ok(view.clone());
        }
        let partition = self.frontend.router.partition_of(&self.address)?;
        let view = partition.view(self.address.clone(), run_id, None, Duration::ZERO);
        view.await.map_err(|error| explain(error, &self.address, run_id))
    }

    /// Waits until the run has an event `seen` or has closed; not longer than the caller has time.
    async fn news(&self, run_id: RunId, seen: i64) -> Result<RunView, Error> {
        if self.closed.is_some() {
            return self.view(Some(run_id)).await;
        }
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
        let (mut token, mut known) = match token {
            Some(token) => (token, None),
            None => {
                let view = self.view(run_id).await?;
                let (run_id, to, is_open) = (view.run_id, view.next_event_id, view.is_open);
                (HistoryToken { run_id, from: 1, to, is_open, is_task: false }, Some(view))
            }
        };
        if token.from == token.to && !token.is_task {
            if !self.wait || !token.is_open {
                return Ok(response(Vec::new(), None));
            }
            let view = self.news(token.run_id, token.to).await?;
            token.reach(&view);
            if token.from == token.to {
                return Ok(response(Vec::new(), token.is_open.then_some(&token)));
            }
            known = Some(view);
        }
        let place = self.frontend.place_for_page().await?;
        let mut batches = self.page(&mut token, self.page_batches_max).await?;
        if token.from < token.to || !token.is_open {
            return Ok(response(in_place(batches, place), (token.from < token.to).then_some(&token)));
        }
        let view = match known {
            Some(view) => view,
            None => self.view(Some(token.run_id)).await?,
        };
        // What came since the reading began belongs to it.
        token.reach(&view);
        if token.from < token.to {
            batches.extend(self.page(&mut token, self.page_batches_max).await?);
            if token.from < token.to {
                return Ok(response(in_place(batches, place), Some(&token)));
            }
        }
        batches.extend(self.tail(&mut token, view).await?);
        let goes_on = self.wait && token.is_open && !token.is_task;
        Ok(response(in_place(batches, place), goes_on.then_some(&token)))
    }

    /// The next of the stored events.
    async fn page(&self, token: &mut HistoryToken, batches_max: usize) -> Result<Vec<Bytes>, Error> {
        let size = PageSize::batches(batches_max);
        let page = self.stored(token.run_id, token.from, token.to, size).await?;
        token.from = page.next_event_id;
        Ok(page.batches)
    }

    /// Stored events `[from, to)`, as many as a page may have.
    async fn stored(&self, run_id: RunId, from: i64, to: i64, size: PageSize) -> Result<HistoryPage, Error> {
        let address = &self.address;
        if let Some((replica, _)) = &self.closed
            && let Ok(page) = replica.read_history(address, run_id, from, to, size).await
        {
            return Ok(page);
        }
        let page = self.frontend.router.partition_of(address)?.read_history(address, run_id, from, to, size).await;
        page.map_err(|error| explain(error, address, Some(run_id)))
    }

    /// The last of the stored events before `to`, as many as a page may have.
    async fn stored_back(&self, run_id: RunId, to: i64, size: PageSize) -> Result<HistoryPage, Error> {
        let address = &self.address;
        if let Some((replica, _)) = &self.closed
            && let Ok(page) = replica.read_history_back(address, run_id, to, size).await
        {
            return Ok(page);
        }
        let page = self.frontend.router.partition_of(address)?.read_history_back(address, run_id, to, size).await;
        page.map_err(|error| explain(error, address, Some(run_id)))
    }

    /// The events of the pending workflow task that are not in the history yet. They stand behind the last page.
    async fn tail(&self, token: &mut HistoryToken, view: RunView) -> Result<Option<Bytes>, Error> {
        if token.is_task {
            return Ok(Some(view.tail).filter(|tail| view.next_event_id == token.to && !tail.is_empty()));
        }
        let view = self.saved(view).await?;
        if view.next_event_id != token.to {
            return Ok(None);
        }
        if view.transient.is_some() {
            // For those who replay; people would see events come and go.
            return Ok(view.transient.filter(|_| !self.call.is_for_people));
        }
        if view.tail.is_empty() {
            return Ok(None);
        }
        // A caller that waits for news has seen it, and it stays what it is.
        token.to += 1;
        token.from = token.to;
        Ok(Some(view.tail))
    }

    /// The run once the start of the task that a worker has in hand is written, if there is one. A worker reads on in a task that its token
    /// proves; for anybody else an id must mean one event for ever.
    async fn saved(&self, view: RunView) -> Result<RunView, Error> {
        if view.tail.is_empty() || view.tail_is_saved {
            return Ok(view);
        }
        let run_id = Some(view.run_id);
        self.frontend.execute_done(self.address.clone(), run_id, RunCommand::SaveWorkflowTaskStart).await?;
        let mut view = self.view(run_id).await?;
        if !view.tail_is_saved {
            // Another task by now.
            view.tail = Bytes::new();
        }
        Ok(view)
    }

    /// The event that closed the run, and nothing else.
    async fn close_event(
        &self,
        token: Option<HistoryToken>,
        run_id: Option<RunId>,
    ) -> Result<GetWorkflowExecutionHistoryResponse, Error> {
        let mut view = self.view(token.as_ref().map(|token| token.run_id).or(run_id)).await?;
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
        let last = view.next_event_id - 1;
        let page = self.stored(view.run_id, last, view.next_event_id, PageSize::batches(1)).await?;
        let batches = if self.call.follows_next_run_id {
            page.batches
        } else {
            page.batches.into_iter().map(|batch| follow_by_continue_as_new(batch, &self.address.workflow_id)).collect()
        };
        Ok(response(batches, None))
    }
}

/// The batches, which have their place until they are encoded as an answer.
pub(super) fn in_place(mut batches: Vec<Bytes>, place: OwnedSemaphorePermit) -> Vec<Bytes> {
    if let Some(first) = batches.first_mut() {
        *first = with_share(std::mem::take(first), place);
    }
    batches
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
#[expect(deprecated, reason = "old clients know no other way")]
fn follow_by_continue_as_new(batch: Bytes, workflow_id: &str) -> Bytes {
    let Ok(mut history) = History::decode(batch.clone()) else { return batch };
    let Some(event) = history.events.last_mut() else { return batch };
    use Attributes as A;
    let mut shown = WorkflowExecutionContinuedAsNewEventAttributes::default();
    // What became of the run goes with it.
    shown.new_execution_run_id = match &event.attributes {
        Some(A::WorkflowExecutionCompletedEventAttributes(closed)) => {
            shown.last_completion_result.clone_from(&closed.result);
            closed.new_execution_run_id.clone()
        }
        Some(A::WorkflowExecutionFailedEventAttributes(closed)) => {
            shown.failure.clone_from(&closed.failure);
            closed.new_execution_run_id.clone()
        }
        Some(A::WorkflowExecutionTimedOutEventAttributes(closed)) => {
            shown.failure = Some(timed_out());
            closed.new_execution_run_id.clone()
        }
        _ => return batch,
    };
    if shown.new_execution_run_id.is_empty() {
        return batch;
    }
    tracing::debug!(workflow_id, next_run_id = shown.new_execution_run_id, "a close event is shown as ContinuedAsNew");
    *event = HistoryEvent {
        event_type: EventType::WorkflowExecutionContinuedAsNew as i32,
        attributes: Some(A::WorkflowExecutionContinuedAsNewEventAttributes(shown)),
        ..event.clone()
    };
    history.encode_to_vec().into()
}

fn timed_out() -> Failure {
    let info = TimeoutFailureInfo { timeout_type: TimeoutType::StartToClose.into(), last_heartbeat_details: None };
    Failure {
        message: "workflow timeout".to_owned(),
        source: "Server".to_owned(),
        failure_info: Some(FailureInfo::TimeoutFailureInfo(info)),
        ..Failure::default()
    }
}

/// Reads the history of a run from its end.
pub(super) async fn get_workflow_execution_history_reverse(
    frontend: &Frontend,
    call: Call,
    request: GetWorkflowExecutionHistoryReverseRequest,
) -> Result<GetWorkflowExecutionHistoryReverseResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let (workflow_id, run_id) = validate::execution(request.execution.as_ref())?;
    let read = Read {
        frontend,
        address: address(&namespace, workflow_id),
        until: Instant::now(),
        page_batches_max: page_batches_max(frontend, &request.namespace, request.maximum_page_size),
        wait: false,
        call,
        closed: None,
    };
    let token = HistoryToken::decode(&request.next_page_token, run_id)?;
    let read = read.by_replica(&namespace, token.as_ref().map(|token| token.run_id).or(run_id)).await?;
    read.back(token, run_id).await
}

impl Read<'_> {
    async fn back(
        &self,
        token: Option<HistoryToken>,
        run_id: Option<RunId>,
    ) -> Result<GetWorkflowExecutionHistoryReverseResponse, Error> {
        let mut batches_max = self.page_batches_max;
        let (run_id, to, tail) = match token {
            Some(token) => (token.run_id, token.to, None),
            None => {
                let view = self.saved(self.view(run_id).await?).await?;
                // A task in a worker's hands is part of the history, unless it is transient.
                let tail = Some(view.tail).filter(|tail| view.transient.is_none() && !tail.is_empty());
                (view.run_id, view.next_event_id, tail)
            }
        };
        batches_max -= usize::from(tail.is_some());
        let _place = self.frontend.place_for_page().await?;
        let mut page = HistoryPage { batches: Vec::new(), next_event_id: to };
        if batches_max > 0 {
            page = self.stored_back(run_id, to, PageSize::batches(batches_max)).await?;
        }
        let mut events = Vec::new();
        for batch in page.batches.into_iter().chain(tail) {
            let history = History::decode(batch)
                .map_err(|error| Error::Corrupt(format!("the history of run {run_id} is not readable: {error}")))?;
            events.extend(history.events);
        }
        events.reverse();
        // The token's `from` is not used on the way back.
        let token = HistoryToken { run_id, from: 1, to: page.next_event_id, is_open: false, is_task: false };
        Ok(GetWorkflowExecutionHistoryReverseResponse {
            history: Some(History { events }),
            next_page_token: if token.to > 1 { token.encode() } else { Vec::new() },
        })
    }
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::history::v1::WorkflowExecutionFailedEventAttributes;

    use super::*;

    fn failed(new_execution_run_id: &str) -> Bytes {
        let attributes = WorkflowExecutionFailedEventAttributes {
            failure: Some(Failure { message: "why".to_owned(), ..Failure::default() }),
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
    #[expect(deprecated, reason = "old clients know no other way")]
    fn old_clients_see_a_retried_run_as_continued() {
        let shown = follow_by_continue_as_new(failed("next"), "w");
        let event = History::decode(shown).unwrap().events.remove(0);
        assert_eq!((event.event_id, event.event_type()), (7, EventType::WorkflowExecutionContinuedAsNew));
        let Some(Attributes::WorkflowExecutionContinuedAsNewEventAttributes(attributes)) = event.attributes else {
            panic!("{event:?}")
        };
        assert_eq!(attributes.new_execution_run_id, "next");
        assert_eq!(attributes.failure.map(|failure| failure.message).as_deref(), Some("why"));
        assert_eq!(follow_by_continue_as_new(failed(""), "w"), failed(""));
    }
}
