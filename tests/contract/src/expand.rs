//! Abbreviations in the fields of a request, on top of protobuf's text format.
//!
//! | written | means |
//! |---|---|
//! | `"wf~"` | in strings, `~` makes a name this scenario's own |
//! | `"{a*1001}"` | in strings, a character so many times |
//! | `5s`, `200ms` | a `Duration` |
//! | `P"text"`, `V"text"` | `Payloads` with one JSON payload; that payload |
//! | `$task.task_token` | a value of the result of an earlier step |
//! | `@timer("t", 1s)` | a workflow command, see [`COMMANDS`] |

use std::fmt::Write;

/// A value of an earlier step, as text format writes it, or `None`.
pub(crate) trait Values {
    fn value(&self, path: &str) -> Option<String>;
}

/// Workflow commands by short names; `#1`, `#2` and so on stand for what is written between the parentheses.
const COMMANDS: [(&str, &str); 24] = [
    ("complete", "{ complete_workflow_execution_command_attributes { result P\"result\" #1 } }"),
    ("fail", "{ fail_workflow_execution_command_attributes { failure { #1 } } }"),
    ("cancel", "{ cancel_workflow_execution_command_attributes { details P\"details\" #1 } }"),
    ("continue", "{ continue_as_new_workflow_execution_command_attributes { #1 } }"),
    ("timer", "{ start_timer_command_attributes { timer_id: #1 start_to_fire_timeout #2 } }"),
    ("cancel_timer", "{ cancel_timer_command_attributes { timer_id: #1 } }"),
    (
        "activity",
        "{ schedule_activity_task_command_attributes {
            activity_id: #1 activity_type { name: \"activity\" } task_queue { name: \"queue~\" } input P\"input\" #2 } }",
    ),
    ("activity_with", "{ schedule_activity_task_command_attributes { #1 } }"),
    ("cancel_activity", "{ request_cancel_activity_task_command_attributes { scheduled_event_id: #1 } }"),
    ("marker", "{ record_marker_command_attributes { marker_name: #1 #2 } }"),
    (
        "signal",
        "{ signal_external_workflow_execution_command_attributes {
            namespace: \"default\" execution { workflow_id: #1 } signal_name: \"signal\" input P\"input\" #2 } }",
    ),
    (
        "cancel_external",
        "{ request_cancel_external_workflow_execution_command_attributes { namespace: \"default\" workflow_id: #1 #2 } }",
    ),
    (
        "child",
        "{ start_child_workflow_execution_command_attributes {
            namespace: \"default\" workflow_id: #1 workflow_type { name: \"child\" } task_queue { name: \"children~\" }
            input P\"input\" #2 } }",
    ),
    ("upsert", "{ upsert_workflow_search_attributes_command_attributes { search_attributes { #1 } } }"),
    ("memo", "{ modify_workflow_properties_command_attributes { upserted_memo { #1 } } }"),
    (
        "accept",
        "messages { id: \"accept\" protocol_instance_id: \"update\" body { [type.googleapis.com/temporal.api.update.v1.Acceptance] { accepted_request_message_id: \"update/request\" accepted_request_sequencing_event_id: #1 } } }",
    ),
    (
        "reject",
        "messages { id: \"reject\" protocol_instance_id: \"update\" body { [type.googleapis.com/temporal.api.update.v1.Rejection] { rejected_request_message_id: \"update/request\" rejected_request_sequencing_event_id: #1 failure { message: \"no\" } } } }",
    ),
    (
        "outcome",
        "messages { id: \"outcome\" protocol_instance_id: \"update\" body { [type.googleapis.com/temporal.api.update.v1.Response] { meta { update_id: \"update\" identity: \"client\" } outcome { #1 } } } }",
    ),
    ("protocol", "{ protocol_message_command_attributes { message_id: #1 } }"),
    (
        "attribute",
        "indexed_fields { key: #1 value { metadata { key: \"type\" value: #2 } metadata { key: \"encoding\" value: \"json/plain\" } data: #3 } }",
    ),
    (
        "sticky",
        "sticky_attributes { worker_task_queue { name: \"sticky~\" kind: TASK_QUEUE_KIND_STICKY normal_name: \"queue~\" } schedule_to_start_timeout #1 }",
    ),
    (
        "of",
        "deployment_options { deployment_name: \"d~\" build_id: #1 worker_versioning_mode: WORKER_VERSIONING_MODE_VERSIONED }",
    ),
    (
        "pinned_to",
        "versioning_override { pinned { behavior: PINNED_OVERRIDE_BEHAVIOR_PINNED version { deployment_name: \"d~\" build_id: #1 } } }",
    ),
    ("app", "failure { message: \"app\" source: \"test\" application_failure_info { type: \"Type\" #1 } }"),
];

/// `text` in protobuf's text format.
///
/// # Errors
///
/// When a value or an abbreviation is not known.
pub(crate) fn expand(text: &str, nonce: &str, values: &impl Values) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let starts_word = !out.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        rest = match character {
            '"' => string(rest, nonce, &mut out)?,
            'P' if rest[1..].starts_with('"') && starts_word => {
                out.push_str("{ payloads { metadata { key: \"encoding\" value: \"json/plain\" } data: ");
                json_string(&rest[1..], nonce, &mut out, " } }")?
            }
            'V' if rest[1..].starts_with('"') && starts_word => {
                out.push_str("{ metadata { key: \"encoding\" value: \"json/plain\" } data: ");
                json_string(&rest[1..], nonce, &mut out, " }")?
            }
            '$' => {
                let path = word(&rest[1..], |c| c.is_alphanumeric() || "_.[]".contains(c));
                let value = values.value(path).ok_or_else(|| format!("there is no ${path}"))?;
                out.push_str(&value);
                &rest[1 + path.len()..]
            }
            '@' => {
                let (expansion, after) = command(rest)?;
                out.push_str(&expand(&expansion, nonce, values)?);
                after
            }
            '0'..='9' if starts_word => {
                let token = word(rest, char::is_alphanumeric);
                match duration(token) {
                    Some(duration) => out.push_str(&duration),
                    None => out.push_str(token),
                }
                &rest[token.len()..]
            }
            other => {
                out.push(other);
                &rest[other.len_utf8()..]
            }
        };
    }
    Ok(out)
}

fn word(text: &str, belongs: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|c| !belongs(c)).unwrap_or(text.len())]
}

/// Takes the string literal that `text` begins with, and returns what is behind it.
fn string<'a>(text: &'a str, nonce: &str, out: &mut String) -> Result<&'a str, String> {
    let end = literal_end(text)?;
    out.push_str(&names_in(&text[..end], nonce));
    Ok(&text[end..])
}

/// The same of a literal whose content becomes a JSON string.
fn json_string<'a>(text: &'a str, nonce: &str, out: &mut String, close: &str) -> Result<&'a str, String> {
    let end = literal_end(text)?;
    let _ = write!(out, "\"\\\"{}\\\"\"{close}", names_in(&text[1..end - 1], nonce));
    Ok(&text[end..])
}

fn literal_end(text: &str) -> Result<usize, String> {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok(at + 1),
            _ => {}
        }
    }
    Err(format!("a string is not closed: {text}"))
}

fn names_in(literal: &str, nonce: &str) -> String {
    let named = literal.replace('~', &format!("-{nonce}"));
    let Some((before, rest)) = named.split_once('{') else { return named };
    let Some((inside, after)) = rest.split_once('}') else { return named };
    match inside.split_once('*').and_then(|(what, times)| Some((what, times.parse().ok()?))) {
        Some((what, times)) => format!("{before}{}{after}", what.repeat(times)),
        None => named,
    }
}

fn duration(token: &str) -> Option<String> {
    let (number, unit) = token.split_at(token.find(|c: char| !c.is_ascii_digit())?);
    let number: i64 = number.parse().ok()?;
    Some(match unit {
        "ms" => format!("{{ seconds: {} nanos: {} }}", number / 1000, number % 1000 * 1_000_000),
        "s" => format!("{{ seconds: {number} }}"),
        "h" => format!("{{ seconds: {} }}", number * 3600),
        _ => return None,
    })
}

/// The expansion of the command that `text` begins with, and what is behind it.
fn command(text: &str) -> Result<(String, &str), String> {
    let name = word(&text[1..], |c| c.is_alphanumeric() || c == '_');
    let (_, template) =
        COMMANDS.iter().find(|(known, _)| *known == name).ok_or_else(|| format!("there is no @{name}"))?;
    let rest = text[1 + name.len()..].strip_prefix('(').ok_or_else(|| format!("no parenthesis behind @{name}"))?;
    let (mut arguments, mut depth, mut quoted) = (vec![String::new()], 0, false);
    for (at, character) in rest.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '(' | '{' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => {
                let mut expansion = (*template).to_owned();
                for number in 1..=3 {
                    let argument = arguments.get(number - 1).map_or("", |argument| argument.trim());
                    expansion = expansion.replace(&format!("#{number}"), argument);
                }
                return Ok((expansion, &rest[at + 1..]));
            }
            ')' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = arguments.last_mut() {
            last.push(character);
        }
    }
    Err(format!("@{name} is not closed"))
}

#[cfg(test)]
mod tests {
    use super::{Values, expand};

    struct Token;

    impl Values for Token {
        fn value(&self, path: &str) -> Option<String> {
            (path == "task.token[0]").then(|| "\"t\"".to_owned())
        }
    }

    #[test]
    fn abbreviations_are_written_out() {
        let cases = [
            ("id: \"wf~\"", "id: \"wf-n\""),
            ("id: \"{ab*3}\"", "id: \"ababab\""),
            ("t: 1500ms u5s: 7", "t: { seconds: 1 nanos: 500000000 } u5s: 7"),
            ("token: $task.token[0] x", "token: \"t\" x"),
            ("V\"a\"", "{ metadata { key: \"encoding\" value: \"json/plain\" } data: \"\\\"a\\\"\" }"),
            ("commands @cancel_timer(\"t\")", "commands { cancel_timer_command_attributes { timer_id: \"t\" } }"),
        ];
        for (written, meant) in cases {
            assert_eq!(expand(written, "n", &Token).unwrap(), meant);
        }
        assert_eq!(expand("$nothing", "n", &Token).unwrap_err(), "there is no $nothing");
        assert_eq!(expand("@nothing()", "n", &Token).unwrap_err(), "there is no @nothing");
    }
}
