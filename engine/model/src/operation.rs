//! The identity of a call that has none of its own.
//!
//! A client that asks for a signal or a new namespace need not say how to know its call again. The node that it has called gives the call an
//! id, and keeps it when it makes the call again because nobody knows what became of it. Partitions and the metadata remember for a while
//! what they did under which id, so that they do nothing twice.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::str::FromStr;

tokio::task_local! {
    static CURRENT: Running;
}

/// The call that is running.
struct Running {
    operation: OperationId,
    /// Changes of the metadata that it has begun.
    changes: Cell<u32>,
}

/// The id of a call. Nodes tell it each other as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(u128);

/// A change of the metadata that a call makes: it may make several, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationChange {
    /// The call.
    pub operation: OperationId,
    /// Which of its changes; the first one is 0.
    pub number: u32,
}

impl OperationId {
    /// An id that nobody else has.
    pub fn random() -> OperationId {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system has a random source");
        OperationId(u128::from_be_bytes(bytes))
    }

    /// From its bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> OperationId {
        OperationId(u128::from_be_bytes(bytes))
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Runs `call`. What it does to partitions and to the metadata from its own task is done once under this id.
    pub async fn scope<F: Future>(self, call: F) -> F::Output {
        CURRENT.scope(Running { operation: self, changes: Cell::new(0) }, call).await
    }

    /// The id of the call that is running, if it has one.
    pub fn current() -> Option<OperationId> {
        CURRENT.try_with(|running| running.operation).ok()
    }
}

impl OperationChange {
    /// The change that the running call makes next, if it has an id.
    pub fn next() -> Option<OperationChange> {
        let next = |running: &Running| OperationChange { operation: running.operation, number: running.changes.get() };
        CURRENT.try_with(next).ok()
    }

    /// The same, which is begun now.
    pub fn begin() -> Option<OperationChange> {
        let begun = OperationChange::next()?;
        CURRENT.try_with(|running| running.changes.set(begun.number + 1)).ok()?;
        Some(begun)
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

    #[tokio::test]
    async fn a_call_knows_its_id_and_nobody_else_does() {
        assert_eq!((OperationId::current(), OperationChange::begin()), (None, None));
        let operation = OperationId(7);
        let change = |number| Some(OperationChange { operation, number });
        let seen = operation.scope(async {
            let begun = (OperationChange::next(), OperationChange::begin(), OperationChange::begin());
            (OperationId::current(), begun)
        });
        assert_eq!(seen.await, (Some(operation), (change(0), change(0), change(1))));
        let again = operation.scope(async { OperationChange::begin() });
        assert_eq!(again.await, change(0), "made again, it makes the same changes");
        assert_eq!(OperationId::current(), None);
    }
}
