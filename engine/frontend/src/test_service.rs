//! `temporal.api.testservice.v1.TestService`: where time is skipped, the test environments of SDKs say here when, and ask what time it is.
//!
//! It behaves as the one of Temporal's test server does (`TestService` of its Java SDK). One lock is there from the start, unless the server
//! was told otherwise: environments take it away while they wait for a result, and while they sleep.

use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::Time;
use everlog_kernel::time::positive;
use everlog_partition::{SkippedTime, Unbalanced};
use everlog_proto::api::testservice::v1::{
    GetCurrentTimeResponse, LockTimeSkippingRequest, LockTimeSkippingResponse, SleepRequest, SleepResponse,
    SleepUntilRequest, UnlockTimeSkippingRequest, UnlockTimeSkippingResponse,
};
use everlog_proto::test_service::TestService;
use everlog_proto::wkt;
use tonic::{Request, Response, Status};

/// The service.
pub(super) struct TestApi(pub(super) Arc<SkippedTime>);

#[tonic::async_trait]
impl TestService for TestApi {
    async fn lock_time_skipping(
        &self,
        _request: Request<LockTimeSkippingRequest>,
    ) -> Result<Response<LockTimeSkippingResponse>, Status> {
        self.0.lock();
        Ok(Response::new(LockTimeSkippingResponse {}))
    }

    async fn unlock_time_skipping(
        &self,
        _request: Request<UnlockTimeSkippingRequest>,
    ) -> Result<Response<UnlockTimeSkippingResponse>, Status> {
        self.0.unlock().map_err(unbalanced)?;
        Ok(Response::new(UnlockTimeSkippingResponse {}))
    }

    async fn sleep(&self, request: Request<SleepRequest>) -> Result<Response<SleepResponse>, Status> {
        self.0.sleep(length(request.into_inner().duration)).await;
        Ok(Response::new(SleepResponse {}))
    }

    async fn sleep_until(&self, request: Request<SleepUntilRequest>) -> Result<Response<SleepResponse>, Status> {
        let until = request.into_inner().timestamp.unwrap_or_default();
        self.0.sleep_until(Time::from_proto(&until)).await;
        Ok(Response::new(SleepResponse {}))
    }

    async fn unlock_time_skipping_with_sleep(
        &self,
        request: Request<SleepRequest>,
    ) -> Result<Response<SleepResponse>, Status> {
        self.0.sleep_unlocked(length(request.into_inner().duration)).await.map_err(unbalanced)?;
        Ok(Response::new(SleepResponse {}))
    }

    async fn get_current_time(&self, _request: Request<()>) -> Result<Response<GetCurrentTimeResponse>, Status> {
        Ok(Response::new(GetCurrentTimeResponse { time: Some(self.0.now().to_proto()) }))
    }
}

/// How long somebody wants to sleep: what is below zero is over already.
fn length(duration: Option<wkt::Duration>) -> Duration {
    positive(duration.as_ref()).ok().flatten().unwrap_or_default()
}

/// UNKNOWN, as of the Java server, in which an exception says so: SDKs try again then, and another environment may have locked meanwhile.
fn unbalanced(error: Unbalanced) -> Status {
    Status::unknown(error.to_string())
}
