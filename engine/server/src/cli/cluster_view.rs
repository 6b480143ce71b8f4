//! What `everlog cluster` prints: tables for people, within 100 columns where names are not long, and JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use everlog_proto::cluster::transfer_leads_response::Transfer;
use everlog_proto::cluster::{ClusterFormat, DescribeClusterResponse, Group, GroupKind, Node, NodeState, Pool};
use serde_json::{Value, json};

/// The cluster in a few lines: its nodes, and what is wrong.
pub(super) fn status(cluster: &DescribeClusterResponse) -> String {
    let DescribeClusterResponse { cluster_id, cluster_name, nodes, groups, .. } = cluster;
    let up = nodes.iter().filter(|node| node.state() != NodeState::Unreachable).count();
    let led = groups.iter().filter(|group| group.leader != 0).count();
    let name =
        if cluster_name.is_empty() { "Cluster of one node".to_owned() } else { format!("Cluster {cluster_name}") };
    let format = cluster.format.map(|format| format!(", format {}", format.version)).unwrap_or_default();
    let mut text = format!(
        "{name}, {cluster_id}{format}\n{up} of {} nodes answer, {led} of {} groups are led\n\n",
        nodes.len(),
        groups.len()
    );
    text += &self::nodes(cluster);
    if !cluster.pools.is_empty() {
        text += &format!("\n{}", pools(cluster));
    }
    let problems = problems(cluster);
    if !problems.is_empty() {
        let _ = writeln!(text, "\n{}", problems.join("\n"));
    }
    text
}

/// What an operator should look at, a line each.
fn problems(cluster: &DescribeClusterResponse) -> Vec<String> {
    let gone = |node: &Node| node.state() == NodeState::Unreachable;
    let nodes = cluster.nodes.iter().filter(|node| gone(node));
    let mut problems: Vec<_> =
        nodes.map(|node| format!("node {} does not answer: {}", node.node_id, node.problem)).collect();
    for group in cluster.groups.iter().filter(|group| group.leader == 0) {
        problems.push(format!("group {} has no leader", group.group_id));
    }
    let mut learners: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for group in &cluster.groups {
        for replica in group.replicas.iter().filter(|replica| replica.should_vote && !replica.is_voter) {
            learners.entry(replica.node_id).or_default().push(group.group_id);
        }
    }
    for (node, groups) in learners {
        problems.push(format!("node {node} does not vote yet in groups {}", ids(&groups)));
    }
    for node in cluster.nodes.iter().filter(|node| node.is_leaving) {
        problems.push(format!("node {} leaves: {} groups have a replica on it yet", node.node_id, node.replicas));
    }
    for group in cluster.groups.iter().filter(|group| !group.wanted_node_ids.is_empty()) {
        problems.push(format!(
            "group {} is moving: it is to be on nodes {}",
            group.group_id,
            ids(&group.wanted_node_ids)
        ));
    }
    let versions: BTreeSet<_> =
        cluster.nodes.iter().map(|node| &*node.version).filter(|version| !version.is_empty()).collect();
    if versions.len() > 1 {
        problems.push(format!("nodes run different releases: {}", versions.into_iter().collect::<Vec<_>>().join(", ")));
    }
    if let Some(format) = &cluster.format {
        problems.extend(format_problems(format, &cluster.nodes));
    }
    problems
}

/// What keeps the cluster from newer formats, and which nodes cannot read those that it has.
fn format_problems(format: &ClusterFormat, nodes: &[Node]) -> Vec<String> {
    let ClusterFormat { version, ready_version, newest, .. } = *format;
    let mut problems = Vec::new();
    let left_out = |node: &&Node| node.left_out_of_format > 0;
    for Node { node_id, left_out_of_format, .. } in nodes.iter().filter(left_out) {
        problems.push(format!(
            "node {node_id} was left out when the cluster got format {left_out_of_format}: start it with a newer release, replace its disk, or remove it"
        ));
    }
    let behind = nodes.iter().filter(|node| !left_out(node) && node.formats_newest < newest);
    let behind: Vec<_> = behind.map(|node| node.node_id).collect();
    match (version < newest, &behind[..]) {
        (true, []) if ready_version > version => problems.push(format!(
            "all nodes read format {ready_version}: the cluster gets it in a while, or at once with: everlog cluster finalize"
        )),
        (true, [_, ..]) => problems.push(format!(
            "the cluster keeps format {version} until nodes {} are started with a release that reads format {newest}",
            ids(&behind)
        )),
        _ => {}
    }
    problems
}

/// A row a node.
pub(super) fn nodes(cluster: &DescribeClusterResponse) -> String {
    let mut header = vec!["NODE", "ADDRESS", "STATE", "LEADS", "BEHIND", "LOG", "ROWS", "DISK FREE", "VERSION"];
    // Where nodes say it, this is what their table is about.
    let has_places = cluster.nodes.iter().any(|node| !place(node).is_empty());
    if has_places {
        header.push("PLACE");
    }
    let row = |node: &Node| {
        let is_known = node.state() != NodeState::Unreachable;
        let known = |text: String| if is_known { text } else { "-".to_owned() };
        let address = if node.address.is_empty() { &node.client_address } else { &node.address };
        let cells = vec![
            node.node_id.to_string(),
            address.clone(),
            if node.is_leaving { format!("{}, leaving", state(node)) } else { state(node).to_owned() },
            format!("{}/{}", node.leads, node.replicas),
            if node.uncertain_groups == 0 { node.behind_entries.to_string() } else { "?".to_owned() },
            known(bytes(node.log_bytes)),
            known(bytes(node.rows_bytes)),
            known(bytes(node.disk_free_bytes)),
            known(node.version.clone()),
        ];
        cells.into_iter().chain(has_places.then(|| place(node))).collect()
    };
    table(&header, &[0, 3, 4, 5, 6, 7], cluster.nodes.iter().map(row))
}

/// Where and what a node says that it is: region/zone label=value.
fn place(node: &Node) -> String {
    let place = [&node.region, &node.zone].map(|name| if name.is_empty() { "-" } else { name }).join("/");
    let labels: BTreeMap<_, _> = node.labels.iter().collect();
    let labels: String = labels.iter().map(|(label, value)| format!(" {label}={value}")).collect();
    format!("{}{labels}", if place == "-/-" { "" } else { &place }).trim_start().to_owned()
}

/// A row a pool.
fn pools(cluster: &DescribeClusterResponse) -> String {
    let header = ["POOL", "PLACEMENT", "SHARED BY", "PARTITIONS", "LED", "UNDER-REPLICATED"];
    let row = |pool: &Pool| {
        let shared_by = match (&*pool.failover_group, pool.fails_over, pool.pool_id) {
            ("", true, _) => "one global namespace".to_owned(),
            ("", false, 0) => "all others".to_owned(),
            ("", false, _) => "its placement".to_owned(),
            (group, ..) => format!("failover group {group}"),
        };
        let PoolState { led, under_replicated } = PoolState::of(cluster, pool);
        vec![
            pool.pool_id.to_string(),
            pool.placement.clone(),
            shared_by,
            pool.group_ids.len().to_string(),
            led.len().to_string(),
            if under_replicated.is_empty() { "0".to_owned() } else { format!("groups {}", ids(&under_replicated)) },
        ]
    };
    table(&header, &[0, 3, 4], cluster.pools.iter().map(row))
}

/// How the partitions of a pool are.
struct PoolState {
    /// Those that somebody leads.
    led: Vec<u32>,
    /// Those that have fewer voting replicas on nodes that answer than they should have.
    under_replicated: Vec<u32>,
}

impl PoolState {
    fn of(cluster: &DescribeClusterResponse, pool: &Pool) -> PoolState {
        let answers =
            |node: u32| cluster.nodes.iter().any(|one| one.node_id == node && one.state() != NodeState::Unreachable);
        let known = |id: &u32| cluster.groups.iter().find(|group| group.group_id == *id);
        let is_led = |id: &u32| known(id).is_some_and(|group| group.leader != 0);
        let voters = |id: &u32| {
            let replicas = known(id).into_iter().flat_map(|group| &group.replicas);
            replicas.filter(|replica| replica.is_voter && answers(replica.node_id)).count()
        };
        let of = |is: &dyn Fn(&u32) -> bool| pool.group_ids.iter().copied().filter(|id| is(id)).collect();
        PoolState { led: of(&is_led), under_replicated: of(&|id| voters(id) < pool.replicas as usize) }
    }
}

fn pools_json(cluster: &DescribeClusterResponse) -> Value {
    let pool = |pool: &Pool| {
        let PoolState { led, under_replicated } = PoolState::of(cluster, pool);
        let leaders: BTreeMap<_, _> = cluster
            .groups
            .iter()
            .filter(|group| led.contains(&group.group_id))
            .map(|group| (group.group_id.to_string(), group.leader))
            .collect();
        json!({
            "poolId": pool.pool_id,
            "placement": pool.placement,
            "failoverGroup": pool.failover_group,
            "failsOver": pool.fails_over,
            "preferredRegions": pool.leaders,
            "replicas": pool.replicas,
            "partitions": pool.group_ids,
            "leaders": leaders,
            "underReplicated": under_replicated,
        })
    };
    cluster.pools.iter().map(pool).collect()
}

/// A row a group.
pub(super) fn groups(cluster: &DescribeClusterResponse) -> String {
    let header = ["GROUP", "KIND", "LEADER", "TERM", "LAST ENTRY", "ENTRIES BEHIND, BY NODE"];
    let row = |group: &Group| {
        let replica = |replica: &everlog_proto::cluster::Replica| {
            let behind = replica.behind_entries.map_or("?".to_owned(), |behind| behind.to_string());
            let learner = if replica.is_voter { "" } else { " (learner)" };
            format!("{}: {behind}{learner}", replica.node_id)
        };
        let leader = match group.leader {
            0 => "none".to_owned(),
            leader if leader == group.preferred_leader => leader.to_string(),
            leader => format!("{leader} for {}", group.preferred_leader),
        };
        vec![
            group.group_id.to_string(),
            kind(group).to_owned(),
            leader,
            group.term.to_string(),
            group.last_index.to_string(),
            group.replicas.iter().map(replica).collect::<Vec<_>>().join(", "),
        ]
    };
    table(&header, &[0, 3, 4], cluster.groups.iter().map(row))
}

/// A line a lead.
pub(super) fn transfers(transfers: &[Transfer]) -> String {
    if transfers.is_empty() {
        return "There is no such lead.\n".to_owned();
    }
    let mut text = String::new();
    for Transfer { group_id, from_node, to_node, problem } in transfers {
        let what = match &**problem {
            "" if from_node == to_node => format!("node {to_node} leads it already"),
            "" => format!("node {from_node} -> node {to_node}"),
            problem => format!("not moved: {problem}"),
        };
        let _ = writeln!(text, "group {group_id}: {what}");
    }
    text
}

pub(super) fn status_json(cluster: &DescribeClusterResponse) -> Value {
    json!({
        "clusterId": cluster.cluster_id,
        "clusterName": cluster.cluster_name,
        "answeredBy": cluster.answered_by,
        "problems": problems(cluster),
        "format": cluster.format.map(|format| format_json(&format)),
        "nodes": nodes_json(cluster)["nodes"],
        "groups": groups_json(cluster)["groups"],
        "pools": pools_json(cluster),
    })
}

fn format_json(format: &ClusterFormat) -> Value {
    let ClusterFormat { version, ready_version, ready_since_ms, newest } = *format;
    let ready = json!({ "version": ready_version, "sinceMs": ready_since_ms });
    json!({ "version": version, "newest": newest, "ready": if ready_version > 0 { ready } else { Value::Null } })
}

pub(super) fn nodes_json(cluster: &DescribeClusterResponse) -> Value {
    let node = |node: &Node| {
        json!({
            "nodeId": node.node_id,
            "address": node.address,
            "clientAddress": node.client_address,
            "state": state(node),
            "isLeaving": node.is_leaving,
            "region": node.region,
            "zone": node.zone,
            "labels": node.labels.iter().collect::<BTreeMap<_, _>>(),
            "problem": node.problem,
            "version": node.version,
            "formats": { "oldest": node.formats_oldest, "newest": node.formats_newest },
            "leftOutOfFormat": node.left_out_of_format,
            "startCount": node.start_count,
            "leads": node.leads,
            "replicas": node.replicas,
            "behindEntries": node.behind_entries,
            "uncertainGroups": node.uncertain_groups,
            "logBytes": node.log_bytes,
            "rowsBytes": node.rows_bytes,
            "diskFreeBytes": node.disk_free_bytes,
            "diskTotalBytes": node.disk_total_bytes,
        })
    };
    json!({ "nodes": cluster.nodes.iter().map(node).collect::<Vec<_>>() })
}

pub(super) fn groups_json(cluster: &DescribeClusterResponse) -> Value {
    let group = |group: &Group| {
        let replica = |replica: &everlog_proto::cluster::Replica| {
            json!({
                "nodeId": replica.node_id,
                "isVoter": replica.is_voter,
                "shouldVote": replica.should_vote,
                "appliedIndex": replica.applied_index,
                "behindEntries": replica.behind_entries,
            })
        };
        json!({
            "groupId": group.group_id,
            "kind": kind(group),
            "leader": if group.leader == 0 { Value::Null } else { group.leader.into() },
            "preferredLeader": group.preferred_leader,
            "term": group.term,
            "lastIndex": group.last_index,
            "replicas": group.replicas.iter().map(replica).collect::<Vec<_>>(),
            "wantedNodeIds": group.wanted_node_ids,
        })
    };
    json!({ "groups": cluster.groups.iter().map(group).collect::<Vec<_>>() })
}

pub(super) fn transfers_json(transfers: &[Transfer]) -> Value {
    let transfer = |transfer: &Transfer| {
        json!({
            "groupId": transfer.group_id,
            "fromNode": transfer.from_node,
            "toNode": transfer.to_node,
            "problem": transfer.problem,
        })
    };
    json!({ "transfers": transfers.iter().map(transfer).collect::<Vec<_>>() })
}

fn ids(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

fn state(node: &Node) -> &'static str {
    match node.state() {
        NodeState::Up => "up",
        NodeState::Draining => "draining",
        NodeState::Unreachable => "unreachable",
        NodeState::Unspecified => "unknown",
    }
}

fn kind(group: &Group) -> &'static str {
    match group.kind() {
        GroupKind::Metadata => "metadata",
        GroupKind::Partition => "partition",
        GroupKind::Unspecified => "unknown",
    }
}

/// Three digits and a unit.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut number, mut unit) = (bytes as f64, 0);
    while number >= 999.5 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || number >= 99.95 { 0 } else { 1 };
    format!("{number:.digits$} {}", UNITS[unit])
}

/// Columns as wide as what is in them; numbers end at the same place.
pub(super) fn table(header: &[&str], right: &[usize], rows: impl Iterator<Item = Vec<String>>) -> String {
    let header = header.iter().map(|name| (*name).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let columns = rows[0].len();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let gap = if column == 0 { "" } else { "  " };
            // Writing to a text cannot fail.
            let _ = match right.contains(&column) {
                true => write!(line, "{gap}{cell:>width$}"),
                false => write!(line, "{gap}{cell:<width$}"),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use everlog_proto::cluster::Replica;

    use super::*;

    fn cluster() -> DescribeClusterResponse {
        let node = |node_id, state: NodeState, problem: &str, version: &str| Node {
            node_id,
            address: format!("10.0.0.{node_id}:7235"),
            state: state as i32,
            problem: problem.to_owned(),
            version: version.to_owned(),
            leads: 3,
            replicas: 9,
            behind_entries: 7,
            log_bytes: 64 << 20,
            rows_bytes: 1_234_567,
            disk_free_bytes: 69 << 30,
            disk_total_bytes: 252 << 30,
            is_leaving: node_id == 2,
            ..Node::default()
        };
        let replica = |node_id, behind_entries: Option<u64>| Replica {
            node_id,
            is_voter: node_id < 3,
            should_vote: true,
            applied_index: behind_entries.map(|behind| 100 - behind),
            behind_entries,
        };
        let group = |group_id, kind: GroupKind, leader| Group {
            group_id,
            kind: kind as i32,
            leader,
            preferred_leader: 1,
            term: 4,
            last_index: 100,
            replicas: vec![replica(1, Some(0)), replica(2, Some(7)), replica(3, None)],
            wanted_node_ids: if leader == 2 { vec![1, 2, 4] } else { Vec::new() },
        };
        DescribeClusterResponse {
            cluster_id: "7a6c".to_owned(),
            cluster_name: "prod".to_owned(),
            answered_by: 1,
            nodes: vec![
                node(1, NodeState::Up, "", "0.1.0"),
                node(2, NodeState::Draining, "", "0.2.0"),
                node(3, NodeState::Unreachable, "no answer within 1s", ""),
            ],
            groups: vec![
                group(0, GroupKind::Metadata, 1),
                group(1, GroupKind::Partition, 2),
                group(12, GroupKind::Partition, 0),
            ],
            pools: Vec::new(),
            format: None,
        }
    }

    #[test]
    fn formats_are_told_with_what_is_in_their_way() {
        let mut cluster = cluster();
        let reads = |cluster: &mut DescribeClusterResponse, newest: [u32; 3]| {
            for (node, newest) in cluster.nodes.iter_mut().zip(newest) {
                (node.formats_oldest, node.formats_newest) = (1, newest);
            }
        };
        let told = |cluster: &DescribeClusterResponse| {
            problems(cluster).into_iter().filter(|line| line.contains("format")).collect::<Vec<_>>()
        };
        cluster.format = Some(ClusterFormat { version: 1, newest: 2, ..ClusterFormat::default() });
        reads(&mut cluster, [2, 1, 1]);
        let lines = "the cluster keeps format 1 until nodes 2, 3 are started with a release that reads format 2";
        assert_eq!(told(&cluster), [lines]);
        reads(&mut cluster, [2, 2, 2]);
        cluster.format = Some(ClusterFormat { version: 1, newest: 2, ready_version: 2, ready_since_ms: 7 });
        let lines =
            "all nodes read format 2: the cluster gets it in a while, or at once with: everlog cluster finalize";
        assert_eq!(told(&cluster), [lines]);
        let json = status_json(&cluster);
        assert_eq!(json["format"], json!({ "version": 1, "newest": 2, "ready": { "version": 2, "sinceMs": 7 } }));
        assert_eq!(json["nodes"][0]["formats"], json!({ "oldest": 1, "newest": 2 }));
        cluster.format = Some(ClusterFormat { version: 2, newest: 2, ..ClusterFormat::default() });
        assert_eq!(told(&cluster), Vec::<String>::new());
        reads(&mut cluster, [2, 2, 1]);
        cluster.nodes[2].left_out_of_format = 2;
        let lines = "node 3 was left out when the cluster got format 2: start it with a newer release, replace its disk, or remove it";
        assert_eq!(told(&cluster), [lines]);
        assert!(status(&cluster).starts_with("Cluster prod, 7a6c, format 2\n"));
    }

    #[test]
    fn pools_are_told_with_what_they_lack() {
        let mut cluster = cluster();
        let pool = |pool_id, failover_group: &str, group_ids: &[u32]| Pool {
            pool_id,
            placement: "eu".to_owned(),
            failover_group: failover_group.to_owned(),
            fails_over: !failover_group.is_empty(),
            leaders: vec!["eu-west".to_owned()],
            replicas: 2,
            group_ids: group_ids.to_vec(),
        };
        cluster.pools = vec![pool(0, "", &[1]), pool(7, "shop", &[12, 13])];
        let expected = "\
POOL  PLACEMENT  SHARED BY            PARTITIONS  LED  UNDER-REPLICATED
   0  eu         all others                    1    1  0
   7  eu         failover group shop           2    0  groups 13
";
        assert_eq!(pools(&cluster), expected);
        assert!(status(&cluster).contains(expected));
        let json = status_json(&cluster);
        assert_eq!(json["pools"][0]["leaders"], json!({ "1": 2 }));
        assert_eq!((&json["pools"][1]["underReplicated"], &json["pools"][1]["poolId"]), (&json!([13]), &json!(7)));
    }

    #[test]
    fn a_status_says_what_is_wrong() {
        let text = status(&cluster());
        let expected = "\
Cluster prod, 7a6c
2 of 3 nodes answer, 2 of 3 groups are led

NODE  ADDRESS        STATE        LEADS  BEHIND     LOG     ROWS  DISK FREE  VERSION
   1  10.0.0.1:7235  up             3/9       7  64 MiB  1.2 MiB     69 GiB  0.1.0
   2  10.0.0.2:7235  draining, leaving 3/9       7  64 MiB  1.2 MiB     69 GiB  0.2.0
   3  10.0.0.3:7235  unreachable    3/9       7       -        -          -  -

node 3 does not answer: no answer within 1s
group 12 has no leader
node 3 does not vote yet in groups 0, 1, 12
node 2 leaves: 9 groups have a replica on it yet
group 1 is moving: it is to be on nodes 1, 2, 4
nodes run different releases: 0.1.0, 0.2.0
"
        .replace("64 MiB", "64.0 MiB")
        .replace("69 GiB", "69.0 GiB");
        let squeezed = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(squeezed(&text), squeezed(&expected), "{text}");
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }

    #[test]
    fn where_nodes_are_is_shown_where_they_say_it() {
        let mut cluster = cluster();
        (cluster.nodes[0].region, cluster.nodes[0].zone) = ("eu".to_owned(), "a".to_owned());
        cluster.nodes[1].labels.insert("disk".to_owned(), "ssd".to_owned());
        let text = nodes(&cluster);
        let ends: Vec<_> = text.lines().map(|line| line.rsplit("  ").next().unwrap_or_default()).collect();
        assert_eq!(ends[..3], ["PLACE", "eu/a", "disk=ssd"], "{text}");
        let json = nodes_json(&cluster);
        assert_eq!((&json["nodes"][0]["region"], &json["nodes"][1]["labels"]["disk"]), (&json!("eu"), &json!("ssd")));
    }

    #[test]
    fn groups_show_who_leads_for_whom_and_who_lacks_what() {
        let expected = "\
GROUP  KIND       LEADER   TERM  LAST ENTRY  ENTRIES BEHIND, BY NODE
    0  metadata   1           4         100  1: 0, 2: 7, 3: ? (learner)
    1  partition  2 for 1     4         100  1: 0, 2: 7, 3: ? (learner)
   12  partition  none        4         100  1: 0, 2: 7, 3: ? (learner)
";
        assert_eq!(groups(&cluster()), expected);
    }

    #[test]
    fn json_has_all_of_it() {
        let value = status_json(&cluster());
        assert_eq!(value["nodes"][1]["state"], "draining");
        assert_eq!(value["nodes"][0]["rowsBytes"], 1_234_567);
        assert_eq!((&value["groups"][2]["leader"], &value["groups"][1]["leader"]), (&Value::Null, &json!(2)));
        assert_eq!(value["groups"][0]["replicas"][2]["behindEntries"], Value::Null);
        assert_eq!(value["problems"].as_array().unwrap().len(), 6);
    }

    #[test]
    fn sizes_have_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (64 << 20, "64.0 MiB"),
            (700 << 30, "700 GiB"),
        ];
        for (size, text) in cases {
            assert_eq!(bytes(size), text);
        }
        assert_eq!(bytes(u64::MAX), "16384 PiB");
    }

    #[test]
    fn transfers_say_what_became_of_them() {
        let transfer = |from_node, to_node, problem: &str| Transfer {
            group_id: 1,
            from_node,
            to_node,
            problem: problem.to_owned(),
        };
        let text =
            transfers(&[transfer(1, 2, ""), transfer(2, 2, ""), transfer(1, 3, "node 3 has no voting replica of it")]);
        assert_eq!(
            text,
            "group 1: node 1 -> node 2\ngroup 1: node 2 leads it already\ngroup 1: not moved: node 3 has no voting replica of it\n"
        );
        assert_eq!(transfers(&[]), "There is no such lead.\n");
    }
}
