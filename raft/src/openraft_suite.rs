//! openraft's own test suite for storage, against our log store and state machine over each pair of engines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use everlog_storage::log::LogEngine;
use everlog_storage::state::StateEngine;
use everlog_storage::twin::{CrashLog, CrashState};
use everlog_storage::{GroupId, LogOptions, RocksState, SegmentLog, StateOptions};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::failure::FailureReport;
use crate::flusher::FlushTrigger;
use crate::log_store::GroupLog;
use crate::options::NodeOptions;
use crate::progress::{AppliedPosition, GroupProgress};
use crate::state_machine::{ApplyLimits, GroupStateMachine};
use crate::types::{StoredMembership, TypeConfig, log_id};

/// Builds stores for one new group after the other over one pair of engines.
struct Builder {
    log: Arc<dyn LogEngine>,
    state: Arc<dyn StateEngine>,
    groups: AtomicU32,
}

impl Builder {
    fn new(log: impl LogEngine, state: impl StateEngine) -> Builder {
        Builder { log: Arc::new(log), state: Arc::new(state), groups: AtomicU32::new(0) }
    }
}

impl StoreBuilder<TypeConfig, GroupLog, GroupStateMachine> for Builder {
    async fn build(&self) -> Result<((), GroupLog, GroupStateMachine), StorageError<TypeConfig>> {
        let group = GroupId(self.groups.fetch_add(1, Ordering::Relaxed));
        let progress = Arc::new(GroupProgress::new(0, None));
        // The suite purges logs that it never applied, which production refuses.
        progress.set_durable(AppliedPosition::new(log_id(u64::MAX, u64::MAX), StoredMembership::default()));
        let failure = FailureReport::new();
        let log = GroupLog::recover(group, self.log.clone(), progress.clone(), failure.clone(), 0).unwrap();
        let trigger = Arc::new(FlushTrigger::new(&NodeOptions::default()));
        let limits = ApplyLimits { entries_max: 2, bytes_max: 1 << 20 };
        let state_machine = GroupStateMachine::new(
            group,
            self.state.clone(),
            progress,
            failure,
            trigger,
            limits,
            tokio::sync::watch::Sender::new(()),
        );
        Ok(((), log, state_machine))
    }
}

#[tokio::test]
async fn disk_engines_pass() {
    let dir = tempfile::tempdir().unwrap();
    // An append waits whenever anything else does.
    let options = LogOptions { queued_bytes_max: 0, ..LogOptions::default() };
    let log = SegmentLog::open(&dir.path().join("log"), options).unwrap();
    let state = RocksState::open(&dir.path().join("state"), StateOptions::default()).unwrap();
    Suite::test_all(Builder::new(log, state)).await.unwrap();
}

#[tokio::test]
async fn twin_engines_pass() {
    Suite::test_all(Builder::new(CrashLog::new(1), CrashState::new(1))).await.unwrap();
}
