//! What a node says that cannot serve yet: a node of a cluster may wait for others, or for an operator.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::task::JoinSet;
use tonic::Status;

use super::Listeners;
use crate::tls::Spoken;
use crate::wire::{Socket, Wire};

/// Connections at a time. Whoever comes when there are as many is not answered until one ends.
const CONNECTIONS_MAX: usize = 256;
/// How long a connection may stay.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be taken.
const WAIT: Duration = Duration::from_millis(100);

impl Listeners {
    /// Tells everybody that this node cannot serve yet, for as long as it is polled: who is told at once goes to another one. All connections
    /// end with it.
    pub async fn turn_away(&self) -> Infallible {
        let mut connections = JoinSet::new();
        loop {
            let has_place = connections.len() < CONNECTIONS_MAX;
            let (accepted, spoken) = tokio::select! {
                accepted = self.grpc.accept(), if has_place => (accepted, Some(Spoken::Grpc)),
                accepted = self.http.accept(), if has_place => (accepted, Some(Spoken::Http)),
                accepted = self.metrics.accept(), if has_place => (accepted, None),
                Some(_) = connections.join_next() => continue,
            };
            // There are no descriptors, for example.
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(WAIT).await;
                continue;
            };
            let socket = Socket::new(stream, None);
            let wire = match (&self.tls, spoken) {
                (Some(tls), Some(spoken)) => Wire::Silent(socket, tls.acceptor(spoken), spoken),
                _ => Wire::Plain(socket),
            };
            connections.spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let answered = server.serve_connection(TokioIo::new(wire), service_fn(not_ready));
                // However it ends, there is nobody to tell.
                let _ = tokio::time::timeout(CONNECTION_TIME_MAX, answered).await;
            });
        }
    }
}

async fn not_ready(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Ok(Status::unavailable("this node cannot serve yet").into_http());
    }
    let mut response = Response::new(Body::from("{\"status\":\"NOT_SERVING\"}\n"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use everlog_config::Listen;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn everybody_is_told_at_once() {
        let listen = Listen { grpc_port: 0, http_port: 0, metrics_port: 0, ..Listen::default() };
        let listeners = Listeners::bind(&listen).await.unwrap();
        let addresses = listeners.addresses();
        let turning_away = tokio::spawn(async move { listeners.turn_away().await });
        for address in [addresses.http, addresses.metrics] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("{\"status\":\"NOT_SERVING\"}\n"),
                "{answer}"
            );
        }
        let mut silent = TcpStream::connect(addresses.grpc).await.unwrap();
        let request = "POST /temporal.api.workflowservice.v1.WorkflowService/GetSystemInfo HTTP/1.1\r\nhost: a\r\n\
                       content-type: application/grpc\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let mut stream = TcpStream::connect(addresses.grpc).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("grpc-status: 14"), "{answer}");
        // Once the node serves, nobody is left with somebody who turns him away.
        turning_away.abort();
        let ended = tokio::time::timeout(Duration::from_secs(5), silent.read(&mut [0])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}
