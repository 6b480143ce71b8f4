//! What callers are told that are slow, or too many. Calls that are answered are tested on a real node (engine/server/tests/http.rs).

use std::convert::Infallible;

use axum::body::HttpBody as _;
use futures::{StreamExt, stream};
use tokio::task::yield_now;

use super::*;

/// An API whose services answer nothing but `status`.
fn api(status: Status) -> Api {
    let service = tower::service_fn(move |_: Request<tonic::body::Body>| {
        let status = status.clone();
        async move { Ok::<_, Infallible>(status.into_http()) }
    });
    Api::new(service, Settings { request_bytes_max: 4 << 20, hosts: Vec::new(), origins: Vec::new(), is_local: false })
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

/// An API that pages of `https://ui.example.com` may call.
fn api_for_a_page() -> Api {
    Api::new(
        tower::service_fn(|_: Request<tonic::body::Body>| async {
            Ok::<_, Infallible>(Status::unavailable("why").into_http())
        }),
        Settings {
            request_bytes_max: 4 << 20,
            hosts: Vec::new(),
            origins: vec!["https://ui.example.com".to_owned()],
            is_local: false,
        },
    )
}

/// Answers a request with these headers, besides the body `{}` if it is a POST.
async fn sent(api: &Api, method: Method, headers: &[(&str, &str)]) -> Response<Body> {
    let body = if method == Method::POST { "{}" } else { "" };
    let mut request = Request::builder().method(method).uri("/namespaces/default/workflows/w");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    api.answer(request.body(Body::from(body)).unwrap()).await
}

#[tokio::test]
async fn a_page_that_is_not_allowed_changes_nothing() {
    let api = api_for_a_page();
    for headers in [
        &[("host", "here"), ("origin", "https://evil.example"), ("content-type", "application/json")][..],
        &[("host", "here"), ("origin", "null"), ("content-type", "text/plain")],
        &[("host", "here"), ("sec-fetch-site", "cross-site"), ("content-type", "application/x-www-form-urlencoded")],
    ] {
        let refused = sent(&api, Method::POST, headers).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{headers:?}");
        assert!(!refused.headers().contains_key("access-control-allow-origin"));
        assert_eq!(text(refused).await, r#"{"code":7,"message":"Origin not allowed"}"#);
        // What only reads is answered.
        assert_eq!(sent(&api, Method::GET, headers).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn pages_send_what_no_form_can_and_others_what_they_like() {
    let api = api_for_a_page();
    let types = [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/json+pretty", true),
        ("text/plain", false),
        ("application/x-www-form-urlencoded", false),
        ("multipart/form-data; boundary=a", false),
        ("", false),
    ];
    for (content_type, is_taken) in types {
        let typed = ("content-type", content_type);
        for page in [("origin", "https://ui.example.com"), ("origin", "http://here"), ("sec-fetch-site", "same-origin")]
        {
            let status = sent(&api, Method::POST, &[("host", "here"), page, typed]).await.status();
            let expected = if is_taken { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNSUPPORTED_MEDIA_TYPE };
            assert_eq!(status, expected, "{page:?} {content_type}");
        }
        // `curl -d` says that it sends a form.
        let status = sent(&api, Method::POST, &[("host", "here"), typed]).await.status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{content_type}");
    }
}

#[tokio::test]
async fn browsers_are_told_what_pages_of_an_allowed_origin_may() {
    let api = api_for_a_page();
    let asked =
        |origin: &'static str| [("host", "here"), ("origin", origin), ("access-control-request-method", "POST")];
    let allowed = sent(&api, Method::OPTIONS, &asked("https://ui.example.com")).await;
    assert_eq!(allowed.status(), StatusCode::NO_CONTENT);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://ui.example.com");
    assert_eq!(allowed.headers()["access-control-allow-methods"], "GET, POST, DELETE");
    assert!(allowed.headers()["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    assert!(!allowed.headers().contains_key("access-control-allow-credentials"));
    let refused = sent(&api, Method::OPTIONS, &asked("https://evil.example")).await;
    assert_eq!(refused.status(), StatusCode::NOT_IMPLEMENTED);
    let read = sent(&api, Method::GET, &[("host", "here"), ("origin", "https://ui.example.com")]).await;
    assert_eq!(read.headers()["access-control-allow-origin"], "https://ui.example.com");
    assert_eq!(read.headers()["access-control-expose-headers"], "retry-after");
    let plain = sent(&api, Method::GET, &[("host", "here")]).await;
    for (answer, is_allowed) in [(&allowed, true), (&read, true), (&refused, false), (&plain, false)] {
        assert_eq!(answer.headers().contains_key("access-control-allow-origin"), is_allowed);
        // Whoever keeps an answer keeps it for one origin.
        assert!(answer.headers().get_all(VARY).iter().any(|value| value == "origin"));
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_take_no_more_memory_than_they_may() {
    let api = api(Status::unavailable("why"));
    let document = || Request::get("/openapi.yaml").body(Body::empty()).unwrap();
    let mut unread = Vec::new();
    loop {
        let answer = api.answer(document()).await;
        if answer.status() != StatusCode::OK {
            assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(answer.headers()[RETRY_AFTER], "1");
            assert!(text(answer).await.contains("not read"));
            break;
        }
        unread.push(answer);
    }
    let bytes: u64 = unread.iter().filter_map(|answer| answer.body().size_hint().exact()).sum();
    assert!(bytes <= ANSWERS_BYTES_MAX as u64 && bytes > ANSWERS_BYTES_MAX as u64 / 2, "{bytes}");
    // What is small needs no share.
    assert_eq!(sent(&api, Method::GET, &[]).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(unread);
    assert_eq!(api.answer(document()).await.status(), StatusCode::OK);
}
