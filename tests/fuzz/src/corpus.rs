//! The files of a target's corpus: inputs that failed once, and some that led somewhere new.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// Files that `--grow` keeps for a target, and the largest of them.
const FILES_MAX: usize = 64;
const FILE_BYTES_MAX: usize = 4096;

pub(crate) struct Corpus {
    directory: PathBuf,
}

impl Corpus {
    pub(crate) fn of(target: &str) -> Corpus {
        Corpus { directory: Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target) }
    }

    /// All inputs, in the order of their names.
    pub(crate) fn read(&self) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort_unstable();
        paths.into_iter().map(|path| fs::read(&path).map(|bytes| (path, bytes))).collect()
    }

    /// Keeps an input that failed.
    pub(crate) fn keep(&self, why: &str, input: &[u8]) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.directory)?;
        let mut hasher = DefaultHasher::new();
        input.hash(&mut hasher);
        let path = self.directory.join(format!("{why}-{:016x}", hasher.finish()));
        fs::write(&path, input)?;
        Ok(path)
    }

    /// Keeps an input that led somewhere new, if there is room.
    pub(crate) fn grow(&self, input: &[u8]) -> io::Result<()> {
        let files = fs::read_dir(&self.directory).map_or(0, Iterator::count);
        if files < FILES_MAX && input.len() <= FILE_BYTES_MAX {
            self.keep("new", input)?;
        }
        Ok(())
    }
}
