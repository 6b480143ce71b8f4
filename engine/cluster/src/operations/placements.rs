//! What operators say of placements, and are told of them.

use std::collections::BTreeMap;
use std::time::Duration;

use everlog_meta::{Placement, Reads, STALE_MAX_DEFAULT, Spread};
use everlog_proto::cluster::apply_placements_response::Move;
use everlog_proto::cluster::{
    self as api, ApplyPlacementsRequest, ApplyPlacementsResponse, PlacementReads, PlacementSpread,
};
use everlog_proto::internal::SteerRequest;
use everlog_storage::GroupId;
use tonic::Status;

use super::{METADATA, Operations, count};
use crate::{Moved, Picture, Places};

impl Operations {
    /// Has placements be so from now on, unless that is only to be planned.
    pub(super) async fn apply_placements(
        &self,
        places: &Places,
        request: ApplyPlacementsRequest,
    ) -> Result<ApplyPlacementsResponse, Status> {
        let ApplyPlacementsRequest { placements, only_plan } = request;
        if placements.is_empty() {
            return Err(Status::invalid_argument("no placement is named"));
        }
        let placements: Vec<_> = placements.into_iter().map(placement).collect::<Result<_, _>>()?;
        let (moves, warnings) = places.foresee(&placements).map_err(Status::failed_precondition)?;
        if !only_plan {
            let rows = placements.iter().map(Placement::encode).collect();
            self.change(SteerRequest { placements: rows, ..SteerRequest::default() }).await?;
        }
        Ok(ApplyPlacementsResponse { moves: moves.into_iter().map(moved).collect(), warnings })
    }

    /// Has those of these placements be so that the metadata do not say anything of.
    ///
    /// # Errors
    ///
    /// When they are not. It may be tried again.
    pub async fn found_placements(&self, placements: &[api::Placement]) -> Result<(), Status> {
        let places = self.places()?;
        let known = &places.topology().placements;
        let placements: Vec<_> =
            placements.iter().filter(|placement| !known.contains_key(&placement.name)).cloned().collect();
        if placements.is_empty() {
            return Ok(());
        }
        self.apply_placements(places, ApplyPlacementsRequest { placements, only_plan: false }).await.map(drop)
    }

    /// Has a placement be no more.
    pub(super) async fn delete_placement(&self, name: String) -> Result<(), Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument("name is not set"));
        }
        self.change(SteerRequest { deleted_placement: name, ..SteerRequest::default() }).await
    }
}

/// The placements of a cluster.
pub(super) fn list(picture: &Picture) -> Vec<api::Placement> {
    let partitions = picture.groups.iter().filter(|(group, _)| **group != METADATA);
    let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (group, row) in partitions {
        let (all, moving) = groups.entry(&picture.placement_of(*group).name).or_default();
        *all += 1;
        *moving += usize::from(!row.is_settled);
    }
    let shown = |placement: &Placement| {
        let (all, moving) = groups.get(placement.name.as_str()).copied().unwrap_or_default();
        let Placement { name, replicas, spread, regions, learners, leaders, reads, stale_max, constraints } =
            placement.clone();
        let reads = match reads {
            Reads::Lease => PlacementReads::Lease,
            Reads::Linearizable => PlacementReads::Linearizable,
            Reads::Stale => PlacementReads::Stale,
        };
        let spread = match spread {
            Spread::Node => PlacementSpread::Node,
            Spread::Zone => PlacementSpread::Zone,
            Spread::Region => PlacementSpread::Region,
        };
        api::Placement {
            name,
            replicas,
            spread: spread as i32,
            regions: regions.into_iter().collect(),
            learners: learners.into_iter().collect(),
            leaders,
            reads: reads as i32,
            stale_max_ms: u64::try_from(stale_max.as_millis()).unwrap_or(u64::MAX),
            constraints,
            groups: count(all),
            moving_groups: count(moving),
        }
    };
    picture.placements.values().map(shown).collect()
}

/// Whether a placement can be carried out by any cluster.
///
/// # Errors
///
/// One line that says what is wrong and what is allowed.
pub fn check_placement(asked: &api::Placement) -> Result<(), String> {
    placement(asked.clone()).map(drop).map_err(|status| status.message().to_owned())
}

fn placement(asked: api::Placement) -> Result<Placement, Status> {
    let unknown =
        |field: &str| Status::invalid_argument(format!("placement {}: {field} is not known here", asked.name));
    let spread = match PlacementSpread::try_from(asked.spread) {
        Ok(PlacementSpread::Node) => Spread::Node,
        Ok(PlacementSpread::Zone | PlacementSpread::Unspecified) => Spread::Zone,
        Ok(PlacementSpread::Region) => Spread::Region,
        Err(_) => return Err(unknown("spread")),
    };
    let reads = match PlacementReads::try_from(asked.reads) {
        Ok(PlacementReads::Lease | PlacementReads::Unspecified) => Reads::Lease,
        Ok(PlacementReads::Linearizable) => Reads::Linearizable,
        Ok(PlacementReads::Stale) => Reads::Stale,
        Err(_) => return Err(unknown("reads")),
    };
    let stale_max = match asked.stale_max_ms {
        0 if reads == Reads::Stale => STALE_MAX_DEFAULT,
        ms => Duration::from_millis(ms),
    };
    let api::Placement { name, replicas, regions, learners, leaders, constraints, .. } = asked;
    let (regions, learners) = (regions.into_iter().collect(), learners.into_iter().collect());
    let placement = Placement { name, replicas, spread, regions, learners, leaders, reads, stale_max, constraints };
    placement.check().map_err(Status::invalid_argument)?;
    Ok(placement)
}

fn moved(Moved { group: GroupId(group_id), from, to }: Moved) -> Move {
    let ids = |nodes: Vec<everlog_model::NodeId>| nodes.into_iter().map(|node| node.0).collect();
    Move { group_id, from_node_ids: ids(from), to_node_ids: ids(to) }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn what_is_asked_for_is_what_is_shown() {
        let asked = api::Placement {
            name: "eu".to_owned(),
            replicas: 3,
            spread: PlacementSpread::Region as i32,
            regions: [("a".to_owned(), 2), ("b".to_owned(), 1)].into(),
            learners: [("c".to_owned(), 1)].into(),
            leaders: vec!["b".to_owned()],
            reads: PlacementReads::Linearizable as i32,
            constraints: vec!["disk=ssd".to_owned()],
            ..api::Placement::default()
        };
        let taken = placement(asked.clone()).unwrap();
        let mut topology = everlog_meta::Topology::default();
        topology.placements.insert("eu".to_owned(), taken);
        let founding = crate::placing::tests::founding(3, 4);
        let shown = list(&Picture::new(&founding, &topology));
        assert_eq!(shown[1], asked);
        let default = &shown[0];
        assert_eq!((default.name.as_str(), default.replicas, default.groups), ("default", 3, 4));
        for bad in [
            api::Placement { replicas: 4, ..asked.clone() },
            api::Placement { spread: 77, ..asked.clone() },
            api::Placement { reads: 77, ..asked },
        ] {
            assert_eq!(placement(bad).unwrap_err().code(), Code::InvalidArgument);
        }
    }
}
