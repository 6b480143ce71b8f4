//! Serves HTTP of either version on the connections of a listener: the JSON API, and metrics. (gRPC is tonic's.)

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::StreamExt;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::connections::{Connection, Door, Waits};

/// What the head of a request may take, bytes, and how many headers there may be.
const HEAD_BYTES_MAX: u32 = 64 << 10;
const HEADERS_MAX: usize = 100;

/// Requests of one connection of HTTP/2 at a time.
const STREAMS_MAX: u32 = 200;

/// Of those, how many may have been given up before they were looked at, and how many of its faults are answered: more of either is an attack.
const RESETS_MAX: usize = 64;

/// Flow control windows of HTTP/2, bytes.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// Who sends a request, and what he waits for.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) peer: IpAddr,
    pub(super) waits: Waits,
}

/// Serves until `draining` says so, and then what has begun. The head of a request may take `head_time_max`.
pub(super) async fn serve(door: Door, router: Router, draining: watch::Receiver<bool>, head_time_max: Duration) {
    let mut served = JoinSet::new();
    {
        // A stream keeps a connection that waits for its place while others end.
        let mut connections = std::pin::pin!(door.connections());
        let mut drained = std::pin::pin!(is_true(draining.clone()));
        loop {
            tokio::select! {
                Some(Ok(connection)) = connections.next() => {
                    served.spawn(answer(connection, router.clone(), draining.clone(), head_time_max));
                }
                Some(_) = served.join_next() => {}
                () = &mut drained => break,
            }
        }
    }
    while served.join_next().await.is_some() {}
}

/// Until it is, or whoever says so is gone, which is as good.
async fn is_true(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|flag| *flag).await;
}

/// Answers the requests of a connection.
async fn answer(connection: Connection, router: Router, draining: watch::Receiver<bool>, head_time_max: Duration) {
    let caller = Caller { peer: connection.peer(), waits: connection.waits() };
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        let answered = router.clone().oneshot(request.map(Body::new));
        async move { Ok::<_, Infallible>(answered.await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time_max)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX as usize)
        // So that answers are not copied, and the memory that they take is known.
        .writev(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let served = builder.serve_connection(TokioIo::new(connection), service);
    tokio::pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = is_true(draining) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection of HTTP has ended");
    }
}
