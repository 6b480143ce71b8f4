//! The HTTP listeners: health, and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

/// What the HTTP listener answers. `serving` says whether requests are taken.
pub(super) fn api(serving: Arc<AtomicBool>) -> Router {
    let health = move || async move {
        if serving.load(Ordering::Relaxed) {
            (StatusCode::OK, Json(json!({ "status": "SERVING" })))
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "NOT_SERVING" })))
        }
    };
    Router::new().route("/health", get(health)).fallback(not_built)
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
