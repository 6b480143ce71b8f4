//! Placements: how many replicas groups have, where these are, and who should lead.
//!
//! A placement has a name. `default` is always there: what nobody says anything of is placed by it. The rows of the others, and that of
//! `default` once it was changed, are `placement/<name>`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::pools::PoolId;
use super::topology::NodeLabels;
use super::{MetaError, Namespaces};

/// The placement that is always there.
pub const DEFAULT_PLACEMENT: &str = "default";

/// Voting replicas of a group where nobody says.
pub const REPLICAS_DEFAULT: u32 = 3;

/// Voting replicas that a group may have: an even number survives no more than one less does.
const REPLICAS: [u32; 3] = [1, 3, 5];

/// Learners that a group may have: its leader sends them all that it writes.
const LEARNERS_MAX: u32 = 5;

/// How old stale reads may be where nobody says.
pub const STALE_MAX_DEFAULT: Duration = Duration::from_secs(5);

/// How old they may be at least and at most. Replicas ask once a second how far their leader is.
pub const STALE_MAX: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3600));

/// Bytes of a name, of a region's or a label's.
const NAME_BYTES_MAX: usize = 64;

/// Placements of a cluster.
pub const PLACEMENTS_MAX: usize = 256;

/// Where the replicas of groups are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Its name.
    pub name: String,
    /// Voting replicas of each group: 1, 3 or 5.
    pub replicas: u32,
    /// What no two voting replicas of a group share, if there are enough of it.
    pub spread: Spread,
    /// How many of the voting replicas are in which region; none: wherever there are nodes.
    pub regions: BTreeMap<String, u32>,
    /// How many replicas that do not vote are in which region, besides.
    pub learners: BTreeMap<String, u32>,
    /// Regions whose nodes should lead, the best one first; none: any.
    pub leaders: Vec<String>,
    /// What reads are like.
    pub reads: Reads,
    /// How old stale reads may be; nothing for others.
    pub stale_max: Duration,
    /// Labels that nodes must have, `name=value`, all of them.
    pub constraints: Vec<String>,
}

/// What no two voting replicas of a group share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Spread {
    /// A node: no group ever has two on one.
    Node = 1,
    /// A zone of a region. A node that names none is one of its own.
    Zone = 2,
    /// A region. A node that names none is one of its own.
    Region = 3,
}

/// What reads are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Reads {
    /// A leader answers from its rows as long as it has its lease, and asks the others if not.
    Lease = 1,
    /// A leader asks the others before each answer, so that a clock that runs wrong cannot make it answer from old rows. A round trip more.
    Linearizable = 2,
    /// Lists and counts are answered by any replica that surely has all that was acknowledged [`Placement::stale_max`] ago; all else as by a lease. In a
    /// row it is [`Reads::Lease`] with such a time.
    Stale = 3,
}

/// Tags are never used twice.
#[derive(Clone, PartialEq, Message)]
struct PlacementMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    replicas: u32,
    #[prost(int32, tag = "3")]
    spread: i32,
    #[prost(btree_map = "string, uint32", tag = "4")]
    regions: BTreeMap<String, u32>,
    #[prost(btree_map = "string, uint32", tag = "5")]
    learners: BTreeMap<String, u32>,
    #[prost(string, repeated, tag = "6")]
    leaders: Vec<String>,
    #[prost(int32, tag = "7")]
    reads: i32,
    #[prost(string, repeated, tag = "8")]
    constraints: Vec<String>,
    #[prost(uint64, tag = "9")]
    stale_max_ms: u64,
}

impl Default for Placement {
    /// The one that is always there, as it is until somebody changes it.
    fn default() -> Placement {
        Placement {
            name: DEFAULT_PLACEMENT.to_owned(),
            replicas: REPLICAS_DEFAULT,
            spread: Spread::Zone,
            regions: BTreeMap::new(),
            learners: BTreeMap::new(),
            leaders: Vec::new(),
            reads: Reads::Lease,
            stale_max: Duration::ZERO,
            constraints: Vec::new(),
        }
    }
}

impl Placement {
    /// Whether it can be carried out by any cluster.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let Placement { name, replicas, regions, learners, leaders, constraints, reads, stale_max, .. } = self;
        let wrong = |why: String| Err(format!("placement {name}: {why}"));
        if !is_name(name) {
            return Err(format!(
                "a placement's name is 1 to {NAME_BYTES_MAX} letters, digits and any of \"-_.:+\", not {name:?}"
            ));
        }
        if !REPLICAS.contains(replicas) {
            return wrong(format!(
                "replicas = {replicas}, and 1, 3 or 5 is allowed: an even number survives no more than one less does"
            ));
        }
        for (field, of) in [("regions", regions), ("learners", learners)] {
            if let Some(region) = of.keys().find(|region| !is_name(region)) {
                return wrong(format!("{field}: {region:?} is no name of a region"));
            }
            if let Some((region, _)) = of.iter().find(|(_, count)| **count == 0) {
                return wrong(format!("{field}: {region} = 0; leave it out"));
            }
        }
        let sum: u64 = regions.values().map(|count| u64::from(*count)).sum();
        if !regions.is_empty() && sum != u64::from(*replicas) {
            return wrong(format!("regions have {sum} replicas in all, and replicas = {replicas}"));
        }
        let learning: u64 = learners.values().map(|count| u64::from(*count)).sum();
        if learning > u64::from(LEARNERS_MAX) {
            return wrong(format!("{learning} learners, and {LEARNERS_MAX} are allowed"));
        }
        if let Some(region) = leaders.iter().find(|region| !is_name(region)) {
            return wrong(format!("leaders: {region:?} is no name of a region"));
        }
        if let Some(region) = leaders.iter().find(|region| !regions.is_empty() && !regions.contains_key(*region)) {
            return wrong(format!("leaders: {region} is none of regions, so no voting replica is there"));
        }
        if leaders.iter().collect::<BTreeSet<_>>().len() < leaders.len() {
            return wrong("leaders: a region is named twice".to_owned());
        }
        let (least, most) = STALE_MAX;
        match reads {
            Reads::Stale if !(least..=most).contains(stale_max) => {
                return wrong(format!("stale_max = {stale_max:?}, and {least:?} to {most:?} is allowed"));
            }
            Reads::Lease | Reads::Linearizable if !stale_max.is_zero() => {
                return wrong("stale_max is for reads = \"stale\" only".to_owned());
            }
            _ => {}
        }
        let is_label =
            |text: &String| text.split_once('=').is_some_and(|(name, value)| is_name(name) && is_name(value));
        if let Some(constraint) = constraints.iter().find(|constraint| !is_label(constraint)) {
            return wrong(format!("constraints: {constraint:?} is not \"label=value\""));
        }
        Ok(())
    }

    /// Whether a node may have voting replicas.
    pub fn allows(&self, node: &NodeLabels) -> bool {
        self.suits(node) && (self.regions.is_empty() || self.regions.contains_key(&node.region))
    }

    /// Whether a node has the labels that all nodes with replicas must have.
    pub fn suits(&self, node: &NodeLabels) -> bool {
        self.constraints.iter().all(|constraint| {
            let label = constraint.split_once('=');
            label.is_some_and(|(name, value)| node.others.get(name).is_some_and(|has| has == value))
        })
    }

    /// How good it is when a node in a region leads; less is better.
    pub fn rank(&self, region: &str) -> usize {
        self.leaders.iter().position(|leader| leader == region).unwrap_or(self.leaders.len())
    }

    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let Placement { name, replicas, spread, regions, learners, leaders, reads, stale_max, constraints } =
            self.clone();
        // So that releases before stale reads know what to do with it: what a lease says is as good.
        let reads = if reads == Reads::Stale { Reads::Lease } else { reads };
        let (spread, reads) = (spread as i32, reads as i32);
        let stale_max_ms = u64::try_from(stale_max.as_millis()).unwrap_or(u64::MAX);
        PlacementMessage { name, replicas, spread, regions, learners, leaders, reads, constraints, stale_max_ms }
            .encode_to_vec()
            .into()
    }

    /// What a row says.
    ///
    /// # Errors
    ///
    /// [`MetaError::Corrupt`] if that means nothing.
    pub fn decode(value: &[u8]) -> Result<Placement, MetaError> {
        let corrupt = |why: &dyn std::fmt::Display| MetaError::Corrupt(format!("placement: {why}"));
        let message = PlacementMessage::decode(value).map_err(|error| corrupt(&error))?;
        let PlacementMessage { name, replicas, spread, regions, learners, leaders, reads, constraints, stale_max_ms } =
            message;
        let spread = Spread::try_from(spread).map_err(|error| corrupt(&error))?;
        let reads = match Reads::try_from(reads).map_err(|error| corrupt(&error))? {
            Reads::Lease if stale_max_ms > 0 => Reads::Stale,
            reads => reads,
        };
        let stale_max = Duration::from_millis(stale_max_ms);
        let placement = Placement { name, replicas, spread, regions, learners, leaders, reads, stale_max, constraints };
        placement.check().map_err(|why| corrupt(&why))?;
        Ok(placement)
    }
}

/// Whether something may have such a name: a placement, a region, a zone, a label.
pub fn is_name(name: &str) -> bool {
    let is_allowed = |char: char| char.is_ascii_alphanumeric() || "-_.:+".contains(char);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_allowed)
}

impl Namespaces {
    /// The placements, by name. `default` is among them.
    pub fn placements(&self) -> BTreeMap<String, Placement> {
        self.topology().all_placements()
    }

    /// What reads of a namespace in a pool are like, and how old stale ones may be.
    pub fn reads_in(&self, pool: PoolId) -> (Reads, Duration) {
        let view = self.view.borrow();
        let topology = &view.topology;
        let name = topology.pools.get(&pool).map_or(DEFAULT_PLACEMENT, |pool| &pool.placement);
        let placement = topology.placements.get(name).or_else(|| topology.placements.get(DEFAULT_PLACEMENT));
        placement.map_or((Reads::Lease, Duration::ZERO), |placement| (placement.reads, placement.stale_max))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u32)]) -> BTreeMap<String, u32> {
        of.iter().map(|(region, count)| ((*region).to_owned(), *count)).collect()
    }

    fn placement() -> Placement {
        Placement {
            name: "eu".to_owned(),
            replicas: 5,
            spread: Spread::Region,
            regions: counts(&[("a", 2), ("b", 2), ("c", 1)]),
            learners: counts(&[("d", 1)]),
            leaders: vec!["b".to_owned(), "a".to_owned()],
            reads: Reads::Lease,
            stale_max: Duration::ZERO,
            constraints: vec!["disk=ssd".to_owned()],
        }
    }

    #[test]
    fn the_row_format_is_for_ever() {
        let golden = "0a02657510051803\
                      22050a01611002\
                      22050a01621002\
                      22050a01631001\
                      2a050a01641001\
                      3201623201613801\
                      42086469736b3d737364";
        let bytes = placement().encode();
        assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), golden);
        assert_eq!(Placement::decode(&bytes), Ok(placement()));
        let stale = Placement { reads: Reads::Stale, stale_max: STALE_MAX_DEFAULT, ..Placement::default() };
        let bytes = stale.encode();
        let golden = "0a0764656661756c74100318023801488827";
        assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), golden);
        assert_eq!(Placement::decode(&bytes), Ok(stale));
        let bytes = placement().encode();
        for bytes in [&b""[..], b"\xff", &bytes[..bytes.len() - 1], b"\x0a\x01a\x10\x02\x18\x01\x38\x01"] {
            assert!(matches!(Placement::decode(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
        }
    }

    #[test]
    fn what_no_cluster_can_carry_out_is_refused_in_one_line() {
        assert_eq!(placement().check(), Ok(()));
        assert_eq!(Placement::default().check(), Ok(()));
        type Change = fn(&mut Placement);
        let cases: [(Change, &str); 15] = [
            (|p| p.name.clear(), "a placement's name is"),
            (|p| p.name = "a b".to_owned(), "a placement's name is"),
            (|p| p.replicas = 4, "placement eu: replicas = 4, and 1, 3 or 5 is allowed"),
            (|p| p.replicas = 0, "replicas = 0"),
            (|p| p.replicas = 3, "regions have 5 replicas in all, and replicas = 3"),
            (
                |p| {
                    let _ = p.regions.insert("c".to_owned(), 0);
                },
                "regions: c = 0",
            ),
            (
                |p| {
                    let _ = p.regions.insert(String::new(), 1);
                },
                "regions: \"\" is no name",
            ),
            (
                |p| {
                    let _ = p.learners.insert("e".to_owned(), 9);
                },
                "10 learners, and 5 are allowed",
            ),
            (|p| p.leaders.push("d".to_owned()), "leaders: d is none of regions"),
            (|p| p.leaders.push("a".to_owned()), "leaders: a region is named twice"),
            (|p| p.stale_max = STALE_MAX_DEFAULT, "stale_max is for reads = \"stale\" only"),
            (|p| p.reads = Reads::Stale, "stale_max = 0ns, and 2s to 3600s is allowed"),
            (
                |p| {
                    p.reads = Reads::Stale;
                    p.stale_max = Duration::from_secs(3601);
                },
                "stale_max = 3601s, and",
            ),
            (|p| p.constraints.push("ssd".to_owned()), "constraints: \"ssd\" is not \"label=value\""),
            (|p| p.constraints.push("=ssd".to_owned()), "constraints: \"=ssd\" is not"),
        ];
        for (change, expected) in cases {
            let mut placement = placement();
            change(&mut placement);
            let why = placement.check().unwrap_err();
            assert!(why.contains(expected) && !why.contains('\n'), "{why}");
        }
    }

    #[test]
    fn nodes_have_replicas_where_their_labels_allow_it() {
        let node = |region: &str, disk: &str| NodeLabels {
            region: region.to_owned(),
            zone: String::new(),
            others: BTreeMap::from([("disk".to_owned(), disk.to_owned())]),
        };
        assert!(placement().allows(&node("a", "ssd")));
        assert!(!placement().allows(&node("d", "ssd")) && placement().suits(&node("d", "ssd")));
        assert!(!placement().allows(&node("a", "hdd")));
        assert!(Placement::default().allows(&NodeLabels::default()));
        let ranks = ["b", "a", "c"].map(|region| placement().rank(region));
        assert_eq!(ranks, [0, 1, 2]);
    }
}
