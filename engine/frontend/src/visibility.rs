//! Lists and counts of executions: ListWorkflowExecutions and its older forms, CountWorkflowExecutions, GetSearchAttributes.

use bytes::Bytes;
use everlog_meta::NamespaceRecord;
use everlog_model::{WorkflowRef, search_attributes};
use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, CountWorkflowExecutionsResponse, GetSearchAttributesRequest,
    GetSearchAttributesResponse, ListClosedWorkflowExecutionsRequest, ListClosedWorkflowExecutionsResponse,
    ListOpenWorkflowExecutionsRequest, ListOpenWorkflowExecutionsResponse, ListWorkflowExecutionsRequest,
    ListWorkflowExecutionsResponse as PlainResponse, ScanWorkflowExecutionsRequest, ScanWorkflowExecutionsResponse,
};
use everlog_proto::encoded::ListWorkflowExecutionsResponse;
use everlog_raft::Group;
use everlog_visibility as visibility;
use everlog_visibility::{SearchAttributeTypes, VisibilityError};
use prost::Message;

use super::Frontend;
use super::call::Call;
use super::errors::Error;

/// Lists the executions that match a query.
pub(super) async fn list_workflow_executions(
    frontend: &Frontend,
    _call: Call,
    request: ListWorkflowExecutionsRequest,
) -> Result<ListWorkflowExecutionsResponse, Error> {
    let (executions, next_page_token) =
        list(frontend, &request.namespace, &request.query, request.page_size, &request.next_page_token).await?;
    Ok(ListWorkflowExecutionsResponse {
        message: PlainResponse { next_page_token, ..PlainResponse::default() },
        executions,
    })
}

/// The same, under an older name.
pub(super) async fn scan_workflow_executions(
    frontend: &Frontend,
    _call: Call,
    request: ScanWorkflowExecutionsRequest,
) -> Result<ScanWorkflowExecutionsResponse, Error> {
    let (executions, next_page_token) =
        list(frontend, &request.namespace, &request.query, request.page_size, &request.next_page_token).await?;
    Ok(ScanWorkflowExecutionsResponse { executions: decoded(executions)?, next_page_token })
}

/// Counts the executions that match a query.
pub(super) async fn count_workflow_executions(
    frontend: &Frontend,
    _call: Call,
    request: CountWorkflowExecutionsRequest,
) -> Result<CountWorkflowExecutionsResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let types = types(&namespace);
    let counted =
        visibility::count(groups_of(frontend), &frontend.tallies, &namespace.namespace, &request.query, &types);
    Ok(counted.await?)
}

/// Lists open executions by a filter.
pub(super) async fn list_open_workflow_executions(
    frontend: &Frontend,
    _call: Call,
    request: ListOpenWorkflowExecutionsRequest,
) -> Result<ListOpenWorkflowExecutionsResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let query = visibility::open_query(&request)?;
    let page_size = page_size(frontend, &request.namespace, request.maximum_page_size);
    let (executions, next_page_token) = visibility::list_matching(
        groups_of(frontend),
        &namespace.namespace,
        query,
        page_size,
        &request.next_page_token,
    )
    .await?;
    Ok(ListOpenWorkflowExecutionsResponse { executions: decoded(executions)?, next_page_token })
}

/// Lists closed executions by a filter.
pub(super) async fn list_closed_workflow_executions(
    frontend: &Frontend,
    _call: Call,
    request: ListClosedWorkflowExecutionsRequest,
) -> Result<ListClosedWorkflowExecutionsResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let query = visibility::closed_query(&request)?;
    let page_size = page_size(frontend, &request.namespace, request.maximum_page_size);
    let (executions, next_page_token) = visibility::list_matching(
        groups_of(frontend),
        &namespace.namespace,
        query,
        page_size,
        &request.next_page_token,
    )
    .await?;
    Ok(ListClosedWorkflowExecutionsResponse { executions: decoded(executions)?, next_page_token })
}

/// Lists the search attributes that every namespace has.
pub(super) async fn get_search_attributes(
    _frontend: &Frontend,
    _call: Call,
    _request: GetSearchAttributesRequest,
) -> Result<GetSearchAttributesResponse, Error> {
    let keys = search_attributes::SYSTEM.iter().map(|(name, kind)| ((*name).to_owned(), *kind as i32)).collect();
    Ok(GetSearchAttributesResponse { keys })
}

async fn list(
    frontend: &Frontend,
    namespace: &str,
    query: &str,
    wanted: i32,
    token: &[u8],
) -> Result<(Vec<Bytes>, Vec<u8>), Error> {
    let namespace = frontend.namespace(namespace)?;
    let (types, page_size) = (types(&namespace), page_size(frontend, namespace.name(), wanted));
    Ok(visibility::list(groups_of(frontend), &namespace.namespace, query, &types, page_size, token).await?)
}

fn page_size(frontend: &Frontend, namespace: &str, wanted: i32) -> i32 {
    let most = i32::try_from(frontend.config(namespace).frontend.visibility_page_max).unwrap_or(i32::MAX);
    if wanted > 0 { wanted.min(most) } else { most }
}

fn types(namespace: &NamespaceRecord) -> SearchAttributeTypes {
    namespace.search_attributes.iter().map(|(name, kind)| (name.clone(), *kind)).collect()
}

fn decoded(executions: Vec<Bytes>) -> Result<Vec<WorkflowExecutionInfo>, Error> {
    let decode = |bytes: Bytes| WorkflowExecutionInfo::decode(bytes);
    let decoded: Result<_, _> = executions.into_iter().map(decode).collect();
    decoded.map_err(|error| Error::Internal(format!("a visibility record is not readable: {error}")))
}

impl From<VisibilityError> for Error {
    fn from(error: VisibilityError) -> Error {
        match error {
            VisibilityError::InvalidArgument(message) => Error::invalid(message),
            VisibilityError::Unavailable(message) => Error::Unavailable(message),
            VisibilityError::Internal(message) => Error::Internal(message),
        }
    }
}

/// Where lists find the groups that hold a workflow.
fn groups_of(frontend: &Frontend) -> impl Fn(Option<&WorkflowRef>) -> Vec<Group> {
    |workflow| frontend.router.groups(workflow)
}
