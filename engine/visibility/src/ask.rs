//! What a list or count is asked for, as its request says it: any node can read it.

use everlog_proto::api::workflowservice::v1::{ListClosedWorkflowExecutionsRequest, ListOpenWorkflowExecutionsRequest};

use super::{Query, SearchAttributeTypes, VisibilityError, closed_query, open_query};

/// Which runs are asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Those that a query names.
    Query(String),
    /// Those that are open, by a filter.
    Open(Box<ListOpenWorkflowExecutionsRequest>),
    /// Those that are closed, by a filter.
    Closed(Box<ListClosedWorkflowExecutionsRequest>),
}

impl Ask {
    /// Reads it, in a namespace with search attributes of these types.
    ///
    /// # Errors
    ///
    /// [`VisibilityError::InvalidArgument`] if it cannot be read.
    pub fn read(&self, types: &SearchAttributeTypes) -> Result<Query, VisibilityError> {
        match self {
            Ask::Query(query) => Query::parse(query, types),
            Ask::Open(request) => open_query(request),
            Ask::Closed(request) => closed_query(request),
        }
    }
}
