//! Which part of the key space a filter needs.
//!
//! Rows lie by state (open or closed), then by close time, then by start time. From a filter follows a [`Bound`] that no
//! matching record lies outside of; the filter itself is still applied to every row within it.

use std::ops::RangeInclusive;

use everlog_kernel::transition::VisibilityKey;
use everlog_kernel::{NamespaceId, RunId, Time};
use everlog_model::rows;
use everlog_storage::keys::{KeyRange, after};

use super::field::{status_is_open, statuses};
use super::record::Record;
use super::{Comparison, Field, Filter, Query, Value};

/// Where the records that match a filter can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// Start times of open runs, in nanoseconds; `None` if none match.
    open: Option<RangeInclusive<i64>>,
    /// Close times of closed runs.
    closed: Option<RangeInclusive<i64>>,
    /// The only workflow that can match.
    pub(super) workflow_id: Option<String>,
}

const ALL_TIMES: RangeInclusive<i64> = i64::MIN..=i64::MAX;

const EVERYTHING: Bound = Bound { open: Some(ALL_TIMES), closed: Some(ALL_TIMES), workflow_id: None };

/// The bound of a filter.
pub(super) fn bound(filter: Option<&Filter>) -> Bound {
    filter.map_or(EVERYTHING, of)
}

/// The times, in nanoseconds, at which runs closed that a query asks for; none, if it asks for no closed ones.
pub fn close_times(query: &Query) -> Option<RangeInclusive<i64>> {
    bound(query.filter.as_ref()).closed
}

fn of(filter: &Filter) -> Bound {
    if let Some(bound) = of_statuses(filter) {
        return bound;
    }
    match filter {
        Filter::And(operands) => operands.iter().map(of).fold(EVERYTHING, intersection),
        Filter::Or(operands) => operands.iter().map(of).reduce(hull).unwrap_or(EVERYTHING),
        Filter::Not(operand) => match &**operand {
            Filter::IsNull(field) if field.is_set_on_close() => closed_only(ALL_TIMES),
            Filter::Not(inner) => of(inner),
            // Where the field is null, the negation is no more true than the comparison.
            Filter::Compare(field, ..) | Filter::In(field, _) | Filter::Between(field, ..)
                if field.is_set_on_close() =>
            {
                closed_only(ALL_TIMES)
            }
            _ => EVERYTHING,
        },
        Filter::IsNull(field) if field.is_set_on_close() => Bound { closed: None, ..EVERYTHING },
        Filter::IsNull(_) | Filter::StartsWith(..) => EVERYTHING,
        Filter::Compare(Field::WorkflowId | Field::ActivityId, Comparison::Equal, Value::Keyword(workflow_id)) => {
            Bound { workflow_id: Some(workflow_id.clone()), ..EVERYTHING }
        }
        Filter::Compare(field, comparison, value) => of_times(field, compared(*comparison, value)),
        Filter::Between(field, low, high) => {
            let low = compared(Comparison::GreaterOrEqual, low);
            let high = compared(Comparison::LessOrEqual, high);
            of_times(field, low.zip(high).map(|(low, high)| overlap(low, high)))
        }
        Filter::In(Field::WorkflowId | Field::ActivityId, values) => match values.as_slice() {
            [Value::Keyword(workflow_id)] => Bound { workflow_id: Some(workflow_id.clone()), ..EVERYTHING },
            _ => EVERYTHING,
        },
        Filter::In(field, _) => of_times(field, None),
    }
}

/// The bound of a filter that looks at the status alone: whatever it says, it can be tried on every status.
fn of_statuses(filter: &Filter) -> Option<Bound> {
    if !looks_at_status_only(filter) {
        return None;
    }
    let matching = |status: &i64| filter.matches(&Record::of_status(*status));
    let (open, closed): (Vec<i64>, Vec<i64>) = statuses().filter(matching).partition(|status| status_is_open(*status));
    let unless_none = |statuses: Vec<i64>| (!statuses.is_empty()).then_some(ALL_TIMES);
    Some(Bound { open: unless_none(open), closed: unless_none(closed), workflow_id: None })
}

fn looks_at_status_only(filter: &Filter) -> bool {
    match filter {
        Filter::And(operands) | Filter::Or(operands) => operands.iter().all(looks_at_status_only),
        Filter::Not(operand) => looks_at_status_only(operand),
        Filter::IsNull(field)
        | Filter::Compare(field, ..)
        | Filter::In(field, _)
        | Filter::Between(field, ..)
        | Filter::StartsWith(field, _) => matches!(field, Field::ExecutionStatus | Field::ActivityStatus),
    }
}

/// The bound of a condition that holds only while `field` lies within `times` (anywhere, if `None`).
fn of_times(field: &Field, times: Option<RangeInclusive<i64>>) -> Bound {
    match (field, times) {
        (Field::CloseTime, Some(times)) => closed_only(times),
        // No run closes before it starts.
        (Field::StartTime, Some(times)) => {
            Bound { closed: Some(*times.start()..=i64::MAX), open: Some(times), workflow_id: None }
        }
        (field, _) if field.is_set_on_close() => closed_only(ALL_TIMES),
        _ => EVERYTHING,
    }
}

fn closed_only(times: RangeInclusive<i64>) -> Bound {
    Bound { open: None, closed: Some(times), workflow_id: None }
}

/// The times that compare so with `value`, if it is a time. `<` is taken as `<=`: a row more does no harm.
fn compared(comparison: Comparison, value: &Value) -> Option<RangeInclusive<i64>> {
    let Value::Time(moment) = value else { return None };
    let time = moment.clamped();
    Some(match comparison {
        Comparison::Equal => time.0..=time.0,
        Comparison::Less | Comparison::LessOrEqual => i64::MIN..=time.0,
        Comparison::Greater | Comparison::GreaterOrEqual => time.0..=i64::MAX,
    })
}

fn overlap(a: RangeInclusive<i64>, b: RangeInclusive<i64>) -> RangeInclusive<i64> {
    *a.start().max(b.start())..=*a.end().min(b.end())
}

fn intersection(a: Bound, b: Bound) -> Bound {
    let both = |a: Option<RangeInclusive<i64>>, b: Option<RangeInclusive<i64>>| {
        a.zip(b).map(|(a, b)| overlap(a, b)).filter(|times| !times.is_empty())
    };
    Bound {
        open: both(a.open, b.open),
        closed: both(a.closed, b.closed),
        // Two different ids match nothing; looking at either is right.
        workflow_id: a.workflow_id.or(b.workflow_id),
    }
}

fn hull(a: Bound, b: Bound) -> Bound {
    let either = |a: Option<RangeInclusive<i64>>, b: Option<RangeInclusive<i64>>| match (a, b) {
        (Some(a), Some(b)) => Some(*a.start().min(b.start())..=*a.end().max(b.end())),
        (a, b) => a.or(b),
    };
    Bound {
        open: either(a.open, b.open),
        closed: either(a.closed, b.closed),
        workflow_id: if a.workflow_id == b.workflow_id { a.workflow_id } else { None },
    }
}

impl Bound {
    /// The keys within the bound, in order.
    pub(super) fn ranges(&self, namespace: NamespaceId) -> Vec<KeyRange> {
        let key = |close_time: Time, start_time_ns: i64, run_id: [u8; 16]| {
            let (start_time, run_id) = (Time(start_time_ns), RunId(run_id));
            rows::visibility_key(namespace, &VisibilityKey { close_time, start_time, run_id })
        };
        // Keys descend in time: a range begins with its newest time.
        let open = self
            .open
            .iter()
            .map(|times| key(Time::MAX, *times.end(), [0; 16])..after(&key(Time::MAX, *times.start(), [0xff; 16])));
        let closed = self.closed.iter().map(|times| {
            // The latest time of all stands for open runs.
            let newest = (*times.end()).min(i64::MAX - 1);
            let oldest = (*times.start()).min(i64::MAX - 1);
            key(Time(newest), i64::MAX, [0; 16])..after(&key(Time(oldest), i64::MIN, [0xff; 16]))
        });
        open.chain(closed).filter(|range| range.start < range.end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Query, SearchAttributeTypes};

    fn bound_of(query: &str) -> Bound {
        bound(Query::parse(query, &SearchAttributeTypes::new()).unwrap().filter.as_ref())
    }

    #[test]
    fn bounds() {
        let all = || Some(ALL_TIMES);
        for (query, open, closed, workflow_id) in [
            ("", all(), all(), None),
            ("WorkflowType = 'x'", all(), all(), None),
            ("WorkflowId = 'x'", all(), all(), Some("x")),
            ("WorkflowId IN ('x') AND RunId = 'y'", all(), all(), Some("x")),
            ("WorkflowId = 'x' OR WorkflowId = 'y'", all(), all(), None),
            ("WorkflowId = 'x' OR WorkflowId = 'x' AND RunId = 'y'", all(), all(), Some("x")),
            ("NOT WorkflowId = 'x'", all(), all(), None),
            ("ExecutionStatus = 'Running'", all(), None, None),
            ("ExecutionStatus = 'Paused' OR ExecutionStatus = 1", all(), None, None),
            ("ExecutionStatus != 'Running' AND ExecutionStatus != 'Paused'", None, all(), None),
            ("ExecutionStatus IN ('Completed', 'Failed')", None, all(), None),
            ("ExecutionStatus > 1", all(), all(), None),
            ("NOT ExecutionStatus = 'Completed'", all(), all(), None),
            ("ExecutionStatus IS NULL", None, None, None),
            ("CloseTime IS NULL", all(), None, None),
            ("CloseTime IS NOT NULL", None, all(), None),
            ("NOT CloseTime = 5", None, all(), None),
            ("CloseTime > 5 AND CloseTime <= 9", None, Some(5..=9), None),
            ("CloseTime BETWEEN 5 AND 9", None, Some(5..=9), None),
            ("CloseTime BETWEEN 5 AND 9 OR CloseTime = 20", None, Some(5..=20), None),
            ("CloseTime > 9 AND CloseTime < 5", None, None, None),
            ("CloseTime < 5 OR CloseTime IS NULL", all(), Some(i64::MIN..=5), None),
            ("StartTime >= 5", Some(5..=i64::MAX), Some(5..=i64::MAX), None),
            ("StartTime < 5", Some(i64::MIN..=5), all(), None),
            ("StartTime BETWEEN 5 AND 9 AND ExecutionStatus = 1", Some(5..=9), None, None),
            ("StartTime = 5 AND CloseTime < 9", None, Some(5..=9), None),
            ("HistoryLength > 1", None, all(), None),
            ("ExecutionDuration IS NULL", all(), None, None),
        ] {
            let expected = Bound { open, closed, workflow_id: workflow_id.map(str::to_owned) };
            assert_eq!(bound_of(query), expected, "{query}");
        }
    }

    #[test]
    fn ranges_hold_their_rows_and_no_others() {
        let namespace = NamespaceId([7; 16]);
        let row = |namespace, close_time: Option<i64>, start_time| {
            let close_time = close_time.map_or(Time::MAX, Time);
            let key = VisibilityKey { close_time, start_time: Time(start_time), run_id: RunId([9; 16]) };
            rows::visibility_key(namespace, &key)
        };
        let rows: Vec<_> = [(None, 7), (None, 3), (Some(8), 2), (Some(6), 6), (Some(4), 1)]
            .map(|(close, start)| row(namespace, close, start))
            .into();
        let other = row(NamespaceId([8; 16]), None, 5);
        let within = |query: &str| -> String {
            let ranges = bound_of(query).ranges(namespace);
            assert!(!ranges.iter().any(|range| range.contains(&other)));
            let is_in = |index: &usize| ranges.iter().any(|range| range.contains(&rows[*index]));
            (0..rows.len()).filter(is_in).map(|index| index.to_string()).collect()
        };
        for (query, expected) in [
            ("", "01234"),
            ("ExecutionStatus = 'Running'", "01"),
            ("ExecutionStatus = 'Failed'", "234"),
            ("StartTime > 3", "01234"),
            ("StartTime > 4", "0234"),
            ("StartTime > 7", "02"),
            ("CloseTime < 6", "34"),
            ("CloseTime > 7", "2"),
            ("CloseTime = 6", "3"),
            ("CloseTime < 5 OR CloseTime IS NULL", "014"),
            ("CloseTime < 5 AND CloseTime IS NULL", ""),
        ] {
            assert_eq!(within(query), expected, "{query}");
        }
    }
}
