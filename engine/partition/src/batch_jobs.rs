//! The batch jobs that run in the partitions that are led here: who works on them looks here which ones there are.
//!
//! A lead tells of each job once that is durable, and of all that it finds running when it begins, since their wakes are due. With the lead
//! they are gone from here, and the next one's node has them.

use std::collections::{BTreeMap, HashMap};

use everlog_kernel::{NamespaceId, RunId};
use everlog_matching::Source;
use everlog_model::{SlotSet, WorkflowRef};
use everlog_storage::GroupId;
use tokio::sync::watch;

/// The jobs that run here, by their run ids. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct BatchJobs(watch::Sender<Running>);

/// What runs here.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// The lead of each partition. What another one tells comes too late.
    leads: HashMap<GroupId, u128>,
    jobs: BTreeMap<RunId, (GroupId, WorkflowRef)>,
}

impl Running {
    /// Each job, and where it lives.
    pub fn jobs(&self) -> impl Iterator<Item = (RunId, &WorkflowRef)> {
        self.jobs.iter().map(|(run_id, (_, address))| (*run_id, address))
    }

    /// Whether a job is among them.
    pub fn contains(&self, run_id: RunId) -> bool {
        self.jobs.contains_key(&run_id)
    }
}

impl BatchJobs {
    /// Tells of what runs, and of each change of that.
    pub fn watch(&self) -> watch::Receiver<Running> {
        self.0.subscribe()
    }

    /// A lead has begun.
    pub(crate) fn opened(&self, lead: Source) {
        self.0.send_if_modified(|running| {
            running.leads.insert(lead.partition, lead.lead);
            false
        });
    }

    /// A lead has ended.
    pub(crate) fn closed(&self, lead: Source) {
        self.0.send_if_modified(|running| {
            running.leads.remove(&lead.partition);
            let before = running.jobs.len();
            running.jobs.retain(|_, (partition, _)| *partition != lead.partition);
            running.jobs.len() != before
        });
    }

    /// Slots of a namespace have left the partition of a lead, or are about to: their jobs are worked on where they go.
    pub(crate) fn left(&self, lead: Source, namespace_id: NamespaceId, slots: &SlotSet) {
        self.0.send_if_modified(|running| {
            let before = running.jobs.len();
            running.jobs.retain(|_, (partition, address)| {
                *partition != lead.partition || address.namespace.id != namespace_id || !slots.contains(address.slot())
            });
            running.jobs.len() != before
        });
    }

    /// A job of a lead is to be worked on, or not any more.
    pub(crate) fn tell(&self, lead: Source, run_id: RunId, address: WorkflowRef, is_running: bool) {
        self.0.send_if_modified(|running| {
            if running.leads.get(&lead.partition) != Some(&lead.lead) {
                return false;
            }
            if is_running {
                running.jobs.insert(run_id, (lead.partition, address)).is_none()
            } else {
                running.jobs.remove(&run_id).is_some()
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use everlog_kernel::Namespace;

    use super::*;

    fn job(id: &str) -> WorkflowRef {
        let (id, name) = (id.into(), "default".to_owned());
        let namespace = Namespace { id: NamespaceId([1; 16]), name, retention: Duration::ZERO, ..Namespace::default() };
        WorkflowRef { namespace: Arc::new(namespace), workflow_id: id }
    }

    fn ids(jobs: &BatchJobs) -> Vec<String> {
        jobs.watch().borrow().jobs().map(|(_, address)| address.workflow_id.to_string()).collect()
    }

    #[test]
    fn jobs_go_with_their_lead() {
        let jobs = BatchJobs::default();
        let [one, two] = [1, 2].map(|number| Source { partition: GroupId(number), lead: 7 });
        jobs.opened(one);
        jobs.opened(two);
        let mut watch = jobs.watch();
        jobs.tell(one, RunId([1; 16]), job("a"), true);
        jobs.tell(two, RunId([2; 16]), job("b"), true);
        assert!(watch.has_changed().unwrap());
        assert_eq!(ids(&jobs), ["a", "b"]);
        watch.mark_unchanged();
        jobs.tell(one, RunId([1; 16]), job("a"), true);
        assert!(!watch.has_changed().unwrap(), "that was known");
        jobs.tell(two, RunId([2; 16]), job("b"), false);
        assert_eq!(ids(&jobs), ["a"]);

        jobs.closed(one);
        assert!(ids(&jobs).is_empty());
        let next = Source { lead: 8, ..one };
        jobs.opened(next);
        jobs.tell(one, RunId([1; 16]), job("a"), true);
        assert!(ids(&jobs).is_empty(), "the lead that tells it is gone");
        jobs.tell(next, RunId([1; 16]), job("a"), true);
        assert_eq!(ids(&jobs), ["a"]);
    }
}
