//! Limits: they hold by namespace, and act when they change; polls are bounded; a run that is gone is not found.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::path::Path;
use std::time::{Duration, Instant};

use everlog_config::DynamicConfig;
use everlog_proto::api::common::v1::Link;
use everlog_proto::api::common::v1::link::{BatchJob, Variant};
use everlog_proto::api::workflowservice::v1::{SignalWorkflowExecutionRequest, StartWorkflowExecutionRequest};
use harness::process::{ANY_PORTS, Process, everlog};
use harness::requests::{poll_activity, poll_workflow, signal};
use harness::wire::told;
use harness::{Client, Server, payloads, start_request, within};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(30);

/// A server whose settings file says this of its limits.
struct Configured {
    directory: tempfile::TempDir,
    server: Process,
}

impl Configured {
    async fn start(limits: &str) -> Configured {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("everlog.toml");
        write(&file, limits);
        let mut command = everlog();
        command.arg("server").arg("--config").arg(&file);
        Configured { directory, server: Process::start(command).await }
    }

    fn change(&self, limits: &str) {
        write(&self.directory.path().join("everlog.toml"), limits);
        self.server.signal("HUP");
    }
}

fn write(file: &Path, limits: &str) {
    let before = "ephemeral = true\nnamespaces = [\"small\"]\n[listen]\nport = 0\nhttp_port = 0\nmetrics_port = 0\n";
    std::fs::write(file, format!("{before}[dynamic_config]\n{limits}\n")).unwrap();
}

/// What a signal with so many bytes to a workflow of a namespace is answered with.
async fn signalled(client: &mut Client, namespace: &str, bytes: usize, links: usize) -> String {
    let request = SignalWorkflowExecutionRequest {
        namespace: namespace.to_owned(),
        input: payloads(&"x".repeat(bytes)),
        links: vec![Link { variant: Some(Variant::BatchJob(BatchJob { job_id: "job".to_owned() })) }; links],
        ..signal("workflow", &format!("{namespace} {bytes} {links}"))
    };
    match client.signal_workflow_execution(request).await {
        Ok(_) => "ok".to_owned(),
        Err(status) => told(&status),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_by_namespace_and_act_when_they_change() {
    let too_large = "InvalidArgument: Blob data size exceeds limit.";
    let too_many = "InvalidArgument: cannot attach more than 10 links per request, got 11";
    let limit = |bytes| {
        format!("\"limit.blobSize.error\" = [{{ value = {bytes}, constraints = {{ namespace = \"small\" }} }}]")
    };
    let configured = Configured::start(&limit(100)).await;
    let mut client = configured.server.client().await;
    for namespace in ["default", "small"] {
        let request = StartWorkflowExecutionRequest { namespace: namespace.to_owned(), ..start_request("workflow") };
        client.start_workflow_execution(request).await.unwrap();
    }
    assert_eq!(signalled(&mut client, "default", 200, 0).await, "ok");
    assert_eq!(signalled(&mut client, "small", 200, 0).await, too_large);
    assert_eq!(signalled(&mut client, "default", 1, 11).await, too_many);

    configured.change(&format!("{}\n\"frontend.maxlinksPerRequest\" = 11", limit(1000)));
    let begin = Instant::now();
    while signalled(&mut client, "small", 200, 0).await != "ok" {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(signalled(&mut client, "small", 2000, 0).await, too_large);
    assert_eq!(signalled(&mut client, "default", 1, 11).await, "ok");
    configured.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_of_temporals_is_taken_and_acts_when_it_changes() {
    let too_large = "InvalidArgument: Blob data size exceeds limit.";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dynamic.yaml");
    let write = |bytes| {
        let unknown = "frontend.enableUpdateWorkflowExecution:\n  - value: true\n    constraints: {}\n";
        let ids = "limit.maxIDLength:\n  - value: 5\n";
        let blobs = format!("limit.blobSize.error:\n  - value: {bytes}\n    constraints: {{}}\n");
        std::fs::write(&file, [unknown, ids, &blobs].concat()).unwrap();
    };
    write(100);
    let mut command = everlog();
    command.args(["dev", "--ephemeral", "--dynamic-config-value", "limit.maxIDLength=50", "--dynamic-config-file"]);
    command.arg(&file).args(ANY_PORTS);
    let server = Process::start(command).await;
    let mut client = server.client().await;
    client.start_workflow_execution(start_request("workflow")).await.unwrap();
    assert_eq!(signalled(&mut client, "default", 200, 0).await, too_large);
    write(1000);
    server.signal("HUP");
    let begin = Instant::now();
    while signalled(&mut client, "default", 200, 0).await != "ok" {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(signalled(&mut client, "default", 2000, 0).await, too_large);
    // The flag counts on.
    client.start_workflow_execution(start_request("another workflow")).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_beyond_what_a_namespace_may_have_are_refused() {
    let mut config = DynamicConfig::default();
    config.frontend.polls_max = 2;
    config.frontend.poll_wait_max = Duration::from_secs(5);
    let mut server = Server::with(1, config).await;
    let client = server.client().await;
    let short = Duration::from_millis(2100);
    // Both are open once a third one is refused; until then the third one may be in the place of one of them.
    let polling: Vec<_> = (0..2)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                loop {
                    match client.poll_workflow_task_queue(within(PATIENCE, poll_workflow("queue"))).await {
                        Err(status) if status.code() == Code::ResourceExhausted => {}
                        polled => break polled.unwrap(),
                    }
                }
            })
        })
        .collect();
    let mut third = client.clone();
    let begin = Instant::now();
    let refused = loop {
        match third.poll_workflow_task_queue(within(short, poll_workflow("another queue"))).await {
            Err(status) if status.code() == Code::ResourceExhausted => break status,
            _ => assert!(begin.elapsed() < PATIENCE),
        }
    };
    assert_eq!(refused.message(), "namespace concurrent poller limit exceeded");
    assert_eq!(refused.metadata().get("x-resource-exhausted-cause").unwrap(), "ConcurrentLimit");
    // Those for activities are counted by themselves.
    let mut another = client.clone();
    another.poll_activity_task_queue(within(short, poll_activity("queue"))).await.unwrap();
    server.stop();
    for poll in polling {
        poll.await.unwrap();
    }
    server.stopped().await;
}
