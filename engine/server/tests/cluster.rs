//! Three nodes as processes that prove to each other who they are.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, too")]

mod harness;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use everlog_proto::api::workflowservice::v1::{DescribeNamespaceRequest, RegisterNamespaceRequest};
use harness::Client;
use harness::process::{everlog, run};
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(60);

/// Where nodes 1 to 3 listen to each other.
fn addresses() -> Vec<String> {
    let listeners: Vec<_> = (1..=3).map(|n| TcpListener::bind(format!("127.0.9.{n}:0")).unwrap()).collect();
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

    /// A client of it, once it serves.
    async fn client(&self) -> Client {
        self.until("data=").await;
        let printed = self.printed();
        let address = printed.split("grpc=").nth(1).unwrap().split(' ').next().unwrap();
        Client::new(Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap())
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
        assert!(stranger.printed().contains("not founded yet") && !first.printed().contains("data="));
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
