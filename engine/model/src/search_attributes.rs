//! Search attributes: which there are, and which values they take.

use everlog_proto::api::common::v1::Payload;
use everlog_proto::api::enums::v1::IndexedValueType;
use serde_json::Value;

use IndexedValueType::{Bool, Datetime, Int, Keyword, KeywordList};

/// The search attributes that every namespace has, with their types, by name.
pub const SYSTEM: &[(&str, IndexedValueType)] = &[
    ("BatcherNamespace", Keyword),
    ("BatcherUser", Keyword),
    ("BinaryChecksums", KeywordList),
    ("BuildIds", KeywordList),
    ("CloseTime", Datetime),
    ("ExecutionDuration", Int),
    ("ExecutionStatus", Keyword),
    ("ExecutionTime", Datetime),
    ("HistoryLength", Int),
    ("HistorySizeBytes", Int),
    ("ParentRunId", Keyword),
    ("ParentWorkflowId", Keyword),
    ("RootRunId", Keyword),
    ("RootWorkflowId", Keyword),
    ("RunId", Keyword),
    ("StartTime", Datetime),
    ("StateTransitionCount", Int),
    ("TaskQueue", Keyword),
    ("TemporalChangeVersion", KeywordList),
    ("TemporalExternalPayloadCount", Int),
    ("TemporalExternalPayloadSizeBytes", Int),
    ("TemporalNamespaceDivision", Keyword),
    ("TemporalPauseInfo", KeywordList),
    ("TemporalReportedProblems", KeywordList),
    ("TemporalSchedulePaused", Bool),
    ("TemporalScheduledById", Keyword),
    ("TemporalScheduledStartTime", Datetime),
    ("TemporalUsedWorkerDeploymentVersions", KeywordList),
    ("TemporalWorkerDeployment", Keyword),
    ("TemporalWorkerDeploymentVersion", Keyword),
    ("TemporalWorkflowVersioningBehavior", Keyword),
    ("WorkflowId", Keyword),
    ("WorkflowType", Keyword),
];

/// System search attributes that the server alone sets; the others may be given to a start (SDKs do so with some).
const SET_BY_SERVER_ONLY: [&str; 17] = [
    "CloseTime",
    "ExecutionDuration",
    "ExecutionStatus",
    "ExecutionTime",
    "HistoryLength",
    "HistorySizeBytes",
    "ParentRunId",
    "ParentWorkflowId",
    "RootRunId",
    "RootWorkflowId",
    "RunId",
    "StartTime",
    "StateTransitionCount",
    "TaskQueue",
    "TemporalScheduledById",
    "WorkflowId",
    "WorkflowType",
];

/// Tells whether a schedule is paused.
pub const SCHEDULE_PAUSED: &str = "TemporalSchedulePaused";

/// Names that begin with this are the system's.
const RESERVED_PREFIX: &str = "Temporal";

/// The type of a system search attribute.
pub fn system_type(name: &str) -> Option<IndexedValueType> {
    SYSTEM.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

/// Whether a namespace may not have a search attribute of its own with that name.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED_PREFIX) || system_type(name).is_some()
}

/// Whether callers may set the attribute.
pub fn is_settable(name: &str) -> bool {
    !SET_BY_SERVER_ONLY.contains(&name)
}

/// The name of a type, as payload metadata and messages have it.
pub fn type_name(kind: IndexedValueType) -> &'static str {
    match kind {
        IndexedValueType::Unspecified => "Unspecified",
        IndexedValueType::Text => "Text",
        Keyword => "Keyword",
        Int => "Int",
        IndexedValueType::Double => "Double",
        Bool => "Bool",
        Datetime => "Datetime",
        KeywordList => "KeywordList",
    }
}

/// Whether a payload holds a value of a type; what is wrong with it otherwise, as Temporal says it. Nothing and an empty list
/// remove the attribute and fit every type. Values are in JSON, as all SDKs write them: `sadefs/encode_value.go` of Temporal's server.
///
/// # Errors
///
/// The value, in the form that messages show it.
pub fn check_value(payload: &Payload, kind: IndexedValueType) -> Result<(), String> {
    let value = match payload.metadata.get("encoding").map(Vec::as_slice) {
        Some(b"binary/null") => return Ok(()),
        Some(b"binary/plain") => return Err(shown(&payload.data.as_slice().into())),
        Some(b"json/plain") => serde_json::from_slice(&payload.data).ok(),
        _ => None,
    };
    let value: Value = value.ok_or_else(|| format!("value from <{}>", as_text(payload)))?;
    match &value {
        Value::Null => Ok(()),
        Value::Array(values) if kind == KeywordList => {
            if values.iter().all(Value::is_string) {
                Ok(())
            } else {
                Err(shown(&value))
            }
        }
        // Old SDKs wrap single values.
        Value::Array(values) if values.is_empty() => Ok(()),
        Value::Array(values) if values.len() == 1 && is_scalar_of(&values[0], kind) => Ok(()),
        Value::Array(_) | Value::Object(_) => Err(shown(&value)),
        scalar if is_scalar_of(scalar, kind) => Ok(()),
        _ => Err(shown(&value)),
    }
}

fn is_scalar_of(value: &Value, kind: IndexedValueType) -> bool {
    match kind {
        IndexedValueType::Text | Keyword => value.is_string(),
        Int => value.is_i64(),
        IndexedValueType::Double => value.is_number(),
        Bool => value.is_boolean(),
        Datetime => value.as_str().is_some_and(is_time),
        KeywordList | IndexedValueType::Unspecified => false,
    }
}

/// Whether a text is a time as RFC 3339 writes it.
fn is_time(text: &str) -> bool {
    let is_separated = matches!(text.as_bytes().get(10), Some(b'T' | b't'));
    is_separated && chrono::DateTime::parse_from_rfc3339(text).is_ok()
}

/// A JSON value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), shown_number),
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}:{}", shown(value))).collect();
            fields.sort();
            format!("map[{}]", fields.join(" "))
        }
    }
}

/// A number as Go prints one that it has read from JSON: with as many digits as tell it from others, and an exponent of at least two
/// digits from a million on and below a ten thousandth.
fn shown_number(number: f64) -> String {
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => number.to_string(),
    }
}

/// A payload as Go prints it.
fn as_text(payload: &Payload) -> String {
    let quoted = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
    let mut metadata: Vec<_> = payload.metadata.iter().collect();
    metadata.sort();
    let metadata = metadata.into_iter().map(|(key, value)| {
        let (key, value) = (quoted(key.as_bytes()), quoted(value));
        format!("metadata:{{key:{key}  value:{value}}}")
    });
    let data = (!payload.data.is_empty()).then(|| format!("data:{}", quoted(&payload.data)));
    metadata.chain(data).collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_against_types() {
        let cases = [
            ("\"x\"", Int, Some("x")),
            ("[1,2]", Int, Some("[1 2]")),
            ("1.5", Int, Some("1.5")),
            ("{", Int, Some("value from <metadata:{key:\"encoding\"  value:\"json/plain\"}  data:\"{\">")),
            ("", Int, Some("value from <metadata:{key:\"encoding\"  value:\"json/plain\"}>")),
            ("1.0", Int, Some("1")),
            ("9223372036854775807", Int, None),
            ("9223372036854775808", Int, Some("9.223372036854776e+18")),
            ("1000000.5", Int, Some("1.0000005e+06")),
            ("0.00001", Int, Some("1e-05")),
            ("{\"b\":null,\"a\":true}", Int, Some("map[a:true b:<nil>]")),
            ("[]", Int, None),
            ("null", Int, None),
            ("7", Int, None),
            ("[7]", Int, None),
            ("7", IndexedValueType::Double, None),
            ("true", Bool, None),
            ("\"2026-01-02T03:04:05.5+01:00\"", Datetime, None),
            ("\"yesterday\"", Datetime, Some("yesterday")),
            ("7", Datetime, Some("7")),
            ("\"x\"", Keyword, None),
            ("[\"a\",\"b\"]", KeywordList, None),
            ("\"a\"", KeywordList, Some("a")),
            ("[\"a\",1]", KeywordList, Some("[a 1]")),
            ("[\"a\",\"b\"]", Keyword, Some("[a b]")),
        ];
        for (json, kind, expected) in cases {
            let payload = payload("json/plain", json);
            assert_eq!(check_value(&payload, kind).err().as_deref(), expected, "{json} as {}", type_name(kind));
        }
    }

    fn payload(encoding: &str, data: &str) -> Payload {
        let metadata = [("encoding".to_owned(), encoding.into())].into();
        Payload { metadata, data: data.into(), ..Payload::default() }
    }

    #[test]
    fn values_are_in_json() {
        assert_eq!(check_value(&payload("binary/null", ""), Int), Ok(()));
        for (payload, expected) in [
            (Payload { data: "7".into(), ..Payload::default() }, "value from <data:\"7\">"),
            (payload("binary/plain", "78"), "[55 56]"),
        ] {
            assert_eq!(check_value(&payload, Int), Err(expected.to_owned()));
        }
    }

    #[test]
    fn names_of_the_system_are_reserved() {
        assert!(is_reserved("WorkflowId") && is_reserved("TemporalAnything") && !is_reserved("CustomerId"));
        assert!(is_settable("TemporalChangeVersion") && !is_settable("RunId") && is_settable("CustomerId"));
    }

    #[test]
    fn system_attributes_are_sorted_and_unique() {
        assert!(SYSTEM.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
