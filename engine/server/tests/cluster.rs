//! Three nodes as processes: they prove to each other who they are, and an operator sees and steers them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, too")]

#[path = "cluster/batch_jobs.rs"]
mod batch_jobs;
#[path = "cluster/formats.rs"]
mod formats;
mod harness;
#[path = "cluster/joining.rs"]
mod joining;
#[path = "cluster/moves.rs"]
mod moves;
#[path = "cluster/pools.rs"]
mod pools;
#[path = "cluster/regions.rs"]
mod regions;
#[path = "cluster/tokens.rs"]
mod tokens;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use everlog_proto::api::workflowservice::v1::{DescribeNamespaceRequest, RegisterNamespaceRequest};
use harness::Client;
use harness::process::{Process, everlog, run};
use harness::start_request;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(60);

/// Where nodes 1 to 3 listen to each other.
fn addresses() -> Vec<String> {
    addresses_of(3)
}

fn addresses_of(nodes: u8) -> Vec<String> {
    let listeners: Vec<_> = (1..=nodes).map(|n| TcpListener::bind(format!("127.0.9.{n}:0")).unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

fn certificates(dir: &Path, addresses: &[String]) {
    let mut args = vec!["cluster", "init", "--name", "tests", "--nodes"];
    args.extend(addresses.iter().map(String::as_str));
    args.extend(["--dir", dir.to_str().unwrap()]);
    let (code, said, error) = run(&args);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(said.contains("[tls.node]"), "{said}");
}

/// The settings of a node in `dir`, with the certificates in `certificates`, if it has any.
fn settings(dir: &Path, node: usize, addresses: &[String], certificates: Option<&Path>) -> PathBuf {
    let data = dir.join(format!("node{node}"));
    let listen = &addresses[node - 1];
    let mut text = format!(
        "data_dir = {data:?}\n[listen]\nport = 0\nhttp_port = 0\nmetrics_port = 0\n\
         [cluster]\nname = \"tests\"\nseeds = {addresses:?}\ninitial_nodes = 3\nlisten = {listen:?}\n"
    );
    if let Some(certificates) = certificates {
        let file = |name: String| certificates.join(name);
        text += &format!(
            "[tls.node]\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
            file("ca.crt".to_owned()),
            file(format!("node-{node}.crt")),
            file(format!("node-{node}.key")),
        );
    }
    let path = dir.join(format!("node{node}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

/// A server that runs. Killed when it is dropped.
struct Running {
    child: Child,
    /// All that it prints.
    log: PathBuf,
}

impl Running {
    fn start(settings: &Path) -> Running {
        let log = settings.with_extension("log");
        let file = File::create(&log).unwrap();
        let mut command = everlog();
        command.args(["server", "--config"]).arg(settings).stdout(file.try_clone().unwrap()).stderr(file);
        Running { child: command.spawn().unwrap(), log }
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has printed something.
    async fn until(&self, text: &str) {
        let begin = Instant::now();
        while !self.printed().contains(text) {
            assert!(begin.elapsed() < PATIENCE, "no {text:?}: {}", self.printed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where it listens, by the name in the line that it prints, once it serves.
    async fn address(&self, what: &str) -> String {
        self.until("data=").await;
        let printed = self.printed();
        printed.split(&format!("{what}=")).nth(1).unwrap().split(' ').next().unwrap().to_owned()
    }

    async fn client(&self) -> Client {
        let url = format!("http://{}", self.address("grpc").await);
        Client::new(Channel::from_shared(url).unwrap().connect().await.unwrap())
    }

    /// The first line and the last of what the HTTP port says of a path.
    async fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address("http").await).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: everlog\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let line = |line: Option<&str>| line.unwrap().trim().to_owned();
        (line(answer.lines().next()), line(answer.lines().last()))
    }

    /// Runs `everlog cluster` with this node's address: exit code, standard output, standard error.
    async fn cluster(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let address = self.address("grpc").await;
        let args: Vec<_> = std::iter::once("cluster").chain(args.iter().copied()).map(str::to_owned).collect();
        let asked = move || {
            let mut all: Vec<&str> = args.iter().map(String::as_str).collect();
            all.extend(["--address", &address]);
            run(&all)
        };
        tokio::task::spawn_blocking(asked).await.unwrap()
    }

    /// What such a command prints as JSON.
    async fn cluster_json(&self, args: &[&str]) -> Value {
        let args: Vec<_> = args.iter().copied().chain(["--output", "json"]).collect();
        let (code, said, error) = self.cluster(&args).await;
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str(&said).unwrap()
    }

    /// The cluster as it sees it.
    async fn status(&self) -> Value {
        self.cluster_json(&["status"]).await
    }

    /// Waits until the cluster is as it should be, as this node sees it.
    async fn sees(&self, is: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let status = self.status().await;
            if is(&status) {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "{status:#}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Ends it in good order.
    async fn stop(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        let begin = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < PATIENCE, "it does not end: {}", self.printed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_with_certificates_are_one_cluster_and_others_stay_out() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let (ours, others) = (dir.path().join("ours"), dir.path().join("others"));
    certificates(&ours, &addresses);
    certificates(&others, &addresses);
    let of = |node, certificates: Option<&Path>| settings(dir.path(), node, &addresses, certificates);
    let (mut first, mut second) = (Running::start(&of(1, Some(&ours))), Running::start(&of(2, Some(&ours))));

    // In the place of node 3 one with another authority's certificate, then one in the clear. No cluster comes of it.
    for (certificates, expected, heard) in [
        (Some(&*others), "not of the cluster's certificate authority", "it does not take this node's certificate"),
        (None, "nodes of this cluster talk TLS", "it does not speak TLS"),
    ] {
        let mut stranger = Running::start(&of(3, certificates));
        stranger.until(expected).await;
        first.until(heard).await;
        stranger.until("not founded yet").await;
        assert!(!first.printed().contains("data="), "{}", first.printed());
        stranger.stop().await;
        std::fs::remove_dir_all(dir.path().join("node3")).unwrap();
    }

    let mut third = Running::start(&of(3, Some(&ours)));
    let register = RegisterNamespaceRequest {
        namespace: "tls".to_owned(),
        workflow_execution_retention_period: Some(everlog_proto::wkt::Duration { seconds: 86_400, nanos: 0 }),
        ..RegisterNamespaceRequest::default()
    };
    first.client().await.register_namespace(register).await.unwrap();
    for node in [&second, &third] {
        let describe = DescribeNamespaceRequest { namespace: "tls".to_owned(), ..DescribeNamespaceRequest::default() };
        node.client().await.describe_namespace(describe).await.unwrap();
    }

    // A node with another's certificate does not start, and says why; nor does one without any.
    third.stop().await;
    let refused = |path: &Path, expected: &str| {
        let (code, _, error) = run(&["server", "--config", path.to_str().unwrap()]);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.lines().last().unwrap().contains(expected), "{error}");
    };
    refused(&of(3, Some(&dir.path().join("none"))), "ca.crt: no certificate can be read: No such file");
    let path = of(3, Some(&ours));
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("node-3.", "node-2.")).unwrap();
    refused(&path, "node-2.crt is the certificate of node 2, this is node 3");

    // With new certificates it comes back without a restart of the others.
    let (code, _, error) = run(&["cluster", "renew", "--dir", ours.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{error}");
    let mut third = Running::start(&of(3, Some(&ours)));
    third.client().await;
    first.until("the node's certificate was read again").await;
    for node in [&mut first, &mut second, &mut third] {
        node.stop().await;
    }
}

fn node(status: &Value, node: u64) -> &Value {
    status["nodes"].as_array().unwrap().iter().find(|found| found["nodeId"] == node).unwrap()
}

fn leads(status: &Value, of: u64) -> u64 {
    node(status, of)["leads"].as_u64().unwrap()
}

fn leader(status: &Value, of: u64) -> u64 {
    let groups = status["groups"].as_array().unwrap();
    groups.iter().find(|group| group["groupId"] == of).unwrap()["leader"].as_u64().unwrap_or(0)
}

/// Whether every group is led by the node that should lead it.
fn is_spread(status: &Value) -> bool {
    status["groups"].as_array().unwrap().iter().all(|group| group["leader"] == group["preferredLeader"])
}

/// Starts workflows one after the other until it is told to stop, and tells how many; each must be started.
async fn keep_starting(mut client: Client, stop: tokio::sync::oneshot::Receiver<()>) -> usize {
    let mut stop = std::pin::pin!(stop);
    for number in 0.. {
        let started = client.start_workflow_execution(start_request(&format!("w{number}"))).await;
        started.unwrap_or_else(|status| panic!("workflow {number}: {status}"));
        if tokio::time::timeout(Duration::from_millis(5), &mut stop).await.is_ok() {
            return number;
        }
    }
    0
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_and_steers_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let start = |node| Running::start(&settings(dir.path(), node, &addresses, None));
    let (mut first, mut second, mut third) = (start(1), start(2), start(3));
    let status = first.sees(|status| is_spread(status) && leads(status, 2) > 0 && leads(status, 3) > 0).await;
    assert_eq!(status["problems"], serde_json::json!([]));
    assert_eq!((&status["clusterName"], &node(&status, 3)["address"]), (&"tests".into(), &(*addresses[2]).into()));
    assert_eq!(node(&status, 2)["clientAddress"], *second.address("grpc").await);
    assert!(
        node(&status, 2)["diskFreeBytes"].as_u64().unwrap() > 0 && node(&status, 1)["logBytes"].as_u64().unwrap() > 0
    );
    let total = (1..=3).map(|node| leads(&status, node)).sum::<u64>();
    assert_eq!(total, status["groups"].as_array().unwrap().len() as u64);
    for node in [&first, &second, &third] {
        assert_eq!(node.get("/ready").await, ("HTTP/1.1 200 OK".to_owned(), "{\"status\":\"READY\"}".to_owned()));
    }
    third.sees(is_spread).await;
    let (code, table, _) = third.cluster(&["status"]).await;
    assert!(code == Some(0) && table.contains(" of 3 nodes answer"), "{table}");
    assert!(table.lines().all(|line| line.len() <= 100), "{table}");
    let (code, table, _) = third.cluster(&["groups"]).await;
    assert!(code == Some(0) && table.contains("metadata") && table.contains("1: 0"), "{table}");

    // Node 2 is drained by way of node 1, while workflows are started by way of node 3.
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let starting = tokio::spawn(keep_starting(third.client().await, stopped));
    let (code, said, error) = first.cluster(&["drain", "--node", "2"]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("Node 2 leads nothing"), "{said}");
    // Longer than nodes take to give leads back.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(7) {
        let status = first.status().await;
        // It may be slow to answer, but leads nothing.
        assert!(leads(&status, 2) == 0 && node(&status, 2)["state"] != "up", "{status:#}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(second.get("/ready").await.0.contains("200"), "it serves on");
    let (code, _, error) = first.cluster(&["transfer", "--group", "1", "--to", "2"]).await;
    assert!(code == Some(1) && error.contains("node 2 is draining"), "{error}");
    let (code, _, error) = second.cluster(&["drain", "--undo"]).await;
    assert_eq!(code, Some(0), "{error}");
    first.sees(is_spread).await;

    // A lead that was handed over stays, until it is given back.
    let from = leader(&first.status().await, 1);
    let to = if from == 3 { 1 } else { 3 };
    let (code, said, error) = second.cluster(&["transfer", "--group", "1", "--to", &to.to_string()]).await;
    assert_eq!((code, &*said), (Some(0), &*format!("group 1: node {from} -> node {to}\n")), "{error}");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(7) {
        assert!([to, 0].contains(&leader(&first.status().await, 1)), "a node may be slow to answer");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let (code, _, error) = second.cluster(&["transfer", "--from", &to.to_string(), "--back"]).await;
    assert_eq!(code, Some(0), "{error}");
    first.sees(is_spread).await;
    stop.send(()).unwrap();
    assert!(starting.await.unwrap() > 10);

    // One that is gone is shown with what the others know of it, and what it led is led by others.
    second.child.kill().unwrap();
    second.child.wait().unwrap();
    let led = |status: &Value| {
        status["groups"]
            .as_array()
            .unwrap()
            .iter()
            .all(|group| group["leader"].as_u64().is_some_and(|leader| leader != 2))
    };
    let status = first.sees(|status| node(status, 2)["state"] == "unreachable" && led(status)).await;
    assert_eq!(node(&status, 2)["address"], *addresses[1]);
    assert!(status["problems"][0].as_str().unwrap().starts_with("node 2 does not answer: "), "{status:#}");
    assert!(first.get("/ready").await.0.contains("200"));
    let (code, _, error) = first.cluster(&["drain", "--node", "2"]).await;
    assert!(code == Some(1) && error.contains("node 2 does not answer"), "{error}");

    // Without a majority nobody leads, and whoever asks is told why this node is not ready.
    third.child.kill().unwrap();
    third.child.wait().unwrap();
    let begin = Instant::now();
    let reason = loop {
        let (line, reason) = first.get("/ready").await;
        if line.contains("503") {
            break reason;
        }
        assert!(begin.elapsed() < PATIENCE, "it says that it is ready");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(reason.contains("NOT_READY") && reason.contains("group"), "{reason}");
    first.child.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_alone_is_a_cluster_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::dev(dir.path()).await;
    let address = process.address("grpc").to_string();
    let asked = |args: &[&str]| {
        let all: Vec<&str> = ["cluster"].iter().chain(args).copied().chain(["--address", &address]).collect();
        run(&all)
    };
    let (code, said, error) = asked(&["status"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(
        said.starts_with("Cluster of one node, ") && said.contains("1 of 1 nodes answer") && said.contains("up"),
        "{said}"
    );
    assert!(process.get("http", "/ready").await.ends_with("{\"status\":\"READY\"}"));
    let (code, _, error) = asked(&["drain"]);
    assert!(code == Some(1) && error.contains("no other node that could take its leads"), "{error}");
    let (code, said, _) = asked(&["transfer", "--from", "1", "--to", "1", "--output", "json"]);
    assert!(code == Some(0) && said.contains("\"toNode\": 1"), "{said}");
    process.stop().await;

    let (code, _, error) = asked(&["nodes"]);
    assert!(code == Some(1) && error.contains("nobody answers at") && !error.trim().contains('\n'), "{error}");
    for (args, expected) in [
        (&["transfer", "--to", "1"][..], "--group"),
        (&["transfer", "--from", "1"], "--to"),
        (&["status", "--output", "xml"], "table"),
        (&["status", "--address", "a b"], "no HOST:PORT"),
    ] {
        let (code, _, error) = run(&[&["cluster"], args].concat());
        assert!(
            code.is_some_and(|code| code > 0) && error.contains(expected) && !error.trim().contains('\n'),
            "{error}"
        );
    }
}
