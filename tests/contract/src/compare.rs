//! Where two documents differ.

use std::fmt;

use serde_json::Value;

/// One place where what is shown is not what is expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The keys that lead there, with `/` between them.
    pub path: String,
    /// What should be there, if anything.
    pub expected: Option<Value>,
    /// What is there, if anything.
    pub actual: Option<Value>,
}

/// The places where `actual` is not `expected`, as deep as possible.
pub fn differences(expected: &Value, actual: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    visit(String::new(), Some(expected), Some(actual), &mut found);
    found
}

fn visit(path: String, expected: Option<&Value>, actual: Option<&Value>, found: &mut Vec<Difference>) {
    if expected == actual {
        return;
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}/{key}") };
    match (expected, actual) {
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            for (key, value) in left {
                visit(below(key), Some(value), right.get(key), found);
            }
            for (key, value) in right.iter().filter(|(key, _)| !left.contains_key(*key)) {
                visit(below(key), None, Some(value), found);
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            for at in 0..left.len().max(right.len()) {
                visit(below(&at.to_string()), left.get(at), right.get(at), found);
            }
        }
        _ => found.push(Difference { path, expected: expected.cloned(), actual: actual.cloned() }),
    }
}

/// Characters of a value that are shown.
const SHOWN: usize = 300;

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| match value {
            None => "nothing".to_owned(),
            Some(value) => value.to_string().chars().take(SHOWN).collect(),
        };
        write!(f, "{}: expected {}, got {}", self.path, shown(&self.expected), shown(&self.actual))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::differences;

    #[test]
    fn differences_are_told_as_deep_as_possible() {
        let expected = json!({ "a": { "b": 1, "c": [1, 2] }, "d": "x" });
        let actual = json!({ "a": { "b": 2, "c": [1] }, "e": { "f": null } });
        let told: Vec<String> = differences(&expected, &actual).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "a/b: expected 1, got 2",
                "a/c/1: expected 2, got nothing",
                "d: expected \"x\", got nothing",
                "e: expected nothing, got {\"f\":null}",
            ]
        );
        assert!(differences(&actual, &actual).is_empty());
    }
}
