//! Pools of partitions that are made while a cluster runs, with nodes that are away and nodes that start again.

use std::collections::{BTreeSet, HashMap};

use everlog_proto::api::namespace::v1::UpdateNamespaceInfo;
use everlog_proto::api::workflowservice::v1::{
    ListWorkflowExecutionsRequest, RegisterNamespaceRequest, StartWorkflowExecutionRequest, UpdateNamespaceRequest,
};
use serde_json::Value;

use super::*;

fn register(name: &str, placement: &str) -> RegisterNamespaceRequest {
    RegisterNamespaceRequest {
        namespace: name.to_owned(),
        workflow_execution_retention_period: Some(everlog_proto::wkt::Duration { seconds: 86_400, nanos: 0 }),
        data: HashMap::from([("everlog.placement".to_owned(), placement.to_owned())]),
        ..RegisterNamespaceRequest::default()
    }
}

async fn start_in(client: &mut Client, namespace: &str, ids: std::ops::Range<u32>) {
    for id in ids {
        let request =
            StartWorkflowExecutionRequest { namespace: namespace.to_owned(), ..start_request(&format!("w{id}")) };
        client.start_workflow_execution(request).await.unwrap_or_else(|status| panic!("{id} in {namespace}: {status}"));
    }
}

async fn count_in(client: &mut Client, namespace: &str) -> usize {
    let request =
        ListWorkflowExecutionsRequest { namespace: namespace.to_owned(), ..ListWorkflowExecutionsRequest::default() };
    client.list_workflow_executions(request).await.unwrap().into_inner().executions.len()
}

/// Has a namespace move to a placement.
pub(super) fn moves(namespace: &str, placement: &str) -> UpdateNamespaceRequest {
    let info = UpdateNamespaceInfo {
        data: HashMap::from([("everlog.placement".to_owned(), placement.to_owned())]),
        ..UpdateNamespaceInfo::default()
    };
    UpdateNamespaceRequest {
        namespace: namespace.to_owned(),
        update_info: Some(info),
        ..UpdateNamespaceRequest::default()
    }
}

fn groups(status: &Value) -> BTreeSet<u64> {
    status["groups"].as_array().unwrap().iter().map(|group| group["groupId"].as_u64().unwrap()).collect()
}

/// Whether every partition has three replicas, all of them voting.
fn is_whole(status: &Value) -> bool {
    let replicas = |group: &Value| group["replicas"].as_array().unwrap().len();
    status["groups"].as_array().unwrap().iter().all(|group| replicas(group) == 3)
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_made_while_the_cluster_runs() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let start = |node| Running::start(&settings(dir.path(), node, &addresses, None));
    let (mut first, mut second, mut third) = (start(1), start(2), start(3));
    let founded = groups(&first.sees(is_spread).await);
    let nowhere = first.client().await.register_namespace(register("eu", "eu")).await.unwrap_err();
    assert_eq!(nowhere.message(), "there is no placement \"eu\"");
    let file = dir.path().join("placements.toml");
    std::fs::write(&file, "[[placement]]\nname = \"eu\"\nreplicas = 3\n[[placement]]\nname = \"us\"\nreplicas = 3\n")
        .unwrap();
    let (code, _, error) = first.cluster(&["placement", "apply", "-f", file.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{error}");
    let global = RegisterNamespaceRequest { is_global_namespace: true, ..register("global", "eu") };
    let refused = first.client().await.register_namespace(global).await.unwrap_err();
    assert_eq!(refused.message(), "Cannot register global namespace when not enabled", "no node names a region");
    first.client().await.register_namespace(register("eu", "eu")).await.unwrap();
    let pool = |status: &Value, at: usize, what: &str| status["pools"][at][what].clone();
    let status =
        first.sees(|status| pool(status, 1, "leaders").as_object().is_some_and(|leaders| leaders.len() == 8)).await;
    assert_eq!((pool(&status, 0, "placement"), pool(&status, 1, "placement")), ("default".into(), "eu".into()));
    assert_eq!(pool(&status, 1, "partitions").as_array().unwrap().len(), 8, "{status:#}");
    // At once, by way of other nodes.
    start_in(&mut second.client().await, "eu", 0..20).await;
    assert_eq!(count_in(&mut third.client().await, "eu").await, 20);
    let status = first.sees(|status| is_spread(status) && is_whole(status)).await;
    let after = groups(&status);
    assert_eq!(after.len(), founded.len() + 8, "{status:#}");
    let (code, _, error) = first.cluster(&["placement", "delete", "eu"]).await;
    assert!(code == Some(1) && error.contains("cannot be deleted"), "{error}");

    // Another namespace of that placement shares the pool. One that is there need not move, and nobody can move where there is nothing.
    second.client().await.register_namespace(register("eu2", "eu")).await.unwrap();
    start_in(&mut first.client().await, "eu2", 0..5).await;
    assert_eq!(groups(&first.status().await), after);
    let same = third.client().await.update_namespace(moves("eu", "eu")).await.unwrap().into_inner();
    assert!(!same.namespace_info.unwrap().data.contains_key("everlog.move"));
    let refused = third.client().await.update_namespace(moves("default", "moon")).await.unwrap_err();
    assert_eq!(refused.message(), "there is no placement \"moon\"");

    // A node that is away while a pool is made gets its replicas when it is back.
    third.child.kill().unwrap();
    third.child.wait().unwrap();
    first.sees(|status| node(status, 3)["state"] == "unreachable").await;
    second.client().await.register_namespace(register("us", "us")).await.unwrap();
    start_in(&mut first.client().await, "us", 0..20).await;
    assert_eq!(count_in(&mut second.client().await, "us").await, 20);
    let third = &mut start(3);
    third.sees(|status| is_spread(status) && is_whole(status)).await;
    assert_eq!(count_in(&mut third.client().await, "us").await, 20);

    // All of them start again, after a kill.
    for node in [&mut first, &mut second, third] {
        node.child.kill().unwrap();
        node.child.wait().unwrap();
    }
    let (first, second, third) = (start(1), start(2), start(3));
    first.sees(|status| is_spread(status) && is_whole(status)).await;
    for (node, namespace, count) in [(&first, "eu", 20), (&second, "us", 20), (&third, "eu2", 5)] {
        assert_eq!(count_in(&mut node.client().await, namespace).await, count, "{namespace}");
    }
    start_in(&mut third.client().await, "eu", 20..30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_founded_with_the_placements_of_its_settings() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let start = |node| {
        let path = settings(dir.path(), node, &addresses, None);
        let text = std::fs::read_to_string(&path).unwrap();
        let cluster = text.replace("[cluster]\n", &format!("[cluster]\nregion = \"r{node}\"\n"));
        let placements = "[[placement]]\nname = \"default\"\nreplicas = 3\nregions = { r1 = 1, r2 = 1, r3 = 1 }\n\
                          leaders = [\"r2\"]\n[[placement]]\nname = \"one\"\nreplicas = 1\n";
        std::fs::write(&path, cluster + placements).unwrap();
        Running::start(&path)
    };
    let (mut first, _second, _third) = (start(1), start(2), start(3));
    let is_led = |status: &Value| {
        let partitions = status["groups"].as_array().unwrap().iter().filter(|group| group["groupId"] != 0);
        partitions.clone().count() > 0 && partitions.into_iter().all(|group| group["leader"] == 2)
    };
    first.sees(is_led).await;
    let placements = async |node: &Running| node.cluster_json(&["placement", "list"]).await;
    let shown = placements(&first).await;
    let names: Vec<_> = shown["placements"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["default", "one"]);
    // One that an operator deletes is not there again after a restart.
    let (code, _, error) = first.cluster(&["placement", "delete", "one"]).await;
    assert_eq!(code, Some(0), "{error}");
    first.stop().await;
    let first = Running::start(&dir.path().join("node1.toml"));
    first.client().await;
    assert_eq!(placements(&first).await["placements"].as_array().unwrap().len(), 1);
}
