//! The file system below the log: the few calls that the log makes of it.
//!
//! [`FileDisk`](super::FileDisk) is a directory of the operating system. [`CrashDisk`](crate::twin::CrashDisk) is one in memory that
//! loses what was not synced. The log's promises rest on what these calls make durable, so it must not reach a file in any other way.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;

/// One directory. Files have names without a path. A change of a name is durable only after [`Disk::sync`].
pub trait Disk: Send + Sync + 'static {
    /// Where a file is, for messages.
    fn path(&self, name: &str) -> PathBuf;

    /// Makes the directory if it is missing, and makes it durable.
    fn create(&self) -> io::Result<()>;

    /// The names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a file, or opens the one that has the name.
    fn open_or_create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name that no file has.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Those who have it open can still read it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all names durable.
    fn sync(&self) -> io::Result<()>;

    /// Bytes that the file system has left for this process.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file. What is written is durable only after a sync.
pub trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on; an error if the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// What is written as a whole, bytes; a power of two of at most a page of 4096.
    fn block_bytes(&self) -> usize;

    /// Writes all of `bytes` at `offset`; the file grows as needed. Both begin and end with a block.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Sees to it that the first `length` bytes can be written without running out of space. Neither changes the file's length nor
    /// what is in it. A file system that cannot promise that does nothing.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Makes what was written durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// Whether a call was refused before it did anything for want of space or descriptors, so that it may be tried again. That is not so of a
/// sync, whatever its error is called.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    const DESCRIPTORS: [Errno; 2] = [Errno::EMFILE, Errno::ENFILE];
    matches!(error.kind(), StorageFull | QuotaExceeded)
        || error.raw_os_error().is_some_and(|code| DESCRIPTORS.contains(&Errno::from_raw(code)))
}
