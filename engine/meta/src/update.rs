//! Changes of a namespace.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use everlog_model::search_attributes;
use everlog_proto::api::enums::v1::{IndexedValueType, NamespaceState};

use everlog_storage::state::RowChange;

use super::archival::{Archival, ArchivalWish};
use super::change::{now, saved};
use super::placements::Placement;
use super::pools::{PlaceGroups, Pool, Sharing, WantedPool, pool_row};
use super::record::{BadBinary, NamespaceRecord};
use super::replication::{Replication, ReplicationChange, check_local};
use super::view::View;
use super::{MetaError, Namespaces};

/// Search attributes that a namespace may have of its own.
const SEARCH_ATTRIBUTES_MAX: usize = 500;

impl Namespaces {
    /// Changes a namespace. `change` is given its record; the record's id and name stay what they are. It is called again when
    /// another change came first.
    ///
    /// # Errors
    ///
    /// [`MetaError::NotFound`], what `change` returns, and see there.
    pub async fn update(
        &self,
        name: &str,
        change: impl Fn(&mut NamespaceChange<'_>) -> Result<(), MetaError>,
    ) -> Result<Arc<NamespaceRecord>, MetaError> {
        self.change_once(|view| {
            let before = view.by_name.get(name).ok_or_else(|| MetaError::NotFound(name.to_owned()))?;
            let mut record = NamespaceRecord::clone(before);
            let mut rows = Vec::new();
            change(&mut NamespaceChange { record: &mut record, view, rows: &mut rows })?;
            if record == **before && rows.is_empty() {
                return Ok((Vec::new(), Arc::clone(before)));
            }
            record.updated = now();
            let (of_namespace, record) = saved(record);
            rows.extend(of_namespace);
            Ok((rows, record))
        })
        .await
    }

    /// Adds search attributes to a namespace. Those that are there keep their types.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] for names that are the system's, and for too many; see there.
    pub async fn add_search_attributes(
        &self,
        name: &str,
        attributes: Vec<(String, IndexedValueType)>,
    ) -> Result<Arc<NamespaceRecord>, MetaError> {
        if let Some((reserved, _)) = attributes.iter().find(|(attribute, _)| search_attributes::is_reserved(attribute))
        {
            return Err(MetaError::Invalid(format!("Search attribute {reserved} is reserved by system.").into()));
        }
        if attributes.iter().any(|(_, kind)| *kind == IndexedValueType::Unspecified) {
            let message =
                "Unable to create search attributes: cannot have more than 0 search attribute of type Unspecified.";
            return Err(MetaError::Invalid(message.into()));
        }
        self.update(name, |change| {
            let known = &mut change.record.search_attributes;
            for (attribute, kind) in &attributes {
                known.entry(attribute.clone()).or_insert(*kind);
            }
            if known.len() > SEARCH_ATTRIBUTES_MAX {
                let message = format!(
                    "Unable to create search attributes: cannot have more than {SEARCH_ATTRIBUTES_MAX} search attributes."
                );
                return Err(MetaError::Invalid(message.into()));
            }
            Ok(())
        })
        .await
    }

    /// Removes search attributes from a namespace; unknown ones are passed over.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] for those of the system; see there.
    pub async fn remove_search_attributes(&self, name: &str, attributes: &[String]) -> Result<(), MetaError> {
        if let Some(reserved) = attributes.iter().find(|attribute| search_attributes::is_reserved(attribute)) {
            let message = format!("Unable to remove non-custom search attributes: {reserved}.");
            return Err(MetaError::Invalid(message.into()));
        }
        self.update(name, |change| {
            change.record.search_attributes.retain(|attribute, _| !attributes.contains(attribute));
            Ok(())
        })
        .await
        .map(|_| ())
    }
}

/// A namespace that is being changed.
pub struct NamespaceChange<'a> {
    record: &'a mut NamespaceRecord,
    view: &'a View,
    /// What else changes with it.
    rows: &'a mut Vec<RowChange>,
}

impl NamespaceChange<'_> {
    /// Its state. Deleted is for ever, and nothing becomes registered again.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] if it may not get that state.
    pub fn set_state(&mut self, state: NamespaceState) -> Result<(), MetaError> {
        use NamespaceState::{Deleted, Deprecated, Registered};
        let allowed = self.record.state == state
            || matches!((self.record.state, state), (Registered, Deprecated | Deleted) | (Deprecated, Deleted));
        if !allowed {
            return Err(MetaError::Invalid("Invalid namespace state update.".into()));
        }
        self.record.state = state;
        Ok(())
    }

    /// How long runs that close from now on are kept.
    pub fn set_retention(&mut self, retention: Duration) {
        self.record.set_retention(retention);
    }

    /// Changes what is archived.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] where that cannot be.
    pub fn set_archival(
        &mut self,
        history: Option<&ArchivalWish>,
        visibility: Option<&ArchivalWish>,
    ) -> Result<(), MetaError> {
        let next = |before: &Archival, wish: Option<&ArchivalWish>| wish.map(|wish| before.next(wish)).transpose();
        let history = next(&self.record.history_archival, history)?;
        let visibility = next(&self.record.visibility_archival, visibility)?;
        self.record.set_archival(history, visibility);
        Ok(())
    }

    /// Whether it is a global one.
    pub fn is_global(&self) -> bool {
        self.record.replication.is_some()
    }

    /// Changes which regions it is in and which one leads, if it is a global one. Namespaces that fail over with it do so now.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] with what Temporal says, [`MetaError::Protected`] if it cannot be in these regions.
    pub fn set_replication(&mut self, wanted: &ReplicationChange) -> Result<(), MetaError> {
        let (view, record) = (self.view, &mut *self.record);
        let known = &view.topology.regions;
        let Some(before) = &record.replication else {
            return check_local(known, &view.topology.home_of(record.pool), wanted, record.state);
        };
        let next = before.changed(known, wanted, record.state, now())?;
        let id = record.namespace.id;
        let are_others = next.regions.iter().collect::<BTreeSet<_>>() != before.regions.iter().collect();
        for pool in view.pools_led_for(record) {
            if are_others {
                self.rows.extend(view.spread_pool(pool, id, &next)?);
            } else if wanted.active.is_some() {
                self.rows.extend(view.fail_over(pool, id, &next));
            }
        }
        record.replication = Some(next);
        Ok(())
    }

    /// Has it be in another placement. What a local namespace has moves to the partitions of others that are there, from now on; the partitions of a
    /// global one are its own, and their replicas move.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] if there is no such placement, [`MetaError::Protected`] if it cannot be there, or moves elsewhere at the moment.
    pub fn set_placement(&mut self, placement: &str, place: &PlaceGroups<'_>) -> Result<(), MetaError> {
        let (view, record) = (self.view, &*self.record);
        let Some(replication) = &record.replication else {
            return self.move_to(&WantedPool::OfPlacement(placement.to_owned()), place);
        };
        let id = view.moves.get(&record.namespace.id).map_or(record.pool, |moving| moving.target(record));
        let Some(pool) = view.topology.pools.get(&id).filter(|pool| pool.placement != placement) else {
            return Ok(());
        };
        if pool.sharing != Sharing::Own {
            let why = format!(
                "namespace {} is in placement {:?} together with all of its failover group: change that placement instead",
                record.name(),
                pool.placement,
            );
            return Err(MetaError::Protected(why.into()));
        }
        view.placement(Some(placement.to_owned()), &replication.regions)?;
        let changed = Pool { placement: placement.to_owned(), ..pool.clone() };
        // Where new groups would be now says whether there are nodes for it.
        place(&view.topology, &changed).map_err(|why| MetaError::Protected(why.into()))?;
        self.rows.push(pool_row(id, &changed));
        Ok(())
    }

    /// Makes a local namespace a global one, in these regions and that placement, if any are named. It moves to partitions that can fail over.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] with what Temporal says, [`MetaError::Protected`] if it cannot be there, or moves elsewhere at the moment.
    pub fn promote(
        &mut self,
        wanted: &ReplicationChange,
        placement: Option<String>,
        failover_group: Option<String>,
        place: &PlaceGroups<'_>,
    ) -> Result<(), MetaError> {
        let (view, record) = (self.view, &*self.record);
        if record.replication.is_some() {
            return Ok(());
        }
        let active = wanted.active.clone().unwrap_or_else(|| view.topology.home_of(record.pool));
        let replication = Replication::new(&view.topology.regions, &active, wanted.regions.clone())?;
        let known = view.topology.all_placements();
        let here = view.topology.placement_in(record.pool);
        let covers = |placement: &Placement| {
            let has = |region| placement.regions.is_empty() || placement.regions.contains_key(region);
            replication.regions.iter().all(has)
        };
        let stays = known.get(here).filter(|placement| covers(placement)).map(|known| known.name.clone());
        let placement = placement.or(stays);
        let regions = replication.active_first();
        self.move_to(&WantedPool::ToFailOver { placement, failover_group, regions }, place)?;
        self.record.replication = Some(replication);
        Ok(())
    }

    /// Has it move to a pool, which is made if it is not there.
    fn move_to(&mut self, wanted: &WantedPool, place: &PlaceGroups<'_>) -> Result<(), MetaError> {
        let (pool, rows) = self.view.pool(wanted, place)?;
        let moves = self.view.move_to(self.record, pool)?;
        self.rows.extend(rows);
        self.rows.extend(moves);
        Ok(())
    }

    /// Sets what is not empty.
    pub fn set_texts(&mut self, description: &str, owner_email: &str) {
        if !description.is_empty() {
            self.record.description = description.to_owned();
        }
        if !owner_email.is_empty() {
            self.record.owner_email = owner_email.to_owned();
        }
    }

    /// Marks binaries of workers as bad, by checksum, with why and who says so.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] if there are more than `count_max` then.
    pub fn add_bad_binaries<'a>(
        &mut self,
        binaries: impl IntoIterator<Item = (&'a String, (&'a String, &'a String))>,
        count_max: usize,
    ) -> Result<(), MetaError> {
        let created = now();
        let known = &mut self.record.bad_binaries;
        known.extend(binaries.into_iter().map(|(checksum, (reason, operator))| {
            let bad = BadBinary { reason: reason.clone(), operator: operator.clone(), created };
            (checksum.clone(), bad)
        }));
        if known.len() > count_max {
            let message = format!("Total resetBinaries cannot exceed the max limit: {count_max}");
            return Err(MetaError::Invalid(message.into()));
        }
        Ok(())
    }

    /// Marks a binary as bad no more.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] if it is not.
    pub fn remove_bad_binary(&mut self, checksum: &str) -> Result<(), MetaError> {
        match self.record.bad_binaries.remove(checksum) {
            Some(_) => Ok(()),
            None => Err(MetaError::Invalid(format!("Bad binary checksum {checksum} doesn't exists.").into())),
        }
    }

    /// Adds and replaces data, key by key.
    pub fn merge_data<'a>(&mut self, data: impl IntoIterator<Item = (&'a String, &'a String)>) {
        self.record.data.extend(data.into_iter().map(|(key, value)| (key.clone(), value.clone())));
    }
}
