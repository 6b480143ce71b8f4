//! How decisions are shown in scripts: events on a line each, the other rows together on one, then effects and the reply.

use std::fmt::Write as _;

use everlog_kernel::command::{Heartbeat, QueryReply, Reply, UpdateReply, UpdateStatus, WorkflowTaskStart};
use everlog_kernel::nexus::{NexusCall, NexusRequest};
use everlog_kernel::outbox::{MessageBody, NexusCompleted};
use everlog_kernel::rows::Suffix;
use everlog_kernel::transition::{Effect, TaskKey, TaskPosition};
use everlog_kernel::{Lane, Rejection, RowKey, Run, RunRow, RunRowKind, Time, Transition};
use everlog_proto::api::history::v1::{History, HistoryEvent};
use everlog_proto::api::workflowservice::v1::{DescribeWorkflowExecutionResponse, PollActivityTaskQueueResponse};
use prost::Message;

use crate::debug::compact;

/// The moment at which every script starts; times are shown relative to it.
pub(crate) const START: Time = Time(1_700_000_000_000_000_000);

/// A time as seconds since the script's start.
pub(crate) fn relative_time(ns: i64) -> String {
    format!("@{}", seconds(ns.saturating_sub(START.0)))
}

/// A duration in seconds.
pub(crate) fn seconds(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let (whole, rest) = (ns.unsigned_abs() / 1_000_000_000, ns.unsigned_abs() % 1_000_000_000);
    let fraction = format!("{rest:09}");
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { format!("{sign}{whole}s") } else { format!("{sign}{whole}.{fraction}s") }
}

fn time(time: Time) -> String {
    if time == Time::MAX { "never".to_owned() } else { relative_time(time.0) }
}

/// An event: id, type, time, and what is set in it.
pub(crate) fn event(event: &HistoryEvent) -> String {
    let attributes = event.attributes.as_ref().map(attributes).unwrap_or_default();
    let at = event.event_time.as_ref().map(compact).unwrap_or_default();
    let mut line = format!("{} {:?} {at} {attributes}", event.event_id, event.event_type());
    if let Some(metadata) = &event.user_metadata {
        let _ = write!(line, " user_metadata={}", compact(metadata));
    }
    if !event.links.is_empty() {
        let _ = write!(line, " links={}", compact(&event.links));
    }
    line.trim_end().to_owned()
}

/// The attributes' fields without the name of their message, which the event's type repeats.
fn attributes(attributes: &everlog_proto::api::history::v1::history_event::Attributes) -> String {
    let text = compact(attributes);
    let fields = text.split_once('{').and_then(|(_, fields)| fields.strip_suffix('}'));
    fields.map(str::to_owned).unwrap_or(text)
}

pub(crate) fn events(encoded: &[u8]) -> Vec<HistoryEvent> {
    History::decode(encoded).expect("the kernel encoded it").events
}

/// Everything that a transition does.
pub(crate) fn transition(transition: &Transition) -> String {
    let mut out = String::new();
    let mut rows = Vec::new();
    for (key, value) in &transition.rows {
        match (key, value) {
            (RowKey::Run(run, RunRow { kind: RunRowKind::History, .. }), Some(value)) => {
                let _ = writeln!(out, "history({run})");
                for appended in events(value) {
                    let _ = writeln!(out, "  {}", event(&appended));
                }
            }
            (key, value) => rows.push(format!("{}{}", if value.is_some() { '+' } else { '-' }, row(key))),
        }
    }
    if !rows.is_empty() {
        let _ = writeln!(out, "rows {}", rows.join(" "));
    }
    for shown in &transition.effects {
        let _ = writeln!(out, "{}", effect(shown));
    }
    match &transition.reply {
        Ok(accepted) => out.push_str(&reply(accepted)),
        Err(refused) => {
            let _ = writeln!(out, "recorded, and {}", rejection(refused));
        }
    }
    out
}

/// A row's key.
pub(crate) fn row(key: &RowKey) -> String {
    match key {
        RowKey::Current => "current".to_owned(),
        RowKey::Run(run, RunRow { kind, suffix: Suffix::Nothing }) => format!("{}({run})", kind.name()),
        RowKey::Run(run, RunRow { kind, suffix }) => format!("{}({run}, {suffix})", kind.name()),
        RowKey::Task(key) => format!("task({})", task_key(key)),
        RowKey::Wake(at, run) => format!("wake({}, {run})", time(*at)),
        RowKey::Visibility(key) => {
            format!("visibility(closed {}, started {}, {})", time(key.close_time), time(key.start_time), key.run_id)
        }
        RowKey::WholeRun(run) => format!("run({run})"),
        RowKey::HistoryFrom(run, first) => format!("history({run}, {first} on)"),
    }
}

fn task_key(key: &TaskKey) -> String {
    let TaskKey { kind, task_queue, position } = key;
    let TaskPosition { lane, priority, scheduled_time, run_id, scheduled_event_id: id } = position;
    let priority = if *priority == 3 { String::new() } else { format!(" priority {priority}") };
    let lane = if *lane == Lane::NONE { String::new() } else { format!(" lane {:016x}", lane.0) };
    format!("{kind} {run_id}/{id} on {task_queue}{lane}{priority} {}", time(*scheduled_time))
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::OfferTask(task) => {
            let sticky = task.sticky.as_ref().map(|queue| format!(", sticky {queue}")).unwrap_or_default();
            format!("offer {}, attempt {}{sticky}", task_key(&task.key), task.attempt)
        }
        Effect::OfferQuery(query) => {
            let sticky = query.sticky.as_ref().map(|queue| format!(", sticky {queue}")).unwrap_or_default();
            let name = &query.query.query_type;
            format!("offer query {} {name} of {} on {}{sticky}", query.query_id, query.run_id, query.task_queue)
        }
        Effect::Send(message) => {
            let what = match &message.body {
                MessageBody::SignalExternal(signal) => format!("signal {}", signal.signal_name),
                MessageBody::CancelExternal(_) => "cancel".to_owned(),
                MessageBody::StartChild(start) => format!("start child {}", compact(&**start)),
                MessageBody::ChildClosed(closed) => format!("child closed {}", compact(&**closed)),
                MessageBody::ParentClosed(closed) => format!("parent closed {}", compact(closed)),
                MessageBody::StartScheduled(start) => format!("start scheduled {}", compact(&**start)),
                MessageBody::EndScheduled(end) => format!("end scheduled {}", compact(end)),
                MessageBody::ScheduledClosed(closed) => format!("scheduled closed {}", compact(&**closed)),
                MessageBody::NexusCompleted(completed) => {
                    let NexusCompleted { scheduled_event_id, request_id, result, failure, is_canceled, .. } =
                        &**completed;
                    let end = failure.as_ref().map_or_else(|| compact(result), compact);
                    let how = if *is_canceled { "canceled" } else { "ended" };
                    format!("operation {scheduled_event_id} of {request_id} {how} {end}")
                }
            };
            let run = message.target_run_id.map(|run| format!("/{run}")).unwrap_or_default();
            let origin = message.origin_run_id.map(|run| format!(" of {run}")).unwrap_or_default();
            format!("send {}{origin} {what} to {}{run}", message.event_id, message.target_workflow_id)
        }
        Effect::AnswerQuery { query_id, answer } => match answer {
            Ok(answer) => format!("answer query {query_id} {}", answer.as_ref().map(compact).unwrap_or_default()),
            Err(refused) => format!("answer query {query_id} {}", rejection(refused)),
        },
        Effect::UpdateAdvanced { update_id, status, .. } => match status {
            Ok(status) => format!("update {update_id} {}", update_status(status)),
            Err(refused) => format!("update {update_id} {}", rejection(refused)),
        },
        Effect::CallNexus(call) => {
            let NexusCall { scheduled_event_id, attempt, service, operation, time_max, .. } = &**call;
            let what = match &call.request {
                NexusRequest::Start { .. } => "start",
                NexusRequest::Cancel { .. } => "cancel",
            };
            format!(
                "call {what} of {scheduled_event_id}, {service}/{operation}, attempt {attempt}, within {time_max:?}"
            )
        }
        Effect::Archive { run_id } => format!("archive {run_id}"),
        Effect::BatchJob { .. } => "of a batch job".to_owned(),
    }
}

/// How far an update has come.
fn update_status(status: &UpdateStatus) -> String {
    match status {
        UpdateStatus::Admitted => "admitted".to_owned(),
        UpdateStatus::Accepted => "accepted".to_owned(),
        UpdateStatus::Completed { event_id } => format!("completed by event {event_id}"),
        UpdateStatus::Ended(outcome) => format!("ended {}", compact(&**outcome)),
    }
}

/// A rejection: its kind and its text.
pub(crate) fn rejection(rejection: &Rejection) -> String {
    let kind = format!("{rejection:?}");
    let kind = kind.split(['(', ' ']).next().unwrap_or_default();
    let detail = match rejection {
        Rejection::AlreadyStarted { start_request_id, run_id, first_execution_run_id, .. } => {
            format!(" (request {start_request_id}, run {run_id}, first {first_execution_run_id})")
        }
        Rejection::ResourceExhausted { cause, .. } => format!(" ({cause:?})"),
        Rejection::QueryFailed { failure, .. } => {
            failure.as_ref().map(|failure| format!(" ({})", compact(failure))).unwrap_or_default()
        }
        _ => String::new(),
    };
    format!("refused: {kind}: {rejection}{detail}")
}

fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Done | Reply::Signaled(_) => String::new(),
        Reply::Reset(run_id) => format!("reply run={run_id}\n"),
        Reply::HistoryGrew => "reply: more is to be read\n".to_owned(),
        Reply::Started(started) => {
            let task = started.first_task.as_ref().map(|task| workflow_task("first workflow task", task));
            format!(
                "reply run={} first={} started={} {:?}\n{}",
                started.run_id,
                started.first_execution_run_id,
                started.started,
                started.status,
                task.unwrap_or_default()
            )
        }
        Reply::WorkflowTaskStarted(start) => workflow_task("workflow task", start),
        Reply::WorkflowTaskCompleted(completed) => {
            let next = completed.next.as_ref().map(|next| workflow_task("next workflow task", next));
            let reset = completed.reset_history_event_id.map(|event_id| format!("reset to event {event_id}\n"));
            reset.into_iter().chain(next).chain(completed.activities.iter().map(activity_task)).collect()
        }
        Reply::ActivityTaskStarted(response) => activity_task(response),
        Reply::Heartbeat(Heartbeat { cancel_requested, activity_paused, activity_reset }) => {
            let told = |what: &str, is_so: bool| if is_so { format!(" {what}") } else { String::new() };
            let (paused, reset) = (told("paused", *activity_paused), told("reset", *activity_reset));
            format!("reply cancel_requested={cancel_requested}{paused}{reset}\n")
        }
        Reply::ActivityOptions(options) => format!("options {}\n", compact(&**options)),
        Reply::WorkflowOptions(options) => format!("options {}\n", compact(&**options)),
        Reply::Query(QueryReply::Rejected(status)) => format!("query rejected: {status:?}\n"),
        Reply::Query(QueryReply::Asked { .. }) => "query asked\n".to_owned(),
        Reply::Update(UpdateReply { update_id, status, started, .. }) => {
            let started = started.as_ref().map(|started| format!(", started={}", started.started));
            format!("update {update_id} {}{}\n", update_status(status), started.unwrap_or_default())
        }
        Reply::QueryTask(start) => workflow_task("query task", start),
        Reply::ScheduleToken(_) | Reply::Schedule(..) => "of a schedule\n".to_owned(),
        Reply::BatchJob(_) | Reply::BatchWork(_) => "of a batch job\n".to_owned(),
        Reply::ActivityExecutionStarted(..) | Reply::ActivityExecution(..) => "of an activity\n".to_owned(),
    }
}

fn activity_task(response: &PollActivityTaskQueueResponse) -> String {
    let response = PollActivityTaskQueueResponse { task_token: Vec::new(), ..response.clone() };
    format!("activity task {}\n", compact(&response))
}

/// What a worker gets: the range of stored events, the events behind them, queries.
fn workflow_task(what: &str, start: &WorkflowTaskStart) -> String {
    let mut response = start.response.clone();
    let mut queries: Vec<_> =
        response.queries.drain().map(|(id, query)| format!("{id}:{}", query.query_type)).collect();
    queries.sort();
    let updates: Vec<_> = response.messages.drain(..).map(|message| message.id).collect();
    let token = if start.token.is_none() { " without token" } else { "" };
    let mut out = format!("{what}{token} {}\n", compact(&response));
    let _ = write!(out, "  history {}", range(start.history_from, start.history_to));
    for appended in events(&start.tail) {
        let _ = write!(out, "\n  and {}", event(&appended));
    }
    out.push('\n');
    if !queries.is_empty() {
        let _ = writeln!(out, "  queries {}", queries.join(" "));
    }
    if !updates.is_empty() {
        let _ = writeln!(out, "  messages {}", updates.join(" "));
    }
    out
}

fn range(from: i64, to: i64) -> String {
    if from < to { format!("{from} to {}", to - 1) } else { "none".to_owned() }
}

/// A run's state, for the command `state`.
pub(crate) fn state(run: &Run) -> String {
    let mut out = format!(
        "{} {:?} next_event={} attempt={} completed={}",
        run.id,
        run.status(),
        run.state.next_event_id,
        run.state.next_workflow_task_attempt,
        run.state.last_completed_started_event_id
    );
    if let Some(at) = run.next_deadline() {
        let _ = write!(out, " deadline={}", time(at));
    }
    if let Some(at) = run.state.close_time {
        let _ = write!(out, " closed={}", time(at));
    }
    if let Some(sticky) = &run.sticky {
        let _ = write!(out, " sticky={}", sticky.task_queue);
    }
    out.push('\n');
    if let Some(task) = &run.state.workflow_task {
        let timeout = i64::try_from(task.start_to_close_timeout.as_nanos()).expect("a timeout is short");
        let started = task
            .started
            .as_ref()
            .map(|started| format!(", started {} {}", started.started_event_id, time(started.time)));
        let _ = writeln!(
            out,
            "  workflow task {} attempt {} {} (first {}) timeout {}{}{}",
            task.scheduled_event_id,
            task.attempt,
            time(task.scheduled_time),
            time(task.original_scheduled_time),
            seconds(timeout),
            started.unwrap_or_default(),
            if task.is_speculative { ", speculative" } else { "" }
        );
    }
    for activity in run.activities.values() {
        let _ = writeln!(
            out,
            "  activity {} ({}) attempt {} {} offered={} started={} cancel={:?} failure={}{}{}{}",
            activity.scheduled_event_id,
            activity.activity_id(),
            activity.attempt,
            time(activity.attempt_scheduled_time),
            activity.offered,
            activity.started.as_ref().map_or("no".to_owned(), |started| time(started.time)),
            activity.cancel_requested_event_id,
            activity.last_failure.as_ref().map_or(String::new(), |failure| compact(&**failure)),
            if activity.pause.is_some() { " paused" } else { "" },
            if activity.is_reset { " reset" } else { "" },
            activity.changed_options.as_ref().map_or(String::new(), |options| format!(" {}", compact(&**options))),
        );
    }
    for timer in run.timers.values() {
        let _ = writeln!(out, "  timer {} ({}) {}", timer.started_event_id, timer.timer_id, time(timer.expiry_time));
    }
    for (sequence, event) in run.buffered.iter() {
        let _ = writeln!(out, "  buffered {sequence} {:?}", event.event_type());
    }
    for (event_id, signal) in run.external_signals.iter() {
        let _ = writeln!(out, "  signal {event_id} to {}", signal.0.execution.workflow_id);
    }
    for (event_id, cancel) in run.external_cancels.iter() {
        let _ = writeln!(out, "  cancel {event_id} of {}", cancel.0.execution.workflow_id);
    }
    for (event_id, child) in run.children.iter() {
        let started = child.started_event_id.map(|event_id| format!(" started {event_id}")).unwrap_or_default();
        let _ = writeln!(out, "  child {event_id} {} {:?}{started}", child.workflow_id, child.parent_close_policy);
    }
    for (id, operation) in run.nexus_operations.iter() {
        let state = match (operation.is_started(), operation.is_backing_off) {
            (true, _) => "started",
            (false, true) => "backing off",
            (false, false) => "called",
        };
        let at = operation.call_at.map(|at| format!(" next {}", time(at))).unwrap_or_default();
        let _ = writeln!(out, "  operation {id} {state} attempt {}{at}", operation.attempt);
        if let Some(cancel) = &operation.cancel {
            let at = cancel.call_at.map(|at| format!(" next {}", time(at))).unwrap_or_default();
            let _ = writeln!(out, "    to be canceled {:?} attempt {}{at}", cancel.state, cancel.attempt);
        }
    }
    for (id, callback) in run.callbacks.iter() {
        let _ = writeln!(out, "  callback {id} {:?} attempt {}", callback.state, callback.attempt);
    }
    for (id, update) in run.accepted_updates.iter() {
        let completed = update.completed_event_id.map(|event_id| format!(" completed {event_id}")).unwrap_or_default();
        let _ = writeln!(out, "  update {id} accepted {}{completed}", update.accepted_event_id);
    }
    for (id, update) in run.reapplied_updates.iter() {
        let _ = writeln!(out, "  update {id} reapplied {}", update.admitted_event_id);
    }
    for update in &run.admitted_updates {
        let _ = writeln!(out, "  update {} {}", update.id, if update.is_sent { "sent" } else { "admitted" });
    }
    for query in &run.queries {
        let _ = writeln!(out, "  query {} {}", query.query_id, query.query.query_type);
    }
    out
}

/// What DescribeWorkflowExecution says, a part on each line.
pub(crate) fn description(description: &DescribeWorkflowExecutionResponse) -> String {
    let mut out = String::new();
    let mut part = |name: &str, text: String| {
        let _ = writeln!(out, "{name} {text}");
    };
    part("config", description.execution_config.as_ref().map(compact).unwrap_or_default());
    part("info", description.workflow_execution_info.as_ref().map(compact).unwrap_or_default());
    part("extended info", description.workflow_extended_info.as_ref().map(compact).unwrap_or_default());
    for activity in &description.pending_activities {
        part("pending activity", compact(activity));
    }
    for child in &description.pending_children {
        part("pending child", compact(child));
    }
    if let Some(task) = &description.pending_workflow_task {
        part("pending workflow task", compact(task));
    }
    out
}
