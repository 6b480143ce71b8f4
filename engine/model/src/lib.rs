//! What the parts of the engine call the same thing: workflows, queues, errors of a call, and how rows are laid out in storage.
//!
//! Nothing here decides or waits. Every crate above it speaks in these types, so that matching need not know partitions and
//! metadata need not know either. Start with [`WorkflowRef`]; [`rows`] maps the kernel's rows to keys, and [`limits`] lists
//! every bound of the server.

mod call;
mod disk_room;
mod durations;
mod entity;
mod formats;
mod hash;
mod in_force;
pub mod limits;
mod moves;
mod one_node;
mod operation;
pub mod rows;
pub mod search_attributes;
mod slot_set;
mod slots;
mod workflow_ref;

pub use call::{CallError, RunView};
pub use disk_room::DiskRoom;
pub use durations::parse_go_duration;
pub use entity::EntityRef;
pub use everlog_storage::{GroupId, NodeId};
pub use formats::{FormatSource, FormatVersion, Gated, NotYet, ReadableFormats};
pub use hash::FastMap;
pub use in_force::{InForce, PerNamespace};
pub use moves::{AskerIsBehind, Moves, Step, StepId, StepRecord, StepState};
pub use one_node::OneNode;
pub use operation::{NotAnOperationId, OperationChange, OperationId};
pub use slot_set::SlotSet;
pub use slots::{Share, SlotRange, SlotSource, SlotTable, slot_of};
pub use workflow_ref::{NamespaceSource, QueueId, WorkflowRef};
