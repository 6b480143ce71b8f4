//! The fields that a query can name.

use everlog_model::search_attributes::SYSTEM;
use everlog_proto::api::enums::v1::IndexedValueType;

use super::SearchAttributeTypes;

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// Keyword.
    WorkflowId,
    /// Keyword.
    RunId,
    /// Keyword.
    WorkflowType,
    /// Datetime.
    StartTime,
    /// Datetime: when the first workflow task was due.
    ExecutionTime,
    /// Datetime; null while the run is open.
    CloseTime,
    /// Keyword, compared as its number.
    ExecutionStatus,
    /// Keyword.
    TaskQueue,
    /// Int; null while the run is open.
    HistoryLength,
    /// Int, nanoseconds; null while the run is open.
    ExecutionDuration,
    /// Int; null while the run is open.
    StateTransitionCount,
    /// Int; null while the run is open.
    HistorySizeBytes,
    /// Keyword.
    ParentWorkflowId,
    /// Keyword.
    ParentRunId,
    /// Keyword: the run itself, if it has no parent.
    RootWorkflowId,
    /// Keyword.
    RootRunId,
    /// Keyword: of an activity that is no workflow's, as the two below.
    ActivityId,
    /// Keyword.
    ActivityType,
    /// Keyword, compared as the number of a workflow's status of that name.
    ActivityStatus,
    /// A search attribute.
    Attribute(String, IndexedValueType),
}

impl Field {
    /// The field that a query calls `name`.
    pub(super) fn named(name: &str, types: &SearchAttributeTypes) -> Option<Field> {
        let field = match name {
            "WorkflowId" => Field::WorkflowId,
            "RunId" => Field::RunId,
            "WorkflowType" => Field::WorkflowType,
            "StartTime" => Field::StartTime,
            "ExecutionTime" => Field::ExecutionTime,
            "CloseTime" => Field::CloseTime,
            "ExecutionStatus" => Field::ExecutionStatus,
            "TaskQueue" => Field::TaskQueue,
            "HistoryLength" => Field::HistoryLength,
            "ExecutionDuration" => Field::ExecutionDuration,
            "StateTransitionCount" => Field::StateTransitionCount,
            "HistorySizeBytes" => Field::HistorySizeBytes,
            "ParentWorkflowId" => Field::ParentWorkflowId,
            "ParentRunId" => Field::ParentRunId,
            "RootWorkflowId" => Field::RootWorkflowId,
            "RootRunId" => Field::RootRunId,
            _ => return Field::attribute(name, types),
        };
        Some(field)
    }

    /// The field that a query for activities calls `name`. What only workflows have is null.
    pub(super) fn named_of_activity(name: &str, types: &SearchAttributeTypes) -> Option<Field> {
        Some(match name {
            "ActivityId" => Field::ActivityId,
            "ActivityType" => Field::ActivityType,
            "ExecutionStatus" => Field::ActivityStatus,
            "WorkflowType" | "RootWorkflowId" => Field::ParentWorkflowId,
            "RootRunId" => Field::ParentRunId,
            _ => return Field::named(name, types),
        })
    }

    fn attribute(name: &str, types: &SearchAttributeTypes) -> Option<Field> {
        let declared = types.get(name).copied().filter(|declared| *declared != IndexedValueType::Unspecified);
        let system = || SYSTEM.iter().find(|(known, _)| *known == name).map(|(_, value_type)| *value_type);
        if let Some(value_type) = declared.or_else(system) {
            return Some(Field::Attribute(name.to_owned(), value_type));
        }
        // A schedule's id is the id of its workflow, unless the namespace has an attribute of that name.
        (name == "ScheduleId").then_some(Field::WorkflowId)
    }

    /// Its name in queries.
    pub fn name(&self) -> &str {
        match self {
            Field::WorkflowId => "WorkflowId",
            Field::RunId => "RunId",
            Field::WorkflowType => "WorkflowType",
            Field::StartTime => "StartTime",
            Field::ExecutionTime => "ExecutionTime",
            Field::CloseTime => "CloseTime",
            Field::ExecutionStatus => "ExecutionStatus",
            Field::TaskQueue => "TaskQueue",
            Field::HistoryLength => "HistoryLength",
            Field::ExecutionDuration => "ExecutionDuration",
            Field::StateTransitionCount => "StateTransitionCount",
            Field::HistorySizeBytes => "HistorySizeBytes",
            Field::ParentWorkflowId => "ParentWorkflowId",
            Field::ParentRunId => "ParentRunId",
            Field::RootWorkflowId => "RootWorkflowId",
            Field::RootRunId => "RootRunId",
            Field::ActivityId => "ActivityId",
            Field::ActivityType => "ActivityType",
            Field::ActivityStatus => "ExecutionStatus",
            Field::Attribute(name, _) => name,
        }
    }

    /// What its values are.
    pub fn value_type(&self) -> IndexedValueType {
        match self {
            Field::WorkflowId
            | Field::RunId
            | Field::WorkflowType
            | Field::ExecutionStatus
            | Field::TaskQueue
            | Field::ParentWorkflowId
            | Field::ParentRunId
            | Field::RootWorkflowId
            | Field::RootRunId
            | Field::ActivityId
            | Field::ActivityType
            | Field::ActivityStatus => IndexedValueType::Keyword,
            Field::StartTime | Field::ExecutionTime | Field::CloseTime => IndexedValueType::Datetime,
            Field::HistoryLength | Field::ExecutionDuration | Field::StateTransitionCount | Field::HistorySizeBytes => {
                IndexedValueType::Int
            }
            Field::Attribute(_, value_type) => *value_type,
        }
    }

    /// Whether it is null as long as the run is open.
    pub(super) fn is_set_on_close(&self) -> bool {
        matches!(
            self,
            Field::CloseTime
                | Field::HistoryLength
                | Field::ExecutionDuration
                | Field::StateTransitionCount
                | Field::HistorySizeBytes
        )
    }
}

/// The name of a value type, as errors and payloads write it.
pub(super) fn type_name(value_type: IndexedValueType) -> &'static str {
    match value_type {
        IndexedValueType::Unspecified => "Unspecified",
        IndexedValueType::Text => "Text",
        IndexedValueType::Keyword => "Keyword",
        IndexedValueType::Int => "Int",
        IndexedValueType::Double => "Double",
        IndexedValueType::Bool => "Bool",
        IndexedValueType::Datetime => "Datetime",
        IndexedValueType::KeywordList => "KeywordList",
    }
}

/// Names of `WorkflowExecutionStatus`, by number.
const STATUSES: [&str; 9] =
    ["Unspecified", "Running", "Completed", "Failed", "Canceled", "Terminated", "ContinuedAsNew", "TimedOut", "Paused"];

/// Every status that a record can have.
pub(super) fn statuses() -> std::ops::Range<i64> {
    0..STATUSES.len() as i64
}

/// The number of a status.
pub(super) fn status_number(name: &str) -> Option<i64> {
    STATUSES.iter().position(|known| *known == name).and_then(|number| i64::try_from(number).ok())
}

/// The name of a status.
pub(super) fn status_name(number: i64) -> Option<&'static str> {
    STATUSES.get(usize::try_from(number).ok()?).copied()
}

/// Whether runs with that status are open.
pub(super) fn status_is_open(number: i64) -> bool {
    matches!(status_name(number), Some("Running" | "Paused"))
}
