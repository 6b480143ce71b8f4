//! Rows that take the place of all rows of a group in one step, however many they are.
//!
//! They are gathered in table files beside the store, and ingested by one call: the first file deletes the group's range, the others hold
//! the position and the rows. RocksDB makes all of them visible and durable together, or none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DB, IngestExternalFileOptions, Options, SstFileWriter};

use super::{APPLIED, Remembered, engine_key, group_range, state_error};
use crate::GroupId;
use crate::state::{Row, StagedRows, StateError, check_row_key, out_of_order};

/// Bytes of rows that are held in memory until they are written to a file.
const FILE_BYTES: usize = 16 << 20;

/// The directory for rows that are gathered, beside the store in `path`. What an earlier process left there is of no use any more.
pub(super) fn staging_directory(path: &Path) -> Result<PathBuf, StateError> {
    let directory = path.with_extension("staged");
    remove(&directory)?;
    Ok(directory)
}

pub(super) struct RocksStaged {
    db: Arc<DB>,
    remembered: Arc<Remembered>,
    options: Options,
    directory: PathBuf,
    group: GroupId,
    files: Vec<PathBuf>,
    /// With the group's prefix.
    rows: Vec<(Vec<u8>, Bytes)>,
    rows_bytes: usize,
    last_key: Bytes,
}

impl RocksStaged {
    pub(super) fn begin(
        db: Arc<DB>,
        remembered: Arc<Remembered>,
        options: &Options,
        directory: PathBuf,
        group: GroupId,
        applied: &[u8],
    ) -> Result<RocksStaged, StateError> {
        remove(&directory)?;
        fs::create_dir_all(&directory).map_err(file_error)?;
        let mut staged = RocksStaged {
            db,
            remembered,
            options: options.clone(),
            directory,
            group,
            files: Vec::new(),
            // Its key is smaller than that of any row.
            rows: vec![(engine_key(group, APPLIED), Bytes::copy_from_slice(applied))],
            rows_bytes: 0,
            last_key: Bytes::new(),
        };
        let old = group_range(group);
        staged.write_file(|writer| writer.delete_range(old.start, old.end))?;
        Ok(staged)
    }

    /// Writes one file, synced.
    fn write_file(
        &mut self,
        fill: impl FnOnce(&mut SstFileWriter<'_>) -> Result<(), rocksdb::Error>,
    ) -> Result<(), StateError> {
        let path = self.directory.join(format!("{:06}.sst", self.files.len()));
        let mut writer = SstFileWriter::create(&self.options);
        writer.open(&path).map_err(state_error)?;
        fill(&mut writer).map_err(state_error)?;
        writer.finish().map_err(state_error)?;
        drop(writer);
        self.files.push(path);
        Ok(())
    }

    fn write_rows(&mut self) -> Result<(), StateError> {
        let rows = std::mem::take(&mut self.rows);
        self.rows_bytes = 0;
        if rows.is_empty() {
            return Ok(());
        }
        self.write_file(|writer| rows.iter().try_for_each(|(key, value)| writer.put(key, value)))
    }
}

impl StagedRows for RocksStaged {
    fn add(&mut self, rows: Vec<Row>) -> Result<(), StateError> {
        for (key, value) in rows {
            check_row_key(&key)?;
            if key <= self.last_key {
                return Err(out_of_order());
            }
            self.rows_bytes += key.len() + value.len();
            self.rows.push((engine_key(self.group, &key), value));
            self.last_key = key;
            if self.rows_bytes >= FILE_BYTES {
                self.write_rows()?;
            }
        }
        Ok(())
    }

    fn install(mut self: Box<Self>) -> Result<(), StateError> {
        self.write_rows()?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let _committing = self.remembered.commits.begin(self.group);
        self.db.ingest_external_file_opts(&options, self.files.clone()).map_err(state_error)?;
        self.remembered.replaced(self.group);
        Ok(())
    }
}

impl Drop for RocksStaged {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.directory) {
            tracing::warn!(%error, "files of rows that were gathered are left behind");
        }
    }
}

fn remove(directory: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(error)),
        _ => Ok(()),
    }
}

fn file_error(error: io::Error) -> StateError {
    StateError(error.to_string())
}
