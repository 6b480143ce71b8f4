//! Lists and counts show what is at both nodes, or nothing.

use std::time::Duration;

use everlog_proto::api::workflow::v1::WorkflowExecutionInfo;
use everlog_proto::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, ListClosedWorkflowExecutionsRequest, ListOpenWorkflowExecutionsRequest,
    ListWorkflowExecutionsRequest, ScanWorkflowExecutionsRequest, TerminateWorkflowExecutionRequest,
};
use tonic::{Code, Status};

use super::cluster::{Cluster, Fate, NAMESPACE};
use super::harness::{Client, execution, within};
use super::requests::start;

/// How long a list may take; one that cannot be had is refused before.
const PATIENCE: Duration = Duration::from_secs(3);

fn namespace() -> String {
    NAMESPACE.to_owned()
}

fn ids(executions: Vec<WorkflowExecutionInfo>) -> Vec<String> {
    executions.into_iter().map(|run| run.execution.unwrap().workflow_id).collect()
}

/// The ids that a query lists, page by page.
pub(crate) async fn pages(client: &mut Client, query: &str, page_size: i32) -> Result<Vec<Vec<String>>, Status> {
    let (mut pages, mut next_page_token) = (Vec::new(), Vec::new());
    loop {
        let request = ListWorkflowExecutionsRequest {
            namespace: namespace(),
            page_size,
            query: query.to_owned(),
            next_page_token,
        };
        let listed = client.list_workflow_executions(within(PATIENCE, request)).await?.into_inner();
        pages.push(ids(listed.executions));
        next_page_token = listed.next_page_token;
        if next_page_token.is_empty() {
            return Ok(pages);
        }
    }
}

async fn scanned(client: &mut Client) -> Result<Vec<String>, Status> {
    let request = ScanWorkflowExecutionsRequest { namespace: namespace(), ..ScanWorkflowExecutionsRequest::default() };
    let request = within(PATIENCE, request);
    Ok(ids(client.scan_workflow_executions(request).await?.into_inner().executions))
}

pub(crate) async fn open(client: &mut Client) -> Result<Vec<String>, Status> {
    let request =
        ListOpenWorkflowExecutionsRequest { namespace: namespace(), ..ListOpenWorkflowExecutionsRequest::default() };
    let request = within(PATIENCE, request);
    Ok(ids(client.list_open_workflow_executions(request).await?.into_inner().executions))
}

pub(crate) async fn closed(client: &mut Client) -> Result<Vec<String>, Status> {
    let request = ListClosedWorkflowExecutionsRequest {
        namespace: namespace(),
        ..ListClosedWorkflowExecutionsRequest::default()
    };
    let request = within(PATIENCE, request);
    Ok(ids(client.list_closed_workflow_executions(request).await?.into_inner().executions))
}

pub(crate) async fn count(client: &mut Client, query: &str) -> Result<(i64, Vec<i64>), Status> {
    let request = CountWorkflowExecutionsRequest { namespace: namespace(), query: query.to_owned() };
    let counted = client.count_workflow_executions(within(PATIENCE, request)).await?.into_inner();
    Ok((counted.count, counted.groups.into_iter().map(|group| group.count).collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_counts_show_what_is_at_both_nodes() {
    let mut cluster = Cluster::start().await;
    let started: Vec<String> = (0..12).map(|number| format!("workflow-{number}")).collect();
    assert!((2..11).contains(&started.iter().filter(|id| cluster.node_of(id) == 0).count()));
    for id in &started {
        cluster.clients[0].start_workflow_execution(start(id)).await.unwrap();
        // The clocks of two partitions are no closer.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for id in &started[..4] {
        let terminate = TerminateWorkflowExecutionRequest {
            namespace: namespace(),
            workflow_execution: execution(id),
            ..TerminateWorkflowExecutionRequest::default()
        };
        cluster.clients[1].terminate_workflow_execution(terminate).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The newest come first, open ones before closed ones.
    let expected: Vec<String> = started[4..].iter().rev().chain(started[..4].iter().rev()).cloned().collect();
    for client in &mut cluster.clients {
        for page_size in [1, 3, 5, 12, 100] {
            let pages = pages(client, "", page_size).await.unwrap();
            let (last, full) = pages.split_last().unwrap();
            assert!(full.iter().all(|page| page.len() == page_size as usize), "{pages:?}");
            assert!(last.len() <= page_size as usize);
            assert_eq!(pages.concat(), expected, "pages of {page_size}");
        }
        assert_eq!(scanned(client).await.unwrap(), expected);
        assert_eq!(open(client).await.unwrap(), expected[..8]);
        assert_eq!(closed(client).await.unwrap(), expected[8..]);
        assert_eq!(count(client, "").await.unwrap(), (12, vec![]));
        assert_eq!(count(client, "GROUP BY ExecutionStatus").await.unwrap(), (12, vec![8, 4]));
        assert_eq!(count(client, "ExecutionStatus = 'Terminated'").await.unwrap(), (4, vec![]));
        for id in &started {
            assert_eq!(
                pages(client, &format!("WorkflowId = '{id}'"), 10).await.unwrap().concat().as_slice(),
                std::slice::from_ref(id)
            );
        }
        let wrong = pages(client, "Nonsense", 10).await.unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_never_short_because_a_node_is_away() {
    let mut cluster = Cluster::start().await;
    let ids = [cluster.id_at(0, "here"), cluster.id_at(1, "there")];
    for id in &ids {
        cluster.clients[0].start_workflow_execution(start(id)).await.unwrap();
    }
    let client = &mut cluster.clients[0];
    for fate in [Fate::Refused, Fate::Lost] {
        cluster.links.decide(move |_, _| fate);
        let [mut first, mut second, mut third, mut fourth, mut fifth] = [(); 5].map(|()| client.clone());
        let (list, scan, open, closed, count) = tokio::join!(
            pages(&mut first, "", 10),
            scanned(&mut second),
            open(&mut third),
            closed(&mut fourth),
            count(&mut fifth, ""),
        );
        let refused =
            [list.unwrap_err(), scan.unwrap_err(), open.unwrap_err(), closed.unwrap_err(), count.unwrap_err()];
        assert!(refused.iter().all(|status| status.code() == Code::Unavailable), "{refused:?}");
        // What the other node has no part in is answered.
        let listed = pages(client, &format!("WorkflowId = '{}'", ids[0]), 10).await.unwrap();
        assert_eq!(listed.concat(), ids[..1]);
    }
    cluster.links.mend();
    assert_eq!(pages(client, "", 10).await.unwrap().concat().len(), 2);
    // One that is away for a moment only is waited for.
    cluster.links.decide(|_, _| Fate::Refused);
    let (links, mut other) = (cluster.links.clone(), client.clone());
    let counted = tokio::spawn(async move { count(&mut other, "").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    links.mend();
    assert_eq!(counted.await.unwrap().unwrap(), (2, vec![]));
    cluster.stop().await;
}
