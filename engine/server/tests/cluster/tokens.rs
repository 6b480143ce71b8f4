//! A cluster that is its own certificate authority, as processes: founded by a secret, joined by a token, restarted, its certificates renewed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, Running, addresses_of, node, run};

/// The settings of a node in `dir`, with what it proves itself with.
fn settings(dir: &Path, node: usize, addresses: &[String], proves: &str) -> PathBuf {
    let (data, listen, seeds) = (dir.join(format!("node{node}")), &addresses[node - 1], &addresses[..3]);
    let text = format!(
        "data_dir = {data:?}\n[listen]\nport = 0\nhttp_port = 0\nmetrics_port = 0\n\
         [cluster]\nname = \"tests\"\nseeds = {seeds:?}\ninitial_nodes = 3\nlisten = {listen:?}\n\
         election_timeout = \"2s\"\ntls = \"auto\"\ncertificate_lifetime = \"45s\"\n{proves}\n"
    );
    let path = dir.join(format!("node{node}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

/// The bytes of a node's certificate.
fn certificate(dir: &Path, node: usize) -> String {
    std::fs::read_to_string(dir.join(format!("node{node}/tls/node.pem"))).unwrap()
}

fn answer(status: &Value, count: usize) -> bool {
    let nodes = status["nodes"].as_array().unwrap();
    nodes.len() == count && nodes.iter().all(|node| node["state"] == "up")
}

async fn token(node: &Running, args: &[&str]) -> String {
    let all: Vec<_> = ["token", "create"].into_iter().chain(args.iter().copied()).collect();
    let (code, said, error) = node.cluster(&all).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(said.starts_with("everlog-join-1.") && said.lines().count() == 1, "{said}");
    said.trim().to_owned()
}

/// How often nodes were refused for a reason, as a node's metrics say.
async fn refused_for(node: &Running, reason: &str) -> u64 {
    let address = node.address("metrics").await;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: everlog\r\nConnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.unwrap();
    let name = format!("everlog_peer_refused_total{{reason=\"{reason}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_certifies_its_nodes_and_those_that_join_by_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses_of(6);
    let secret_file = |name: &str, secret: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, secret).unwrap();
        format!("join_secret_file = {path:?}")
    };
    let secret = secret_file("secret", "what the founders of this cluster know\n");
    let start = |node, proves: &str| Running::start(&settings(dir.path(), node, &addresses, proves));
    let (mut first, mut second) = (start(1, &secret), start(2, &secret));

    // In the place of node 3 one with another secret. No cluster comes of it, and both sides say why.
    let mut stranger = start(3, &secret_file("other", "what somebody else knows"));
    stranger.until("it does not let this node in: the join secret is another one here").await;
    first.until("WrongSecret").await;
    assert!(!first.printed().contains("data="), "{}", first.printed());
    stranger.stop().await;
    std::fs::remove_dir_all(dir.path().join("node3")).unwrap();
    let mut third = start(3, &secret);
    first.sees(|status| answer(status, 3)).await;
    let founded = certificate(dir.path(), 3);

    // A fourth joins by a token, without an operator beside it; a fifth does not by the same.
    let text = token(&second, &["--expires", "10m"]).await;
    let by = |text: &str| format!("join_token = {text:?}");
    let mut fourth = start(4, &by(&text));
    first.sees(|status| answer(status, 4)).await;
    let mut fifth = start(5, &by(&text));
    fifth.until("was used by another node: each needs its own").await;
    fifth.stop().await;
    assert!(refused_for(&first, "TokenUsed").await > 0 || refused_for(&second, "TokenUsed").await > 0);
    let (code, said, error) = third.cluster(&["token", "list", "--output", "json"]).await;
    assert_eq!(code, Some(0), "{error}");
    let listed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&listed["tokens"][0]["state"], &listed["tokens"][0]["usedByNodeId"]), (&"used".into(), &4.into()));
    assert!(!said.contains(text.rsplit('.').next().unwrap()), "no secret is shown: {said}");

    // Nor by one that has expired, was taken back, or is another cluster's.
    let short = token(&first, &["--expires", "1s"]).await;
    let revoked = token(&first, &["--node-name", "n6"]).await;
    let (code, _, error) = first.cluster(&["token", "revoke", revoked.split('.').nth(1).unwrap()]).await;
    assert_eq!(code, Some(0), "{error}");
    let begin = Instant::now();
    while !first.cluster(&["token", "list"]).await.1.contains("expired") {
        assert!(begin.elapsed() < PATIENCE, "it does not expire");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (text, expected) in [(&short, "has expired"), (&revoked, "is of another cluster, or was taken back")] {
        let mut refused = start(5, &by(text));
        refused.until(expected).await;
        refused.stop().await;
    }
    let elsewhere = token(&first, &["--node-name", "elsewhere"]).await;
    let mut refused = start(5, &by(&elsewhere));
    refused.until("the join token is for elsewhere, and this node is dialled at").await;
    refused.stop().await;

    // All at once: nobody needs its secret or token any more.
    for node in [&mut first, &mut second, &mut third, &mut fourth] {
        node.stop().await;
    }
    for file in ["secret", "other"] {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    let (first, second, third) = (start(1, &secret), start(2, &secret), start(3, &secret));
    let fourth = start(4, "");
    first.sees(|status| answer(status, 4)).await;

    // Certificates are renewed while all stand, and nobody loses a connection.
    let begin = Instant::now();
    let is_renewed = || first.printed().contains("was renewed") && certificate(dir.path(), 3) != founded;
    while !is_renewed() || !fourth.printed().contains("was renewed") {
        assert!(begin.elapsed() < PATIENCE, "{}", first.printed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Longer than the first ones were valid.
    while begin.elapsed() < Duration::from_secs(50) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    fourth.sees(|status| answer(status, 4)).await;
    for running in [&first, &second, &third, &fourth] {
        let lost = running.printed().lines().filter(|line| line.contains("is_up=false")).count();
        assert_eq!(lost, 0, "{}", running.printed());
    }
    let keys = (1..=4).filter(|node| dir.path().join(format!("node{node}/tls/ca.key")).exists()).count();
    assert_eq!(keys, 0, "the metadata have it");
    assert_eq!(node(&first.status().await, 4)["address"], *addresses[3]);
    // A node that has its certificate from elsewhere does not start.
    drop(fourth);
    std::fs::copy(dir.path().join("node3/tls/node.pem"), dir.path().join("node4/tls/node.pem")).unwrap();
    let (code, _, error) = run(&["server", "--config", dir.path().join("node4.toml").to_str().unwrap()]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.lines().last().unwrap().contains("is not the certificate of node 4"), "{error}");
}
