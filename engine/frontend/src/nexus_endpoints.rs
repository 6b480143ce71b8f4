//! The operator service: Nexus endpoints. (Temporal: `service/frontend/nexus_endpoint_client.go`.)

use std::collections::BTreeMap;

use everlog_meta::{EndpointId, EndpointSpec, EndpointTarget, Namespaces, NexusEndpoint};
use everlog_proto::api::command::v1::Command;
use everlog_proto::api::command::v1::command::Attributes;
use everlog_proto::api::nexus::v1 as nexus;
use everlog_proto::api::operatorservice::v1::{
    CreateNexusEndpointRequest, CreateNexusEndpointResponse, DeleteNexusEndpointRequest, DeleteNexusEndpointResponse,
    GetNexusEndpointRequest, GetNexusEndpointResponse, ListNexusEndpointsRequest, ListNexusEndpointsResponse,
    UpdateNexusEndpointRequest, UpdateNexusEndpointResponse,
};
use prost::Message;
use uuid::Uuid;

use super::call::Call;
use super::errors::Error;
use super::{Frontend, validate};

/// Longest name, bytes.
const NAME_BYTES_MAX: usize = 200;

/// Longest URL, bytes.
const URL_BYTES_MAX: usize = 4 << 10;

/// Largest description, bytes.
const DESCRIPTION_BYTES_MAX: usize = 20_000;

/// Endpoints on a page of a list where the caller does not say, and at most.
const PAGE: (usize, usize) = (100, 1000);

/// Makes an endpoint.
pub(super) async fn create_nexus_endpoint(
    frontend: &Frontend,
    _call: Call,
    request: CreateNexusEndpointRequest,
) -> Result<CreateNexusEndpointResponse, Error> {
    let spec = checked(frontend, request.spec)?;
    let endpoint = frontend.namespaces.create_nexus_endpoint(spec).await?;
    Ok(CreateNexusEndpointResponse { endpoint: Some(shown(frontend, &endpoint)?) })
}

/// Changes an endpoint.
pub(super) async fn update_nexus_endpoint(
    frontend: &Frontend,
    _call: Call,
    request: UpdateNexusEndpointRequest,
) -> Result<UpdateNexusEndpointResponse, Error> {
    let spec = checked(frontend, request.spec)?;
    let missing = || Error::not_found(format!("error updating Nexus endpoint. endpoint ID {} not found", request.id));
    let id = request.id.parse().map(EndpointId).map_err(|_| missing())?;
    let endpoint = frontend.namespaces.update_nexus_endpoint(id, request.version, spec).await?;
    Ok(UpdateNexusEndpointResponse { endpoint: Some(shown(frontend, &endpoint)?) })
}

/// Deletes an endpoint.
pub(super) async fn delete_nexus_endpoint(
    frontend: &Frontend,
    _call: Call,
    request: DeleteNexusEndpointRequest,
) -> Result<DeleteNexusEndpointResponse, Error> {
    let mut issues = Vec::new();
    let id = endpoint_id(&request.id, &mut issues);
    if request.version <= 0 {
        issues.push("endpoint version is non-positive".to_owned());
    }
    frontend.namespaces.delete_nexus_endpoint(without_issues(id, &issues)?).await?;
    Ok(DeleteNexusEndpointResponse::default())
}

/// Shows an endpoint.
pub(super) async fn get_nexus_endpoint(
    frontend: &Frontend,
    _call: Call,
    request: GetNexusEndpointRequest,
) -> Result<GetNexusEndpointResponse, Error> {
    let mut issues = Vec::new();
    let id = endpoint_id(&request.id, &mut issues);
    let id = without_issues(id, &issues)?;
    let missing = || Error::not_found(format!("Nexus endpoint with ID `{id}` not found"));
    let endpoint = frontend.namespaces.nexus_endpoint(id).ok_or_else(missing)?;
    Ok(GetNexusEndpointResponse { endpoint: Some(shown(frontend, &endpoint)?) })
}

/// Lists endpoints by their ids, or finds the one with a name.
pub(super) async fn list_nexus_endpoints(
    frontend: &Frontend,
    _call: Call,
    request: ListNexusEndpointsRequest,
) -> Result<ListNexusEndpointsResponse, Error> {
    if !request.name.is_empty() {
        let endpoint = frontend.namespaces.nexus_endpoint_named(&request.name);
        let endpoints = endpoint.iter().map(|endpoint| shown(frontend, endpoint)).collect::<Result<_, _>>()?;
        return Ok(ListNexusEndpointsResponse { endpoints, ..ListNexusEndpointsResponse::default() });
    }
    let limit = match usize::try_from(request.page_size) {
        Ok(0) => PAGE.0,
        Ok(limit) if limit <= PAGE.1 => limit,
        Ok(_) => return Err(Error::invalid(format!("page_size exceeds limit of {}", PAGE.1))),
        Err(_) => return Err(Error::invalid("page_size is negative")),
    };
    let after = match &*request.next_page_token {
        [] => None,
        token => {
            let id = Uuid::from_slice(token);
            let id = id.map_err(|_| Error::invalid("error listing Nexus endpoints"))?;
            Some(EndpointId(id))
        }
    };
    let (endpoints, has_more) = frontend.namespaces.nexus_endpoints(after, limit);
    let last = endpoints.last().filter(|_| has_more);
    Ok(ListNexusEndpointsResponse {
        next_page_token: last.map(|last| last.id.0.as_bytes().to_vec()).unwrap_or_default(),
        endpoints: endpoints.iter().map(|endpoint| shown(frontend, endpoint)).collect::<Result<_, _>>()?,
    })
}

/// The ids of the endpoints that commands name, by these names, as far as there are any.
pub(super) fn named_by(commands: &[Command], namespaces: &Namespaces) -> BTreeMap<String, String> {
    let named = commands.iter().filter_map(|command| match &command.attributes {
        Some(Attributes::ScheduleNexusOperationCommandAttributes(schedule)) => Some(&schedule.endpoint),
        _ => None,
    });
    let found = named.filter_map(|name| Some((name.clone(), namespaces.nexus_endpoint_named(name)?.id.to_string())));
    found.collect()
}

/// The id in a request. What is wrong with it joins the `issues`.
fn endpoint_id(id: &str, issues: &mut Vec<String>) -> Option<EndpointId> {
    if id.is_empty() {
        issues.push("endpoint ID not set".to_owned());
        return None;
    }
    let id = id.parse::<Uuid>().map_err(|_| match id.len() {
        32 | 36 | 38 | 45 => "invalid UUID format".to_owned(),
        length => format!("invalid UUID length: {length}"),
    });
    id.map(EndpointId).map_err(|why| issues.push(format!("malformed endpoint ID: {why:?}"))).ok()
}

fn without_issues<T>(value: Option<T>, issues: &[String]) -> Result<T, Error> {
    value.filter(|_| issues.is_empty()).ok_or_else(|| Error::invalid(issues.join(", ")))
}

/// What an endpoint is to be, if it can be that.
fn checked(frontend: &Frontend, spec: Option<nexus::EndpointSpec>) -> Result<EndpointSpec, Error> {
    let spec = spec.unwrap_or_default();
    let mut issues = name_issues(&spec.name);
    let Some(variant) = spec.target.and_then(|target| target.variant) else {
        issues.push("empty target variant".to_owned());
        return without_issues(None, &issues);
    };
    let target = match variant {
        nexus::endpoint_target::Variant::Worker(worker) => worker_target(frontend, worker, &mut issues)?,
        nexus::endpoint_target::Variant::External(external) => {
            issues.extend(url_issue(&external.url));
            Some(EndpointTarget::External { url: external.url })
        }
    };
    if spec.description.as_ref().is_some_and(|description| description.encoded_len() > DESCRIPTION_BYTES_MAX) {
        issues.push(format!("description size exceeds limit of {DESCRIPTION_BYTES_MAX}"));
    }
    let target = without_issues(target, &issues)?;
    Ok(EndpointSpec { name: spec.name, description: spec.description, target })
}

fn name_issues(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["endpoint name not set".to_owned()];
    }
    let mut issues = Vec::new();
    if name.len() > NAME_BYTES_MAX {
        issues.push(format!("endpoint name exceeds length limit of {NAME_BYTES_MAX}"));
    }
    let bytes = name.as_bytes();
    let is_right = bytes.len() > 1
        && bytes[0].is_ascii_alphabetic()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    if !is_right {
        issues.push(r#"endpoint name must match the regex: "^[a-zA-Z][a-zA-Z0-9\\-]*[a-zA-Z0-9]$""#.to_owned());
    }
    issues
}

fn worker_target(
    frontend: &Frontend,
    worker: nexus::endpoint_target::Worker,
    issues: &mut Vec<String>,
) -> Result<Option<EndpointTarget>, Error> {
    let namespace = frontend.namespaces.by_name(&worker.namespace);
    if worker.namespace.is_empty() {
        issues.push("target namespace not set".to_owned());
    } else if namespace.is_none() {
        let why = format!("Namespace {} is not found.", worker.namespace);
        let message = format!("could not verify namespace referenced by target exists: {why}");
        return Err(Error::failed_precondition(message));
    }
    if let Some(why) = validate::queue_name_issue(&worker.task_queue, frontend.config("").limits.id_bytes_max) {
        issues.push(format!("invalid target task queue: {why:?}"));
    }
    let to = |namespace_id| EndpointTarget::Worker { namespace_id, task_queue: worker.task_queue };
    Ok(namespace.map(|namespace| to(namespace.namespace.id)))
}

fn url_issue(url: &str) -> Option<String> {
    if url.is_empty() {
        return Some("empty target URL".to_owned());
    }
    if url.len() > URL_BYTES_MAX {
        return Some(format!("target URL length exceeds limit of {URL_BYTES_MAX}"));
    }
    if url.bytes().any(|byte| byte.is_ascii_control()) {
        let message = format!("invalid target URL: parse {url:?}: net/url: invalid control character in URL");
        return Some(message);
    }
    let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    let scheme =
        scheme.filter(|scheme| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)));
    match scheme.as_deref() {
        Some("http" | "https") => None,
        other => Some(format!("invalid target URL scheme: {:?}, expected http or https", other.unwrap_or_default())),
    }
}

/// An endpoint as it is shown.
fn shown(frontend: &Frontend, endpoint: &NexusEndpoint) -> Result<nexus::Endpoint, Error> {
    let variant = match &endpoint.spec.target {
        EndpointTarget::External { url } => {
            nexus::endpoint_target::Variant::External(nexus::endpoint_target::External { url: url.clone() })
        }
        EndpointTarget::Worker { namespace_id, task_queue } => {
            let namespace = frontend.namespaces.record_by_id(*namespace_id);
            let namespace = namespace.ok_or_else(|| Error::NamespaceNotFound(namespace_id.to_string()))?;
            nexus::endpoint_target::Variant::Worker(nexus::endpoint_target::Worker {
                namespace: namespace.name().to_owned(),
                task_queue: task_queue.clone(),
            })
        }
    };
    Ok(nexus::Endpoint {
        version: endpoint.version,
        id: endpoint.id.to_string(),
        spec: Some(nexus::EndpointSpec {
            name: endpoint.spec.name.clone(),
            description: endpoint.spec.description.clone(),
            target: Some(nexus::EndpointTarget { variant: Some(variant) }),
        }),
        created_time: Some(endpoint.created.to_proto()),
        last_modified_time: (endpoint.version > 1).then(|| endpoint.modified.to_proto()),
        url_prefix: format!("/nexus/endpoints/{}/services", endpoint.id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_letters_digits_and_dashes_between() {
        for name in ["ab", "a1", "a-b", "A--9"] {
            assert_eq!(name_issues(name), Vec::<String>::new(), "{name}");
        }
        for name in ["a", "1a", "-ab", "ab-", "a_b", "a b", "äb", "ab\n"] {
            assert_eq!(name_issues(name).len(), 1, "{name}");
        }
        assert_eq!(name_issues(&"a".repeat(201)), ["endpoint name exceeds length limit of 200"]);
    }

    #[test]
    fn urls_have_the_schemes_of_the_web() {
        assert_eq!(url_issue("https://a.example"), None);
        assert_eq!(url_issue("HTTP://a.example"), None);
        for (url, scheme) in [("ftp://a", "ftp"), ("nowhere", ""), ("//a", "")] {
            let issue = format!("invalid target URL scheme: {scheme:?}, expected http or https");
            assert_eq!(url_issue(url), Some(issue));
        }
    }
}
