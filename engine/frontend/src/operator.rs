//! The operator service: search attributes.

use everlog_model::search_attributes;
use everlog_proto::api::enums::v1::IndexedValueType;
use everlog_proto::api::operatorservice::v1::{
    AddSearchAttributesRequest, AddSearchAttributesResponse, ListSearchAttributesRequest, ListSearchAttributesResponse,
    RemoveSearchAttributesRequest, RemoveSearchAttributesResponse,
};

use super::Frontend;
use super::call::Call;
use super::errors::Error;

/// Adds search attributes to a namespace. They can be used as soon as this is answered.
pub(super) async fn add_search_attributes(
    frontend: &Frontend,
    _call: Call,
    request: AddSearchAttributesRequest,
) -> Result<AddSearchAttributesResponse, Error> {
    check_namespace(frontend, &request.namespace)?;
    if request.search_attributes.is_empty() {
        return Err(Error::invalid("SearchAttributes are not set on request."));
    }
    let kind = |kind| IndexedValueType::try_from(kind).unwrap_or(IndexedValueType::Unspecified);
    let attributes = request.search_attributes.into_iter().map(|(name, number)| (name, kind(number))).collect();
    frontend.namespaces.add_search_attributes(&request.namespace, attributes).await?;
    Ok(AddSearchAttributesResponse::default())
}

/// Removes search attributes from a namespace. What runs have under them stays, and is not found by it any more.
pub(super) async fn remove_search_attributes(
    frontend: &Frontend,
    _call: Call,
    request: RemoveSearchAttributesRequest,
) -> Result<RemoveSearchAttributesResponse, Error> {
    check_namespace(frontend, &request.namespace)?;
    if request.search_attributes.is_empty() {
        return Err(Error::invalid("SearchAttributes are not set on request."));
    }
    frontend.namespaces.remove_search_attributes(&request.namespace, &request.search_attributes).await?;
    Ok(RemoveSearchAttributesResponse::default())
}

/// Lists the search attributes of a namespace.
pub(super) async fn list_search_attributes(
    frontend: &Frontend,
    _call: Call,
    request: ListSearchAttributesRequest,
) -> Result<ListSearchAttributesResponse, Error> {
    check_namespace(frontend, &request.namespace)?;
    let namespace = frontend.namespace(&request.namespace)?;
    let custom = namespace.search_attributes.iter().map(|(name, kind)| (name.clone(), *kind as i32));
    let system = search_attributes::SYSTEM.iter().map(|(name, kind)| ((*name).to_owned(), *kind as i32));
    Ok(ListSearchAttributesResponse {
        custom_attributes: custom.collect(),
        system_attributes: system.collect(),
        ..ListSearchAttributesResponse::default()
    })
}

fn check_namespace(frontend: &Frontend, name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::invalid("Namespace is not set on request."));
    }
    frontend.namespace(name).map(|_| ())
}
