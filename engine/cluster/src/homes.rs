//! Queues of namespaces that move have their homes where their slots are. Whoever polls them at their old home is to do it at the new one, and
//! the new home reads what there is for them.
//!
//! Leads that have not heard yet that a slot has moved offer to the old home. So the new one reads the rows again a little later, too; and when all of a
//! namespace has moved, every node takes it that something was left out.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use everlog_kernel::NamespaceId;
use everlog_matching::Matching;
use everlog_meta::{NamespaceMove, Namespaces};
use everlog_model::{QueueId, SlotSet};
use tokio::time::Instant;

use crate::Offers;

/// When the rows of queues are read again that have a new home: at once, and when those should have heard of it that did not yet.
const READ_AGAIN_AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5)];

/// Queues of a namespace whose rows are to be read.
struct Reading {
    namespace_id: NamespaceId,
    slots: SlotSet,
    at: Instant,
}

/// Has the queues of this node follow the moves of their namespaces, for as long as it is polled.
pub async fn follow(namespaces: Arc<Namespaces>, matching: Weak<Matching>, offers: Option<Arc<Offers>>) {
    let mut known: HashMap<NamespaceId, Arc<NamespaceMove>> = HashMap::new();
    let mut to_read: Vec<Reading> = Vec::new();
    loop {
        let moves = namespaces.moves();
        let now: HashMap<_, _> = moves.iter().cloned().collect();
        for (id, slots) in changed(&known, &now) {
            if let Some(offers) = &offers {
                offers.end_polls_elsewhere(id, &slots);
                if known.contains_key(&id) && !now.contains_key(&id) {
                    offers.leave_out();
                }
            }
            let at = Instant::now();
            to_read.extend(READ_AGAIN_AFTER.map(|after| Reading {
                namespace_id: id,
                slots: slots.clone(),
                at: at + after,
            }));
        }
        known = now;
        let Some(matching) = matching.upgrade() else { return };
        for Reading { namespace_id, slots, .. } in to_read.extract_if(.., |reading| reading.at <= Instant::now()) {
            let is_concerned = |queue: &QueueId| queue.namespace_id == namespace_id && slots.contains(queue.slot());
            matching.read_again_of(is_concerned);
        }
        drop(matching);
        let next = to_read.iter().map(|reading| reading.at).min();
        let time = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = namespaces.until_other_moves(&moves) => {}
            () = time => {}
        }
    }
}

/// The slots of namespaces whose queues have another home now, or tasks in partitions where they had none before.
fn changed(
    before: &HashMap<NamespaceId, Arc<NamespaceMove>>,
    now: &HashMap<NamespaceId, Arc<NamespaceMove>>,
) -> Vec<(NamespaceId, SlotSet)> {
    let mut changed = Vec::new();
    for (id, moving) in now {
        let slots = match before.get(id) {
            // From now on it has tasks in both pools.
            None => SlotSet::all(),
            Some(before) if before.other != moving.other => SlotSet::all(),
            Some(before) => before.moved.difference(&moving.moved).union(&moving.moved.difference(&before.moved)),
        };
        if !slots.is_empty() {
            changed.push((*id, slots));
        }
    }
    let over = before.keys().filter(|id| !now.contains_key(id));
    changed.extend(over.map(|id| (*id, SlotSet::all())));
    changed
}

#[cfg(test)]
mod tests {
    use everlog_meta::PoolId;

    use super::*;

    #[test]
    fn queues_are_told_apart_whose_slots_have_moved() {
        let id = NamespaceId([7; 16]);
        let moving = |moved: SlotSet, other: u32| {
            HashMap::from([(id, Arc::new(NamespaceMove { other: PoolId(other), is_back: false, moved, step: None }))])
        };
        let (none, few, more) = (SlotSet::new(), (0..10).collect::<SlotSet>(), (5..15).collect::<SlotSet>());
        let nothing = HashMap::new();
        assert_eq!(changed(&nothing, &moving(none.clone(), 1)), [(id, SlotSet::all())]);
        assert_eq!(changed(&moving(none, 1), &moving(few.clone(), 1)), [(id, few.clone())]);
        let apart = (0..5).chain(10..15).collect();
        assert_eq!(changed(&moving(few.clone(), 1), &moving(more.clone(), 1)), [(id, apart)]);
        assert_eq!(changed(&moving(few.clone(), 1), &moving(few.clone(), 1)), []);
        assert_eq!(changed(&moving(few.clone(), 1), &moving(few, 2)), [(id, SlotSet::all())]);
        assert_eq!(changed(&moving(more, 1), &nothing), [(id, SlotSet::all())]);
    }
}
