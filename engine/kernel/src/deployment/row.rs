//! The values of a deployment's rows: one for the deployment, and one for each version, whose list of task queues may be long.
//!
//! The rules are those of workflows' rows (`state/row`). Names are in the keys.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use everlog_proto::api::common::v1::Payload;
use everlog_proto::api::deployment::v1::{RoutingConfig, VersionDrainageInfo};
use everlog_proto::api::enums::v1::WorkerDeploymentVersionStatus as Status;
use prost::Message;

use super::{Deployment, DeploymentVersion, VersionQueue};
use crate::Time;
use crate::state::CorruptRow;

#[derive(Message)]
struct DeploymentRow {
    #[prost(sfixed64, optional, tag = "1")]
    created: Option<i64>,
    #[prost(message, optional, tag = "2")]
    routing: Option<RoutingConfig>,
    #[prost(string, tag = "3")]
    manager_identity: String,
    #[prost(string, tag = "4")]
    last_modifier_identity: String,
    #[prost(bytes = "vec", tag = "5")]
    conflict_token: Vec<u8>,
    #[prost(string, tag = "6")]
    create_request_id: String,
}

#[derive(Message)]
struct VersionRow {
    #[prost(sfixed64, optional, tag = "1")]
    created: Option<i64>,
    #[prost(enumeration = "Status", tag = "2")]
    status: i32,
    #[prost(sfixed64, optional, tag = "3")]
    routing_updated: Option<i64>,
    #[prost(sfixed64, optional, tag = "4")]
    current_since: Option<i64>,
    #[prost(sfixed64, optional, tag = "5")]
    ramping_since: Option<i64>,
    #[prost(float, tag = "6")]
    ramp_percentage: f32,
    #[prost(sfixed64, optional, tag = "7")]
    first_activation: Option<i64>,
    #[prost(sfixed64, optional, tag = "8")]
    last_current: Option<i64>,
    #[prost(sfixed64, optional, tag = "9")]
    last_deactivation: Option<i64>,
    #[prost(message, optional, tag = "10")]
    drainage: Option<VersionDrainageInfo>,
    #[prost(message, repeated, tag = "11")]
    task_queues: Vec<QueueRow>,
    #[prost(btree_map = "string, message", tag = "12")]
    metadata: BTreeMap<String, Payload>,
    #[prost(string, tag = "13")]
    last_modifier_identity: String,
    #[prost(string, tag = "14")]
    create_request_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct QueueRow {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    name: String,
}

fn required<T>(field: Option<T>, name: &str) -> Result<T, CorruptRow> {
    field.ok_or_else(|| CorruptRow(format!("a deployment's row without its {name}")))
}

fn decode<M: Message + Default>(value: &[u8]) -> Result<M, CorruptRow> {
    M::decode(value).map_err(|error| CorruptRow(error.to_string()))
}

impl Deployment {
    /// The value of its row.
    pub fn to_row(&self) -> Bytes {
        let row = DeploymentRow {
            created: Some(self.created.0),
            routing: Some(self.routing.clone()),
            manager_identity: self.manager_identity.clone(),
            last_modifier_identity: self.last_modifier_identity.clone(),
            conflict_token: self.conflict_token.clone(),
            create_request_id: self.create_request_id.clone(),
        };
        row.encode_to_vec().into()
    }

    /// From the value of its row, without versions.
    ///
    /// # Errors
    ///
    /// [`CorruptRow`] if it is none.
    pub fn from_row(name: &str, value: &[u8]) -> Result<Deployment, CorruptRow> {
        let row: DeploymentRow = decode(value)?;
        Ok(Deployment {
            name: name.to_owned(),
            created: Time(required(row.created, "creation")?),
            routing: required(row.routing, "routing")?,
            manager_identity: row.manager_identity,
            last_modifier_identity: row.last_modifier_identity,
            conflict_token: row.conflict_token,
            create_request_id: row.create_request_id,
            versions: BTreeMap::new(),
        })
    }
}

impl DeploymentVersion {
    /// The value of its row.
    pub fn to_row(&self) -> Bytes {
        let time = |time: Option<Time>| time.map(|time| time.0);
        let row = VersionRow {
            created: Some(self.created.0),
            status: self.status.into(),
            routing_updated: time(self.routing_updated),
            current_since: time(self.current_since),
            ramping_since: time(self.ramping_since),
            ramp_percentage: self.ramp_percentage,
            first_activation: time(self.first_activation),
            last_current: time(self.last_current),
            last_deactivation: time(self.last_deactivation),
            drainage: self.drainage,
            task_queues: self
                .task_queues
                .iter()
                .map(|queue| QueueRow { kind: queue.kind, name: queue.name.clone() })
                .collect(),
            metadata: self.metadata.clone(),
            last_modifier_identity: self.last_modifier_identity.clone(),
            create_request_id: self.create_request_id.clone(),
        };
        row.encode_to_vec().into()
    }

    /// From the value of its row.
    ///
    /// # Errors
    ///
    /// [`CorruptRow`] if it is none.
    pub fn from_row(value: &[u8]) -> Result<DeploymentVersion, CorruptRow> {
        let row: VersionRow = decode(value)?;
        let time = |time: Option<i64>| time.map(Time);
        let queue = |QueueRow { kind, name }: QueueRow| VersionQueue { kind, name };
        Ok(DeploymentVersion {
            created: Time(required(row.created, "creation")?),
            status: Status::try_from(row.status).unwrap_or(Status::Unspecified),
            routing_updated: time(row.routing_updated),
            current_since: time(row.current_since),
            ramping_since: time(row.ramping_since),
            ramp_percentage: row.ramp_percentage,
            first_activation: time(row.first_activation),
            last_current: time(row.last_current),
            last_deactivation: time(row.last_deactivation),
            drainage: row.drainage,
            task_queues: row.task_queues.into_iter().map(queue).collect::<BTreeSet<_>>(),
            metadata: row.metadata,
            last_modifier_identity: row.last_modifier_identity,
            create_request_id: row.create_request_id,
        })
    }
}
