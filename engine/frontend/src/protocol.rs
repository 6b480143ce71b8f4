//! What makes an HTTP request a gRPC call. What is none is refused in the words of grpc-go.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use tonic::body::Body;
use tonic::{Code, Status};

use super::call::parse_timeout;
use super::errors::cut;

const GRPC: &str = "application/grpc";

/// Longest part of a header that is repeated in a message, bytes.
const REPEATED_BYTES_MAX: usize = 200;

/// Digits and the unit of a `grpc-timeout`, at most.
const TIMEOUT_BYTES_MAX: usize = 9;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The answer to a request that is no call.
pub(super) fn refusal<B>(request: &Request<B>) -> Option<Response<Body>> {
    let headers = request.headers();
    let content_type = text(headers, &CONTENT_TYPE).unwrap_or_default();
    if !is_grpc(content_type) {
        let message = format!("invalid gRPC request content-type {:?}", cut(content_type, REPEATED_BYTES_MAX));
        return Some(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, message));
    }
    if request.method() != Method::POST {
        let message =
            format!("Received a HEADERS frame with :method {:?} which should be POST", request.method().as_str());
        return Some(refused(StatusCode::METHOD_NOT_ALLOWED, Code::Internal, message));
    }
    let problem = text(headers, &GRPC_TIMEOUT).and_then(wrong_timeout)?;
    Some(refused(StatusCode::BAD_REQUEST, Code::Internal, format!("malformed grpc-timeout: {problem}")))
}

/// A header, if it is there. One that is no text is as good as empty.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// The type of gRPC's messages, with a format or parameters behind it.
fn is_grpc(content_type: &str) -> bool {
    let Some((front, rest)) = content_type.split_at_checked(GRPC.len()) else { return false };
    front.eq_ignore_ascii_case(GRPC) && (rest.is_empty() || rest.starts_with(['+', ';']))
}

/// What is wrong with the value of a `grpc-timeout`.
fn wrong_timeout(timeout: &str) -> Option<String> {
    if parse_timeout(timeout).is_some() {
        return None;
    }
    let shown = cut(timeout, REPEATED_BYTES_MAX);
    Some(match timeout.len() {
        0 | 1 => format!("transport: timeout string is too short: {shown:?}"),
        length if length > TIMEOUT_BYTES_MAX => format!("transport: timeout string is too long: {shown:?}"),
        _ if timeout.ends_with(['H', 'M', 'S', 'm', 'u', 'n']) => {
            format!("strconv.ParseUint: parsing {:?}: invalid syntax", &timeout[..timeout.len() - 1])
        }
        _ => format!("transport: timeout unit is not recognized: {shown:?}"),
    })
}

fn refused(http: StatusCode, code: Code, message: String) -> Response<Body> {
    let mut response = Status::new(code, message).into_http();
    *response.status_mut() = http;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(method: Method, headers: &[(&'static str, &'static str)]) -> String {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let Some(response) = refusal(&request.body(()).unwrap()) else { return "a call".to_owned() };
        let status = Status::from_header_map(response.headers()).unwrap();
        format!("{} {:?}: {}", response.status().as_u16(), status.code(), status.message())
    }

    #[test]
    fn what_is_no_call_is_refused() {
        for (content_type, is_call) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            let expected = match is_call {
                true => "a call".to_owned(),
                false => format!("415 InvalidArgument: invalid gRPC request content-type {content_type:?}"),
            };
            assert_eq!(told(Method::POST, &[("content-type", content_type)]), expected);
        }
        let grpc = ("content-type", "application/grpc");
        assert_eq!(
            told(Method::GET, &[grpc]),
            "405 Internal: Received a HEADERS frame with :method \"GET\" which should be POST"
        );
        for (timeout, problem) in [
            ("", "transport: timeout string is too short: \"\""),
            ("S", "transport: timeout string is too short: \"S\""),
            ("123456789S", "transport: timeout string is too long: \"123456789S\""),
            ("abc", "transport: timeout unit is not recognized: \"abc\""),
            ("-1S", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
        ] {
            assert_eq!(
                told(Method::POST, &[grpc, ("grpc-timeout", timeout)]),
                format!("400 Internal: malformed grpc-timeout: {problem}")
            );
        }
        assert_eq!(told(Method::POST, &[grpc, ("grpc-timeout", "12345678n")]), "a call");
    }
}
