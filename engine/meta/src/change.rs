//! How the metadata is changed: through the log of the meta group.
//!
//! A change is decided on a view and applied only if nothing came between, whichever node makes it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use everlog_kernel::Time;
use everlog_raft::{AppliedChain, ChainPosition, EntryStamp, Group, Hlc, Leadership, ProposeError, ReadConsistency};
use everlog_storage::keys::{MetaKind, meta_row};
use everlog_storage::state::{RowBatch, RowChange};

use super::record::NamespaceRecord;
use super::view::View;
use super::{MetaError, Namespaces};

/// How long a change waits for leadership of the meta group and for its entry to be applied.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a change waits to be led here before it looks whether another node leads.
const ELECTION_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long until a change is decided again that came too late or met no leader.
const CHANGE_AGAIN_WAIT: Duration = Duration::from_millis(5);

impl Namespaces {
    /// Makes the changes that `decide` wants on what it is shown, and returns what it returns with them once they are applied and
    /// shown here. Whoever came first with another change made `decide`'s view an old one, so it is asked again.
    pub(super) async fn change<T>(
        &self,
        decide: impl Fn(&View) -> Result<(Vec<RowChange>, T), MetaError>,
    ) -> Result<T, MetaError> {
        let attempts = async {
            let _turn = self.changing.lock().await;
            loop {
                if let Some(outcome) = self.try_change(&decide).await? {
                    return Ok(outcome);
                }
                tokio::time::sleep(CHANGE_AGAIN_WAIT).await;
            }
        };
        match tokio::time::timeout(CHANGE_WAIT_MAX, attempts).await {
            Ok(outcome) => outcome,
            Err(_) => Err(MetaError::Unavailable("the metadata group does not answer".to_owned())),
        }
    }

    /// `None` if the changes were surely not made and `decide` is to look again.
    async fn try_change<T>(
        &self,
        decide: &impl Fn(&View) -> Result<(Vec<RowChange>, T), MetaError>,
    ) -> Result<Option<T>, MetaError> {
        let group = self.group.read().clone();
        if let Some(leader) = self.leader() {
            return Err(MetaError::LedElsewhere(leader));
        }
        let term = match self.me {
            None => until_led(&group).await?,
            // Another node may be elected meanwhile.
            Some(_) => match tokio::time::timeout(ELECTION_LOOK_INTERVAL, until_led(&group)).await {
                Ok(term) => term?,
                Err(_) => return Ok(None),
            },
        };
        let view = self.view_at(group.applied_chain().position).await?;
        let (changes, outcome) = match decide(&view) {
            Ok((changes, outcome)) if !changes.is_empty() => (changes, outcome),
            decided => {
                let is_latest = self.me.is_none() || is_latest(&group, view.position).await;
                return if is_latest { decided.map(|(_, outcome)| Some(outcome)) } else { Ok(None) };
            }
        };
        // The entry is applied only if it follows the last one of the view: this is the comparison of versions, for all rows at once.
        let hlc = Hlc(u64::try_from(now().0).unwrap_or(0));
        let chain = AppliedChain { position: view.position, hlc }.next_in(term);
        let proposed = group.propose(EntryStamp { chain, hlc }, RowBatch { changes });
        let result = match proposed {
            Ok(applied) => applied.await.unwrap_or(Err(ProposeError::Unknown(group.id()))),
            Err(error) => Err(error),
        };
        match result {
            Ok(_) => self.view_at(chain).await.map(|_| Some(outcome)),
            Err(ProposeError::Skipped(_) | ProposeError::NotLeader(_)) => Ok(None),
            Err(error) => Err(MetaError::Unavailable(error.to_string())),
        }
    }

    /// The view, once it has what was applied at `position`.
    pub(super) async fn view_at(&self, position: ChainPosition) -> Result<Arc<View>, MetaError> {
        self.refresh.notify_one();
        let mut view = self.view.clone();
        let reached = view.wait_for(|view| view.position >= position).await;
        reached.map(|view| Arc::clone(&view)).map_err(|_| MetaError::Unavailable("the server stops".to_owned()))
    }
}

/// The row that keeps a record, and the record.
pub(super) fn saved(record: NamespaceRecord) -> (Vec<RowChange>, Arc<NamespaceRecord>) {
    let key = meta_row(MetaKind::Namespace, &record.namespace.id.0);
    (vec![RowChange::Put { key, value: record.encode().into() }], Arc::new(record))
}

/// Whether nothing was applied behind a position that somebody was told of. What changes nothing, or is refused, is decided on that alone; a change
/// would be skipped that came too late.
async fn is_latest(group: &Group, position: ChainPosition) -> bool {
    // If that fails another one may lead, which is seen next.
    let confirmed = group.read_barrier(ReadConsistency::Lease).await;
    confirmed.is_ok() && group.applied_chain().position == position
}

/// Waits until this node leads the group, and says in which term.
pub(super) async fn until_led(group: &Group) -> Result<u64, MetaError> {
    let mut leadership = group.leadership();
    let led = leadership.wait_for(|now| !matches!(now, Leadership::Follower)).await.map(|now| *now);
    match led {
        Ok(Leadership::Leader { term }) => Ok(term),
        _ => Err(MetaError::Unavailable("the metadata group has stopped".to_owned())),
    }
}

pub(super) fn now() -> Time {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
}
