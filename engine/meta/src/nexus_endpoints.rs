//! Nexus endpoints: names under which workflows of any namespace reach services, each a row of the metadata.
//!
//! An endpoint leads to a task queue of a namespace, which is kept by its id, or to a URL. Callers know an endpoint by its name and keep its
//! id, so that it may get another name.

use std::sync::Arc;

use bytes::Bytes;
use everlog_kernel::{NamespaceId, Time};
use everlog_model::limits;
use everlog_proto::api::common::v1::Payload;
use everlog_storage::keys::{MetaKind, meta_row};
use everlog_storage::state::RowChange;
use prost::Message;
use uuid::Uuid;

use super::change::now;
use super::view::View;
use super::{MetaError, Namespaces};

/// In front of the keys of these rows, behind their kind. Behind it stands the id.
const PREFIX: &[u8] = b"nexus-endpoint/";

/// What an endpoint is known by, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub Uuid);

/// Where an endpoint leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointTarget {
    /// To workers.
    Worker {
        /// Their namespace.
        namespace_id: NamespaceId,
        /// The queue that they poll.
        task_queue: String,
    },
    /// To another server.
    External {
        /// Its address.
        url: String,
    },
}

/// What of an endpoint can be changed.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSpec {
    /// No two endpoints have the same.
    pub name: String,
    /// For people.
    pub description: Option<Payload>,
    /// Where it leads.
    pub target: EndpointTarget,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct NexusEndpoint {
    /// Its id.
    pub id: EndpointId,
    /// How often it was written; 1 when it is new.
    pub version: i64,
    /// What can be changed of it.
    pub spec: EndpointSpec,
    /// Since when there is one.
    pub created: Time,
    /// When it was written last.
    pub modified: Time,
}

/// The value of an endpoint's row. Tags are never used twice.
#[derive(Message)]
struct Row {
    #[prost(int64, tag = "1")]
    version: i64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, optional, tag = "3")]
    description: Option<Payload>,
    #[prost(sfixed64, tag = "4")]
    created_ns: i64,
    #[prost(sfixed64, tag = "5")]
    modified_ns: i64,
    /// Empty if it leads elsewhere.
    #[prost(bytes = "bytes", tag = "6")]
    namespace_id: Bytes,
    #[prost(string, tag = "7")]
    task_queue: String,
    /// Empty if it leads to workers.
    #[prost(string, tag = "8")]
    url: String,
}

impl EndpointId {
    fn key(self) -> Bytes {
        meta_row(MetaKind::Other, &[PREFIX, self.0.as_bytes()].concat())
    }

    /// The endpoint whose row lies under `key`. `None` if it is a row of another kind.
    pub(super) fn of_key(key: &[u8]) -> Option<Result<EndpointId, MetaError>> {
        let id = key.strip_prefix(&*meta_row(MetaKind::Other, PREFIX))?;
        let id = Uuid::from_slice(id).map(EndpointId);
        Some(id.map_err(|_| MetaError::Corrupt(format!("key {key:?}"))))
    }
}

impl std::fmt::Display for EndpointId {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(to)
    }
}

impl NexusEndpoint {
    pub(super) fn encode(&self) -> Bytes {
        let (namespace_id, task_queue, url) = match &self.spec.target {
            EndpointTarget::Worker { namespace_id, task_queue } => {
                (Bytes::copy_from_slice(&namespace_id.0), task_queue.clone(), String::new())
            }
            EndpointTarget::External { url } => (Bytes::new(), String::new(), url.clone()),
        };
        let row = Row {
            version: self.version,
            name: self.spec.name.clone(),
            description: self.spec.description.clone(),
            created_ns: self.created.0,
            modified_ns: self.modified.0,
            namespace_id,
            task_queue,
            url,
        };
        row.encode_to_vec().into()
    }

    pub(super) fn decode(id: EndpointId, bytes: &[u8]) -> Result<NexusEndpoint, MetaError> {
        let corrupt = |why: &dyn std::fmt::Display| MetaError::Corrupt(format!("Nexus endpoint {id}: {why}"));
        let row = Row::decode(bytes).map_err(|error| corrupt(&error))?;
        if row.name.is_empty() {
            return Err(corrupt(&"a row without a name"));
        }
        let target = if row.url.is_empty() {
            let namespace_id = <[u8; 16]>::try_from(&row.namespace_id[..]);
            let namespace_id = namespace_id.map_err(|_| corrupt(&"it leads nowhere"))?;
            EndpointTarget::Worker { namespace_id: NamespaceId(namespace_id), task_queue: row.task_queue }
        } else {
            EndpointTarget::External { url: row.url }
        };
        Ok(NexusEndpoint {
            id,
            version: row.version,
            spec: EndpointSpec { name: row.name, description: row.description, target },
            created: Time(row.created_ns),
            modified: Time(row.modified_ns),
        })
    }
}

impl View {
    fn endpoint_named(&self, name: &str) -> Option<&Arc<NexusEndpoint>> {
        self.nexus_endpoints.values().find(|endpoint| endpoint.spec.name == name)
    }

    /// An endpoint that leads to workers of a namespace.
    pub(super) fn endpoint_to(&self, namespace: NamespaceId) -> Option<&Arc<NexusEndpoint>> {
        self.nexus_endpoints.values().find(|endpoint| {
            matches!(&endpoint.spec.target, EndpointTarget::Worker { namespace_id, .. } if *namespace_id == namespace)
        })
    }

    fn with_name_free(&self, spec: &EndpointSpec, of: Option<EndpointId>) -> Result<(), MetaError> {
        match self.endpoint_named(&spec.name) {
            Some(other) if Some(other.id) != of => {
                let message =
                    format!("error creating Nexus endpoint. Endpoint with name {} already registered", spec.name);
                Err(MetaError::Taken(message.into()))
            }
            _ => Ok(()),
        }
    }
}

impl Namespaces {
    /// The endpoint with an id.
    pub fn nexus_endpoint(&self, id: EndpointId) -> Option<Arc<NexusEndpoint>> {
        self.view.borrow().nexus_endpoints.get(&id).cloned()
    }

    /// The endpoint with a name.
    pub fn nexus_endpoint_named(&self, name: &str) -> Option<Arc<NexusEndpoint>> {
        self.view.borrow().endpoint_named(name).cloned()
    }

    /// Up to `limit` endpoints whose ids come behind `after`, and whether there are more.
    pub fn nexus_endpoints(&self, after: Option<EndpointId>, limit: usize) -> (Vec<Arc<NexusEndpoint>>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let view = Arc::clone(&self.view.borrow());
        let mut rest = view.nexus_endpoints.range((after.map_or(Unbounded, Excluded), Unbounded));
        let endpoints = rest.by_ref().take(limit).map(|(_, endpoint)| Arc::clone(endpoint)).collect();
        (endpoints, rest.next().is_some())
    }

    /// Makes an endpoint under a new id.
    ///
    /// # Errors
    ///
    /// [`MetaError::Taken`] if there is one with that name, [`MetaError::Invalid`] if there are too many, and see there.
    pub async fn create_nexus_endpoint(&self, spec: EndpointSpec) -> Result<Arc<NexusEndpoint>, MetaError> {
        let id = EndpointId(Uuid::new_v4());
        self.change_once(|view| {
            // A change that was made and not known to be is decided again.
            if let Some(made) = view.nexus_endpoints.get(&id) {
                return Ok((Vec::new(), Arc::clone(made)));
            }
            view.with_name_free(&spec, None)?;
            if view.nexus_endpoints.len() >= limits::NEXUS_ENDPOINTS_MAX {
                let message = format!("cannot have more than {} Nexus endpoints", limits::NEXUS_ENDPOINTS_MAX);
                return Err(MetaError::Invalid(message.into()));
            }
            let now = now();
            Ok(saved(NexusEndpoint { id, version: 1, spec: spec.clone(), created: now, modified: now }))
        })
        .await
    }

    /// Changes the endpoint with an id, if `version` is what it has now.
    ///
    /// # Errors
    ///
    /// [`MetaError::Missing`], [`MetaError::Protected`] if it was changed since, and see there.
    pub async fn update_nexus_endpoint(
        &self,
        id: EndpointId,
        version: i64,
        spec: EndpointSpec,
    ) -> Result<Arc<NexusEndpoint>, MetaError> {
        self.change_once(|view| {
            let missing = || format!("error updating Nexus endpoint. endpoint ID {id} not found");
            let before = view.nexus_endpoints.get(&id).ok_or_else(|| MetaError::Missing(missing().into()))?;
            if version != before.version {
                let expected = before.version;
                let message = format!("nexus endpoint version mismatch. received: {version} expected {expected}");
                return Err(MetaError::Protected(message.into()));
            }
            view.with_name_free(&spec, Some(id))?;
            let (version, spec) = (before.version + 1, spec.clone());
            Ok(saved(NexusEndpoint { id, version, spec, created: before.created, modified: now() }))
        })
        .await
    }

    /// Deletes the endpoint with an id.
    ///
    /// # Errors
    ///
    /// [`MetaError::Missing`], and see there.
    pub async fn delete_nexus_endpoint(&self, id: EndpointId) -> Result<(), MetaError> {
        self.change_once(|view| {
            let missing = || format!("error deleting nexus endpoint with ID: {id}");
            view.nexus_endpoints.get(&id).ok_or_else(|| MetaError::Missing(missing().into()))?;
            Ok((vec![RowChange::Delete { key: id.key() }], ()))
        })
        .await
    }
}

fn saved(endpoint: NexusEndpoint) -> (Vec<RowChange>, Arc<NexusEndpoint>) {
    (vec![RowChange::Put { key: endpoint.id.key(), value: endpoint.encode() }], Arc::new(endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(target: EndpointTarget) -> NexusEndpoint {
        let description = Some(Payload { data: b"d".to_vec(), ..Payload::default() });
        NexusEndpoint {
            id: EndpointId(Uuid::from_bytes([7; 16])),
            version: 2,
            spec: EndpointSpec { name: "orders".to_owned(), description, target },
            created: Time(1),
            modified: Time(2),
        }
    }

    #[test]
    fn rows_are_what_they_always_were() {
        let worker = EndpointTarget::Worker { namespace_id: NamespaceId([3; 16]), task_queue: "q".to_owned() };
        let external = EndpointTarget::External { url: "http://a".to_owned() };
        let front = "080212066f72646572731a03120164210100000000000000290200000000000000";
        let cases = [(worker, "3210030303030303030303030303030303033a0171"), (external, "4208687474703a2f2f61")];
        for (target, rest) in cases {
            let endpoint = endpoint(target);
            let row = endpoint.encode();
            let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, format!("{front}{rest}"));
            assert_eq!(NexusEndpoint::decode(endpoint.id, &row), Ok(endpoint));
        }
    }

    #[test]
    fn keys_are_what_they_always_were() {
        let id = EndpointId(Uuid::from_bytes([7; 16]));
        assert!(id.key().ends_with(b"nexus-endpoint/\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07"));
        assert_eq!(EndpointId::of_key(&id.key()), Some(Ok(id)));
        assert_eq!(EndpointId::of_key(&meta_row(MetaKind::Other, b"slots")), None);
        let damaged = meta_row(MetaKind::Other, b"nexus-endpoint/abc");
        assert!(matches!(EndpointId::of_key(&damaged), Some(Err(MetaError::Corrupt(_)))));
    }

    #[test]
    fn rows_that_are_damaged_are_refused() {
        let id = EndpointId(Uuid::from_bytes([7; 16]));
        for damaged in [&b""[..], b"\x12\x01n", b"\xff"] {
            assert!(matches!(NexusEndpoint::decode(id, damaged), Err(MetaError::Corrupt(_))), "{damaged:?}");
        }
    }
}
