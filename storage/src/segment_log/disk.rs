//! The file system below the log: the few calls that the log makes of it.
//!
//! [`FileDisk`] is a directory of the operating system. [`CrashDisk`](crate::twin::CrashDisk) is one in memory that loses what was
//! not synced. The log's promises rest on what these calls make durable, so it must not reach a file in any other way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

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

    /// Writes all of `bytes` at `offset`; the file grows as needed.
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

/// A directory of the operating system.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    /// Kept open: a process that has run out of descriptors must still be able to sync it.
    directory: OnceLock<File>,
}

impl FileDisk {
    /// The directory at `path`, which need not be there yet.
    pub fn new(path: &Path) -> FileDisk {
        FileDisk { path: path.to_owned(), directory: OnceLock::new() }
    }
}

impl Disk for FileDisk {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn create(&self) -> io::Result<()> {
        if self.path.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.path)?;
        self.path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::options().read(true).write(true).open(self.path(name))?))
    }

    fn open_or_create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        Ok(Arc::new(options.open(self.path(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn sync(&self) -> io::Result<()> {
        if let Some(directory) = self.directory.get() {
            return directory.sync_all();
        }
        let directory = File::open(&self.path)?;
        self.directory.get_or_init(|| directory).sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let found = statvfs(&self.path)?;
        // Their types differ between systems.
        #[allow(clippy::unnecessary_cast, reason = "narrower on some systems")]
        Ok(found.blocks_available() as u64 * found.fragment_size() as u64)
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, length: u64) -> io::Result<()> {
        use nix::fcntl::{FallocateFlags, fallocate};
        let length = i64::try_from(length).map_err(io::Error::other)?;
        match fallocate(self, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
