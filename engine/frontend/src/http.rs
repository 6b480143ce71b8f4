//! The HTTP listeners: the JSON API, metrics, and health and readiness beside both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Extension;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::routing::get;
use axum::{Json, Router};
use everlog_cluster::Operations;
use everlog_config::HttpAccess;
use everlog_http::Api;
use serde_json::json;

use super::forwarded;
use super::web::Caller;

/// What the HTTP listener answers, which tells of each connection what it waits for: the API, whose callers may be behind the proxies of `access`,
/// beside `health`.
pub(super) fn api(health: Router, access: Arc<HttpAccess>, api: Api) -> Router {
    let answer = move |Extension(Caller { peer, waits }): Extension<Caller>, mut request: Request| async move {
        forwarded::correct(request.headers_mut(), peer, &access);
        let waiting = waits.begin();
        let answer = api.answer(request).await;
        drop(waiting);
        waits.over(answer)
    };
    health.fallback(answer)
}

/// What the metrics listener answers: what `render` tells, beside `health`, for probes that have no certificate to show.
pub(super) fn metrics(health: Router, render: fn() -> String) -> Router {
    let metrics =
        move || async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render()) };
    health.route("/metrics", get(metrics))
}

/// What probes ask: `serving` says whether requests are taken; whether they can be answered, `operations`.
pub(super) fn health(serving: Arc<AtomicBool>, operations: Arc<Operations>) -> Router {
    let is_serving = Arc::clone(&serving);
    let ready = move || async move {
        let takes = if serving.load(Ordering::Relaxed) { Ok(()) } else { Err("requests are not taken".to_owned()) };
        match takes.and_then(|()| operations.readiness()) {
            Ok(()) => (StatusCode::OK, Json(json!({ "status": "READY" }))),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "NOT_READY", "reason": reason }))),
        }
    };
    let health = move || async move {
        if is_serving.load(Ordering::Relaxed) {
            (StatusCode::OK, Json(json!({ "status": "SERVING" })))
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "NOT_SERVING" })))
        }
    };
    Router::new().route("/health", get(health)).route("/ready", get(ready))
}
