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
const CUT: Duration = Duration::from_secs(10);
/// The node that is cut off, and the one that callers start workflows by.
const AWAY: usize = 2;
const AT: usize = 0;
/// How long a reader waits.
const READ_TIME: Duration = Duration::from_secs(2);
/// How long one waits for what the node that is cut off has to know by itself.
const OWN_TIME: Duration = Duration::from_millis(500);

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

/// A node that leads some partitions is cut off while workflows are started elsewhere. Stale counts, descriptions and closed histories are answered by all nodes as long as what is known
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
        let run = Watched::new(&stubs[AT]).await?;
        for stub in &stubs {
            until_all(stub, "stale", started.0.len()).await?;
            run.until_known(stub).await?;
        }
        say("    a node is cut off");
        cut(&cluster, true);
        let (answers, refusals) = cut_off(&stubs, &mut started, run).await?;
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
async fn cut_off(stubs: &[Stub], started: &mut Started, mut run: Watched) -> Result<(usize, usize), Failure> {
    let cut = Instant::now();
    let (mut answers, mut refusals) = (0, 0);
    while cut.elapsed() < CUT {
        start(&mut stubs[AT].clone(), started).await?;
        run.grow(&stubs[AT]).await?;
        for (node, stub) in stubs.iter().enumerate() {
            run.look(node, stub).await?;
        }
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
    run.ended()?;
    Ok((answers, refusals))
}

/// A workflow that grows and one that has closed, and what the node that is cut off says of them.
struct Watched {
    open: String,
    closed: String,
    /// Signals to the open one that were acknowledged.
    signals: Started,
    /// Its history begins with so many events.
    began_with: i64,
    /// Whole histories of the closed one, and refusals after them, and the same of descriptions of the open one.
    histories: (usize, usize),
    descriptions: (usize, usize),
    /// Histories of the open one that the node has refused: they are asked of whoever leads it.
    unread: usize,
}

impl Watched {
    /// Workflows that the node which is cut off does not lead, and has replicas of.
    async fn new(stub: &Stub) -> Result<Watched, Failure> {
        let mut names = Vec::new();
        for (name, is_closed) in [("open", false), ("closed", true)] {
            let id = format!("read-{name}");
            let request = service::StartWorkflowExecutionRequest {
                namespace: "default".to_owned(),
                ..start_of(&id, "watched", &Program::Register)
            };
            stub.clone().start_workflow_execution(request).await?;
            if is_closed {
                let request = service::TerminateWorkflowExecutionRequest {
                    namespace: "default".to_owned(),
                    workflow_execution: Some(execution(&id)),
                    ..Default::default()
                };
                stub.clone().terminate_workflow_execution(request).await?;
            }
            names.push(id);
        }
        let (open, closed) = (names[0].clone(), names[1].clone());
        let began_with = length(stub, &open, "lease", READ_TIME).await?;
        let (signals, histories, descriptions) = (Started::default(), (0, 0), (0, 0));
        Ok(Watched { open, closed, signals, began_with, histories, descriptions, unread: 0 })
    }

    /// Waits until a node's replica has both. Its leader is asked until then, and is there.
    async fn until_known(&self, stub: &Stub) -> Result<(), Failure> {
        length(stub, &self.open, "stale", READ_TIME).await?;
        ensure(events(stub, &self.closed, "stale", READ_TIME).await? == 3, || {
            "a closed workflow is not whole".to_owned()
        })
    }

    async fn grow(&mut self, stub: &Stub) -> Result<(), Failure> {
        let request = service::SignalWorkflowExecutionRequest {
            namespace: "default".to_owned(),
            workflow_execution: Some(execution(&self.open)),
            signal_name: "more".to_owned(),
            request_id: format!("more-{}", self.signals.0.len()),
            ..Default::default()
        };
        stub.clone().signal_workflow_execution(request).await?;
        self.signals.0.push(Instant::now());
        Ok(())
    }

    /// What a node says now is never older than it may be.
    async fn look(&mut self, node: usize, stub: &Stub) -> Result<(), Failure> {
        let began = Instant::now();
        let time = if node == AWAY { OWN_TIME } else { READ_TIME };
        let least = self.began_with + began.checked_sub(STALE_MAX).map_or(0, |moment| self.signals.by(moment));
        let most = self.began_with + self.signals.0.len() as i64;
        let described = length(stub, &self.open, "stale", time).await;
        if let Ok(length) = &described {
            ensure((least..=most).contains(length), || {
                format!("node {}: {length} events, and {least} to {most} were there long ago", node + 1)
            })?;
        }
        let history = events(stub, &self.closed, "stale", time).await;
        if let Ok(events) = &history {
            ensure(*events == 3, || format!("node {}: {events} events of a closed workflow", node + 1))?;
        }
        let growing = events(stub, &self.open, "stale", time).await;
        if let Ok(events) = &growing {
            ensure(*events == most, || format!("node {}: {events} of {most} events of an open workflow", node + 1))?;
        }
        if node != AWAY {
            return described.and(history).and(growing).map(drop).map_err(Failure::from);
        }
        for (told, (answers, refusals)) in [(described, &mut self.descriptions), (history, &mut self.histories)] {
            match told {
                Ok(_) if *refusals > 0 => return Err(Failure::new("it answers again although it is cut off")),
                Ok(_) => *answers += 1,
                Err(status) if is_none(&status) => *refusals += 1,
                Err(status) => return Err(status.into()),
            }
        }
        self.unread += usize::from(growing.is_err());
        Ok(())
    }

    fn ended(&self) -> Result<(), Failure> {
        let Watched { histories, descriptions, unread, .. } = self;
        say(&format!(
            "    by that node: descriptions of a workflow {descriptions:?}, histories of a closed one {histories:?} (answers, then refusals), {unread} \
             histories of an open one refused"
        ));
        let both = |(answers, refusals): &(usize, usize)| *answers > 0 && *refusals > 0;
        ensure(both(histories) && both(descriptions) && *unread > 0, || "it answers too much, or nothing".to_owned())
    }
}

fn execution(id: &str) -> everlog_proto::api::common::v1::WorkflowExecution {
    crate::client::run(id, "")
}

fn asked<T>(message: T, read: &'static str, time: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(time);
    request.metadata_mut().insert("everlog-read", tonic::metadata::MetadataValue::from_static(read));
    request
}

/// How long the history of a workflow is, by its description.
async fn length(stub: &Stub, id: &str, read: &'static str, time: Duration) -> Result<i64, Status> {
    let request =
        service::DescribeWorkflowExecutionRequest { namespace: "default".to_owned(), execution: Some(execution(id)) };
    let described = stub.clone().describe_workflow_execution(asked(request, read, time)).await?.into_inner();
    Ok(described.workflow_execution_info.map_or(0, |info| info.history_length))
}

/// How many events the history of a workflow has, read page by page of one batch.
async fn events(stub: &Stub, id: &str, read: &'static str, time: Duration) -> Result<i64, Status> {
    let (mut count, mut token) = (0, Vec::new());
    loop {
        let request = service::GetWorkflowExecutionHistoryRequest {
            namespace: "default".to_owned(),
            execution: Some(execution(id)),
            maximum_page_size: 1,
            next_page_token: token,
            ..Default::default()
        };
        let page = stub.clone().get_workflow_execution_history(asked(request, read, time)).await?.into_inner();
        count += page.history.map_or(0, |history| history.events.len() as i64);
        token = page.next_page_token;
        if token.is_empty() {
            return Ok(count);
        }
    }
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
    let (namespace, query) = ("default".to_owned(), "TaskQueue = 'nobody'".to_owned());
    let request = service::CountWorkflowExecutionsRequest { namespace, query };
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
