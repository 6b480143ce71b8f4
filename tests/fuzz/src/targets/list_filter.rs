//! The filters of lists and counts: a small language that clients write. It is read or refused in words that say why.

use everlog_proto::api::common::v1::{Payload, SearchAttributes, WorkflowExecution, WorkflowType};
use everlog_proto::api::enums::v1::{IndexedValueType, WorkflowExecutionStatus};
use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
use everlog_proto::wkt::Timestamp;
use everlog_visibility::{Filter, Query, Record, SearchAttributeTypes, VisibilityError};
use prost::Message;

use super::{Target, kind_of};
use everlog_random::Random;
use everlog_random::mutate;

/// Words of the language, which random bytes do not hit.
const WORDS: [&str; 40] = [
    " AND ",
    " OR ",
    " NOT ",
    "(",
    ")",
    " = ",
    " != ",
    " <= ",
    " >= ",
    " < ",
    " > ",
    " IN ",
    " BETWEEN ",
    " IS NULL",
    " IS NOT NULL",
    " STARTS_WITH ",
    " NOT STARTS_WITH ",
    " GROUP BY ",
    " ORDER BY ",
    ", ",
    "'",
    "\"",
    "`",
    "WorkflowId",
    "WorkflowType",
    "ExecutionStatus",
    "StartTime",
    "CloseTime",
    "RunId",
    "ExecutionDuration",
    "HistoryLength",
    "Words",
    "Word",
    "Number",
    "'Running'",
    "'2024-01-01T00:00:00Z'",
    "'1h30m'",
    "1e308",
    "-9223372036854775809",
    "'a''b\\'c'",
];

/// One of everything in the grammar that the visibility crate documents, also of what it refuses.
const SEEDS: [&str; 52] = [
    "",
    "WorkflowId = 'a'",
    "WorkflowType = 'Order' AND ExecutionStatus = 'Running'",
    "StartTime BETWEEN '2024-01-01T00:00:00Z' AND '2025-01-01T00:00:00.5+02:00'",
    "(WorkflowId STARTS_WITH 'a' OR NOT WorkflowId IN ('b', 'c')) AND CloseTime IS NULL",
    "ExecutionDuration > '1h30m' OR ExecutionDuration <= 90000000000",
    "Number >= -3 AND Share < 0.5 AND Yes = true",
    "Words = 'x' AND Word != \"y\" AND Text = 'some words'",
    "`WorkflowId` IS NOT NULL GROUP BY ExecutionStatus",
    "HistoryLength IN (1, 2, 3) ORDER BY StartTime DESC",
    "At >= 1700000000000000000",
    "NOT (NOT (NOT (RunId = 'x')))",
    "WorkflowId NOT STARTS_WITH 'q' AND TaskQueue != ''",
    "ExecutionStatus IN ('Completed', 'Failed') AND ParentWorkflowId IS NULL",
    // Operators.
    "Number <> 1 && Number <=> 2 || Share <= 1.5e3",
    "HistoryLength NOT BETWEEN 1 AND 9223372036854775807",
    "Share BETWEEN -1e308 AND 1e308 AND Share NOT IN (0.1, 2)",
    "Number IN (-9223372036854775808, +3) OR Number NOT IN (0)",
    "WorkflowId BETWEEN 'a' AND 'b'",
    "Yes != false AND Yes IS NOT NULL OR Yes IN (true, false)",
    "WorkflowType LIKE 'a%' OR WorkflowId REGEXP 'b'",
    // Lists of keywords, and texts.
    "Words IN ('x', 'y') AND Words NOT IN ('z')",
    "Words != 'x' AND Words IS NOT NULL AND Words STARTS_WITH 'y'",
    "Text != 'Some words' OR Text IS NULL",
    // Names and strings in quotes.
    "`Word` = 'it''s' AND `Words` = \"a \\\"b\\\"\"",
    "`CustomStringField` = 'x'",
    "Word = '\u{e9}\u{4e2d}\u{1f600}' -- a comment\n AND /* another */ Word != '\\n\\t\\\\'",
    // Times of all years, and durations.
    "StartTime > '0001-01-01T00:00:00Z' AND CloseTime < '9999-12-31T23:59:59.999999999Z'",
    "At BETWEEN '1677-09-21T00:12:43Z' AND '2262-04-11T23:47:16.854775807Z'",
    "At = '1969-12-31T23:59:59.999999999-23:59' OR At IN ('2024-02-29T00:00:00Z', '2023-02-28t00:00:00z')",
    "ExecutionTime >= '2024-01-01T00:00:00+14:00' AND StartTime != 1700000000000000000",
    "ExecutionDuration IN ('1d2h3m4.5s', '-15ms', '01:02:03.5', '100')",
    "CloseTime IS NOT NULL AND StartTime NOT BETWEEN '2024-01-01T00:00:00Z' AND 1800000000000000000",
    // Nested.
    "NOT NOT NOT (Number = 1 AND NOT (Share = 2 OR NOT Yes = true))",
    "((((WorkflowId = 'a') OR (WorkflowId = 'b')) AND (NOT (RunId = 'c'))))",
    "NOT (CloseTime IS NULL) AND NOT ExecutionStatus IN ('Running', 'Paused')",
    "ExecutionStatus = 'continuedasnew' OR ExecutionStatus = 2 OR ExecutionStatus != 'TimedOut'",
    // What is refused.
    "WorkflowId = 'a' ORDER BY CloseTime ASC, StartTime",
    "ORDER BY `StartTime`",
    "Number = 1 LIMIT 5",
    "GROUP BY WorkflowType, ExecutionStatus",
    "WorkflowId = 'a' HAVING Number = 1",
    "WorkflowId = RunId",
    "'a' = WorkflowId",
    "upper(WorkflowId) = 'A'",
    "WorkflowId IN ()",
    "WorkflowId = ('a')",
    "!(Yes = true)",
    "Number = 'one' OR Yes = 1",
    "ExecutionStatus = 'Finished'",
    "StartTime > 'yesterday'",
    "ExecutionDuration > 'long'",
];

pub(super) struct ListFilter {
    types: SearchAttributeTypes,
    records: [Vec<u8>; 2],
}

impl Default for ListFilter {
    fn default() -> ListFilter {
        let types = [
            ("Number", IndexedValueType::Int),
            ("Share", IndexedValueType::Double),
            ("Yes", IndexedValueType::Bool),
            ("At", IndexedValueType::Datetime),
            ("Word", IndexedValueType::Keyword),
            ("Words", IndexedValueType::KeywordList),
            ("Text", IndexedValueType::Text),
        ];
        let types = types.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
        ListFilter { types, records: records() }
    }
}

impl Target for ListFilter {
    fn name(&self) -> &'static str {
        "list-filter"
    }

    fn seeds(&mut self) -> Result<Vec<Vec<u8>>, String> {
        Ok(SEEDS.iter().map(|seed| seed.as_bytes().to_vec()).collect())
    }

    fn change(&mut self, random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..1 + random.below(4) {
            let at = random.below(input.len() + 1);
            match random.below(4) {
                0 => mutate::bytes(random, input, other),
                1 => {
                    let end = (at + random.below(12)).min(input.len());
                    input.splice(at..end, random.of(&WORDS).bytes());
                }
                2 => {
                    let deep = if random.one_in(20) { 3_000 } else { 3 };
                    let word = *random.of(&["(", "NOT ", "NOT (", "-", "'"]);
                    input.splice(at..at, word.bytes().cycle().take(word.len() * random.below(deep)));
                }
                _ => {
                    input.splice(at..at, random.of(&WORDS).bytes());
                }
            }
        }
    }

    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let text = String::from_utf8_lossy(input);
        match Query::parse(&text, &self.types) {
            Ok(query) => {
                // What was understood can be told, and asked of any record.
                let told = format!("{query:?}");
                let matches = query.filter.map(|filter| self.records.each_ref().map(|record| asked(&filter, record)));
                let shape: String = kind_of(&told).chars().filter(|letter| !letter.is_lowercase()).take(120).collect();
                Ok(format!("{shape} {matches:?}"))
            }
            Err(VisibilityError::InvalidArgument(why)) => Ok(kind_of(&why).chars().take(60).collect()),
            Err(other) => Err(format!("a filter is refused as {other:?}")),
        }
    }
}

fn asked(filter: &Filter, record: &[u8]) -> Option<bool> {
    Record::parse(record).map(|record| filter.matches(&record))
}

/// Records as they are stored: of a run that is open and has attributes, and of one that knows nothing.
fn records() -> [Vec<u8>; 2] {
    let payload = |json: &str, kind: &str| {
        let metadata = [("encoding".to_owned(), b"json/plain".to_vec()), ("type".to_owned(), kind.as_bytes().to_vec())];
        Payload { metadata: metadata.into(), data: json.as_bytes().to_vec(), ..Payload::default() }
    };
    let attributes = [
        ("Number", payload("1", "Int")),
        ("Share", payload("0.25", "Double")),
        ("Yes", payload("true", "Bool")),
        ("At", payload("\"2024-02-29T00:00:00Z\"", "Datetime")),
        ("Word", payload("\"it's\"", "Keyword")),
        ("Words", payload("[\"x\",\"y\"]", "KeywordList")),
        ("Text", payload("\"some words\"", "Text")),
    ];
    let open = WorkflowExecutionInfo {
        execution: Some(WorkflowExecution { workflow_id: "a".to_owned(), run_id: "x".to_owned() }),
        r#type: Some(WorkflowType { name: "Order".to_owned() }),
        start_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        status: WorkflowExecutionStatus::Running as i32,
        history_length: 3,
        search_attributes: Some(SearchAttributes {
            indexed_fields: attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }),
        task_queue: "q".to_owned(),
        ..WorkflowExecutionInfo::default()
    };
    [open.encode_to_vec(), Vec::new()]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Each part of a query, and each way to refuse one, as the words with which it is told.
    #[test]
    fn seeds_reach_every_branch() {
        let target = ListFilter::default();
        let mut told = String::new();
        for seed in SEEDS {
            match Query::parse(seed, &target.types) {
                Ok(query) => told.push_str(&format!("{query:?}\n")),
                Err(error) => told.push_str(&format!("{error}\n")),
            }
        }
        for part in [
            "And([",
            "Or([",
            "Not(",
            "IsNull(",
            "In(",
            "Between(",
            "StartsWith(",
            "Equal,",
            "Less,",
            "LessOrEqual,",
            "Greater,",
            "GreaterOrEqual,",
            "Keyword(",
            "Words([",
            "Integer(",
            "Double(",
            "Bool(",
            "Time(",
            "group_by: Some",
            "'ORDER BY' clause",
            "'LIMIT' clause",
            "'HAVING' clause",
            "malformed SQL query",
            "right side of comparison",
            "*sqlparser.FuncExpr",
            "*sqlparser.SQLVal",
            "invalid search attribute",
            "*sqlparser.ParenExpr",
            "*sqlparser.UnaryExpr",
        ] {
            assert!(told.contains(part), "{part} is in none of:\n{told}");
        }
    }
}
