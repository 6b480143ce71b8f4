//! Every node serves every request, and shows at once what was done through another.

use std::time::Duration;

use everlog_proto::api::enums::v1::{EventType, WorkflowExecutionStatus};
use everlog_proto::api::query::v1::WorkflowQuery;
use everlog_proto::api::workflowservice::v1 as service;

use super::{PATIENCE, Stage, start_of, until_closed};
use crate::client::{duration, value, workflow};
use crate::failure::{Failure, ensure};
use crate::program::{FINISH, Program, signals};
use crate::worker::Workers;

/// Workflows of each test: enough that every partition has some.
const WORKFLOWS: usize = 24;

/// A namespace that was registered through one node is known at once to the others, for reading, starting and listing.
pub(crate) async fn namespaces(stage: &Stage) -> Result<(), Failure> {
    for registrar in 0..3 {
        let name = format!("registered-at-{}", registrar + 1);
        let client = stage.client(&name)?;
        let request = service::RegisterNamespaceRequest {
            namespace: name.clone(),
            workflow_execution_retention_period: Some(duration(Duration::from_secs(24 * 3600))),
            ..Default::default()
        };
        client
            .call(registrar, "RegisterNamespace", request, PATIENCE, async |stub, request| {
                stub.register_namespace(request).await
            })
            .await?;
        for node in [1, 2, 0].map(|step| (registrar + step) % 3) {
            let id = format!("{name}-{node}");
            client.start(node, start_of(&id, "nobody", &Program::Register)).await?;
            let request = service::DescribeNamespaceRequest { namespace: name.clone(), ..Default::default() };
            client
                .call(node, "DescribeNamespace", request, PATIENCE, async |stub, request| {
                    stub.describe_namespace(request).await
                })
                .await?;
            let count = client.count((node + 1) % 3, &format!("WorkflowId = '{id}'")).await?;
            ensure(count == 1, || format!("{id} is counted {count} times"))?;
        }
    }
    Ok(())
}

/// A workflow that was started through one node is described, listed, signalled, read and queried through the others at once.
pub(crate) async fn workflows(stage: &Stage) -> Result<(), Failure> {
    let client = stage.client("default")?;
    let workers = Workers::start(&client, &Stage::recorder(), "everywhere", &[0], 2);
    for number in 0..WORKFLOWS {
        let (a, b, c) = (number % 3, (number + 1) % 3, (number + 2) % 3);
        let id = format!("everywhere-{number}");
        let run_id = client.start(a, start_of(&id, "everywhere", &Program::Register)).await?.run_id;
        for node in [b, c] {
            let described = client.describe(node, workflow(&id)).await?;
            ensure(described == (run_id.clone(), WorkflowExecutionStatus::Running), || format!("{id}: {described:?}"))?;
            let listed = client.list(node, &format!("WorkflowId = '{id}'")).await?;
            let is_it = |(run, status): &(_, _)| *run == crate::client::run(&id, &run_id) && *status == described.1;
            ensure(listed.len() == 1 && listed.iter().all(is_it), || format!("{id} is listed as {listed:?}"))?;
        }
        client.signal(b, workflow(&id), "signal", 1, None).await?;
        client.signal(c, workflow(&id), "signal", 2, None).await?;
        for (node, shown) in [(c, 2), (b, 2)] {
            let request = service::QueryWorkflowRequest {
                namespace: "default".to_owned(),
                execution: Some(workflow(&id)),
                query: Some(WorkflowQuery { query_type: "signals".to_owned(), ..Default::default() }),
                ..Default::default()
            };
            let answer = client
                .call(node, "QueryWorkflow", request, PATIENCE, async |stub, request| {
                    stub.query_workflow(request).await
                })
                .await?;
            let told: Option<usize> = value(answer.query_result.as_ref());
            ensure(told == Some(shown), || format!("{id}: a query through node {} tells {told:?} signals", node + 1))?;
            let events = client.history(node, workflow(&id)).await?;
            ensure(signals(&events).len() == 2, || format!("{id}: {:?}", signals(&events)))?;
        }
        client.signal(a, workflow(&id), FINISH, 3, None).await?;
        let last = until_closed(&client, c, &id, &run_id).await?;
        ensure(last == EventType::WorkflowExecutionCompleted, || format!("{id} has ended with {last:?}"))?;
        let described = client.describe(b, workflow(&id)).await?;
        ensure(described.1 == WorkflowExecutionStatus::Completed, || format!("{id}: {described:?}"))?;
    }
    for node in 0..3 {
        let count = client.count(node, "TaskQueue = 'everywhere' AND ExecutionStatus = 'Completed'").await?;
        ensure(count == WORKFLOWS as i64, || format!("node {} counts {count}", node + 1))?;
    }
    let wrong = std::mem::take(&mut workers.done.lock().wrong);
    ensure(wrong.is_empty(), || wrong.join("\n"))
}

/// Workers that poll one node alone get the tasks of workflows that were started through the others.
pub(crate) async fn tasks(stage: &Stage) -> Result<(), Failure> {
    let client = stage.client("default")?;
    for polled in 0..3 {
        let task_queue = format!("tasks-at-{}", polled + 1);
        let workers = Workers::start(&client, &Stage::recorder(), &task_queue, &[polled], 3);
        let runs = futures::future::try_join_all((0..WORKFLOWS).map(|number| {
            let (client, task_queue, node) = (&client, &task_queue, (polled + 1 + number % 2) % 3);
            async move {
                let id = format!("{task_queue}-{number}");
                let run = client.start(node, start_of(&id, task_queue, &Program::Pipeline { signals: 0 })).await?;
                let last = until_closed(client, node, &id, &run.run_id).await?;
                ensure(last == EventType::WorkflowExecutionCompleted, || format!("{id} has ended with {last:?}"))
            }
        }));
        runs.await?;
        let wrong = std::mem::take(&mut workers.done.lock().wrong);
        ensure(wrong.is_empty(), || wrong.join("\n"))?;
    }
    Ok(())
}
