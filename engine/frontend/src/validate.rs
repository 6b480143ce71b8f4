//! Checks of requests that need no workflow: what is set, how long it is, how large it is. Texts and order are Temporal's.

use std::time::Duration;

use everlog_config::DynamicConfig;
use everlog_kernel::RunId;
use everlog_kernel::time::positive;
use everlog_model::limits;
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::common::v1::{Link, Memo, Payloads, Priority, RetryPolicy, WorkflowExecution, WorkflowType};
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{Failure, ServerFailureInfo};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::RespondWorkflowTaskCompletedRequest;
use everlog_proto::wkt;
use prost::Message;

use super::errors::Error;

/// Task queues with this prefix are the server's.
const RESERVED_QUEUE_PREFIX: &str = "/_sys/";

/// Bytes of a fairness key.
const FAIRNESS_KEY_BYTES_MAX: usize = 64;

/// A text that may be empty and must not be longer than `bytes_max`.
pub(super) fn length(text: &str, bytes_max: usize, message: &'static str) -> Result<(), Error> {
    if text.len() > bytes_max { Err(Error::invalid(message)) } else { Ok(()) }
}

/// The execution that a request names: workflow id and, if it names one, run id.
pub(super) fn execution(execution: Option<&WorkflowExecution>) -> Result<(&str, Option<RunId>), Error> {
    let execution = execution.ok_or_else(|| Error::invalid("Execution is not set on request."))?;
    if execution.workflow_id.is_empty() {
        return Err(Error::invalid("WorkflowId is not set on request."));
    }
    Ok((&execution.workflow_id, run_id(&execution.run_id, "Invalid RunId.")?))
}

/// A run id that may be left out.
pub(super) fn run_id(text: &str, message: &'static str) -> Result<Option<RunId>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Error::invalid(message))
}

/// A workflow id of a run to be started.
pub(super) fn new_workflow_id(workflow_id: &str, bytes_max: usize) -> Result<(), Error> {
    if workflow_id.is_empty() {
        return Err(Error::invalid("WorkflowId is not set on request."));
    }
    if workflow_id.len() > bytes_max {
        let message = format!("WorkflowId exceeds maximum allowed length ({}/{bytes_max})", workflow_id.len());
        return Err(Error::invalid(message));
    }
    Ok(())
}

/// A workflow type.
pub(super) fn workflow_type(workflow_type: Option<&WorkflowType>, bytes_max: usize) -> Result<(), Error> {
    let name = workflow_type.map_or("", |workflow_type| &workflow_type.name);
    if name.is_empty() {
        return Err(Error::invalid("WorkflowType is not set on request."));
    }
    length(name, bytes_max, "WorkflowType length exceeds limit.")
}

/// A task queue, by its name.
pub(super) fn task_queue(task_queue: Option<&TaskQueue>, bytes_max: usize) -> Result<&str, Error> {
    let queue = task_queue.ok_or_else(|| Error::invalid("taskQueue is not set"))?;
    if queue.name.is_empty() {
        return Err(Error::invalid("missing task queue name"));
    }
    length(&queue.name, bytes_max, "taskQueue length exceeds limit")?;
    if queue.name.starts_with(RESERVED_QUEUE_PREFIX) {
        return Err(Error::invalid("task queue name cannot start with reserved prefix /_sys/"));
    }
    Ok(&queue.name)
}

/// A retry policy. One that allows a single attempt is not looked at further.
pub(super) fn retry_policy(policy: Option<&RetryPolicy>) -> Result<(), Error> {
    let Some(policy) = policy.filter(|policy| policy.maximum_attempts != 1) else { return Ok(()) };
    let interval = |interval: Option<&wkt::Duration>, name: &str| {
        positive(interval)
            .map(Option::unwrap_or_default)
            .map_err(|_| Error::invalid(format!("invalid {name} set on retry policy: negative duration")))
    };
    let initial = interval(policy.initial_interval.as_ref(), "InitialInterval")?;
    if policy.backoff_coefficient != 0.0 && policy.backoff_coefficient < 1.0 {
        return Err(Error::invalid("BackoffCoefficient cannot be less than 1 on retry policy."));
    }
    let maximum = interval(policy.maximum_interval.as_ref(), "MaximumInterval")?;
    if !maximum.is_zero() && maximum < initial {
        return Err(Error::invalid("MaximumInterval cannot be less than InitialInterval on retry policy."));
    }
    if policy.maximum_attempts < 0 {
        return Err(Error::invalid("MaximumAttempts cannot be negative on retry policy."));
    }
    Ok(())
}

/// A duration that must not be negative; `name` is the field's.
pub(super) fn duration(duration: Option<&wkt::Duration>, name: &str) -> Result<Option<Duration>, Error> {
    positive(duration)
        .map_err(|_| Error::invalid(format!("An invalid {name} is set on request. cause: negative duration")))
}

/// A priority.
pub(super) fn priority(priority: Option<&Priority>) -> Result<(), Error> {
    let Some(priority) = priority else { return Ok(()) };
    if priority.priority_key < 0 {
        return Err(Error::invalid("priority key can't be negative"));
    }
    length(&priority.fairness_key, FAIRNESS_KEY_BYTES_MAX, "fairness key length exceeds limit")
}

/// Links.
pub(super) fn links(links: &[Link], config: &DynamicConfig) -> Result<(), Error> {
    let (links_max, bytes_max) = (config.limits.links_max, config.limits.link_bytes_max);
    if links.len() > links_max {
        let message = format!("cannot attach more than {links_max} links per request, got {}", links.len());
        return Err(Error::invalid(message));
    }
    match links.iter().map(Message::encoded_len).find(|bytes| *bytes > bytes_max) {
        Some(bytes) => Err(Error::invalid(format!("link exceeds allowed size of {bytes_max}, got {bytes}"))),
        None => Ok(()),
    }
}

/// Payloads of a request.
pub(super) fn payloads(payloads: Option<&Payloads>, config: &DynamicConfig) -> Result<(), Error> {
    match payloads {
        Some(payloads) if payloads.encoded_len() > config.limits.blob_bytes_max => {
            Err(Error::invalid("Blob data size exceeds limit."))
        }
        _ => Ok(()),
    }
}

/// Cuts off causes that are nested deeper than [`limits::FAILURE_CAUSES_MAX`], and says so in their place. Every failure that comes
/// from outside goes through here.
pub(super) fn cut_causes(failure: &mut Option<Failure>) {
    let Some(mut innermost) = failure.as_mut() else { return };
    for _ in 0..limits::FAILURE_CAUSES_MAX {
        match &mut innermost.cause {
            Some(cause) => innermost = cause,
            None => return,
        }
    }
    let Some(cause) = &mut innermost.cause else { return };
    let count = std::iter::successors(Some(&**cause), |failure| failure.cause.as_deref()).count();
    **cause = Failure {
        message: format!("{count} more causes were cut off."),
        source: "Server".to_owned(),
        failure_info: Some(FailureInfo::ServerFailureInfo(ServerFailureInfo::default())),
        ..Failure::default()
    };
}

/// The same for the failures of a completed workflow task.
pub(super) fn cut_causes_of_task(request: &mut RespondWorkflowTaskCompletedRequest) {
    for command in &mut request.commands {
        match &mut command.attributes {
            Some(Attributes::FailWorkflowExecutionCommandAttributes(a)) => cut_causes(&mut a.failure),
            Some(Attributes::RecordMarkerCommandAttributes(a)) => cut_causes(&mut a.failure),
            Some(Attributes::ContinueAsNewWorkflowExecutionCommandAttributes(a)) => cut_causes(&mut a.failure),
            _ => {}
        }
    }
    request.query_results.values_mut().for_each(|result| cut_causes(&mut result.failure));
}

/// A memo.
pub(super) fn memo(memo: Option<&Memo>, config: &DynamicConfig) -> Result<(), Error> {
    match memo {
        Some(memo) if memo.encoded_len() > config.limits.memo_bytes_max => {
            Err(Error::invalid("Memo size exceeds limit."))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::common::v1::Payload;

    use super::*;

    fn seconds(seconds: i64) -> Option<wkt::Duration> {
        Some(wkt::Duration { seconds, nanos: 0 })
    }

    fn told<T>(result: Result<T, Error>) -> String {
        match result {
            Ok(_) => "ok".to_owned(),
            Err(Error::Rejected(rejection)) => rejection.to_string(),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn retry_policies() {
        let policy = RetryPolicy::default;
        let cases = [
            (policy(), "ok"),
            (
                RetryPolicy { backoff_coefficient: 0.5, ..policy() },
                "BackoffCoefficient cannot be less than 1 on retry policy.",
            ),
            (RetryPolicy { backoff_coefficient: 0.5, maximum_attempts: 1, ..policy() }, "ok"),
            (
                RetryPolicy { initial_interval: seconds(-1), ..policy() },
                "invalid InitialInterval set on retry policy: negative duration",
            ),
            (
                RetryPolicy { maximum_interval: seconds(-1), ..policy() },
                "invalid MaximumInterval set on retry policy: negative duration",
            ),
            (
                RetryPolicy { initial_interval: seconds(5), maximum_interval: seconds(1), ..policy() },
                "MaximumInterval cannot be less than InitialInterval on retry policy.",
            ),
            (RetryPolicy { maximum_attempts: -1, ..policy() }, "MaximumAttempts cannot be negative on retry policy."),
        ];
        for (policy, expected) in cases {
            assert_eq!(told(retry_policy(Some(&policy))), expected, "{policy:?}");
        }
        assert_eq!(told(retry_policy(None)), "ok");
    }

    #[test]
    fn names_and_ids() {
        let long = "x".repeat(1001);
        let named = |name: &str| Some(TaskQueue { name: name.to_owned(), ..TaskQueue::default() });
        let typed = |name: &str| Some(WorkflowType { name: name.to_owned() });
        let run = |workflow_id: &str, run_id: &str| {
            Some(WorkflowExecution { workflow_id: workflow_id.to_owned(), run_id: run_id.to_owned() })
        };
        let cases = [
            (told(task_queue(None, 1000)), "taskQueue is not set"),
            (told(task_queue(named("").as_ref(), 1000)), "missing task queue name"),
            (told(task_queue(named(&long).as_ref(), 1000)), "taskQueue length exceeds limit"),
            (
                told(task_queue(named("/_sys/a").as_ref(), 1000)),
                "task queue name cannot start with reserved prefix /_sys/",
            ),
            (told(task_queue(named("a").as_ref(), 1000)), "ok"),
            (told(workflow_type(None, 1000)), "WorkflowType is not set on request."),
            (told(workflow_type(typed(&long).as_ref(), 1000)), "WorkflowType length exceeds limit."),
            (told(new_workflow_id("", 1000)), "WorkflowId is not set on request."),
            (told(new_workflow_id(&long, 1000)), "WorkflowId exceeds maximum allowed length (1001/1000)"),
            (told(execution(None)), "Execution is not set on request."),
            (told(execution(run("", "").as_ref())), "WorkflowId is not set on request."),
            (told(execution(run("w", "bad").as_ref())), "Invalid RunId."),
            (told(execution(run("w", "01a204fb-a099-7a46-81de-22daaaf0b2ea").as_ref())), "ok"),
        ];
        for (result, expected) in cases {
            assert_eq!(result, expected);
        }
    }

    #[test]
    fn causes() {
        let nested = |causes: usize| {
            let wrap = |cause: Failure| Failure { cause: Some(Box::new(cause)), ..Failure::default() };
            Some((0..causes).fold(Failure::default(), |failure, _| wrap(failure)))
        };
        let depth = |failure: &Option<Failure>| {
            std::iter::successors(failure.as_ref(), |failure| failure.cause.as_deref()).count() - 1
        };
        for causes in [0, 1, limits::FAILURE_CAUSES_MAX] {
            let mut failure = nested(causes);
            cut_causes(&mut failure);
            assert_eq!(failure, nested(causes));
        }
        let mut failure = nested(98);
        cut_causes(&mut failure);
        assert_eq!(depth(&failure), limits::FAILURE_CAUSES_MAX + 1);
        let innermost = std::iter::successors(failure.as_ref(), |failure| failure.cause.as_deref()).last().unwrap();
        assert_eq!(innermost.message, "48 more causes were cut off.");
        cut_causes(&mut None);
    }

    #[test]
    fn sizes() {
        let config = DynamicConfig::default();
        let of = |bytes| Payload { data: vec![0; bytes], ..Payload::default() };
        let many = |bytes| Some(Payloads { payloads: vec![of(bytes)] });
        assert_eq!(told(payloads(many(100).as_ref(), &config)), "ok");
        assert_eq!(told(payloads(many(2 << 20).as_ref(), &config)), "Blob data size exceeds limit.");
        let large = Memo { fields: [("a".to_owned(), of(2 << 20))].into() };
        assert_eq!(told(memo(Some(&large), &config)), "Memo size exceeds limit.");
        assert_eq!(
            told(links(&vec![Link::default(); 11], &config)),
            "cannot attach more than 10 links per request, got 11"
        );
        let unfair = Priority { fairness_key: "x".repeat(65), ..Priority::default() };
        assert_eq!(told(priority(Some(&unfair))), "fairness key length exceeds limit");
        let negative = Priority { priority_key: -1, ..Priority::default() };
        assert_eq!(told(priority(Some(&negative))), "priority key can't be negative");
        assert_eq!(
            told(duration(seconds(-1).as_ref(), "WorkflowRunTimeoutSeconds")),
            "An invalid WorkflowRunTimeoutSeconds is set on request. cause: negative duration"
        );
    }
}
