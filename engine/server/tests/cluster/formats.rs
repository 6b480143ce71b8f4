//! Nodes of two releases in one cluster: what is written waits until all of them read it, and an earlier release is refused then.

use std::collections::HashMap;

use everlog_proto::api::namespace::v1::UpdateNamespaceInfo;
use everlog_proto::api::workflowservice::v1::UpdateNamespaceRequest;
use tonic::Code;

use super::*;

/// A node of this release, or of one that reads only the first format.
fn start(dir: &Path, node: usize, addresses: &[String], is_earlier: bool) -> Running {
    let path = settings(dir, node, addresses, None);
    let mut text = std::fs::read_to_string(&path).unwrap();
    text += if is_earlier { "newest_format = 1\n" } else { "finalize_after = \"never\"\n" };
    std::fs::write(&path, text).unwrap();
    Running::start(&path)
}

/// Has the namespace move to a placement.
async fn moved(client: &mut Client, to: &str) -> Result<(), tonic::Status> {
    let data = HashMap::from([("everlog.placement".to_owned(), to.to_owned())]);
    let request = UpdateNamespaceRequest {
        namespace: "default".to_owned(),
        update_info: Some(UpdateNamespaceInfo { data, ..UpdateNamespaceInfo::default() }),
        ..UpdateNamespaceRequest::default()
    };
    client.update_namespace(request).await.map(drop)
}

/// Waits until a node has ended by itself, and returns the last line that it has printed.
async fn ended(node: &mut Running) -> String {
    let begin = Instant::now();
    loop {
        if let Some(status) = node.child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(1), "{}", node.printed());
            return node.printed().lines().last().unwrap().to_owned();
        }
        assert!(begin.elapsed() < PATIENCE, "it does not end: {}", node.printed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn format(status: &Value) -> u64 {
    status["format"]["version"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_wait_for_all_nodes_and_shut_earlier_releases_out() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses_of(4);
    let founders = &addresses[..3];
    let node = |number, is_earlier| start(dir.path(), number, founders, is_earlier);

    // Nodes 2 and 3 are of an earlier release.
    let (first, mut second, mut third) = (node(1, false), node(2, true), node(3, true));
    let status = first.sees(|status| is_spread(status) && status["nodes"][2]["formats"]["newest"] == 1).await;
    assert_eq!(format(&status), 1, "{status:#}");
    let file = dir.path().join("placements.toml");
    std::fs::write(&file, "[[placement]]\nname = \"eu\"\nreplicas = 3\n").unwrap();
    let (code, _, error) = first.cluster(&["placement", "apply", "-f", file.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{error}");
    let mut client = first.client().await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    let refused = moved(&mut client, "eu").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("before the cluster has format 2, and it has format 1"), "{refused}");
    let (code, _, error) = first.cluster(&["finalize"]).await;
    assert!(code == Some(1) && error.contains("reads no newer one than format 1"), "{error}");
    assert!(!error.trim().contains('\n'), "{error}");

    // Node 2 comes back with the new one, and node 3 is lost.
    second.stop().await;
    let second = node(2, false);
    third.child.kill().unwrap();
    third.child.wait().unwrap();
    let is_known =
        |status: &Value| status["nodes"][1]["formats"]["newest"] == 2 && status["nodes"][2]["state"] == "unreachable";
    first.sees(is_known).await;
    let problems = first.status().await["problems"].to_string();
    assert!(problems.contains("the cluster keeps format 1 until nodes 3 are started"), "{problems}");
    for (args, expected) in [
        (&["finalize"][..], "node 3 reads no newer one than format 1"),
        (&["finalize", "--without-node", "2"], "node 2 answers"),
        (&["finalize", "--without-node", "9"], "there is no node 9"),
    ] {
        let (code, _, error) = first.cluster(args).await;
        assert!(code == Some(1) && error.contains(expected), "{args:?}: {error}");
    }
    assert_eq!(format(&first.status().await), 1);
    let (code, said, error) = second.cluster(&["finalize", "--without-node", "3"]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(
        said.starts_with("The cluster has format 2 from now on.") && said.contains("Node 3 was left out"),
        "{said}"
    );
    let status = first.sees(|status| format(status) == 2).await;
    assert_eq!(status["nodes"][2]["leftOutOfFormat"], 2);
    assert!(status["problems"].to_string().contains("node 3 was left out"), "{status:#}");
    let again = second.cluster_json(&["finalize"]).await;
    assert_eq!(again, serde_json::json!({ "formatVersion": 2, "formerly": 2, "withoutNodeIds": [] }));

    // The earlier release is shut out: as that node, as one that joins, and as one that knows it by itself.
    let text = "the cluster has format 2, and this release reads format";
    let mut third = node(3, true);
    assert!(ended(&mut third).await.contains(text), "{}", third.printed());
    let path = settings(dir.path(), 4, &addresses, None);
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "newest_format = 1\n").unwrap();
    let mut fourth = Running::start(&path);
    assert!(ended(&mut fourth).await.contains(text), "{}", fourth.printed());

    // The new one is not.
    let mut third = node(3, false);
    third.sees(|status| status["nodes"][2]["leftOutOfFormat"] == 0 && is_spread(status)).await;
    // Whoever led has begun to lead anew: all may be written now.
    moved(&mut client, "eu").await.unwrap();
    let begin = Instant::now();
    loop {
        let places = first.cluster_json(&["namespaces"]).await;
        let all = places["namespaces"].as_array().unwrap();
        let place = all.iter().find(|place| place["name"] == "default").unwrap();
        if place["placement"] == "eu" && place["move"].is_null() {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{place:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    third.stop().await;
    let mut third = node(3, true);
    assert!(ended(&mut third).await.contains(text), "{}", third.printed());
}
