//! What travels from one replica's state machine to another's when the log between them is gone.
//!
//! A snapshot is a view of the sender's rows, read lazily. How it travels is in [`crate::seed`].

use std::io;

use everlog_storage::state::{Row, StateSnapshot};

use crate::chain::Chain;
use crate::encoding;

/// A snapshot of one group's rows.
pub(crate) enum GroupSnapshot {
    /// Only a position: this replica keeps its rows on disk, so a snapshot that nobody receives holds no data.
    Position,
    /// A view of this replica's rows.
    View(Box<dyn StateSnapshot>),
}

impl GroupSnapshot {
    /// The chain as of the rows.
    pub(crate) fn chain(&self) -> io::Result<Chain> {
        let position = match self {
            GroupSnapshot::Position => None,
            GroupSnapshot::View(view) => view.applied(),
        };
        Ok(position
            .as_deref()
            .map(encoding::decode_position)
            .transpose()?
            .map(|position| position.chain)
            .unwrap_or_default())
    }

    /// All rows. Blocks on the disk.
    pub(crate) fn rows(self) -> io::Result<Vec<Row>> {
        match self {
            GroupSnapshot::Position => Ok(Vec::new()),
            GroupSnapshot::View(view) => view.rows(None, usize::MAX).map_err(io::Error::other),
        }
    }
}

#[cfg(test)]
mod tests {
    use everlog_storage::GroupId;
    use everlog_storage::state::{RowBatch, StateEngine};
    use everlog_storage::twin::CrashState;

    use super::*;

    #[test]
    fn a_view_holds_all_rows() {
        let group = GroupId(1);
        let state = CrashState::new(1);
        let mut batch = RowBatch::new();
        for i in 0..5_000_u32 {
            batch.put([&[2], &i.to_be_bytes()[..]].concat(), vec![i as u8; 700]);
        }
        state.commit(group, b"position", &[batch]).unwrap();
        let rows = GroupSnapshot::View(state.snapshot(group).unwrap()).rows().unwrap();
        assert_eq!(rows.len(), 5_000);
    }
}
