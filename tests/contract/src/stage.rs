//! Plays a scenario on a server and writes down what it shows.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use prost::Message;
use prost_reflect::{DynamicMessage, Kind, Value};
use serde_json::{Map, Value as Json, json};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::call::Server;
use crate::expand::{Values, expand};
use crate::script::{Scenario, Step};
use crate::show::Shower;
use crate::verbs::{PATIENCE, Until, Verb, verb};

/// A call's deadline, unless its step says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The deadline of each poll that is repeated until there is a task.
const POLL_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a step in the background has to reach the server before the next step.
const HEAD_START: Duration = Duration::from_millis(200);

/// What steps of a scenario refer to.
#[derive(Default)]
pub(crate) struct Results(HashMap<String, DynamicMessage>);

/// A call that is ready to be made.
#[derive(Clone)]
pub(crate) struct Call {
    server: Server,
    method: String,
    pub(crate) request: DynamicMessage,
    pub(crate) timeout: Duration,
    headers: Vec<(String, String)>,
    until: Until,
    entries: usize,
}

type Answer = Result<DynamicMessage, Status>;

/// What a scenario shows on a server: an object with a member for each step.
pub(crate) async fn play(server: &Server, scenario: &Scenario) -> Json {
    play_on(server, scenario, &nonce()).await.0
}

/// What makes the names of a scenario its own.
pub(crate) fn nonce() -> String {
    format!("{:08x}", RandomState::new().build_hasher().finish() as u32)
}

/// The same with a nonce, and what further steps may refer to.
pub(crate) async fn play_on(server: &Server, scenario: &Scenario, nonce: &str) -> (Json, Results) {
    let mut shower = Shower::new(nonce.to_owned(), scenario.timed);
    let mut results = Results::default();
    let mut waiting: HashMap<String, JoinHandle<Answer>> = HashMap::new();
    let mut shown = Map::new();
    for (number, step) in scenario.steps.iter().enumerate() {
        let title = format!("{:02} {}", number + 1, step.title());
        let answer = match step.verb.as_str() {
            "sleep" => {
                tokio::time::sleep(step.arguments.first().and_then(|text| time(text)).unwrap_or_default()).await;
                continue;
            }
            "await" => {
                let label = step.arguments.first().map(String::as_str).unwrap_or_default();
                match waiting.remove(label) {
                    Some(call) => call.await.unwrap_or_else(|error| Err(Status::internal(error.to_string()))),
                    None => Err(Status::internal("nothing of that name goes on")),
                }
            }
            _ => match prepare(server, step, nonce, &results) {
                Err(problem) => {
                    shown.insert(title, json!({ "not_called": shower.text(&problem, "problem") }));
                    continue;
                }
                Ok(call) if step.background => {
                    waiting.insert(step.title().to_owned(), tokio::spawn(call.make()));
                    tokio::time::sleep(HEAD_START).await;
                    continue;
                }
                Ok(call) => call.make().await,
            },
        };
        shown.insert(title, show(server, &mut shower, &answer));
        if let Ok(response) = answer {
            results.keep(step, response);
        }
    }
    (Json::Object(shown), results)
}

/// The call that a step says.
pub(crate) fn prepare(server: &Server, step: &Step, nonce: &str, results: &Results) -> Result<Call, String> {
    let Verb { method, fields, until } =
        verb(&step.verb).unwrap_or(Verb { method: "", fields: "", until: Until::Answered });
    let method = if method.is_empty() { step.verb.as_str() } else { method };
    let input = server.input(method).ok_or_else(|| format!("there is no {method}"))?;
    let parsed = |text: &str| -> Result<Vec<u8>, String> {
        let text = expand(text, nonce, results)?;
        let message = DynamicMessage::parse_text_format(input.clone(), &text);
        Ok(message.map_err(|error| format!("{error}: {text}"))?.encode_to_vec())
    };
    // Fields of the step come later than those of the verb, and so count.
    let mut bytes = if step.body.contains("task_token:") { parsed(&without_token(fields))? } else { parsed(fields)? };
    bytes.extend(parsed(&step.body)?);
    let mut request = DynamicMessage::decode(input.clone(), bytes.as_slice()).map_err(|error| error.to_string())?;
    name_commands(&mut request);
    let named = step.option("namespace").unwrap_or("default").replace('~', &format!("-{nonce}"));
    if input.get_field_by_name("namespace").is_some()
        && !request.has_field_by_name("namespace")
        && !method.ends_with("Namespace")
    {
        request.set_field_by_name("namespace", Value::String(named));
    }
    let timeout = if until == Until::Task { POLL_TIMEOUT } else { TIMEOUT };
    Ok(Call {
        server: server.clone(),
        method: method.to_owned(),
        request,
        timeout: step.option("timeout").and_then(time).unwrap_or(timeout),
        headers: step.options.iter().filter(|(key, _)| key.contains('-')).cloned().collect(),
        until,
        entries: step
            .option("until")
            .or(step.arguments.first().map(String::as_str))
            .map_or(0, |n| n.parse().unwrap_or(0)),
    })
}

/// Gives each command the type that its attributes say.
fn name_commands(request: &mut DynamicMessage) {
    let commands = request.descriptor_of().get_field_by_name("commands").map(|field| request.get_field_mut(&field));
    for command in commands.and_then(Value::as_list_mut).into_iter().flatten().filter_map(Value::as_message_mut) {
        let attributes = command
            .fields()
            .find_map(|(field, _)| Some(field.name().strip_suffix("_command_attributes")?.to_uppercase()));
        let Some(field) = command.descriptor_of().get_field_by_name("command_type") else { continue };
        let Kind::Enum(types) = field.kind() else { continue };
        let of_attributes = attributes.and_then(|name| types.get_value_by_name(&format!("COMMAND_TYPE_{name}")));
        if let (false, Some(value)) = (command.has_field(&field), of_attributes) {
            command.set_field(&field, Value::EnumNumber(value.number()));
        }
    }
}

fn without_token(fields: &str) -> String {
    fields.split_inclusive(' ').filter(|word| !word.starts_with('$') && *word != "task_token: ").collect()
}

impl Call {
    async fn make(mut self) -> Answer {
        let begin = Instant::now();
        let mut whole: Option<DynamicMessage> = None;
        loop {
            let mut answer = self.server.call(&self.method, &self.request, self.timeout, &self.headers).await?;
            let late = begin.elapsed() > PATIENCE;
            let over = match self.until {
                Until::Answered => true,
                Until::Task => late || answer.has_field_by_name("task_token"),
                Until::Entries => late || entries(&answer) >= self.entries,
                Until::Finished => late || answer.has_field_by_name("close_time"),
                Until::Events => {
                    let token = answer.get_field_by_name("next_page_token").map(|token| token.into_owned());
                    let more = answer.has_field_by_name("next_page_token");
                    answer.clear_field_by_name("next_page_token");
                    if let Some(begun) = whole.take() {
                        let mut bytes = begun.encode_to_vec();
                        bytes.extend(answer.encode_to_vec());
                        answer = DynamicMessage::decode(answer.descriptor_of(), bytes.as_slice())
                            .map_err(|error| Status::internal(error.to_string()))?;
                    }
                    let over = !more && (late || events(&answer) >= self.entries);
                    if more && let Some(token) = token {
                        self.request.set_field_by_name("next_page_token", token);
                        whole = Some(answer.clone());
                    } else {
                        self.request.clear_field_by_name("next_page_token");
                    }
                    if !over && !more {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    over
                }
            };
            if over {
                return Ok(answer);
            }
            if matches!(self.until, Until::Entries | Until::Finished) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Its own trait, so that the name of the method says what it is for.
trait Described {
    fn descriptor_of(&self) -> prost_reflect::MessageDescriptor;
}

impl Described for DynamicMessage {
    fn descriptor_of(&self) -> prost_reflect::MessageDescriptor {
        prost_reflect::ReflectMessage::descriptor(self)
    }
}

/// How many entries a list or count has.
fn entries(answer: &DynamicMessage) -> usize {
    if let Some(count) = answer.get_field_by_name("count") {
        return count.as_i64().unwrap_or_default() as usize;
    }
    answer.get_field_by_name("executions").and_then(|list| list.as_list().map(<[Value]>::len)).unwrap_or_default()
}

fn events(answer: &DynamicMessage) -> usize {
    let history = answer.get_field_by_name("history");
    let events = history.as_deref().and_then(Value::as_message).and_then(|history| history.get_field_by_name("events"));
    events.as_deref().and_then(Value::as_list).map_or(0, <[Value]>::len)
}

fn show(server: &Server, shower: &mut Shower, answer: &Answer) -> Json {
    match answer {
        Ok(response) => shower.show(response),
        Err(status) => show_status(server, shower, status),
    }
}

/// Code, text and details.
pub(crate) fn show_status(server: &Server, shower: &mut Shower, status: &Status) -> Json {
    match status {
        // Which side notices first is chance.
        status if status.code() == Code::DeadlineExceeded || status.message() == "Timeout expired" => {
            json!({ "status": "DeadlineExceeded" })
        }
        status => {
            let mut shown = Map::new();
            shown.insert("status".to_owned(), json!(format!("{:?}", status.code())));
            shown.insert("message".to_owned(), json!(shower.text(status.message(), "message")));
            let details = server
                .message("google.rpc.Status")
                .and_then(|descriptor| DynamicMessage::decode(descriptor, status.details()).ok())
                .map(|details| shower.show(&details));
            if let Some(details) = details.as_ref().and_then(|details| details.get("details")) {
                shown.insert("details".to_owned(), details.clone());
            }
            Json::Object(shown)
        }
    }
}

impl Results {
    /// Under the step's title, and tasks under `task` and `activity`, where verbs look for them.
    fn keep(&mut self, step: &Step, response: DynamicMessage) {
        let task = match response.descriptor_of().name() {
            "PollWorkflowTaskQueueResponse" => Some("task"),
            "PollActivityTaskQueueResponse" => Some("activity"),
            _ => None,
        };
        if let Some(task) = task.filter(|_| response.has_field_by_name("task_token")) {
            self.0.insert(task.to_owned(), response.clone());
        }
        let title = if step.verb == "await" { step.arguments.first().cloned() } else { None };
        self.0.insert(title.unwrap_or_else(|| step.title().to_owned()), response);
    }
}

impl Values for Results {
    fn value(&self, path: &str) -> Option<String> {
        let mut parts = path.split('.');
        let mut value = Value::Message(self.0.get(parts.next()?)?.clone());
        for part in parts {
            let (name, index) = match part.split_once('[') {
                Some((name, index)) => (name, Some(index.trim_end_matches(']').to_owned())),
                None => (part, None),
            };
            value = value.as_message()?.get_field_by_name(name)?.into_owned();
            if let Some(index) = index {
                value = match &value {
                    Value::Map(map) => map.values().next()?.clone(),
                    _ => value.as_list()?.get(index.parse::<usize>().ok()?)?.clone(),
                };
            }
        }
        match value {
            Value::String(text) if !text.is_empty() => Some(literal(text.as_bytes())),
            Value::Bytes(bytes) if !bytes.is_empty() => Some(literal(&bytes)),
            Value::I64(number) => Some(number.to_string()),
            Value::Map(map) => map.keys().next()?.as_str().map(|key| literal(key.as_bytes())),
            _ => None,
        }
    }
}

/// A string of the text format.
fn literal(bytes: &[u8]) -> String {
    let escaped: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("\"{escaped}\"")
}

/// `2s` or `500ms`.
fn time(text: &str) -> Option<Duration> {
    if let Some(millis) = text.strip_suffix("ms") {
        return millis.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}
