//! Links as Nexus services know them: URLs with a type. (Temporal: `common/nexus/link_converter.go`.)

use everlog_proto::api::common::v1::Link;
use everlog_proto::api::common::v1::link::workflow_event::{EventReference, Reference, RequestIdReference};
use everlog_proto::api::common::v1::link::{Variant, WorkflowEvent};
use everlog_proto::api::enums::v1::EventType;
use everlog_proto::api::nexus::v1 as nexus;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The type of a link to an event of a workflow.
const WORKFLOW_EVENT: &str = "temporal.api.common.v1.Link.WorkflowEvent";

/// What Go escapes in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b':')
    .remove(b'=')
    .remove(b'@');

/// What Go escapes in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A link for a service; `None` if it leads to something that services do not know.
pub(super) fn to_nexus(link: &Link) -> Option<nexus::Link> {
    let Some(Variant::WorkflowEvent(to)) = &link.variant else { return None };
    let segment = |text: &str| utf8_percent_encode(text, SEGMENT).to_string();
    let (namespace, workflow_id, run_id) = (segment(&to.namespace), segment(&to.workflow_id), segment(&to.run_id));
    let query = match to.reference.as_ref()? {
        Reference::EventRef(event) => {
            let number = if event.event_id > 0 { format!("eventID={}&", event.event_id) } else { String::new() };
            format!("{number}eventType={}&referenceType=EventReference", name(event.event_type()))
        }
        Reference::RequestIdRef(request) => {
            let id = utf8_percent_encode(&request.request_id, QUERY).to_string().replace("%20", "+");
            format!("eventType={}&referenceType=RequestIdReference&requestID={id}", name(request.event_type()))
        }
    };
    let url = format!("temporal:///namespaces/{namespace}/workflows/{workflow_id}/{run_id}/history?{query}");
    Some(nexus::Link { url, r#type: WORKFLOW_EVENT.to_owned() })
}

/// The links of a service, as far as they are known.
pub(super) fn from_nexus(links: Vec<nexus::Link>) -> Vec<Link> {
    links.iter().filter_map(read).collect()
}

fn read(link: &nexus::Link) -> Option<Link> {
    if link.r#type != WORKFLOW_EVENT {
        return None;
    }
    let rest =
        link.url.strip_prefix("temporal:///namespaces/").or_else(|| link.url.strip_prefix("temporal:/namespaces/"))?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let segments: Vec<&str> = path.split('/').collect();
    let [namespace, "workflows", workflow_id, run_id, "history"] = segments[..] else { return None };
    let decoded = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().ok()?;
        (!text.is_empty()).then(|| text.into_owned())
    };
    let value = |wanted: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.filter(|(key, _)| *key == wanted).map(|(_, value)| value.replace('+', " ")).next()?;
        percent_decode_str(&found).decode_utf8().ok().map(|text| text.into_owned())
    };
    let event_type = value("eventType").and_then(|name| by_name(&name)).unwrap_or_default() as i32;
    let reference = match value("referenceType")?.as_str() {
        "EventReference" => {
            let event_id = value("eventID").map_or(Some(0), |number| number.parse().ok())?;
            Reference::EventRef(EventReference { event_id, event_type })
        }
        "RequestIdReference" => {
            Reference::RequestIdRef(RequestIdReference { request_id: value("requestID")?, event_type })
        }
        _ => return None,
    };
    let to = WorkflowEvent {
        namespace: decoded(namespace)?,
        workflow_id: decoded(workflow_id)?,
        run_id: decoded(run_id)?,
        reference: Some(reference),
    };
    Some(Link { variant: Some(Variant::WorkflowEvent(to)) })
}

/// `WorkflowExecutionStarted`.
fn name(event_type: EventType) -> String {
    let name = event_type.as_str_name();
    let words = name.strip_prefix("EVENT_TYPE_").unwrap_or(name).split('_');
    words.flat_map(|word| word.chars().take(1).chain(word.chars().skip(1).map(|c| c.to_ascii_lowercase()))).collect()
}

/// In either of the forms that there are.
fn by_name(wanted: &str) -> Option<EventType> {
    EventType::from_str_name(wanted).or_else(|| {
        let mut all = (0..=i32::from(u8::MAX)).filter_map(|number| EventType::try_from(number).ok());
        all.find(|event_type| name(*event_type) == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(reference: Reference) -> Link {
        let to = WorkflowEvent {
            namespace: "a b".to_owned(),
            workflow_id: "w/1?ü".to_owned(),
            run_id: "r".to_owned(),
            reference: Some(reference),
        };
        Link { variant: Some(Variant::WorkflowEvent(to)) }
    }

    #[test]
    fn links_come_back_as_they_went() {
        let scheduled = EventType::NexusOperationScheduled as i32;
        let cases = [
            (
                Reference::EventRef(EventReference { event_id: 5, event_type: scheduled }),
                "eventID=5&eventType=NexusOperationScheduled&referenceType=EventReference",
            ),
            (
                Reference::RequestIdRef(RequestIdReference { request_id: "r 1".to_owned(), event_type: scheduled }),
                "eventType=NexusOperationScheduled&referenceType=RequestIdReference&requestID=r+1",
            ),
        ];
        for (reference, query) in cases {
            let link = link(reference);
            let shown = to_nexus(&link).unwrap();
            let path = "temporal:///namespaces/a%20b/workflows/w%2F1%3F%C3%BC/r/history";
            assert_eq!(shown.url, format!("{path}?{query}"));
            assert_eq!(from_nexus(vec![shown]), [link]);
        }
    }

    #[test]
    fn links_that_lead_nowhere_are_dropped() {
        let cases = [
            ("temporal:///namespaces/n/workflows/w/r/history?referenceType=EventReference&eventID=x", WORKFLOW_EVENT),
            ("temporal:///namespaces/n/workflows/w/r?referenceType=EventReference", WORKFLOW_EVENT),
            ("https://a.example", WORKFLOW_EVENT),
            ("temporal:///namespaces/n/workflows/w/r/history?referenceType=EventReference", "other"),
        ];
        for (url, kind) in cases {
            let link = nexus::Link { url: url.to_owned(), r#type: kind.to_owned() };
            assert_eq!(from_nexus(vec![link]), [], "{url}");
        }
        assert_eq!(to_nexus(&Link::default()), None);
    }
}
