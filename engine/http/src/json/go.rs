//! Messages as Go's `encoding/json` writes the structs that are generated for them. Nobody would choose it: numbers for enums, times as
//! seconds and nanoseconds, a level more for each `oneof`. But it is what the server of Temporal's Web UI gives who downloads a history.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage, Value};

use super::write::key_text;

/// The message on one line.
pub(crate) fn go_json(message: &DynamicMessage) -> String {
    let mut out = String::new();
    write_message(&mut out, message);
    out
}

fn write_message(out: &mut String, message: &DynamicMessage) {
    let mut first = true;
    let mut begin = |out: &mut String, name: &str| {
        out.push_str(if std::mem::take(&mut first) { "" } else { "," });
        write_string(out, name);
        out.push(':');
    };
    out.push('{');
    let descriptor = message.descriptor();
    let choice_of = |field: &FieldDescriptor| field.containing_oneof().filter(|choice| !choice.is_synthetic());
    // What may be empty is left out then, and an optional field is a pointer, which is there or not.
    for field in descriptor.fields().filter(|field| choice_of(field).is_none() && message.has_field(field)) {
        begin(out, field.name());
        write_value(out, &message.get_field(&field));
    }
    for choice in descriptor.oneofs().filter(|choice| !choice.is_synthetic()) {
        begin(out, &go_name(choice.name()));
        match choice.fields().find(|field| message.has_field(field)) {
            Some(field) => {
                out.push('{');
                write_string(out, &go_name(field.name()));
                out.push(':');
                write_value(out, &message.get_field(&field));
                out.push('}');
            }
            None => out.push_str("null"),
        }
    }
    out.push('}');
}

fn write_value(out: &mut String, value: &Value) {
    // Writing to a string does not fail.
    let _ = match value {
        Value::Bool(value) => write!(out, "{value}"),
        Value::I32(value) | Value::EnumNumber(value) => write!(out, "{value}"),
        Value::U32(value) => write!(out, "{value}"),
        Value::I64(value) => write!(out, "{value}"),
        Value::U64(value) => write!(out, "{value}"),
        Value::F32(value) => write!(out, "{}", finite(f64::from(*value), value.to_string())),
        Value::F64(value) => write!(out, "{}", finite(*value, value.to_string())),
        Value::String(value) => return write_string(out, value),
        Value::Bytes(value) => return write_string(out, &STANDARD.encode(value)),
        Value::Message(message) => return write_message(out, message),
        Value::List(values) => {
            out.push('[');
            for (at, value) in values.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                write_value(out, value);
            }
            write!(out, "]")
        }
        Value::Map(values) => {
            let mut values: Vec<_> = values.iter().map(|(key, value)| (key_text(key), value)).collect();
            values.sort_by(|(a, _), (b, _)| a.cmp(b));
            out.push('{');
            for (at, (key, value)) in values.into_iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                write_string(out, &key);
                out.push(':');
                write_value(out, value);
            }
            write!(out, "}}")
        }
    };
}

/// Go refuses to write other numbers.
fn finite(value: f64, text: String) -> String {
    if value.is_finite() { text } else { "null".to_owned() }
}

/// Go escapes what means something in a page.
fn write_string(out: &mut String, text: &str) {
    // A string is always JSON.
    for character in serde_json::to_string(text).unwrap_or_default().chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            other => out.push(other),
        }
    }
}

/// `event_ref` is `EventRef`.
fn go_name(name: &str) -> String {
    name.split('_')
        .flat_map(|word| {
            let mut rest = word.chars();
            rest.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(rest).collect::<Vec<_>>()
        })
        .collect()
}
