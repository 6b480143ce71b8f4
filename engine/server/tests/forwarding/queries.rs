//! Queries are asked and answered wherever worker and caller are.

use std::time::Duration;

use everlog_proto::api::enums::v1::QueryResultType;
use everlog_proto::api::query::v1::{WorkflowQuery, WorkflowQueryResult};
use everlog_proto::api::workflowservice::v1::{
    QueryWorkflowRequest, QueryWorkflowResponse, RespondQueryTaskCompletedRequest, RespondWorkflowTaskCompletedRequest,
};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::cluster::{Cluster, Fate, NAMESPACE};
use super::harness::{Client, execution, payloads, within};
use super::requests::{id_of, poll, respond, start_on, workflow_poll};

/// Asks a workflow, in the background.
pub(crate) fn ask(
    client: &Client,
    workflow_id: &str,
    wait: Duration,
) -> JoinHandle<Result<QueryWorkflowResponse, Status>> {
    let request = QueryWorkflowRequest {
        namespace: NAMESPACE.to_owned(),
        execution: execution(workflow_id),
        query: Some(WorkflowQuery { query_type: "state".to_owned(), ..WorkflowQuery::default() }),
        ..QueryWorkflowRequest::default()
    };
    let mut client = client.clone();
    tokio::spawn(async move { Ok(client.query_workflow(within(wait, request)).await?.into_inner()) })
}

pub(crate) fn answer(task_token: Vec<u8>, text: &str) -> RespondQueryTaskCompletedRequest {
    RespondQueryTaskCompletedRequest {
        namespace: NAMESPACE.to_owned(),
        task_token,
        completed_type: QueryResultType::Answered as i32,
        query_result: payloads(text),
        ..RespondQueryTaskCompletedRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_answered_wherever_its_worker_and_its_caller_are() {
    let mut cluster = Cluster::start().await;
    for number in 0..16 {
        let [led, home, polled, asked] = [number & 1, number >> 1 & 1, number >> 2 & 1, number >> 3];
        let (id, queue) = (cluster.id_at(led, &format!("w{number}")), cluster.id_at(home, &format!("q{number}")));
        let patience = Duration::from_secs(20);
        cluster.clients[asked].start_workflow_execution(start_on(&id, &queue)).await.unwrap();

        // With the workflow task that waits.
        let with_task = ask(&cluster.clients[asked], &id, patience);
        let client = &mut cluster.clients[polled];
        let task = poll(client, workflow_poll(&queue)).await;
        let results = task.queries.keys().map(|query_id| {
            let result = WorkflowQueryResult {
                result_type: QueryResultType::Answered as i32,
                answer: payloads("along"),
                ..WorkflowQueryResult::default()
            };
            (query_id.clone(), result)
        });
        let came_along = !task.queries.is_empty();
        let response = RespondWorkflowTaskCompletedRequest {
            query_results: results.collect(),
            ..respond(task.task_token, Vec::new())
        };
        client.respond_workflow_task_completed(response).await.unwrap();
        if came_along {
            assert_eq!(with_task.await.unwrap().unwrap().query_result, payloads("along"), "{number}");
        } else {
            // The task was started before the query came.
            let task = poll(client, workflow_poll(&queue)).await;
            client.respond_query_task_completed(answer(task.task_token, "alone")).await.unwrap();
            with_task.await.unwrap().unwrap();
        }

        // By itself, answered at the other node than the one that was polled.
        let alone = ask(&cluster.clients[asked], &id, patience);
        let task = poll(&mut cluster.clients[polled], workflow_poll(&queue)).await;
        assert_eq!((id_of(&task), task.query.as_ref().unwrap().query_type.as_str()), (id.as_str(), "state"));
        let token = task.task_token;
        let client = &mut cluster.clients[1 - polled];
        client.respond_query_task_completed(answer(token.clone(), "alone")).await.unwrap();
        assert_eq!(alone.await.unwrap().unwrap().query_result, payloads("alone"), "{number}");
        let again = client.respond_query_task_completed(answer(token, "twice")).await.unwrap_err();
        assert_eq!(again.code(), Code::NotFound);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_waits_for_a_node_that_is_away_and_hinders_nobody() {
    let mut cluster = Cluster::start().await;
    let (id, queue) = (cluster.id_at(1, "w"), cluster.id_at(0, "q"));
    let client = &mut cluster.clients[0];
    client.start_workflow_execution(start_on(&id, &queue)).await.unwrap();
    let task = poll(client, workflow_poll(&queue)).await;
    client.respond_workflow_task_completed(respond(task.task_token, Vec::new())).await.unwrap();

    // It cannot be offered.
    cluster.links.decide(|_, _| Fate::Refused);
    let asked = ask(&cluster.clients[1], &id, Duration::from_secs(20));
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.links.mend();
    let task = poll(&mut cluster.clients[0], workflow_poll(&queue)).await;
    cluster.clients[0].respond_query_task_completed(answer(task.task_token, "now")).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap().query_result, payloads("now"));

    // It is offered, and cannot be started.
    cluster.links.decide(|_, method| if method == "StartTask" { Fate::Refused } else { Fate::Arrives });
    let asked = ask(&cluster.clients[1], &id, Duration::from_secs(20));
    let mut polling = cluster.clients[0].clone();
    let request = workflow_poll(&queue);
    let polled = tokio::spawn(async move { poll(&mut polling, request).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let here = cluster.id_at(0, "here");
    cluster.clients[0].start_workflow_execution(start_on(&here, &queue)).await.unwrap();
    let task = polled.await.unwrap();
    assert_eq!(id_of(&task), here);
    cluster.links.mend();
    let task = poll(&mut cluster.clients[0], workflow_poll(&queue)).await;
    assert_eq!(id_of(&task), id);
    cluster.clients[0].respond_query_task_completed(answer(task.task_token, "late")).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap().query_result, payloads("late"));
    cluster.stop().await;
}
