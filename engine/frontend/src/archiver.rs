//! Archives the runs whose retention is over and whose partitions are led here, and has them deleted then.
//!
//! ```text
//!   run ──expired──▶ its history, page by page ──▶ objects ──▶ what lists show of it ──▶ an object ──▶ DeleteWorkflow
//! ```
//!
//! Nothing here is durable: what fails, or is lost with its node, is asked for again by the run, which stays until it has been archived. Then
//! it is the same objects that are written once more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use everlog_archive::{ArchiveError, ArchivedRun, HistoryUpload, put_record};
use everlog_kernel::RunCommand;
use everlog_kernel::archive::{Expired, expired};
use everlog_meta::{Archival, NamespaceRecord};
use everlog_model::{CallError, limits};
use everlog_partition::{ExpiredRun, PageSize};
use everlog_proto::api::enums::v1::NamespaceState;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::Services;

/// Archives whatever runs are to be, until it is aborted.
pub(super) async fn archive_runs(services: Services) {
    let places = Arc::new(Semaphore::new(limits::ARCHIVES_MAX));
    let pauses = Arc::new(Pauses::default());
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let run = services.expired_runs.next().await;
        metrics::gauge!("everlog_archive_waiting").set(services.expired_runs.waiting() as f64);
        let (services, pauses) = (services.clone(), Arc::clone(&pauses));
        tokio::spawn(async move {
            archive_and_delete(&services, &pauses, &run).await;
            drop(place);
        });
    }
}

/// The URIs that have just failed, and until when they are left alone: runs that go elsewhere are not to wait for them.
#[derive(Default)]
struct Pauses(Mutex<HashMap<String, Instant>>);

impl Pauses {
    fn check(&self, uri: &str) -> Result<(), NotArchived> {
        let is_over = self.0.lock().get(uri).is_none_or(|until| *until <= Instant::now());
        is_over.then_some(()).ok_or(NotArchived::Paused)
    }

    /// What became of a try: its URI is left alone for a while if it has failed. Returns it.
    fn note<T>(&self, uri: &str, tried: Result<T, NotArchived>) -> Result<T, NotArchived> {
        let now = Instant::now();
        let mut pauses = self.0.lock();
        if matches!(tried, Err(NotArchived::Archive(_))) {
            pauses.retain(|_, until| *until > now);
            pauses.insert(uri.to_owned(), now + limits::ARCHIVE_PAUSE);
        } else if tried.is_ok() {
            pauses.remove(uri);
        }
        tried
    }
}

async fn archive_and_delete(services: &Services, pauses: &Pauses, run: &ExpiredRun) {
    let begin = Instant::now();
    let (namespace, workflow_id) = (&run.address.namespace.name, &*run.address.workflow_id);
    let run_id = run.run_id;
    match try_to_archive(services, pauses, run).await {
        Ok(true) => {
            metrics::counter!("everlog_archived_runs_total").increment(1);
            metrics::histogram!("everlog_archive_seconds").record(begin.elapsed().as_secs_f64());
        }
        Ok(false) | Err(NotArchived::Paused) => {}
        // Another node leads it by now, or there is too much to do.
        Err(NotArchived::Call(error)) if !matches!(error, CallError::Failed(_) | CallError::Corrupt(_)) => {
            tracing::debug!(%error, namespace, workflow_id, %run_id, "a run is to be archived later");
        }
        Err(error) => {
            metrics::counter!("everlog_archive_failures_total").increment(1);
            tracing::warn!(%error, namespace, workflow_id, %run_id, "a run was not archived; it stays until it is");
        }
    }
}

/// Why a run stays.
#[derive(Debug, thiserror::Error)]
enum NotArchived {
    #[error("{0}")]
    Archive(#[from] ArchiveError),
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("its archive has just failed")]
    Paused,
}

/// Returns whether something was archived: not, if there is nothing to do any more, or nothing is to be kept of the run.
async fn try_to_archive(services: &Services, pauses: &Pauses, run: &ExpiredRun) -> Result<bool, NotArchived> {
    let (address, run_id) = (&run.address, run.run_id);
    let Some(namespace) = services.namespaces.record_by_id(address.namespace.id) else { return Ok(false) };
    if namespace.state == NamespaceState::Deleted {
        // What is in it goes without being kept.
        return Ok(false);
    }
    let history = is_kept(services.history_archive().is_enabled, &namespace.history_archival);
    let visibility = is_kept(services.visibility_archive().is_enabled, &namespace.visibility_archival);
    history.iter().chain(&visibility).try_for_each(|uri| pauses.check(uri))?;
    let partition = services.router.partition_of(address)?;
    let look = partition
        .inspect(address.clone(), Some(run_id), move |workflow, context| Ok(expired(workflow, run_id, context.now)));
    let Some(expired) = look.await? else { return Ok(false) };
    if let Some(uri) = history {
        pauses.note(uri, archive_history(services, &namespace, run, &expired, uri).await)?;
    }
    if let Some(uri) = visibility {
        pauses.note(uri, archive_record(services, run, expired, uri).await)?;
    }
    match services.router.execute(address.clone(), Some(run_id), RunCommand::DeleteWorkflow).await {
        // It may have gone by itself meanwhile.
        Ok(_) | Err(CallError::Rejected(_)) => Ok(history.or(visibility).is_some()),
        Err(error) => Err(error.into()),
    }
}

/// Where something is archived, if it is. A namespace may want what the operator has turned off.
fn is_kept(is_enabled: bool, archival: &Archival) -> Option<&str> {
    (is_enabled && archival.is_enabled).then_some(archival.uri.as_str())
}

async fn archive_record(services: &Services, run: &ExpiredRun, expired: Expired, uri: &str) -> Result<(), NotArchived> {
    let place = services.archive.place(uri).await?;
    Ok(put_record(&place, run.address.namespace.id, expired.close_time, run.run_id, expired.record).await?)
}

async fn archive_history(
    services: &Services,
    namespace: &NamespaceRecord,
    run: &ExpiredRun,
    expired: &Expired,
    uri: &str,
) -> Result<(), NotArchived> {
    let (address, run_id) = (&run.address, run.run_id);
    let archived = ArchivedRun {
        namespace_id: namespace.namespace.id,
        namespace: namespace.name().to_owned(),
        workflow_id: address.workflow_id.to_string(),
        run_id,
    };
    let place = services.archive.place(uri).await?;
    let mut upload = HistoryUpload::new(place, archived, limits::ARCHIVE_OBJECT_BYTES);
    let mut from = 1;
    while from < expired.next_event_id {
        let partition = services.router.partition_of(address)?;
        let size = PageSize::batches(limits::HISTORY_PAGE_EVENTS_MAX);
        let page = partition.read_history(address, run_id, from, expired.next_event_id, size).await?;
        for batch in page.batches {
            upload.add(batch).await?;
        }
        from = page.next_event_id;
    }
    Ok(upload.finish(expired.next_event_id).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_failed_is_left_alone_for_a_while() {
        let pauses = Pauses::default();
        let is_paused = |uri| pauses.check(uri).is_err();
        let failed = || Err::<(), _>(NotArchived::Archive(ArchiveError::Unavailable("down".to_owned())));
        assert!(pauses.note("a", failed()).is_err());
        assert!(is_paused("a") && !is_paused("b"), "others go on");
        assert!(pauses.note("a", Err::<(), _>(CallError::NotDone(String::new()).into())).is_err());
        assert!(is_paused("a"), "that says nothing of the archive");
        assert!(pauses.note("a", Ok(())).is_ok());
        assert!(!is_paused("a"));
    }
}
