//! What the HTTP API is, for whoever generates a client or looks it up: OpenAPI documents of version 2 (`swagger.json`) and 3
//! (`openapi.yaml`), as a Temporal server has them.
//!
//! ```text
//!   routes.txt ─▶ operations ─┐
//!   descriptors ─▶ names ─────┼─▶ v2 ─▶ tree ─▶ JSON
//!              └─▶ comments ──┴─▶ v3 ─▶ tree ─▶ YAML
//! ```
//!
//! Nothing is written by hand: paths come from the table that requests are answered by, and all else from the descriptors that messages are
//! read and written by. They are made when they are first asked for. What paths, parameters and fields they name is compared with what a
//! Temporal server's documents name (`recorded.txt`, see the tests).

mod comments;
mod names;
mod operations;
mod tree;
mod v2;
mod v3;

use std::sync::LazyLock;

use bytes::Bytes;
use prost_reflect::FieldDescriptor;

use self::tree::Tree;
use crate::json::indented;
use crate::routes;

/// A version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// `swagger.json`.
    V2,
    /// `openapi.yaml`.
    V3,
}

type Document = Result<Bytes, &'static str>;

static V2: LazyLock<Document> = LazyLock::new(|| Ok(indented(&v2::document(routes::pool()?).json()).into()));
static V3: LazyLock<Document> = LazyLock::new(|| Ok(v3::document(routes::pool()?).yaml().into()));

/// The document that is at a path.
pub(crate) fn at(path: &str) -> Option<Version> {
    match path.strip_prefix("/api/v1").unwrap_or(path) {
        "/swagger.json" => Some(Version::V2),
        "/openapi.yaml" => Some(Version::V3),
        _ => None,
    }
}

/// A document. The first time it takes some hundred milliseconds.
///
/// # Errors
///
/// What is wrong with the descriptors.
pub(crate) fn document(version: Version) -> Document {
    match version {
        Version::V2 => V2.clone(),
        Version::V3 => V3.clone(),
    }
}

/// What the documents say of themselves.
const TITLE: &str = "The HTTP API of Everlog, which is that of Temporal";
const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What they say of a payload, whose JSON is not what its message says.
const OF_PAYLOADS: &str = "Any JSON: what a payload carries. With `noPayloadShorthand` in the query, or where it carries something else than JSON, \
    it is `{\"metadata\": {\"encoding\": \"...\"}, \"data\": \"...\"}` in base64.";

/// A status in answers that are errors, and what its details are in.
const STATUS: &str = "google.rpc.Status";
const ANY: &str = "google.protobuf.Any";

/// A message with its type; what is said of its fields is `others`.
fn any(others: Tree) -> Tree {
    let of =
        Tree::from([("type", "string".into()), ("description", "What message it is, behind the last slash.".into())]);
    Tree::from([
        ("type", "object".into()),
        ("properties", Tree::from([("@type", of)])),
        ("additionalProperties", others),
    ])
}

/// What a field is, each of whose values is `value`.
fn of_field(field: &FieldDescriptor, value: Tree) -> Tree {
    if field.is_map() {
        Tree::from([("type", "object".into()), ("additionalProperties", value)])
    } else if field.is_list() {
        Tree::from([("type", "array".into()), ("items", value)])
    } else {
        value
    }
}

#[cfg(test)]
mod tests;
