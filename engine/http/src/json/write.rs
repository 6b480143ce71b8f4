//! Messages as JSON.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

use super::{PAYLOAD, PAYLOADS, Payloads, is_well_known, payload};

/// The message on one line. Fields that have their default are left out.
pub(crate) fn write(message: &DynamicMessage, payloads: Payloads) -> String {
    let mut writer = Writer { out: String::new(), payloads };
    writer.message(message);
    writer.out
}

struct Writer {
    out: String,
    payloads: Payloads,
}

impl Writer {
    fn message(&mut self, message: &DynamicMessage) {
        let descriptor = message.descriptor();
        let shorthand = match descriptor.full_name() {
            name if is_well_known(name) => serde_json::to_string(message).ok().or_else(|| Some("null".to_owned())),
            PAYLOAD if self.payloads == Payloads::Shorthand => payload::shorthand(message),
            PAYLOADS if self.payloads == Payloads::Shorthand => all_short(message),
            _ => None,
        };
        if let Some(shorthand) = shorthand {
            self.out.push_str(&shorthand);
            return;
        }
        self.out.push('{');
        let mut first = true;
        for (field, value) in message.fields().filter(|(field, _)| message.has_field(field)) {
            self.separate(&mut first);
            self.string(field.json_name());
            self.out.push(':');
            self.field(&field, value);
        }
        self.out.push('}');
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Value) {
        let mut first = true;
        match value {
            Value::List(values) => {
                self.out.push('[');
                for value in values {
                    self.separate(&mut first);
                    self.value(&field.kind(), value);
                }
                self.out.push(']');
            }
            Value::Map(values) => {
                let mut values: Vec<_> = values.iter().map(|(key, value)| (key_text(key), value)).collect();
                values.sort_by(|(a, _), (b, _)| a.cmp(b));
                let Kind::Message(entry) = field.kind() else { return self.out.push_str("{}") };
                let kind = entry.map_entry_value_field().kind();
                self.out.push('{');
                for (key, value) in values {
                    self.separate(&mut first);
                    self.string(&key);
                    self.out.push(':');
                    self.value(&kind, value);
                }
                self.out.push('}');
            }
            value => self.value(&field.kind(), value),
        }
    }

    fn value(&mut self, kind: &Kind, value: &Value) {
        // Writing to a string does not fail.
        let _ = match value {
            Value::Bool(value) => write!(self.out, "{value}"),
            Value::I32(value) => write!(self.out, "{value}"),
            Value::U32(value) => write!(self.out, "{value}"),
            Value::I64(value) => write!(self.out, "\"{value}\""),
            Value::U64(value) => write!(self.out, "\"{value}\""),
            Value::F32(value) => return self.float(f64::from(*value), serde_json::to_string(value)),
            Value::F64(value) => return self.float(*value, serde_json::to_string(value)),
            Value::String(value) => return self.string(value),
            Value::Bytes(value) => return self.string(&STANDARD.encode(value)),
            Value::EnumNumber(number) => match kind.as_enum().and_then(|names| names.get_value(*number)) {
                Some(value) => return self.string(value.name()),
                None => write!(self.out, "{number}"),
            },
            Value::Message(message) => return self.message(message),
            // Neither is an element of another.
            Value::List(_) | Value::Map(_) => write!(self.out, "null"),
        };
    }

    /// `finite` is how the number is written if it is one.
    fn float(&mut self, value: f64, finite: serde_json::Result<String>) {
        match finite {
            Ok(text) if value.is_finite() => self.out.push_str(text.strip_suffix(".0").unwrap_or(&text)),
            _ if value.is_nan() => self.string("NaN"),
            _ if value > 0.0 => self.string("Infinity"),
            _ => self.string("-Infinity"),
        }
    }

    fn string(&mut self, text: &str) {
        // A string is always JSON.
        self.out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }

    fn separate(&mut self, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(',');
        }
    }
}

/// The values of payloads, if each has a shorthand.
fn all_short(payloads: &DynamicMessage) -> Option<String> {
    let list = payloads.get_field_by_name("payloads")?;
    let values: Option<Vec<_>> =
        list.as_list()?.iter().map(|payload| payload::shorthand(payload.as_message()?)).collect();
    Some(format!("[{}]", values?.join(",")))
}

pub(super) fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}
