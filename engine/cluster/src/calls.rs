//! gRPC calls from node to node, over the transport that Raft's messages go over, too.
//!
//! ```text
//!   Peers::call ──CallFrame──▶ bulk lane ▶ ... ▶ CallReceiver ──▶ Entry
//!            ◀──AnswerFrame──                ◀──               ◀──
//! ```
//!
//! A call is one message and so is its answer: there are no streams between nodes. A caller that goes away is heard of on the other side,
//! where the call is dropped.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use everlog_model::NodeId;
use everlog_raft::RaftReceiver;
use everlog_transport::{ConnectionId, Failed, Incoming, Lane, Receiver, Transport};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use parking_lot::RwLock;
use prost::Message;
use tokio::runtime::Handle;
use tonic::Status;
use tonic::body::Body;

use crate::peers::{Entry, Peers, not_done};

/// The kind of these calls on the transport. Raft's own are below.
pub(crate) const CALL: u8 = 32;

/// A call on its way.
#[derive(Clone, PartialEq, Message)]
struct CallFrame {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Field>,
    #[prost(bytes = "bytes", tag = "3")]
    body: Bytes,
}

/// Its answer.
#[derive(Clone, PartialEq, Message)]
struct AnswerFrame {
    #[prost(uint32, tag = "1")]
    status: u32,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Field>,
    #[prost(bytes = "bytes", tag = "3")]
    body: Bytes,
    #[prost(message, repeated, tag = "4")]
    trailers: Vec<Field>,
}

/// A header, or a trailer.
#[derive(Clone, PartialEq, Message)]
struct Field {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The other nodes, behind a transport.
pub struct TransportPeers {
    transport: Arc<dyn Transport>,
    entry: RwLock<Option<Entry>>,
}

impl TransportPeers {
    /// The nodes that `transport` knows. Their calls are answered once something is [attached](Peers::attach).
    pub fn new(transport: Arc<dyn Transport>) -> Arc<TransportPeers> {
        Arc::new(TransportPeers { transport, entry: RwLock::default() })
    }

    fn entry(&self) -> Option<Entry> {
        self.entry.read().clone()
    }
}

impl Peers for TransportPeers {
    fn attach(&self, entry: Entry) {
        *self.entry.write() = Some(entry);
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.transport.nodes()
    }

    fn call(&self, node: NodeId, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let transport = Arc::clone(&self.transport);
        async move {
            let (parts, body) = request.into_parts();
            let (body, _) = match whole(body).await {
                Ok(whole) => whole,
                Err(status) => return status.into_http(),
            };
            let call = CallFrame { path: parts.uri.path().to_owned(), headers: fields(&parts.headers), body };
            match transport.call(node, Lane::Bulk, CALL, call.encode_to_vec().into()).await {
                Ok(answer) => AnswerFrame::decode(answer).ok().and_then(response).unwrap_or_else(|| {
                    Status::internal(format!("the answer of node {node} cannot be read")).into_http()
                }),
                Err(Failed::NotSent(why)) => not_done(Status::unavailable(why)),
                Err(lost @ Failed::Lost(_)) => Status::unavailable(lost.to_string()).into_http(),
            }
        }
        .boxed()
    }
}

/// Takes in what other nodes send: Raft's messages, and calls.
pub struct NodeReceiver {
    raft: RaftReceiver,
    peers: Arc<TransportPeers>,
    runtime: Handle,
}

impl NodeReceiver {
    /// Must be called within a tokio runtime, which then carries the calls.
    pub fn new(raft: RaftReceiver, peers: Arc<TransportPeers>) -> NodeReceiver {
        NodeReceiver { raft, peers, runtime: Handle::current() }
    }

    fn call(&self, incoming: Incoming) {
        let Incoming { from, body, mut answer, .. } = incoming;
        let Some(entry) = self.peers.entry() else {
            let refusal = answer_of(not_done(Status::unavailable("the called node does not serve yet")));
            self.runtime.spawn(async move { answer.send(refusal.await) });
            return;
        };
        let Some(request) = CallFrame::decode(body).ok().and_then(request) else {
            tracing::warn!(%from, "a call of another node cannot be read");
            return;
        };
        self.runtime.spawn(async move {
            let answered = async { answer_of(entry.call(request).await).await };
            tokio::select! {
                answered = answered => answer.send(answered),
                () = answer.cancelled() => {}
            }
        });
    }
}

impl Receiver for NodeReceiver {
    fn receive(&self, incoming: Incoming) {
        match incoming.kind {
            CALL => self.call(incoming),
            _ => self.raft.receive(incoming),
        }
    }

    fn disconnected(&self, connection: ConnectionId) {
        self.raft.disconnected(connection);
    }
}

fn request(call: CallFrame) -> Option<Request<Body>> {
    let mut request = Request::post(call.path).body(Body::new(Whole::new(call.body, None))).ok()?;
    *request.headers_mut() = header_map(call.headers)?;
    Some(request)
}

fn response(answer: AnswerFrame) -> Option<Response<Body>> {
    let trailers = header_map(answer.trailers)?;
    let body = Whole::new(answer.body, (!trailers.is_empty()).then_some(trailers));
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = http::StatusCode::from_u16(u16::try_from(answer.status).ok()?).ok()?;
    *response.headers_mut() = header_map(answer.headers)?;
    Some(response)
}

async fn answer_of(response: Response<Body>) -> Bytes {
    let (parts, body) = response.into_parts();
    let answer = match whole(body).await {
        Ok((body, trailers)) => AnswerFrame {
            status: parts.status.as_u16().into(),
            headers: fields(&parts.headers),
            body,
            trailers: fields(&trailers),
        },
        Err(status) => {
            AnswerFrame { status: 200, headers: fields(status.into_http::<()>().headers()), ..AnswerFrame::default() }
        }
    };
    answer.encode_to_vec().into()
}

/// All of a body, and its trailers.
async fn whole(mut body: Body) -> Result<(Bytes, HeaderMap), Status> {
    let (mut first, mut rest, mut trailers) = (Bytes::new(), BytesMut::new(), HeaderMap::new());
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame?.into_data() {
            Ok(data) if first.is_empty() && rest.is_empty() => first = data,
            Ok(data) => {
                rest.extend_from_slice(&std::mem::take(&mut first));
                rest.extend_from_slice(&data);
            }
            Err(other) => trailers = other.into_trailers().unwrap_or_default(),
        }
    }
    Ok((if rest.is_empty() { first } else { rest.freeze() }, trailers))
}

fn fields(headers: &HeaderMap) -> Vec<Field> {
    let field = |(name, value): (&HeaderName, &HeaderValue)| Field {
        name: name.as_str().to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    headers.iter().map(field).collect()
}

fn header_map(fields: Vec<Field>) -> Option<HeaderMap> {
    let field = |Field { name, value }: Field| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_maybe_shared(value).ok()?))
    };
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields.into_iter().map(field) {
        let (name, value) = field?;
        headers.append(name, value);
    }
    Some(headers)
}

/// A body that is there.
struct Whole {
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Whole {
    fn new(data: Bytes, trailers: Option<HeaderMap>) -> Whole {
        Whole { data, trailers }
    }
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = std::mem::take(&mut self.data);
        let next = if data.is_empty() { self.trailers.take().map(Frame::trailers) } else { Some(Frame::data(data)) };
        Poll::Ready(next.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use everlog_storage::NodeId;
    use everlog_transport::twin::TwinNetwork;

    use super::*;
    use crate::is_not_done;

    /// Nodes without groups, which only take calls.
    struct OnlyCalls(NodeReceiver);

    impl Receiver for OnlyCalls {
        fn receive(&self, incoming: Incoming) {
            self.0.call(incoming);
        }
    }

    struct Pair {
        network: TwinNetwork,
        near: Arc<TransportPeers>,
        far: Arc<TransportPeers>,
    }

    fn pair() -> Pair {
        let network = TwinNetwork::new();
        let peers = [1, 2].map(|node| TransportPeers::new(network.transport(NodeId(node))));
        for (node, peers) in (1..).zip(&peers) {
            let receiver = NodeReceiver::new(RaftReceiver::of_nothing(), Arc::clone(peers));
            network.join(NodeId(node), Arc::new(OnlyCalls(receiver)));
        }
        let [near, far] = peers;
        Pair { network, near, far }
    }

    fn ask(text: &'static str) -> Request<Body> {
        let body = Body::new(Whole::new(Bytes::from_static(text.as_bytes()), None));
        let mut request = Request::post("/service/Method").body(body).unwrap();
        request.headers_mut().insert("x-asked", HeaderValue::from_static("twice"));
        request.headers_mut().append("x-asked", HeaderValue::from_static("over"));
        request
    }

    #[tokio::test]
    async fn a_call_arrives_whole_and_so_does_its_answer() {
        let Pair { near, far, .. } = pair();
        far.attach(Entry::new(|request| {
            async move {
                assert_eq!(request.uri().path(), "/service/Method");
                let asked: Vec<_> = request.headers().get_all("x-asked").iter().cloned().collect();
                assert_eq!(asked, ["twice", "over"]);
                let (body, _) = whole(request.into_body()).await.unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let mut response = Response::new(Body::new(Whole::new(body, Some(trailers))));
                response.headers_mut().insert("x-answered", HeaderValue::from_static("yes"));
                response
            }
            .boxed()
        }));
        let response = near.call(NodeId(2), ask("hello")).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-answered"]),
            (200, &HeaderValue::from_static("yes"))
        );
        let (body, trailers) = whole(response.into_body()).await.unwrap();
        assert_eq!((&body[..], &trailers["grpc-status"]), (&b"hello"[..], &HeaderValue::from_static("0")));
        assert_eq!(near.nodes(), [NodeId(2)]);
    }

    #[tokio::test]
    async fn what_surely_did_not_arrive_is_told_apart() {
        let Pair { network, near, far } = pair();
        let early = near.call(NodeId(2), ask("too early")).await;
        assert!(is_not_done(&early), "{early:?}");
        let unknown = near.call(NodeId(7), ask("nobody")).await;
        assert!(is_not_done(&unknown), "{unknown:?}");
        far.attach(Entry::new(|_| std::future::pending().boxed()));
        let waiting = tokio::spawn(near.call(NodeId(2), ask("x")));
        tokio::time::sleep(Duration::from_millis(50)).await;
        network.leave(NodeId(2));
        let lost = waiting.await.unwrap();
        let status = Status::from_header_map(lost.headers()).unwrap();
        assert!(!is_not_done(&lost) && status.code() == tonic::Code::Unavailable, "{lost:?}");
        let later = near.call(NodeId(2), ask("x")).await;
        assert!(is_not_done(&later), "{later:?}");
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_ends_its_call() {
        let Pair { near, far, .. } = pair();
        let (dropped, mut ended) = tokio::sync::mpsc::channel::<()>(1);
        let (begun, mut begins) = tokio::sync::mpsc::channel::<()>(1);
        far.attach(Entry::new(move |_| {
            let (held, begun) = (dropped.clone(), begun.clone());
            async move {
                begun.send(()).await.unwrap();
                let _held = held;
                std::future::pending().await
            }
            .boxed()
        }));
        let waiting = tokio::spawn(near.call(NodeId(2), ask("x")));
        begins.recv().await.unwrap();
        far.attach(Entry::new(|_| std::future::pending().boxed()));
        waiting.abort();
        assert!(ended.recv().await.is_none(), "the last sender is dropped with the call");
    }
}
