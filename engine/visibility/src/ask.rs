//! What a list or count is asked for, as its request says it: any node can read it.

use std::sync::Arc;

use everlog_kernel::{EntityKind, Namespace};
use everlog_model::{rows, search_attributes};
use everlog_proto::api::workflowservice::v1::{ListClosedWorkflowExecutionsRequest, ListOpenWorkflowExecutionsRequest};

use super::syntax;
use super::{Query, SearchAttributeTypes, VisibilityError, closed_query, open_query};

/// Which runs are asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Those that a query names.
    Query(String),
    /// Schedules that a query names.
    Schedules(String),
    /// Batch jobs that a query names. Clients cannot ask one.
    BatchJobs(String),
    /// Activities that a query names, which are no workflow's.
    Activities(String),
    /// Those that are open, by a filter.
    Open(Box<ListOpenWorkflowExecutionsRequest>),
    /// Those that are closed, by a filter.
    Closed(Box<ListClosedWorkflowExecutionsRequest>),
}

impl Ask {
    /// What is asked for.
    fn kind(&self) -> EntityKind {
        match self {
            Ask::Query(_) | Ask::Open(_) | Ask::Closed(_) => EntityKind::Workflow,
            Ask::Schedules(_) => EntityKind::Schedule,
            Ask::BatchJobs(_) => EntityKind::BatchJob,
            Ask::Activities(_) => EntityKind::Activity,
        }
    }

    /// The lists that it is asked of: those of a namespace's workflows, or those of something else in it.
    pub fn lists(&self, namespace: &Arc<Namespace>) -> Arc<Namespace> {
        let id = rows::listed_under(namespace.id, self.kind());
        if id == namespace.id { Arc::clone(namespace) } else { Arc::new(Namespace { id, ..(**namespace).clone() }) }
    }

    /// Reads it, in a namespace with search attributes of these types.
    ///
    /// # Errors
    ///
    /// [`VisibilityError::InvalidArgument`] if it cannot be read.
    pub fn read(&self, types: &SearchAttributeTypes) -> Result<Query, VisibilityError> {
        match self {
            Ask::Query(query) | Ask::BatchJobs(query) => Query::parse(query, types),
            Ask::Schedules(query) => schedules(query, types),
            Ask::Activities(query) => Query::of_activities(query, types),
            Ask::Open(request) => open_query(request),
            Ask::Closed(request) => closed_query(request),
        }
    }
}

/// A query for schedules: they have their ids, search attributes that clients have given, and whether they are paused.
fn schedules(query: &str, types: &SearchAttributeTypes) -> Result<Query, VisibilityError> {
    let parsed = Query::parse(query, types)?;
    let condition = syntax::parse(query).ok().and_then(|statement| statement.condition);
    let is_hidden =
        |column: &str| search_attributes::is_reserved(column) && column != search_attributes::SCHEDULE_PAUSED;
    let hidden = condition.as_ref().and_then(|condition| condition.columns().into_iter().find(|name| is_hidden(name)));
    match hidden {
        Some(column) => {
            let message = format!("invalid query filter for schedules: cannot filter on {column:?}");
            Err(VisibilityError::InvalidArgument(message))
        }
        None => Ok(parsed),
    }
}
