//! Rows of a partition's own that cannot be read, found by others than its loop.
//!
//! Pages of tasks are read for matching, outside the loop. One that cannot be read would be asked for again and again, and its tasks
//! wait for ever; so the lead hears of it and ends, as it does when it comes upon such a row itself.

use std::collections::HashMap;
use std::sync::Arc;

use everlog_raft::LeadEpoch;
use everlog_storage::GroupId;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::load::{Read, ReadFor, ReadRows};

/// Tells the leads of this node's partitions of rows that cannot be read. Cheap to clone.
#[derive(Clone, Default)]
pub struct RowFaults(Arc<Mutex<HashMap<GroupId, Listener>>>);

/// Who hears of them: the latest lead, if it is still there.
struct Listener {
    epoch: LeadEpoch,
    lead: mpsc::WeakUnboundedSender<Read>,
}

impl RowFaults {
    /// From now on a lead hears of what cannot be read.
    pub(crate) fn listen(&self, partition: GroupId, lead: &ReadFor) {
        let listener = Listener { epoch: lead.epoch, lead: lead.reply.downgrade() };
        self.0.lock().insert(partition, listener);
    }

    /// A row of a partition cannot be read: its lead ends.
    pub(crate) fn report(&self, partition: GroupId, error: String) {
        if let Some(Listener { epoch, lead }) = self.0.lock().get(&partition)
            && let Some(lead) = lead.upgrade()
        {
            // A lead that ends anyway needs not hear of it.
            let _ = lead.send(Read { epoch: *epoch, rows: ReadRows::Fault(error) });
        }
    }
}
