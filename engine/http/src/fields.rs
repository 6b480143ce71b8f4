//! Fields of a request that are set by their names: those in a path and in a query.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};

use crate::json::{Problem, enum_number, well_known};

/// Longest path to a field: what is deeper is none.
const DEPTH_MAX: usize = 10;

/// Sets the field at `path` (`execution.workflow_id`; in a query also `execution.workflowId`) to what `text` says. A list gets one element
/// more. `false` if there is no such field.
///
/// # Errors
///
/// The text is no value of the field.
pub(crate) fn set(message: &mut DynamicMessage, path: &str, text: &str) -> Result<bool, Problem> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    if path.split('.').count() > DEPTH_MAX {
        return Ok(false);
    }
    let Some(field) = named(&message.descriptor(), name) else { return Ok(false) };
    if let Some(rest) = rest {
        if field.is_list() || field.is_map() {
            return Ok(false);
        }
        let Kind::Message(_) = field.kind() else { return Ok(false) };
        return match message.get_field_mut(&field) {
            Value::Message(inner) => set(inner, rest, text),
            _ => Ok(false),
        };
    }
    if field.is_map() {
        return Ok(false);
    }
    let value =
        parsed(&field, text).map_err(|problem| Problem::new(format!("parsing field {:?}: {problem}", field.name())))?;
    if field.is_list() {
        if let Value::List(values) = message.get_field_mut(&field) {
            values.push(value);
        }
    } else {
        message.set_field(&field, value);
    }
    Ok(true)
}

/// The field at `path`, if there is one.
pub(crate) fn find(descriptor: &MessageDescriptor, path: &str) -> Option<FieldDescriptor> {
    let mut names = path.split('.');
    let first = named(descriptor, names.next()?)?;
    names.take(DEPTH_MAX).try_fold(first, |field, name| match field.kind() {
        Kind::Message(of) => named(&of, name),
        _ => None,
    })
}

fn named(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(name).or_else(|| descriptor.get_field_by_json_name(name))
}

/// One value. What is told of a wrong one is what Temporal's HTTP API tells.
fn parsed(field: &FieldDescriptor, text: &str) -> Result<Value, Problem> {
    let invalid = |function: &str| {
        let function = if function.is_empty() { String::new() } else { format!("strconv.{function}: ") };
        Problem::new(format!("{function}parsing {text:?}: invalid syntax"))
    };
    Ok(match field.kind() {
        Kind::String => Value::String(text.to_owned()),
        Kind::Bool => Value::Bool(match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err(invalid("ParseBool")),
        }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(text.parse().map_err(|_| invalid("ParseInt"))?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(text.parse().map_err(|_| invalid("ParseInt"))?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(text.parse().map_err(|_| invalid("ParseUint"))?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(text.parse().map_err(|_| invalid("ParseUint"))?),
        Kind::Float => Value::F32(text.parse().map_err(|_| invalid("ParseFloat"))?),
        Kind::Double => Value::F64(text.parse().map_err(|_| invalid("ParseFloat"))?),
        Kind::Bytes => Value::Bytes(crate::json::bytes_of(text).ok_or_else(|| invalid(""))?.into()),
        Kind::Enum(names) => Value::EnumNumber(
            enum_number(&names, text)
                .or_else(|| text.parse().ok())
                .ok_or_else(|| Problem::new(format!("{text:?} is not a valid value")))?,
        ),
        Kind::Message(descriptor) => {
            let quoted = serde_json::to_string(text).unwrap_or_default();
            match descriptor.full_name() {
                "google.protobuf.Timestamp" | "google.protobuf.Duration" | "google.protobuf.FieldMask" => {
                    Value::Message(well_known(&quoted, &descriptor)?)
                }
                _ => return Err(Problem::new("a message has no value of its own; name one of its fields")),
            }
        }
    })
}
