//! The older list requests, whose filters are fields instead of a query.

use everlog_kernel::Time;
use everlog_proto::api::enums::v1::WorkflowExecutionStatus;
use everlog_proto::api::filter::v1::{StartTimeFilter, WorkflowExecutionFilter, WorkflowTypeFilter};
use everlog_proto::api::workflowservice::v1::{
    ListClosedWorkflowExecutionsRequest, ListOpenWorkflowExecutionsRequest,
    list_closed_workflow_executions_request as closed, list_open_workflow_executions_request as open,
};

use super::{Comparison, Field, Filter, Query, Value, VisibilityError};

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
    let time = |timestamp: &everlog_proto::wkt::Timestamp| Time::from_proto(timestamp);
    let earliest = filter.and_then(|filter| filter.earliest_time.as_ref()).map(time);
    let latest = filter.and_then(|filter| filter.latest_time.as_ref()).map(time);
    Ok(match (earliest, latest) {
        (Some(earliest), Some(latest)) if earliest > latest => {
            return Err(invalid("EarliestTime in StartTimeFilter should not be larger than LatestTime."));
        }
        (Some(earliest), Some(latest)) => Some(Filter::Between(field, Value::Time(earliest), Value::Time(latest))),
        (Some(earliest), None) => Some(Filter::Compare(field, Comparison::GreaterOrEqual, Value::Time(earliest))),
        (None, Some(latest)) => Some(Filter::Compare(field, Comparison::LessOrEqual, Value::Time(latest))),
        (None, None) => None,
    })
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::filter::v1::StatusFilter;
    use everlog_proto::wkt::Timestamp;

    use super::*;
    use crate::SearchAttributeTypes;

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
    fn a_range_must_not_end_before_it_begins() {
        let request = ListOpenWorkflowExecutionsRequest {
            start_time_filter: times(2, Some(1)),
            ..ListOpenWorkflowExecutionsRequest::default()
        };
        let error = open_query(&request).unwrap_err();
        assert_eq!(error.to_string(), "EarliestTime in StartTimeFilter should not be larger than LatestTime.");
    }
}
