//! The worker's side of a script.

use std::collections::HashMap;

use everlog_kernel::command::{
    ActivityRef, Objections, Reply, SearchAttributeObjection, StartActivityTask, StartWorkflowTask, WorkflowTaskStart,
};
use everlog_kernel::token::{self, WorkflowTaskToken};
use everlog_kernel::{RunCommand, RunId};
use everlog_proto::api::common::v1::WorkerVersionStamp;
use everlog_proto::api::enums::v1::{EventType, QueryResultType};
use everlog_proto::api::protocol::v1::Message as ProtocolMessage;
use everlog_proto::api::query::v1::WorkflowQueryResult;
use everlog_proto::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use everlog_proto::api::update::v1::{Acceptance, Meta, Outcome as UpdateOutcome, Rejection, Response, outcome};
use everlog_proto::api::workflowservice::v1::RespondWorkflowTaskCompletedRequest;
use everlog_proto::api::workflowservice::v1::respond_workflow_task_completed_request::Capabilities;
use everlog_proto::wkt::Any;
use prost::{Message, Name};

use super::Runner;
use crate::arguments::{Arguments, Outcome, payloads};
use crate::{print, requests};

/// The messages of a completion, in the order of what they do: updates are accepted, completed, rejected.
fn messages(arguments: &mut Arguments<'_>, token: &WorkflowTaskToken) -> Outcome<Vec<ProtocolMessage>> {
    let ids =
        |text: Option<&str>| text.into_iter().flat_map(|ids| ids.split('/')).map(str::to_owned).collect::<Vec<_>>();
    let (accepted, completed, rejected) =
        (ids(arguments.text("accept")), ids(arguments.text("complete")), ids(arguments.text("reject")));
    let back = arguments.flag("back")?;
    let request = |id: &str| back.then(|| requests::update(id.to_owned(), "update".to_owned()));
    let mut messages = Vec::new();
    for id in accepted {
        let acceptance = Acceptance {
            accepted_request_message_id: format!("{id}/request"),
            accepted_request_sequencing_event_id: token.started_event_id - 1,
            accepted_request: request(&id),
        };
        messages.push(message(&id, "accept", &acceptance));
    }
    for id in completed {
        let outcome = UpdateOutcome { value: Some(outcome::Value::Success(payloads("done"))) };
        let meta = Some(Meta { update_id: id.clone(), ..Meta::default() });
        messages.push(message(&id, "complete", &Response { meta, outcome: Some(outcome) }));
    }
    for id in rejected {
        let failure = Some(everlog_proto::api::failure::v1::Failure { message: "no".to_owned(), ..Default::default() });
        let rejection = Rejection { failure, rejected_request: request(&id), ..Rejection::default() };
        messages.push(message(&id, "reject", &rejection));
    }
    Ok(messages)
}

fn message<M: Message + Name>(update_id: &str, what: &str, body: &M) -> ProtocolMessage {
    ProtocolMessage {
        id: format!("{update_id}/{what}"),
        protocol_instance_id: update_id.to_owned(),
        body: Some(Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: body.encode_to_vec() }),
        ..ProtocolMessage::default()
    }
}

/// What a worker says of its build.
pub(super) fn version(arguments: &mut Arguments<'_>) -> Option<WorkerVersionStamp> {
    let build_id = arguments.text("build-id")?;
    Some(WorkerVersionStamp { build_id: build_id.to_owned(), use_versioning: false })
}

impl Runner {
    /// A worker takes the workflow task.
    pub(super) fn poll_workflow(&mut self, run_id: Option<RunId>, arguments: &mut Arguments<'_>) -> Outcome<String> {
        let run = self.run_of(run_id)?;
        let task = run.state.workflow_task.as_ref();
        let sticky = run.sticky.as_ref().map_or(run.task_queue(), |sticky| &sticky.task_queue).to_owned();
        let start = StartWorkflowTask {
            deployment_version: None,
            scheduled_event_id: arguments
                .number("scheduled")?
                .or(task.map(|task| task.scheduled_event_id))
                .ok_or("no workflow task is pending")?,
            attempt: arguments.number("attempt")?.or(task.map(|task| task.attempt)).unwrap_or(1),
            task_queue: arguments.string("queue", &sticky),
            identity: "worker".to_owned(),
            request_id: arguments.string("request-id", "poll"),
            worker_version: version(arguments),
        };
        let name = arguments.string("token", "");
        let run_id = Some(run.id);
        let transition = match self.transition(run_id, RunCommand::StartWorkflowTask(start)) {
            Ok(transition) => transition,
            Err(refused) => return Ok(print::rejection(&refused) + "\n"),
        };
        if let Ok(Reply::WorkflowTaskStarted(start)) = &transition.reply {
            self.take_workflow_task(name, start);
        }
        Ok(print::transition(&transition))
    }

    /// Checks what a worker was given, and keeps its token.
    pub(super) fn take_workflow_task(&mut self, name: String, start: &WorkflowTaskStart) {
        let token = start.token.clone().expect("a task has a token");
        assert_eq!(token::decode(&token::encode(&token)).as_ref(), Some(&token), "a token is read as it was written");
        let tail = print::events(&start.tail);
        let last = tail.last().expect("a started task has a tail");
        assert_eq!(last.event_type(), EventType::WorkflowTaskStarted, "the history that a worker gets ends with it");
        assert_eq!(last.event_id, start.response.started_event_id, "... and has its id");
        for (id, event) in (start.history_to..).zip(&tail) {
            assert_eq!(event.event_id, id, "the tail follows the stored events");
        }
        let stored = self.store.history(token.run_id).len() as i64;
        assert_eq!(start.history_to, stored + 1, "every stored event but the first ones is sent");
        self.workflow_tokens.insert(name, token);
    }

    #[expect(deprecated, reason = "old workers are known by their binaries and build ids")]
    pub(super) fn complete(&mut self, _: Option<RunId>, arguments: &mut Arguments<'_>) -> Outcome<String> {
        let sticky = arguments.text("sticky");
        let sticky_timeout = arguments.duration("sticky-timeout")?;
        let token = self.workflow_token(arguments)?;
        let mut query_results = HashMap::new();
        for (id, answer) in arguments.prefixed("answer-") {
            let result_type = QueryResultType::Answered.into();
            let result = WorkflowQueryResult { result_type, answer: Some(payloads(&answer)), ..Default::default() };
            query_results.insert(id, result);
        }
        for (id, error_message) in arguments.prefixed("fail-") {
            let result_type = QueryResultType::Failed.into();
            query_results.insert(id, WorkflowQueryResult { result_type, error_message, ..Default::default() });
        }
        let request = RespondWorkflowTaskCompletedRequest {
            commands: std::mem::take(&mut self.commands),
            identity: "worker".to_owned(),
            sticky_attributes: sticky.map(|name| StickyExecutionAttributes {
                worker_task_queue: Some(TaskQueue { name: name.to_owned(), kind: 2, normal_name: "q".to_owned() }),
                schedule_to_start_timeout: sticky_timeout,
            }),
            return_new_workflow_task: arguments.flag("return-new")?,
            force_create_new_workflow_task: arguments.flag("force-new")?,
            query_results,
            messages: messages(arguments, &token)?,
            capabilities: arguments
                .flag("able")?
                .then_some(Capabilities { discard_speculative_workflow_task_with_events: true }),
            binary_checksum: arguments.string("checksum", ""),
            worker_version_stamp: arguments
                .text("build-id")
                .map(|build_id| WorkerVersionStamp { build_id: build_id.to_owned(), use_versioning: false }),
            ..RespondWorkflowTaskCompletedRequest::default()
        };
        // What a frontend finds wrong with the first command.
        let unknown =
            arguments.text("unknown-attribute").map(|name| SearchAttributeObjection::Unknown(name.to_owned()));
        let invalid =
            arguments.text("invalid-attribute").map(|name| SearchAttributeObjection::Invalid(name.to_owned()));
        let objections = Objections {
            bad_binary: arguments.flag("bad-binary")?,
            search_attributes: unknown.or(invalid).map(|objection| (0, objection)).into_iter().collect(),
            nexus_endpoints: [("endpoint".to_owned(), "endpoint-id".to_owned())].into(),
        };
        let transition = match self
            .transition(Some(token.run_id), RunCommand::CompleteWorkflowTask(token, Box::new(request), objections))
        {
            Ok(transition) => transition,
            Err(refused) => return Ok(print::rejection(&refused) + "\n"),
        };
        if let Ok(Reply::WorkflowTaskCompleted(completed)) = &transition.reply {
            if let Some(next) = &completed.next {
                self.take_workflow_task(String::new(), next);
            }
            for activity in &completed.activities {
                let token = token::decode(&activity.task_token).ok_or("an activity task has a token")?;
                self.activity_tokens.insert(activity.activity_id.clone(), token);
            }
        }
        Ok(print::transition(&transition))
    }

    pub(super) fn workflow_token(&self, arguments: &mut Arguments<'_>) -> Outcome<WorkflowTaskToken> {
        let name = arguments.text("token").unwrap_or_default();
        let mut token = self.workflow_tokens.get(name).cloned().ok_or("no workflow task was polled")?;
        token.is_proven = !arguments.flag("unproven")?;
        Ok(token)
    }

    /// A worker takes an activity.
    pub(super) fn poll_activity(&mut self, run_id: Option<RunId>, arguments: &mut Arguments<'_>) -> Outcome<String> {
        let id = arguments.expected("an activity id")?;
        let run = self.run_of(run_id)?;
        let scheduled = run.activities.by_name(id).copied();
        let activity = scheduled.and_then(|id| run.activities.get(&id));
        let attempt = activity.map(|activity| activity.attempt);
        let key = activity.map(|activity| run.activity_task_key(activity, activity.attempt_scheduled_time));
        let key = if arguments.flag("old")? { self.old_tasks.get(id).cloned() } else { key };
        let asked = key.clone();
        let start = StartActivityTask {
            deployment_version: None,
            scheduled_event_id: arguments.number("scheduled")?.or(scheduled).ok_or("no such activity is pending")?,
            attempt: arguments.number("attempt")?.or(attempt).unwrap_or(1),
            key: key.map(Box::new),
            identity: "worker".to_owned(),
            request_id: arguments.string("request-id", "poll"),
            sdk: Default::default(),
        };
        let run_id = Some(run.id);
        self.old_tasks.extend(asked.map(|key| (id.to_owned(), key)));
        let transition = match self.transition(run_id, RunCommand::StartActivityTask(start)) {
            Ok(transition) => transition,
            Err(refused) => return Ok(print::rejection(&refused) + "\n"),
        };
        if let Ok(Reply::ActivityTaskStarted(response)) = &transition.reply {
            let token = token::decode(&response.task_token).ok_or("an activity task has a token")?;
            self.activity_tokens.insert(id.to_owned(), token);
        }
        Ok(print::transition(&transition))
    }

    /// The activity that a worker names, and the run that it names with it.
    pub(super) fn activity(
        &self,
        run_id: Option<RunId>,
        arguments: &mut Arguments<'_>,
    ) -> Outcome<(Option<RunId>, ActivityRef)> {
        let id = arguments.expected("an activity id")?;
        if arguments.text("by") == Some("id") {
            return Ok((run_id, ActivityRef::Id(id.to_owned())));
        }
        let token = self.activity_tokens.get(id).cloned().ok_or("that activity was not polled")?;
        Ok((Some(token.run_id), ActivityRef::Token(token)))
    }
}
