//! Visibility: which runs a namespace has, filtered and counted.
//!
//! Every run has one row in its partition, written in the same entry as the change that it describes: a list sees each
//! write that was acknowledged before it. Rows lie in the order in which lists show them (open runs first, then by close time
//! and start time, newest first), so that a list is a scan from the front, a filter, and a merge over the partitions.
//!
//! ```text
//!   query text ──syntax──▶ Syntax ─filter──▶ Filter ──plan──▶ key ranges and partitions
//!                                               │                      │
//!                                               └──────▶ list: scan, filter, merge ──▶ a page of encoded records
//!                                                              or count, and remember (tallies)
//! ```
//!
//! Records are stored nearly as they are listed (`shown` has the difference) and are not decoded on the way; a filter reads the fields
//! that it needs from the encoded bytes (`record`). The grammar, and what it refuses in which words, follows Temporal's (server 1.32).

mod ask;
mod evaluate;
mod field;
mod filter;
mod legacy;
mod list;
mod plan;
mod record;
mod scan;
mod shown;
mod syntax;
mod tallies;
mod times;
mod workers;

use std::collections::HashMap;

use everlog_proto::api::enums::v1::IndexedValueType;

pub use ask::Ask;
pub use field::Field;
pub use filter::{Comparison, Filter, Query, Value};
pub use legacy::{closed_query, open_query};
pub use list::{Page, Position, Whose, count, counted, decode_token, list, only_workflow, page_size};
pub use plan::close_times;
pub use record::Record;
pub use scan::Reader;
pub use shown::entry as shown;
pub use syntax::malformed_condition;
pub use tallies::{ByStatus, add};
pub use times::Moment;
pub use workers::WorkerQuery;

/// The declared types of a namespace's own search attributes, by name.
pub type SearchAttributeTypes = HashMap<String, IndexedValueType>;

/// Why a list or count failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VisibilityError {
    /// The request is wrong; the text is for the caller.
    #[error("{0}")]
    InvalidArgument(String),
    /// A partition cannot answer now; the caller may try again.
    #[error("{0}")]
    Unavailable(String),
    /// Some of the runs are in another partition by now than whoever asks knows: it may ask again, once it knows better.
    #[error("{0}")]
    Outdated(String),
    /// Rows cannot be read, or are not what they should be.
    #[error("{0}")]
    Internal(String),
}

impl VisibilityError {
    /// A query that is wrong, in Temporal's words.
    fn query(problem: impl std::fmt::Display) -> VisibilityError {
        VisibilityError::InvalidArgument(format!("invalid query: {problem}"))
    }
}
