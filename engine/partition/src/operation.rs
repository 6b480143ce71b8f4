//! The identity of a call that has none of its own.
//!
//! A client that asks for a signal or a termination need not say how to know its call again. The node that it has called gives the call an id,
//! and keeps it when it makes the call again because nobody knows what became of it. The partition remembers for a while what it did under
//! which id (`journal`), so that it does nothing twice.

use std::fmt;
use std::future::Future;
use std::str::FromStr;

use everlog_model::EntityRef;
use everlog_storage::keys;

tokio::task_local! {
    static CURRENT: OperationId;
}

/// The id of a call. Nodes tell it each other as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId(u128);

/// What a call does to one entity: it may have several steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    /// The call.
    pub(crate) operation: OperationId,
    /// Tells its steps apart: a hash of the entity and the command, the same on every node.
    pub(crate) what: u64,
}

impl OperationId {
    /// An id that nobody else has.
    pub fn random() -> OperationId {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system has a random source");
        OperationId(u128::from_be_bytes(bytes))
    }

    /// From its bytes.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> OperationId {
        OperationId(u128::from_be_bytes(bytes))
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Runs `call`. Commands that it gives to partitions from its own task are done once under this id.
    pub async fn scope<F: Future>(self, call: F) -> F::Output {
        CURRENT.scope(self, call).await
    }

    /// The id of the call that is running, if it has one.
    pub fn current() -> Option<OperationId> {
        CURRENT.try_with(|current| *current).ok()
    }

    /// The step that a command to an entity is.
    pub(crate) fn step(self, entity: &EntityRef, command: &str) -> Step {
        let kind = [entity.kind as u8];
        let what = [&kind, &entity.namespace_id.0[..], command.as_bytes(), &[0], entity.id.as_bytes()];
        Step { operation: self, what: keys::stable_hash(what.into_iter().flatten()) }
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// Not an operation id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an operation id is 32 hexadecimal digits")]
pub struct NotAnOperationId;

impl FromStr for OperationId {
    type Err = NotAnOperationId;

    fn from_str(text: &str) -> Result<OperationId, NotAnOperationId> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(OperationId).ok_or(NotAnOperationId)
    }
}

#[cfg(test)]
mod tests {
    use everlog_kernel::{EntityKind, NamespaceId};

    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_told() {
        let id = OperationId(0x0123_4567);
        assert_eq!(id.to_string(), "00000000000000000000000001234567");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "1234567", "+0000000000000000000000001234567", "0000000000000000000000000123456g"] {
            assert_eq!(text.parse::<OperationId>(), Err(NotAnOperationId), "{text:?}");
        }
        assert_ne!(OperationId::random(), OperationId::random());
    }

    #[test]
    fn steps_differ_by_entity_and_command() {
        let entity =
            |kind, namespace, id: &str| EntityRef { kind, namespace_id: NamespaceId([namespace; 16]), id: id.into() };
        let of = entity(EntityKind::Workflow, 1, "w");
        let step = OperationId(1).step(&of, "SignalWorkflow");
        assert_eq!(step, OperationId(1).step(&of.clone(), "SignalWorkflow"));
        let others = [
            OperationId(2).step(&of, "SignalWorkflow"),
            OperationId(1).step(&of, "TerminateWorkflow"),
            OperationId(1).step(&entity(EntityKind::Schedule, 1, "w"), "SignalWorkflow"),
            OperationId(1).step(&entity(EntityKind::Workflow, 2, "w"), "SignalWorkflow"),
            OperationId(1).step(&entity(EntityKind::Workflow, 1, "v"), "SignalWorkflow"),
        ];
        assert!(!others.contains(&step));
        // It is on disks, and nodes of other versions look for it.
        assert_eq!(step.what, 0xe946_b489_7ab0_1a5a);
    }

    #[tokio::test]
    async fn a_call_knows_its_id_and_nobody_else_does() {
        assert_eq!(OperationId::current(), None);
        let id = OperationId(7);
        assert_eq!(id.scope(async { OperationId::current() }).await, Some(id));
        assert_eq!(OperationId::current(), None);
    }
}
