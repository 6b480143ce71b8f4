//! Reads of a node that is cut off, and of the others meanwhile.

use std::time::Duration;

use everlog_proto::api::workflowservice::v1 as service;
use everlog_proto::clients::WorkflowServiceClient;
use everlog_proto::cluster::{ApplyPlacementsRequest, Placement, PlacementReads, PlacementSpread};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::{PATIENCE, Stage, start_of};
use crate::failure::{Failure, ensure};
use crate::harness::{Cluster, Link};
use crate::program::Program;
use crate::say;

/// How old stale reads may be.
const STALE_MAX: Duration = Duration::from_secs(5);
/// How long the node is cut off: longer than what it knows is good for.
const CUT: Duration = Duration::from_secs(9);
/// The node that is cut off, and the one that callers start workflows by.
const AWAY: usize = 2;
const AT: usize = 0;
/// How long a reader waits.
const READ_TIME: Duration = Duration::from_secs(2);

type Stub = WorkflowServiceClient<Channel>;

/// What was started, and when that was known.
#[derive(Default)]
struct Started(Vec<Instant>);

impl Started {
    /// How many surely were started at a moment.
    fn by(&self, moment: Instant) -> i64 {
        self.0.iter().filter(|known| **known <= moment).count() as i64
    }
}

/// A node that leads some partitions is cut off while workflows are started elsewhere. Stale counts are answered by all nodes as long as what is known
/// there is not older than it may be, and are never older; strict ones only by those that can ask a majority; partial ones say what they leave out.
pub(crate) async fn while_cut_off(stage: &Stage) -> Result<(), Failure> {
    let directory = stage.directory.join("reads");
    let cluster = Cluster::new(&stage.binary, &directory, 3).await?;
    cluster.start().await?;
    let result = async {
        let mut stubs = Vec::new();
        for node in &cluster.nodes {
            let endpoint = Channel::from_shared(format!("http://{}", node.grpc()));
            let endpoint = endpoint.map_err(|error| Failure(error.to_string()))?;
            stubs.push(WorkflowServiceClient::new(endpoint.connect_lazy()));
        }
        let mut started = Started::default();
        for _ in 0..20 {
            start(&mut stubs[AT], &mut started).await?;
        }
        for stub in &stubs {
            until_all(stub, "stale", started.0.len()).await?;
        }
        say("    a node is cut off");
        cut(&cluster, true);
        let (answers, refusals) = cut_off(&stubs, &mut started).await?;
        say(&format!("    {answers} stale counts by the node that was cut off, then {refusals} refusals"));
        ensure(answers > 0 && refusals > 0, || format!("{answers} answers, {refusals} refusals"))?;
        let partial = count(&stubs[AWAY], Some("lease"), true).await?;
        let missing = partial.metadata().get("everlog-missing-partitions").is_some_and(|named| !named.is_empty());
        ensure(missing, || format!("nothing is left out: {partial:?}"))?;
        let whole = count(&stubs[AT], None, true).await?;
        ensure(whole.metadata().get("everlog-missing-partitions").is_none(), || format!("left out: {whole:?}"))?;
        cut(&cluster, false);
        for stub in &stubs {
            until_all(stub, "stale", started.0.len()).await?;
            until_all(stub, "linearizable", started.0.len()).await?;
        }
        placed(&cluster, &stubs).await?;
        cluster.stop().await
    };
    result.await.inspect_err(|_| say(&cluster.logs()))
}

/// Returns how many stale counts the node that is cut off answered, and how many it refused after them.
async fn cut_off(stubs: &[Stub], started: &mut Started) -> Result<(usize, usize), Failure> {
    let cut = Instant::now();
    let (mut answers, mut refusals) = (0, 0);
    while cut.elapsed() < CUT {
        start(&mut stubs[AT].clone(), started).await?;
        for (node, stub) in stubs.iter().enumerate() {
            let began = Instant::now();
            let counted = count(stub, Some("stale"), false).await;
            let least = began.checked_sub(STALE_MAX).map_or(0, |moment| started.by(moment));
            match counted {
                Ok(counted) => {
                    let found = counted.into_inner().count;
                    ensure(found >= least && found <= started.0.len() as i64 + 1, || {
                        format!("node {}: {found} of {least} that were started long ago", node + 1)
                    })?;
                    answers += usize::from(node == AWAY);
                    ensure(node != AWAY || refusals == 0, || "it answers again although it is cut off".to_owned())?;
                }
                Err(status) if node == AWAY && is_none(&status) => refusals += 1,
                Err(status) => return Err(Failure(format!("node {}: {status}", node + 1))),
            }
        }
        let strict = count(&stubs[AWAY], None, false).await;
        ensure(strict.as_ref().is_err_and(is_none) || cut.elapsed() < READ_TIME, || {
            format!("a strict count by the node that is cut off: {strict:?}")
        })?;
    }
    Ok((answers, refusals))
}

/// With a placement that says so, counts are stale without a word of the caller.
async fn placed(cluster: &Cluster, stubs: &[Stub]) -> Result<(), Failure> {
    let placement = Placement {
        name: "default".to_owned(),
        replicas: 3,
        spread: PlacementSpread::Zone as i32,
        reads: PlacementReads::Stale as i32,
        ..Placement::default()
    };
    let request = ApplyPlacementsRequest { placements: vec![placement], only_plan: false };
    cluster.operator(AT)?.apply_placements(request).await?;
    let until = Instant::now() + PATIENCE;
    loop {
        cut(cluster, true);
        let answered = count(&stubs[AWAY], None, false).await;
        cut(cluster, false);
        match answered {
            Ok(_) => return Ok(()),
            // It may have yet to hear how far the others are, since it was cut off before.
            Err(status) => ensure(Instant::now() < until, || format!("placed with stale reads: {status}"))?,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn cut(cluster: &Cluster, is_cut: bool) {
    for other in (0..cluster.nodes.len()).filter(|other| *other != AWAY) {
        let link = Link { is_cut, ..Link::default() };
        cluster.links.set(AWAY, other, link);
        cluster.links.set(other, AWAY, link);
    }
}

fn is_none(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

async fn start(stub: &mut Stub, started: &mut Started) -> Result<(), Failure> {
    let request = service::StartWorkflowExecutionRequest {
        namespace: "default".to_owned(),
        ..start_of(&format!("read-{}", started.0.len()), "nobody", &Program::Register)
    };
    stub.start_workflow_execution(request).await?;
    started.0.push(Instant::now());
    Ok(())
}

async fn count(
    stub: &Stub,
    read: Option<&'static str>,
    is_partial: bool,
) -> Result<Response<service::CountWorkflowExecutionsResponse>, Status> {
    let request = service::CountWorkflowExecutionsRequest { namespace: "default".to_owned(), ..Default::default() };
    let mut request = Request::new(request);
    request.set_timeout(if is_partial { PATIENCE } else { READ_TIME });
    let headers = request.metadata_mut();
    if let Some(read) = read {
        headers.insert("everlog-read", tonic::metadata::MetadataValue::from_static(read));
    }
    if is_partial {
        headers.insert("everlog-partial", tonic::metadata::MetadataValue::from_static("true"));
    }
    stub.clone().count_workflow_executions(request).await
}

/// Waits until a node counts so many or more.
async fn until_all(stub: &Stub, read: &'static str, least: usize) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let counted = count(stub, Some(read), false).await;
        if counted.as_ref().is_ok_and(|counted| counted.get_ref().count >= least as i64) {
            return Ok(());
        }
        ensure(Instant::now() < until, || format!("{read}: {counted:?}, not {least}"))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
