//! Looks at how much the disk has left, so that new work is refused before there is no room for the old.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use everlog_cluster::DiskFigures;
use everlog_model::{DiskRoom, limits};
use everlog_storage::directory::DataDirectory;
use everlog_storage::log::LogEngine;
use nix::sys::statvfs::statvfs;

use crate::settings::Disk;

/// The disk of a data directory.
#[derive(Clone)]
pub struct DiskWatch {
    /// Where the data is.
    pub path: PathBuf,
    /// The log may be held up for other reasons than the file system tells.
    pub log: Arc<dyn LogEngine>,
    /// From when on there is too little.
    pub marks: Disk,
    /// Who is told.
    pub room: Arc<DiskRoom>,
}

impl DiskWatch {
    /// Looks once.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn look(&self) -> io::Result<()> {
        let found = statvfs(&self.path)?;
        let unit = found.fragment_size();
        let (free, total) = (found.blocks_available() * unit, found.blocks() * unit);
        let log = self.log.room().map_err(io::Error::other)?;
        let free = free.min(log.free_bytes);
        let mark = self.marks.mark(total);
        metrics::gauge!("everlog_disk_free_bytes").set(free as f64);
        metrics::gauge!("everlog_disk_mark_bytes").set(mark as f64);
        let has_changed = self.note(free, mark, log.is_held);
        match (has_changed, self.room.shortage().is_some()) {
            (true, true) => {
                tracing::error!(
                    free,
                    mark,
                    is_held = log.is_held,
                    "the disk has no room for new work, which is refused"
                );
            }
            (true, false) => tracing::info!(free, "the disk has room again"),
            (false, _) => {}
        }
        Ok(())
    }

    /// Takes note of the room, and says so in metrics. Whether it has become short, or is short no more.
    fn note(&self, free: u64, mark: u64, is_held: bool) -> bool {
        let has_changed = self.room.note(free, mark, is_held);
        metrics::gauge!("everlog_disk_short").set(if self.room.shortage().is_some() { 1.0 } else { 0.0 });
        has_changed
    }

    /// Looks again and again.
    pub async fn run(self) {
        let mut interval = tokio::time::interval(limits::DISK_LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let watch = self.clone();
            // The file system may hang, and others wait for the log's lock.
            match tokio::task::spawn_blocking(move || watch.look()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    // The directory is gone, for example: what is accepted now might be lost.
                    if self.note(0, 0, true) {
                        tracing::error!(%error, "the room on the disk is not known, and new work is refused");
                    }
                }
                // A panic in there is logged by its thread.
                Err(_) => {}
            }
        }
    }
}

/// What looks at how much the data in a directory takes.
pub(crate) fn figures(directory: &DataDirectory) -> Arc<dyn Fn() -> DiskFigures + Send + Sync> {
    let (log, rows) = (directory.log_path(), directory.state_path());
    Arc::new(move || {
        let room = statvfs(&log).ok();
        let bytes = |blocks: u64| room.map_or(0, |room| blocks * room.fragment_size());
        DiskFigures {
            log_bytes: taken(&log),
            rows_bytes: taken(&rows),
            free_bytes: bytes(room.map_or(0, |room| room.blocks_available())),
            total_bytes: bytes(room.map_or(0, |room| room.blocks())),
        }
    })
}

/// What the files in a directory take on the disk, bytes. Files that go meanwhile count as nothing.
fn taken(directory: &Path) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let metadata = entries.filter_map(|entry| entry.ok()?.metadata().ok());
    metadata.map(|metadata| metadata.blocks() * BLOCK_BYTES).sum()
}
