//! The HTTP listeners: the JSON API with health and readiness beside it, and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{ConnectInfo, Request};
use axum::http::{StatusCode, header};
use axum::routing::get;
use axum::{Json, Router};
use everlog_cluster::Operations;
use everlog_http::Api;
use serde_json::json;

use super::connections::Waits;

/// What the HTTP listener answers, which tells of each connection what it waits for. `serving` says whether requests are taken; whether they
/// can be answered, `operations`.
pub(super) fn api(serving: Arc<AtomicBool>, operations: Arc<Operations>, api: Api) -> Router {
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
    let answer = move |ConnectInfo(waits): ConnectInfo<Waits>, request: Request| async move {
        let _waiting = waits.begin();
        api.answer(request).await
    };
    Router::new().route("/health", get(health)).route("/ready", get(ready)).fallback(answer)
}

/// What the metrics listener answers: what `render` tells.
pub(super) fn metrics(render: fn() -> String) -> Router {
    let metrics =
        move || async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render()) };
    Router::new().route("/metrics", get(metrics))
}
