//! What messages and enums are called in the documents.

use std::collections::{BTreeMap, HashMap};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::{ANY, STATUS};

/// A message or an enum that a document defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Message(MessageDescriptor),
    Enum(EnumDescriptor),
}

/// How the document has a value that is no message of its own.
pub(super) fn scalar(kind: &Kind) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        Kind::String => ("string", ""),
        Kind::Bool => ("boolean", ""),
        Kind::Bytes => ("string", "byte"),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => ("integer", "int32"),
        // JSON's numbers are too small for 64 bits, and a format for unsigned 32 bits there is not.
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => ("string", "int64"),
        Kind::Uint64 | Kind::Fixed64 => ("string", "uint64"),
        Kind::Uint32 | Kind::Fixed32 => ("integer", "int64"),
        Kind::Float => ("number", "float"),
        Kind::Double => ("number", "double"),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => ("string", "date-time"),
            "google.protobuf.Duration" | "google.protobuf.FieldMask" => ("string", ""),
            "google.protobuf.Empty" => ("object", ""),
            _ => return None,
        },
        Kind::Enum(_) => return None,
    })
}

/// The kind of a field's values: of a map's, those that keys lead to.
pub(super) fn value_kind(field: &FieldDescriptor) -> Kind {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    }
}

/// All that `roots` lead to, and the status of errors, by full name.
pub(super) fn reachable(roots: impl Iterator<Item = MessageDescriptor>) -> BTreeMap<String, Type> {
    let mut found = BTreeMap::new();
    let mut rest: Vec<MessageDescriptor> = roots.collect();
    if let Some(message) = rest.first() {
        let pool = message.parent_pool();
        let always = [STATUS, ANY].into_iter().filter_map(|name| pool.get_message_by_name(name)).collect::<Vec<_>>();
        rest.extend(always);
    }
    while let Some(message) = rest.pop() {
        if found.contains_key(message.full_name()) {
            continue;
        }
        found.insert(message.full_name().to_owned(), Type::Message(message.clone()));
        // What it carries has a form of its own.
        if message.full_name() == ANY {
            continue;
        }
        for field in message.fields() {
            match value_kind(&field) {
                Kind::Enum(names) => drop(found.insert(names.full_name().to_owned(), Type::Enum(names))),
                kind @ Kind::Message(_) if scalar(&kind).is_some() => {}
                Kind::Message(inner) => rest.push(inner),
                _ => {}
            }
        }
    }
    found
}

/// Names for version 2, by full name: the shortest end of the full name that no other has, and one part more.
/// (Temporal: grpc-gateway's `openapi_naming_strategy=legacy`.)
pub(super) fn for_v2<'a>(full_names: impl Iterator<Item = &'a str> + Clone) -> HashMap<&'a str, String> {
    let parts = |name: &'a str| name.split('.').collect::<Vec<_>>();
    let end = |name: &'a str, length: usize| {
        let parts = parts(name);
        parts[parts.len().saturating_sub(length)..].join(".")
    };
    let mut ends: HashMap<String, usize> = HashMap::new();
    for name in full_names.clone() {
        for length in 1..=parts(name).len() {
            *ends.entry(end(name, length)).or_default() += 1;
        }
    }
    let named = |name: &'a str| {
        let all = parts(name).len();
        let unique = (1..all).find(|length| ends[&end(name, *length)] == 1).unwrap_or(all);
        let end = end(name, unique + 1);
        let mut parts = end.split('.');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |name, part| name + &capitalised(part))
    };
    full_names.map(|name| (name, named(name))).collect()
}

/// Names for version 3, by full name: the name in its package, `Link_WorkflowEvent`; where several packages have it, with the package.
pub(super) fn for_v3<'a>(types: impl Iterator<Item = (&'a str, &'a Type)>) -> HashMap<&'a str, String> {
    let names: Vec<_> = types
        .map(|(full_name, of)| {
            let package = match of {
                Type::Message(message) => message.package_name(),
                Type::Enum(names) => names.package_name(),
            };
            let inner = full_name.strip_prefix(package).unwrap_or(full_name).trim_start_matches('.');
            // With what it is defined in, but not with what that is.
            let own = inner.rmatch_indices('.').nth(1).map_or(inner, |(at, _)| &inner[at + 1..]);
            let name = if full_name == ANY { "GoogleProtobufAny".to_owned() } else { own.replace('.', "_") };
            (full_name, package, name)
        })
        .collect();
    let with_package = |package: &str, name: &str| {
        let is_shared = names.iter().filter(|(_, _, other)| other == name).count() > 1;
        let package = package.trim_start_matches("temporal.api.").replace('.', "_");
        if is_shared { format!("{package}_{name}") } else { name.to_owned() }
    };
    names.iter().map(|(full_name, package, name)| (*full_name, with_package(package, name))).collect()
}

fn capitalised(word: &str) -> String {
    let mut rest = word.chars();
    rest.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(rest).collect()
}
