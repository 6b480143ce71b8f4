//! Compact text for any API message: what `{:?}` prints, without what is not set.
//!
//! prost's `Debug` names fields and enum values. It is read back into a tree, and printed without default values, with payloads
//! as their text, and times relative to the script's start. So a field that a change adds shows up in the scripts by itself.

use crate::print::{relative_time, seconds};

enum Value {
    Struct(String, Vec<(String, Value)>),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
    Text(String),
    Atom(String),
}

/// `message` on one line; empty if nothing is set.
pub(crate) fn compact(message: &impl std::fmt::Debug) -> String {
    let text = format!("{message:?}");
    let value = Parser { rest: &text }.value();
    match print(&value) {
        Some(text) => text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(&text).to_owned(),
        None => String::new(),
    }
}

/// The value as text, or `None` if it is a default.
fn print(value: &Value) -> Option<String> {
    match value {
        Value::Atom(text) if matches!(text.as_str(), "None" | "0" | "0.0" | "false" | "Unspecified" | "()") => None,
        Value::Atom(text) => Some(text.clone()),
        Value::Text(text) if text.is_empty() => None,
        Value::Text(text) if text.chars().all(|c| c.is_alphanumeric() || "-_./:".contains(c)) => Some(text.clone()),
        Value::Text(text) => Some(format!("{text:?}")),
        Value::List(items) if items.is_empty() => None,
        Value::List(items) => Some(format!(
            "[{}]",
            items.iter().map(|item| print(item).unwrap_or("null".into())).collect::<Vec<_>>().join(", ")
        )),
        Value::Map(entries) if entries.is_empty() => None,
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{key}: {}", print(value).unwrap_or("null".into())))
                .collect();
            entries.sort();
            Some(format!("{{{}}}", entries.join(", ")))
        }
        Value::Struct(name, fields) => print_struct(name, fields),
    }
}

fn print_struct(name: &str, fields: &[(String, Value)]) -> Option<String> {
    let number = |key: &str| {
        fields.iter().find(|(name, _)| name == key).and_then(|(_, value)| match value {
            Value::Atom(text) => text.parse::<i64>().ok(),
            _ => None,
        })
    };
    match name {
        // Go's zero time, which no count of nanoseconds reaches.
        "Timestamp" if number("seconds")? < i64::MIN / 1_000_000_000 => return Some("never".into()),
        "Timestamp" => return Some(relative_time(number("seconds")? * 1_000_000_000 + number("nanos")?)),
        "Duration" => return Some(seconds(number("seconds")? * 1_000_000_000 + number("nanos")?)),
        _ => {}
    }
    if let [(field, value)] = fields
        && field == "0"
        && name != "Some"
    {
        // One of several: which one is part of what it says.
        return Some(format!("{name}{}", print(value).unwrap_or_else(|| "{}".into())));
    }
    let printed: Vec<_> =
        fields.iter().filter_map(|(name, value)| print(value).map(|value| (name.as_str(), value))).collect();
    match printed.as_slice() {
        // A message that wraps one value, or one list, is that value.
        [("name" | "payloads" | "fields" | "indexed_fields" | "0", value)] => Some(value.clone()),
        [] if name == "Some" => None,
        fields => {
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
            Some(format!("{{{}}}", fields.join(" ")))
        }
    }
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = ALPHABET.iter().position(|digit| *digit == byte)?;
        bits = (bits << 6) | u32::try_from(digit).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

/// Reads what `#[derive(Debug)]` writes.
struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Value {
        if self.eat("\"") {
            return Value::Text(self.string());
        }
        if let Some(payload) = self.payload() {
            return Value::Atom(payload);
        }
        if self.eat("[") {
            return Value::List(self.items("]"));
        }
        if self.eat("{") {
            let mut entries = Vec::new();
            while !self.eat("}") {
                let key = print(&self.value()).unwrap_or_default();
                assert!(self.eat(":"), "a map's entry has a colon: {}", self.rest);
                entries.push((key, self.value()));
                self.eat(",");
            }
            return Value::Map(entries);
        }
        let word = self.word();
        if self.rest.starts_with('(') && self.eat("(") {
            let fields = self.items(")").into_iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect();
            return Value::Struct(word, fields);
        }
        if self.rest.starts_with(" {") && self.eat("{") {
            let mut fields = Vec::new();
            while !self.eat("}") {
                self.rest = self.rest.trim_start();
                let name = self.word();
                assert!(self.eat(":"), "a field has a colon: {}", self.rest);
                fields.push((name, self.value()));
                self.eat(",");
            }
            return Value::Struct(word, fields);
        }
        Value::Atom(word)
    }

    /// A payload is written as `[its data in base64]`, and a long one as `[first bytes..last bytes]`.
    fn payload(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let (text, rest) = self.rest.strip_prefix('[')?.split_once(']')?;
        let (first, long) = text.split_once("..").map_or((text, false), |(first, _)| (first, true));
        if first.is_empty() || first.len() % 4 != 0 || first.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let bytes = from_base64(first)?;
        // What looks like base64 may be a list of one name; payloads of scripts are text.
        let text = String::from_utf8(bytes).ok()?;
        self.rest = rest;
        Some(if long { format!("'{}...'", text.get(..8).unwrap_or_default()) } else { format!("'{text}'") })
    }

    fn items(&mut self, end: &str) -> Vec<Value> {
        let mut items = Vec::new();
        while !self.eat(end) {
            items.push(self.value());
            self.eat(",");
        }
        items
    }

    fn word(&mut self) -> String {
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || "_-.+#".contains(c))).unwrap_or(self.rest.len());
        assert!(end > 0, "cannot read: {}", self.rest);
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    /// The rest of a string literal, without its escapes (those that occur).
    fn string(&mut self) -> String {
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return text;
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c)) => text.push(c),
                    None => break,
                },
                c => text.push(c),
            }
        }
        panic!("a string without an end");
    }
}
