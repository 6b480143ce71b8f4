//! OpenAPI 3: `openapi.yaml`. (Temporal: what gnostic's protoc-gen-openapi makes of its API.)

use std::collections::{BTreeMap, HashMap};

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind};

use super::comments::Comments;
use super::names::{Type, for_v3, reachable, scalar, value_kind};
use super::operations::{Operation, Parameter, declared, operations};
use super::tree::Tree;
use super::{ANY, OF_PAYLOADS, SERVER_VERSION, STATUS, TITLE, any, of_field};
use crate::json::{PAYLOAD, PAYLOADS};

/// What the JSON of a duration looks like.
const DURATION: &str = r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$";

/// The document.
pub(super) fn document(pool: &DescriptorPool) -> Tree {
    let operations = operations(pool);
    let answers = operations.iter().map(|operation| operation.method.output());
    let bodies = operations.iter().filter(|operation| operation.has_body()).map(|operation| operation.method.input());
    // Values of enums stand where they are used.
    let mut types = reachable(answers.chain(bodies));
    types.retain(|_, of| matches!(of, Type::Message(_)));
    let names = for_v3(types.iter().map(|(full_name, of)| (full_name.as_str(), of)));
    let writer = Writer { comments: Comments::of(pool), names };
    let schemas: BTreeMap<String, Tree> =
        types.iter().map(|(full_name, of)| (writer.name(full_name).to_owned(), writer.schema(of))).collect();
    let schemas = schemas.into_iter().map(|(name, of)| (name.into(), of)).collect();
    let mut paths: Vec<(&'static str, Tree)> = Vec::new();
    for operation in &operations {
        let call = writer.operation(operation);
        let verb = operation.row.verb.to_lowercase();
        match paths.last_mut() {
            Some((path, verbs)) if *path == operation.row.path => *verbs = verbs.clone().and(verb, call),
            _ => paths.push((operation.row.path, Tree::from([]).and(verb, call))),
        }
    }
    let paths = paths.into_iter().map(|(path, verbs)| (path_with_names(&operations, path).into(), verbs)).collect();
    let services = ["OperatorService", "WorkflowService"].map(|name| {
        let service = operations.iter().find(|operation| operation.row.service == name);
        let text = service.map(|operation| {
            let service = operation.method.parent_service();
            writer.comments.at(&service.parent_file(), service.path())
        });
        Tree::from([("name", name.into())]).and("description", text.unwrap_or_default())
    });
    Tree::from([
        ("openapi", "3.0.3".into()),
        ("info", Tree::from([("title", TITLE.into()), ("version", SERVER_VERSION.into())])),
        ("paths", Tree::Map(paths)),
        ("components", Tree::from([("schemas", Tree::Map(schemas))])),
        ("tags", Tree::List(services.into())),
    ])
}

/// What a parameter in a path is called: a field of the request as in JSON, a field of a field as in the table. So it is with Temporal.
fn name_in_path(parameter: &Parameter) -> &str {
    if parameter.name.contains('.') { &parameter.name } else { &parameter.json_name }
}

fn path_with_names(operations: &[Operation], path: &str) -> String {
    let operation = operations.iter().find(|operation| operation.row.path == path);
    operation.into_iter().flat_map(|operation| &operation.path).fold(path.to_owned(), |path, parameter| {
        path.replace(&format!("{{{}}}", parameter.name), &format!("{{{}}}", name_in_path(parameter)))
    })
}

struct Writer<'a> {
    comments: Comments<'a>,
    names: HashMap<&'a str, String>,
}

impl Writer<'_> {
    fn name(&self, full_name: &str) -> &str {
        self.names.get(full_name).map_or("", String::as_str)
    }

    fn reference(&self, full_name: &str) -> Tree {
        Tree::from([("$ref", format!("#/components/schemas/{}", self.name(full_name)).into())])
    }

    fn operation(&self, operation: &Operation) -> Tree {
        let method = &operation.method;
        let json = |full_name: &str| {
            let schema = Tree::from([("schema", self.reference(full_name))]);
            Tree::from([("application/json", schema)])
        };
        let answers =
            |text: &str, full_name: &str| Tree::from([("description", text.into()), ("content", json(full_name))]);
        let path = operation.path.iter().map(|parameter| {
            let named = Tree::from([("name", name_in_path(parameter).into()), ("in", "path".into())]);
            self.parameter(named.and("required", Tree::Flag(true)), parameter)
        });
        let query = operation.query.iter().map(|parameter| {
            let named = Tree::from([("name", parameter.json_name.as_str().into()), ("in", "query".into())]);
            self.parameter(named, parameter)
        });
        let body = if operation.has_body() {
            Tree::from([("content", json(method.input().full_name())), ("required", Tree::Flag(true))])
        } else {
            Tree::from([])
        };
        let responses =
            Tree::from([("200", answers("OK", method.output().full_name())), ("default", answers("An error", STATUS))]);
        Tree::from([("tags", Tree::List(vec![operation.row.service.into()]))])
            .and("description", self.comments.at(&method.parent_file(), method.path()))
            .and("operationId", operation.id.as_str())
            .and("parameters", Tree::List(path.chain(query).collect()))
            .and("requestBody", body)
            .and("responses", responses)
    }

    fn parameter(&self, named: Tree, parameter: &Parameter) -> Tree {
        let field = &parameter.field;
        named
            .and("description", self.comments.at(&field.parent_message().parent_file(), field.path()))
            .and("schema", self.values(field))
    }

    fn schema(&self, of: &Type) -> Tree {
        let Type::Message(message) = of else { return Tree::from([]) };
        match message.full_name() {
            PAYLOAD | PAYLOADS => return Tree::from([("description", OF_PAYLOADS.into())]),
            ANY => return any(Tree::Flag(true)),
            _ => {}
        }
        let fields = declared(message);
        let properties = fields.iter().map(|field| {
            let text = self.comments.at(&field.parent_message().parent_file(), field.path());
            let is_reference = !field.is_list() && !field.is_map() && self.is_reference(&field.kind());
            let schema = match self.values(field) {
                // What stands beside a reference is not read.
                reference if is_reference && !text.is_empty() => Tree::from([("allOf", Tree::List(vec![reference]))]),
                schema => schema,
            };
            (field.json_name().to_owned().into(), schema.and("description", text))
        });
        Tree::from([("type", "object".into())])
            .and("properties", Tree::Map(properties.collect()))
            .and("description", self.comments.at(&message.parent_file(), message.path()))
    }

    fn is_reference(&self, kind: &Kind) -> bool {
        matches!(kind, Kind::Message(_)) && scalar(kind).is_none()
    }

    /// What values a field has.
    fn values(&self, field: &FieldDescriptor) -> Tree {
        let kind = value_kind(field);
        let value = match &kind {
            Kind::Message(message) if self.is_reference(&kind) => self.reference(message.full_name()),
            Kind::Enum(names) => values(names),
            kind => typed(kind),
        };
        of_field(field, value)
    }
}

fn typed(kind: &Kind) -> Tree {
    let (of, format) = scalar(kind).unwrap_or(("object", ""));
    let pattern = match kind {
        Kind::Message(message) if message.full_name() == "google.protobuf.Duration" => DURATION,
        _ => "",
    };
    Tree::from([("type", of.into())]).and("format", format).and("pattern", pattern)
}

fn values(names: &EnumDescriptor) -> Tree {
    let values = names.values().map(|value| value.name().into()).collect();
    Tree::from([("type", "string".into()), ("format", "enum".into()), ("enum", Tree::List(values))])
}
