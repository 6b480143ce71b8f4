//! The directory of files that can crash.
//!
//! Everything that was written, and every change of a name, is first in memory only. A sync makes it durable. A power failure keeps of
//! the rest what it likes:
//!
//! - of each sector, any version that was written since the last sync, or the one before;
//! - of a file that grew, the old length, the new one, or one in between;
//! - of changes of names, any that are possible without those that are lost: a file system that writes its journal in order keeps a
//!   prefix, and others promise less.
//!
//! A process that is killed loses nothing of that: its successor reads what was written, whether it is durable or not.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{next_random, random_upto};
use crate::segment_log::{Disk, DiskFile};

/// What a disk writes as a whole, bytes.
const SECTOR_BYTES: usize = 512;

/// A [`Disk`] in memory. Clones share it.
#[derive(Clone)]
pub struct CrashDisk(Arc<Mutex<State>>);

/// A kind of sync, told apart by what it makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// Of a file whose name says that it is a segment.
    Segment,
    /// Of a file that has no such name yet.
    Unnamed,
    /// Of the directory, while a segment's name is new.
    NewName,
    /// Of the directory, while a segment's name is gone.
    OldName,
    /// Of the directory, while it has no changes of this process.
    Names,
}

#[derive(Clone)]
struct State {
    seed: u64,
    /// What a write begins and ends with. It may be another one after a restart.
    block_bytes: usize,
    files: BTreeMap<u64, Inode>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    renamings: Vec<Renaming>,
    /// How many of `renamings` are of earlier processes.
    inherited: usize,
    calls: u64,
    stops_at: Option<u64>,
    fails_at: Option<u64>,
    /// The disk is full for these calls.
    full_at: Range<u64>,
    ignored: Option<SyncKind>,
}

#[derive(Clone, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync.
    writes: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum Renaming {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

/// Whether a call does what it says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// The power fails during the call.
    Stopped,
    Failed,
    Full,
}

impl CrashDisk {
    /// An empty directory. `seed` decides what power failures leave.
    pub fn new(seed: u64) -> CrashDisk {
        let mut seed = seed;
        let block_bytes = any_block_bytes(&mut seed);
        CrashDisk::with(State {
            seed,
            block_bytes,
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamings: Vec::new(),
            inherited: 0,
            calls: 0,
            stops_at: None,
            fails_at: None,
            full_at: 0..0,
            ignored: None,
        })
    }

    fn with(state: State) -> CrashDisk {
        CrashDisk(Arc::new(Mutex::new(state)))
    }

    /// The `calls`th call from now on may or may not be done and is answered with an error, and so are all that follow.
    pub fn stop_after(&self, calls: u64) {
        let mut state = self.0.lock();
        state.stops_at = Some(state.calls + calls);
    }

    /// The `calls`th call from now on that changes something is answered with an I/O error, and what it was to make durable is not.
    pub fn fail_after(&self, calls: u64) {
        let mut state = self.0.lock();
        state.fails_at = Some(state.calls + calls);
    }

    /// For `length` calls from the `calls`th on, what needs space is refused as on a full disk. A write may be done in part.
    pub fn fill_after(&self, calls: u64, length: u64) {
        let mut state = self.0.lock();
        let begin = state.calls + calls;
        state.full_at = begin..begin + length;
    }

    /// Whether some call was answered with an error on purpose.
    pub fn has_failed(&self) -> bool {
        let state = self.0.lock();
        let has_come = |at: Option<u64>| at.is_some_and(|at| state.calls >= at);
        has_come(state.stops_at) || has_come(state.fails_at)
    }

    /// Syncs of this kind do nothing from here on: a test finds that something is lost, or is worth nothing.
    pub fn ignore(&self, kind: SyncKind) {
        self.0.lock().ignored = Some(kind);
    }

    /// The disk as the next process finds it after this one was killed. This one answers with errors from here on.
    pub fn kill(&self) -> CrashDisk {
        let mut state = self.0.lock();
        let mut after = state.clone();
        (after.stops_at, after.fails_at, after.full_at) = (None, None, 0..0);
        after.inherited = after.renamings.len();
        after.block_bytes = any_block_bytes(&mut after.seed);
        state.stops_at = Some(0);
        CrashDisk::with(after)
    }

    /// The disk as it is found after a power failure. This one answers with errors from here on.
    pub fn lose_power(&self) -> CrashDisk {
        let mut state = self.0.lock();
        state.stops_at = Some(0);
        let mut after = state.clone();
        drop(state);
        (after.stops_at, after.fails_at, after.full_at) = (None, None, 0..0);
        after.lose();
        CrashDisk::with(after)
    }

    fn file(&self, id: u64) -> Arc<dyn DiskFile> {
        Arc::new(CrashFile { disk: self.0.clone(), id })
    }

    fn change(&self, renaming: Renaming) -> io::Result<()> {
        let mut state = self.0.lock();
        let fate = if matches!(renaming, Renaming::Create(..)) { state.call_for_space() } else { state.call() };
        if fate == Fate::Done || fate == Fate::Stopped && !state.is_over() {
            if !apply(&mut state.names, &renaming) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.renamings.push(renaming);
        }
        fate.result()
    }
}

impl State {
    /// Counts a call, and decides what becomes of it.
    fn call(&mut self) -> Fate {
        self.calls += 1;
        if self.stops_at.is_some_and(|stops_at| self.calls >= stops_at) {
            Fate::Stopped
        } else if self.fails_at == Some(self.calls) {
            Fate::Failed
        } else {
            Fate::Done
        }
    }

    /// The same for a call that needs space.
    fn call_for_space(&mut self) -> Fate {
        match self.call() {
            Fate::Done if self.full_at.contains(&self.calls) => Fate::Full,
            fate => fate,
        }
    }

    /// Whether the power was off before this call.
    fn is_over(&self) -> bool {
        self.stops_at.is_some_and(|stops_at| self.calls > stops_at)
    }

    fn one_in(&mut self, bound: usize) -> bool {
        random_upto(&mut self.seed, bound - 1) == 0
    }

    /// Whether a sync that ends this way has an effect.
    fn syncs(&mut self, fate: Fate, kind: SyncKind) -> bool {
        let happens = match fate {
            Fate::Done => true,
            Fate::Stopped => !self.is_over() && self.one_in(2),
            Fate::Failed | Fate::Full => false,
        };
        happens && self.ignored != Some(kind)
    }

    fn directory_sync_kind(&self) -> SyncKind {
        let is_segment = |name: &String| name.ends_with(".seg");
        match self.renamings[self.inherited.min(self.renamings.len())..].last() {
            Some(Renaming::Rename(_, to)) if is_segment(to) => SyncKind::NewName,
            Some(Renaming::Rename(from, _) | Renaming::Remove(from)) if is_segment(from) => SyncKind::OldName,
            _ => SyncKind::Names,
        }
    }

    fn lose(&mut self) {
        let seed = &mut self.seed;
        self.block_bytes = any_block_bytes(seed);
        let mut names = self.durable_names.clone();
        let all = std::mem::take(&mut self.renamings);
        let kept = random_upto(seed, all.len());
        let in_order = random_upto(seed, 1) == 0;
        for (position, renaming) in all.into_iter().enumerate() {
            if if in_order { position < kept } else { random_upto(seed, 1) == 0 } {
                apply(&mut names, &renaming);
            }
        }
        self.files.retain(|id, _| names.values().any(|named| named == id));
        self.files.values_mut().for_each(|file| file.lose(seed));
        (self.names, self.durable_names, self.inherited) = (names.clone(), names, 0);
    }
}

/// Whether it was possible.
fn apply(names: &mut BTreeMap<String, u64>, renaming: &Renaming) -> bool {
    match renaming {
        Renaming::Create(name, file) => names.insert(name.clone(), *file).is_none(),
        Renaming::Rename(from, to) => names.remove(from).map(|file| names.insert(to.clone(), file)).is_some(),
        Renaming::Remove(name) => names.remove(name).is_some(),
    }
}

impl Inode {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.bytes, offset, bytes);
        self.writes.push((offset, bytes.to_vec()));
    }

    fn sync(&mut self) {
        for (offset, bytes) in self.writes.drain(..) {
            put(&mut self.durable, offset, &bytes);
        }
    }

    /// After a failed sync the system takes what was written for clean, whether or not it has reached the disk.
    fn forget_writes(&mut self, seed: &mut u64) {
        let odds = [0, 100, 50][random_upto(seed, 2)];
        // Later writes overwrite earlier ones, so that any version of a sector may be the last one that is kept.
        for (offset, bytes) in std::mem::take(&mut self.writes) {
            for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                if random_upto(seed, 99) < odds {
                    put(&mut self.durable, offset + number * SECTOR_BYTES, sector);
                }
            }
        }
    }

    fn lose(&mut self, seed: &mut u64) {
        let length = match random_upto(seed, 3) {
            0 => self.durable.len(),
            1 => {
                let grown = self.bytes.len() - self.durable.len();
                self.durable.len() + random_upto(seed, grown / SECTOR_BYTES) * SECTOR_BYTES
            }
            _ => self.bytes.len(),
        };
        self.forget_writes(seed);
        self.durable.resize(length, 0);
        self.bytes.clone_from(&self.durable);
    }
}

/// What a system may ask of writes: sectors if they leave its cache out, else pages.
fn any_block_bytes(seed: &mut u64) -> usize {
    [SECTOR_BYTES, 4096][random_upto(seed, 1)]
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() == offset {
        return file.extend_from_slice(bytes);
    }
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

impl Fate {
    fn result(self) -> io::Result<()> {
        match self {
            Fate::Done => Ok(()),
            Fate::Stopped => Err(io::Error::other("the power has failed")),
            Fate::Failed => Err(io::Error::other("injected I/O error")),
            Fate::Full => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

impl Disk for CrashDisk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }

    fn create(&self) -> io::Result<()> {
        self.0.lock().call().result()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.0.lock();
        state.call().result()?;
        let mut names: Vec<String> = state.names.keys().cloned().collect();
        // A file system lists in an order of its own.
        let turn = next_random(&mut state.seed) as usize % names.len().max(1);
        names.rotate_left(turn);
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.call().result()?;
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(id))
    }

    fn open_or_create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let found = self.0.lock().names.get(name).copied();
        if found.is_some() {
            return self.open(name);
        }
        let id = {
            let mut state = self.0.lock();
            state.next_file += 1;
            let id = state.next_file;
            state.files.insert(id, Inode::default());
            id
        };
        self.change(Renaming::Create(name.to_owned(), id))?;
        Ok(self.file(id))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(Renaming::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(Renaming::Remove(name.to_owned()))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        let fate = state.call();
        let kind = state.directory_sync_kind();
        if state.syncs(fate, kind) {
            state.durable_names = state.names.clone();
            state.renamings.clear();
            state.inherited = 0;
        }
        fate.result()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.0.lock();
        Ok(if state.full_at.contains(&state.calls) { 0 } else { u64::MAX })
    }
}

struct CrashFile {
    disk: Arc<Mutex<State>>,
    id: u64,
}

impl CrashFile {
    fn with<T>(&self, run: impl FnOnce(&mut State, &mut Inode) -> T) -> T {
        let mut state = self.disk.lock();
        // Gone only after a power failure, and then every call fails.
        let mut file = state.files.remove(&self.id).unwrap_or_default();
        let result = run(&mut state, &mut file);
        state.files.insert(self.id, file);
        result
    }
}

impl DiskFile for CrashFile {
    fn length(&self) -> io::Result<u64> {
        self.with(|state, file| state.call().result().map(|()| file.bytes.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|state, file| {
            state.call().result()?;
            let offset = offset as usize;
            let found = file.bytes.get(offset..offset + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(found);
            Ok(())
        })
    }

    fn block_bytes(&self) -> usize {
        self.disk.lock().block_bytes
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state, file| {
            let is_whole = |length: usize| length.is_multiple_of(state.block_bytes);
            assert!(is_whole(offset as usize) && is_whole(bytes.len()), "{} bytes at {offset}", bytes.len());
            let fate = state.call();
            if !state.is_over() {
                let written =
                    if fate == Fate::Failed { random_upto(&mut state.seed, bytes.len()) } else { bytes.len() };
                file.write(offset as usize, &bytes[..written]);
            }
            fate.result()
        })
    }

    fn allocate(&self, _length: u64) -> io::Result<()> {
        self.with(|state, _| state.call_for_space().result())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, file| {
            let fate = state.call();
            let is_segment = state.names.iter().any(|(name, id)| *id == self.id && name.ends_with(".seg"));
            if state.syncs(fate, if is_segment { SyncKind::Segment } else { SyncKind::Unnamed }) {
                file.sync();
            } else if fate == Fate::Failed {
                file.forget_writes(&mut state.seed);
            }
            fate.result()
        })
    }
}
