//! ScheduleNexusOperation. (Temporal: `components/nexusoperations/workflow/commands.go`.)

use std::collections::{BTreeMap, HashMap};

use everlog_proto::api::command::v1::ScheduleNexusOperationCommandAttributes;
use everlog_proto::api::enums::v1::WorkflowTaskFailedCause as Cause;
use everlog_proto::api::history::v1::NexusOperationScheduledEventAttributes;
use everlog_proto::api::history::v1::history_event::Attributes;
use everlog_proto::wkt;
use prost::Message;

use super::{CommandContext, Invalid};
use crate::txn::Txn;
use crate::{nexus, time};

const CAUSE: Cause = Cause::BadScheduleNexusOperationAttributes;

/// `component.nexusoperations.limit.service.name.length` and `...operation.name.length`, bytes.
const NAME_BYTES_MAX: usize = 1000;

/// `component.nexusoperations.limit.header.size`, bytes.
const HEADER_BYTES_MAX: usize = 8192;

/// `component.nexusoperations.disallowedHeaders`: what the server says itself of a call.
const HEADERS_REFUSED: [&str; 9] = [
    "request-timeout",
    "xdc-redirection-api",
    "xdc-redirection-source-cell",
    "xdc-redirection",
    "caller-name",
    "caller-type",
    "call-initiation",
    "temporal-principal-type",
    "temporal-principal-name",
];

/// Has the operation called. The workflow hears what became of it by events. `endpoints` are those that there are of the task's commands,
/// with their ids.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    command: &mut CommandContext,
    attributes: ScheduleNexusOperationCommandAttributes,
    endpoints: &BTreeMap<String, String>,
) -> Result<(), Invalid> {
    let bad = |message: String| Invalid::new(CAUSE, message);
    let Some(endpoint_id) = endpoints.get(&attributes.endpoint).cloned() else {
        return Err(bad(format!("endpoint {:?} not found", attributes.endpoint)));
    };
    for (name, given) in [("Service", &attributes.service), ("Operation", &attributes.operation)] {
        if given.len() > NAME_BYTES_MAX {
            let text =
                format!("ScheduleNexusOperationCommandAttributes.{name} exceeds length limit of {NAME_BYTES_MAX}");
            return Err(bad(text));
        }
    }
    let timeouts = [
        ("ScheduleToCloseTimeout", &attributes.schedule_to_close_timeout),
        ("ScheduleToStartTimeout", &attributes.schedule_to_start_timeout),
        ("StartToCloseTimeout", &attributes.start_to_close_timeout),
    ];
    for (name, given) in timeouts {
        if let Err(why) = time::positive(given.as_ref()) {
            return Err(bad(format!("ScheduleNexusOperationCommandAttributes.{name} is invalid: {why}")));
        }
    }
    if attributes.input.as_ref().map_or(0, Message::encoded_len) > txn.ctx.limits.blob_bytes_max {
        let text = "ScheduleNexusOperationCommandAttributes.Input exceeds size limit";
        return Err(Invalid::too_large(CAUSE, text));
    }
    let nexus_header = header(attributes.nexus_header)?;
    let (pending, pending_max) = (txn.run.nexus_operations.len(), txn.ctx.limits.pending_nexus_operations_max);
    if pending >= pending_max {
        return Err(Invalid::new(
            Cause::PendingNexusOperationsLimitExceeded,
            format!("workflow has reached the pending nexus operation limit of {pending_max} for this namespace"),
        ));
    }
    let run_timeout = txn.run.info.started.run_timeout().map(time::to_proto);
    let schedule_to_close_timeout = shorter(attributes.schedule_to_close_timeout, run_timeout);
    let within = |given| if given_longer(given, schedule_to_close_timeout) { schedule_to_close_timeout } else { given };
    let scheduled = NexusOperationScheduledEventAttributes {
        schedule_to_start_timeout: within(attributes.schedule_to_start_timeout),
        start_to_close_timeout: within(attributes.start_to_close_timeout),
        schedule_to_close_timeout,
        endpoint: attributes.endpoint,
        service: attributes.service,
        operation: attributes.operation,
        input: attributes.input,
        nexus_header,
        workflow_task_completed_event_id: command.completed_event_id,
        request_id: txn.ctx.ids.request_id(),
        endpoint_id,
    };
    let event_id = command.append(txn, Attributes::NexusOperationScheduledEventAttributes(scheduled));
    nexus::call(txn, event_id);
    Ok(())
}

/// With names in lower case.
fn header(given: HashMap<String, String>) -> Result<HashMap<String, String>, Invalid> {
    let mut bytes = 0;
    let mut header = HashMap::with_capacity(given.len());
    for (name, value) in given {
        let lower = name.to_lowercase();
        bytes += lower.len() + value.len();
        if HEADERS_REFUSED.contains(&lower.as_str()) {
            return Err(Invalid::new(
                CAUSE,
                format!(
                    "ScheduleNexusOperationCommandAttributes.NexusHeader contains a disallowed header key: {name:?}"
                ),
            ));
        }
        header.insert(lower, value);
    }
    if bytes > HEADER_BYTES_MAX {
        let text = "ScheduleNexusOperationCommandAttributes.NexusHeader exceeds size limit";
        return Err(Invalid::new(CAUSE, text));
    }
    Ok(header)
}

/// A timeout that is not longer than another one; unlimited if both are.
fn shorter(given: Option<wkt::Duration>, other: Option<wkt::Duration>) -> Option<wkt::Duration> {
    let length = |timeout: &Option<wkt::Duration>| time::positive(timeout.as_ref()).ok().flatten();
    match (length(&given), length(&other)) {
        (None, Some(_)) => other,
        (Some(given), Some(limit)) if given > limit => other,
        _ => given,
    }
}

fn given_longer(given: Option<wkt::Duration>, limit: Option<wkt::Duration>) -> bool {
    let length = |timeout: &Option<wkt::Duration>| time::positive(timeout.as_ref()).ok().flatten();
    matches!((length(&given), length(&limit)), (Some(given), Some(limit)) if given > limit)
}
