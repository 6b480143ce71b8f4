//! Placements as files write them: that of `everlog cluster placement apply`, and the settings that a cluster is founded with.

use std::collections::BTreeMap;

use everlog_config::parse_duration;
use everlog_proto::cluster::{Placement, PlacementReads, PlacementSpread};
use serde::{Deserialize, Serialize};

/// A file of placements as it is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    placement: Vec<FilePlacement>,
}

/// `[[placement]]` as it is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilePlacement {
    name: String,
    replicas: u32,
    #[serde(default = "spread_default")]
    spread: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    leaders: Vec<String>,
    #[serde(default = "reads_default")]
    reads: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stale_max: Option<String>,
    #[serde(default = "writes_default")]
    writes: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    constraints: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    regions: BTreeMap<String, u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    learners: BTreeMap<String, u32>,
}

fn spread_default() -> String {
    "zone".to_owned()
}

fn reads_default() -> String {
    "lease".to_owned()
}

fn writes_default() -> String {
    "quorum".to_owned()
}

/// The placements in a file with this text.
///
/// # Errors
///
/// One line that says what is wrong, and where.
pub fn read_placements(text: &str) -> Result<Vec<Placement>, String> {
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        format!("{place}{}", error.message().replace('\n', " "))
    })?;
    file.placement.into_iter().map(placement).collect()
}

/// What a part of a file says.
pub(super) fn placement(file: FilePlacement) -> Result<Placement, String> {
    let FilePlacement { name, replicas, spread, leaders, reads, stale_max, writes, constraints, regions, learners } =
        file;
    let spread = match &*spread {
        "node" => PlacementSpread::Node,
        "zone" => PlacementSpread::Zone,
        "region" => PlacementSpread::Region,
        _ => {
            return Err(format!(
                "placement {name}: spread = {spread:?}, and \"node\", \"zone\" or \"region\" is allowed"
            ));
        }
    };
    let reads = match &*reads {
        "lease" => PlacementReads::Lease,
        "linearizable" => PlacementReads::Linearizable,
        "stale" => PlacementReads::Stale,
        _ => {
            return Err(format!(
                "placement {name}: reads = {reads:?}, and \"lease\", \"linearizable\" or \"stale\" is allowed"
            ));
        }
    };
    let stale_max = stale_max.map(|text| {
        let time = parse_duration(&text).filter(|time| !time.is_zero());
        time.ok_or_else(|| format!("placement {name}: stale_max = {text:?} is not like \"5s\""))
    });
    let stale_max = stale_max.transpose()?.unwrap_or_default();
    if writes != "quorum" {
        return Err(format!("placement {name}: writes = {writes:?}, and only \"quorum\" is there yet"));
    }
    Ok(Placement {
        name,
        replicas,
        spread: spread as i32,
        regions: regions.into_iter().collect(),
        learners: learners.into_iter().collect(),
        leaders,
        reads: reads as i32,
        stale_max_ms: u64::try_from(stale_max.as_millis()).unwrap_or(u64::MAX),
        constraints,
        ..Placement::default()
    })
}

/// What no two voting replicas share, in a word.
pub fn spread_name(placement: &Placement) -> &'static str {
    match placement.spread() {
        PlacementSpread::Node => "node",
        PlacementSpread::Zone | PlacementSpread::Unspecified => "zone",
        PlacementSpread::Region => "region",
    }
}

/// What reads are like, in a word.
pub fn reads_name(placement: &Placement) -> &'static str {
    match placement.reads() {
        PlacementReads::Lease | PlacementReads::Unspecified => "lease",
        PlacementReads::Linearizable => "linearizable",
        PlacementReads::Stale => "stale",
    }
}

/// A placement as a file says it.
pub fn placement_file(placement: &Placement) -> String {
    let Placement { name, replicas, regions, learners, leaders, constraints, .. } = placement.clone();
    let file = File {
        placement: vec![FilePlacement {
            name,
            replicas,
            spread: spread_name(placement).to_owned(),
            leaders,
            reads: reads_name(placement).to_owned(),
            stale_max: (placement.stale_max_ms > 0).then(|| format!("{}ms", placement.stale_max_ms)),
            writes: writes_default(),
            constraints,
            regions: regions.into_iter().collect(),
            learners: learners.into_iter().collect(),
        }],
    };
    // There is nothing in it that TOML has no words for.
    toml::to_string(&file).unwrap_or_default()
}
