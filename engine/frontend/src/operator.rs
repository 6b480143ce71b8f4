//! The operator service: search attributes, and the end of namespaces.

use std::sync::Arc;

use everlog_kernel::time::positive;
use everlog_meta::NamespaceRecord;
use everlog_model::search_attributes;
use everlog_proto::api::enums::v1::IndexedValueType;
use everlog_proto::api::operatorservice::v1::{
    AddSearchAttributesRequest, AddSearchAttributesResponse, DeleteNamespaceRequest, DeleteNamespaceResponse,
    ListSearchAttributesRequest, ListSearchAttributesResponse, RemoveSearchAttributesRequest,
    RemoveSearchAttributesResponse,
};

use super::Frontend;
use super::call::Call;
use super::errors::Error;
use super::namespaces::by_name_or_id;

/// Adds search attributes to a namespace. They can be used as soon as this is answered.
pub(super) async fn add_search_attributes(
    frontend: &Frontend,
    _call: Call,
    request: AddSearchAttributesRequest,
) -> Result<AddSearchAttributesResponse, Error> {
    check_attributes(frontend, &request.namespace, request.search_attributes.is_empty())?;
    let kind = |number| {
        let unknown = |_| Error::invalid(format!("Unknown search attribute type: {number}."));
        IndexedValueType::try_from(number).map_err(unknown)
    };
    let attributes = request.search_attributes.into_iter().map(|(name, number)| Ok((name, kind(number)?)));
    let attributes = attributes.collect::<Result<_, Error>>()?;
    frontend.namespaces.add_search_attributes(&request.namespace, attributes).await?;
    Ok(AddSearchAttributesResponse::default())
}

/// Removes search attributes from a namespace. What runs have under them stays, and is not found by it any more.
pub(super) async fn remove_search_attributes(
    frontend: &Frontend,
    _call: Call,
    request: RemoveSearchAttributesRequest,
) -> Result<RemoveSearchAttributesResponse, Error> {
    check_attributes(frontend, &request.namespace, request.search_attributes.is_empty())?;
    frontend.namespaces.remove_search_attributes(&request.namespace, &request.search_attributes).await?;
    Ok(RemoveSearchAttributesResponse::default())
}

/// Lists the search attributes of a namespace.
pub(super) async fn list_search_attributes(
    frontend: &Frontend,
    _call: Call,
    request: ListSearchAttributesRequest,
) -> Result<ListSearchAttributesResponse, Error> {
    let namespace = named(frontend, &request.namespace)?.ok_or_else(no_namespace)?;
    let custom = namespace.search_attributes.iter().map(|(name, kind)| (name.clone(), *kind as i32));
    let system = search_attributes::SYSTEM.iter().map(|(name, kind)| ((*name).to_owned(), *kind as i32));
    Ok(ListSearchAttributesResponse {
        custom_attributes: custom.collect(),
        system_attributes: system.collect(),
        ..ListSearchAttributesResponse::default()
    })
}

/// Gives a namespace up, by name or id. Its name is free at once, and calls find it no more; what is in it is deleted from then on.
pub(super) async fn delete_namespace(
    frontend: &Frontend,
    _call: Call,
    request: DeleteNamespaceRequest,
) -> Result<DeleteNamespaceResponse, Error> {
    let before: Option<Arc<NamespaceRecord>> = frontend.namespaces.changed_before().await?;
    if let Some(deleted) = before {
        return Ok(DeleteNamespaceResponse { deleted_namespace: deleted.name().to_owned() });
    }
    let record = by_name_or_id(frontend, &request.namespace, &request.namespace_id)?;
    let name = record.name();
    if frontend.config("").frontend.protected_namespaces.iter().any(|protected| protected == name) {
        return Err(Error::failed_precondition(format!("namespace {name} is protected from deletion")));
    }
    // A delay below zero is none, as in Temporal.
    let delay = positive(request.namespace_delete_delay.as_ref()).ok().flatten().unwrap_or_default();
    let deleted = frontend.namespaces.delete(record.namespace.id, delay).await?;
    Ok(DeleteNamespaceResponse { deleted_namespace: deleted.name().to_owned() })
}

/// Looks at a request that adds or removes search attributes, or `names_none`.
fn check_attributes(frontend: &Frontend, namespace: &str, names_none: bool) -> Result<(), Error> {
    let namespace = named(frontend, namespace)?;
    if names_none {
        return Err(Error::invalid("SearchAttributes are not set on request."));
    }
    namespace.map(|_| ()).ok_or_else(no_namespace)
}

/// The namespace with a name, if the request has one.
fn named(frontend: &Frontend, name: &str) -> Result<Option<Arc<NamespaceRecord>>, Error> {
    (!name.is_empty()).then(|| frontend.namespace(name)).transpose()
}

fn no_namespace() -> Error {
    Error::invalid("Namespace is not set on request.")
}
