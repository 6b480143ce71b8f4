//! Settings that namespaces may have of their own, and that may change while the server runs.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

/// A value for every namespace, and those of namespaces that have another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerNamespace<T> {
    everywhere: Arc<T>,
    own: HashMap<String, Arc<T>>,
}

impl<T> PerNamespace<T> {
    /// The same value for all but those in `own`, which are named.
    pub fn new(everywhere: T, own: impl IntoIterator<Item = (String, T)>) -> PerNamespace<T> {
        let own = own.into_iter().map(|(namespace, value)| (namespace, Arc::new(value))).collect();
        PerNamespace { everywhere: Arc::new(everywhere), own }
    }

    fn of(&self, namespace: &str) -> &Arc<T> {
        self.own.get(namespace).unwrap_or(&self.everywhere)
    }

    /// The same with a part of each value.
    pub fn map<U>(&self, part: impl Fn(&T) -> U) -> PerNamespace<U> {
        PerNamespace::new(
            part(&self.everywhere),
            self.own.iter().map(|(namespace, value)| (namespace.clone(), part(value))),
        )
    }
}

/// What holds now.
#[derive(Debug, Default)]
pub struct InForce<T>(RwLock<PerNamespace<T>>);

impl<T> InForce<T> {
    /// What holds until it is replaced.
    pub fn new(values: PerNamespace<T>) -> InForce<T> {
        InForce(RwLock::new(values))
    }

    /// What holds for a namespace, by name. Whoever decides something takes it once, so that the decision is of one piece.
    pub fn of(&self, namespace: &str) -> Arc<T> {
        Arc::clone(self.0.read().of(namespace))
    }

    /// From now on these hold.
    pub fn replace(&self, values: PerNamespace<T>) {
        *self.0.write() = values;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_its_own_or_what_all_have_until_it_is_replaced() {
        let own = |value| [("own".to_owned(), value)];
        let in_force = InForce::new(PerNamespace::new(1, own(2)));
        assert_eq!((*in_force.of("own"), *in_force.of("another")), (2, 1));
        in_force.replace(PerNamespace::new(3, own(4)).map(|value| value * 10));
        assert_eq!((*in_force.of("own"), *in_force.of("another")), (40, 30));
    }
}
