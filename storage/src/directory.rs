//! The data directory of a node: its layout, its format version, and the lock that keeps a second process out.
//!
//! ```text
//! <path>/FORMAT    format version and id of this directory; written last, so its presence means that the rest is there
//! <path>/NODE      which node of which cluster this is, and how often it was started
//! <path>/CLUSTER   what the cluster was founded with, if the node was started as one of several; FORMING before all had agreed
//! <path>/RECOVERING   the cluster that the directory is being made part of, after most of its own was lost
//! <path>/LOCK      locked while a process uses the directory; empty
//! <path>/log/      the log engine's segments
//! <path>/state/    the state engine's RocksDB
//! ```

mod founding;
mod identity;
mod recovery;

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub use founding::{Founding, FoundingMember, Joined, Promise};
pub use identity::NodeIdentity;

/// The newest format that this binary reads, and the one that new directories get. From 3 on formats are only added to, so that a
/// directory is read by every later binary.
///
/// 1 had the log in a RocksDB; 2 had it in segments; 3 has a chain in entries and applied
/// positions, and knows which replicas it holds.
pub const FORMAT_VERSION: u32 = 3;
/// The oldest format that this binary reads.
pub const FORMAT_VERSION_MIN: u32 = 3;

const FORMAT: &str = "FORMAT";
const FORMAT_UNFINISHED: &str = "FORMAT.new";
const NODE: &str = "NODE";
const LOCK: &str = "LOCK";
const LOG: &str = "log";
const STATE: &str = "state";
/// What a directory may hold that becomes a data directory: leftovers of an interrupted creation, and what `mkfs` leaves in the
/// root of a volume.
const ALLOWED_BEFORE: [&str; 5] = [LOCK, LOG, STATE, FORMAT_UNFINISHED, "lost+found"];

/// Why a directory cannot be used. Each is one line that says what is wrong and where.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process, or another open [`DataDirectory`] of this one, has it.
    #[error("data directory {} is in use by another process", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// Written by a version of the binary that is too old or too new.
    #[error("data directory {} has format {found}, but this version of everlog reads {}", path.display(), formats_read())]
    OtherFormat {
        /// The data directory.
        path: PathBuf,
        /// The version in its FORMAT file.
        found: u32,
    },
    /// The FORMAT file makes no sense.
    #[error("{} is not the FORMAT file of an everlog data directory: {why}", path.display())]
    CorruptFormat {
        /// The FORMAT file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The NODE file makes no sense.
    #[error("{} is not the NODE file of an everlog data directory: {why}", path.display())]
    CorruptNode {
        /// The NODE file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is something in the directory, but not a node's data.
    #[error("{} is not an everlog data directory, and not empty either: it holds {found:?}", path.display())]
    NotADataDirectory {
        /// The directory.
        path: PathBuf,
        /// The first file or directory that should not be there.
        found: String,
    },
    /// What was left of its cluster is being made a cluster again, and that was not finished.
    #[error(
        "the recovery of data directory {} was cut off: run `everlog cluster recover apply` with the same plan once more",
        path.display()
    )]
    Recovering {
        /// The data directory.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the file system said.
        source: io::Error,
    },
}

/// A node's data directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    id: uuid::Uuid,
    format: u32,
    _lock: File,
}

impl DataDirectory {
    /// Opens the data directory at `path`; creates it if `path` is missing or empty.
    pub fn open(path: &Path) -> Result<DataDirectory, DirectoryError> {
        let is_new = !exists(path)?;
        std::fs::create_dir_all(path).map_err(io_error(path, "create the directory"))?;
        // Before the lock file is made: a mistyped path must not be littered.
        if !exists(&path.join(FORMAT))? {
            check_may_become_data(path)?;
        }
        let lock = lock(path)?;
        if !exists(&path.join(FORMAT))? {
            create(path)?;
            if is_new && let Some(parent) = path.parent() {
                sync_directory(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
            }
        }
        let (format, id) = read_format(path)?;
        Ok(DataDirectory { path: path.to_owned(), id, format, _lock: lock })
    }

    /// A random id, given to the directory when it was created. A wiped or copied disk is recognised by it.
    pub fn id(&self) -> uuid::Uuid {
        self.id
    }

    /// The format that it was created with.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the log engine's files are.
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Where the state engine's files are.
    pub fn state_path(&self) -> PathBuf {
        self.path.join(STATE)
    }
}

fn check_may_become_data(path: &Path) -> Result<(), DirectoryError> {
    for entry in std::fs::read_dir(path).map_err(io_error(path, "list the directory"))? {
        let entry = entry.map_err(io_error(path, "list the directory"))?;
        let name = entry.file_name();
        let is_allowed = ALLOWED_BEFORE.iter().any(|known| OsStr::new(known) == name);
        if !is_allowed || holds_data(&entry.path())? {
            return Err(DirectoryError::NotADataDirectory {
                path: path.to_owned(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

/// Whether `path` is an engine's directory with something in it. Without a FORMAT file nobody knows what.
fn holds_data(path: &Path) -> Result<bool, DirectoryError> {
    let is_engine = path.ends_with(LOG) || path.ends_with(STATE);
    if !is_engine || !path.is_dir() {
        return Ok(false);
    }
    let mut entries = std::fs::read_dir(path).map_err(io_error(path, "list the directory"))?;
    Ok(entries.next().is_some())
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    let lock_path = path.join(LOCK);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(io_error(&lock_path, "open the lock file"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io_error(&lock_path, "lock the file")(source)),
    }
}

fn create(path: &Path) -> Result<(), DirectoryError> {
    for engine in [LOG, STATE] {
        let engine = path.join(engine);
        std::fs::create_dir_all(&engine).map_err(io_error(&engine, "create the directory"))?;
        sync_directory(&engine)?;
    }
    // Before FORMAT says that they are there.
    sync_directory(path)?;
    let unfinished = path.join(FORMAT_UNFINISHED);
    write_format(&unfinished).map_err(io_error(&unfinished, "write the file"))?;
    let format = path.join(FORMAT);
    std::fs::rename(&unfinished, &format).map_err(io_error(&format, "create the file"))?;
    sync_directory(path)
}

fn write_format(path: &Path) -> io::Result<()> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let id = uuid::Builder::from_random_bytes(random).into_uuid();
    let mut file = File::create(path)?;
    file.write_all(format!("format {FORMAT_VERSION}\nid {id}\n").as_bytes())?;
    file.sync_all()
}

fn read_format(path: &Path) -> Result<(u32, uuid::Uuid), DirectoryError> {
    let format = path.join(FORMAT);
    let corrupt = |why: &str| DirectoryError::CorruptFormat { path: format.clone(), why: why.to_owned() };
    let text = std::fs::read_to_string(&format).map_err(io_error(&format, "read the file"))?;
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let version: u32 = value("format")
        .and_then(|version| version.parse().ok())
        .ok_or_else(|| corrupt("no line \"format <number>\""))?;
    // First: only the version tells what else to expect.
    if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version) {
        return Err(DirectoryError::OtherFormat { path: path.to_owned(), found: version });
    }
    let id = value("id").and_then(|id| id.parse().ok()).ok_or_else(|| corrupt("no line \"id <uuid>\""))?;
    Ok((version, id))
}

fn formats_read() -> String {
    match FORMAT_VERSION_MIN {
        FORMAT_VERSION => format!("format {FORMAT_VERSION}"),
        oldest => format!("formats {oldest} to {FORMAT_VERSION}"),
    }
}

fn exists(path: &Path) -> Result<bool, DirectoryError> {
    path.try_exists().map_err(io_error(path, "look at the path"))
}

/// Makes the entries of a directory durable; a file that was synced can still be lost with its name.
fn sync_directory(path: &Path) -> Result<(), DirectoryError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error(path, "sync the directory"))
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> DirectoryError {
    move |source| DirectoryError::Io { path: path.to_owned(), action, source }
}
