//! Works on the batch jobs that run in partitions which are led here, each page by page.
//!
//! A worker begins when its job is known here, and ends with the job or with the lead: the next leader's node begins where the rows say. For a
//! moment two nodes may work on the same page, which is as good as one that does it twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use everlog_kernel::batch_job::{Advance, Next, Page, Work};
use everlog_kernel::command::Reply;
use everlog_kernel::{BatchJobCommand, RunId};
use everlog_meta::NamespaceRecord;
use everlog_model::{WorkflowRef, limits};
use everlog_proto::api::batch::v1::{BatchOperationUnpauseActivities, batch_operation_unpause_activities};
use everlog_proto::api::common::v1::WorkflowExecution;
use everlog_proto::api::enums::v1::WorkflowExecutionStatus;
use everlog_proto::api::workflowservice::v1::StartBatchOperationRequest;
use everlog_proto::api::workflowservice::v1::start_batch_operation_request::Operation;
use everlog_visibility::{self as visibility, Ask, Record};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tonic::Status;

use super::super::errors::Error;
use super::super::execute::unexpected;
use super::super::visibility::Runs;
use super::super::{Frontend, check_not_deleted};
use super::calls::Calls;
use super::pace::Pace;
use super::{check, operation};

/// Workflows in a page.
const PAGE_WORKFLOWS: usize = 1000;

/// How often something is tried to be done to a workflow, besides the first time. As with Temporal, which does not wait in between.
const TRIES_MORE: usize = 50;

/// Works on whatever runs here, until it is aborted.
pub(in super::super) async fn drive(frontend: Arc<Frontend>, calls: Calls) {
    let mut running = frontend.batch_jobs.watch();
    let mut workers: HashMap<RunId, Worker> = HashMap::new();
    loop {
        let jobs = running.borrow_and_update().clone();
        workers.retain(|run_id, worker| jobs.contains(*run_id) && !worker.0.is_finished());
        for (run_id, address) in jobs.jobs() {
            workers.entry(run_id).or_insert_with(|| {
                let (frontend, calls, address) = (Arc::clone(&frontend), calls.clone(), address.clone());
                let job = Job { frontend, calls, address, run_id, pace: Pace::new() };
                Worker(tokio::spawn(async move { job.work_off().await }))
            });
        }
        tokio::select! {
            changed = running.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            // A worker that ended while its job runs, which only a panic makes it do, is followed by another one.
            () = tokio::time::sleep(limits::BATCH_JOB_LOOK_INTERVAL), if !workers.is_empty() => {}
        }
    }
}

/// Who works on a job; stops when it is dropped.
struct Worker(JoinHandle<()>);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A job that is worked on.
struct Job {
    frontend: Arc<Frontend>,
    calls: Calls,
    address: WorkflowRef,
    run_id: RunId,
    pace: Pace,
}

impl Job {
    /// Goes on with it until it is closed.
    async fn work_off(&self) {
        tracing::debug!(job = &*self.address.workflow_id, "a batch job is worked on");
        let mut command = BatchJobCommand::Resume(self.run_id);
        let mut waits = Waits::new();
        loop {
            match self.tell(command.clone()).await {
                Ok(Some(work)) => {
                    waits = Waits::new();
                    command = BatchJobCommand::Advance(Box::new(self.page(&work).await));
                }
                Ok(None) => return,
                Err(error) => {
                    let error = Status::from(error);
                    tracing::debug!(job = &*self.address.workflow_id, error = error.message(), "a batch job waits");
                    waits.next().await;
                }
            }
        }
    }

    async fn tell(&self, command: BatchJobCommand) -> Result<Option<Box<Work>>, Error> {
        match self.frontend.router.execute(self.address.clone(), None, command).await? {
            Reply::BatchWork(work) => Ok(work),
            reply => Err(unexpected(&reply)),
        }
    }

    /// Does a page, and finds the next one.
    async fn page(&self, work: &Work) -> Advance {
        let concurrency = self.frontend.config(&self.address.namespace.name).frontend.batch_job_concurrency.max(1);
        let left = Mutex::new(work.page.executions.iter());
        let done = join_all((0..concurrency).map(|_| self.take_on(work, &left))).await;
        let (succeeded, failed) = done.into_iter().fold((0, 0), |sum, done| (sum.0 + done.0, sum.1 + done.1));
        let (total, next) = self.next(work).await;
        Advance { run_id: self.run_id, page: work.page.number, succeeded, failed, total, next }
    }

    /// Takes one workflow after the other of those that are left of a page, and tells of how many it was done to and how many not.
    async fn take_on(&self, work: &Work, left: &Mutex<std::slice::Iter<'_, WorkflowExecution>>) -> (i64, i64) {
        let (mut succeeded, mut failed) = (0, 0);
        let next = || left.lock().next();
        while let Some(execution) = next() {
            if self.carry_out(work, execution).await {
                succeeded += 1;
            } else {
                failed += 1;
            }
        }
        (succeeded, failed)
    }

    /// Does what is to be done to a workflow, and tells whether it was done.
    async fn carry_out(&self, work: &Work, execution: &WorkflowExecution) -> bool {
        let mut waits = Waits::new();
        for tries_left in (0..=TRIES_MORE).rev() {
            self.pace.turn(|| self.per_second(&work.request)).await;
            let tried = match self.namespace() {
                Ok(namespace) => operation::carry_out(&self.calls, namespace.name(), work, execution).await,
                Err(error) => Err(error.into()),
            };
            let Err(status) = tried else { return true };
            tracing::debug!(
                job = &*self.address.workflow_id,
                workflow_id = execution.workflow_id,
                run_id = execution.run_id,
                tries_left,
                error = status.message(),
                "a batch job could not do something to a workflow"
            );
            if operation::is_final(&status) {
                return false;
            }
            if tries_left > 0 {
                waits.next().await;
            }
        }
        false
    }

    /// The namespace, by the name that it has now: another one may have its earlier name.
    fn namespace(&self) -> Result<Arc<NamespaceRecord>, Error> {
        let id = self.address.namespace.id;
        let record =
            self.frontend.namespaces.record_by_id(id).ok_or_else(|| Error::NotDone(format!("no namespace {id}")));
        check_not_deleted(record?)
    }

    /// How many workflows it takes on a second.
    fn per_second(&self, request: &StartBatchOperationRequest) -> f64 {
        let config = self.frontend.config(&self.address.namespace.name);
        let most = f64::from(config.frontend.batch_job_operations_per_second);
        let asked = f64::from(request.max_operations_per_second);
        if asked > 0.0 { asked.min(most) } else { most }
    }

    /// What comes behind a page, and before the first one how much there is in all.
    async fn next(&self, work: &Work) -> (Option<i64>, Next) {
        if work.page.is_last {
            return (None, Next::Completed);
        }
        let mut waits = Waits::new();
        loop {
            let read = match query_of(&work.request) {
                Some(query) => self.listed(work, query).await,
                None => Ok(named(work)),
            };
            match read.map_err(Status::from) {
                Ok((total, page)) if page.is_last && page.executions.is_empty() => return (total, Next::Completed),
                Ok((total, page)) => return (total, Next::Page(page)),
                Err(status) if operation::is_final(&status) => {
                    return (None, Next::Failed(status.message().to_owned()));
                }
                Err(status) => {
                    tracing::debug!(job = &*self.address.workflow_id, error = status.message(), "a batch job waits");
                    waits.next().await;
                }
            }
        }
    }

    /// The next page of the workflows that match a query.
    async fn listed(&self, work: &Work, query: String) -> Result<(Option<i64>, Page), Error> {
        let namespace = self.namespace()?;
        let ask = || match is_of_activities(&work.request) {
            true => Ask::Activities(query.clone()),
            false => Ask::Query(query.clone()),
        };
        let runs = || Runs::new(&self.frontend, &namespace, ask());
        let total = match work.page.number {
            0 => Some(runs()?.count().await?.values().sum()),
            _ => None,
        };
        let after = visibility::decode_token(&work.page.next)?;
        let (records, next) = runs()?.list(after, PAGE_WORKFLOWS).await?.into_records();
        let executions = records.iter().filter_map(|record| Record::parse(record)).filter(|run| !was_reset(work, run));
        let executions = executions.map(|run| WorkflowExecution {
            workflow_id: run.workflow_id().to_owned(),
            run_id: run.run_id().to_owned(),
        });
        let executions = executions.collect();
        Ok((total, Page { number: 0, executions, is_last: next.is_empty(), next }))
    }
}

/// The query of the workflows that a job is for; those that are closed are left out where nothing can be done to them. `None` if the job names
/// its workflows.
fn query_of(request: &StartBatchOperationRequest) -> Option<String> {
    let query = Some(&request.visibility_query).filter(|query| !query.is_empty())?;
    let open = || format!("({query}) AND (ExecutionStatus = 'Running' OR ExecutionStatus = 'Paused')");
    Some(match &request.operation {
        // Nothing else has such an activity. (Temporal asks for that alone, whatever the query says.)
        Some(Operation::UnpauseActivitiesOperation(BatchOperationUnpauseActivities {
            activity: Some(batch_operation_unpause_activities::Activity::Type(name)),
            ..
        })) => {
            let name = name.replace('\\', "\\\\").replace('\'', "''");
            format!("{} AND TemporalPauseInfo = 'property:activityType={name}'", open())
        }
        Some(
            Operation::DeletionOperation(_) | Operation::ResetOperation(_) | Operation::DeleteActivitiesOperation(_),
        ) => query.clone(),
        _ => open(),
    })
}

/// Whether a job is for activities that are no workflow's.
fn is_of_activities(request: &StartBatchOperationRequest) -> bool {
    request.operation.as_ref().is_some_and(check::is_of_activities)
}

/// Whether a run is one that the job itself has ended: a reset ends the run that is open, which then stands among the closed ones, further
/// down in the list.
fn was_reset(work: &Work, run: &Record<'_>) -> bool {
    matches!(work.request.operation, Some(Operation::ResetOperation(_)))
        && run.status == WorkflowExecutionStatus::Terminated as i64
        && run.close_time().is_some_and(|closed| closed >= work.started)
}

/// The next page of the workflows that a job names. Its place in the list is how many of them were before it.
fn named(work: &Work) -> (Option<i64>, Page) {
    let request = &work.request;
    #[expect(deprecated, reason = "clients name workflows like this")]
    let executions = request.executions.iter().cloned();
    let targets = request
        .target_executions
        .iter()
        .map(|target| WorkflowExecution { workflow_id: target.business_id.clone(), run_id: target.run_id.clone() });
    let all: Vec<WorkflowExecution> = executions.chain(targets).collect();
    let from = work.page.next.as_slice().try_into().map_or(0, u64::from_be_bytes);
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(all.len());
    let to = (from + PAGE_WORKFLOWS).min(all.len());
    let page = Page {
        number: 0,
        executions: all[from..to].to_vec(),
        next: (to as u64).to_be_bytes().to_vec(),
        is_last: to == all.len(),
    };
    ((work.page.number == 0).then_some(all.len() as i64), page)
}

/// Waits that grow, so that what is away for a moment is not asked for all the time.
struct Waits(Duration);

impl Waits {
    fn new() -> Waits {
        Waits(limits::BATCH_JOB_AGAIN_WAIT.0)
    }

    async fn next(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(limits::BATCH_JOB_AGAIN_WAIT.1);
    }
}

#[cfg(test)]
mod tests {
    use everlog_kernel::Time;
    use everlog_proto::api::batch::v1::{BatchOperationDeletion, BatchOperationSignal};

    use super::*;

    fn work(request: StartBatchOperationRequest, page: Page) -> Work {
        Work { run_id: RunId::default(), started: Time(0), request, page }
    }

    #[test]
    fn workflows_that_are_named_come_in_pages() {
        let execution = |number| WorkflowExecution { workflow_id: format!("w{number}"), run_id: String::new() };
        #[expect(deprecated, reason = "clients name workflows like this")]
        let request = StartBatchOperationRequest {
            executions: (0..PAGE_WORKFLOWS + 1).map(execution).collect(),
            ..StartBatchOperationRequest::default()
        };
        let (total, first) = named(&work(request.clone(), Page::default()));
        assert_eq!((total, first.executions.len(), first.is_last), (Some(1001), 1000, false));
        let (total, second) = named(&work(request, Page { number: 1, ..first }));
        assert_eq!((total, second.is_last), (None, true));
        assert_eq!(second.executions, [execution(1000)]);
    }

    #[test]
    fn closed_runs_are_left_out_where_nothing_can_be_done_to_them() {
        let query = |operation| {
            let visibility_query = "a = 'x' OR b = 'y'".to_owned();
            query_of(&StartBatchOperationRequest { visibility_query, operation: Some(operation), ..Default::default() })
        };
        let signal = Operation::SignalOperation(BatchOperationSignal::default());
        let of_open = "(a = 'x' OR b = 'y') AND (ExecutionStatus = 'Running' OR ExecutionStatus = 'Paused')";
        assert_eq!(query(signal).as_deref(), Some(of_open));
        let delete = Operation::DeletionOperation(BatchOperationDeletion::default());
        assert_eq!(query(delete).as_deref(), Some("a = 'x' OR b = 'y'"));
    }
}
