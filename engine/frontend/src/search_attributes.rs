//! Search attributes in requests: the types are the namespace's, which a workflow does not know, so they are checked and
//! written into the values here, before anything is decided.

use std::collections::BTreeMap;

use everlog_config::DynamicConfig;
use everlog_kernel::command::SearchAttributeObjection as Objection;
use everlog_kernel::search_attribute_sizes;
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
    check(attributes, namespace, config).map_err(|objection| match objection {
        Objection::Unknown(problem) | Objection::Invalid(problem) => Error::invalid(problem),
    })?;
    search_attribute_sizes(attributes, &config.limits).map_err(Error::invalid)?;
    write_types(attributes, namespace);
    Ok(())
}

fn write_types(attributes: &mut SearchAttributes, namespace: &NamespaceRecord) {
    for (name, payload) in &mut attributes.indexed_fields {
        if let Some(kind) = namespace.search_attribute_type(name) {
            payload.metadata.insert(TYPE_METADATA.to_owned(), search_attributes::type_name(kind).into());
        }
    }
}

/// The same for the commands of a workflow task: what is wrong, by the places of commands. How large they are the workflow knows.
pub(super) fn prepare_commands(
    commands: &mut [Command],
    namespace: &NamespaceRecord,
    config: &DynamicConfig,
) -> BTreeMap<usize, Objection> {
    let mut objections = BTreeMap::new();
    for (place, command) in commands.iter_mut().enumerate() {
        let attributes = match &mut command.attributes {
            Some(Attributes::UpsertWorkflowSearchAttributesCommandAttributes(upsert)) => &mut upsert.search_attributes,
            Some(Attributes::ContinueAsNewWorkflowExecutionCommandAttributes(next)) => &mut next.search_attributes,
            Some(Attributes::StartChildWorkflowExecutionCommandAttributes(child)) => &mut child.search_attributes,
            _ => continue,
        };
        let Some(attributes) = attributes else { continue };
        match check(attributes, namespace, config) {
            Ok(()) => write_types(attributes, namespace),
            Err(objection) => {
                objections.insert(place, objection);
            }
        }
    }
    objections
}

/// Known names, values of their types, not too many.
fn check(attributes: &SearchAttributes, namespace: &NamespaceRecord, config: &DynamicConfig) -> Result<(), Objection> {
    if let Some(name) = attributes.indexed_fields.keys().find(|name| namespace.search_attribute_type(name).is_none()) {
        let namespace = namespace.name();
        let problem = format!("Namespace {namespace} has no mapping defined for search attribute {name}");
        return Err(Objection::Unknown(problem));
    }
    let (count, count_max) = (attributes.indexed_fields.len(), config.frontend.search_attributes_max);
    if count > count_max {
        return Err(Objection::Invalid(format!("number of search attributes {count} exceeds limit {count_max}")));
    }
    for (name, payload) in &attributes.indexed_fields {
        if !search_attributes::is_settable(name) {
            return Err(Objection::Invalid(format!("{name} attribute can't be set in SearchAttributes")));
        }
        let Some(kind) = namespace.search_attribute_type(name) else { continue };
        search_attributes::check_value(payload, kind).map_err(|shown| {
            let kind = search_attributes::type_name(kind);
            Objection::Invalid(format!("invalid value for search attribute {name} of type {kind}: {shown}"))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use everlog_kernel::{Namespace, NamespaceId, Time};
    use everlog_meta::{Archival, PoolId};
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
                ..Namespace::default()
            }),
            state: NamespaceState::Registered,
            description: String::new(),
            owner_email: String::new(),
            data: BTreeMap::new(),
            search_attributes: BTreeMap::from([("Count".to_owned(), IndexedValueType::Int)]),
            bad_binaries: BTreeMap::new(),
            created: Time(0),
            updated: Time(0),
            deletion: None,
            pool: PoolId::DEFAULT,
            moved: Time(0),
            replication: None,
            history_archival: Archival::default(),
            visibility_archival: Archival::default(),
        }
    }

    fn attributes(name: &str, json: &str) -> SearchAttributes {
        let metadata = [("encoding".to_owned(), "json/plain".into())].into();
        let payload = Payload { metadata, data: json.into(), ..Payload::default() };
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

    fn upsert(name: &str, json: &str) -> Command {
        let upsert =
            UpsertWorkflowSearchAttributesCommandAttributes { search_attributes: Some(attributes(name, json)) };
        let attributes = Some(Attributes::UpsertWorkflowSearchAttributesCommandAttributes(upsert));
        Command { attributes, ..Command::default() }
    }

    #[test]
    fn types_are_written_into_commands() {
        let mut commands = [upsert("Count", "7")];
        assert_eq!(prepare_commands(&mut commands, &namespace(), &DynamicConfig::default()), BTreeMap::new());
        let Some(Attributes::UpsertWorkflowSearchAttributesCommandAttributes(upsert)) = &commands[0].attributes else {
            panic!("{commands:?}")
        };
        let fields = &upsert.search_attributes.as_ref().unwrap().indexed_fields;
        assert_eq!(fields["Count"].metadata["type"], b"Int");
    }

    #[test]
    fn what_is_wrong_with_commands_is_told_by_their_places() {
        let mut commands = [upsert("Count", "7"), Command::default(), upsert("Nope", "7"), upsert("Count", "\"x\"")];
        let objections = prepare_commands(&mut commands, &namespace(), &DynamicConfig::default());
        let unknown = "Namespace orders has no mapping defined for search attribute Nope".to_owned();
        let invalid = "invalid value for search attribute Count of type Int: x".to_owned();
        let expected = [(2, Objection::Unknown(unknown)), (3, Objection::Invalid(invalid))];
        assert_eq!(objections, expected.into());
    }
}
