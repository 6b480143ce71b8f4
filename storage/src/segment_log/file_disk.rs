//! A directory of the operating system.
//!
//! Where the file system allows it, frames are written past the system's cache (`O_DIRECT`), in the blocks of the disk. A small frame is
//! then 512 bytes or a few times that, instead of whole pages, and a sync need not look for what is dirty. Reads go through the cache.
//! Elsewhere whole pages are written, one at a time: the system then need not read a page to change part of it, and does not join
//! pages into larger units that it would write whole for every small change.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::sys::statvfs::statvfs;

use super::blocks::{Blocks, PAGE_BYTES};
use super::disk::{Disk, DiskFile};

/// The file with which the size of blocks is found out. It is there for a moment only.
const PROBE: &str = "probe";

/// A directory of the operating system.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    /// Kept open: a process that has run out of descriptors must still be able to sync it.
    directory: OnceLock<File>,
    /// Blocks that can be written past the system's cache, bytes, if any can.
    block_bytes: OnceLock<Option<usize>>,
}

impl FileDisk {
    /// The directory at `path`, which need not be there yet.
    pub fn new(path: &Path) -> FileDisk {
        FileDisk { path: path.to_owned(), directory: OnceLock::new(), block_bytes: OnceLock::new() }
    }

    /// The same, but everything is written through the system's cache.
    pub fn cached(path: &Path) -> FileDisk {
        FileDisk { path: path.to_owned(), directory: OnceLock::new(), block_bytes: OnceLock::from(None) }
    }

    fn open_with(&self, name: &str, options: &mut OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let cached = options.read(true).write(true).open(&path)?;
        let Some(block_bytes) = *self.block_bytes.get_or_init(|| self.probe()) else {
            return Ok(Arc::new(CachedFile(cached)));
        };
        let direct = open_direct(&path, File::options().write(true))?;
        Ok(Arc::new(DirectFile { direct, cached: CachedFile(cached), block_bytes }))
    }

    /// Finds out which blocks can be written directly. A full disk says nothing about that, so that none are.
    fn probe(&self) -> Option<usize> {
        let path = self.path.join(PROBE);
        let found = open_direct(&path, File::options().create(true).truncate(true).write(true)).ok().and_then(|file| {
            let mut blocks = Blocks::default();
            blocks.extend(&[0; PAGE_BYTES]);
            // The size of pages goes last: what is smaller, and a multiple of what the disk takes, is better.
            let mut sizes = (9..).map(|power| 1 << power).take_while(|size| *size <= PAGE_BYTES);
            sizes.find(|size| file.write_all_at(&blocks.bytes()[..*size], *size as u64).is_ok())
        });
        // What stays is overwritten by the next probe.
        let _ = std::fs::remove_file(path);
        tracing::debug!(block_bytes = ?found, "how the raft log is written past the page cache");
        found
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
        self.open_with(name, &mut File::options())
    }

    fn open_or_create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(name, File::options().create(true).truncate(false))
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

#[cfg(target_os = "linux")]
fn open_direct(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    options.custom_flags(nix::fcntl::OFlag::O_DIRECT.bits()).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path, _options: &mut OpenOptions) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Written through the system's cache.
struct CachedFile(File);

impl DiskFile for CachedFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn block_bytes(&self) -> usize {
        PAGE_BYTES
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut pages = bytes.chunks(PAGE_BYTES).zip((offset..).step_by(PAGE_BYTES));
        pages.try_for_each(|(page, at)| self.0.write_all_at(page, at))
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, length: u64) -> io::Result<()> {
        use nix::errno::Errno;
        use nix::fcntl::{FallocateFlags, fallocate};
        let length = i64::try_from(length).map_err(io::Error::other)?;
        match fallocate(&self.0, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Written past the system's cache, and read through it.
struct DirectFile {
    direct: File,
    cached: CachedFile,
    block_bytes: usize,
}

impl DiskFile for DirectFile {
    fn length(&self) -> io::Result<u64> {
        self.cached.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.cached.read_at(buffer, offset)
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if Blocks::are_aligned(bytes) {
            return self.direct.write_all_at(bytes, offset);
        }
        let mut blocks = Blocks::default();
        blocks.extend(bytes);
        self.direct.write_all_at(blocks.bytes(), offset)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.cached.allocate(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.direct.sync_data()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A log may be written directly in one life and through the cache in the next.
    #[test]
    fn both_ways_of_writing_see_what_the_other_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, cached_disk) = (FileDisk::new(directory.path()), FileDisk::cached(directory.path()));
        let (any, cached) = (disk.open_or_create("file").unwrap(), cached_disk.open("file").unwrap());
        assert_eq!(cached.block_bytes(), PAGE_BYTES);
        assert!(any.block_bytes().is_power_of_two() && any.block_bytes() <= PAGE_BYTES);
        let mut expected = vec![0; 4 * PAGE_BYTES];
        // Behind a byte, so that they are not where a disk wants them in memory.
        let memory: Vec<u8> = (0..=2 * PAGE_BYTES).map(|at| (at / 100) as u8).collect();
        cached.write_at(&expected, 0).unwrap();
        for (file, begin, length) in [
            (&any, any.block_bytes(), any.block_bytes()),
            (&cached, PAGE_BYTES, 2 * PAGE_BYTES),
            (&any, 2 * PAGE_BYTES - any.block_bytes(), 2 * any.block_bytes()),
            (&any, 3 * PAGE_BYTES, PAGE_BYTES),
        ] {
            let bytes = &memory[1..=length];
            file.write_at(bytes, begin as u64).unwrap();
            file.sync_data().unwrap();
            expected[begin..begin + length].copy_from_slice(bytes);
            for reader in [&any, &cached] {
                let mut found = vec![0; expected.len()];
                reader.read_at(&mut found, 0).unwrap();
                assert!(found == expected, "{length} bytes at {begin}");
            }
        }
        assert_eq!(disk.list().unwrap(), ["file"]);
    }
}
