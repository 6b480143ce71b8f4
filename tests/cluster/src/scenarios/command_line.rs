//! What an operator types, and what is printed.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::process::Command;

use super::Stage;
use crate::failure::{Failure, ensure};

/// What a command printed, and whether it says that it worked.
struct Printed {
    works: bool,
    out: String,
    error: String,
}

/// The commands of a cluster show what is there, do what they say, and refuse the rest in one line.
pub(crate) async fn commands(stage: &Stage) -> Result<(), Failure> {
    let at = stage.cluster.nodes[0].grpc();
    let shown = typed(stage, at, &["status"]).await?;
    let lines: Vec<_> = shown.out.lines().collect();
    ensure(shown.works && lines.len() == 10, || format!("three nodes, a pool and nothing below: {}", shown.out))?;
    ensure(lines[1] == "3 of 3 nodes answer, 7 of 7 groups are led", || shown.out.clone())?;
    let pool: Vec<_> = lines[9].split_whitespace().collect();
    ensure(pool == ["0", "default", "all", "others", "6", "6", "0"], || shown.out.clone())?;
    let nodes = json(stage, at, &["nodes"]).await?;
    let of = |key: &str| {
        nodes["nodes"].as_array().map(|nodes| nodes.iter().map(|node| node[key].clone()).collect::<Vec<_>>())
    };
    ensure(of("nodeId") == Some(vec![1.into(), 2.into(), 3.into()]), || nodes.to_string())?;
    ensure(of("isLeaving") == Some(vec![Value::Bool(false); 3]), || nodes.to_string())?;
    ensure(of("replicas") == Some(vec![Value::from(7); 3]), || nodes.to_string())?;
    let groups = json(stage, at, &["groups"]).await?;
    let voters = |group: &Value| {
        group["replicas"].as_array().is_some_and(|all| all.len() == 3 && all.iter().all(|one| one["isVoter"] == true))
    };
    let all = groups["groups"].as_array();
    ensure(all.is_some_and(|all| all.len() == 7 && all.iter().all(voters)), || groups.to_string())?;

    let moved = typed(stage, at, &["transfer", "--group", "1", "--to", "3"]).await?;
    ensure(moved.works && moved.out.contains("node 3"), || moved.out.clone())?;
    let groups = json(stage, at, &["groups"]).await?;
    ensure(groups["groups"][1]["leader"] == 3, || groups.to_string())?;
    ensure(typed(stage, at, &["transfer", "--group", "1", "--back"]).await?.works, || "back".to_owned())?;
    let drained = json(stage, at, &["drain", "--node", "2"]).await?;
    ensure(drained["isDraining"] == true && drained["remainingGroupIds"] == serde_json::json!([]), || {
        drained.to_string()
    })?;
    let nodes = json(stage, at, &["nodes"]).await?;
    ensure(nodes["nodes"][1]["state"] == "draining" && nodes["nodes"][1]["leads"] == 0, || nodes.to_string())?;
    ensure(typed(stage, at, &["drain", "--node", "2", "--undo"]).await?.works, || "undo".to_owned())?;

    const NOBODY: &str = "6f1c1f9e-6c39-4a43-8a0c-3f6a4d3c9f10";
    let refused: [(&[&str], &str); 9] = [
        (
            &["remove", "--node", "1"],
            "2 nodes would be left, and each partition has 3 replicas (placement default): add a node first",
        ),
        (&["remove", "--node", "9"], "there is no node 9"),
        (&["remove", "--node", "9", "--undo"], "there is no node 9"),
        (&["add", "--directory", NOBODY], "no node waits with the data directory"),
        (
            &["replace", "--node", "2", "--directory", NOBODY],
            "node 2 answers: only a disk that is lost can be replaced",
        ),
        (&["transfer", "--group", "99", "--to", "1"], "there is no group 99"),
        (&["drain", "--node", "7"], "there is no node 7"),
        (&["add", "--directory", "x"], "invalid value 'x' for '--directory <UUID>'"),
        (&["remove", "--node", "0"], "invalid value '0' for '--node <NODE>'"),
    ];
    for (words, why) in refused {
        let said = typed(stage, at, words).await?;
        ensure(!said.works && said.error.contains(why), || format!("{words:?}: {}{}", said.out, said.error))?;
    }
    // To let a node stay that was never to leave changes nothing.
    let stays = typed(stage, at, &["remove", "--node", "1", "--undo"]).await?;
    ensure(stays.works && stays.out.starts_with("Node 1 stays"), || stays.error.clone())?;
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let said = typed(stage, nobody, &["status"]).await?;
    let is_one_line = said.error.lines().count() == 1 && said.error.contains("nobody answers at 127.0.0.1:1");
    ensure(!said.works && is_one_line, || said.error.clone())
}

async fn json(stage: &Stage, at: SocketAddr, words: &[&str]) -> Result<Value, Failure> {
    let printed = typed(stage, at, &[words, &["--output", "json"]].concat()).await?;
    ensure(printed.works, || printed.error.clone())?;
    serde_json::from_str(&printed.out)
        .map_err(|error| Failure(format!("{words:?} prints no JSON ({error}): {}", printed.out)))
}

async fn typed(stage: &Stage, at: SocketAddr, words: &[&str]) -> Result<Printed, Failure> {
    let command = Command::new(&stage.binary)
        .arg("cluster")
        .args(words)
        .args(["--address", &at.to_string()])
        .kill_on_drop(true)
        .output()
        .await?;
    Ok(Printed {
        works: command.status.success(),
        out: String::from_utf8_lossy(&command.stdout).into_owned(),
        error: String::from_utf8_lossy(&command.stderr).into_owned(),
    })
}
