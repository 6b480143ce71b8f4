//! Which method a verb and a path mean.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MethodDescriptor};

use crate::path::{segments, unescaped};

/// service, method, verb, path.
const TABLE: &str = include_str!("routes.txt");

/// The prefix of the second family of paths.
pub(crate) const API: &str = "/api/v1";

static POOL: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(everlog_proto::DESCRIPTORS).map_err(|error| error.to_string()));

static ROUTES: LazyLock<Node> = LazyLock::new(|| {
    let mut root = Node::default();
    if let Ok(pool) = pool() {
        for route in table().filter_map(|row| row.route(pool)) {
            root.add(route);
        }
    }
    root
});

/// The descriptors of everything that is served. They take some megabytes, so they are read when they are first asked for.
///
/// # Errors
///
/// What is wrong with them.
pub(crate) fn pool() -> Result<&'static DescriptorPool, &'static str> {
    POOL.as_ref().map_err(String::as_str)
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) service: &'static str,
    pub(crate) method: &'static str,
    pub(crate) verb: &'static str,
    pub(crate) path: &'static str,
}

pub(crate) fn table() -> impl Iterator<Item = Row> {
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut words = line.split_whitespace();
        Some(Row { service: words.next()?, method: words.next()?, verb: words.next()?, path: words.next()? })
    })
}

impl Row {
    pub(crate) fn has_body(self) -> bool {
        self.verb == "POST"
    }

    /// Its method, if the API as it is compiled in has it.
    pub(crate) fn descriptor(self, pool: &DescriptorPool) -> Option<MethodDescriptor> {
        let package = self.service.to_lowercase();
        let service = pool.get_service_by_name(&format!("temporal.api.{package}.v1.{}", self.service))?;
        service.methods().find(|method| method.name() == self.method)
    }

    fn route(self, pool: &DescriptorPool) -> Option<Route> {
        let method = self.descriptor(pool)?;
        Some(Route { row: self, method })
    }
}

/// A method at a path.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    row: Row,
    pub(crate) method: MethodDescriptor,
}

impl Route {
    pub(crate) fn has_body(&self) -> bool {
        self.row.has_body()
    }

    /// Fields of the request and their values, as the path that was asked for has them.
    pub(crate) fn variables<'a>(&self, path: &'a str) -> Vec<(&'static str, std::borrow::Cow<'a, str>)> {
        let doubled = self.row.path.starts_with(API);
        segments(self.row.path)
            .zip(segments(path))
            .filter_map(|(pattern, segment)| Some((variable(pattern)?, unescaped(segment, doubled))))
            .collect()
    }
}

/// What there is behind a part of a path.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<&'static str, Node>,
    variable: Option<Box<Node>>,
    routes: Vec<Route>,
}

/// What a request may be for.
pub(crate) enum Found {
    /// A method.
    Route(&'static Route),
    /// There is nothing at the path.
    NoPath,
    /// There is, but not with this verb.
    NoVerb,
}

impl Node {
    fn add(&mut self, route: Route) {
        let mut node = self;
        for segment in segments(route.row.path) {
            node = match variable(segment) {
                Some(_) => &mut **node.variable.get_or_insert_default(),
                None => node.literals.entry(segment).or_default(),
            };
        }
        node.routes.push(route);
    }

    /// All nodes at a path: names before variables.
    fn find<'a>(&'a self, mut rest: std::str::Split<'_, char>, found: &mut Vec<&'a Node>) {
        let Some(segment) = rest.next() else {
            found.push(self);
            return;
        };
        if let Some(node) = self.literals.get(segment) {
            node.find(rest.clone(), found);
        }
        // An empty value is for the method to refuse.
        if let Some(node) = self.variable.as_deref() {
            node.find(rest, found);
        }
    }
}

/// The name in `{name}`.
pub(crate) fn variable(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// The route of a request.
pub(crate) fn find(verb: &str, path: &str) -> Found {
    let mut nodes = Vec::new();
    ROUTES.find(segments(path), &mut nodes);
    let mut routes = nodes.iter().flat_map(|node| &node.routes).peekable();
    if routes.peek().is_none() {
        return Found::NoPath;
    }
    routes.find(|route| route.row.verb == verb).map_or(Found::NoVerb, Found::Route)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(verb: &str, path: &str) -> Option<(String, Vec<(&'static str, String)>)> {
        let Found::Route(route) = find(verb, path) else { return None };
        let variables = route.variables(path).into_iter().map(|(name, value)| (name, value.into_owned())).collect();
        Some((route.method.name().to_owned(), variables))
    }

    #[test]
    fn every_row_is_a_method_whose_variables_are_fields_of_its_request() {
        let pool = pool().unwrap();
        let mut later = Vec::new();
        for row in table() {
            let Some(descriptor) = row.descriptor(pool) else {
                later.push(row.method);
                continue;
            };
            let values = segments(row.path).map(|segment| variable(segment).unwrap_or(segment)).collect::<Vec<_>>();
            let path = format!("/{}", values.join("/"));
            let (name, variables) = method(row.verb, &path).unwrap();
            assert_eq!(name, descriptor.name(), "{path}");
            for (variable, _) in variables {
                let mut request = prost_reflect::DynamicMessage::new(descriptor.input());
                assert_eq!(crate::fields::set(&mut request, variable, "x"), Ok(true), "{variable} of {name}");
            }
            assert!(["GET", "POST", "DELETE"].contains(&row.verb), "{row:?}");
        }
        assert_eq!(table().count(), 228);
        // Methods of the published API that the messages which are compiled in do not have yet.
        later.dedup();
        assert_eq!(later, Vec::<&str>::new());
    }

    #[test]
    fn parts_of_paths_are_decoded_once_they_are_found() {
        let id = |path: &str| method("GET", path).map(|(_, variables)| variables[1].1.clone());
        assert_eq!(id("/namespaces/default/workflows/order%2F42").as_deref(), Some("order/42"));
        assert_eq!(id("/namespaces/default/workflows/order%252F42").as_deref(), Some("order%2F42"));
        assert_eq!(id("/api/v1/namespaces/default/workflows/order%252F42").as_deref(), Some("order/42"));
        assert_eq!(id("/api/v1/namespaces/default/workflows/50%25").as_deref(), Some("50%"));
        assert_eq!(id("/namespaces/default/workflows/%C3%A9%20%F0%9F%98%80").as_deref(), Some("é 😀"));
        for path in ["", "/", "/nothing", "/cluster/", "//cluster", "/namespaces/default/workflows/w/"] {
            assert!(matches!(find("GET", path), Found::NoPath), "{path}");
        }
        assert!(matches!(find("PUT", "/cluster"), Found::NoVerb));
    }
}
