//! Queries, which wait in memory alone.

use everlog_kernel::transition::QueryTask;
use everlog_model::{WorkflowRef, limits};
use tokio::time::Instant;

use super::{LeasedQuery, Queue};

impl Queue {
    /// Whether the query was taken in.
    pub(crate) fn offer_query(&mut self, address: WorkflowRef, query: QueryTask, now: Instant) -> bool {
        self.last_used = now;
        if let Some(leased) = self.leased_queries.get_mut(&query.query_id) {
            leased.offered_again = Some((address, query));
            return true;
        }
        let known = self.line.queries.contains_key(&query.query_id)
            || self.sticky.values().any(|sticky| sticky.line.queries.contains_key(&query.query_id));
        if known {
            return true;
        }
        let served = query.sticky.as_ref().and_then(|name| {
            let sticky = self.sticky.get(name)?;
            sticky.line.has_recent_poller(now, limits::STICKY_POLLER_WINDOW).then(|| name.clone())
        });
        let line = match served.as_ref().and_then(|name| self.sticky.get_mut(name)) {
            Some(sticky) => &mut sticky.line,
            None => &mut self.line,
        };
        if line.queries.len() >= limits::QUEUE_QUERIES_MAX {
            tracing::warn!(queue = %self.id.name, "a query is dropped: too many wait for a worker");
            return false;
        }
        line.queries.insert(query.query_id, (address, query));
        match served {
            Some(name) => self.hand_out_sticky(&name, now),
            None => self.hand_out(now),
        }
        true
    }

    pub(crate) fn withdraw_query(&mut self, query_id: u64) {
        self.leased_queries.remove(&query_id);
        self.line.queries.remove(&query_id);
        for sticky in self.sticky.values_mut() {
            sticky.line.queries.remove(&query_id);
        }
    }

    pub(crate) fn give_back_query(&mut self, query_id: u64, lease: u64, now: Instant) {
        if let Some(leased) = self.end_query_lease(query_id, lease) {
            let (address, query) = leased.offered_again.unwrap_or((leased.address, leased.query));
            self.offer_query(address, query, now);
        }
    }

    /// Whether the query is asked on, because it was offered once more since it was leased.
    pub(crate) fn settle_query(&mut self, query_id: u64, lease: u64, now: Instant) -> bool {
        let leased = self.end_query_lease(query_id, lease);
        leased
            .and_then(|leased| leased.offered_again)
            .is_some_and(|(address, query)| self.offer_query(address, query, now))
    }

    fn end_query_lease(&mut self, query_id: u64, lease: u64) -> Option<LeasedQuery> {
        self.leased_queries.get(&query_id).filter(|leased| leased.lease == lease)?;
        self.leased_queries.remove(&query_id)
    }
}
