//! Statuses of gRPC as HTTP has them.

use everlog_proto::RpcStatus;
use http::StatusCode;
use prost::Message;
use prost_reflect::DynamicMessage;
use tonic::{Code, Status};

use crate::json::{Payloads, write};
use crate::routes;

/// `{"code": 5, "message": "...", "details": [...]}`.
pub(crate) fn json(status: &Status) -> String {
    let message = serde_json::to_string(status.message()).unwrap_or_default();
    let mut out = format!("{{\"code\":{},\"message\":{message}", i32::from(status.code()));
    let details = RpcStatus::decode(status.details()).unwrap_or_default().details;
    let details: Vec<_> = details.iter().filter_map(detail).collect();
    if !details.is_empty() {
        out.push_str(",\"details\":[");
        out.push_str(&details.join(","));
        out.push(']');
    }
    out.push('}');
    out
}

/// A message with its type, if that is known.
fn detail(any: &everlog_proto::wkt::Any) -> Option<String> {
    let name = any.type_url.rsplit('/').next()?;
    let descriptor = routes::pool().ok()?.get_message_by_name(name)?;
    let message = DynamicMessage::decode(descriptor, any.value.as_slice()).ok()?;
    let fields = write(&message, Payloads::Shorthand);
    let rest = fields.strip_prefix('{')?;
    let comma = if rest == "}" { "" } else { "," };
    Some(format!("{{\"@type\":{}{comma}{rest}", serde_json::to_string(&any.type_url).ok()?))
}

/// How HTTP says it. (Temporal: grpc-gateway's `HTTPStatusFromCode`.)
pub(crate) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_grpc_is_a_status_of_http() {
        let of = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
        for (code, http) in of.into_iter().enumerate() {
            let status = Status::new(Code::from_i32(i32::try_from(code).unwrap()), "why");
            assert_eq!(http_status(status.code()).as_u16(), http, "{:?}", status.code());
            assert_eq!(json(&status), format!(r#"{{"code":{code},"message":"why"}}"#));
        }
    }
}
