//! What a call does under an [id](OperationId), by which it is known when it is made again.
//!
//! The partition remembers for a while what it did under which id (`journal`), so that it does nothing twice.

use everlog_model::{EntityRef, OperationId};
use everlog_storage::keys;

/// What a call does to one entity: it may have several steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    /// The call.
    pub(crate) operation: OperationId,
    /// Tells its steps apart: a hash of the entity and the command, the same on every node.
    pub(crate) what: u64,
}

impl Step {
    /// The step of a call that a command to an entity is.
    pub(crate) fn of(operation: OperationId, entity: &EntityRef, command: &str) -> Step {
        let kind = [entity.kind as u8];
        let what = [&kind, &entity.namespace_id.0[..], command.as_bytes(), &[0], entity.id.as_bytes()];
        Step { operation, what: keys::stable_hash(what.into_iter().flatten()) }
    }
}

#[cfg(test)]
mod tests {
    use everlog_kernel::{EntityKind, NamespaceId};

    use super::*;

    #[test]
    fn steps_differ_by_entity_and_command() {
        let entity =
            |kind, namespace, id: &str| EntityRef { kind, namespace_id: NamespaceId([namespace; 16]), id: id.into() };
        let of = entity(EntityKind::Workflow, 1, "w");
        let call = |number: u8| OperationId::from_bytes([number; 16]);
        let step = Step::of(call(1), &of, "SignalWorkflow");
        assert_eq!(step, Step::of(call(1), &of.clone(), "SignalWorkflow"));
        let others = [
            Step::of(call(2), &of, "SignalWorkflow"),
            Step::of(call(1), &of, "TerminateWorkflow"),
            Step::of(call(1), &entity(EntityKind::Schedule, 1, "w"), "SignalWorkflow"),
            Step::of(call(1), &entity(EntityKind::Workflow, 2, "w"), "SignalWorkflow"),
            Step::of(call(1), &entity(EntityKind::Workflow, 1, "v"), "SignalWorkflow"),
        ];
        assert!(!others.contains(&step));
        // It is on disks, and nodes of other versions look for it.
        assert_eq!(step.what, 0xe946_b489_7ab0_1a5a);
    }
}
