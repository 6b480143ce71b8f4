//! The samples under deploy/ for containers: what they say to the binary is what it takes, and their parts fit together.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use everlog_server::membership::ClusterTls;
use everlog_server::settings::{ClusterOptions, Settings, parse};
use serde_json::Value;

const NODES: usize = 3;
/// Where clients, HTTP and other nodes are listened to where nobody says.
const GRPC_PORT: u64 = 7233;
const NODES_PORT: u64 = 7235;

fn sample(path: &str) -> Vec<Value> {
    let path = format!("{}/../../deploy/{path}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    text.split("\n---\n")
        .map(|one| serde_saphyr::from_str(one).unwrap_or_else(|error| panic!("{path}: {error}")))
        .collect()
}

/// The settings of a node, and what is the same in those of all.
fn cluster(text: &str, variables: &[(String, String)]) -> (Settings, ClusterOptions) {
    let settings = parse(text, variables).unwrap();
    let cluster = settings.cluster.clone().unwrap();
    (settings, cluster)
}

/// Nodes that found one cluster together: each is one of its seeds, and all have the file of one secret.
fn found_a_cluster(nodes: &[ClusterOptions]) {
    assert_eq!(nodes.len(), NODES);
    let advertised: BTreeSet<_> = nodes.iter().map(|node| node.advertise.clone()).collect();
    for node in nodes {
        assert_eq!((&node.name, &node.seeds, node.initial_nodes), (&nodes[0].name, &nodes[0].seeds, 3));
        assert_eq!(advertised, node.seeds.iter().cloned().collect());
    }
    let secret = |node: &ClusterOptions| match node.tls.clone() {
        Some(ClusterTls::Auto(auto)) => auto.join_secret_file.unwrap(),
        other => panic!("{other:?}"),
    };
    let secrets: BTreeSet<_> = nodes.iter().map(secret).collect();
    assert_eq!(secrets.len(), 1);
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn the_nodes_of_the_stateful_set_found_a_cluster() {
    let objects = sample("kubernetes/everlog.yaml");
    let [config] = of_kind(&objects, "ConfigMap")[..] else { panic!("one") };
    let [set] = of_kind(&objects, "StatefulSet")[..] else { panic!("one") };
    let [container] = &set["spec"]["template"]["spec"]["containers"].as_array().unwrap()[..] else { panic!("one") };
    assert_eq!(set["spec"]["replicas"], NODES);
    let file = container["args"][2].as_str().unwrap().rsplit('/').next().unwrap();
    let text = config["data"][file].as_str().unwrap();
    let variables = |pod: usize| -> Vec<(String, String)> {
        let all = container["env"].as_array().unwrap().iter();
        let ours = all.filter(|one| one["name"].as_str().unwrap().starts_with("EVERLOG__"));
        let value = |one: &Value| one["value"].as_str().unwrap().replace("$(POD_NAME)", &format!("everlog-{pod}"));
        ours.map(|one| (one["name"].as_str().unwrap().to_owned(), value(one))).collect()
    };
    let nodes: Vec<_> = (0..NODES).map(|pod| cluster(text, &variables(pod))).collect();
    for (pod, (settings, cluster)) in nodes.iter().enumerate() {
        assert!(
            cluster.seeds[pod].starts_with(&format!("everlog-{pod}.{}:", set["spec"]["serviceName"].as_str().unwrap()))
        );
        let ports = container["ports"].as_array().unwrap().iter().map(|port| port["containerPort"].as_u64().unwrap());
        let listen = &settings.listen;
        let own = [listen.grpc_port, listen.http_port, listen.metrics_port].map(u64::from);
        assert_eq!(ports.collect::<Vec<_>>(), [own[0], own[1], own[2], NODES_PORT]);
    }
    found_a_cluster(&nodes.into_iter().map(|(_, cluster)| cluster).collect::<Vec<_>>());
}

#[test]
fn services_and_the_disruption_budget_are_of_the_pods_of_the_stateful_set() {
    let objects = sample("kubernetes/everlog.yaml");
    let [set] = of_kind(&objects, "StatefulSet")[..] else { panic!("one") };
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    let services = of_kind(&objects, "Service");
    assert!(services.iter().all(|service| &service["spec"]["selector"] == labels));
    let headless = services.iter().find(|service| service["spec"]["clusterIP"] == "None").unwrap();
    assert_eq!(headless["metadata"]["name"], set["spec"]["serviceName"]);
    assert_eq!(headless["spec"]["publishNotReadyAddresses"], true, "nodes find each other before they are ready");
    let [budget] = of_kind(&objects, "PodDisruptionBudget")[..] else { panic!("one") };
    assert_eq!(
        (&budget["spec"]["selector"]["matchLabels"], &budget["spec"]["maxUnavailable"]),
        (labels, &Value::from(1))
    );
}

#[test]
fn the_nodes_of_the_compose_file_found_a_cluster() {
    let [file] = &sample("compose/compose.cluster.yaml")[..] else { panic!("one") };
    let text = file["configs"]["everlog"]["content"].as_str().unwrap();
    let mut ports = BTreeSet::new();
    let nodes: Vec<_> = (1..=NODES)
        .map(|node| {
            let service = &file["services"][format!("node-{node}")];
            let variables = service["environment"].as_object().unwrap().iter();
            let variables: Vec<_> =
                variables.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
            let (settings, cluster) = cluster(text, &variables);
            assert_eq!(cluster.advertise, format!("node-{node}:{NODES_PORT}"));
            assert!(service["volumes"][0].as_str().unwrap().ends_with(":/data"), "{}", service["volumes"][0]);
            assert_eq!(settings.listen.ip.to_string(), "0.0.0.0");
            ports.insert(service["ports"][0].as_str().unwrap().to_owned());
            cluster
        })
        .collect();
    assert_eq!(ports.len(), NODES, "a port each");
    assert!(ports.iter().all(|port| port.ends_with(&format!(":{GRPC_PORT}"))));
    found_a_cluster(&nodes);
}

#[test]
fn one_node_listens_where_its_ports_are() {
    let [file] = &sample("compose/compose.yaml")[..] else { panic!("one") };
    let service = &file["services"]["everlog"];
    let command: Vec<_> = service["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(command[..3], ["dev", "--ip", "0.0.0.0"]);
    let listen = Settings::default().listen;
    let ports: Vec<_> =
        [listen.grpc_port, listen.http_port, listen.metrics_port].map(|port| format!("127.0.0.1:{port}:{port}")).into();
    assert_eq!(service["ports"], Value::from(ports));
}
