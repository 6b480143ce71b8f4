//! Worker Deployments: which versions of a worker there are, and which of them gets which tasks.
//!
//! ```text
//!   poll of a version ──▶ register ──▶ Deployment ──▶ Deployments (of a namespace) ──▶ target of a task
//!   operator ──▶ set current, set ramping, delete, … ──▶┘
//!
//!   a version:  created ─▶ inactive ─▶ ramping ⇄ current ─▶ draining ─▶ drained
//!                                         ▲─────────────────────┘ ◀────────┘
//! ```
//!
//! A deployment is a state machine of the metadata and not of a partition, because every node needs what it says of every task queue that
//! is at home there, and at every start and continuation of a workflow: the metadata is on each of them, and a change is answered once all
//! of them have seen it. There are few deployments, and they change when people roll out code. In a Temporal server a deployment is a
//! workflow, and what task queues know of it follows it.
//!
//! Here is what is pure of it: what a change does (`change`), what follows for task queues (`routing`), what callers are shown
//! (`show`), and rows (`row`). Who changes rows, and asks whether anybody polls, is outside.

mod change;
mod names;
mod routing;
mod row;
mod show;
mod state;
#[cfg(test)]
mod tests;

pub use change::{SetCurrent, SetRamping, Unwatched};
pub use names::{
    UNVERSIONED, check_build_id, check_deployment_name, check_override, check_version, old_version_name,
    override_target, version_name, version_of_name,
};
pub(crate) use names::{check_reach, normal_override};
pub(crate) use routing::RAMPING;
pub use routing::{Deployments, QueueRouting, Target};
pub use show::{latest_summary, summary};
pub use state::{Deployment, DeploymentVersion, VersionQueue};
