//! The filters of lists and counts: a small language that clients write. It is read or refused in words that say why.

use everlog_proto::api::enums::v1::IndexedValueType;
use everlog_visibility::{Query, SearchAttributeTypes, VisibilityError};

use super::{Target, kind_of};
use crate::mutate;
use everlog_random::Random;

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

const SEEDS: [&str; 14] = [
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
];

pub(super) struct ListFilter {
    types: SearchAttributeTypes,
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
        ListFilter { types: types.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect() }
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
                // What was understood can be told.
                let told = format!("{query:?}");
                Ok(kind_of(&told).chars().take(60).collect())
            }
            Err(VisibilityError::InvalidArgument(why)) => Ok(kind_of(&why).chars().take(40).collect()),
            Err(other) => Err(format!("a filter is refused as {other:?}")),
        }
    }
}
