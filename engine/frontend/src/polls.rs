//! How many polls a namespace has open, and what polls say of their workers.

use std::sync::Arc;

use everlog_config::FrontendLimits;
use everlog_kernel::NamespaceId;
use everlog_matching::{ScalingHint, ScalingRules, WorkerVersion};
use everlog_model::FastMap;
use everlog_proto::api::common::v1::WorkerVersionCapabilities;
use everlog_proto::api::deployment::v1::WorkerDeploymentOptions;
use everlog_proto::api::taskqueue::v1::PollerScalingDecision;
use parking_lot::Mutex;
use prost::Message;

use super::errors::Error;

/// What is remembered of a worker's version, bytes: more than twice as much as the longest names that a version may have take.
const VERSION_BYTES_MAX: usize = 1024;

/// The methods whose calls are counted, each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PollKind {
    Workflow,
    Activity,
    Nexus,
}

/// The polls that are open.
#[derive(Debug, Default)]
pub(super) struct Polls {
    open: Mutex<FastMap<(NamespaceId, PollKind), usize>>,
}

impl Polls {
    /// Counts a poll until what is returned is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyPolls`] if `polls_max` are open already.
    pub(super) fn open(&self, namespace: NamespaceId, kind: PollKind, polls_max: usize) -> Result<OpenPoll<'_>, Error> {
        let mut open = self.open.lock();
        let count = open.entry((namespace, kind)).or_default();
        if *count >= polls_max {
            return Err(Error::TooManyPolls);
        }
        *count += 1;
        Ok(OpenPoll { polls: self, key: (namespace, kind) })
    }
}

/// Tells that a poll was made at a node that is not the home of its queue, or not any more. The called node makes it again where that is.
pub(super) fn elsewhere() -> Error {
    Error::NotDone("the task queue has moved to another node".to_owned())
}

/// What a poll says of the version of its worker, unless it is too long to be remembered.
pub(super) fn worker_version(
    capabilities: Option<WorkerVersionCapabilities>,
    deployment: Option<WorkerDeploymentOptions>,
) -> Option<Arc<WorkerVersion>> {
    let bytes =
        capabilities.as_ref().map_or(0, Message::encoded_len) + deployment.as_ref().map_or(0, Message::encoded_len);
    let is_told = capabilities.is_some() || deployment.is_some();
    (is_told && bytes <= VERSION_BYTES_MAX).then(|| Arc::new(WorkerVersion { capabilities, deployment }))
}

/// When workers are told to poll more or less.
pub(super) fn scaling_rules(limits: &FrontendLimits) -> ScalingRules {
    ScalingRules {
        idle_wait: limits.poller_scaling_wait,
        backlog_age: limits.poller_scaling_backlog_age,
        per_second_and_poller: limits.poller_scaling_per_second,
        added_to_dispatched: limits.poller_scaling_ratio,
    }
}

/// The same as workers are told it.
pub(super) fn scaling_decision(hint: Option<ScalingHint>) -> Option<PollerScalingDecision> {
    hint.map(|hint| PollerScalingDecision {
        poll_request_delta_suggestion: match hint {
            ScalingHint::More => 1,
            ScalingHint::Fewer => -1,
        },
    })
}

/// A poll that is counted.
#[derive(Debug)]
pub(super) struct OpenPoll<'a> {
    polls: &'a Polls,
    key: (NamespaceId, PollKind),
}

impl Drop for OpenPoll<'_> {
    fn drop(&mut self) {
        let mut open = self.polls.open.lock();
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_remembered_unless_it_is_too_long() {
        let of_build = |bytes| {
            let capabilities = WorkerVersionCapabilities { build_id: "b".repeat(bytes), ..Default::default() };
            worker_version(Some(capabilities), None)
        };
        assert_eq!(worker_version(None, None), None);
        let version = of_build(255).unwrap();
        assert_eq!(version.capabilities.as_ref().unwrap().build_id.len(), 255);
        assert!(worker_version(None, Some(WorkerDeploymentOptions::default())).is_some());
        assert_eq!(of_build(1025), None);
    }

    #[test]
    fn polls_are_bounded_by_namespace_and_kind() {
        let polls = Polls::default();
        let (one, other) = (NamespaceId([1; 16]), NamespaceId([2; 16]));
        let first = polls.open(one, PollKind::Workflow, 2).unwrap();
        let second = polls.open(one, PollKind::Workflow, 2).unwrap();
        assert_eq!(polls.open(one, PollKind::Workflow, 2).unwrap_err(), Error::TooManyPolls);
        let others = (polls.open(one, PollKind::Activity, 2), polls.open(other, PollKind::Workflow, 2));
        assert!(others.0.is_ok() && others.1.is_ok());
        drop(first);
        let third = polls.open(one, PollKind::Workflow, 2).unwrap();
        drop((second, third, others));
        assert!(polls.open.lock().is_empty());
        // None at all, if somebody wants that.
        assert!(polls.open(one, PollKind::Workflow, 0).is_err());
    }
}
