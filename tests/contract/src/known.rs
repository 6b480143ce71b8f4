//! Differences that are known.
//!
//! The list only ever shrinks: a difference that it does not have fails, and so does an entry of it that meets no difference any more,
//! unless it says that the difference is there only `sometimes`.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::compare::Difference;

/// `known_differences.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    #[serde(default, rename = "difference")]
    kinds: Vec<Kind>,
}

/// One kind of difference.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kind {
    /// Why it is there, or what will end it.
    #[allow(dead_code, reason = "for readers of the file")]
    why: String,
    /// `area/scenario: path`, with `*` for anything.
    at: Vec<String>,
    /// Not seen each time, so that it need not be there.
    #[serde(default)]
    sometimes: bool,
}

/// What the list makes of the differences of scenarios.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Differences that are not listed, each with its scenario.
    pub unknown: Vec<(String, Difference)>,
    /// Entries that met none.
    pub gone: Vec<String>,
}

impl Known {
    /// The list of this crate.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is not a list.
    pub fn read() -> Result<Known, String> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/known_differences.toml");
        Known::parse(&std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?)
    }

    fn parse(text: &str) -> Result<Known, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// Judges the differences of scenarios, all that were played.
    pub fn judge(&self, found: Vec<(String, Difference)>) -> Verdict {
        let entries: BTreeSet<&str> = self.kinds.iter().flat_map(|kind| &kind.at).map(String::as_str).collect();
        let mut met = BTreeSet::new();
        let mut verdict = Verdict::default();
        for (scenario, difference) in found {
            let place = format!("{scenario}: {}", difference.path);
            let matching: Vec<&str> = entries.iter().copied().filter(|entry| matches(entry, &place)).collect();
            met.extend(matching.iter().copied());
            if matching.is_empty() {
                verdict.unknown.push((scenario, difference));
            }
        }
        let always = self.kinds.iter().filter(|kind| !kind.sometimes).flat_map(|kind| &kind.at);
        let gone: BTreeSet<&String> = always.filter(|entry| !met.contains(entry.as_str())).collect();
        verdict.gone = gone.into_iter().cloned().collect();
        verdict
    }
}

/// Whether `text` is `pattern` with anything in place of each `*`.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::{Known, matches};
    use crate::compare::Difference;

    #[test]
    fn a_star_is_anything() {
        for (pattern, text, expected) in [
            ("a: b", "a: b", true),
            ("a: b", "a: bc", false),
            ("*: */c", "x/y: b/c", true),
            ("*: */c", "x/y: b/d", false),
            ("x/*: 01*/*/c", "x/y: 01 start/a/c", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_not_listed_and_what_is_gone_are_told() {
        let known = "[[difference]]\nwhy = 'because'\nat = ['a/b: c/*', 'a/b: gone']\n\
                     [[difference]]\nwhy = 'a race'\nsometimes = true\nat = ['a/b: now and then']\n";
        let known = Known::parse(known).unwrap();
        let at = |path: &str| Difference { path: path.to_owned(), expected: None, actual: None };
        let found = vec![("a/b".to_owned(), at("c/d")), ("a/b".to_owned(), at("e"))];
        let verdict = known.judge(found);
        assert_eq!(verdict.unknown, [("a/b".to_owned(), at("e"))]);
        assert_eq!(verdict.gone, ["a/b: gone"]);
    }
}
