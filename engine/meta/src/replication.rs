//! Global namespaces: which regions they are in, and which one leads. Regions stand where Temporal has clusters.
//!
//! Namespaces that fail over have a pool whose leaders are in the active region, as far as nodes of it can lead. A failover changes the active
//! region, the failover version, and who should lead the pool's partitions, in one change of the metadata. Nothing in a namespace depends on
//! which region is the active one: writes are taken anywhere, and travel to whoever leads.

use std::collections::BTreeSet;

use bytes::Bytes;
use everlog_kernel::Time;
use everlog_proto::api::enums::v1::{NamespaceState, ReplicationState};
use everlog_storage::state::RowChange;
use prost::Message;

use super::MetaError;
use super::topology::TopologyKey;

/// By how much failover versions grow, so that each names a region.
pub const FAILOVER_VERSION_STEP: i64 = 10;

/// Regions that a cluster can have had: one less than [`FAILOVER_VERSION_STEP`].
const REGIONS_MAX: usize = 9;

/// The only region of a cluster whose nodes name none: a Temporal cluster that has no others beside it has this name.
pub const ONLY_REGION: &str = "active";

/// Failovers that are remembered of a namespace, as in Temporal (its namespace handler).
const HISTORY_MAX: usize = 10;

/// The regions of a cluster, in the order in which nodes have named them first. None is ever forgotten, because failover versions name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions(Vec<String>);

/// Which regions a global namespace is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// The region whose nodes should lead.
    pub active: String,
    /// All of them.
    pub regions: Vec<String>,
    /// One more round of the regions whenever another region becomes the active one.
    pub failover_version: i64,
    /// The last failovers, the oldest one first.
    pub history: Vec<Failover>,
    /// Whether somebody has said that it is being handed over. Nothing follows from that: a lead is handed over without a stop.
    pub is_handed_over: bool,
}

/// A failover of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    /// When.
    pub at: Time,
    /// The failover version from then on.
    pub version: i64,
}

/// What is to be changed of where a namespace is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationChange {
    /// The region that is to be the active one, if that is said.
    pub active: Option<String>,
    /// The regions that it is to be in; those that it has if there are none.
    pub regions: Vec<String>,
    /// Whether it is being handed over, if that is said.
    pub state: ReplicationState,
}

#[derive(Clone, PartialEq, Message)]
struct RegionsMessage {
    #[prost(string, repeated, tag = "1")]
    names: Vec<String>,
}

/// The part of a namespace's row.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ReplicationRow {
    #[prost(string, tag = "1")]
    active: String,
    #[prost(string, repeated, tag = "2")]
    regions: Vec<String>,
    #[prost(int64, tag = "3")]
    failover_version: i64,
    #[prost(message, repeated, tag = "4")]
    history: Vec<FailoverRow>,
    #[prost(bool, tag = "5")]
    is_handed_over: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct FailoverRow {
    #[prost(sfixed64, tag = "1")]
    at_ns: i64,
    #[prost(int64, tag = "2")]
    version: i64,
}

impl Regions {
    /// Their names, in the order in which they appeared. Without any there is [`ONLY_REGION`].
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let only = self.0.is_empty().then_some(ONLY_REGION);
        only.into_iter().chain(self.0.iter().map(String::as_str))
    }

    /// Whether nodes have named any.
    pub fn are_named(&self) -> bool {
        !self.0.is_empty()
    }

    /// The failover version that a region begins with, if there is or was such a region.
    pub fn initial_version(&self, name: &str) -> Option<i64> {
        (1..).zip(self.names()).find(|(_, known)| *known == name).map(|(version, _)| version)
    }

    /// The next failover version of a namespace that becomes active in a region: the smallest one of the region that is not below `current`.
    /// Temporal: `cluster.Metadata.GetNextFailoverVersion`.
    fn next_version(&self, name: &str, current: i64) -> Option<i64> {
        let version = current / FAILOVER_VERSION_STEP * FAILOVER_VERSION_STEP + self.initial_version(name)?;
        Some(if version < current { version + FAILOVER_VERSION_STEP } else { version })
    }

    /// The same regions with those that are new, if any is; those for which there is no number left are passed over.
    pub(super) fn with<'a>(&self, named: impl IntoIterator<Item = &'a str>) -> Option<Regions> {
        let known: BTreeSet<_> = self.0.iter().map(String::as_str).collect();
        let mut all = self.0.clone();
        for name in named {
            if !name.is_empty() && !known.contains(name) && !all.iter().any(|other| other == name) {
                all.push(name.to_owned());
            }
        }
        all.truncate(REGIONS_MAX);
        (all != self.0).then_some(Regions(all))
    }

    /// Refuses a name that is no region's.
    pub fn check(&self, name: &str) -> Result<(), MetaError> {
        match self.initial_version(name) {
            Some(_) => Ok(()),
            None => Err(MetaError::Invalid(format!("Invalid cluster name: {name}").into())),
        }
    }

    /// The row that says so.
    pub(super) fn row(&self) -> RowChange {
        RowChange::Put { key: TopologyKey::Regions.row(), value: self.encode() }
    }

    fn encode(&self) -> Bytes {
        RegionsMessage { names: self.0.clone() }.encode_to_vec().into()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Regions, MetaError> {
        let message = RegionsMessage::decode(value);
        Ok(Regions(message.map_err(|error| MetaError::Corrupt(format!("regions: {error}")))?.names))
    }
}

impl Replication {
    /// A new global namespace, active in `active`, which is in `regions`, or in that one alone if there are none.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] with what Temporal says (its namespace attribute validator).
    pub fn new(known: &Regions, active: &str, regions: Vec<String>) -> Result<Replication, MetaError> {
        let regions = if regions.is_empty() { vec![active.to_owned()] } else { regions };
        let failover_version = known.next_version(active, 0).unwrap_or_default();
        let (active, history) = (active.to_owned(), Vec::new());
        let replication = Replication { active, regions, failover_version, history, is_handed_over: false };
        replication.check(known)?;
        Ok(replication)
    }

    /// Its regions, the active one first.
    pub fn active_first(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let all = std::iter::once(&self.active).chain(&self.regions);
        all.filter(|region| seen.insert(*region)).cloned().collect()
    }

    fn check(&self, known: &Regions) -> Result<(), MetaError> {
        known.check(&self.active)?;
        self.regions.iter().try_for_each(|region| known.check(region))?;
        if self.regions.contains(&self.active) {
            Ok(())
        } else {
            Err(MetaError::Invalid("Active cluster is not contained in all clusters.".into()))
        }
    }

    /// The same namespace as somebody wants it.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] with what Temporal says.
    pub(super) fn changed(
        &self,
        known: &Regions,
        wanted: &ReplicationChange,
        namespace: NamespaceState,
        now: Time,
    ) -> Result<Replication, MetaError> {
        let mut next = self.clone();
        if !wanted.regions.is_empty() {
            next.regions.clone_from(&wanted.regions);
        }
        if let Some(is_handed_over) = handed_over(wanted.state, self.is_handed_over, namespace)? {
            if is_handed_over && next.regions.len() < 2 {
                return Err(MetaError::Invalid("Handover require more than one replication clusters".into()));
            }
            next.is_handed_over = is_handed_over;
        }
        if let Some(active) = &wanted.active {
            next.active.clone_from(active);
        }
        next.check(known)?;
        if wanted.active.is_some() {
            next.fail_over(known, now);
        }
        Ok(next)
    }

    /// Counts a failover to the region that is the active one by now, unless there was none.
    pub(super) fn fail_over(&mut self, known: &Regions, now: Time) {
        let version = known.next_version(&self.active, self.failover_version).unwrap_or(self.failover_version);
        self.failover_version = version;
        if self.history.last().is_none_or(|last| last.version != version) {
            self.history.push(Failover { at: now, version });
            let surplus = self.history.len().saturating_sub(HISTORY_MAX);
            self.history.drain(..surplus);
        }
    }

    pub(super) fn to_row(&self) -> ReplicationRow {
        let Replication { active, regions, failover_version, history, is_handed_over } = self.clone();
        let history = history.into_iter().map(|Failover { at, version }| FailoverRow { at_ns: at.0, version });
        ReplicationRow { active, regions, failover_version, history: history.collect(), is_handed_over }
    }

    pub(super) fn from_row(row: ReplicationRow) -> Replication {
        let ReplicationRow { active, regions, failover_version, history, is_handed_over } = row;
        let history = history.into_iter().map(|FailoverRow { at_ns, version }| Failover { at: Time(at_ns), version });
        Replication { active, regions, failover_version, history: history.collect(), is_handed_over }
    }
}

/// Whether a namespace is being handed over from now on, if that is to be changed.
fn handed_over(
    wanted: ReplicationState,
    is_handed_over: bool,
    namespace: NamespaceState,
) -> Result<Option<bool>, MetaError> {
    let will_be = match wanted {
        ReplicationState::Unspecified => return Ok(None),
        ReplicationState::Normal => false,
        ReplicationState::Handover => true,
    };
    if will_be == is_handed_over {
        return Ok(None);
    }
    if namespace != NamespaceState::Registered {
        let message = format!(
            "update ReplicationState is only supported when namespace is in Registered state, current state: {namespace:?}"
        );
        return Err(MetaError::Invalid(message.into()));
    }
    Ok(Some(will_be))
}

/// Refuses what no local namespace can be: it is in its home region, and in no other.
///
/// # Errors
///
/// [`MetaError::Invalid`] with what Temporal says.
pub fn check_local(
    known: &Regions,
    home: &str,
    wanted: &ReplicationChange,
    namespace: NamespaceState,
) -> Result<(), MetaError> {
    if handed_over(wanted.state, false, namespace)?.is_some() {
        return Err(MetaError::Invalid("Handover can only be set for global namespace".into()));
    }
    let active = wanted.active.as_deref().unwrap_or(home);
    known.check(active)?;
    wanted.regions.iter().try_for_each(|region| known.check(region))?;
    if active != home {
        return Err(MetaError::Invalid("Invalid local namespace active cluster".into()));
    }
    match &wanted.regions[..] {
        [] => Ok(()),
        [only] if only == active => Ok(()),
        _ => Err(MetaError::Invalid("Invalid local namespace clusters".into())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn regions() -> Regions {
        Regions::default().with(["a", "b", "", "a", "c"]).unwrap()
    }

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    fn to(active: &str) -> ReplicationChange {
        ReplicationChange { active: Some(active.to_owned()), ..ReplicationChange::default() }
    }

    #[test]
    fn the_row_formats_are_for_ever() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let bytes = regions().encode();
        assert_eq!((hex(&bytes).as_str(), Regions::decode(&bytes)), ("0a01610a01620a0163", Ok(regions())));
        let replication = Replication {
            active: "a".to_owned(),
            regions: names(&["a", "b"]),
            failover_version: 300,
            history: vec![Failover { at: Time(1), version: 2 }],
            is_handed_over: true,
        };
        let bytes = replication.to_row().encode_to_vec();
        assert_eq!(hex(&bytes), "0a01611201611201621 8ac02220b0901000000000000001002 2801".replace(' ', ""));
        assert_eq!(Replication::from_row(ReplicationRow::decode(&bytes[..]).unwrap()), replication);
    }

    #[test]
    fn a_region_has_its_number_for_ever() {
        assert_eq!(Regions::default().names().collect::<Vec<_>>(), [ONLY_REGION]);
        assert_eq!(Regions::default().initial_version(ONLY_REGION), Some(1));
        let known = regions();
        assert_eq!(known.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(known.with(["c", "a"]), None);
        let more = known.with(["x1", "x2", "x3", "x4", "x5", "x6", "x7"]).unwrap();
        assert_eq!((more.initial_version("b"), more.initial_version("x6")), (Some(2), Some(9)));
        assert_eq!(more.initial_version("x7"), None, "there is no number left");
        let versions = [("b", 1, 2), ("a", 2, 11), ("a", 11, 11), ("c", 11, 13), ("c", 19, 23), ("d", 1, 0)];
        for (region, current, next) in versions {
            assert_eq!(known.next_version(region, current).unwrap_or_default(), next, "{region} after {current}");
        }
    }

    #[test]
    fn a_namespace_fails_over_to_and_fro() {
        let known = regions();
        let mut now = Replication::new(&known, "a", names(&["a", "b"])).unwrap();
        assert_eq!((now.failover_version, now.history.len()), (1, 0));
        for (active, version) in [("b", 2), ("a", 11), ("a", 11), ("b", 12)] {
            now = now.changed(&known, &to(active), NamespaceState::Registered, Time(version)).unwrap();
            assert_eq!((now.active.as_str(), now.failover_version), (active, version));
        }
        let history: Vec<_> = now.history.iter().map(|failover| failover.version).collect();
        assert_eq!(history, [2, 11, 12]);
        for round in 0..20 {
            let active = if round % 2 == 0 { "a" } else { "b" };
            now = now.changed(&known, &to(active), NamespaceState::Registered, Time(0)).unwrap();
        }
        assert_eq!((now.history.len(), now.failover_version), (HISTORY_MAX, 112));
    }

    #[test]
    fn what_cannot_be_is_refused_as_in_temporal() {
        let known = regions();
        let new =
            |active: &str, of: &[&str]| Replication::new(&known, active, names(of)).map_err(|why| why.to_string());
        assert_eq!(new("x", &["a"]), Err("Invalid cluster name: x".to_owned()));
        assert_eq!(new("a", &["a", "x"]), Err("Invalid cluster name: x".to_owned()));
        assert_eq!(new("a", &["b"]), Err("Active cluster is not contained in all clusters.".to_owned()));
        let one = new("a", &[]).unwrap();
        assert_eq!(one.regions, ["a"]);
        let handover = ReplicationChange { state: ReplicationState::Handover, ..ReplicationChange::default() };
        let change = |of: &Replication, wanted: &ReplicationChange, state| {
            of.changed(&known, wanted, state, Time(0)).map_err(|why| why.to_string())
        };
        let why = change(&one, &handover, NamespaceState::Registered).unwrap_err();
        assert_eq!(why, "Handover require more than one replication clusters");
        let two = new("a", &["a", "b"]).unwrap();
        assert!(change(&two, &handover, NamespaceState::Registered).unwrap().is_handed_over);
        let why = change(&two, &handover, NamespaceState::Deprecated).unwrap_err();
        assert!(why.ends_with("namespace is in Registered state, current state: Deprecated"), "{why}");
        let local = |wanted: &ReplicationChange| {
            check_local(&known, "a", wanted, NamespaceState::Registered).map_err(|why| why.to_string())
        };
        let of = |of: &[&str]| ReplicationChange { regions: names(of), ..ReplicationChange::default() };
        assert_eq!(local(&of(&["a"])), Ok(()));
        assert_eq!(local(&to("a")), Ok(()));
        assert_eq!(local(&to("b")), Err("Invalid local namespace active cluster".to_owned()));
        assert_eq!(local(&to("x")), Err("Invalid cluster name: x".to_owned()));
        assert_eq!(local(&of(&["a", "b"])), Err("Invalid local namespace clusters".to_owned()));
        assert_eq!(local(&handover), Err("Handover can only be set for global namespace".to_owned()));
    }
}
