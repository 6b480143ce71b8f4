//! The documents, read by other parsers: what they name against what a Temporal server's name, and a few definitions in full.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use super::{Version, document};

/// Made by tests/http/documents.py.
const RECORDED: &str = include_str!("recorded.txt");

/// What only Temporal's documents have.
const ONLY_TEMPORALS: [&str; 6] = [
    // The messages that are compiled in are newer than the recorded server: there are more whose names end so, and names become longer.
    "2 v1Callback 3",
    "2 v1EventGroupMarkerLabel 2",
    // Payloads are any JSON, and so are lists of them: a list of values.
    "2 v1Payloads 1",
    // In version 3, messages of different packages are one there if they have the same name.
    "3 CallbackInfo 8",
    "3 OnConflictOptions 3",
    "3 Payloads 1",
];

fn version_2() -> Value {
    serde_json::from_slice(&document(Version::V2).unwrap()).unwrap()
}

fn version_3() -> Value {
    let yaml = document(Version::V3).unwrap();
    serde_saphyr::from_str(std::str::from_utf8(&yaml).unwrap()).unwrap()
}

fn last(reference: &Value) -> &str {
    reference.as_str().unwrap().rsplit('/').next().unwrap()
}

/// The type of a parameter, with its format, if it is one of a number or of a text that is none.
fn kind(schema: &Value) -> String {
    if schema["type"] == "array" {
        return format!("{}[]", kind(&schema["items"]));
    }
    let format = match schema["format"].as_str() {
        Some("int64" | "enum") | None => String::new(),
        Some(format) => format!("/{format}"),
    };
    format!("{}{format}", schema["type"].as_str().unwrap())
}

/// All operations and definitions of a document, a line for each, as documents.py writes them.
fn lines(version: u8, document: &Value) -> BTreeSet<String> {
    let object = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let of_json = |value: &Value| last(&value["content"]["application/json"]["schema"]["$ref"]).to_owned();
    let mut lines = BTreeSet::new();
    for (path, verbs) in object(&document["paths"]) {
        for (verb, operation) in object(&verbs) {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let schema = |parameter: &Value| if version == 2 { parameter.clone() } else { parameter["schema"].clone() };
            let in_query = parameters.iter().filter(|parameter| parameter["in"] == "query");
            let names = in_query
                .map(|parameter| format!("{}:{}", parameter["name"].as_str().unwrap(), kind(&schema(parameter))));
            let names = names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",");
            let query = if names.is_empty() { names } else { format!(" ?{names}") };
            let body = match version {
                2 => parameters
                    .iter()
                    .find(|parameter| parameter["in"] == "body")
                    .map(|body| last(&body["schema"]["$ref"]).to_owned()),
                _ => operation.get("requestBody").map(of_json),
            };
            let body = body.map(|name| format!(" <{name}>")).unwrap_or_default();
            let answer = &operation["responses"]["200"];
            let answer = if version == 2 { last(&answer["schema"]["$ref"]).to_owned() } else { of_json(answer) };
            lines.insert(format!("{version} {} {path}{query}{body} -> {answer}", verb.to_uppercase()));
        }
    }
    let definitions = if version == 2 { &document["definitions"] } else { &document["components"]["schemas"] };
    for (name, of) in object(definitions) {
        lines.insert(format!("{version} {name} {}", object(&of["properties"]).len()));
    }
    lines
}

#[test]
fn the_documents_name_what_those_of_a_temporal_server_name() {
    let mut ours = lines(2, &version_2());
    ours.extend(lines(3, &version_3()));
    let theirs: BTreeSet<_> = RECORDED.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let is_operation = |line: &&String| line.contains(" -> ");
    let operations = |lines: &BTreeSet<String>| lines.iter().filter(is_operation).cloned().collect::<Vec<_>>();
    assert_eq!(operations(&ours), operations(&theirs));
    // Definitions grow with the API: those that are compiled in are newer than the recorded server.
    let fields_of = |line: &str| line.rsplit_once(' ').map(|(name, count)| (name.to_owned(), count.parse().unwrap()));
    let ours: HashMap<String, usize> =
        ours.iter().filter(|line| !is_operation(line)).filter_map(|line| fields_of(line)).collect();
    let missing = theirs.iter().filter(|line| !is_operation(line)).filter(|line| {
        let (name, count) = fields_of(line).unwrap();
        ours.get(&name).is_none_or(|ours| *ours < count)
    });
    assert_eq!(missing.collect::<Vec<_>>(), ONLY_TEMPORALS);
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(entries) => {
                found.extend(entries.get("$ref").and_then(Value::as_str));
                entries.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    for document in [version_2(), version_3()] {
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 300, "{}", found.len());
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        let verbs =
            document["paths"].as_object().unwrap().values().flat_map(|verbs| verbs.as_object().unwrap().values());
        let ids: Vec<_> = verbs.map(|operation| operation["operationId"].as_str().unwrap()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        assert_eq!(ids.len(), crate::routes::table().count());
    }
}

/// Without what is said of them.
fn bare(value: &Value) -> Value {
    match value {
        Value::Object(entries) => entries
            .iter()
            .filter(|(key, _)| *key != "description")
            .map(|(key, value)| (key.clone(), bare(value)))
            .collect(),
        Value::Array(values) => values.iter().map(bare).collect(),
        other => other.clone(),
    }
}

#[test]
fn values_have_the_types_that_they_have_in_json() {
    let (v2, v3) = (version_2(), version_3());
    let field = |message: &str, field: &str| {
        let of_v2 = &v2["definitions"][format!("v1{message}")]["properties"][field];
        let of_v3 = &v3["components"]["schemas"][message]["properties"][field];
        (bare(of_v2), bare(of_v3))
    };
    let same = |schema: Value| (schema.clone(), schema);
    assert_eq!(field("HistoryEvent", "eventId"), same(json!({ "type": "string", "format": "int64" })));
    assert_eq!(field("HistoryEvent", "eventTime"), same(json!({ "type": "string", "format": "date-time" })));
    assert_eq!(field("HistoryEvent", "workerMayIgnore"), same(json!({ "type": "boolean" })));
    assert_eq!(field("RetryPolicy", "backoffCoefficient"), same(json!({ "type": "number", "format": "double" })));
    assert_eq!(field("RetryPolicy", "maximumAttempts"), same(json!({ "type": "integer", "format": "int32" })));
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    assert_eq!(field("RetryPolicy", "nonRetryableErrorTypes"), same(texts));
    let (duration, with_pattern) = field("RetryPolicy", "initialInterval");
    assert_eq!(duration, json!({ "type": "string" }));
    assert!(with_pattern["pattern"].as_str().unwrap().ends_with("s$"), "{with_pattern}");
    let (token, _) = field("ListNamespacesResponse", "nextPageToken");
    assert_eq!(token, json!({ "type": "string", "format": "byte" }));
    let of_payloads = |document: &str| json!({ "type": "object", "additionalProperties": { "$ref": document } });
    assert_eq!(
        field("Memo", "fields"),
        (of_payloads("#/definitions/v1Payload"), of_payloads("#/components/schemas/Payload"))
    );
    let event_type = v2["definitions"]["v1EventType"]["enum"].clone();
    assert!(event_type.as_array().unwrap().contains(&json!("EVENT_TYPE_TIMER_FIRED")));
    assert_eq!(
        field("HistoryEvent", "eventType"),
        (
            json!({ "$ref": "#/definitions/v1EventType" }),
            json!({ "type": "string", "format": "enum", "enum": event_type })
        )
    );
    // A reference with a text beside it, and one without.
    let (_, described) = field("HistoryEvent", "userMetadata");
    assert_eq!(described, json!({ "allOf": [{ "$ref": "#/components/schemas/UserMetadata" }] }));
    let (_, plain) = field("Failure", "cause");
    assert_eq!(plain, json!({ "$ref": "#/components/schemas/Failure" }));
}

#[test]
fn what_is_in_a_path_is_not_in_a_body() {
    let body = bare(&version_2()["definitions"]["WorkflowServiceQueryWorkflowBody"]["properties"]);
    let run = json!({ "type": "object", "properties": { "runId": { "type": "string" } } });
    assert_eq!(body["execution"], run);
    assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["execution", "query", "queryRejectCondition"]);
    assert_eq!(body["query"]["properties"].as_object().unwrap().keys().collect::<Vec<_>>(), ["header", "queryArgs"]);
}

#[test]
fn texts_are_those_of_the_definitions() {
    let v2 = version_2();
    let operation = &v2["paths"]["/namespaces/{namespace}/schedules/{scheduleId}"]["delete"];
    assert_eq!(operation["summary"], "Deletes a schedule, removing it from the system.");
    assert!(v2["definitions"]["v1Payload"]["description"].as_str().unwrap().contains("noPayloadShorthand"));
    for text in [document(Version::V2), document(Version::V3)] {
        assert!(!String::from_utf8_lossy(&text.unwrap()).contains("(-- "));
    }
}
