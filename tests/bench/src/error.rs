//! The one error type of the benchmark. Nothing is recovered here: a benchmark that met an error has no figure.

use std::io;
use std::path::Path;

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A call was answered with an error that retrying did not cure.
    #[error("{call}: {} {}", status.code(), status.message())]
    Rpc {
        /// The method.
        call: &'static str,
        /// What the server said.
        status: Box<tonic::Status>,
    },
    /// No connection to the server.
    #[error("cannot reach {address}: {reason}")]
    Connect {
        /// Address as given.
        address: String,
        /// What the transport said.
        reason: String,
    },
    /// A read-back found something else than what was acknowledged.
    #[error("correctness: {0}")]
    Check(String),
    /// A file, a process or a socket.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// Something took longer than its limit.
    #[error("gave up: {0}")]
    Limit(String),
    /// The command line, or a server that cannot be started.
    #[error("{0}")]
    Setup(String),
    /// The workload needs something that this run does not have; it is skipped, not failed.
    #[error("skipped: {0}")]
    Skipped(String),
}

impl BenchError {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        BenchError::Io { what: what.into(), source }
    }

    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        BenchError::Io { what: path.display().to_string(), source }
    }

    pub(crate) fn rpc(call: &'static str, status: tonic::Status) -> Self {
        BenchError::Rpc { call, status: Box::new(status) }
    }
}
