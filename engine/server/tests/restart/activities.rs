//! Activities that are no workflow's, over kills.

use everlog_proto::api::common::v1::ActivityType;
use everlog_proto::api::enums::v1::{ActivityExecutionStatus as Status, PendingActivityState};
use everlog_proto::api::workflowservice::v1::{
    DescribeActivityExecutionRequest, ListActivityExecutionsRequest, PollActivityTaskQueueResponse,
    StartActivityExecutionRequest, TerminateActivityExecutionRequest,
};
use tonic::Code;

use super::LONG;
use crate::harness::process::Process;
use crate::harness::requests::{NAMESPACE, activity_done, poll_activity, seconds};
use crate::harness::{Client, task_queue, within};

fn start(activity_id: &str) -> StartActivityExecutionRequest {
    StartActivityExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        activity_id: activity_id.to_owned(),
        activity_type: Some(ActivityType { name: "activity".to_owned() }),
        task_queue: task_queue("queue"),
        start_to_close_timeout: seconds(600),
        ..StartActivityExecutionRequest::default()
    }
}

async fn poll(client: &mut Client) -> PollActivityTaskQueueResponse {
    client.poll_activity_task_queue(within(LONG, poll_activity("queue"))).await.unwrap().into_inner()
}

async fn described(client: &mut Client, activity_id: &str) -> (Status, PendingActivityState) {
    let (namespace, activity_id) = (NAMESPACE.to_owned(), activity_id.to_owned());
    let request = DescribeActivityExecutionRequest { namespace, activity_id, ..Default::default() };
    let info = client.describe_activity_execution(request).await.unwrap().into_inner().info.unwrap();
    (info.status(), info.run_state())
}

#[tokio::test]
async fn activities_by_themselves_go_on_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::dev(data.path()).await;
    let mut client = process.client().await;
    client.start_activity_execution(start("held")).await.unwrap();
    let held = poll(&mut client).await;
    assert_eq!(held.activity_id, "held");
    client.start_activity_execution(start("waits")).await.unwrap();
    client.start_activity_execution(start("over")).await.unwrap();
    let (namespace, activity_id) = (NAMESPACE.to_owned(), "over".to_owned());
    let terminate = TerminateActivityExecutionRequest { namespace, activity_id, ..Default::default() };
    client.terminate_activity_execution(terminate).await.unwrap();

    process.kill().await;
    process = Process::dev(data.path()).await;
    client = process.client().await;
    let running = |state| (Status::Running, state);
    assert_eq!(described(&mut client, "held").await, running(PendingActivityState::Started), "a worker has it");
    assert_eq!(described(&mut client, "waits").await, running(PendingActivityState::Scheduled));
    assert_eq!(described(&mut client, "over").await.0, Status::Terminated);
    let taken = poll(&mut client).await;
    assert_eq!(taken.activity_id, "waits", "the one that nobody has");
    for token in [held.task_token, taken.task_token] {
        client.respond_activity_task_completed(activity_done(token.clone())).await.unwrap();
        let again = client.respond_activity_task_completed(activity_done(token)).await.unwrap_err();
        assert_eq!(again.code(), Code::NotFound, "it counts once");
    }

    process.kill().await;
    process = Process::dev(data.path()).await;
    client = process.client().await;
    assert_eq!(described(&mut client, "held").await.0, Status::Completed);
    let request = ListActivityExecutionsRequest { namespace: NAMESPACE.to_owned(), ..Default::default() };
    assert_eq!(client.list_activity_executions(request).await.unwrap().into_inner().executions.len(), 3);
    process.stop().await;
}
