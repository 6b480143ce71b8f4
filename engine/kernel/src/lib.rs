//! The pure core of Everlog: what Temporal's semantics are, and nothing else.
//!
//! [`decide()`] takes a workflow's state and a command, changes the state, and returns a [`Transition`]: the rows to put and
//! delete, the effects that may happen once those rows are durable, and the reply. It does no I/O and reads no clock; time,
//! seeds and limits come in with the [`Context`]. The same commands with the same contexts give the same bytes.
//!
//! ```text
//!   Command ──▶ requests/*.rs ──▶ runs ──▶ Txn (events, rows, effects of one run) ──▶ Transition
//!                    │
//!                    └─ a completed workflow task ──▶ commands/*.rs, one file per workflow command
//! ```
//!
//! Start reading at [`command`] and [`transition`] for what goes in and out, then [`state`], then `txn`.

pub mod activity_execution;
pub mod archive;
pub mod batch_job;
pub mod command;
pub mod context;
pub mod deployment;
pub mod describe;
pub mod ids;
pub mod nexus;
pub mod outbox;
pub mod rejection;
pub mod reset;
pub mod rows;
pub mod schedule;
mod secondary;
pub mod state;
pub mod time;
pub mod token;
pub mod transition;

mod activity_operations;
mod activity_task;
mod activity_timeouts;
mod commands;
mod cron;
mod decide;
mod events;
mod fairness;
mod family;
mod field_mask;
mod go_duration;
mod history_limits;
mod inheritance;
mod payload_map;
mod proto;
mod requests;
mod retry;
mod runs;
mod standing;
mod successor;
mod task;
mod terminate;
mod txn;
mod updates;
mod valid_start;
mod validation;
mod visibility;
mod workflow_task;

pub use activity_execution::{ActivityExecutionCommand, ActivityExecutions, ValidActivityStart};
pub use batch_job::{BatchJob, BatchJobCommand};
pub use command::{Command, Reply, RunCommand};
pub use context::{Context, Limits, Namespace};
pub use decide::decide;
pub use deployment::Deployments;
pub use fairness::{Lane, Weight};
pub use ids::{EntityKind, Ids, NamespaceId, RunId};
pub use rejection::Rejection;
pub use requests::start_workflow_task::is_inline_poll;
pub use requests::update_activity_options::check_activity_options;
pub use requests::update_workflow_options::{WORKFLOW_OPTION_PATHS, check_workflow_option_paths};
pub use rows::{RowKey, RunRow, RunRowKind};
pub use schedule::{Schedule, ScheduleCommand};
pub use standing::Standing;
pub use state::{Run, Workflow};
pub use time::Time;
pub use transition::{Effect, Transition};
pub use valid_start::{ValidSignalWithStart, ValidStart};
pub use validation::{check_links, check_priority, search_attribute_sizes};
pub use workflow_task::transient_events;
