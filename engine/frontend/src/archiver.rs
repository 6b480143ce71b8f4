//! Archives the runs whose retention is over and whose partitions are led here, and has them deleted then.
//!
//! ```text
//!   run ──expired──▶ its history, page by page ──▶ objects ──▶ what lists show of it ──▶ an object ──▶ DeleteWorkflow
//! ```
//!
//! Nothing here is durable: what fails, or is lost with its node, is asked for again by the run, which stays until it has been archived. Then
//! it is the same objects that are written once more.

use std::sync::Arc;
use std::time::Instant;

use everlog_archive::{ArchiveError, ArchivedRun, HistoryUpload, put_record};
use everlog_kernel::RunCommand;
use everlog_kernel::archive::{Expired, expired};
use everlog_meta::{Archival, NamespaceRecord};
use everlog_model::{CallError, limits};
use everlog_partition::{ExpiredRun, PageSize};
use everlog_proto::api::enums::v1::NamespaceState;
use tokio::sync::Semaphore;

use super::Services;

/// Archives whatever runs are to be, until it is aborted.
pub(super) async fn archive_runs(services: Services) {
    let places = Arc::new(Semaphore::new(limits::ARCHIVES_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let run = services.expired_runs.next().await;
        metrics::gauge!("everlog_archive_waiting").set(services.expired_runs.waiting() as f64);
        let services = services.clone();
        tokio::spawn(async move {
            archive_and_delete(&services, &run).await;
            drop(place);
        });
    }
}

async fn archive_and_delete(services: &Services, run: &ExpiredRun) {
    let begin = Instant::now();
    match try_to_archive(services, run).await {
        Ok(true) => {
            metrics::counter!("everlog_archived_runs_total").increment(1);
            metrics::histogram!("everlog_archive_seconds").record(begin.elapsed().as_secs_f64());
        }
        Ok(false) => {}
        Err(error) => {
            metrics::counter!("everlog_archive_failures_total").increment(1);
            let (namespace, workflow_id) = (&run.address.namespace.name, &*run.address.workflow_id);
            let run_id = run.run_id;
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
}

/// Returns whether something was archived: not, if there is nothing to do any more, or nothing is to be kept of the run.
async fn try_to_archive(services: &Services, run: &ExpiredRun) -> Result<bool, NotArchived> {
    let (address, run_id) = (&run.address, run.run_id);
    let Some(namespace) = services.namespaces.record_by_id(address.namespace.id) else { return Ok(false) };
    if namespace.state == NamespaceState::Deleted {
        // What is in it goes without being kept.
        return Ok(false);
    }
    let partition = services.router.partition_of(address)?;
    let look = partition
        .inspect(address.clone(), Some(run_id), move |workflow, context| Ok(expired(workflow, run_id, context.now)));
    let Some(expired) = look.await? else { return Ok(false) };
    let history = is_kept(services.archive.history().is_enabled, &namespace.history_archival);
    let visibility = is_kept(services.archive.visibility().is_enabled, &namespace.visibility_archival);
    if let Some(uri) = history {
        archive_history(services, &namespace, run, &expired, uri).await?;
    }
    if let Some(uri) = visibility {
        let place = services.archive.place(uri).await?;
        put_record(&place, address.namespace.id, expired.close_time, run_id, expired.record).await?;
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
