//! Who waits for updates of a run: callers, told of every step once its rows are durable.

use everlog_kernel::command::{UpdateReply, UpdateStatus};
use everlog_kernel::{Rejection, RunId};
use everlog_model::{CallError, EntityRef, limits};

use super::super::job::NewsTo;
use super::{Lead, Outgoing};

/// Who waits for an update.
pub(super) struct Follower {
    update_id: String,
    news: NewsTo,
}

impl Lead {
    /// Has a caller told what becomes of an update that has no outcome yet.
    pub(super) fn follow(&mut self, key: &EntityRef, update: &UpdateReply, news: NewsTo) {
        if !matches!(update.status, UpdateStatus::Admitted | UpdateStatus::Accepted) {
            return;
        }
        let followers = self.followers.entry((key.clone(), update.run_id)).or_default();
        followers.retain(|follower| !follower.news.is_closed());
        // One too many is not kept: its channel closes, and its caller asks again.
        if followers.len() < limits::RUN_WATCHERS_MAX {
            followers.push(Follower { update_id: update.update_id.clone(), news });
        }
    }

    /// Tells those who wait for an update how far it has come, once the batch is durable with which it did.
    pub(super) fn update_advanced(
        &mut self,
        key: EntityRef,
        run_id: RunId,
        update_id: &str,
        status: Result<UpdateStatus, Rejection>,
        last_batch: u64,
    ) {
        let of_run = (key, run_id);
        let Some(followers) = self.followers.get_mut(&of_run) else { return };
        let goes_on = status == Ok(UpdateStatus::Accepted);
        let concerned: Vec<_> = followers.iter().filter(|follower| follower.update_id == update_id).collect();
        let news: Vec<NewsTo> = concerned.into_iter().map(|follower| follower.news.clone()).collect();
        if !goes_on {
            followers.retain(|follower| follower.update_id != update_id);
        }
        if followers.is_empty() {
            self.followers.remove(&of_run);
        }
        let status = status.map_err(CallError::Rejected);
        for to in news {
            self.when_durable(last_batch, Outgoing::News(to, status.clone()));
        }
    }

    /// Forgets followers that have gone, of all runs.
    pub(super) fn sweep_followers(&mut self) {
        self.followers.retain(|_, followers| {
            followers.retain(|follower| !follower.news.is_closed());
            !followers.is_empty()
        });
    }
}
