//! The descriptors that the process may have, and who has how many.
//!
//! Connections take what clients like, and each new segment of the log and each table of rows takes one too, without which the node
//! cannot go on. So a part is kept back from connections.

use everlog_model::limits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many descriptors there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    limit: usize,
}

impl Descriptors {
    /// Lets the process have as many as it may: most shells and systemd start it with 1024.
    pub fn raise() -> Descriptors {
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
            return Descriptors { limit: limits::DESCRIPTORS_ASSUMED };
        };
        let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(error) => {
                tracing::warn!(%error, soft, hard, "the limit of open files cannot be raised");
                soft
            }
        };
        Descriptors { limit: usize::try_from(limit).unwrap_or(usize::MAX) }
    }

    /// What is kept back for the log, the rows and the runtime.
    fn kept(self) -> usize {
        let (least, most) = limits::DESCRIPTORS_KEPT;
        (self.limit / 8).clamp(least, most)
    }

    /// Connections of all listeners together.
    pub fn connections_max(self) -> usize {
        self.limit.saturating_sub(self.kept()).clamp(1, limits::CONNECTIONS_MAX)
    }

    /// Tables of rows that may be open at a time; the others are opened when they are read.
    pub fn tables_open_max(self) -> usize {
        self.kept() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_kept_back_from_connections() {
        let cases = [
            (64, 1, 32),
            (256, 192, 32),
            (1024, 896, 64),
            (20_000, 17_500, 1250),
            (1 << 20, limits::CONNECTIONS_MAX, 2048),
            (usize::MAX, limits::CONNECTIONS_MAX, 2048),
        ];
        for (limit, connections, tables) in cases {
            let descriptors = Descriptors { limit };
            assert_eq!(
                (descriptors.connections_max(), descriptors.tables_open_max()),
                (connections, tables),
                "{limit}"
            );
        }
    }
}
