//! Filters applied to records.
//!
//! Null is as in SQL: a comparison with it is neither true nor false, and so is its negation. Lists and texts are the exception, as in
//! Temporal: one that is not there has no elements, so `KeywordList != 'a'` holds for it.

use std::cmp::Ordering;

use everlog_kernel::Time;
use everlog_proto::api::enums::v1::IndexedValueType;
use serde_json::Value as Json;

use super::filter::words;
use super::record::field;
use super::times::{Moment, parse_time};
use super::{Comparison, Field, Filter, Record, Value};

impl Filter {
    /// Whether the record is one of those asked for.
    pub fn matches(&self, record: &Record<'_>) -> bool {
        self.evaluate(record) == Some(true)
    }

    /// About how many comparisons it takes to try it on a record.
    pub(super) fn comparisons(&self) -> usize {
        match self {
            Filter::And(operands) | Filter::Or(operands) => operands.iter().map(Filter::comparisons).sum(),
            Filter::Not(operand) => operand.comparisons(),
            Filter::In(_, values) if matches!(values.first(), Some(Value::Keyword(_))) => {
                values.len().ilog2() as usize + 1
            }
            Filter::In(_, values) => values.len(),
            Filter::IsNull(_) | Filter::Compare(..) | Filter::Between(..) | Filter::StartsWith(..) => 1,
        }
    }

    /// The last field of an encoded record that has to be read for it.
    pub(super) fn last_field(&self) -> u32 {
        match self {
            Filter::And(operands) | Filter::Or(operands) => {
                operands.iter().map(Filter::last_field).max().unwrap_or_default()
            }
            Filter::Not(operand) => operand.last_field(),
            Filter::IsNull(field)
            | Filter::Compare(field, ..)
            | Filter::In(field, _)
            | Filter::Between(field, ..)
            | Filter::StartsWith(field, _) => stored_in(field),
        }
    }

    /// `None` is SQL's unknown.
    fn evaluate(&self, record: &Record<'_>) -> Option<bool> {
        match self {
            Filter::And(operands) => decide(operands, record, false),
            Filter::Or(operands) => decide(operands, record, true),
            Filter::Not(operand) => operand.evaluate(record).map(|holds| !holds),
            Filter::IsNull(field) => Some(matches!(stored(field, record), Stored::Null | Stored::NoElements)),
            Filter::Compare(field, comparison, value) => stored(field, record).compare(*comparison, value),
            Filter::In(field, values) => {
                let stored = stored(field, record);
                if let Stored::Keyword(keyword) = stored {
                    return Some(has_keyword(values, keyword));
                }
                if let Stored::OwnedKeyword(keyword) = &stored {
                    return Some(has_keyword(values, keyword));
                }
                let mut unknown = None;
                for value in values {
                    match stored.compare(Comparison::Equal, value) {
                        Some(true) => return Some(true),
                        known => unknown = known,
                    }
                }
                unknown
            }
            Filter::Between(field, low, high) => {
                let stored = stored(field, record);
                let above = stored.compare(Comparison::GreaterOrEqual, low)?;
                let below = stored.compare(Comparison::LessOrEqual, high)?;
                Some(above && below)
            }
            Filter::StartsWith(field, prefix) => match stored(field, record) {
                Stored::Keyword(keyword) => Some(keyword.starts_with(prefix.as_str())),
                Stored::OwnedKeyword(keyword) => Some(keyword.starts_with(prefix.as_str())),
                _ => None,
            },
        }
    }
}

/// Whether a keyword is among others that are in order.
fn has_keyword(keywords: &[Value], keyword: &str) -> bool {
    let found = keywords.binary_search_by(|value| match value {
        Value::Keyword(value) => value.as_str().cmp(keyword),
        _ => Ordering::Less,
    });
    found.is_ok()
}

/// AND is decided by the first false, OR by the first true; else one unknown makes the whole unknown.
fn decide(operands: &[Filter], record: &Record<'_>, deciding: bool) -> Option<bool> {
    let mut result = Some(!deciding);
    for operand in operands {
        match operand.evaluate(record) {
            Some(holds) if holds == deciding => return Some(deciding),
            Some(_) => {}
            None => result = None,
        }
    }
    result
}

/// What a record has in a field.
enum Stored<'a> {
    Null,
    /// Null in a list or text.
    NoElements,
    Keyword(&'a str),
    OwnedKeyword(String),
    List(Vec<String>),
    Words(Vec<String>),
    Integer(i64),
    Double(f64),
    Bool(bool),
    Time(Moment),
}

fn stored<'a>(field: &Field, record: &Record<'a>) -> Stored<'a> {
    if record.is_open() && field.is_set_on_close() {
        return Stored::Null;
    }
    let time = |time: Option<Time>| time.map_or(Stored::Null, |time| Stored::Time(time.into()));
    // Ids are never empty; one that is was not set.
    let keyword = |text: &'a str| if text.is_empty() { Stored::Null } else { Stored::Keyword(text) };
    match field {
        Field::WorkflowId | Field::ActivityId => keyword(record.workflow_id()),
        Field::RunId => keyword(record.run_id()),
        Field::WorkflowType | Field::ActivityType => keyword(record.workflow_type()),
        Field::StartTime => time(record.start_time()),
        Field::ExecutionTime => time(record.execution_time()),
        Field::CloseTime => time(record.close_time()),
        Field::ExecutionStatus | Field::ActivityStatus => Stored::Integer(record.status),
        Field::TaskQueue => keyword(record.task_queue),
        Field::HistoryLength => Stored::Integer(record.history_length),
        Field::ExecutionDuration => record.execution_duration().map_or(Stored::Null, Stored::Integer),
        Field::StateTransitionCount => Stored::Integer(record.state_transition_count),
        Field::HistorySizeBytes => Stored::Integer(record.history_size_bytes),
        Field::ParentWorkflowId => record.parent().map_or(Stored::Null, |(workflow_id, _)| keyword(workflow_id)),
        Field::ParentRunId => record.parent().map_or(Stored::Null, |(_, run_id)| keyword(run_id)),
        Field::RootWorkflowId => keyword(record.root().0),
        Field::RootRunId => keyword(record.root().1),
        Field::Attribute(name, value_type) => {
            let json = record.search_attribute(name).and_then(|data| serde_json::from_slice(data).ok());
            match (json.map_or(Stored::Null, |json| attribute(json, *value_type)), value_type) {
                (Stored::Null, IndexedValueType::KeywordList | IndexedValueType::Text) => Stored::NoElements,
                (stored, _) => stored,
            }
        }
    }
}

/// The field of an encoded record that has the value of `field`.
fn stored_in(field: &Field) -> u32 {
    match field {
        Field::WorkflowId | Field::RunId | Field::ActivityId => field::EXECUTION,
        Field::WorkflowType | Field::ActivityType => field::WORKFLOW_TYPE,
        Field::StartTime => field::START_TIME,
        Field::ExecutionTime => field::EXECUTION_TIME,
        Field::CloseTime => field::CLOSE_TIME,
        Field::ExecutionStatus | Field::ActivityStatus => field::STATUS,
        Field::TaskQueue => field::TASK_QUEUE,
        Field::HistoryLength => field::HISTORY_LENGTH,
        Field::ExecutionDuration => field::EXECUTION_DURATION,
        Field::StateTransitionCount => field::STATE_TRANSITION_COUNT,
        Field::HistorySizeBytes => field::HISTORY_SIZE_BYTES,
        Field::ParentWorkflowId | Field::ParentRunId => field::PARENT_EXECUTION,
        Field::RootWorkflowId | Field::RootRunId => field::ROOT_EXECUTION,
        Field::Attribute(..) => field::SEARCH_ATTRIBUTES,
    }
}

/// The value of a search attribute. One that does not fit its type is as good as none.
fn attribute(json: Json, value_type: IndexedValueType) -> Stored<'static> {
    if value_type == IndexedValueType::KeywordList {
        return match json {
            Json::String(element) => Stored::List(vec![element]),
            Json::Array(elements) if !elements.is_empty() => {
                let text = |element| if let Json::String(text) = element { Some(text) } else { None };
                Stored::List(elements.into_iter().filter_map(text).collect())
            }
            _ => Stored::Null,
        };
    }
    let json = match json {
        // SDKs may send a scalar as a list of one.
        Json::Array(mut elements) if elements.len() == 1 => elements.remove(0),
        other => other,
    };
    let found = match (value_type, json) {
        (IndexedValueType::Keyword, Json::String(text)) => Some(Stored::OwnedKeyword(text)),
        (IndexedValueType::Text, Json::String(text)) => Some(Stored::Words(words(&text))),
        (IndexedValueType::Int, Json::Number(number)) => {
            number.as_i64().map(Stored::Integer).or_else(|| number.as_f64().map(Stored::Double))
        }
        (IndexedValueType::Double, Json::Number(number)) => number.as_f64().map(Stored::Double),
        (IndexedValueType::Bool, Json::Bool(value)) => Some(Stored::Bool(value)),
        (IndexedValueType::Datetime, Json::String(text)) => parse_time(&text).map(Stored::Time),
        _ => None,
    };
    found.unwrap_or(Stored::Null)
}

impl Stored<'_> {
    fn compare(&self, comparison: Comparison, value: &Value) -> Option<bool> {
        let ordering = match (self, value) {
            (Stored::List(elements), Value::Keyword(element)) => return Some(elements.contains(element)),
            (Stored::Words(words), Value::Words(asked)) => return Some(asked.iter().any(|word| words.contains(word))),
            (Stored::NoElements, _) => return Some(false),
            (Stored::Keyword(stored), Value::Keyword(value)) => (*stored).cmp(value.as_str()),
            (Stored::OwnedKeyword(stored), Value::Keyword(value)) => stored.cmp(value),
            (Stored::Integer(stored), Value::Integer(value)) => stored.cmp(value),
            (Stored::Integer(stored), Value::Double(value)) => (*stored as f64).partial_cmp(value)?,
            (Stored::Double(stored), Value::Integer(value)) => stored.partial_cmp(&(*value as f64))?,
            (Stored::Double(stored), Value::Double(value)) => stored.partial_cmp(value)?,
            (Stored::Bool(stored), Value::Bool(value)) => stored.cmp(value),
            (Stored::Time(stored), Value::Time(value)) => stored.cmp(value),
            _ => return None,
        };
        Some(match comparison {
            Comparison::Equal => ordering == Ordering::Equal,
            Comparison::Less => ordering == Ordering::Less,
            Comparison::LessOrEqual => ordering != Ordering::Greater,
            Comparison::Greater => ordering == Ordering::Greater,
            Comparison::GreaterOrEqual => ordering != Ordering::Less,
        })
    }
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::common::v1::{Payload, SearchAttributes, WorkflowExecution, WorkflowType};
    use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
    use everlog_proto::wkt;
    use prost::Message;

    use super::*;
    use crate::{Query, SearchAttributeTypes};

    fn types() -> SearchAttributeTypes {
        [
            ("KW", IndexedValueType::Keyword),
            ("KL", IndexedValueType::KeywordList),
            ("TX", IndexedValueType::Text),
            ("IN1", IndexedValueType::Int),
            ("DB", IndexedValueType::Double),
            ("BO", IndexedValueType::Bool),
            ("DT", IndexedValueType::Datetime),
        ]
        .map(|(name, value_type)| (name.to_owned(), value_type))
        .into()
    }

    /// w0 and w1 are open, w2 and w3 were terminated; w3 has no search attributes.
    fn records() -> Vec<Vec<u8>> {
        let record = |n: i64| {
            let time = |seconds| Some(wkt::Timestamp { seconds, nanos: 0 });
            let closed = n >= 2;
            let attributes = [
                ("KW", format!("\"k{n}\"")),
                ("KL", format!("[\"a\", \"b\", \"c{n}\"]")),
                ("TX", format!("\"Hello Big world-wide no{n}, foo_bar x@y.z\"")),
                ("IN1", if n == 1 { "[1]".to_owned() } else { n.to_string() }),
                ("DB", format!("{n}.5")),
                ("BO", (n % 2 == 0).to_string()),
                ("DT", format!("\"2024-01-0{}T00:00:00Z\"", n + 1)),
            ];
            let payload = |json: String| Payload { data: json.into_bytes(), ..Payload::default() };
            let indexed_fields = attributes.into_iter().map(|(name, json)| (name.to_owned(), payload(json))).collect();
            WorkflowExecutionInfo {
                execution: Some(WorkflowExecution { workflow_id: format!("w{n}"), run_id: format!("r{n}") }),
                r#type: Some(WorkflowType { name: format!("T{}", n % 2) }),
                start_time: time(1_704_067_200 + n),
                execution_time: time(1_704_067_200 + n),
                close_time: if closed { time(1_704_067_300 + n) } else { None },
                execution_duration: closed.then_some(wkt::Duration { seconds: 100, nanos: 0 }),
                status: if closed { 5 } else { 1 },
                history_length: 3,
                state_transition_count: 2,
                history_size_bytes: 500,
                task_queue: "tq".to_owned(),
                search_attributes: (n < 3).then_some(SearchAttributes { indexed_fields }),
                parent_execution: (n == 2)
                    .then(|| WorkflowExecution { workflow_id: "w1".to_owned(), run_id: "r1".to_owned() }),
                root_execution: (n == 2)
                    .then(|| WorkflowExecution { workflow_id: "w1".to_owned(), run_id: "r1".to_owned() }),
                ..WorkflowExecutionInfo::default()
            }
            .encode_to_vec()
        };
        (0..4).map(record).collect()
    }

    /// The digits of the workflows that match.
    fn matching(query: &str) -> String {
        let filter = Query::parse(query, &types()).unwrap().filter.unwrap();
        let records = records();
        let matches =
            |index: &usize| filter.matches(&Record::parse_until(&records[*index], filter.last_field()).unwrap());
        (0..records.len()).filter(matches).map(|index| index.to_string()).collect()
    }

    /// Results as Temporal 1.32 gives them for the same workflows.
    #[test]
    fn filters() {
        for (query, expected) in [
            ("WorkflowId = 'w1'", "1"),
            ("WorkflowId != 'w1'", "023"),
            ("WorkflowId > 'w1'", "23"),
            ("WorkflowId BETWEEN 'w1' AND 'w2'", "12"),
            ("WorkflowId NOT BETWEEN 'w1' AND 'w2'", "03"),
            ("WorkflowId IN ('w2','w1')", "12"),
            ("WorkflowId IN ('x','w3','a','w2','w0','b')", "023"),
            ("WorkflowId NOT IN ('w1','w2')", "03"),
            ("WorkflowId STARTS_WITH 'w'", "0123"),
            ("WorkflowId NOT STARTS_WITH 'w1'", "023"),
            ("WorkflowId IS NULL", ""),
            ("CloseTime IS NULL", "01"),
            ("CloseTime IS NOT NULL", "23"),
            ("NOT (WorkflowId = 'w1' OR WorkflowId = 'w2')", "03"),
            ("(WorkflowId = 'w1' OR WorkflowId = 'w2') AND ExecutionStatus = 'Running'", "1"),
            ("WorkflowId = 'w1' OR WorkflowId = 'w2' AND ExecutionStatus = 'Terminated'", "12"),
            ("ExecutionStatus = 1", "01"),
            ("ExecutionStatus > 'Running'", "23"),
            ("ExecutionStatus BETWEEN 1 AND 3", "01"),
            ("ExecutionStatus != 'Running'", "23"),
            ("ExecutionStatus IN ('Running', 'Terminated')", "0123"),
            ("StartTime > '2024-01-01T00:00:01Z'", "23"),
            ("StartTime <= 1704067201000000000", "01"),
            ("StartTime BETWEEN '2024-01-01T00:00:01Z' AND '2024-01-01T00:00:02Z'", "12"),
            ("ExecutionTime >= '2024-01-01T00:00:03Z'", "3"),
            ("CloseTime < '2034-01-01T00:00:00Z' OR CloseTime IS NULL", "0123"),
            ("NOT CloseTime > '2024-01-01T00:00:00Z'", ""),
            ("NOT NOT CloseTime > '2024-01-01T00:00:00Z'", "23"),
            ("ExecutionDuration > '1h'", ""),
            ("ExecutionDuration < '1h30m'", "23"),
            ("ExecutionDuration IS NULL", "01"),
            ("HistoryLength > 1", "23"),
            ("HistoryLength > 1.5", "23"),
            ("HistoryLength > -1", "23"),
            ("StateTransitionCount >= 1 AND HistorySizeBytes > 0", "23"),
            ("TaskQueue = 'tq'", "0123"),
            ("WorkflowType = 'T0'", "02"),
            ("RunId = 'r3'", "3"),
            ("ParentWorkflowId IS NULL", "013"),
            ("ParentRunId = 'r1'", "2"),
            ("RootWorkflowId = 'w1'", "12"),
            ("RootRunId = 'r3'", "3"),
            ("KW = 'k1'", "1"),
            ("KW = 'K1'", ""),
            ("KW != 'k1'", "02"),
            ("NOT KW = 'k1'", "02"),
            ("NOT (KW = 'k1' AND IN1 = 1)", "02"),
            ("KW > 'k0'", "12"),
            ("KW IS NULL", "3"),
            ("KW NOT STARTS_WITH 'k1'", "02"),
            ("KW NOT IN ('k0', 'k1')", "2"),
            ("KL = 'a'", "012"),
            ("KL = 'c1'", "1"),
            ("KL IN ('c1', 'c2')", "12"),
            ("KL IS NULL", "3"),
            ("TX = 'hello'", "012"),
            ("TX = 'no1 no2'", "12"),
            ("TX = 'wide'", "012"),
            ("TX = 'foo'", "012"),
            ("TX = 'zzz'", ""),
            ("TX != 'no1'", "023"),
            ("TX IS NOT NULL", "012"),
            ("IN1 = 1.0", "1"),
            ("IN1 = 1.5", ""),
            ("IN1 != 1", "02"),
            ("IN1 NOT BETWEEN 1 AND 1", "02"),
            ("IN1 = 99999999999999999999", ""),
            ("IN1 > -1 AND IN1 < +3", "012"),
            ("DB > 1", "12"),
            ("DB >= 1.5e0", "12"),
            ("BO = true", "02"),
            ("BO != true", "1"),
            ("BO > false", "02"),
            ("BO IN (true, false)", "012"),
            ("DT > '2024-01-02T00:00:00Z'", "2"),
            ("DT = '2024-01-02T01:00:00+01:00'", "1"),
            ("DT >= 1704153600000000000", "12"),
            ("BuildIds = 'x'", ""),
            ("ScheduleId = 'w1'", "1"),
        ] {
            assert_eq!(matching(query), expected, "{query}");
        }
    }

    #[test]
    fn many_comparisons_are_counted() {
        let comparisons = |query: &str| Query::parse(query, &types()).unwrap().filter.unwrap().comparisons();
        let list = |of: fn(usize) -> String| (0..1000).map(of).collect::<Vec<_>>().join(", ");
        let keywords = list(|n| format!("'{n}'"));
        assert_eq!(comparisons("WorkflowId = 'w' AND NOT (IN1 > 1 OR IN1 IS NULL)"), 3);
        assert_eq!(comparisons(&format!("WorkflowId IN ({keywords})")), 10);
        assert_eq!(comparisons(&format!("IN1 IN ({})", list(|n| n.to_string()))), 1000);
    }

    #[test]
    fn years_that_a_clock_cannot_hold_are_compared() {
        let stored = |text: &str| attribute(Json::String(text.to_owned()), IndexedValueType::Datetime);
        let asked = |text: &str| Value::Time(parse_time(text).unwrap());
        for (earlier, later) in
            [("0001-01-01T00:00:00Z", "1600-01-01T00:00:00Z"), ("2300-01-01T00:00:00Z", "9999-12-31T00:00:00Z")]
        {
            assert_eq!(stored(later).compare(Comparison::Greater, &asked(earlier)), Some(true), "{later}");
            assert_eq!(stored(earlier).compare(Comparison::Equal, &asked(later)), Some(false), "{earlier}");
        }
    }

    #[test]
    fn lists_that_are_not_there_have_no_elements() {
        assert_eq!(matching("KL != 'a'"), "3");
        assert_eq!(matching("KL != 'c1'"), "023");
        assert_eq!(matching("KL NOT IN ('c1', 'c2')"), "03");
    }
}
