//! Messages as JSON and JSON as messages: the [canonical form](https://protobuf.dev/programming-guides/json/) of protobuf, and in it
//! Temporal's shorthand for payloads ([`payload`]).
//!
//! Messages are known by their descriptors alone, so that a method or a field more needs no code here.

mod go;
mod names;
mod payload;
mod pretty;
mod read;
mod write;

pub(crate) use go::go_json;
pub(crate) use names::enum_number;
pub(crate) use payload::bytes_of;
pub(crate) use pretty::indented;
pub(crate) use read::{Problem, read, well_known};
pub(crate) use write::write;

/// Whether payloads are shown as the values that they carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payloads {
    /// `{"a": 1}`.
    Shorthand,
    /// `{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "eyJhIjogMX0="}`.
    Whole,
}

pub(crate) const PAYLOAD: &str = "temporal.api.common.v1.Payload";
pub(crate) const PAYLOADS: &str = "temporal.api.common.v1.Payloads";

/// Messages whose JSON is a form of their own.
fn is_well_known(full_name: &str) -> bool {
    full_name.starts_with("google.protobuf.")
}

/// Longest part of what a caller has sent that is repeated in a message, characters.
const REPEATED_MAX: usize = 100;

/// The beginning of `text`.
fn cut(text: &str) -> &str {
    text.char_indices().nth(REPEATED_MAX).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests;
