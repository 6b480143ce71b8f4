//! The older list requests, whose filters are fields instead of a query.

use chrono::{DateTime, Datelike};
use everlog_proto::api::enums::v1::WorkflowExecutionStatus;
use everlog_proto::api::filter::v1::{StartTimeFilter, WorkflowExecutionFilter, WorkflowTypeFilter};
use everlog_proto::api::workflowservice::v1::{
    ListClosedWorkflowExecutionsRequest, ListOpenWorkflowExecutionsRequest,
    list_closed_workflow_executions_request as closed, list_open_workflow_executions_request as open,
};
use everlog_proto::wkt::Timestamp;

use super::{Comparison, Field, Filter, Moment, Query, Value, VisibilityError};

/// The last second that a query can name.
const YEAR_9999_ENDS: i64 = 253_402_300_799;

/// What a `ListOpenWorkflowExecutions` asks for. Its time filter is on the start time.
///
/// # Errors
///
/// [`VisibilityError::InvalidArgument`] for a range of times that ends before it begins.
pub fn open_query(request: &ListOpenWorkflowExecutionsRequest) -> Result<Query, VisibilityError> {
    let mut conditions = vec![status(WorkflowExecutionStatus::Running)];
    conditions.extend(times(Field::StartTime, request.start_time_filter.as_ref())?);
    conditions.extend(request.filters.as_ref().map(|filter| match filter {
        open::Filters::ExecutionFilter(execution) => workflow_id(execution),
        open::Filters::TypeFilter(workflow_type) => type_name(workflow_type),
    }));
    Ok(Query { filter: Some(Filter::And(conditions)), group_by: None })
}

/// What a `ListClosedWorkflowExecutions` asks for. Its time filter is on the close time, whatever it is called.
///
/// # Errors
///
/// As [`open_query`]; also for a status filter that asks for open runs.
pub fn closed_query(request: &ListClosedWorkflowExecutionsRequest) -> Result<Query, VisibilityError> {
    let mut conditions = vec![Filter::Not(Box::new(status(WorkflowExecutionStatus::Running)))];
    conditions.extend(times(Field::CloseTime, request.start_time_filter.as_ref())?);
    conditions.extend(match &request.filters {
        None => None,
        Some(closed::Filters::ExecutionFilter(execution)) => Some(workflow_id(execution)),
        Some(closed::Filters::TypeFilter(workflow_type)) => Some(type_name(workflow_type)),
        Some(closed::Filters::StatusFilter(filter)) => Some(match filter.status() {
            WorkflowExecutionStatus::Unspecified | WorkflowExecutionStatus::Running => {
                return Err(invalid("StatusFilter must be specified and must be not Running."));
            }
            closed => status(closed),
        }),
    });
    Ok(Query { filter: Some(Filter::And(conditions)), group_by: None })
}

fn invalid(problem: &str) -> VisibilityError {
    VisibilityError::InvalidArgument(problem.to_owned())
}

fn status(status: WorkflowExecutionStatus) -> Filter {
    Filter::Compare(Field::ExecutionStatus, Comparison::Equal, Value::Integer(i64::from(i32::from(status))))
}

/// The run id of the filter is not looked at, as in Temporal.
fn workflow_id(execution: &WorkflowExecutionFilter) -> Filter {
    Filter::Compare(Field::WorkflowId, Comparison::Equal, Value::Keyword(execution.workflow_id.clone()))
}

fn type_name(workflow_type: &WorkflowTypeFilter) -> Filter {
    Filter::Compare(Field::WorkflowType, Comparison::Equal, Value::Keyword(workflow_type.name.clone()))
}

fn times(field: Field, filter: Option<&StartTimeFilter>) -> Result<Option<Filter>, VisibilityError> {
    let earliest = filter.and_then(|filter| filter.earliest_time.as_ref());
    let latest = filter.and_then(|filter| filter.latest_time.as_ref());
    let order = |timestamp: &Timestamp| (timestamp.seconds, timestamp.nanos);
    if earliest.zip(latest).is_some_and(|(earliest, latest)| order(earliest) > order(latest)) {
        return Err(invalid("EarliestTime in StartTimeFilter should not be larger than LatestTime."));
    }
    Ok(match (earliest.map(time).transpose()?, latest.map(time).transpose()?) {
        (Some(earliest), Some(latest)) => Some(Filter::Between(field, Value::Time(earliest), Value::Time(latest))),
        (Some(earliest), None) => Some(Filter::Compare(field, Comparison::GreaterOrEqual, Value::Time(earliest))),
        (None, Some(latest)) => Some(Filter::Compare(field, Comparison::LessOrEqual, Value::Time(latest))),
        (None, None) => None,
    })
}

/// A time that a query could name: of four digits' years.
fn time(timestamp: &Timestamp) -> Result<Moment, VisibilityError> {
    if timestamp.seconds <= YEAR_9999_ENDS {
        return Ok(Moment::from_proto(timestamp));
    }
    let text = match DateTime::from_timestamp(timestamp.seconds, 0) {
        Some(time) => format!("{}-{}", time.year(), time.format("%m-%dT%H:%M:%SZ")),
        None => timestamp.seconds.to_string(),
    };
    Err(invalid(&format!("invalid query: invalid expression: unable to parse datetime '{text}'")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SearchAttributeTypes;
    use everlog_proto::api::filter::v1::StatusFilter;

    fn same(query: Query, text: &str) {
        assert_eq!(query, Query::parse(text, &SearchAttributeTypes::new()).unwrap());
    }

    fn times(earliest: i64, latest: Option<i64>) -> Option<StartTimeFilter> {
        let time = |seconds| Timestamp { seconds, nanos: 0 };
        Some(StartTimeFilter { earliest_time: Some(time(earliest)), latest_time: latest.map(time) })
    }

    #[test]
    fn requests_read_as_queries() {
        let open = |start_time_filter, filters| {
            open_query(&ListOpenWorkflowExecutionsRequest {
                start_time_filter,
                filters,
                ..ListOpenWorkflowExecutionsRequest::default()
            })
            .unwrap()
        };
        let workflow = WorkflowExecutionFilter { workflow_id: "w".to_owned(), run_id: "r".to_owned() };
        let workflow_type = WorkflowTypeFilter { name: "t".to_owned() };
        assert_eq!(open(None, None).filter, Some(Filter::And(vec![status(WorkflowExecutionStatus::Running)])));
        same(
            open(times(1, Some(2)), Some(open::Filters::ExecutionFilter(workflow))),
            "ExecutionStatus = 'Running' AND StartTime BETWEEN 1000000000 AND 2000000000 AND WorkflowId = 'w'",
        );
        let closed = |filters| {
            closed_query(&ListClosedWorkflowExecutionsRequest {
                start_time_filter: times(1, None),
                filters: Some(filters),
                ..ListClosedWorkflowExecutionsRequest::default()
            })
        };
        let prefix = "ExecutionStatus != 'Running' AND CloseTime >= 1000000000 AND";
        same(closed(closed::Filters::TypeFilter(workflow_type)).unwrap(), &format!("{prefix} WorkflowType = 't'"));
        let of_status = |status: WorkflowExecutionStatus| {
            closed(closed::Filters::StatusFilter(StatusFilter { status: status.into() }))
        };
        same(of_status(WorkflowExecutionStatus::Failed).unwrap(), &format!("{prefix} ExecutionStatus = 'Failed'"));
        let error = of_status(WorkflowExecutionStatus::Running).unwrap_err();
        assert_eq!(error.to_string(), "StatusFilter must be specified and must be not Running.");
    }

    #[test]
    fn a_time_must_have_a_year_of_four_digits() {
        let filter = |latest| times(1, Some(latest));
        assert!(super::times(Field::StartTime, filter(YEAR_9999_ENDS).as_ref()).is_ok());
        for (latest, told) in [(YEAR_9999_ENDS + 1, "10000-01-01T00:00:00Z"), (1 << 40, "36812-02-20T00:36:16Z")] {
            let error = super::times(Field::StartTime, filter(latest).as_ref()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("invalid query: invalid expression: unable to parse datetime '{told}'")
            );
        }
    }

    #[test]
    fn a_range_must_not_end_before_it_begins() {
        let request = ListOpenWorkflowExecutionsRequest {
            start_time_filter: times(2, Some(1)),
            ..ListOpenWorkflowExecutionsRequest::default()
        };
        let error = open_query(&request).unwrap_err();
        assert_eq!(error.to_string(), "EarliestTime in StartTimeFilter should not be larger than LatestTime.");
    }
}
