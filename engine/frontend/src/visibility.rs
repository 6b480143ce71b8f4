//! Lists and counts of executions: ListWorkflowExecutions and its older forms, CountWorkflowExecutions, GetSearchAttributes.

use std::sync::Arc;

use bytes::Bytes;
use everlog_cluster::AskedRuns;
use everlog_kernel::Namespace;
use everlog_meta::NamespaceRecord;
use everlog_model::{CallError, search_attributes};
use everlog_partition::Spread;
use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, CountWorkflowExecutionsResponse, GetSearchAttributesRequest,
    GetSearchAttributesResponse, ListClosedWorkflowExecutionsRequest, ListClosedWorkflowExecutionsResponse,
    ListOpenWorkflowExecutionsRequest, ListOpenWorkflowExecutionsResponse, ListWorkflowExecutionsRequest,
    ListWorkflowExecutionsResponse as PlainResponse, ScanWorkflowExecutionsRequest, ScanWorkflowExecutionsResponse,
};
use everlog_proto::encoded::ListWorkflowExecutionsResponse;
use everlog_visibility as visibility;
use everlog_visibility::{Ask, ByStatus, Page, Position, Query, SearchAttributeTypes, VisibilityError, Whose};
use futures::TryFutureExt;
use futures::future::try_join_all;
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
        list(frontend, &request.namespace, Ask::Query(request.query), request.page_size, &request.next_page_token)
            .await?;
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
        list(frontend, &request.namespace, Ask::Query(request.query), request.page_size, &request.next_page_token)
            .await?;
    Ok(ScanWorkflowExecutionsResponse { executions: decoded(executions)?, next_page_token })
}

/// Counts the executions that match a query.
pub(super) async fn count_workflow_executions(
    frontend: &Frontend,
    _call: Call,
    request: CountWorkflowExecutionsRequest,
) -> Result<CountWorkflowExecutionsResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let runs = Runs::new(frontend, &namespace, Ask::Query(request.query))?;
    let is_grouped = runs.query.group_by.is_some();
    Ok(visibility::counted(&runs.count().await?, is_grouped))
}

/// Lists open executions by a filter.
pub(super) async fn list_open_workflow_executions(
    frontend: &Frontend,
    _call: Call,
    request: ListOpenWorkflowExecutionsRequest,
) -> Result<ListOpenWorkflowExecutionsResponse, Error> {
    let (namespace, wanted, token) =
        (request.namespace.clone(), request.maximum_page_size, request.next_page_token.clone());
    let (executions, next_page_token) =
        list(frontend, &namespace, Ask::Open(Box::new(request)), wanted, &token).await?;
    Ok(ListOpenWorkflowExecutionsResponse { executions: decoded(executions)?, next_page_token })
}

/// Lists closed executions by a filter.
pub(super) async fn list_closed_workflow_executions(
    frontend: &Frontend,
    _call: Call,
    request: ListClosedWorkflowExecutionsRequest,
) -> Result<ListClosedWorkflowExecutionsResponse, Error> {
    let (namespace, wanted, token) =
        (request.namespace.clone(), request.maximum_page_size, request.next_page_token.clone());
    let (executions, next_page_token) =
        list(frontend, &namespace, Ask::Closed(Box::new(request)), wanted, &token).await?;
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
    ask: Ask,
    wanted: i32,
    token: &[u8],
) -> Result<(Vec<Bytes>, Vec<u8>), Error> {
    let namespace = frontend.namespace(namespace)?;
    let limit = visibility::page_size(page_size(frontend, namespace.name(), wanted));
    let page = Runs::new(frontend, &namespace, ask)?.list(visibility::decode_token(token)?, limit).await?;
    Ok(page.into_response())
}

/// Runs that are asked for, and where they are. What a node cannot answer for is never left out.
pub(super) struct Runs<'a> {
    frontend: &'a Frontend,
    /// With the id of its lists.
    namespace: Arc<Namespace>,
    pub(super) query: Query,
    asked: AskedRuns,
    spread: Spread,
}

impl<'a> Runs<'a> {
    pub(super) fn new(frontend: &'a Frontend, namespace: &NamespaceRecord, ask: Ask) -> Result<Runs<'a>, Error> {
        let query = ask.read(&types(namespace))?;
        let namespace = Arc::clone(&namespace.namespace);
        let spread = frontend.router.spread(namespace.id, visibility::only_workflow(&namespace, &query).as_ref())?;
        let lists = ask.lists(&namespace);
        let asked = AskedRuns { namespace_id: namespace.id, ask };
        let namespace = lists;
        Ok(Runs { frontend, namespace, query, asked, spread })
    }

    /// Those that are led here.
    fn whose(&self) -> Whose {
        Whose { namespace_id: self.asked.namespace_id, parts: self.spread.here.clone() }
    }

    pub(super) async fn list(self, after: Option<Position>, limit: usize) -> Result<Page, Error> {
        let (here, there) = (self.whose(), &self.spread.there);
        everlog_partition::confirm_leads(here.parts.iter().map(|(group, _)| group)).await?;
        let here = visibility::list(here, &self.namespace, self.query, after, limit);
        let Some(nodes) = &self.frontend.nodes else { return Ok(here.await?) };
        let (asked, here) = (&self.asked, here.map_err(Error::from));
        let there = there.iter().map(|(node, partitions)| nodes.list(*node, partitions, asked, after, limit));
        let (here, mut pages) = tokio::try_join!(here, try_join_all(there).map_err(Error::from))?;
        pages.push(here);
        Ok(Page::merge(pages, limit))
    }

    pub(super) async fn count(self) -> Result<ByStatus, Error> {
        let (here, there) = (self.whose(), &self.spread.there);
        everlog_partition::confirm_leads(here.parts.iter().map(|(group, _)| group)).await?;
        let here = visibility::count(here, &self.frontend.tallies, &self.namespace, self.query);
        let Some(nodes) = &self.frontend.nodes else { return Ok(here.await?) };
        let (asked, here) = (&self.asked, here.map_err(Error::from));
        let there = there.iter().map(|(node, partitions)| nodes.count(*node, partitions, asked));
        let (mut total, counts) = tokio::try_join!(here, try_join_all(there).map_err(Error::from))?;
        counts.iter().for_each(|counted| visibility::add(&mut total, counted));
        Ok(total)
    }
}

pub(super) fn page_size(frontend: &Frontend, namespace: &str, wanted: i32) -> i32 {
    let most = i32::try_from(frontend.config(namespace).frontend.visibility_page_max).unwrap_or(i32::MAX);
    if wanted > 0 { wanted.min(most) } else { most }
}

pub(super) fn types(namespace: &NamespaceRecord) -> SearchAttributeTypes {
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
            // The call is planned again, by what is known then.
            VisibilityError::Outdated(message) => CallError::NotDone(message).into(),
            VisibilityError::Internal(message) => Error::Internal(message),
        }
    }
}
