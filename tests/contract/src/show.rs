//! Responses as JSON, with what differs from one time to the next taken out.
//!
//! - The scenario's own names end in `~` again.
//! - UUIDs become `run-1`, `request_id-1`: numbered by the kind of field that they are first seen in, the same one always the same.
//! - Instants that follow from others (deadlines) become `T+2s`: whole seconds after the message's first one (a run's start, a task's
//!   scheduling). In a scenario that is `timed` others do too, and events show how long they come after the event before them, if that is
//!   a second or more. Elsewhere an instant is only `set`.
//! - An event that was shown before and has not changed is `as before`.
//! - Tokens, sizes and rates show only that they are there.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};
use serde_json::{Map, Value as Json, json};

/// Fields whose value is an implementation's own.
const OPAQUE: [&str; 22] = [
    "future_action_times",
    "schedule_time",
    "expire_time",
    "execution_duration",
    "task_token",
    "next_page_token",
    "task_id",
    "history_size_bytes",
    "state_size_bytes",
    "approximate_backlog_age",
    "tasks_add_rate",
    "tasks_dispatch_rate",
    "sizes_bytes",
    "token",
    "long_poll_token",
    "owner_host_name",
    "address",
    "http_address",
    "persistence_store",
    "visibility_store",
    "history_shard_count",
    "version_info",
];

/// Instants that follow from others and not from when something happened.
const DERIVED: [&str; 5] = [
    "execution_time",
    "workflow_execution_expiration_time",
    "execution_expiration_time",
    "run_expiration_time",
    "expiration_time",
];

/// Fields that depend on timing alone.
const LEFT_OUT: [&str; 3] = ["backlog_count_hint", "poller_scaling_decision", "server_version"];

/// Lists whose order nothing says.
const UNORDERED: [&str; 5] =
    ["pending_activities", "pending_children", "pollers", "version_task_queues", "task_queue_infos"];

/// An instant that is this much before a whole second counts as that second, seconds.
const EARLY: f64 = 0.2;

/// Instants before this are no instants but zero values, seconds of Unix time.
const REAL: f64 = 1e9;

/// What one scenario has shown so far.
pub(crate) struct Shower {
    nonce: String,
    /// Whether the time between events is shown.
    timed: bool,
    uuids: HashMap<String, String>,
    kinds: HashMap<String, usize>,
    /// Events as they were shown last, by number and type.
    events: HashMap<String, Json>,
}

impl Shower {
    pub(crate) fn new(nonce: String, timed: bool) -> Shower {
        Shower { nonce, timed, uuids: HashMap::new(), kinds: HashMap::new(), events: HashMap::new() }
    }

    /// A response or a part of one.
    pub(crate) fn show(&mut self, message: &DynamicMessage) -> Json {
        let first = first_instant(message).unwrap_or_default();
        self.message(message, first)
    }

    /// A text, such as the one of a status.
    pub(crate) fn text(&mut self, text: &str, field: &str) -> String {
        // Go's protobuf has texts with either kind of space, by chance of how a program was built.
        let text = text.replace(&format!("-{}", self.nonce), "~").replace('\u{a0}', " ");
        collapsed(&self.without_uuids(&text, field))
    }

    fn message(&mut self, message: &DynamicMessage, first: f64) -> Json {
        match message.descriptor().full_name() {
            "google.protobuf.Timestamp" => match instant(message) {
                early if early < REAL => json!(format!("{early}s of Unix time")),
                later => json!(format!("T+{}s", (later - first + EARLY).floor())),
            },
            "google.protobuf.Duration" => match instant(message) {
                // What is left of something, or has jitter.
                odd if (odd * 1e3).fract() != 0.0 => json!(format!("{}s", odd.round())),
                exact => json!(format!("{exact}s")),
            },
            "google.protobuf.Any" => self.any(message, first),
            "temporal.api.history.v1.History" => self.events(message),
            "temporal.api.common.v1.Payload" => self.payload(message, first),
            _ => self.fields(message, first),
        }
    }

    fn fields(&mut self, message: &DynamicMessage, first: f64) -> Json {
        let first = message
            .get_field_by_name("start_time")
            .filter(|_| message.has_field_by_name("start_time"))
            .and_then(|value| value.as_message().map(instant))
            .unwrap_or(first);
        let mut shown = Map::new();
        for (field, value) in message.fields() {
            let name = field.name();
            if LEFT_OUT.contains(&name) {
                continue;
            }
            let of_deployment = message.descriptor().full_name().contains("WorkerDeployment");
            let opaque =
                OPAQUE.contains(&name) || (name == "conflict_token" && of_deployment) || self.is_chance(name, value);
            let mut value = if opaque { json!("set") } else { self.value(&field, value, first) };
            if let (true, Json::Array(list)) = (UNORDERED.contains(&name), &mut value) {
                list.sort_by_key(Json::to_string);
            }
            shown.insert(name.to_owned(), value);
        }
        Json::Object(shown)
    }

    /// Whether a value is an instant that only a scenario about time compares.
    fn is_chance(&self, name: &str, value: &Value) -> bool {
        let is_instant = value.as_message().is_some_and(|message| {
            message.descriptor().full_name() == "google.protobuf.Timestamp" && instant(message) >= REAL
        });
        is_instant && !self.timed && !DERIVED.contains(&name)
    }

    fn value(&mut self, field: &FieldDescriptor, value: &Value, first: f64) -> Json {
        match value {
            Value::List(list) => list.iter().map(|value| self.value(field, value, first)).collect(),
            Value::Map(map) => {
                let mut shown = Map::new();
                let mut keys: Vec<&MapKey> = map.keys().collect();
                keys.sort_by_key(|key| format!("{key:?}"));
                for key in keys {
                    let name = match key {
                        // Ids of the server's own.
                        _ if field.name() == "queries" => format!("query {}", shown.len() + 1),
                        MapKey::String(text) => self.text(text, field.name()),
                        other => format!("{other:?}"),
                    };
                    let Kind::Message(entry) = field.kind() else { continue };
                    shown.insert(name, self.value(&entry.map_entry_value_field(), &map[key], first));
                }
                Json::Object(shown)
            }
            Value::Message(message) => self.message(message, first),
            Value::EnumNumber(number) => match field.kind() {
                Kind::Enum(names) => names.get_value(*number).map_or(json!(number), |value| json!(value.name())),
                _ => json!(number),
            },
            Value::String(text) => json!(self.text(text, field.name())),
            Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => json!(self.text(text, field.name())),
                Err(_) => json!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
            },
            Value::Bool(value) => json!(value),
            Value::I32(value) => json!(value),
            Value::I64(value) => json!(value),
            Value::U32(value) => json!(value),
            Value::U64(value) => json!(value),
            Value::F32(value) => json!(value),
            Value::F64(value) => json!(value),
        }
    }

    /// `json/plain "text"` of a payload that has no metadata but its encoding.
    fn payload(&mut self, message: &DynamicMessage, first: f64) -> Json {
        let shown = self.fields(message, first);
        match (shown["metadata"].as_object(), shown["metadata"]["encoding"].as_str()) {
            (Some(metadata), Some(encoding)) if metadata.len() == 1 => {
                json!(format!("{encoding} {}", shown["data"].as_str().unwrap_or_default()))
            }
            _ => shown,
        }
    }

    /// The message within, if its type is known.
    fn any(&mut self, message: &DynamicMessage, first: f64) -> Json {
        let url =
            message.get_field_by_name("type_url").and_then(|url| url.as_str().map(str::to_owned)).unwrap_or_default();
        let name = url.rsplit('/').next().unwrap_or_default();
        let value = message.get_field_by_name("value").and_then(|value| value.as_bytes().cloned()).unwrap_or_default();
        let inner = message.descriptor().parent_pool().get_message_by_name(name);
        let mut shown = Map::new();
        shown.insert("@type".to_owned(), json!(name));
        if let Some(Ok(inner)) = inner.map(|inner| DynamicMessage::decode(inner, value))
            && let Json::Object(fields) = self.message(&inner, first)
        {
            shown.extend(fields);
        }
        Json::Object(shown)
    }

    /// Events by number and type.
    fn events(&mut self, history: &DynamicMessage) -> Json {
        let events = history.get_field_by_name("events");
        let mut shown = Map::new();
        let mut previous = None;
        for event in events.as_deref().and_then(Value::as_list).into_iter().flatten().filter_map(Value::as_message) {
            let time = event
                .get_field_by_name("event_time")
                .and_then(|time| time.as_message().map(instant))
                .unwrap_or_default();
            let Json::Object(fields) = self.fields(event, time) else { continue };
            let mut of_event = Map::new();
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("event_id" | "event_type" | "event_time", _) => {}
                    (name, Json::Object(attributes)) if name.ends_with("_event_attributes") => {
                        of_event.extend(attributes)
                    }
                    (_, value) => {
                        of_event.insert(name, value);
                    }
                }
            }
            let after = (time - previous.unwrap_or(time) + EARLY / 2.0).floor();
            if self.timed && after > 0.0 {
                of_event.insert("seconds_after_previous".to_owned(), json!(after));
            }
            previous = Some(time);
            let number = event.get_field_by_name("event_id").and_then(|id| id.as_i64()).unwrap_or_default();
            let key = format!("{number:02} {}", event_type(event));
            let event = Json::Object(of_event.clone());
            // An event that is stored has a task id, which it had not while it was transient.
            of_event.remove("task_id");
            let bare = Json::Object(of_event);
            let before = self.events.insert(key.clone(), bare.clone());
            shown.insert(key, if before.as_ref() == Some(&bare) { json!("as before") } else { event });
        }
        Json::Object(shown)
    }

    fn without_uuids(&mut self, text: &str, field: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = (0..rest.len()).find(|at| uuid_at(rest.as_bytes(), *at)) {
            out.push_str(&rest[..at]);
            let uuid = &rest[at..at + UUID_BYTES];
            if !self.uuids.contains_key(uuid) {
                let kind = if field.ends_with("run_id") { "run" } else { field };
                let count = self.kinds.entry(kind.to_owned()).or_default();
                *count += 1;
                self.uuids.insert(uuid.to_owned(), format!("{kind}-{count}"));
            }
            out.push_str(&self.uuids[uuid]);
            rest = &rest[at + UUID_BYTES..];
        }
        out + rest
    }
}

const UUID_BYTES: usize = 36;

fn uuid_at(text: &[u8], at: usize) -> bool {
    text.len() >= at + UUID_BYTES
        && (0..UUID_BYTES).all(|offset| match offset {
            8 | 13 | 18 | 23 => text[at + offset] == b'-',
            _ => text[at + offset].is_ascii_hexdigit(),
        })
}

/// A long run of one character as its length.
fn collapsed(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let mut times = 1;
        while characters.peek() == Some(&character) {
            characters.next();
            times += 1;
        }
        if times > 60 {
            out.push_str(&format!("{{{character}*{times}}}"));
        } else {
            out.extend(std::iter::repeat_n(character, times));
        }
    }
    out
}

/// `WorkflowExecutionStarted` of an event.
fn event_type(event: &DynamicMessage) -> String {
    let attributes = event.fields().find(|(field, _)| field.name().ends_with("_event_attributes"));
    let Some((field, _)) = attributes else { return "?".to_owned() };
    let name = field.name().trim_end_matches("_event_attributes");
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

/// Seconds of a `Timestamp` or `Duration`.
fn instant(message: &DynamicMessage) -> f64 {
    let seconds = message.get_field_by_name("seconds").and_then(|value| value.as_i64()).unwrap_or_default();
    let nanos = message.get_field_by_name("nanos").and_then(|value| value.as_i32()).unwrap_or_default();
    seconds as f64 + f64::from(nanos) / 1e9
}

/// The earliest instant in a message, what histories hold aside.
fn first_instant(message: &DynamicMessage) -> Option<f64> {
    match message.descriptor().full_name() {
        "google.protobuf.Timestamp" => return Some(instant(message)).filter(|instant| *instant >= REAL),
        "google.protobuf.Duration" | "temporal.api.history.v1.History" => return None,
        _ => {}
    }
    message.fields().filter_map(|(_, value)| first_instant_in(value)).min_by(f64::total_cmp)
}

fn first_instant_in(value: &Value) -> Option<f64> {
    match value {
        Value::Message(message) => first_instant(message),
        Value::List(list) => list.iter().filter_map(first_instant_in).min_by(f64::total_cmp),
        Value::Map(map) => map.values().filter_map(first_instant_in).min_by(f64::total_cmp),
        _ => None,
    }
}
