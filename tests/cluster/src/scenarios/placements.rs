//! Placements that are changed under load.

use everlog_proto::cluster::{Placement, PlacementSpread};

use super::Stage;
use crate::failure::Failure;
use crate::faults::Injected;
use crate::harness::Cluster;
use crate::say;
use crate::storm::under_load;

const SEED: u64 = 11;
/// The regions of the nodes.
const REGIONS: [&str; 5] = ["a", "a", "b", "b", "c"];

/// The partitions of five nodes have one replica each, three, five, three, and one again; then they are in one pair of regions, and in another
/// one. What callers are told meanwhile is whole.
pub(crate) async fn placed_anew(stage: &Stage) -> Result<(), Failure> {
    let directory = stage.directory.join("placements");
    let cluster = Cluster::new(&stage.binary, &directory, REGIONS.len()).await?;
    for (node, region) in cluster.nodes.iter().zip(REGIONS) {
        node.configure(&format!("region = \"{region}\"\n"))?;
    }
    cluster.start().await?;
    let placed = under_load(&cluster, &stage.seen, SEED, &[1], async |_| {
        changes(&cluster).await?;
        Ok(Injected::default())
    });
    let result = async {
        placed.await?;
        cluster.stop().await
    };
    result.await.inspect_err(|_| say(&cluster.logs()))
}

async fn changes(cluster: &Cluster) -> Result<(), Failure> {
    for replicas in [1, 3, 5, 3, 1] {
        say(&format!("    partitions have {replicas} replicas"));
        cluster.place(1, placement(replicas, &[], &[])).await?;
    }
    say("    they are in regions a and b, led from a");
    cluster.place(1, placement(3, &[("a", 2), ("b", 1)], &["a"])).await?;
    say("    they are in regions b and c, led from b");
    cluster.place(1, placement(3, &[("b", 2), ("c", 1)], &["b"])).await?;
    say("    they are in all three, led from c");
    cluster.place(1, placement(5, &[("a", 2), ("b", 2), ("c", 1)], &["c"])).await
}

fn placement(replicas: u32, regions: &[(&str, u32)], leaders: &[&str]) -> Placement {
    Placement {
        name: "default".to_owned(),
        replicas,
        spread: PlacementSpread::Zone as i32,
        regions: regions.iter().map(|(region, count)| ((*region).to_owned(), *count)).collect(),
        leaders: leaders.iter().map(|region| (*region).to_owned()).collect(),
        ..Placement::default()
    }
}
