//! OpenAPI 2, which was Swagger: `swagger.json`. (Temporal: what protoc-gen-openapiv2 makes of its API.)

use std::collections::{BTreeMap, HashMap};

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::comments::Comments;
use super::names::{Type, for_v2, reachable, scalar, value_kind};
use super::operations::{Operation, Parameter, declared, in_paths, operations};
use super::tree::Tree;
use super::{ANY, OF_PAYLOADS, SERVER_VERSION, STATUS, TITLE, any, of_field};
use crate::json::{PAYLOAD, PAYLOADS};

/// The document.
pub(super) fn document(pool: &DescriptorPool) -> Tree {
    let operations = operations(pool);
    let roots = operations.iter().flat_map(|operation| [operation.method.input(), operation.method.output()]);
    let types = reachable(roots);
    let writer = Writer { comments: Comments::of(pool), names: for_v2(types.keys().map(String::as_str)) };
    // Of most requests all is in paths, queries and bodies of their own.
    let is_apart = |full_name: &str| {
        let mut requests = operations.iter().filter(|operation| operation.method.input().full_name() == full_name);
        requests.next().is_some_and(|operation| !operation.has_body() || !operation.path.is_empty())
    };
    let mut definitions: BTreeMap<String, Tree> = BTreeMap::new();
    for (full_name, of) in types.iter().filter(|(full_name, _)| !is_apart(full_name)) {
        definitions.insert(writer.name(full_name).to_owned(), writer.definition(of));
    }
    for operation in operations.iter().filter(|operation| operation.has_body() && !operation.path.is_empty()) {
        let body = writer.body(&operation.method.input(), "", &in_paths(&operations, &operation.method));
        definitions.insert(body_name(operation), body);
    }
    let mut paths: Vec<(&'static str, Tree)> = Vec::new();
    for operation in &operations {
        let call = writer.operation(operation);
        let verb = operation.row.verb.to_lowercase();
        match paths.last_mut() {
            Some((path, verbs)) if *path == operation.row.path => *verbs = verbs.clone().and(verb, call),
            _ => paths.push((operation.row.path, Tree::from([]).and(verb, call))),
        }
    }
    let paths = paths.into_iter().map(|(path, verbs)| (path_in_json(&operations, path).into(), verbs)).collect();
    let definitions = definitions.into_iter().map(|(name, of)| (name.into(), of)).collect();
    let json = || Tree::List(vec!["application/json".into()]);
    let tags = ["WorkflowService", "OperatorService"].map(|name| Tree::from([("name", name.into())]));
    Tree::from([
        ("swagger", "2.0".into()),
        ("info", Tree::from([("title", TITLE.into()), ("version", SERVER_VERSION.into())])),
        ("tags", Tree::List(tags.into())),
        ("consumes", json()),
        ("produces", json()),
        ("paths", Tree::Map(paths)),
        ("definitions", Tree::Map(definitions)),
    ])
}

/// A path whose variables are spelled as fields are in JSON.
fn path_in_json(operations: &[Operation], path: &str) -> String {
    let operation = operations.iter().find(|operation| operation.row.path == path);
    operation.into_iter().flat_map(|operation| &operation.path).fold(path.to_owned(), |path, parameter| {
        path.replace(&format!("{{{}}}", parameter.name), &format!("{{{}}}", parameter.json_name))
    })
}

fn body_name(operation: &Operation) -> String {
    format!("{}{}Body", operation.row.service, operation.row.method)
}

const DEFINITIONS: &str = "#/definitions/";

struct Writer<'a> {
    comments: Comments<'a>,
    names: HashMap<&'a str, String>,
}

impl Writer<'_> {
    fn name(&self, full_name: &str) -> &str {
        self.names.get(full_name).map_or("", String::as_str)
    }

    fn reference(&self, full_name: &str) -> Tree {
        reference(self.name(full_name))
    }

    fn operation(&self, operation: &Operation) -> Tree {
        let method = &operation.method;
        let (summary, description) = first_paragraph(self.comments.at(&method.parent_file(), method.path()));
        let answers = |text: &str, full_name: &str| {
            Tree::from([("description", text.into()), ("schema", self.reference(full_name))])
        };
        let responses = Tree::from([
            ("200", answers("A successful response.", method.output().full_name())),
            ("default", answers("An unexpected error response.", STATUS)),
        ]);
        let mut parameters: Vec<_> = operation.path.iter().map(|parameter| self.parameter(parameter, "path")).collect();
        parameters.extend(operation.query.iter().map(|parameter| self.parameter(parameter, "query")));
        if operation.has_body() {
            let schema = if operation.path.is_empty() {
                self.reference(method.input().full_name())
            } else {
                reference(&body_name(operation))
            };
            let body = Tree::from([("name", "body".into()), ("in", "body".into()), ("required", Tree::Flag(true))]);
            parameters.push(body.and("schema", schema));
        }
        Tree::from([])
            .and("summary", summary)
            .and("description", description)
            .and("operationId", operation.id.as_str())
            .and("responses", responses)
            .and("parameters", Tree::List(parameters))
            .and("tags", Tree::List(vec![operation.row.service.into()]))
    }

    fn parameter(&self, parameter: &Parameter, place: &str) -> Tree {
        let field = &parameter.field;
        let tree = Tree::from([("name", parameter.json_name.as_str().into())])
            .and("description", self.comments.at(&field.parent_message().parent_file(), field.path()))
            .and("in", place)
            .and("required", Tree::Flag(place == "path"));
        let kind = field.kind();
        let of_values = |tree: Tree| match &kind {
            Kind::Enum(names) => values(tree, names),
            kind => typed(tree, kind),
        };
        if field.is_list() {
            return tree.and("type", "array").and("items", of_values(Tree::from([]))).and("collectionFormat", "multi");
        }
        of_values(tree)
    }

    fn definition(&self, of: &Type) -> Tree {
        match of {
            Type::Message(message) => match message.full_name() {
                PAYLOAD | PAYLOADS => Tree::from([("description", OF_PAYLOADS.into())]),
                ANY => any(Tree::from([])),
                _ => {
                    let fields = declared(message);
                    let properties =
                        fields.iter().map(|field| (field.json_name().to_owned().into(), self.field(field)));
                    self.message(message).and("properties", Tree::Map(properties.collect()))
                }
            },
            Type::Enum(names) => {
                let lines = self.comments.at(&names.parent_file(), names.path());
                let of_values = names.values().filter_map(|value| {
                    let text = self.comments.at(&names.parent_file(), value.path());
                    (!text.is_empty()).then(|| format!(" - {}: {text}", value.name()))
                });
                let texts = Some(lines.to_owned()).filter(|lines| !lines.is_empty()).into_iter().chain(of_values);
                values(Tree::from([]), names).and("description", texts.collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// What a message is, without its fields.
    fn message(&self, message: &MessageDescriptor) -> Tree {
        let text = self.comments.at(&message.parent_file(), message.path());
        Tree::from([("type", "object".into())]).and("description", text)
    }

    /// What is in the body of a request of which some fields are in the path: `message`, which is at `before`, without them.
    fn body(&self, message: &MessageDescriptor, before: &str, in_paths: &[String]) -> Tree {
        let mut properties = Vec::new();
        for field in declared(message) {
            let name = format!("{before}{}", field.name());
            if in_paths.contains(&name) {
                continue;
            }
            let inside = format!("{name}.");
            let property = match field.kind() {
                Kind::Message(inner) if in_paths.iter().any(|path| path.starts_with(&inside)) => {
                    self.body(&inner, &inside, in_paths)
                }
                _ => self.field(&field),
            };
            properties.push((field.json_name().to_owned().into(), property));
        }
        self.message(message).and("properties", Tree::Map(properties))
    }

    fn field(&self, field: &FieldDescriptor) -> Tree {
        let kind = value_kind(field);
        let value = match &kind {
            Kind::Message(message) if scalar(&kind).is_none() => self.reference(message.full_name()),
            Kind::Enum(names) => self.reference(names.full_name()),
            kind => typed(Tree::from([]), kind),
        };
        of_field(field, value).and("description", self.comments.at(&field.parent_message().parent_file(), field.path()))
    }
}

fn reference(name: &str) -> Tree {
    Tree::from([("$ref", format!("{DEFINITIONS}{name}").into())])
}

fn typed(tree: Tree, kind: &Kind) -> Tree {
    let (of, format) = scalar(kind).unwrap_or(("object", ""));
    tree.and("type", of).and("format", format)
}

fn values(tree: Tree, names: &EnumDescriptor) -> Tree {
    let values = names.values().map(|value| value.name().into()).collect();
    tree.and("type", "string").and("enum", Tree::List(values)).and("default", names.default_value().name())
}

/// A text's first paragraph, and the others.
fn first_paragraph(text: &str) -> (&str, &str) {
    let (first, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    (first, rest.trim())
}
