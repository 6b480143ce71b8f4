//! Who may ask what nodes ask of each other, and what is answered to what cannot be read.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use everlog_cluster::Entry;
use everlog_model::{NodeId, OperationId, limits};
use everlog_proto::RawCodec;
use everlog_proto::internal::{
    AnnounceRequest, DeliverRequest, OfferRequest, OfferedTask, Sender, StartTaskRequest, TaskPageRequest, Workflow,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use prost::Message;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};

use super::cluster::{Cluster, NODES};
use super::harness::wire;

pub(crate) const INTERNAL: &str = "everlog.internal.v1.Internal";

/// The way in for other nodes.
struct Inside(Entry);

impl Service<http::Request<Body>> for Inside {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.call(request).map(Ok).boxed()
    }
}

/// What a node answers to another one.
pub(crate) async fn answered(
    cluster: &Cluster,
    node: NodeId,
    service: &str,
    method: &str,
    message: Vec<u8>,
) -> Result<Bytes, Status> {
    answered_under(cluster, node, service, method, message, None).await
}

/// The same of a call that has an id.
pub(crate) async fn answered_under(
    cluster: &Cluster,
    node: NodeId,
    service: &str,
    method: &str,
    message: Vec<u8>,
    operation: Option<OperationId>,
) -> Result<Bytes, Status> {
    let mut request = tonic::Request::new(Bytes::from(message));
    if let Some(operation) = operation {
        request.metadata_mut().insert("everlog-operation", operation.to_string().parse().unwrap());
    }
    let mut grpc = tonic::client::Grpc::new(Inside(cluster.links.entry(node)));
    let path = format!("/{service}/{method}").parse().unwrap();
    grpc.unary(request, path, RawCodec).await.map(tonic::Response::into_inner)
}

/// How a node refuses what another one asks.
async fn refused(cluster: &Cluster, service: &str, method: &str, message: Vec<u8>) -> Status {
    answered(cluster, NODES[0], service, method, message).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_reach_what_nodes_ask_of_each_other() {
    let cluster = Cluster::start().await;
    let channel = cluster.servers[0].channel().await;
    for method in [
        "Announce",
        "Offer",
        "StartTask",
        "TaskPage",
        "Deliver",
        "VisibilityPage",
        "EndPolls",
        "WorkersHeard",
        "AwaitMetadata",
    ] {
        let unknown = wire::call(&channel, INTERNAL, method, Bytes::new(), None).await.unwrap_err();
        assert_eq!(unknown.code(), Code::Unimplemented, "{method}");
        assert_eq!(unknown.message(), format!("unknown service {INTERNAL}"));
        // Bytes that are no message of any kind get as far as to be read.
        let known = refused(&cluster, INTERNAL, method, vec![0xff]).await;
        assert_ne!(known.code(), Code::Unimplemented, "{method}");
    }
    let elsewhere = refused(&cluster, "grpc.health.v1.Health", "Check", Vec::new()).await;
    assert_eq!(elsewhere.code(), Code::Unimplemented);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_and_says_why() {
    let cluster = Cluster::start().await;
    let sender = Some(Sender { node: 2, incarnation: 1, batches: 1 });
    let workflow = Some(Workflow { namespace_id: Bytes::from(vec![1; 3]), workflow_id: "w".to_owned() });
    let nobody = Some(Workflow { namespace_id: Bytes::from(vec![1; 16]), workflow_id: "w".to_owned() });
    let stranger =
        AnnounceRequest { sender: Some(Sender { node: 7, incarnation: 1, batches: 1 }), ..AnnounceRequest::default() };
    let offer = OfferRequest { sender, tasks: vec![OfferedTask::default()], ..OfferRequest::default() };
    let start = StartTaskRequest { workflow: workflow.clone(), ..StartTaskRequest::default() };
    let unreadable = "the request of another node cannot be read: ";
    let cases = [
        ("Announce", AnnounceRequest::default().encode_to_vec(), Code::InvalidArgument, "it has no sender"),
        ("Announce", stranger.encode_to_vec(), Code::Unavailable, "node 7 is not known here"),
        ("Offer", offer.encode_to_vec(), Code::InvalidArgument, "it has no lead"),
        ("StartTask", StartTaskRequest::default().encode_to_vec(), Code::Internal, "it has no workflow"),
        ("StartTask", start.encode_to_vec(), Code::Internal, "its namespace is no id"),
        ("TaskPage", TaskPageRequest::default().encode_to_vec(), Code::InvalidArgument, "it has no lead"),
        (
            "Deliver",
            DeliverRequest { messages: vec![Bytes::from_static(b"\xff")] }.encode_to_vec(),
            Code::InvalidArgument,
            "",
        ),
    ];
    for (method, message, code, reason) in cases {
        let status = refused(&cluster, INTERNAL, method, message).await;
        assert_eq!(status.code(), code, "{method}: {status:?}");
        let text = if code == Code::Unavailable { reason.to_owned() } else { format!("{unreadable}{reason}") };
        assert!(status.message().starts_with(&text), "{method}: {status:?}");
    }
    let start = StartTaskRequest { workflow: nobody, run_id: Bytes::from(vec![1; 16]), ..StartTaskRequest::default() };
    let status = refused(&cluster, INTERNAL, "StartTask", start.encode_to_vec()).await;
    assert_eq!(status.code(), Code::Internal, "a start of nothing: {status:?}");
    let garbage = refused(&cluster, INTERNAL, "Offer", vec![0xff; 3]).await;
    assert_eq!(garbage.code(), Code::Internal);
    let large = vec![0; limits::INTERNAL_BATCH_BYTES_MAX + (64 << 20)];
    assert_eq!(refused(&cluster, INTERNAL, "Offer", large).await.code(), Code::OutOfRange);
    cluster.stop().await;
}
