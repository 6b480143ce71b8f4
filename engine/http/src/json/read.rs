//! JSON as messages.

use std::borrow::Cow;
use std::fmt;

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{PAYLOAD, PAYLOADS, Payloads, cut, enum_number, is_well_known, payload};

/// Messages in messages, at most: as in protobuf's binary form.
const DEPTH_MAX: usize = 100;

/// What is wrong with the JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Problem {
    pub(crate) fn new(text: impl Into<String>) -> Problem {
        Problem(text.into())
    }

    /// The same, of what is in `field`.
    fn within(self, field: &str) -> Problem {
        // The innermost field comes last; texts begin with the path to it.
        match self.0.strip_prefix('.') {
            Some(rest) => Problem(format!(".{field}.{rest}")),
            None => Problem(format!(".{field}: {}", self.0)),
        }
    }
}

/// Reads a message.
///
/// # Errors
///
/// What is wrong, and where: `.taskQueue.kind: ...`.
pub(crate) fn read(json: &str, descriptor: &MessageDescriptor, payloads: Payloads) -> Result<DynamicMessage, Problem> {
    let raw: &RawValue = serde_json::from_str(json).map_err(syntax)?;
    Reader { payloads }.message(raw, descriptor, 0)
}

/// A message whose JSON is a form of its own: a time, a duration, and the like.
pub(crate) fn well_known(json: &str, descriptor: &MessageDescriptor) -> Result<DynamicMessage, Problem> {
    DynamicMessage::deserialize(descriptor.clone(), &mut serde_json::Deserializer::from_str(json))
        .map_err(|error| Problem::new(format!("invalid {} {}: {error}", descriptor.full_name(), cut(json))))
}

fn syntax(error: serde_json::Error) -> Problem {
    Problem::new(format!("invalid JSON: {error}"))
}

/// The fields of an object as they are written, in order.
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// `None` if it is no object.
    pub(super) fn of(json: &'a RawValue) -> Option<Object<'a>> {
        json.get().trim_start().starts_with('{').then(|| serde_json::from_str(json.get()).ok()).flatten()
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), *value))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The object without a field.
    pub(super) fn without(&self, name: &str) -> String {
        let fields = Object(self.0.iter().filter(|(key, _)| key != name).cloned().collect());
        // What came from JSON is JSON.
        serde_json::to_string(&fields).unwrap_or_default()
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<'de>, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    fields.push((key, value));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A key, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

struct Reader {
    payloads: Payloads,
}

impl Reader {
    fn message(&self, raw: &RawValue, descriptor: &MessageDescriptor, depth: usize) -> Result<DynamicMessage, Problem> {
        if depth > DEPTH_MAX {
            return Err(Problem::new(format!("messages are nested more than {DEPTH_MAX} deep")));
        }
        let short = self.payloads == Payloads::Shorthand;
        match descriptor.full_name() {
            name if is_well_known(name) => return well_known(raw.get(), descriptor),
            PAYLOAD if short => {
                let mut message = DynamicMessage::new(descriptor.clone());
                payload::read(&mut message, raw);
                return Ok(message);
            }
            PAYLOADS if short && raw.get().starts_with('[') => return self.payload_list(raw, descriptor),
            _ => {}
        }
        let object: Object<'_> = serde_json::from_str(raw.get())
            .map_err(|_| Problem::new(format!("expected an object, not {}", cut(raw.get()))))?;
        let mut message = DynamicMessage::new(descriptor.clone());
        for (name, value) in object.iter() {
            let field = descriptor
                .get_field_by_json_name(name)
                .or_else(|| descriptor.get_field_by_name(name))
                .ok_or_else(|| Problem::new(format!("unknown field {:?}", cut(name))))?;
            self.field(&mut message, &field, value, depth).map_err(|problem| problem.within(field.json_name()))?;
        }
        Ok(message)
    }

    fn payload_list(&self, raw: &RawValue, descriptor: &MessageDescriptor) -> Result<DynamicMessage, Problem> {
        let values: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(syntax)?;
        let mut message = DynamicMessage::new(descriptor.clone());
        let Some(field) = descriptor.get_field_by_name("payloads") else { return Ok(message) };
        let Kind::Message(element) = field.kind() else { return Ok(message) };
        let payloads = values.into_iter().map(|value| {
            let mut payload = DynamicMessage::new(element.clone());
            payload::read(&mut payload, value);
            Value::Message(payload)
        });
        message.set_field(&field, Value::List(payloads.collect()));
        Ok(message)
    }

    fn field(
        &self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
        raw: &RawValue,
        depth: usize,
    ) -> Result<(), Problem> {
        if raw.get() == "null" && !self.takes_null(field) {
            return Ok(());
        }
        if message.has_field(field) {
            return Err(Problem::new("this field is there twice"));
        }
        if let Some(oneof) = field.containing_oneof()
            && let Some(other) = oneof.fields().find(|other| message.has_field(other))
        {
            return Err(Problem::new(format!("{} is set, and only one of them can be", other.json_name())));
        }
        let value = if field.is_map() {
            self.map(field, raw, depth)?
        } else if field.is_list() {
            let elements: Vec<&RawValue> = serde_json::from_str(raw.get())
                .map_err(|_| Problem::new(format!("expected a list, not {}", cut(raw.get()))))?;
            let elements = elements.into_iter().map(|element| self.value(&field.kind(), element, depth));
            Value::List(elements.collect::<Result<_, _>>()?)
        } else {
            self.value(&field.kind(), raw, depth)?
        };
        message.set_field(field, value);
        Ok(())
    }

    /// Whether `null` is a value of the field, rather than none.
    fn takes_null(&self, field: &FieldDescriptor) -> bool {
        !field.is_list()
            && !field.is_map()
            && field.kind().as_message().is_some_and(|message| match message.full_name() {
                PAYLOAD => self.payloads == Payloads::Shorthand,
                name => name == "google.protobuf.Value",
            })
    }

    fn map(&self, field: &FieldDescriptor, raw: &RawValue, depth: usize) -> Result<Value, Problem> {
        let Kind::Message(entry) = field.kind() else { return Err(Problem::new("no map")) };
        let (key_kind, kind) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let object =
            Object::of(raw).ok_or_else(|| Problem::new(format!("expected an object, not {}", cut(raw.get()))))?;
        let entries = object.iter().map(|(name, value)| {
            let value = self.value(&kind, value, depth).map_err(|problem| problem.within(cut(name)))?;
            Ok((key(&key_kind, name)?, value))
        });
        Ok(Value::Map(entries.collect::<Result<_, Problem>>()?))
    }

    fn value(&self, kind: &Kind, raw: &RawValue, depth: usize) -> Result<Value, Problem> {
        match kind {
            Kind::Message(descriptor) => Ok(Value::Message(self.message(raw, descriptor, depth + 1)?)),
            Kind::Enum(descriptor) => enumeration(descriptor, raw),
            kind => scalar(kind, raw),
        }
    }
}

fn enumeration(descriptor: &EnumDescriptor, raw: &RawValue) -> Result<Value, Problem> {
    let number = match serde_json::from_str::<Cow<'_, str>>(raw.get()) {
        Ok(name) => enum_number(descriptor, &name),
        Err(_) => serde_json::from_str(raw.get()).ok(),
    };
    let number = number.ok_or_else(|| invalid(descriptor.name(), raw))?;
    Ok(Value::EnumNumber(number))
}

fn scalar(kind: &Kind, raw: &RawValue) -> Result<Value, Problem> {
    let text = || serde_json::from_str::<String>(raw.get()).ok();
    // Numbers may come as strings: those of 64 bits do.
    let number = || text().unwrap_or_else(|| raw.get().to_owned());
    let value = match kind {
        Kind::Bool => serde_json::from_str(raw.get()).ok().map(Value::Bool),
        Kind::String => text().map(Value::String),
        Kind::Bytes => text().and_then(|text| payload::bytes_of(&text)).map(|bytes| Value::Bytes(bytes.into())),
        Kind::Double => float(&number()).map(Value::F64),
        #[expect(clippy::cast_possible_truncation, reason = "that is what the field holds")]
        Kind::Float => float(&number()).map(|value| Value::F32(value as f32)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(&number()).map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(&number()).map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => integer(&number()).map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => integer(&number()).map(Value::U64),
        Kind::Message(_) | Kind::Enum(_) => None,
    };
    value.ok_or_else(|| invalid(&format!("{kind:?}").to_lowercase(), raw))
}

fn invalid(what: &str, raw: &RawValue) -> Problem {
    Problem::new(format!("invalid value for {what}: {}", cut(raw.get())))
}

/// A whole number, also as `1.0` or `1e3`.
fn integer<T: std::str::FromStr + TryFrom<i128>>(text: &str) -> Option<T> {
    if let Ok(value) = text.parse() {
        return Some(value);
    }
    let value: f64 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
    let whole = (value.fract() == 0.0 && value.abs() < 1e15).then_some(value as i128)?;
    T::try_from(whole).ok()
}

fn float(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok().filter(|value: &f64| value.is_finite()),
    }
}

fn key(kind: &Kind, text: &str) -> Result<MapKey, Problem> {
    let key = match kind {
        Kind::String => Some(MapKey::String(text.to_owned())),
        Kind::Bool => text.parse().ok().map(MapKey::Bool),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => text.parse().ok().map(MapKey::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => text.parse().ok().map(MapKey::I64),
        Kind::Uint32 | Kind::Fixed32 => text.parse().ok().map(MapKey::U32),
        Kind::Uint64 | Kind::Fixed64 => text.parse().ok().map(MapKey::U64),
        _ => None,
    };
    key.ok_or_else(|| Problem::new(format!("invalid key {:?}", cut(text))))
}
