//! Search attributes in requests: the types are the namespace's, which a workflow does not know, so they are checked and
//! written into the values here, before anything is decided.

use everlog_config::DynamicConfig;
use everlog_meta::NamespaceRecord;
use everlog_model::search_attributes;
use everlog_proto::api::command::v1::{Command, command::Attributes};
use everlog_proto::api::common::v1::SearchAttributes;

use super::errors::Error;

/// Where a value says its type.
const TYPE_METADATA: &str = "type";

/// Checks the search attributes of a start, and writes their types into them.
pub(super) fn prepare(
    attributes: Option<&mut SearchAttributes>,
    namespace: &NamespaceRecord,
    config: &DynamicConfig,
) -> Result<(), Error> {
    let Some(attributes) = attributes else { return Ok(()) };
    check(attributes, namespace, config)?;
    for (name, payload) in &mut attributes.indexed_fields {
        if let Some(kind) = namespace.search_attribute_type(name) {
            payload.metadata.insert(TYPE_METADATA.to_owned(), search_attributes::type_name(kind).into());
        }
    }
    Ok(())
}

/// The same for the commands of a workflow task.
pub(super) fn prepare_commands(
    commands: &mut [Command],
    namespace: &NamespaceRecord,
    config: &DynamicConfig,
) -> Result<(), Error> {
    for command in commands {
        let attributes = match &mut command.attributes {
            Some(Attributes::UpsertWorkflowSearchAttributesCommandAttributes(upsert)) => &mut upsert.search_attributes,
            Some(Attributes::ContinueAsNewWorkflowExecutionCommandAttributes(next)) => &mut next.search_attributes,
            Some(Attributes::StartChildWorkflowExecutionCommandAttributes(child)) => &mut child.search_attributes,
            _ => continue,
        };
        prepare(attributes.as_mut(), namespace, config)?;
    }
    Ok(())
}

/// Known names, values of their types, not too many and not too large.
fn check(attributes: &SearchAttributes, namespace: &NamespaceRecord, config: &DynamicConfig) -> Result<(), Error> {
    let (count, count_max) = (attributes.indexed_fields.len(), config.frontend.search_attributes_max);
    if count > count_max {
        let message = format!("number of search attributes {count} exceeds limit {count_max}");
        return Err(Error::invalid(message));
    }
    let mut total = 0;
    for (name, payload) in &attributes.indexed_fields {
        let kind = namespace.search_attribute_type(name).ok_or_else(|| {
            let namespace = namespace.name();
            Error::invalid(format!("Namespace {namespace} has no mapping defined for search attribute {name}"))
        })?;
        if !search_attributes::is_settable(name) {
            return Err(Error::invalid(format!("{name} attribute can't be set in SearchAttributes")));
        }
        search_attributes::check_value(payload, kind).map_err(|shown| {
            let kind = search_attributes::type_name(kind);
            Error::invalid(format!("invalid value for search attribute {name} of type {kind}: {shown}"))
        })?;
        let bytes_max = config.frontend.search_attribute_bytes_max;
        if payload.data.len() > bytes_max {
            let bytes = payload.data.len();
            let message = format!("search attribute {name} value size {bytes} exceeds size limit {bytes_max}");
            return Err(Error::invalid(message));
        }
        total += name.len() + payload.data.len();
    }
    let total_max = config.frontend.search_attributes_bytes_max;
    if total > total_max {
        let message = format!("total size of search attributes {total} exceeds size limit {total_max}");
        return Err(Error::invalid(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use everlog_kernel::{Namespace, NamespaceId, Time};
    use everlog_proto::api::command::v1::UpsertWorkflowSearchAttributesCommandAttributes;
    use everlog_proto::api::common::v1::Payload;
    use everlog_proto::api::enums::v1::{IndexedValueType, NamespaceState};

    use super::*;

    fn namespace() -> NamespaceRecord {
        NamespaceRecord {
            namespace: Arc::new(Namespace {
                id: NamespaceId([1; 16]),
                name: "orders".to_owned(),
                retention: Duration::from_secs(1),
            }),
            state: NamespaceState::Registered,
            description: String::new(),
            owner_email: String::new(),
            data: BTreeMap::new(),
            search_attributes: BTreeMap::from([("Count".to_owned(), IndexedValueType::Int)]),
            created: Time(0),
            updated: Time(0),
            deletion: None,
        }
    }

    fn attributes(name: &str, json: &str) -> SearchAttributes {
        let payload = Payload { data: json.into(), ..Payload::default() };
        SearchAttributes { indexed_fields: [(name.to_owned(), payload)].into() }
    }

    #[test]
    fn what_is_wrong_is_told_as_temporal_tells_it() {
        let long = format!("\"{}\"", "x".repeat(3000));
        let cases = [
            ("Count", "7", None),
            ("Nope", "7", Some("Namespace orders has no mapping defined for search attribute Nope")),
            ("Count", "\"x\"", Some("invalid value for search attribute Count of type Int: x")),
            ("WorkflowId", "\"x\"", Some("WorkflowId attribute can't be set in SearchAttributes")),
            ("BatcherUser", &long, Some("search attribute BatcherUser value size 3002 exceeds size limit 2048")),
        ];
        for (name, json, expected) in cases {
            let result = prepare(Some(&mut attributes(name, json)), &namespace(), &DynamicConfig::default());
            let expected = expected.map_or(Ok(()), |message| Err(Error::invalid(message)));
            assert_eq!(result, expected, "{name}");
        }
    }

    #[test]
    fn types_are_written_into_commands() {
        let upsert =
            UpsertWorkflowSearchAttributesCommandAttributes { search_attributes: Some(attributes("Count", "7")) };
        let attributes = Some(Attributes::UpsertWorkflowSearchAttributesCommandAttributes(upsert));
        let mut commands = [Command { attributes, ..Command::default() }];
        prepare_commands(&mut commands, &namespace(), &DynamicConfig::default()).unwrap();
        let Some(Attributes::UpsertWorkflowSearchAttributesCommandAttributes(upsert)) = &commands[0].attributes else {
            panic!("{commands:?}")
        };
        let fields = &upsert.search_attributes.as_ref().unwrap().indexed_fields;
        assert_eq!(fields["Count"].metadata["type"], b"Int");
    }
}
