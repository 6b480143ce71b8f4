//! Checks of requests that need no workflow: what is set, how long it is, how large it is. Texts and order are Temporal's.

use everlog_config::DynamicConfig;
use everlog_kernel::RunId;
use everlog_proto::api::common::v1::{Link, Payloads, WorkflowExecution};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use prost::Message;

use super::errors::Error;

/// Task queues with this prefix are the server's.
const RESERVED_QUEUE_PREFIX: &str = "/_sys/";

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
