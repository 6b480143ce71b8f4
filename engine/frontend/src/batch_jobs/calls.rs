//! Calls that batch jobs make: as clients make them, with all that stands in front of the methods, so that they go to whichever node leads
//! the workflow.

use std::time::Duration;

use bytes::Bytes;
use everlog_proto::RawCodec;
use everlog_proto::workflow_service::workflow_service_server;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::service::Routes;
use tonic::{Request, Status};

use super::super::layer::Observed;

/// How long a call may take, as with Temporal.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);

/// Makes calls of the workflow service inside the process. Cheap to clone.
#[derive(Clone)]
pub(in super::super) struct Calls(Observed<Routes>);

impl Calls {
    /// To these services.
    pub(in super::super) fn new(services: Observed<Routes>) -> Calls {
        Calls(services)
    }

    /// Calls a method, and reads its answer.
    pub(super) async fn ask<A: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, Status> {
        let path = format!("/{}/{method}", workflow_service_server::SERVICE_NAME);
        let path = PathAndQuery::try_from(path).map_err(|error| Status::internal(error.to_string()))?;
        let mut request = Request::new(Bytes::from(request.encode_to_vec()));
        request.set_timeout(CALL_TIME_MAX);
        let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(usize::MAX);
        match grpc.ready().await {
            Ok(()) => {}
            Err(never) => match never {},
        }
        let answer = grpc.unary(request, path, RawCodec).await?.into_inner();
        A::decode(answer).map_err(|error| Status::internal(format!("the answer of {method} is not readable: {error}")))
    }

    /// Calls a method whose answer says nothing that is needed.
    pub(super) async fn make(&self, method: &'static str, request: &impl Message) -> Result<(), Status> {
        self.ask::<()>(method, request).await
    }
}
