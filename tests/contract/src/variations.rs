//! What can be wrong with a request: it is taken as it should be and changed in one place at a time.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};

/// One byte more than an id may have, with the limits of [`crate::CONFIG`].
const LONG_ID_BYTES: usize = 1001;

/// More than a payload may have, and less than a request.
const LARGE_BLOB_BYTES: usize = (2 << 20) + 1;

/// More than a request may have.
const LARGE_REQUEST_BYTES: usize = (4 << 20) + 1;

/// A field that no request has.
const UNKNOWN_FIELD: u32 = 15_000;

/// What no enumeration has.
const NO_SUCH_NUMBER: i32 = 99;

/// A request that is wrong somewhere.
pub(crate) struct Variation {
    /// What is wrong.
    pub(crate) name: String,
    /// How it is sent.
    pub(crate) bytes: Bytes,
}

/// All variations of a request, one at a time: some are large.
pub(crate) fn variations(request: &DynamicMessage) -> impl Iterator<Item = Variation> {
    let raw = raw(request).into_iter().map(|(name, bytes)| Variation { name: name.to_owned(), bytes: bytes.into() });
    let changed = changed(request)
        .into_iter()
        .map(|(what, at, request)| Variation { name: format!("{what} {at}"), bytes: request.encode_to_vec().into() });
    raw.chain(changed)
}

/// What is wrong with the bytes whatever they mean.
fn raw(request: &DynamicMessage) -> Vec<(&'static str, Vec<u8>)> {
    let valid = request.encode_to_vec();
    let with = |add: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = valid.clone();
        add(&mut bytes);
        bytes
    };
    let mut found = vec![
        ("empty", Vec::new()),
        ("cut off", with(&|bytes| bytes.extend([0x0a, 100, b'a']))),
        ("unknown field", with(&|bytes| delimited(UNKNOWN_FIELD, b"unknown", bytes))),
        ("too large", with(&|bytes| delimited(UNKNOWN_FIELD, &vec![b'x'; LARGE_REQUEST_BYTES], bytes))),
    ];
    let descriptor = request.descriptor();
    if let Some(field) = descriptor.get_field_by_name("namespace") {
        let mut elsewhere = request.clone();
        elsewhere.set_field(&field, Value::String("nowhere".to_owned()));
        found.push(("nowhere", elsewhere.encode_to_vec()));
        let mut nothing_else = DynamicMessage::new(descriptor.clone());
        nothing_else.set_field(&field, Value::String("nowhere".to_owned()));
        found.push(("nowhere and nothing else", nothing_else.encode_to_vec()));
    }
    if let Some(field) = descriptor.fields().find(|field| field.kind() == Kind::String) {
        found.push(("not UTF-8", with(&|bytes| delimited(field.number(), b"\xff\xfe", bytes))));
        found.push((
            "wrong wire type",
            with(&|bytes| {
                encode_key(field.number(), WireType::Varint, bytes);
                encode_varint(7, bytes);
            }),
        ));
    }
    found
}

fn delimited(field: u32, value: &[u8], bytes: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, bytes);
    encode_varint(value.len() as u64, bytes);
    bytes.extend_from_slice(value);
}

/// What was done, to which field, and the message with that.
type Changed = (&'static str, String, DynamicMessage);

fn changed(message: &DynamicMessage) -> Vec<Changed> {
    message.descriptor().fields().flat_map(|field| changed_in(message, &field)).collect()
}

fn changed_in(message: &DynamicMessage, field: &FieldDescriptor) -> Vec<Changed> {
    let name = field.name();
    let with = |value: Value| {
        let mut message = message.clone();
        message.set_field(field, value);
        message
    };
    let mut found: Vec<Changed> = Vec::new();
    if message.has_field(field) {
        let mut without = message.clone();
        without.clear_field(field);
        found.push(("without", name.to_owned(), without));
    }
    found.extend(values(field).into_iter().map(|(what, value)| (what, name.to_owned(), with(value))));
    if !message.has_field(field) {
        return found;
    }
    // Inside of what is there.
    match message.get_field(field).into_owned() {
        Value::Message(inner) if !is_value(&inner.descriptor()) => {
            found.extend(
                changed(&inner)
                    .into_iter()
                    .map(|(what, at, inner)| (what, format!("{name}.{at}"), with(Value::Message(inner)))),
            );
        }
        Value::List(list) => {
            if let Some(Value::Message(inner)) = list.first() {
                found.extend(changed(inner).into_iter().map(|(what, at, inner)| {
                    (what, format!("{name}.{at}"), with(Value::List(vec![Value::Message(inner)])))
                }));
            }
        }
        _ => {}
    }
    found
}

/// Messages that are changed as a whole.
fn is_value(message: &MessageDescriptor) -> bool {
    message.full_name().starts_with("google.protobuf.") || message.name() == "Payloads" || message.name() == "Payload"
}

/// What a field can be given that it should not have, or rarely has.
fn values(field: &FieldDescriptor) -> Vec<(&'static str, Value)> {
    if field.is_map() {
        return map_values(field);
    }
    if field.is_list() {
        return list_values(field);
    }
    let long = || Value::String("x".repeat(LONG_ID_BYTES));
    match field.kind() {
        Kind::String if field.name().ends_with("run_id") => {
            vec![("long", long()), ("odd", Value::String("no uuid".to_owned()))]
        }
        Kind::String => vec![("long", long())],
        Kind::Bytes => vec![("odd", Value::Bytes(Bytes::from_static(b"odd")))],
        Kind::Enum(_) => vec![("odd", Value::EnumNumber(NO_SUCH_NUMBER))],
        Kind::Bool => vec![("true", Value::Bool(true))],
        Kind::Int32 => vec![("negative", Value::I32(-1)), ("huge", Value::I32(i32::MAX))],
        Kind::Int64 => vec![("negative", Value::I64(-1)), ("huge", Value::I64(i64::MAX))],
        Kind::Float => vec![("negative", Value::F32(-1.0)), ("odd", Value::F32(f32::NAN))],
        Kind::Double => vec![("negative", Value::F64(-1.0)), ("odd", Value::F64(f64::NAN))],
        Kind::Message(message) => message_values(&message),
        _ => Vec::new(),
    }
}

fn message_values(message: &MessageDescriptor) -> Vec<(&'static str, Value)> {
    let empty = || DynamicMessage::new(message.clone());
    let instant = |seconds: i64, nanos: i32| {
        let mut instant = empty();
        instant.set_field_by_name("seconds", Value::I64(seconds));
        instant.set_field_by_name("nanos", Value::I32(nanos));
        Value::Message(instant)
    };
    let with = |name: &str, value: Value| {
        let mut message = empty();
        message.set_field_by_name(name, value);
        Value::Message(message)
    };
    let mut found = vec![("empty", Value::Message(empty()))];
    match message.full_name() {
        "google.protobuf.Duration" => {
            found = vec![
                ("negative", instant(-1, 0)),
                ("odd", instant(1, -1)),
                // The longest that protobuf knows; more than 64 bits of nanoseconds.
                ("huge", instant(315_576_000_000, 0)),
            ];
        }
        "google.protobuf.Timestamp" => {
            found =
                vec![("negative", instant(-62_135_596_801, 0)), ("odd", instant(1, -1)), ("huge", instant(1 << 40, 0))]
        }
        "temporal.api.common.v1.Payloads" => {
            if let Some(Kind::Message(payload)) = message.get_field_by_name("payloads").map(|field| field.kind()) {
                found.push(("large", with("payloads", Value::List(vec![large_payload(&payload)]))));
            }
        }
        "temporal.api.common.v1.Payload" => found.push(("large", large_payload(message))),
        "temporal.api.failure.v1.Failure" => {
            found.push(("large", with("message", Value::String("x".repeat(LARGE_BLOB_BYTES)))));
        }
        _ => {}
    }
    found
}

fn large_payload(payload: &MessageDescriptor) -> Value {
    let mut large = DynamicMessage::new(payload.clone());
    large.set_field_by_name("data", Value::Bytes(Bytes::from(vec![b'x'; LARGE_BLOB_BYTES])));
    Value::Message(large)
}

fn list_values(field: &FieldDescriptor) -> Vec<(&'static str, Value)> {
    let list = |value: Value| Value::List(vec![value]);
    match field.kind() {
        Kind::Message(message) => vec![("empty", list(Value::Message(DynamicMessage::new(message))))],
        Kind::String => {
            vec![
                ("empty", list(Value::String(String::new()))),
                ("long", list(Value::String("x".repeat(LONG_ID_BYTES)))),
            ]
        }
        Kind::Enum(_) => vec![("odd", list(Value::EnumNumber(NO_SUCH_NUMBER)))],
        _ => Vec::new(),
    }
}

fn map_values(field: &FieldDescriptor) -> Vec<(&'static str, Value)> {
    let Kind::Message(entry) = field.kind() else { return Vec::new() };
    let value = entry.map_entry_value_field();
    let map = |key: &str, value: Value| Value::Map(HashMap::from([(MapKey::String(key.to_owned()), value)]));
    let mut found = vec![("empty key in", map("", Value::default_value_for_field(&value)))];
    match value.kind() {
        Kind::Message(message) if message.name() == "Payload" => {
            found.push(("large", map("k", large_payload(&message))));
        }
        Kind::String => found.push(("long", map("k", Value::String("x".repeat(LONG_ID_BYTES))))),
        Kind::Enum(_) => found.push(("odd", map("BadInput", Value::EnumNumber(NO_SUCH_NUMBER)))),
        Kind::Float => found.push(("negative", map("k", Value::F32(-1.0)))),
        _ => {}
    }
    found
}
