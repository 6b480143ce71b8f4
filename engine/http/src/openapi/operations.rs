//! What can be called: the rows of the table of routes, with what their requests take from where.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use super::names::scalar;
use crate::path::segments;
use crate::routes::{Row, table, variable};

/// A verb at a path.
pub(super) struct Operation {
    pub(super) row: Row,
    pub(super) method: MethodDescriptor,
    /// The method's name, and which of its rows this is, unless it is the first.
    pub(super) id: String,
    /// The fields that the path names.
    pub(super) path: Vec<Parameter>,
    /// Those that a query may name, if there is no body.
    pub(super) query: Vec<Parameter>,
}

/// A field of the request outside of a body.
pub(super) struct Parameter {
    /// As paths in this server's table have it: `execution.workflow_id`.
    pub(super) name: String,
    /// The same in JSON's spelling.
    pub(super) json_name: String,
    pub(super) field: FieldDescriptor,
}

impl Operation {
    pub(super) fn has_body(&self) -> bool {
        self.row.has_body()
    }
}

/// All of them, by path and verb.
pub(super) fn operations(pool: &DescriptorPool) -> Vec<Operation> {
    let mut rows_of: HashMap<&str, usize> = HashMap::new();
    let mut operations: Vec<_> = table()
        .filter_map(|row| {
            let method = row.descriptor(pool)?;
            let nth = rows_of.entry(row.method).or_default();
            *nth += 1;
            let id = if *nth == 1 { row.method.to_owned() } else { format!("{}{nth}", row.method) };
            let request = method.input();
            let path = segments(row.path).filter_map(|part| parameter(&request, variable(part)?)).collect::<Vec<_>>();
            let query = if row.has_body() { Vec::new() } else { query(&request, &path) };
            Some(Operation { row, method, id, path, query })
        })
        .collect();
    operations.sort_by_key(|operation| (operation.row.path, operation.row.verb));
    operations
}

/// The fields of a method's request that one of its paths names: they are not in its body.
pub(super) fn in_paths(operations: &[Operation], method: &MethodDescriptor) -> Vec<String> {
    let of_method = operations.iter().filter(|operation| operation.method == *method);
    of_method.flat_map(|operation| &operation.path).map(|parameter| parameter.name.clone()).collect()
}

/// The field at a path that the table names.
fn parameter(request: &MessageDescriptor, path: &str) -> Option<Parameter> {
    let mut message = request.clone();
    let mut json_name = Vec::new();
    let mut parts = path.split('.').peekable();
    loop {
        let field = message.get_field_by_name(parts.next()?)?;
        json_name.push(field.json_name().to_owned());
        if parts.peek().is_none() {
            return Some(Parameter { name: path.to_owned(), json_name: json_name.join("."), field });
        }
        message = field.kind().as_message()?.clone();
    }
}

/// The fields that a query may set: all that have a text for a value, but those in the path.
fn query(request: &MessageDescriptor, path: &[Parameter]) -> Vec<Parameter> {
    let mut found = Vec::new();
    collect(request, ("", ""), &mut Vec::new(), &mut found);
    found.retain(|parameter| path.iter().all(|other| other.name != parameter.name));
    found
}

fn collect(
    message: &MessageDescriptor,
    (before, before_json): (&str, &str),
    within: &mut Vec<String>,
    found: &mut Vec<Parameter>,
) {
    if within.iter().any(|name| name == message.full_name()) {
        return;
    }
    within.push(message.full_name().to_owned());
    for field in declared(message) {
        let (name, json_name) = (format!("{before}{}", field.name()), format!("{before_json}{}", field.json_name()));
        match field.kind() {
            _ if field.is_map() => {}
            Kind::Message(inner) if scalar(&field.kind()).is_none() => {
                if !field.is_list() {
                    collect(&inner, (&format!("{name}."), &format!("{json_name}.")), within, found);
                }
            }
            _ => found.push(Parameter { name, json_name, field }),
        }
    }
    within.pop();
}

/// Fields in the order in which they are written down.
pub(super) fn declared(message: &MessageDescriptor) -> Vec<FieldDescriptor> {
    let mut fields: Vec<_> = message.fields().collect();
    fields.sort_by(|a, b| a.path().cmp(b.path()));
    fields
}
