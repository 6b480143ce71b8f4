use prost_reflect::{DynamicMessage, MessageDescriptor};

use super::*;
use crate::routes::pool;

fn descriptor(name: &str) -> MessageDescriptor {
    pool().unwrap().get_message_by_name(&format!("temporal.api.{name}")).unwrap()
}

fn start(json: &str) -> Result<DynamicMessage, Problem> {
    read(json, &descriptor("workflowservice.v1.StartWorkflowExecutionRequest"), Payloads::Shorthand)
}

fn payload(json: &str) -> DynamicMessage {
    read(json, &descriptor("common.v1.Payload"), Payloads::Shorthand).unwrap()
}

/// How the payload is written whole.
fn whole(json: &str) -> String {
    write(&payload(json), Payloads::Whole)
}

#[test]
fn a_message_is_read_and_written() {
    let json = r#"{"namespace":"default","workflowId":"w","workflowType":{"name":"t"},"taskQueue":{"name":"q","kind":"TASK_QUEUE_KIND_NORMAL"},"workflowRunTimeout":"3600s","retryPolicy":{"initialInterval":"1.500s","backoffCoefficient":2.5,"maximumAttempts":3},"workflowStartDelay":"0s","priority":{"priorityKey":2}}"#;
    let message = start(json).unwrap();
    assert_eq!(write(&message, Payloads::Shorthand), json);
    let snake = json
        .replace("workflowType", "workflow_type")
        .replace("taskQueue", "task_queue")
        .replace("TASK_QUEUE_KIND_NORMAL", "Normal")
        .replace("2.5", "\"2.5\"")
        .replace(":3}", ":\"3\"}")
        .replace("\"w\"", "\"w\",\"requestEagerExecution\":null");
    assert_eq!(start(&snake).unwrap(), message);
}

#[test]
fn numbers_of_64_bits_times_and_enums_are_written_as_protobuf_says() {
    let event = descriptor("history.v1.HistoryEvent");
    let json = r#"{"eventId":"9007199254740993","eventTime":"2026-11-27T19:52:28.191100560Z","eventType":"EVENT_TYPE_TIMER_STARTED","timerStartedEventAttributes":{"timerId":"1","startToFireTimeout":"0.000000001s"}}"#;
    let message = read(json, &event, Payloads::Shorthand).unwrap();
    assert_eq!(write(&message, Payloads::Shorthand), json);
    let as_number =
        json.replace("\"9007199254740993\"", "9007199254740993").replace("EVENT_TYPE_TIMER_STARTED", "TimerStarted");
    assert_eq!(read(&as_number, &event, Payloads::Shorthand).unwrap(), message);
    // A value of a later version.
    let unknown = read(r#"{"eventType":9999}"#, &event, Payloads::Shorthand).unwrap();
    assert_eq!(write(&unknown, Payloads::Shorthand), r#"{"eventType":9999}"#);
}

#[test]
fn enum_values_have_short_names() {
    let policies = pool().unwrap().get_enum_by_name("temporal.api.enums.v1.WorkflowIdReusePolicy").unwrap();
    for (name, expected) in [
        ("AllowDuplicateFailedOnly", Some(2)),
        ("WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY", Some(2)),
        ("AllowDuplicate", Some(1)),
        ("allowDuplicate", None),
        ("ALLOW_DUPLICATE", None),
        ("", None),
        ("AllowDuplicateFailed", None),
    ] {
        assert_eq!(enum_number(&policies, name), expected, "{name}");
    }
    // Every value of every enum has one, and it means that value.
    for names in pool().unwrap().all_enums().filter(|names| names.full_name().starts_with("temporal.")) {
        for value in names.values() {
            assert_eq!(enum_number(&names, value.name()), Some(value.number()), "{}", value.full_name());
        }
    }
}

#[test]
fn payloads_are_the_values_that_they_carry() {
    let plain = |data: &str| {
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, data);
        format!(r#"{{"metadata":{{"encoding":"anNvbi9wbGFpbg=="}},"data":"{data}"}}"#)
    };
    let same = [
        "1",
        "1.50",
        "123456789012345678901234567890",
        "1e400",
        "\"a \\u00e9 \\\"\"",
        "true",
        "[]",
        "[1,[],null]",
        "{}",
        "{\"b\":1,  \"a\":[]}",
        "{\"metadata\":{\"encoding\":\"!\"},\"data\":\"AAE=\"}",
        "{\"metadata\":{},\"data\":\"AAE=\"}",
        "{\"metadata\":{\"encoding\":\"anNvbi9wbGFpbg==\"}}",
        "{\"metadata\":{\"encoding\":\"anNvbi9wbGFpbg==\"},\"data\":\"MQ==\",\"more\":1}",
    ];
    for value in same {
        assert_eq!(whole(value), plain(value), "{value}");
        assert_eq!(write(&payload(value), Payloads::Shorthand), value);
        assert_eq!(payload(&plain(value)), payload(value), "{value}");
    }
    let null = r#"{"metadata":{"encoding":"YmluYXJ5L251bGw="}}"#;
    assert_eq!(whole("null"), null);
    assert_eq!(payload(null), payload("null"));
    assert_eq!(write(&payload(null), Payloads::Shorthand), "null");
    let order = r#"{"id":1,"_protoMessageType":"shop.Order"}"#;
    assert_eq!(
        whole(order),
        r#"{"metadata":{"encoding":"anNvbi9wcm90b2J1Zg==","messageType":"c2hvcC5PcmRlcg=="},"data":"eyJpZCI6MX0="}"#
    );
    assert_eq!(write(&payload(order), Payloads::Shorthand), order);
    let nothing = r#"{"_protoMessageType":"shop.Nothing"}"#;
    assert_eq!(write(&payload(nothing), Payloads::Shorthand), nothing);
}

#[test]
fn what_has_no_shorthand_is_written_whole() {
    for json in [
        // Bytes.
        r#"{"metadata":{"encoding":"YmluYXJ5L3BsYWlu"},"data":"AAE="}"#,
        // JSON with more metadata.
        r#"{"metadata":{"encoding":"anNvbi9wbGFpbg==","type":"S2V5d29yZA=="},"data":"MQ=="}"#,
        // No JSON.
        r#"{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"ew=="}"#,
        // JSON that would be read as a payload, as null and as an object of another kind.
        r#"{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"eyJtZXRhZGF0YSI6eyJlbmNvZGluZyI6IllRPT0ifSwiZGF0YSI6IllRPT0ifQ=="}"#,
        r#"{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"bnVsbA=="}"#,
        r#"{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"eyJfcHJvdG9NZXNzYWdlVHlwZSI6ImEifQ=="}"#,
    ] {
        let read = payload(json);
        assert_eq!(write(&read, Payloads::Shorthand), json);
        assert_eq!(write(&read, Payloads::Whole), json);
    }
}

#[test]
fn lists_of_payloads_are_lists_if_each_value_has_a_shorthand() {
    let message = start(r#"{"input":[1,{"a":2},null],"memo":{"fields":{"k":{"z":1}}}}"#).unwrap();
    assert_eq!(write(&message, Payloads::Shorthand), r#"{"input":[1,{"a":2},null],"memo":{"fields":{"k":{"z":1}}}}"#);
    let bytes = r#"{"metadata":{"encoding":"YmluYXJ5L3BsYWlu"},"data":"AAE="}"#;
    let mixed = start(&format!(r#"{{"input":[1,{bytes}]}}"#)).unwrap();
    assert_eq!(write(&mixed, Payloads::Shorthand), format!(r#"{{"input":{{"payloads":[1,{bytes}]}}}}"#));
    assert_eq!(start(&write(&mixed, Payloads::Whole)).unwrap(), mixed);
    assert_eq!(write(&start(r#"{"input":[]}"#).unwrap(), Payloads::Shorthand), r#"{"input":[]}"#);
    assert_eq!(write(&start(r#"{"input":null}"#).unwrap(), Payloads::Shorthand), "{}");
    let request = descriptor("workflowservice.v1.StartWorkflowExecutionRequest");
    assert!(read(r#"{"input":[1]}"#, &request, Payloads::Whole).is_err());
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let nested = "{\"failure\":{\"cause\":1}}";
    let deep = format!("{{\"failure\":{}{{}}{}}}", "{\"cause\":".repeat(200), "}".repeat(200));
    let failed = descriptor("workflowservice.v1.RespondActivityTaskFailedRequest");
    let failure = |json: &str| read(json, &failed, Payloads::Shorthand).unwrap_err().to_string();
    assert_eq!(failure(nested), ".failure.cause: expected an object, not 1");
    assert!(failure(&deep).ends_with(": messages are nested more than 100 deep"), "{}", failure(&deep));
    for (json, expected) in [
        ("", "invalid JSON: EOF while parsing a value at line 1 column 0"),
        ("{", "invalid JSON: EOF while parsing an object at line 1 column 1"),
        ("{} {}", "invalid JSON: trailing characters at line 1 column 4"),
        ("[]", "expected an object, not []"),
        (r#"{"foo":1}"#, "unknown field \"foo\""),
        (r#"{"taskQueue":"q"}"#, ".taskQueue: expected an object, not \"q\""),
        (r#"{"taskQueue":{"kind":"No"}}"#, ".taskQueue.kind: invalid value for TaskQueueKind: \"No\""),
        (r#"{"taskQueue":{"kind":1.5}}"#, ".taskQueue.kind: invalid value for TaskQueueKind: 1.5"),
        (r#"{"namespace":1}"#, ".namespace: invalid value for string: 1"),
        (r#"{"namespace":"a","namespace":"b"}"#, ".namespace: this field is there twice"),
        (r#"{"requestEagerExecution":"true"}"#, ".requestEagerExecution: invalid value for bool: \"true\""),
        (
            r#"{"retryPolicy":{"maximumAttempts":3000000000}}"#,
            ".retryPolicy.maximumAttempts: invalid value for int32: 3000000000",
        ),
        (
            r#"{"retryPolicy":{"nonRetryableErrorTypes":"a"}}"#,
            ".retryPolicy.nonRetryableErrorTypes: expected a list, not \"a\"",
        ),
        (r#"{"memo":{"fields":[]}}"#, ".memo.fields: expected an object, not []"),
    ] {
        assert_eq!(start(json).unwrap_err().to_string(), expected, "{json}");
    }
    let timeout = start(r#"{"workflowRunTimeout":"1 hour"}"#).unwrap_err().to_string();
    assert!(timeout.starts_with(".workflowRunTimeout: invalid google.protobuf.Duration \"1 hour\": "), "{timeout}");
}

#[test]
fn indented_json_is_the_same_json() {
    let json = r#"{"a":[1,{"b":"x,{}\"[]: \\"},[],{}],"c":{ } ,"d":"é"}"#;
    let expected = "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"x,{}\\\"[]: \\\\\"\n    },\n    [],\n    {}\n  ],\n  \"c\": {},\n  \"d\": \"é\"\n}";
    assert_eq!(indented(json), expected);
    assert_eq!(indented(expected), expected);
}

#[test]
fn structs_of_go_have_numbers_for_enums_and_a_level_for_each_choice() {
    let event = r#"{"eventId": "3", "eventTime": "2026-01-02T03:04:05.000000006Z", "eventType": "WorkflowExecutionSignaled",
        "workflowExecutionSignaledEventAttributes": {"signalName": "<s>", "input": [1], "header": {"fields": {"b": null, "a": "x"}},
            "externalWorkflowExecution": {}}}"#;
    let event = read(event, &descriptor("history.v1.HistoryEvent"), Payloads::Shorthand).unwrap();
    let plain = |data: &str| format!(r#"{{"metadata":{{"encoding":"anNvbi9wbGFpbg=="}},"data":"{data}"}}"#);
    let expected = format!(
        r#"{{"event_id":3,"event_time":{{"seconds":1767323045,"nanos":6}},"event_type":26,"Attributes":{{"WorkflowExecutionSignaledEventAttributes":{{"signal_name":"\u003cs\u003e","input":{{"payloads":[{}]}},"header":{{"fields":{{"a":{},"b":{{"metadata":{{"encoding":"YmluYXJ5L251bGw="}}}}}}}},"external_workflow_execution":{{}}}}}}}}"#,
        plain("MQ=="),
        plain("Ingi"),
    );
    assert_eq!(go_json(&event), expected);
    let empty = DynamicMessage::new(descriptor("history.v1.HistoryEvent"));
    assert_eq!(go_json(&empty), r#"{"Attributes":null}"#);
}
