//! The settings of task queues: a row of the metadata for each queue that has any.

use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::NamespaceId;
use everlog_model::limits;
use everlog_proto::api::taskqueue::v1::TaskQueueConfig;
use everlog_storage::keys::{MetaKind, meta_row};
use everlog_storage::state::RowChange;
use prost::Message;

use super::view::{self, View};
use super::{MetaError, Namespaces};

/// In front of the keys of these rows, behind their kind. Behind it stand the namespace, the type and the name.
const PREFIX: &[u8] = b"task-queue/";

/// A task queue as settings are made for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfiguredQueue {
    /// Its namespace.
    pub namespace_id: NamespaceId,
    /// A `TaskQueueType`.
    pub kind: u8,
    /// Its name.
    pub name: String,
}

impl ConfiguredQueue {
    fn key(&self) -> Bytes {
        meta_row(MetaKind::Other, &[PREFIX, &self.namespace_id.0, &[self.kind], self.name.as_bytes()].concat())
    }

    /// The queue whose row lies under `key`. `None` if it is a row of another kind.
    pub(super) fn of_key(key: &[u8]) -> Option<Result<ConfiguredQueue, MetaError>> {
        let rest = key.strip_prefix(&*meta_row(MetaKind::Other, PREFIX))?;
        let read = || {
            let (namespace, rest) = rest.split_first_chunk()?;
            let (kind, name) = rest.split_first()?;
            let name = std::str::from_utf8(name).ok()?.to_owned();
            Some(ConfiguredQueue { namespace_id: NamespaceId(*namespace), kind: *kind, name })
        };
        Some(read().ok_or_else(|| MetaError::Corrupt(format!("key {key:?}"))))
    }
}

/// A row's value.
pub(super) fn decode(value: &[u8]) -> Result<TaskQueueConfig, MetaError> {
    TaskQueueConfig::decode(value).map_err(|error| MetaError::Corrupt(format!("settings of a task queue: {error}")))
}

impl Namespaces {
    /// The settings of a queue, if it has any.
    pub fn task_queue_config(&self, queue: &ConfiguredQueue) -> Option<Arc<TaskQueueConfig>> {
        self.view.borrow().task_queues.get(queue).cloned()
    }

    /// Changes the settings of a queue. `change` is called again when another change of the metadata came first.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] if too many queues have settings, what `change` returns, and see there.
    pub async fn update_task_queue(
        &self,
        queue: &ConfiguredQueue,
        change: impl Fn(&mut TaskQueueConfig) -> Result<(), MetaError>,
    ) -> Result<Arc<TaskQueueConfig>, MetaError> {
        self.change_once(|view: &View| {
            let before = view.task_queues.get(queue);
            let mut config = before.map(|config| TaskQueueConfig::clone(config)).unwrap_or_default();
            change(&mut config)?;
            if before.is_none() && view.task_queues.len() >= limits::CONFIGURED_QUEUES_MAX {
                return Err(MetaError::Invalid("too many task queues have settings of their own".into()));
            }
            let row = RowChange::Put { key: queue.key(), value: config.encode_to_vec().into() };
            Ok((vec![row], Arc::new(config)))
        })
        .await
    }

    /// Tells of the settings of all queues, and of each that changes from then on, for as long as there is metadata. `None` are settings
    /// that are gone.
    pub async fn follow_task_queues(&self, mut tell: impl FnMut(&ConfiguredQueue, Option<&TaskQueueConfig>)) {
        let tell = |queue: &ConfiguredQueue, config: Option<&Arc<TaskQueueConfig>>| {
            tell(queue, config.map(|config| &**config))
        };
        view::follow(self.view.clone(), |view| &view.task_queues, tell).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_always_were() {
        let queue = ConfiguredQueue { namespace_id: NamespaceId([7; 16]), kind: 2, name: "queue".to_owned() };
        let key = queue.key();
        assert!(key.ends_with(b"task-queue/\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x02queue"));
        assert_eq!(ConfiguredQueue::of_key(&key), Some(Ok(queue)));
        assert_eq!(ConfiguredQueue::of_key(&meta_row(MetaKind::Other, b"slots")), None);
        let damaged = meta_row(MetaKind::Other, b"task-queue/abc");
        assert!(matches!(ConfiguredQueue::of_key(&damaged), Some(Err(MetaError::Corrupt(_)))));
    }
}
