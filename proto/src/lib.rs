//! Wire types, no logic.
//!
//! The messages of Temporal's public API come from `temporalio-protos` and are re-exported as [`api`]; this crate adds the
//! *server* stubs of its services and, in [`encoded`], responses that carry parts which are encoded already. What nodes ask of each
//! other is in [`internal`], and what operators ask of a cluster in [`cluster`].

#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod cluster;
mod codec;
pub mod encoded;
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod internal;

pub use codec::RawCodec;

/// What the details of a gRPC status are encoded as, `google.rpc.Status`
/// (<https://github.com/googleapis/googleapis/blob/master/google/rpc/status.proto>).
#[derive(Clone, PartialEq, prost::Message)]
pub struct RpcStatus {
    /// The status' code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Its message.
    #[prost(string, tag = "2")]
    pub message: String,
    /// What else is to be said of it.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<wkt::Any>,
}

/// The messages of Temporal's public API, by package.
pub use temporalio_protos::temporal::api;

/// Protobuf's well-known types as the messages use them.
pub use prost_types as wkt;

/// The descriptor set of everything that is served, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The descriptor set of Everlog's own API, for gRPC reflection.
pub const OWN_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/own_descriptors.bin"));

/// Server stub of `temporal.api.workflowservice.v1.WorkflowService`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod workflow_service {
    tonic::include_proto!("temporal.api.workflowservice.v1");
    pub use workflow_service_server::{WorkflowService, WorkflowServiceServer};
}

/// Server stub of `temporal.api.operatorservice.v1.OperatorService`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod operator_service {
    tonic::include_proto!("temporal.api.operatorservice.v1");
    pub use operator_service_server::{OperatorService, OperatorServiceServer};
}

/// Server stub of `temporal.api.testservice.v1.TestService`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod test_service {
    tonic::include_proto!("temporal.api.testservice.v1");
    pub use test_service_server::{TestService, TestServiceServer};
}

/// Client stubs of these services, for tests and the benchmark.
#[cfg(feature = "clients")]
pub mod clients {
    pub use temporalio_protos::temporal::api::operatorservice::v1::operator_service_client::OperatorServiceClient;
    pub use temporalio_protos::temporal::api::testservice::v1::test_service_client::TestServiceClient;
    pub use temporalio_protos::temporal::api::workflowservice::v1::workflow_service_client::WorkflowServiceClient;
}
