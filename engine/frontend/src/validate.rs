//! Checks of requests that need no workflow: what is set, how long it is, how large it is. Texts and order are Temporal's.

use everlog_config::DynamicConfig;
use everlog_kernel::RunId;
use everlog_model::limits;
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::common::v1::{Link, Payloads, WorkflowExecution};
use everlog_proto::api::enums::v1::TaskQueueKind;
use everlog_proto::api::failure::v1::failure::FailureInfo;
use everlog_proto::api::failure::v1::{Failure, ServerFailureInfo};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use everlog_proto::api::workflowservice::v1::RespondWorkflowTaskCompletedRequest;
use prost::Message;

use super::errors::Error;

/// Task queues with this prefix are the server's.
pub(super) const RESERVED_QUEUE_PREFIX: &str = "/_sys/";

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

/// The same where a request that names none is told what is missing of it, in other words.
pub(super) fn named_execution(execution: Option<&WorkflowExecution>) -> Result<(&str, Option<RunId>), Error> {
    match execution {
        Some(execution) if !execution.workflow_id.is_empty() => {
            Ok((&execution.workflow_id, run_id(&execution.run_id, "RunId is not valid UUID.")?))
        }
        _ => Err(Error::invalid("WorkflowId is not set on request.")),
    }
}

/// A run id that may be left out.
pub(super) fn run_id(text: &str, message: &'static str) -> Result<Option<RunId>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Error::invalid(message))
}

/// A task queue, by its name.
pub(super) fn task_queue(task_queue: Option<&TaskQueue>, bytes_max: usize) -> Result<&str, Error> {
    let name = task_queue_name(task_queue, bytes_max)?;
    normal_name(task_queue)?;
    Ok(name)
}

/// The name of a task queue, whatever else is said of it.
pub(super) fn task_queue_name(task_queue: Option<&TaskQueue>, bytes_max: usize) -> Result<&str, Error> {
    let name = task_queue_partition(task_queue, bytes_max)?;
    if name.starts_with(RESERVED_QUEUE_PREFIX) {
        return Err(Error::invalid("task queue name cannot start with reserved prefix /_sys/"));
    }
    Ok(name)
}

/// Only behind a sticky queue there is another one.
pub(super) fn normal_name(task_queue: Option<&TaskQueue>) -> Result<(), Error> {
    match task_queue {
        Some(TaskQueue { name, normal_name, kind, .. })
            if !normal_name.is_empty() && *kind != TaskQueueKind::Sticky as i32 =>
        {
            let message = format!("only sticky queues can have normal name. tq: {name}, normal name: {normal_name}");
            Err(Error::invalid(message))
        }
        _ => Ok(()),
    }
}

/// A task queue or a partition of one, by its name.
pub(super) fn task_queue_partition(task_queue: Option<&TaskQueue>, bytes_max: usize) -> Result<&str, Error> {
    let queue = task_queue.ok_or_else(|| Error::invalid("taskQueue is not set"))?;
    if queue.name.is_empty() {
        return Err(Error::invalid("missing task queue name"));
    }
    length(&queue.name, bytes_max, "taskQueue length exceeds limit")?;
    if queue.kind() == TaskQueueKind::Sticky {
        length(&queue.normal_name, bytes_max, "taskQueue length exceeds limit")?;
    }
    Ok(&queue.name)
}

/// What is wrong with the name of a normal task queue, if something is.
pub(super) fn queue_name_issue(name: &str, bytes_max: usize) -> Option<&'static str> {
    match name {
        "" => Some("taskQueue is not set"),
        name if name.len() > bytes_max => Some("taskQueue length exceeds limit"),
        name if name.starts_with(RESERVED_QUEUE_PREFIX) => {
            Some("task queue name cannot start with reserved prefix /_sys/")
        }
        _ => None,
    }
}

/// Links.
pub(super) fn links(links: &[Link], config: &DynamicConfig) -> Result<(), Error> {
    Ok(everlog_kernel::check_links(links, &config.limits)?)
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

#[cfg(test)]
mod tests {
    use everlog_proto::api::common::v1::Payload;

    use super::*;

    fn told<T>(result: Result<T, Error>) -> String {
        match result {
            Ok(_) => "ok".to_owned(),
            Err(Error::Rejected(rejection)) => rejection.to_string(),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn names_and_ids() {
        let long = "x".repeat(1001);
        let named = |name: &str| Some(TaskQueue { name: name.to_owned(), ..TaskQueue::default() });
        let of_kind = |kind: TaskQueueKind, normal_name: &str| {
            Some(TaskQueue { name: "a".to_owned(), kind: kind.into(), normal_name: normal_name.to_owned() })
        };
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
            (
                told(task_queue(of_kind(TaskQueueKind::Normal, "b").as_ref(), 1000)),
                "only sticky queues can have normal name. tq: a, normal name: b",
            ),
            (told(task_queue(of_kind(TaskQueueKind::Sticky, "b").as_ref(), 1000)), "ok"),
            (told(task_queue(of_kind(TaskQueueKind::Sticky, &long).as_ref(), 1000)), "taskQueue length exceeds limit"),
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
        assert_eq!(
            told(links(&vec![Link::default(); 11], &config)),
            "cannot attach more than 10 links per request, got 11"
        );
    }
}
