//! A call of a gRPC method inside the process: the same services, with all that stands in front of them.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt};

use crate::metadata::hand_on;

/// The services behind the API.
pub(crate) type Grpc = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// What stands before each message: a flag for compression, and its length.
const PREFIX_BYTES: usize = 5;

/// Calls `/package.Service/Method` with an encoded request; the answer is an encoded response.
///
/// # Errors
///
/// The status that the method answers, with its details.
pub(crate) async fn call(grpc: &Grpc, method: &str, headers: &HeaderMap, message: &[u8]) -> Result<Bytes, Status> {
    let mut request = Request::post(method)
        .version(http::Version::HTTP_2)
        .body(Body::new(Full::new(framed(message))))
        .map_err(|error| Status::internal(error.to_string()))?;
    let into = request.headers_mut();
    into.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    into.insert(TE, HeaderValue::from_static("trailers"));
    hand_on(headers, into)?;
    let response = grpc.clone().oneshot(request).await.map_err(|error| Status::unavailable(error.to_string()))?;
    if let Some(status) = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok) {
        return Err(status);
    }
    let body = response.into_body().collect().await?;
    match body.trailers().and_then(Status::from_header_map) {
        Some(status) if status.code() != Code::Ok => return Err(status),
        _ => {}
    }
    let body = body.to_bytes();
    if body.len() < PREFIX_BYTES {
        return Err(Status::internal("the method has answered nothing"));
    }
    Ok(body.slice(PREFIX_BYTES..))
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}
