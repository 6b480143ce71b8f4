//! Nodes that name regions: a global namespace, as the calls of Temporal's API show it, and what is refused.

use everlog_proto::api::namespace::v1::UpdateNamespaceInfo;
use everlog_proto::api::operatorservice::v1::ListClustersRequest;
use everlog_proto::api::replication::v1::{ClusterReplicationConfig, NamespaceReplicationConfig};
use everlog_proto::api::workflowservice::v1::{
    DescribeNamespaceRequest, DescribeNamespaceResponse, GetClusterInfoRequest, ListWorkflowExecutionsRequest,
    RegisterNamespaceRequest, UpdateNamespaceRequest,
};
use everlog_proto::clients::OperatorServiceClient;

use super::*;

const DAY: i64 = 86_400;

fn in_regions(name: &str, is_global: bool, active: &str, regions: &[&str]) -> RegisterNamespaceRequest {
    RegisterNamespaceRequest {
        namespace: name.to_owned(),
        workflow_execution_retention_period: Some(everlog_proto::wkt::Duration { seconds: DAY, nanos: 0 }),
        is_global_namespace: is_global,
        active_cluster_name: active.to_owned(),
        clusters: clusters(regions),
        ..RegisterNamespaceRequest::default()
    }
}

fn clusters(regions: &[&str]) -> Vec<ClusterReplicationConfig> {
    let cluster = |name: &&str| ClusterReplicationConfig {
        cluster_name: (*name).to_owned(),
        ..ClusterReplicationConfig::default()
    };
    regions.iter().map(cluster).collect()
}

fn to(name: &str, active: &str) -> UpdateNamespaceRequest {
    UpdateNamespaceRequest {
        namespace: name.to_owned(),
        replication_config: Some(NamespaceReplicationConfig {
            active_cluster_name: active.to_owned(),
            ..NamespaceReplicationConfig::default()
        }),
        ..UpdateNamespaceRequest::default()
    }
}

async fn describe(node: &Running, name: &str) -> DescribeNamespaceResponse {
    let request = DescribeNamespaceRequest { namespace: name.to_owned(), ..DescribeNamespaceRequest::default() };
    node.client().await.describe_namespace(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_global_namespace_is_in_regions_and_active_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let start = |node: usize, region: &str| {
        let path = settings(dir.path(), node, &addresses, None);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}region = {region:?}\n")).unwrap();
        Running::start(&path)
    };
    let (first, second, third) = (start(1, "a"), start(2, "b"), start(3, "c"));
    let mut client = first.client().await;

    // Each node answers with its region; numbers are given once, in whatever order the nodes came.
    let mut operator = OperatorServiceClient::new(
        Channel::from_shared(format!("http://{}", second.address("grpc").await)).unwrap().connect().await.unwrap(),
    );
    let begin = Instant::now();
    let listed = loop {
        let listed = operator.list_clusters(ListClustersRequest::default()).await.unwrap().into_inner().clusters;
        if listed.len() == 3 {
            break listed;
        }
        assert!(begin.elapsed() < PATIENCE, "{listed:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut versions: Vec<_> = listed.iter().map(|cluster| cluster.initial_failover_version).collect();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3]);
    let version =
        |region: &str| listed.iter().find(|cluster| cluster.cluster_name == region).unwrap().initial_failover_version;
    assert!(listed.iter().all(|cluster| cluster.cluster_id.ends_with(&format!("-{}", cluster.cluster_name))));
    let address = |region: &str| &listed.iter().find(|cluster| cluster.cluster_name == region).unwrap().address;
    assert_eq!(*address("c"), third.address("grpc").await);
    for (node, region) in [(&first, "a"), (&second, "b"), (&third, "c")] {
        let info = node.client().await.get_cluster_info(GetClusterInfoRequest {}).await.unwrap().into_inner();
        assert_eq!(info.cluster_name, region);
        assert_eq!((info.initial_failover_version, info.failover_version_increment), (version(region), 10));
    }

    let refused = async |request: RegisterNamespaceRequest| {
        let status = first.client().await.register_namespace(request).await.unwrap_err();
        format!("{:?}: {}", status.code(), status.message())
    };
    for (request, expected) in [
        (in_regions("g", true, "x", &["a"]), "InvalidArgument: Invalid cluster name: x"),
        (in_regions("g", true, "a", &["b"]), "InvalidArgument: Active cluster is not contained in all clusters."),
        (in_regions("l", false, "x", &[]), "InvalidArgument: Invalid cluster name: x"),
        (in_regions("l", false, "", &["a", "b"]), "InvalidArgument: Invalid local namespace clusters"),
    ] {
        assert_eq!(refused(request).await, expected);
    }
    let mut short = in_regions("g", true, "a", &["a"]);
    short.workflow_execution_retention_period = Some(everlog_proto::wkt::Duration { seconds: DAY - 1, nanos: 0 });
    assert_eq!(refused(short).await, "InvalidArgument: A valid retention period is not set on request.");

    // Of two regions, and a third one that breaks the tie.
    client.register_namespace(in_regions("g", true, "a", &["a", "b"])).await.unwrap();
    let shown = describe(&second, "g").await;
    assert!(shown.is_global_namespace && shown.failover_history.is_empty());
    assert_eq!(shown.failover_version, version("a"));
    assert_eq!(shown.namespace_info.unwrap().data["everlog.placement"], "auto:a+b+c");
    let config = shown.replication_config.unwrap();
    assert_eq!((config.active_cluster_name.as_str(), config.clusters), ("a", clusters(&["a", "b"])));
    for id in 0..10 {
        let request = everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest {
            namespace: "g".to_owned(),
            ..start_request(&format!("w{id}"))
        };
        third.client().await.start_workflow_execution(request).await.unwrap();
    }

    // A failover, answered once the leads are there.
    let mut of_g = client.update_namespace(to("g", "b")).await.unwrap().into_inner();
    let expected = if version("b") > version("a") { version("b") } else { version("b") + 10 };
    assert_eq!((of_g.failover_version, of_g.is_global_namespace), (expected, true));
    // Six partitions were founded with the cluster.
    let led_by = |status: &Value, node: u64| {
        let of_pool = |group: &&Value| group["groupId"].as_u64().unwrap() > 6;
        let groups: Vec<_> = status["groups"].as_array().unwrap().iter().filter(of_pool).collect();
        groups.len() == 4 && groups.iter().all(|group| group["leader"] == node)
    };
    second.sees(|status| led_by(status, 2)).await;
    let history = describe(&third, "g").await.failover_history;
    assert_eq!(history.iter().map(|failover| failover.failover_version).collect::<Vec<_>>(), [expected]);
    of_g = client.update_namespace(to("g", "b")).await.unwrap().into_inner();
    assert_eq!(of_g.failover_version, expected, "the same region once more is no failover");

    let refused = async |request: UpdateNamespaceRequest| {
        let status = first.client().await.update_namespace(request).await.unwrap_err();
        format!("{:?}: {}", status.code(), status.message())
    };
    let described = UpdateNamespaceInfo { description: "d".to_owned(), ..UpdateNamespaceInfo::default() };
    let both = UpdateNamespaceRequest { update_info: Some(described), ..to("g", "a") };
    for (request, expected) in [
        (to("g", "c"), "InvalidArgument: Active cluster is not contained in all clusters."),
        (to("g", "x"), "InvalidArgument: Invalid cluster name: x"),
        (both, "InvalidArgument: Cannot set active cluster to current cluster when other parameters are set."),
        (to("default", "x"), "InvalidArgument: Invalid cluster name: x"),
    ] {
        assert_eq!(refused(request).await, expected);
    }
    let home = describe(&first, "default").await.replication_config.unwrap().active_cluster_name;
    let elsewhere = ["a", "b", "c"].into_iter().find(|region| *region != home).unwrap();
    let local = refused(to("default", elsewhere)).await;
    assert_eq!(local, "InvalidArgument: Invalid local namespace active cluster");

    // In a third region, too.
    let mut wider = to("g", "");
    wider.replication_config.as_mut().unwrap().clusters = clusters(&["a", "b", "c"]);
    client.update_namespace(wider).await.unwrap();
    let config = describe(&third, "g").await.replication_config.unwrap();
    assert_eq!((config.active_cluster_name.as_str(), config.clusters.len()), ("b", 3));
    client.update_namespace(to("g", "c")).await.unwrap();
    second.sees(|status| led_by(status, 3)).await;

    // A local one with workflows becomes a global one: it is so at once, and what it has moves to partitions of its own.
    for id in 0..20 {
        second.client().await.start_workflow_execution(start_request(&format!("w{id}"))).await.unwrap();
    }
    let promoted = UpdateNamespaceRequest { promote_namespace: true, ..to("default", "") };
    let told = client.update_namespace(promoted.clone()).await.unwrap().into_inner();
    assert!(told.is_global_namespace && told.failover_version == version(&home), "{told:?}");
    assert_eq!(told.replication_config.unwrap().clusters, clusters(&[home.as_str()]));
    let begin = Instant::now();
    let data = loop {
        let data = describe(&second, "default").await.namespace_info.unwrap().data;
        match data.get("everlog.move") {
            None => break data,
            Some(text) => assert!(text.starts_with("to ") && begin.elapsed() < PATIENCE, "{text}: {}", first.printed()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(data["everlog.leaders"], home, "its partitions are led where it is active: {data:?}");
    client.update_namespace(promoted).await.unwrap();
    let request = ListWorkflowExecutionsRequest { namespace: "default".to_owned(), ..Default::default() };
    let listed = third.client().await.list_workflow_executions(request).await.unwrap().into_inner().executions;
    assert_eq!(listed.len(), 20);
    // It fails over now.
    let mut wider = to("default", "");
    wider.replication_config.as_mut().unwrap().clusters = clusters(&["a", "b", "c"]);
    client.update_namespace(wider).await.unwrap();
    let active = client.update_namespace(to("default", elsewhere)).await.unwrap().into_inner();
    assert_eq!(active.replication_config.unwrap().active_cluster_name, elsewhere);
}
