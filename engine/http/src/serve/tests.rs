//! What callers are told that are slow, or too many. Calls that are answered are tested on a real node (engine/server/tests/http.rs).

use std::convert::Infallible;

use futures::{StreamExt, stream};
use tokio::task::yield_now;

use super::*;

/// An API whose services answer nothing but `status`.
fn api(status: Status) -> Api {
    let service = tower::service_fn(move |_: Request<tonic::body::Body>| {
        let status = status.clone();
        async move { Ok::<_, Infallible>(status.into_http()) }
    });
    Api::new(service, Settings { request_bytes_max: 4 << 20, hosts: Vec::new() })
}

/// A request whose body begins with so many bytes and does not go on.
fn unfinished(bytes: usize) -> Request<Body> {
    let begin = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes]))]);
    let body = Body::from_stream(begin.chain(stream::pending()));
    Request::post("/namespaces/default/workflows/w").body(body).unwrap()
}

async fn text(answer: Response<Body>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let begun = tokio::time::Instant::now();
    let answer = api(Status::ok("")).answer(unfinished(10)).await;
    assert_eq!(begun.elapsed().as_secs(), BODY_WAIT_MAX.as_secs());
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    let text = text(answer).await;
    assert!(text.contains("did not arrive in time"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn bodies_that_arrive_at_the_same_time_take_no_more_memory_than_they_may() {
    let api = api(Status::unavailable("why"));
    let mut waiting = Vec::new();
    for _ in 0..BODIES_BYTES_MAX / (4 << 20) - 1 {
        let api = api.clone();
        waiting.push(tokio::spawn(async move { api.answer(unfinished(4 << 20)).await.status() }));
        yield_now().await;
    }
    // What is left is less than this.
    let refused = api.answer(unfinished(4 << 20)).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(text(refused).await.contains("take too much memory"));
    // Without a body nothing is needed.
    let cluster = || Request::get("/cluster").body(Body::empty()).unwrap();
    assert_eq!(api.answer(cluster()).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    for ended in waiting {
        assert!(ended.await.unwrap_err().is_cancelled());
    }
    let small = Request::post("/namespaces/default/workflows/w").body(Body::from("{}")).unwrap();
    assert_eq!(api.answer(small).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(api.bodies.available_permits(), BODIES_BYTES_MAX / BODY_UNIT_BYTES);
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_try_again() {
    let cluster = || Request::get("/cluster").body(Body::empty()).unwrap();
    let refused = api(Status::resource_exhausted("namespace rate limit exceeded")).answer(cluster()).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()[RETRY_AFTER], "1");
    let failed = api(Status::unavailable("why")).answer(cluster()).await;
    assert!(!failed.headers().contains_key(RETRY_AFTER));
    assert_eq!(failed.headers()[VARY], "accept, accept-encoding");
}

#[tokio::test]
async fn the_documents_need_no_services() {
    for (path, begins) in [
        ("/swagger.json", "{\n  \"swagger\": \"2.0\""),
        ("/api/v1/swagger.json", "{\n  \"swagger\": \"2.0\""),
        ("/openapi.yaml", "openapi: \"3.0.3\"\n"),
        ("/api/v1/openapi.yaml", "openapi: \"3.0.3\"\n"),
    ] {
        let get = Request::get(path).body(Body::empty()).unwrap();
        let answer = api(Status::unavailable("why")).answer(get).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert!(text(answer).await.starts_with(begins), "{path}");
        let post = Request::post(path).body(Body::empty()).unwrap();
        assert_eq!(api(Status::unavailable("why")).answer(post).await.status(), StatusCode::NOT_FOUND);
    }
}

#[test]
fn gzip_is_for_those_who_take_it() {
    let takes =
        |value: &'static str| takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]));
    for value in ["gzip", "br, GZIP", "gzip;q=0.5, deflate", "deflate , gzip ; q=1"] {
        assert!(takes(value), "{value}");
    }
    for value in ["", "br", "gzip;q=0", "gzip; q=0", "gzip; q=0.0", "gzip;q=0.000", "xgzip"] {
        assert!(!takes(value), "{value}");
    }
}
