//! RespondWorkflowTaskCompleted on a run that lives: each input is the answer to a fresh workflow task. Whatever a worker answers, the
//! server takes it or refuses it, the history stays one that Temporal could have written, and the run can be ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::command::v1::{
    CancelTimerCommandAttributes, Command, CompleteWorkflowExecutionCommandAttributes,
    ContinueAsNewWorkflowExecutionCommandAttributes, FailWorkflowExecutionCommandAttributes,
    ModifyWorkflowPropertiesCommandAttributes, ProtocolMessageCommandAttributes, RecordMarkerCommandAttributes,
    RequestCancelActivityTaskCommandAttributes, ScheduleActivityTaskCommandAttributes, StartTimerCommandAttributes,
    UpsertWorkflowSearchAttributesCommandAttributes,
};
use everlog_proto::api::common::v1::{
    ActivityType, Memo, Payload, Payloads, SearchAttributes, WorkflowExecution, WorkflowType,
};
use everlog_proto::api::enums::v1::{CommandType, EventType};
use everlog_proto::api::failure::v1::Failure;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::protocol::v1::Message as ProtocolMessage;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::update::v1::{Acceptance, Input, Meta, Outcome, Rejection, Request, Response, outcome};
use everlog_proto::api::workflowservice::v1 as service;
use everlog_proto::wkt::Any;
use prost::{Message, Name};
use tonic::Status;

use super::server::Server;
use super::{Target, kind_of};
use everlog_random::Random;
use everlog_random::mutate;

const NAMESPACE: &str = "default";
const SERVICE: &str = "temporal.api.workflowservice.v1.WorkflowService";
const PATIENCE: Duration = Duration::from_secs(30);
/// Inputs for one server.
const SERVER_INPUTS: u32 = 5_000;

pub(super) struct Completions {
    binary: PathBuf,
    server: Option<Server>,
    inputs: u32,
}

impl Completions {
    pub(super) fn new(binary: &Path) -> Completions {
        Completions { binary: binary.to_owned(), server: None, inputs: 0 }
    }

    fn complete(&mut self, input: &[u8]) -> Result<String, String> {
        let server = match &mut self.server {
            Some(server) => server,
            none => none.insert(Server::start(&self.binary)?),
        };
        let id = format!("fuzz-{}", self.inputs);
        let start = service::StartWorkflowExecutionRequest {
            namespace: NAMESPACE.to_owned(),
            workflow_id: id.clone(),
            workflow_type: Some(WorkflowType { name: "Fuzz".to_owned() }),
            task_queue: queue(&id),
            request_id: id.clone(),
            ..Default::default()
        };
        let started: service::StartWorkflowExecutionResponse = ordinary(server, "StartWorkflowExecution", &start)?;
        let poll = service::PollWorkflowTaskQueueRequest {
            namespace: NAMESPACE.to_owned(),
            task_queue: queue(&id),
            identity: "fuzz".to_owned(),
            ..Default::default()
        };
        let task: service::PollWorkflowTaskQueueResponse = ordinary(server, "PollWorkflowTaskQueue", &poll)?;
        if task.task_token.is_empty() {
            return Err("a started workflow has no workflow task".to_owned());
        }
        // What does not read as a request is sent as it is.
        let request = match service::RespondWorkflowTaskCompletedRequest::decode(input) {
            Ok(request) => {
                let (namespace, task_token) = (NAMESPACE.to_owned(), task.task_token);
                service::RespondWorkflowTaskCompletedRequest { namespace, task_token, ..request }.encode_to_vec()
            }
            Err(_) => input.to_vec(),
        };
        let answer = server.call(&method("RespondWorkflowTaskCompleted"), &request, PATIENCE)?;
        let refusal: Option<&Status> = answer.as_ref().err();
        if let Some(complaint) = server.complaint(refusal) {
            return Err(complaint);
        }
        let run = Some(WorkflowExecution { workflow_id: id, run_id: started.run_id });
        let events = history(server, &run)?;
        check(&events)?;
        let closed = events.last().is_some_and(|last| closes(last.event_type()));
        if !closed {
            let end = service::TerminateWorkflowExecutionRequest {
                namespace: NAMESPACE.to_owned(),
                workflow_execution: run.clone(),
                ..Default::default()
            };
            ordinary::<service::TerminateWorkflowExecutionResponse>(server, "TerminateWorkflowExecution", &end)?;
            let events = history(server, &run)?;
            check(&events)?;
            if events.last().map(HistoryEvent::event_type) != Some(EventType::WorkflowExecutionTerminated) {
                return Err("a run that was terminated does not end so".to_owned());
            }
        }
        let types: Vec<&str> = events.iter().skip(3).take(4).map(|event| event.event_type().as_str_name()).collect();
        let told = refusal.map_or_else(|| "ok".to_owned(), |status| kind_of(status.message()));
        Ok(format!("{told} {types:?}"))
    }
}

impl Target for Completions {
    fn name(&self) -> &'static str {
        "completions"
    }

    fn seeds(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let commands = commands();
        let request = |commands: Vec<Command>| {
            let sticky = everlog_proto::api::taskqueue::v1::StickyExecutionAttributes {
                worker_task_queue: queue("sticky"),
                schedule_to_start_timeout: seconds(5),
            };
            service::RespondWorkflowTaskCompletedRequest {
                identity: "fuzz".to_owned(),
                commands,
                sticky_attributes: Some(sticky),
                return_new_workflow_task: true,
                force_create_new_workflow_task: false,
                ..Default::default()
            }
            .encode_to_vec()
        };
        let answers = |messages: Vec<ProtocolMessage>| {
            let commands = messages.iter().map(|message| told(&message.id)).collect();
            service::RespondWorkflowTaskCompletedRequest { commands, messages, ..Default::default() }.encode_to_vec()
        };
        let of_updates = [
            answers(vec![acceptance()]),
            answers(vec![acceptance(), response()]),
            answers(vec![rejection()]),
            answers(vec![response(), acceptance(), rejection(), acceptance()]),
        ];
        let one_by_one = commands.iter().map(|command| request(vec![command.clone()]));
        Ok(one_by_one.chain([request(Vec::new()), request(commands.clone())]).chain(of_updates).collect())
    }

    fn change(&mut self, random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
        mutate::message(random, input, other);
    }

    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        self.inputs += 1;
        if self.inputs.is_multiple_of(SERVER_INPUTS) {
            self.finish()?;
        }
        let done = self.complete(input);
        if done.is_err() {
            self.server = None;
        }
        done
    }

    fn finish(&mut self) -> Result<(), String> {
        self.server.take().map_or(Ok(()), Server::stop)
    }
}

/// A request that must be carried out.
fn ordinary<T: Message + Default>(server: &mut Server, name: &str, request: &impl Message) -> Result<T, String> {
    match server.call(&method(name), &request.encode_to_vec(), PATIENCE)? {
        Ok(response) => T::decode(response).map_err(|error| format!("{name}: {error}")),
        Err(status) => {
            let complaint = server.complaint(Some(&status));
            Err(complaint.unwrap_or_else(|| format!("{name} is refused: {:?} {}", status.code(), status.message())))
        }
    }
}

fn history(server: &mut Server, run: &Option<WorkflowExecution>) -> Result<Vec<HistoryEvent>, String> {
    let mut events = Vec::new();
    let mut next_page_token = Vec::new();
    loop {
        let request = service::GetWorkflowExecutionHistoryRequest {
            namespace: NAMESPACE.to_owned(),
            execution: run.clone(),
            next_page_token,
            ..Default::default()
        };
        let page: service::GetWorkflowExecutionHistoryResponse =
            ordinary(server, "GetWorkflowExecutionHistory", &request)?;
        events.extend(page.history.map(|history| history.events).unwrap_or_default());
        next_page_token = page.next_page_token;
        if next_page_token.is_empty() {
            return Ok(events);
        }
    }
}

fn check(events: &[HistoryEvent]) -> Result<(), String> {
    if events.first().map(HistoryEvent::event_type) != Some(EventType::WorkflowExecutionStarted) {
        return Err("a history does not begin with a start".to_owned());
    }
    for (position, event) in events.iter().enumerate() {
        if event.event_id != position as i64 + 1 {
            return Err(format!("event {} stands where {} belongs", event.event_id, position + 1));
        }
        if event.attributes.is_none() {
            return Err(format!("event {} has no attributes", event.event_id));
        }
        if closes(event.event_type()) && position + 1 < events.len() {
            return Err(format!("event {} stands behind the end", event.event_id + 1));
        }
    }
    for pair in events.windows(2) {
        let inside = pair[0].event_type() == EventType::WorkflowTaskStarted
            && !matches!(
                pair[1].event_type(),
                EventType::WorkflowTaskCompleted
                    | EventType::WorkflowTaskFailed
                    | EventType::WorkflowTaskTimedOut
                    | EventType::WorkflowExecutionTerminated
            );
        if inside {
            return Err(format!("event {} stands inside a workflow task", pair[1].event_id));
        }
    }
    Ok(())
}

fn closes(event_type: EventType) -> bool {
    matches!(
        event_type,
        EventType::WorkflowExecutionCompleted
            | EventType::WorkflowExecutionFailed
            | EventType::WorkflowExecutionCanceled
            | EventType::WorkflowExecutionTerminated
            | EventType::WorkflowExecutionTimedOut
            | EventType::WorkflowExecutionContinuedAsNew
    )
}

fn method(name: &str) -> String {
    format!("{SERVICE}/{name}")
}

fn queue(name: &str) -> Option<TaskQueue> {
    Some(TaskQueue { name: name.to_owned(), ..Default::default() })
}

fn seconds(seconds: i64) -> Option<everlog_proto::wkt::Duration> {
    Some(everlog_proto::wkt::Duration { seconds, nanos: 0 })
}

fn payload() -> Payload {
    let metadata = [("encoding".to_owned(), b"json/plain".to_vec())].into();
    Payload { metadata, data: b"1".to_vec(), ..Default::default() }
}

fn payloads() -> Option<Payloads> {
    Some(Payloads { payloads: vec![payload()] })
}

/// A message of a worker about an update that only the worker knows of, as one that was admitted before the server began anew.
fn message<T: Message + Name>(id: &str, body: &T) -> ProtocolMessage {
    ProtocolMessage {
        id: id.to_owned(),
        protocol_instance_id: "update".to_owned(),
        body: Some(Any { type_url: format!("type.googleapis.com/{}", T::full_name()), value: body.encode_to_vec() }),
        ..Default::default()
    }
}

fn update() -> Option<Request> {
    Some(Request {
        meta: Some(Meta { update_id: "update".to_owned(), identity: "fuzz".to_owned() }),
        input: Some(Input { name: "Fuzz".to_owned(), args: payloads(), ..Default::default() }),
        ..Default::default()
    })
}

fn acceptance() -> ProtocolMessage {
    let acceptance = Acceptance {
        accepted_request_message_id: "update/request".to_owned(),
        accepted_request_sequencing_event_id: 2,
        accepted_request: update(),
    };
    message("accept", &acceptance)
}

fn response() -> ProtocolMessage {
    let meta = update().and_then(|request| request.meta);
    let outcome = Some(Outcome { value: payloads().map(outcome::Value::Success) });
    message("complete", &Response { meta, outcome })
}

fn rejection() -> ProtocolMessage {
    let rejection = Rejection {
        rejected_request_message_id: "update/request".to_owned(),
        rejected_request_sequencing_event_id: 2,
        rejected_request: update(),
        failure: Some(Failure { message: "f".to_owned(), ..Default::default() }),
    };
    message("reject", &rejection)
}

/// The command that stands for a message.
fn told(message_id: &str) -> Command {
    let message_id = message_id.to_owned();
    Command {
        command_type: CommandType::ProtocolMessage as i32,
        attributes: Some(Attributes::ProtocolMessageCommandAttributes(ProtocolMessageCommandAttributes { message_id })),
        ..Default::default()
    }
}

/// One command of each kind; the ends last.
fn commands() -> Vec<Command> {
    let command = |kind: CommandType, attributes: Attributes| Command {
        command_type: kind as i32,
        attributes: Some(attributes),
        ..Default::default()
    };
    let fields = |name: &str| [(name.to_owned(), payload())].into();
    let activity = ScheduleActivityTaskCommandAttributes {
        activity_id: "a".to_owned(),
        activity_type: Some(ActivityType { name: "Fuzz".to_owned() }),
        task_queue: queue("activities"),
        input: payloads(),
        start_to_close_timeout: seconds(10),
        heartbeat_timeout: seconds(3),
        retry_policy: Some(everlog_proto::api::common::v1::RetryPolicy {
            initial_interval: seconds(1),
            backoff_coefficient: 2.0,
            maximum_attempts: 3,
            ..Default::default()
        }),
        ..Default::default()
    };
    let timer = StartTimerCommandAttributes { timer_id: "t".to_owned(), start_to_fire_timeout: seconds(60) };
    let marker = RecordMarkerCommandAttributes {
        marker_name: "m".to_owned(),
        details: [("d".to_owned(), Payloads { payloads: vec![payload()] })].into(),
        ..Default::default()
    };
    let memo = ModifyWorkflowPropertiesCommandAttributes { upserted_memo: Some(Memo { fields: fields("k") }) };
    let attributes = UpsertWorkflowSearchAttributesCommandAttributes {
        search_attributes: Some(SearchAttributes { indexed_fields: fields("CustomIntField") }),
    };
    let cancel = RequestCancelActivityTaskCommandAttributes { scheduled_event_id: 5 };
    let failure = Failure { message: "f".to_owned(), ..Default::default() };
    let again = ContinueAsNewWorkflowExecutionCommandAttributes {
        workflow_type: Some(WorkflowType { name: "Fuzz".to_owned() }),
        task_queue: queue("again"),
        input: payloads(),
        ..Default::default()
    };
    let done = CompleteWorkflowExecutionCommandAttributes { result: payloads() };
    vec![
        command(CommandType::ScheduleActivityTask, Attributes::ScheduleActivityTaskCommandAttributes(activity)),
        command(CommandType::StartTimer, Attributes::StartTimerCommandAttributes(timer)),
        command(
            CommandType::CancelTimer,
            Attributes::CancelTimerCommandAttributes(CancelTimerCommandAttributes { timer_id: "t".to_owned() }),
        ),
        command(CommandType::RequestCancelActivityTask, Attributes::RequestCancelActivityTaskCommandAttributes(cancel)),
        command(CommandType::RecordMarker, Attributes::RecordMarkerCommandAttributes(marker)),
        command(CommandType::ModifyWorkflowProperties, Attributes::ModifyWorkflowPropertiesCommandAttributes(memo)),
        command(
            CommandType::UpsertWorkflowSearchAttributes,
            Attributes::UpsertWorkflowSearchAttributesCommandAttributes(attributes),
        ),
        command(
            CommandType::FailWorkflowExecution,
            Attributes::FailWorkflowExecutionCommandAttributes(FailWorkflowExecutionCommandAttributes {
                failure: Some(failure),
            }),
        ),
        command(
            CommandType::ContinueAsNewWorkflowExecution,
            Attributes::ContinueAsNewWorkflowExecutionCommandAttributes(again),
        ),
        command(CommandType::CompleteWorkflowExecution, Attributes::CompleteWorkflowExecutionCommandAttributes(done)),
    ]
}
