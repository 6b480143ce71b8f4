//! What has an id in a partition, and by which its rows, its memory and its wakes are found.

use std::sync::Arc;

use everlog_kernel::{EntityKind, Namespace, NamespaceId};
use everlog_storage::keys::EntityKey;

use crate::WorkflowRef;

/// An entity: a workflow, or a state machine of its own beside workflows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityRef {
    /// What it is. Whoever does something with entities of all kinds tells them apart by this.
    pub kind: EntityKind,
    /// Its namespace.
    pub namespace_id: NamespaceId,
    /// Its id: the workflow id of a workflow.
    pub id: Arc<str>,
}

impl EntityRef {
    /// The entity that rows name.
    ///
    /// # Errors
    ///
    /// The kind is unknown: corruption, or a later version.
    pub fn decode(kind: u32, namespace_id: [u8; 16], id: String) -> Result<EntityRef, String> {
        let known = u8::try_from(kind).ok().and_then(EntityKind::from_byte);
        let kind = known.ok_or_else(|| format!("an entity of an unknown kind, {kind}"))?;
        Ok(EntityRef { kind, namespace_id: NamespaceId(namespace_id), id: id.into() })
    }

    /// The keys of its rows.
    pub fn key(&self) -> EntityKey<'_> {
        EntityKey::new(self.kind as u8, self.namespace_id.0, &self.id)
    }

    /// What commands to it are addressed to, in its namespace: they say themselves which kind of entity they are for.
    pub fn into_address(self, namespace: Arc<Namespace>) -> WorkflowRef {
        WorkflowRef { namespace, workflow_id: self.id }
    }
}
