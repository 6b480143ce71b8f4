//! Where namespaces are, as operators see it.

use everlog_meta::{NamespaceRecord, Namespaces};
use everlog_model::SlotSource;
use everlog_proto::cluster::{NamespaceMove, NamespacePlace};

use super::Operations;

/// Namespaces that are looked at in one go.
const PAGE: usize = 1000;

impl Operations {
    /// All namespaces that are not deleted, by name.
    pub(super) fn namespace_places(&self) -> Vec<NamespacePlace> {
        let namespaces = &self.parts.namespaces;
        let (mut places, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = namespaces.list(after.as_deref(), PAGE, false);
            places.extend(page.namespaces.iter().map(|record| place(namespaces, record)));
            match page.next {
                Some(next) => after = Some(next),
                None => return places,
            }
        }
    }
}

fn place(namespaces: &Namespaces, record: &NamespaceRecord) -> NamespacePlace {
    let id = record.namespace.id;
    let moving = namespaces.move_of(id).map(|moving| NamespaceMove {
        to_placement: namespaces.placement_in(moving.target(record)),
        percent: u32::try_from(moving.percent()).unwrap_or_default(),
    });
    let replication = record.replication.as_ref();
    NamespacePlace {
        name: record.name().to_owned(),
        namespace_id: id.to_string(),
        placement: namespaces.placement_in(record.pool),
        group_ids: namespaces.partitions_of(id).into_iter().map(|group| group.0).collect(),
        r#move: moving,
        is_global: replication.is_some(),
        active_region: replication.map(|replication| replication.active.clone()).unwrap_or_default(),
    }
}
