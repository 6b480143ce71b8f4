//! Metadata that are changed while whoever leads them is killed.

use std::time::Duration;

use everlog_proto::api::nexus::v1::endpoint_target::{Variant, Worker};
use everlog_proto::api::nexus::v1::{EndpointSpec, EndpointTarget};
use everlog_proto::api::operatorservice::v1 as operator;
use everlog_proto::api::workflowservice::v1 as service;
use everlog_proto::clients::OperatorServiceClient;
use everlog_proto::cluster::{CreateJoinTokenRequest, DescribeClusterRequest, GroupKind, TransferLeadsRequest};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{PATIENCE, Stage};
use crate::client::{Client, duration};
use crate::failure::{Failure, ensure};
use crate::harness::{Cluster, SERVE_TIME_MAX};
use crate::say;

/// How often whoever leads the metadata is killed.
const KILLS: usize = 6;
/// How long changes go on between a start and the next kill.
const REST: Duration = Duration::from_secs(2);
/// Where callers send what they want. This node leads nothing that is killed.
const AT: usize = 0;

/// A namespace is registered, an endpoint made, changed and deleted, over and over, by way of a node that stays, while whoever else leads the metadata
/// is killed. No call fails: each would if it were done twice.
pub(crate) async fn changed_once(stage: &Stage) -> Result<(), Failure> {
    let directory = stage.directory.join("metadata");
    let cluster = Cluster::new(&stage.binary, &directory, 3).await?;
    cluster.start().await?;
    let result = async {
        let client = Client::new(&cluster.addresses(), "default", &stage.seen)?;
        let endpoint = Channel::from_shared(format!("http://{}", cluster.nodes[AT].grpc()));
        let endpoint = endpoint.map_err(|error| Failure(error.to_string()))?.timeout(PATIENCE);
        let operators = OperatorServiceClient::new(endpoint.connect_lazy());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let changing = change(&client, &operators, stopped);
        let killing = async {
            let killed = kill_leaders(&cluster).await;
            stop.send_replace(true);
            killed
        };
        let (rounds, killed) = tokio::join!(changing, killing);
        killed?;
        let rounds = rounds?;
        say(&format!("    {rounds} rounds of changes over {KILLS} kills"));
        ensure(rounds > KILLS, || format!("{rounds} rounds"))?;
        token_is_refused_once(&cluster).await?;
        cluster.stop().await
    };
    result.await.inspect_err(|_| say(&cluster.logs()))
}

async fn kill_leaders(cluster: &Cluster) -> Result<(), Failure> {
    for _ in 0..KILLS {
        tokio::time::sleep(REST).await;
        let leader = elsewhere(cluster).await?;
        cluster.nodes[leader].kill().await?;
        tokio::time::sleep(REST).await;
        cluster.nodes[leader].spawn().await?;
        cluster.nodes[leader].wait_serving(SERVE_TIME_MAX).await?;
    }
    Ok(())
}

/// The node that leads the metadata, which is made another one than callers speak to.
async fn elsewhere(cluster: &Cluster) -> Result<usize, Failure> {
    let until = Instant::now() + PATIENCE;
    let mut operator = cluster.operator(AT)?;
    loop {
        let shown = operator.describe_cluster(DescribeClusterRequest {}).await?.into_inner();
        let metadata = shown.groups.iter().find(|group| group.kind() == GroupKind::Metadata);
        let leader = metadata.map_or(0, |group| group.leader as usize);
        if leader > AT + 1 {
            return Ok(leader - 1);
        }
        if leader == AT + 1 {
            let request = TransferLeadsRequest { group_ids: vec![0], from_node: 0, to_node: 2 };
            // It may be refused while a node comes back.
            let _ = operator.transfer_leads(request).await;
        }
        ensure(Instant::now() < until, || "nobody else leads the metadata".to_owned())?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn change(
    client: &Client,
    operators: &OperatorServiceClient<Channel>,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> Result<usize, Failure> {
    let mut round = 0;
    while !*stopped.borrow() {
        let failed = |what: &str, status: Status| Failure(format!("round {round}: {what}: {status}"));
        let name = format!("made-{round}");
        let register = service::RegisterNamespaceRequest {
            namespace: name.clone(),
            workflow_execution_retention_period: Some(duration(Duration::from_secs(24 * 3600))),
            ..Default::default()
        };
        let registered = client
            .call(AT, "RegisterNamespace", register, PATIENCE, async |stub, request| {
                stub.register_namespace(request).await
            })
            .await;
        registered.map_err(|status| failed("register", status))?;
        let spec = |queue: &str| {
            let worker = Worker { namespace: name.clone(), task_queue: queue.to_owned() };
            let target = Some(EndpointTarget { variant: Some(Variant::Worker(worker)) });
            Some(EndpointSpec { name: name.clone(), target, ..Default::default() })
        };
        let mut operators = operators.clone();
        let made = operators.create_nexus_endpoint(operator::CreateNexusEndpointRequest { spec: spec("q") }).await;
        let mut endpoint = made.map_err(|status| failed("create", status))?.into_inner().endpoint.unwrap_or_default();
        for change in 0..5 {
            let (id, version) = (endpoint.id.clone(), endpoint.version);
            let spec = spec(&format!("q{change}"));
            let request = operator::UpdateNexusEndpointRequest { id, version, spec };
            let updated = operators.update_nexus_endpoint(request).await;
            endpoint = updated.map_err(|status| failed("update", status))?.into_inner().endpoint.unwrap_or_default();
            ensure(endpoint.version == version + 1, || format!("version {} follows {version}", endpoint.version))?;
        }
        let (id, version) = (endpoint.id, endpoint.version);
        let deleted = operators.delete_nexus_endpoint(operator::DeleteNexusEndpointRequest { id, version }).await;
        deleted.map_err(|status| failed("delete", status))?;
        round += 1;
    }
    Ok(round)
}

/// What is refused is refused, and not tried for long.
async fn token_is_refused_once(cluster: &Cluster) -> Result<(), Failure> {
    let began = Instant::now();
    let refused = cluster.operator(AT)?.create_join_token(CreateJoinTokenRequest::default()).await;
    let code = refused.err().map(|status| status.code());
    ensure(code == Some(Code::FailedPrecondition), || format!("a token without an authority: {code:?}"))?;
    ensure(began.elapsed() < PATIENCE, || format!("refused after {:?}", began.elapsed()))
}
