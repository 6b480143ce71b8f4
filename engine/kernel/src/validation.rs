//! Rules for values that requests and commands have in common. Each says what is wrong in Temporal's words.

use everlog_proto::api::common::v1::link::Variant;
use everlog_proto::api::common::v1::link::workflow_event::Reference;
use everlog_proto::api::common::v1::{Link, Priority, SearchAttributes};
use everlog_proto::api::enums::v1::{EventType, TaskQueueKind};
use everlog_proto::api::taskqueue::v1::TaskQueue;
use prost::Message;

use crate::{Limits, Rejection};

/// Names with this prefix belong to the server.
const RESERVED_PREFIX: &str = "/_sys/";
const FAIRNESS_KEY_BYTES_MAX: usize = 64;

/// A task queue as a user may name it, with its kind filled in.
pub(crate) fn task_queue(task_queue: Option<TaskQueue>, bytes_max: usize) -> Result<TaskQueue, String> {
    let mut task_queue = task_queue.ok_or("taskQueue is not set")?;
    if task_queue.name.is_empty() {
        return Err("missing task queue name".into());
    }
    if task_queue.name.len() > bytes_max {
        return Err("taskQueue length exceeds limit".into());
    }
    if task_queue.name.starts_with(RESERVED_PREFIX) {
        return Err(format!("task queue name cannot start with reserved prefix {RESERVED_PREFIX}"));
    }
    if task_queue.kind == TaskQueueKind::Unspecified as i32 {
        task_queue.kind = TaskQueueKind::Normal as i32;
    }
    Ok(task_queue)
}

/// A normal task queue by a name that was looked at before.
pub(crate) fn normal_queue(name: &str) -> TaskQueue {
    TaskQueue { name: name.to_owned(), kind: TaskQueueKind::Normal as i32, ..TaskQueue::default() }
}

/// A priority with nothing out of range.
pub(crate) fn priority(priority: Option<&Priority>) -> Result<(), &'static str> {
    let Some(priority) = priority else { return Ok(()) };
    if priority.priority_key < 0 {
        return Err("priority key can't be negative");
    }
    if priority.fairness_key.len() > FAIRNESS_KEY_BYTES_MAX {
        return Err("fairness key length exceeds limit");
    }
    if priority.fairness_weight.is_nan() || priority.fairness_weight < 0.0 {
        return Err("must be greater than zero");
    }
    Ok(())
}

/// Refuses a priority with something out of range.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_priority(given: Option<&Priority>) -> Result<(), Rejection> {
    priority(given).map_err(Rejection::invalid)
}

/// Whether search attributes are not larger than limits allow, each and all together.
///
/// # Errors
///
/// What is too large.
pub fn search_attribute_sizes(attributes: &SearchAttributes, limits: &Limits) -> Result<(), String> {
    let bytes_max = limits.search_attribute_bytes_max;
    let too_large = attributes.indexed_fields.iter().filter(|(_, payload)| payload.data.len() > bytes_max);
    // The one of several that is told of is always the same.
    if let Some((name, payload)) = too_large.min_by_key(|(name, _)| name.as_str()) {
        let bytes = payload.data.len();
        return Err(format!("search attribute {name} value size {bytes} exceeds size limit {bytes_max}"));
    }
    let (bytes, bytes_max) = (attributes.encoded_len(), limits.search_attributes_bytes_max);
    if bytes > bytes_max {
        return Err(format!("total size of search attributes {bytes} exceeds size limit {bytes_max}"));
    }
    Ok(())
}

/// Looks at the links of a request: few, small, and with all that says where they lead.
///
/// # Errors
///
/// What is wrong with one of them.
pub fn check_links(links: &[Link], limits: &Limits) -> Result<(), Rejection> {
    let Limits { links_max, link_bytes_max, .. } = *limits;
    if links.len() > links_max {
        let message = format!("cannot attach more than {links_max} links per request, got {}", links.len());
        return Err(Rejection::invalid(message));
    }
    links.iter().try_for_each(|link| {
        let bytes = link.encoded_len();
        if bytes > link_bytes_max {
            return Err(Rejection::invalid(format!("link exceeds allowed size of {link_bytes_max}, got {bytes}")));
        }
        check_target(link)
    })
}

/// What a link leads to.
fn check_target(link: &Link) -> Result<(), Rejection> {
    let (kind, fields) = match &link.variant {
        Some(Variant::WorkflowEvent(to)) => (
            "workflow event",
            vec![
                ("namespace field", &to.namespace),
                ("workflow ID field", &to.workflow_id),
                ("run ID field", &to.run_id),
            ],
        ),
        Some(Variant::BatchJob(to)) => ("batch job", vec![("job ID", &to.job_id)]),
        Some(Variant::NexusOperation(to)) => (
            "nexus operation",
            vec![
                ("namespace field", &to.namespace),
                ("operation ID field", &to.operation_id),
                ("run ID field", &to.run_id),
            ],
        ),
        Some(Variant::Activity(to)) => (
            "activity",
            vec![
                ("namespace field", &to.namespace),
                ("activity ID field", &to.activity_id),
                ("run ID field", &to.run_id),
            ],
        ),
        _ => return Err(Rejection::invalid("unsupported link variant")),
    };
    if let Some((field, _)) = fields.iter().find(|(_, value)| value.is_empty()) {
        return Err(Rejection::invalid(format!("{kind} link must not have an empty {field}")));
    }
    if let Some(Variant::WorkflowEvent(to)) = &link.variant
        && let Some(Reference::EventRef(event)) = &to.reference
        && event.event_type == EventType::Unspecified as i32
        && event.event_id != 0
    {
        return Err(Rejection::invalid(
            "workflow event link ref cannot have an unspecified event type and a non-zero event ID",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::common::v1::link;
    use everlog_proto::api::common::v1::link::workflow_event::EventReference;

    use super::*;

    #[test]
    fn links_say_where_they_lead() {
        let text = |text: &str| text.to_owned();
        let to_event = |run_id: &str, reference| {
            let to =
                link::WorkflowEvent { namespace: text("n"), workflow_id: text("w"), run_id: text(run_id), reference };
            Some(Variant::WorkflowEvent(to))
        };
        let event = |event_id, event_type: EventType| {
            Some(Reference::EventRef(EventReference { event_id, event_type: event_type.into() }))
        };
        let activity = link::Activity { namespace: text("n"), activity_id: text(""), run_id: text("r") };
        let operation = link::NexusOperation { namespace: text(""), operation_id: text("o"), run_id: text("r") };
        let cases = [
            (to_event("r", None), ""),
            (to_event("r", event(0, EventType::Unspecified)), ""),
            (to_event("r", event(3, EventType::TimerStarted)), ""),
            (
                to_event("r", event(3, EventType::Unspecified)),
                "workflow event link ref cannot have an unspecified event type and a non-zero event ID",
            ),
            (to_event("", None), "workflow event link must not have an empty run ID field"),
            (Some(Variant::BatchJob(link::BatchJob::default())), "batch job link must not have an empty job ID"),
            (Some(Variant::Activity(activity)), "activity link must not have an empty activity ID field"),
            (Some(Variant::NexusOperation(operation)), "nexus operation link must not have an empty namespace field"),
            (None, "unsupported link variant"),
        ];
        for (variant, expected) in cases {
            let told = check_links(&[Link { variant }], &Limits::default());
            assert_eq!(told.map_or_else(|rejection| rejection.to_string(), |()| String::new()), expected);
        }
    }
}
