//! Field masks: the paths of the fields of a message that a request is about.

use std::collections::BTreeSet;

use everlog_proto::api::common::v1::Priority;
use everlog_proto::wkt;

/// The paths of a mask, each as it is in JSON: a path may be written that way, or with the names that the fields have in protobuf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldMask(BTreeSet<String>);

impl FieldMask {
    /// What a request's mask says.
    pub(crate) fn new(mask: &wkt::FieldMask) -> FieldMask {
        FieldMask(mask.paths.iter().map(|path| in_json(path)).collect())
    }

    /// Whether it has this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains(path)
    }

    /// The paths that lead into the field with this path.
    pub(crate) fn inside<'m>(&'m self, path: &'m str) -> impl Iterator<Item = &'m str> {
        let inside = move |found: &'m String| found.strip_prefix(path)?.strip_prefix('.');
        self.0.iter().filter_map(inside)
    }
}

/// The fields of a priority.
pub(crate) const PRIORITY_FIELDS: [&str; 3] = ["priorityKey", "fairnessKey", "fairnessWeight"];

/// Puts one of [`PRIORITY_FIELDS`] of `given` into `priority`.
pub(crate) fn merge_priority(priority: &mut Option<Priority>, field: &str, given: &Priority) {
    let priority = priority.get_or_insert_default();
    match field {
        "priorityKey" => priority.priority_key = given.priority_key,
        "fairnessKey" => priority.fairness_key.clone_from(&given.fairness_key),
        "fairnessWeight" => priority.fairness_weight = given.fairness_weight,
        _ => {}
    }
}

/// `task_queue.name` as `taskQueue.name`. A path that is written so already stays as it is.
pub(crate) fn in_json(path: &str) -> String {
    path.split('.').map(name_in_json).collect::<Vec<_>>().join(".")
}

fn name_in_json(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default();
    // Only the letter that it begins with is made small.
    let mut json = capitalized(first, str::to_lowercase, str::to_owned);
    for word in words {
        json.push_str(&capitalized(word, str::to_uppercase, str::to_lowercase));
    }
    json
}

/// A word with something done to the letter that it begins with, and something else to the rest.
fn capitalized(word: &str, first: impl Fn(&str) -> String, rest: impl Fn(&str) -> String) -> String {
    let end = word.chars().next().map_or(0, char::len_utf8);
    first(&word[..end]) + &rest(&word[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_in_json() {
        let cases = [
            ("priority", "priority"),
            ("Priority", "priority"),
            ("start_to_close_timeout", "startToCloseTimeout"),
            ("startToCloseTimeout", "startToCloseTimeout"),
            ("heartbeat_TIMEOUT", "heartbeatTimeout"),
            ("HEARTBEAT_TIMEOUT", "hEARTBEATTimeout"),
            ("task_queue.name", "taskQueue.name"),
            ("", ""),
        ];
        for (path, expected) in cases {
            assert_eq!(in_json(path), expected, "{path}");
        }
    }

    #[test]
    fn what_leads_into_a_field_is_found() {
        let paths = ["retry_policy.initial_interval", "retry_policy", "retryPolicyOther.x"].map(str::to_owned);
        let mask = FieldMask::new(&wkt::FieldMask { paths: paths.into() });
        assert!(mask.has("retryPolicy") && !mask.has("retry_policy"));
        assert_eq!(mask.inside("retryPolicy").collect::<Vec<_>>(), ["initialInterval"]);
    }
}
