//! Queries over worker processes, which are no executions: they have columns of their own, and fewer operators. (Temporal:
//! `worker_query_engine.go`.)

use everlog_model::limits;
use everlog_proto::api::enums::v1::WorkerStatus;
use everlog_proto::api::worker::v1::WorkerHeartbeat;

use crate::VisibilityError;
use crate::syntax::{self, Literal, QueryError, Statement, Syntax};
use crate::times::{Moment, parse_time};

/// Which workers a query asks for.
#[derive(Debug)]
pub enum WorkerQuery {
    /// All.
    All,
    /// Those of which this is true.
    Where(Condition),
    /// None, since it makes no sense.
    Nothing,
}

/// A condition on workers.
#[derive(Debug)]
pub struct Condition(Syntax);

/// A column's value.
enum Column<'a> {
    Text(&'a str),
    Time(Option<Moment>),
}

impl WorkerQuery {
    /// Reads a query; empty, it asks for all.
    ///
    /// # Errors
    ///
    /// [`VisibilityError::InvalidArgument`] if it is too long or cannot be read. What can be read and makes no sense asks for no worker.
    pub fn parse(text: &str) -> Result<WorkerQuery, VisibilityError> {
        if text.trim().is_empty() {
            return Ok(WorkerQuery::All);
        }
        if text.len() > limits::VISIBILITY_QUERY_BYTES_MAX {
            let text = format!("query is longer than {} bytes", limits::VISIBILITY_QUERY_BYTES_MAX);
            return Err(VisibilityError::InvalidArgument(text));
        }
        match syntax::parse(text) {
            Ok(Statement { condition: Some(condition), .. }) => Ok(WorkerQuery::Where(Condition(condition))),
            Err(error @ QueryError::Malformed { .. }) => {
                // The words of another parser of Temporal's.
                let text = error.to_string().replacen("malformed SQL query", "malformed query", 1);
                Err(VisibilityError::InvalidArgument(text))
            }
            Ok(Statement { condition: None, .. }) | Err(_) => Ok(WorkerQuery::Nothing),
        }
    }

    /// Whether it asks for this one.
    pub fn matches(&self, worker: &WorkerHeartbeat) -> bool {
        match self {
            WorkerQuery::All => true,
            WorkerQuery::Where(Condition(condition)) => evaluate(condition, worker) == Some(true),
            WorkerQuery::Nothing => false,
        }
    }
}

/// Whether a condition is true; `None` if it makes no sense.
fn evaluate(condition: &Syntax, worker: &WorkerHeartbeat) -> Option<bool> {
    match condition {
        Syntax::And(operands) => operands.iter().try_fold(true, |all, operand| {
            // What stands behind something false is not looked at.
            if all { evaluate(operand, worker) } else { Some(false) }
        }),
        Syntax::Or(operands) => {
            operands.iter().try_fold(false, |any, operand| if any { Some(true) } else { evaluate(operand, worker) })
        }
        Syntax::Not(_) | Syntax::In { .. } => None,
        Syntax::Compare { column, operator, value } => compare(&value_of(column, worker)?, operator, value),
        Syntax::Between { column, low, high, negated } => {
            let (low, high) = (moment(low)?, moment(high)?);
            match value_of(column, worker)? {
                Column::Time(Some(time)) => Some((low..=high).contains(&time) != *negated),
                Column::Time(None) => Some(false),
                Column::Text(_) => None,
            }
        }
        Syntax::IsNull { column, negated } => {
            let is_null = match value_of(column, worker)? {
                Column::Text(text) => text.is_empty(),
                Column::Time(time) => time.is_none(),
            };
            Some(is_null != *negated)
        }
    }
}

fn value_of<'a>(column: &str, worker: &'a WorkerHeartbeat) -> Option<Column<'a>> {
    let host = worker.host_info.as_ref();
    let version = worker.deployment_version.as_ref();
    Some(match column {
        "WorkerInstanceKey" => Column::Text(&worker.worker_instance_key),
        "WorkerIdentity" => Column::Text(&worker.worker_identity),
        "HostName" => Column::Text(host.map_or("", |host| &host.host_name)),
        "TaskQueue" => Column::Text(&worker.task_queue),
        "DeploymentName" => Column::Text(version.map_or("", |version| &version.deployment_name)),
        "BuildId" => Column::Text(version.map_or("", |version| &version.build_id)),
        "SdkName" => Column::Text(&worker.sdk_name),
        "SdkVersion" => Column::Text(&worker.sdk_version),
        "StartTime" => Column::Time(worker.start_time.as_ref().map(Moment::from_proto)),
        "HeartbeatTime" => Column::Time(worker.heartbeat_time.as_ref().map(Moment::from_proto)),
        "WorkerStatus" => Column::Text(status(worker)),
        // A word of SQL's, which has no case.
        column if column.eq_ignore_ascii_case("Status") => Column::Text(status(worker)),
        _ => return None,
    })
}

fn status(worker: &WorkerHeartbeat) -> &'static str {
    match worker.status() {
        WorkerStatus::Unspecified => "Unspecified",
        WorkerStatus::Running => "Running",
        WorkerStatus::ShuttingDown => "ShuttingDown",
        WorkerStatus::Shutdown => "Shutdown",
    }
}

fn compare(column: &Column<'_>, operator: &str, value: &Literal) -> Option<bool> {
    match (column, value) {
        (Column::Text(text), Literal::String(asked)) if !asked.is_empty() => match operator {
            "=" => Some(*text == asked),
            "!=" => Some(*text != asked),
            "STARTS_WITH" => Some(text.starts_with(asked.as_str())),
            "NOT STARTS_WITH" => Some(!text.starts_with(asked.as_str())),
            _ => None,
        },
        (Column::Time(time), value) => {
            // One that is not set is the beginning of time, as Temporal has it.
            let (time, asked) = (time.unwrap_or(Moment::from(everlog_kernel::Time(0))), moment(value)?);
            match operator {
                "=" => Some(time == asked),
                "!=" => Some(time != asked),
                "<" => Some(time < asked),
                "<=" => Some(time <= asked),
                ">" => Some(time > asked),
                ">=" => Some(time >= asked),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A time in RFC 3339, or in nanoseconds since 1970.
fn moment(value: &Literal) -> Option<Moment> {
    match value {
        Literal::String(text) => parse_time(text),
        Literal::Integer(nanos) => Some(Moment::from(everlog_kernel::Time(*nanos))),
        Literal::Double(_) | Literal::Bool(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
    use everlog_proto::api::worker::v1::WorkerHostInfo;
    use everlog_proto::wkt::Timestamp;

    use super::*;

    fn worker() -> WorkerHeartbeat {
        WorkerHeartbeat {
            worker_instance_key: "k1".into(),
            worker_identity: "me@h".into(),
            host_info: Some(WorkerHostInfo { host_name: "h".into(), ..WorkerHostInfo::default() }),
            task_queue: "q".into(),
            deployment_version: Some(WorkerDeploymentVersion { deployment_name: "d".into(), build_id: "b".into() }),
            sdk_name: "py".into(),
            sdk_version: "1.2.3".into(),
            status: WorkerStatus::Running.into(),
            // 2026-11-27T10:00:00Z
            start_time: Some(Timestamp { seconds: 1_795_773_600, nanos: 0 }),
            ..WorkerHeartbeat::default()
        }
    }

    /// What a Temporal server (1.32.0) said of each.
    #[test]
    fn queries_ask_for_what_they_ask_for_with_temporal() {
        let bare =
            WorkerHeartbeat { worker_instance_key: "k2".into(), task_queue: "q2".into(), ..WorkerHeartbeat::default() };
        for (query, is_worker, is_bare) in [
            ("", true, true),
            ("TaskQueue='q'", true, false),
            ("TaskQueue=\"q\" AND Status='Running'", true, false),
            ("status='Running' and WorkerStatus = 'Running'", true, false),
            ("Status='running'", false, false),
            ("Status='WORKER_STATUS_RUNNING'", false, false),
            ("Status=1", false, false),
            ("SdkVersion>'1.2'", false, false),
            ("StartTime>'2026-01-01T00:00:00Z'", true, false),
            ("StartTime<'2026-01-01T00:00:00Z'", false, true),
            ("StartTime BETWEEN '2026-01-01' AND '2027-01-01'", false, false),
            ("StartTime BETWEEN '2026-01-01T00:00:00Z' AND '2027-01-01T00:00:00Z'", true, false),
            ("StartTime NOT BETWEEN '2026-01-01T00:00:00Z' AND '2027-01-01T00:00:00Z'", false, false),
            ("HeartbeatTime IS NULL", true, true),
            ("WorkerIdentity STARTS_WITH 'me'", true, false),
            ("TaskQueue NOT STARTS_WITH 'q2'", true, false),
            ("TaskQueue IN ('q','q2')", false, false),
            ("TaskQueue IS NULL", false, false),
            ("Nope='x'", false, false),
            ("taskqueue='q'", false, false),
            ("NOT TaskQueue='q'", false, false),
            ("TaskQueue!='q'", false, true),
            ("TaskQueue!=''", false, false),
            ("(TaskQueue='q' OR TaskQueue='q2')", true, true),
            ("TaskQueue='q' OR Nope='x'", true, false),
            ("Nope='x' OR TaskQueue='q'", false, false),
            ("HostName='h' and DeploymentName='d' and BuildId='b' and SdkName='py'", true, false),
            ("DeploymentName IS NULL", false, true),
            ("Status IS NOT NULL", true, true),
            ("StartTime='yesterday'", false, false),
            ("TaskQueue=1", false, false),
            ("TaskQueue", false, false),
        ] {
            let parsed = WorkerQuery::parse(query).unwrap();
            assert_eq!((parsed.matches(&worker()), parsed.matches(&bare)), (is_worker, is_bare), "{query}");
        }
        let error = WorkerQuery::parse("bad bad").unwrap_err();
        assert_eq!(error.to_string(), "malformed query: syntax error at position 35 near 'bad'");
    }
}
