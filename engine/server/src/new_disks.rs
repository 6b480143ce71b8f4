//! Has new disks take the place of lost ones: whoever leads a group gives it the replicas that it should have.
//!
//! ```text
//!   metadata: node 3 has another data directory ──▶ each node: listens to that, and to the one before no more
//!                                              └──▶ leader of each group: new replica learns ─▶ has the rows ─▶ votes instead of the lost one
//! ```
//!
//! Nothing is kept but what the metadata and the groups say, so whoever leads next goes on.

use std::sync::Arc;
use std::time::Duration;

use everlog_meta::Namespaces;
use everlog_raft::{GroupSlot, Leadership};

use crate::membership::Membership;

/// How often a leader looks whether its group is as it should be.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a step of one group may keep the others waiting.
const STEP_TIME_MAX: Duration = Duration::from_secs(10);

/// Does so for as long as it is polled.
pub(crate) async fn follow(membership: Membership, namespaces: Arc<Namespaces>, groups: Vec<GroupSlot>) {
    loop {
        let disks = namespaces.disks();
        if disks.is_empty() {
            namespaces.until_other_disks(&disks).await;
            continue;
        }
        for (node, disk) in &disks {
            membership.mesh.set_directory(*node, disk.directory_id);
        }
        let leading = groups.iter().map(|slot| slot.read().clone());
        for group in leading.filter(|group| matches!(*group.leadership().borrow(), Leadership::Leader { .. })) {
            let replicas = membership.replicas(group.id(), &disks);
            let step = tokio::time::timeout(STEP_TIME_MAX, group.bring_to(&replicas)).await;
            if let Ok(Err(error)) = step {
                tracing::info!(%error, "a group does not have the replicas yet that it should have");
            }
        }
        let _ = tokio::time::timeout(LOOK_INTERVAL, namespaces.until_other_disks(&disks)).await;
    }
}
