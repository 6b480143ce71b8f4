//! Paths and queries.

use std::borrow::Cow;
use std::str::Split;

use percent_encoding::percent_decode_str;

/// The parts of a path between its slashes.
pub(crate) fn segments(path: &str) -> Split<'_, char> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

/// A part of a path without its escapes, so that `order%2F42` is the id `order/42`. With `doubled`, so is `order%252F42`: pages of the
/// Temporal Web UI escape slashes twice.
pub(crate) fn unescaped(segment: &str, doubled: bool) -> Cow<'_, str> {
    let once = percent_decode_str(segment).decode_utf8_lossy();
    if doubled && once.contains("%2") { Cow::Owned(once.replace("%2F", "/").replace("%2f", "/")) } else { once }
}

/// Whether a query is one: as Go's `url.ParseQuery` has it.
///
/// # Errors
///
/// What is wrong, in its words.
pub(crate) fn check_escapes(query: &str) -> Result<(), String> {
    if query.contains(';') {
        return Err("invalid semicolon separator in query".to_owned());
    }
    for (at, _) in query.match_indices('%') {
        let escape: String = query[at..].chars().take(3).take_while(|letter| !matches!(letter, '&' | '=')).collect();
        if escape.len() != 3 || !escape[1..].bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(format!("invalid URL escape {escape:?}"));
        }
    }
    Ok(())
}

/// The names and values of a query, in order.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form(name), form(value))
    })
}

/// As forms are encoded: a plus is a space.
fn form(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned());
    }
    percent_decode_str(text).decode_utf8_lossy()
}
