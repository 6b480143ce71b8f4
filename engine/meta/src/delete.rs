//! Deleting namespaces.
//!
//! A namespace that is deleted gets another name at once, so that its own is free, and a state in which it takes no calls. What is in it
//! is deleted bit by bit by the nodes that have it; the namespace's row goes last, once nothing is left that names it.

use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::NamespaceId;
use everlog_proto::api::enums::v1::NamespaceState;
use everlog_storage::keys::{MetaKind, meta_row};
use everlog_storage::state::RowChange;

use super::change::{now, saved};
use super::namespaces::SYSTEM_NAMESPACE;
use super::record::{Deletion, NamespaceRecord};
use super::view::View;
use super::{MetaError, Namespaces};

/// Characters of its id that the name of a deleted namespace ends with, at least.
const ID_CHARACTERS: usize = 5;

impl Namespaces {
    /// Gives a namespace up, with all that is in it, and returns it under the name that it has from now on. Its row is kept for `delay` at
    /// least. One that is deleted already stays as it is.
    ///
    /// # Errors
    ///
    /// [`MetaError::NotFound`], [`MetaError::Protected`] for the system's own, and see there.
    pub async fn delete(&self, id: NamespaceId, delay: Duration) -> Result<Arc<NamespaceRecord>, MetaError> {
        self.change_once(|view| {
            let before = view.by_id.get(&id).ok_or_else(|| MetaError::NotFound(id.to_string()))?;
            if before.name() == SYSTEM_NAMESPACE {
                return Err(MetaError::Protected("unable to delete system namespace".into()));
            }
            if before.deletion.is_some() {
                return Ok((Vec::new(), Arc::clone(before)));
            }
            if let Some(endpoint) = view.endpoint_to(id) {
                let message =
                    format!("cannot delete a namespace that is a target of a Nexus endpoint {}", endpoint.spec.name);
                return Err(MetaError::Protected(message.into()));
            }
            let mut record = NamespaceRecord::clone(before);
            record.rename(deleted_name(view, before)?);
            record.state = NamespaceState::Deleted;
            record.updated = now();
            record.deletion = Some(Deletion { asked: record.updated, delay });
            Ok(saved(record))
        })
        .await
    }

    /// The namespaces that are deleted and still have a row.
    pub fn deleted(&self) -> Vec<Arc<NamespaceRecord>> {
        let view = Arc::clone(&self.view.borrow());
        view.by_id.values().filter(|record| record.deletion.is_some()).cloned().collect()
    }

    /// Deletes the row of a namespace that is deleted, once it is empty and its time is over.
    ///
    /// # Errors
    ///
    /// See [`MetaError`].
    pub async fn forget(&self, id: NamespaceId) -> Result<(), MetaError> {
        self.change(|view| match view.by_id.get(&id) {
            // Steps that are under way name it.
            Some(record) if record.deletion.is_some() && !view.moves.contains_key(&id) => {
                let mut rows = view.deployment_rows_gone(id);
                rows.push(RowChange::Delete { key: meta_row(MetaKind::Namespace, &id.0) });
                Ok((rows, ()))
            }
            _ => Ok((Vec::new(), ())),
        })
        .await
    }

    /// Whether this node leads the group of the metadata.
    pub fn is_led_here(&self) -> bool {
        matches!(*self.group.read().leadership().borrow(), everlog_raft::Leadership::Leader { .. })
    }
}

/// As Temporal names what is deleted: the old name with as much of the id behind it as tells it from others.
fn deleted_name(view: &View, record: &NamespaceRecord) -> Result<String, MetaError> {
    let id = record.namespace.id.to_string();
    (ID_CHARACTERS..=id.len())
        .filter_map(|characters| Some(format!("{}-deleted-{}", record.name(), id.get(..characters)?)))
        .find(|name| !view.by_name.contains_key(name))
        .ok_or_else(|| MetaError::AlreadyExists(record.name().to_owned()))
}
