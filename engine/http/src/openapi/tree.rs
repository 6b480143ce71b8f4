//! A document before it is text. Entries keep their order: it is that of the definitions, which somebody has thought about.

use std::borrow::Cow;

/// A part of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    Map(Vec<(Cow<'static, str>, Tree)>),
    List(Vec<Tree>),
    Text(String),
    Flag(bool),
}

impl From<&str> for Tree {
    fn from(text: &str) -> Tree {
        Tree::Text(text.to_owned())
    }
}

impl From<String> for Tree {
    fn from(text: String) -> Tree {
        Tree::Text(text)
    }
}

impl<const N: usize> From<[(&'static str, Tree); N]> for Tree {
    fn from(entries: [(&'static str, Tree); N]) -> Tree {
        Tree::Map(entries.into_iter().map(|(key, value)| (Cow::Borrowed(key), value)).collect())
    }
}

impl Tree {
    /// The map with an entry more, unless there is nothing in it. Of anything but a map, what it was.
    pub(super) fn and(mut self, key: impl Into<Cow<'static, str>>, value: impl Into<Tree>) -> Tree {
        let value = value.into();
        if let Tree::Map(entries) = &mut self
            && !value.is_empty()
        {
            entries.push((key.into(), value));
        }
        self
    }

    fn is_empty(&self) -> bool {
        match self {
            Tree::Map(entries) => entries.is_empty(),
            Tree::List(values) => values.is_empty(),
            Tree::Text(text) => text.is_empty(),
            Tree::Flag(_) => false,
        }
    }

    /// As JSON on one line.
    pub(super) fn json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }

    fn write_json(&self, out: &mut String) {
        let separate = |out: &mut String, at: usize| {
            if at > 0 {
                out.push(',');
            }
        };
        match self {
            Tree::Map(entries) => {
                out.push('{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    separate(out, at);
                    out.push_str(&quoted(key));
                    out.push(':');
                    value.write_json(out);
                }
                out.push('}');
            }
            Tree::List(values) => {
                out.push('[');
                for (at, value) in values.iter().enumerate() {
                    separate(out, at);
                    value.write_json(out);
                }
                out.push(']');
            }
            Tree::Text(text) => out.push_str(&quoted(text)),
            Tree::Flag(flag) => out.push_str(if *flag { "true" } else { "false" }),
        }
    }

    /// As YAML.
    pub(super) fn yaml(&self) -> String {
        let mut out = String::new();
        self.write_yaml(&mut out, 0);
        out
    }

    /// Writes what stands on lines of its own, `depth` steps to the right. The cursor is where the first of them begins.
    fn write_yaml(&self, out: &mut String, depth: usize) {
        match self {
            Tree::Map(entries) if !entries.is_empty() => {
                for (at, (key, value)) in entries.iter().enumerate() {
                    if at > 0 {
                        indent(out, depth);
                    }
                    out.push_str(&plain(key).unwrap_or_else(|| quoted(key)));
                    out.push(':');
                    value.write_yaml_value(out, depth + 1);
                }
            }
            Tree::List(values) if !values.is_empty() => {
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        indent(out, depth);
                    }
                    out.push_str("- ");
                    value.write_yaml(out, depth + 1);
                }
            }
            Tree::Map(_) => out.push_str("{}\n"),
            Tree::List(_) => out.push_str("[]\n"),
            Tree::Text(text) => {
                out.push_str(&plain(text).unwrap_or_else(|| quoted(text)));
                out.push('\n');
            }
            Tree::Flag(flag) => out.push_str(if *flag { "true\n" } else { "false\n" }),
        }
    }

    /// Writes what stands behind a key.
    fn write_yaml_value(&self, out: &mut String, depth: usize) {
        match self {
            Tree::Map(_) | Tree::List(_) if !self.is_empty() => {
                out.push('\n');
                indent(out, depth);
                self.write_yaml(out, depth);
            }
            Tree::Text(text) if is_block(text) => {
                out.push_str(" |-\n");
                for line in text.split('\n') {
                    if !line.is_empty() {
                        indent(out, depth);
                        out.push_str(line);
                    }
                    out.push('\n');
                }
            }
            _ => {
                out.push(' ');
                self.write_yaml(out, depth);
            }
        }
    }
}

const STEP: &str = "  ";

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n(STEP, depth));
}

/// As JSON has it, and YAML too.
fn quoted(text: &str) -> String {
    // A string is always JSON.
    serde_json::to_string(text).unwrap_or_default()
}

/// The text as it is, if YAML reads it as a text without quotes. It may read more than these; what it reads as something else is not among
/// them.
fn plain(text: &str) -> Option<String> {
    let begins = |c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '$' | '_');
    let goes_on = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '$' | '_' | '.' | '-' | '{' | '}');
    let is_plain = text.starts_with(begins) && text.chars().all(goes_on);
    let means_else = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    (is_plain && !means_else.iter().any(|word| text.eq_ignore_ascii_case(word))).then(|| text.to_owned())
}

/// Whether lines of text can stand as they are.
fn is_block(text: &str) -> bool {
    let odd = |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'));
    text.contains('\n') && !text.starts_with([' ', '\n']) && !text.ends_with('\n') && !text.contains(odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        Tree::from([("a", "b".into()), ("empty", Tree::List(Vec::new()))])
            .and("left out", "")
            .and("200", "true")
            .and("@type", "it's: \"x\" # no")
            .and("lines", "one\n\n  two: {}")
            .and("odd", " begins\nwith a space")
            .and("list", Tree::List(vec![Tree::Flag(true), Tree::from([("x", "1".into()), ("y", Tree::from([]))])]))
            .and("/a/{b.c}", Tree::from([("$ref", "#/x".into())]))
    }

    #[test]
    fn entries_are_written_in_their_order_as_json() {
        let json = r##"{"a":"b","empty":[],"200":"true","@type":"it's: \"x\" # no","lines":"one\n\n  two: {}","odd":" begins\nwith a space","list":[true,{"x":"1","y":{}}],"/a/{b.c}":{"$ref":"#/x"}}"##;
        assert_eq!(tree().json(), json);
    }

    #[test]
    fn yaml_quotes_what_it_would_read_as_something_else() {
        let yaml = r##"a: b
empty: []
"200": "true"
"@type": "it's: \"x\" # no"
lines: |-
  one

    two: {}
odd: " begins\nwith a space"
list:
  - true
  - x: "1"
    "y": {}
/a/{b.c}:
  $ref: "#/x"
"##;
        assert_eq!(tree().yaml(), yaml);
    }
}
