//! Lists and counts of executions: ListWorkflowExecutions and its older forms, CountWorkflowExecutions, GetSearchAttributes.

use std::sync::Arc;

use bytes::Bytes;
use everlog_cluster::{AskedRuns, Nodes, ReadBound, ReadHere, ReadThere, Scattered};
use everlog_kernel::Namespace;
use everlog_meta::NamespaceRecord;
use everlog_model::{CallError, GroupId, Share, search_attributes};
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
use futures::future::try_join_all;
use futures::{FutureExt, TryFutureExt};
use prost::Message;

use super::Frontend;
use super::call::Call;
use super::errors::Error;
use super::reads::Missing;

/// Lists the executions that match a query.
pub(super) async fn list_workflow_executions(
    frontend: &Frontend,
    call: Call,
    request: ListWorkflowExecutionsRequest,
) -> Result<ListWorkflowExecutionsResponse, Error> {
    let (executions, next_page_token) = list(
        frontend,
        &call,
        &request.namespace,
        Ask::Query(request.query),
        request.page_size,
        &request.next_page_token,
    )
    .await?;
    Ok(ListWorkflowExecutionsResponse {
        message: PlainResponse { next_page_token, ..PlainResponse::default() },
        executions,
    })
}

/// The same, under an older name.
pub(super) async fn scan_workflow_executions(
    frontend: &Frontend,
    call: Call,
    request: ScanWorkflowExecutionsRequest,
) -> Result<ScanWorkflowExecutionsResponse, Error> {
    let ScanWorkflowExecutionsRequest { namespace, page_size, next_page_token, query } = request;
    let request = ListWorkflowExecutionsRequest { namespace, page_size, next_page_token, query };
    let listed = list_workflow_executions(frontend, call, request).await?;
    let next_page_token = listed.message.next_page_token;
    Ok(ScanWorkflowExecutionsResponse { executions: decoded(listed.executions)?, next_page_token })
}

/// Counts the executions that match a query.
pub(super) async fn count_workflow_executions(
    frontend: &Frontend,
    call: Call,
    request: CountWorkflowExecutionsRequest,
) -> Result<CountWorkflowExecutionsResponse, Error> {
    let namespace = frontend.namespace(&request.namespace)?;
    let runs = Runs::asked_by(&call, frontend, &namespace, Ask::Query(request.query))?;
    let is_grouped = runs.query.group_by.is_some();
    Ok(visibility::counted(&runs.count().await?, is_grouped))
}

/// Lists open executions by a filter.
pub(super) async fn list_open_workflow_executions(
    frontend: &Frontend,
    call: Call,
    request: ListOpenWorkflowExecutionsRequest,
) -> Result<ListOpenWorkflowExecutionsResponse, Error> {
    let (namespace, wanted, token) =
        (request.namespace.clone(), request.maximum_page_size, request.next_page_token.clone());
    let (executions, next_page_token) =
        list(frontend, &call, &namespace, Ask::Open(Box::new(request)), wanted, &token).await?;
    Ok(ListOpenWorkflowExecutionsResponse { executions: decoded(executions)?, next_page_token })
}

/// Lists closed executions by a filter.
pub(super) async fn list_closed_workflow_executions(
    frontend: &Frontend,
    call: Call,
    request: ListClosedWorkflowExecutionsRequest,
) -> Result<ListClosedWorkflowExecutionsResponse, Error> {
    let (namespace, wanted, token) =
        (request.namespace.clone(), request.maximum_page_size, request.next_page_token.clone());
    let (executions, next_page_token) =
        list(frontend, &call, &namespace, Ask::Closed(Box::new(request)), wanted, &token).await?;
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
    call: &Call,
    namespace: &str,
    ask: Ask,
    wanted: i32,
    token: &[u8],
) -> Result<(Vec<Bytes>, Vec<u8>), Error> {
    let namespace = frontend.namespace(namespace)?;
    let limit = visibility::page_size(page_size(frontend, namespace.name(), wanted));
    let runs = Runs::asked_by(call, frontend, &namespace, ask)?;
    let page = runs.list(visibility::decode_token(token)?, limit).await?;
    Ok(page.into_response())
}

/// Runs that are asked for, and where they are. What a node cannot answer for is never left out, unless the caller allows it.
pub(super) struct Runs<'a> {
    frontend: &'a Frontend,
    /// With the id of its lists.
    namespace: Arc<Namespace>,
    pub(super) query: Query,
    asked: AskedRuns,
    from: Source,
}

/// Whom they are asked of.
enum Source {
    /// Whoever leads.
    Leaders(Spread),
    /// Whoever may answer for each of the partitions.
    Any(Vec<Share>, Option<Missing>),
}

impl<'a> Runs<'a> {
    pub(super) fn new(frontend: &'a Frontend, namespace: &NamespaceRecord, ask: Ask) -> Result<Runs<'a>, Error> {
        Runs::within(ReadBound::Lease, None, frontend, namespace, ask)
    }

    /// The same for a caller that may want to have them read in another way.
    pub(super) fn asked_by(
        call: &Call,
        frontend: &'a Frontend,
        namespace: &NamespaceRecord,
        ask: Ask,
    ) -> Result<Runs<'a>, Error> {
        let bound = call.reads.bound(&frontend.namespaces, namespace)?;
        Runs::within(bound, call.reads.missing.clone(), frontend, namespace, ask)
    }

    fn within(
        bound: ReadBound,
        missing: Option<Missing>,
        frontend: &'a Frontend,
        namespace: &NamespaceRecord,
        ask: Ask,
    ) -> Result<Runs<'a>, Error> {
        let query = ask.read(&types(namespace))?;
        let namespace = Arc::clone(&namespace.namespace);
        let workflow = visibility::only_workflow(&namespace, &query);
        let shares = frontend.router.holders(namespace.id, workflow.as_ref());
        // In this order: what replicas have of slots may be older than that they are there, as long as a move is not older than the replicas may be.
        let bound = match bound {
            ReadBound::Stale(age) if frontend.namespaces.moves_within(namespace.id, age) => ReadBound::Lease,
            bound => bound,
        };
        // Nobody else can answer anything where there are no other nodes.
        let from = match (bound, &missing, &frontend.nodes) {
            (ReadBound::Lease, None, _) | (_, _, None) => {
                Source::Leaders(frontend.router.spread(namespace.id, workflow.as_ref())?)
            }
            _ => Source::Any(shares, missing),
        };
        let lists = ask.lists(&namespace);
        let asked = AskedRuns { namespace_id: namespace.id, ask, bound };
        Ok(Runs { frontend, namespace: lists, query, asked, from })
    }

    pub(super) async fn list(self, after: Option<Position>, limit: usize) -> Result<Page, Error> {
        let Runs { frontend, namespace, query, asked, from } = self;
        let (namespace, query, asked) = (&namespace, &query, &asked);
        let list_here = |parts| {
            let whose = Whose { namespace_id: asked.namespace_id, parts };
            visibility::list(&frontend.reader, whose, namespace, query.clone(), after, limit).map_err(Error::from)
        };
        let Some(nodes) = &frontend.nodes else { return list_here(from.alone().await?.here).await };
        let pages = match from {
            Source::Leaders(spread) => {
                spread.confirm().await?;
                let Spread { here, there } = spread;
                let there = there.iter().map(|(node, shares)| nodes.list(*node, shares, asked, after, limit));
                let (here, mut pages) = tokio::try_join!(list_here(here), try_join_all(there).map_err(Error::from))?;
                pages.push(here);
                pages
            }
            Source::Any(shares, missing) => {
                let leave_out = |partition| missing.iter().for_each(|missing: &Missing| missing.add(partition));
                let leave_out = missing.as_ref().map(|_| &leave_out as _);
                let here: ReadHere<'_, _, _> = &|part| list_here(vec![part]).boxed();
                let there: ReadThere<'_, _> =
                    &|node, share| async move { nodes.list(node, &[share], asked, after, limit).await }.boxed();
                scattered(frontend, nodes, asked.bound, leave_out).gather(shares, here, there).await?
            }
        };
        Ok(Page::merge(pages, limit))
    }

    pub(super) async fn count(self) -> Result<ByStatus, Error> {
        let Runs { frontend, namespace, query, asked, from } = self;
        let (namespace, query, asked) = (&namespace, &query, &asked);
        let count_here = |parts| {
            let whose = Whose { namespace_id: asked.namespace_id, parts };
            visibility::count(&frontend.reader, whose, namespace, query.clone()).map_err(Error::from)
        };
        let Some(nodes) = &frontend.nodes else { return count_here(from.alone().await?.here).await };
        let counts = match from {
            Source::Leaders(spread) => {
                spread.confirm().await?;
                let Spread { here, there } = spread;
                let there = there.iter().map(|(node, shares)| nodes.count(*node, shares, asked));
                let (here, mut counts) = tokio::try_join!(count_here(here), try_join_all(there).map_err(Error::from))?;
                counts.push(here);
                counts
            }
            Source::Any(shares, missing) => {
                let leave_out = |partition| missing.iter().for_each(|missing: &Missing| missing.add(partition));
                let leave_out = missing.as_ref().map(|_| &leave_out as _);
                let here: ReadHere<'_, _, _> = &|part| count_here(vec![part]).boxed();
                let there: ReadThere<'_, _> =
                    &|node, share| async move { nodes.count(node, &[share], asked).await }.boxed();
                scattered(frontend, nodes, asked.bound, leave_out).gather(shares, here, there).await?
            }
        };
        let mut total = ByStatus::default();
        counts.iter().for_each(|counted| visibility::add(&mut total, counted));
        Ok(total)
    }
}

impl Source {
    /// The partitions of a server without other nodes, which leads all of them.
    async fn alone(self) -> Result<Spread, Error> {
        let spread = match self {
            Source::Leaders(spread) => spread,
            Source::Any(..) => Spread::default(),
        };
        spread.confirm().await?;
        Ok(spread)
    }
}

fn scattered<'a>(
    frontend: &'a Frontend,
    nodes: &'a Nodes,
    bound: ReadBound,
    leave_out: Option<&'a (dyn Fn(GroupId) + Sync)>,
) -> Scattered<'a> {
    Scattered { router: &frontend.router, nodes, operations: &frontend.operations, bound, leave_out }
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
