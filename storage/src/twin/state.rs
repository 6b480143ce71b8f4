//! The rows that can crash.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::random_upto;
use crate::GroupId;
use crate::keys::KeyRange;
use crate::state::{
    Attempt, Direction, Row, RowBatch, RowChange, RowsView, StagedRows, StateEngine, StateError, StateSnapshot,
    StateStats, Visitor, check_row_key, out_of_order,
};
use crate::watch::{Follow, Wake, Watch, Watches};

/// A [`StateEngine`] in memory.
pub struct CrashState(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// Notified when writes are no longer held.
    released: Condvar,
    watches: Watches,
}

#[derive(Default)]
struct Inner {
    live: Groups,
    durable: Groups,
    /// What was written since the last flush, in order.
    unflushed: Vec<Write>,
    /// Writes wait, as they do for a disk that does not keep up.
    held: bool,
    /// The next flush fails.
    flush_fails: bool,
    /// Rows that are gathered find no space.
    no_room_for_staged: bool,
    /// Why nothing works any more.
    stopped: Option<StateError>,
    stats: StateStats,
    seed: u64,
}

/// Groups are copied when written to while a snapshot, or the durable copy, shares them.
type Groups = BTreeMap<GroupId, Arc<Group>>;

#[derive(Clone, Default)]
struct Group {
    applied: Option<Bytes>,
    rows: BTreeMap<Bytes, Bytes>,
}

/// One atomic write.
enum Write {
    Commit { group: GroupId, applied: Bytes, batches: Vec<RowBatch> },
    Replace { group: GroupId, content: Arc<Group> },
    Drop { group: GroupId },
}

impl CrashState {
    /// An empty store. `seed` decides what [`CrashState::crash_anywhere`] leaves.
    pub fn new(seed: u64) -> CrashState {
        CrashState::holding(Inner { seed, ..Inner::default() })
    }

    /// Pulls the plug, and returns the rows as a restarted node finds them if nothing but [`StateEngine::flush`] ever wrote to the
    /// disk. This store answers with errors from here on.
    pub fn crash(&self) -> CrashState {
        self.crash_keeping(0)
    }

    /// [`CrashState::crash`] after which as many of the unflushed writes are there, in order, as the seed says: RocksDB may flush
    /// when nobody asked it to.
    pub fn crash_anywhere(&self) -> CrashState {
        let kept = {
            let mut inner = self.0.inner.lock();
            let unflushed = inner.unflushed.len();
            random_upto(&mut inner.seed, unflushed)
        };
        self.crash_keeping(kept)
    }

    /// [`CrashState::crash`] that keeps exactly the first `kept` unflushed writes (or all, if there are fewer).
    pub fn crash_keeping(&self, kept: usize) -> CrashState {
        let mut inner = self.0.inner.lock();
        inner.stopped = Some(StateError("crashed".to_owned()));
        let mut durable = inner.durable.clone();
        for write in inner.unflushed.iter().take(kept) {
            apply(&mut durable, write);
        }
        CrashState::holding(Inner { live: durable.clone(), durable, seed: inner.seed, ..Inner::default() })
    }

    fn holding(inner: Inner) -> CrashState {
        let shared = Shared { inner: Mutex::new(inner), released: Condvar::new(), watches: Watches::default() };
        CrashState(Arc::new(shared))
    }

    /// Keeps whoever writes waiting until [`CrashState::release_writes`].
    pub fn hold_writes(&self) {
        self.0.inner.lock().held = true;
    }

    /// Ends [`CrashState::hold_writes`].
    pub fn release_writes(&self) {
        self.0.inner.lock().held = false;
        self.0.released.notify_all();
    }

    /// Makes the next flush fail, and with it the store.
    pub fn fail_flush(&self) {
        self.0.inner.lock().flush_fails = true;
    }

    /// From now on, or no longer, rows that are gathered find no space on the disk.
    pub fn refuse_staged(&self, refused: bool) {
        self.0.inner.lock().no_room_for_staged = refused;
    }

    /// Number of writes that a crash could lose.
    pub fn unflushed(&self) -> usize {
        self.0.inner.lock().unflushed.len()
    }

    /// What the store has done since it was made.
    pub fn stats(&self) -> StateStats {
        self.0.inner.lock().stats
    }

    fn write(&self, write: Write, rows: usize, bytes: usize) -> Result<(), StateError> {
        let mut inner = self.0.inner.lock();
        self.0.released.wait_while(&mut inner, |inner| inner.held);
        inner.check()?;
        apply(&mut inner.live, &write);
        inner.unflushed.push(write);
        inner.stats.commits += 1;
        inner.stats.rows += rows as u64;
        inner.stats.bytes += bytes as u64;
        Ok(())
    }

    fn group(&self, group: GroupId) -> Result<Arc<Group>, StateError> {
        let inner = self.0.inner.lock();
        inner.check()?;
        Ok(inner.live.get(&group).cloned().unwrap_or_default())
    }
}

impl Inner {
    fn check(&self) -> Result<(), StateError> {
        self.stopped.clone().map_or(Ok(()), Err)
    }
}

impl StateEngine for CrashState {
    fn commit(&self, group: GroupId, applied: &[u8], batches: &[RowBatch]) -> Result<(), StateError> {
        let mut rows = 0;
        for change in batches.iter().flat_map(|batch| &batch.changes) {
            if let RowChange::Put { key, .. } | RowChange::Delete { key } = change {
                check_row_key(key)?;
            }
            rows += 1;
        }
        let bytes = batches.iter().map(RowBatch::encoded_len).sum();
        let commit = Write::Commit { group, applied: Bytes::copy_from_slice(applied), batches: batches.to_vec() };
        self.write(commit, rows, bytes)?;
        self.0.watches.changed(group, batches);
        Ok(())
    }

    fn try_commit(&self, group: GroupId, applied: &[u8], batches: &[RowBatch]) -> Result<Attempt, StateError> {
        if self.0.inner.lock().held {
            return Ok(Attempt::WouldBlock);
        }
        self.commit(group, applied, batches).map(|()| Attempt::Done)
    }

    fn applied(&self, group: GroupId) -> Result<Option<Bytes>, StateError> {
        Ok(self.group(group)?.applied.clone())
    }

    fn get(&self, group: GroupId, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        check_row_key(key)?;
        Ok(self.group(group)?.rows.get(key).cloned())
    }

    fn may_exist(&self, group: GroupId, key: &[u8]) -> bool {
        self.group(group).is_ok_and(|found| found.rows.contains_key(key))
    }

    fn scan(
        &self,
        group: GroupId,
        range: Range<&[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Row>, StateError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let group = self.group(group)?;
        let rows = group
            .rows
            .range::<[u8], _>((Bound::Included(range.start), Bound::Excluded(range.end)))
            .map(|(key, value)| (key.clone(), value.clone()));
        Ok(match direction {
            Direction::Ascending => rows.take(limit).collect(),
            Direction::Descending => rows.rev().take(limit).collect(),
        })
    }

    fn view(&self, group: GroupId, _ranges: &[KeyRange]) -> Result<Box<dyn RowsView>, StateError> {
        Ok(Box::new(CrashSnapshot(self.group(group)?)))
    }

    fn watch(&self, group: GroupId, range: Range<&[u8]>) -> Watch {
        self.0.watches.watch(group, range)
    }

    fn follow(&self, group: GroupId, range: Range<&[u8]>, wake: Wake) -> Follow {
        self.0.watches.follow(group, range, wake)
    }

    fn snapshot(&self, group: GroupId) -> Result<Box<dyn StateSnapshot>, StateError> {
        Ok(Box::new(CrashSnapshot(self.group(group)?)))
    }

    fn replace_group(
        &self,
        group: GroupId,
        applied: &[u8],
        rows: &mut dyn Iterator<Item = Row>,
    ) -> Result<(), StateError> {
        let rows: BTreeMap<Bytes, Bytes> = rows.collect();
        rows.keys().try_for_each(|key| check_row_key(key))?;
        let bytes = rows.iter().map(|(key, value)| key.len() + value.len());
        let (count, bytes) = (rows.len(), bytes.sum());
        let content = Arc::new(Group { applied: Some(Bytes::copy_from_slice(applied)), rows });
        self.write(Write::Replace { group, content }, count, bytes)?;
        self.0.watches.replaced(group);
        Ok(())
    }

    fn stage(&self, group: GroupId, applied: &[u8]) -> Result<Box<dyn StagedRows>, StateError> {
        let content = Group { applied: Some(Bytes::copy_from_slice(applied)), rows: BTreeMap::new() };
        Ok(Box::new(CrashStaged { shared: Arc::clone(&self.0), group, content }))
    }

    fn drop_group(&self, group: GroupId) -> Result<(), StateError> {
        self.write(Write::Drop { group }, 0, 0)?;
        self.0.watches.replaced(group);
        Ok(())
    }

    fn flush(&self) -> Result<(), StateError> {
        let mut inner = self.0.inner.lock();
        inner.check()?;
        if inner.flush_fails {
            let error = StateError("injected flush failure".to_owned());
            inner.stopped = Some(error.clone());
            return Err(error);
        }
        inner.durable = inner.live.clone();
        inner.unflushed.clear();
        inner.stats.flushes += 1;
        Ok(())
    }
}

struct CrashStaged {
    shared: Arc<Shared>,
    group: GroupId,
    content: Group,
}

impl CrashStaged {
    fn check(&self) -> Result<(), StateError> {
        let inner = self.shared.inner.lock();
        inner.check()?;
        match inner.no_room_for_staged {
            true => Err(StateError("No space left on device (injected)".to_owned())),
            false => Ok(()),
        }
    }
}

impl StagedRows for CrashStaged {
    fn add(&mut self, rows: Vec<Row>) -> Result<(), StateError> {
        self.check()?;
        for (key, value) in rows {
            check_row_key(&key)?;
            if self.content.rows.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(out_of_order());
            }
            self.content.rows.insert(key, value);
        }
        Ok(())
    }

    fn install(self: Box<Self>) -> Result<(), StateError> {
        self.check()?;
        let CrashStaged { shared, group, content } = *self;
        let write = Write::Replace { group, content: Arc::new(content) };
        let mut inner = shared.inner.lock();
        shared.released.wait_while(&mut inner, |inner| inner.held);
        inner.check()?;
        apply(&mut inner.live, &write);
        apply(&mut inner.durable, &write);
        // What was written to the group before is not there any more.
        inner.unflushed.retain(|write| write.group() != group);
        drop(inner);
        shared.watches.replaced(group);
        Ok(())
    }
}

impl Write {
    fn group(&self) -> GroupId {
        match self {
            Write::Commit { group, .. } | Write::Replace { group, .. } | Write::Drop { group } => *group,
        }
    }
}

struct CrashSnapshot(Arc<Group>);

impl StateSnapshot for CrashSnapshot {
    fn applied(&self) -> Option<Bytes> {
        self.0.applied.clone()
    }

    fn visit(&self, after: Option<&[u8]>, visit: Visitor<'_>) -> Result<(), StateError> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in self.0.rows.range::<[u8], _>((start, Bound::Unbounded)) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl RowsView for CrashSnapshot {
    fn visit(&self, range: Range<&[u8]>, visit: Visitor<'_>) -> Result<(), StateError> {
        if range.is_empty() {
            return Ok(());
        }
        let rows = self.0.rows.range::<[u8], _>((Bound::Included(range.start), Bound::Excluded(range.end)));
        for (key, value) in rows {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn apply(groups: &mut Groups, write: &Write) {
    match write {
        Write::Commit { group, applied, batches } => {
            let group = Arc::make_mut(groups.entry(*group).or_default());
            group.applied = Some(applied.clone());
            for change in batches.iter().flat_map(|batch| &batch.changes) {
                apply_change(&mut group.rows, change);
            }
        }
        Write::Replace { group, content } => {
            groups.insert(*group, Arc::clone(content));
        }
        Write::Drop { group } => {
            groups.remove(group);
        }
    }
}

fn apply_change(rows: &mut BTreeMap<Bytes, Bytes>, change: &RowChange) {
    match change {
        RowChange::Put { key, value } => {
            rows.insert(key.clone(), value.clone());
        }
        RowChange::Delete { key } => {
            rows.remove(key);
        }
        RowChange::DeleteRange { start, end } => {
            if start < end {
                let mut removed = rows.split_off(start);
                rows.append(&mut removed.split_off(end));
            }
        }
    }
}
