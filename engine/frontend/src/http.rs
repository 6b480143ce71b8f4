//! The HTTP listeners: health, readiness, and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use everlog_cluster::Operations;
use serde_json::json;

/// What the HTTP listener answers. `serving` says whether requests are taken; whether they can be answered, `operations`.
pub(super) fn api(serving: Arc<AtomicBool>, operations: Arc<Operations>) -> Router {
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
    Router::new().route("/health", get(health)).route("/ready", get(ready)).fallback(not_built)
}

/// What the metrics listener answers: what `render` tells.
pub(super) fn metrics(render: fn() -> String) -> Router {
    let metrics =
        move || async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render()) };
    Router::new().route("/metrics", get(metrics))
}

/// In the form of the HTTP API's errors: a gRPC code and a message.
async fn not_built() -> impl IntoResponse {
    const GRPC_UNIMPLEMENTED: i32 = 12;
    let message = "the HTTP API is not built yet; use gRPC";
    (StatusCode::NOT_FOUND, Json(json!({ "code": GRPC_UNIMPLEMENTED, "message": message, "details": [] })))
}
