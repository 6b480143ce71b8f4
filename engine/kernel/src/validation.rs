//! Rules for values that requests and commands have in common. Each says what is wrong in Temporal's words.

use everlog_proto::api::common::v1::{Link, Priority, SearchAttributes};
use everlog_proto::api::enums::v1::TaskQueueKind;
use everlog_proto::api::taskqueue::v1::TaskQueue;
use prost::Message;

use crate::Limits;

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

/// Few and small links.
pub(crate) fn links(links: &[Link], limits: &Limits) -> Result<(), String> {
    let Limits { links_max, link_bytes_max, .. } = *limits;
    if links.len() > links_max {
        return Err(format!("cannot attach more than {links_max} links per request, got {}", links.len()));
    }
    match links.iter().map(Message::encoded_len).find(|bytes| *bytes > link_bytes_max) {
        Some(bytes) => Err(format!("link exceeds allowed size of {link_bytes_max}, got {bytes}")),
        None => Ok(()),
    }
}
