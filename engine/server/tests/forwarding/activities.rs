//! An activity that is no workflow's is the same one at both nodes: wherever it lives, its queue is at home and its worker polls.

use everlog_proto::api::activity::v1::activity_execution_outcome::Value;
use everlog_proto::api::common::v1::ActivityType;
use everlog_proto::api::enums::v1::ActivityExecutionStatus;
use everlog_proto::api::workflowservice::v1::{
    CountActivityExecutionsRequest, DescribeActivityExecutionRequest, ListActivityExecutionsRequest,
    PauseActivityExecutionRequest, PollActivityExecutionRequest, RequestCancelActivityExecutionRequest,
    RespondActivityTaskCompletedByIdRequest, StartActivityExecutionRequest, UnpauseActivityExecutionRequest,
};

use super::cluster::{Cluster, Fate, NAMESPACE};
use super::harness::requests::seconds;
use super::harness::{task_queue, within};
use super::requests::{PATIENCE, activity_done, poll_activity};

fn start(activity_id: &str, queue: &str) -> StartActivityExecutionRequest {
    StartActivityExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        activity_id: activity_id.to_owned(),
        activity_type: Some(ActivityType { name: "activity".to_owned() }),
        task_queue: task_queue(queue),
        start_to_close_timeout: seconds(60),
        request_id: "start".to_owned(),
        ..StartActivityExecutionRequest::default()
    }
}

fn outcome(activity_id: &str) -> PollActivityExecutionRequest {
    PollActivityExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        activity_id: activity_id.to_owned(),
        run_id: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activity_by_itself_is_done_wherever_it_is() {
    let mut cluster = Cluster::start().await;
    for (led, home, polled) in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 0)] {
        let name = format!("{led}{home}{polled}");
        let (id, queue) = (cluster.id_at(led, &format!("a{name}")), cluster.id_at(home, &format!("q{name}")));
        let started = cluster.clients[1 - polled].start_activity_execution(start(&id, &queue)).await.unwrap();
        let mut waiting = cluster.clients[polled].clone();
        let asked = outcome(&id);
        let waiting = tokio::spawn(async move { waiting.poll_activity_execution(within(PATIENCE, asked)).await });
        let task = poll_activity(&mut cluster.clients[polled], &queue).await;
        assert_eq!((&task.activity_id, &task.activity_run_id), (&id, &started.into_inner().run_id), "{name}");
        cluster.clients[1 - polled].respond_activity_task_completed(activity_done(task.task_token)).await.unwrap();
        let outcome = waiting.await.unwrap().unwrap().into_inner().outcome.unwrap();
        assert!(matches!(outcome.value, Some(Value::Result(_))), "{name}");
    }
    for client in &mut cluster.clients {
        let (namespace, query) = (NAMESPACE.to_owned(), "ExecutionStatus = 'Completed'".to_owned());
        let request = ListActivityExecutionsRequest { namespace, query: query.clone(), ..Default::default() };
        assert_eq!(client.list_activity_executions(request).await.unwrap().into_inner().executions.len(), 5);
        let count = CountActivityExecutionsRequest { namespace: NAMESPACE.to_owned(), query };
        assert_eq!(client.count_activity_executions(count).await.unwrap().into_inner().count, 5);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_an_activity_by_itself_counts_once_at_either_node() {
    let mut cluster = Cluster::start().await;
    for led in [0, 1] {
        let id = cluster.id_at(led, &format!("a{led}"));
        // The first answer of each kind that the other node gives is lost.
        let lost = std::sync::Mutex::new(std::collections::BTreeSet::new());
        cluster.links.decide(move |_, method| {
            let is_one = ["StartActivityExecution", "RequestCancelActivityExecution"].contains(&method);
            if is_one && lost.lock().unwrap().insert(method.to_owned()) { Fate::AnswerLost } else { Fate::Arrives }
        });
        let client = &mut cluster.clients[1 - led];
        let first = client.start_activity_execution(start(&id, "nobody")).await.unwrap().into_inner();
        let again = client.start_activity_execution(start(&id, "nobody")).await.unwrap().into_inner();
        assert_eq!(first.run_id, again.run_id);
        let named = || (NAMESPACE.to_owned(), id.clone());
        let (namespace, activity_id) = named();
        let pause = PauseActivityExecutionRequest { namespace, activity_id, ..Default::default() };
        client.pause_activity_execution(pause).await.unwrap();
        let describe = || {
            let (namespace, activity_id) = named();
            DescribeActivityExecutionRequest { namespace, activity_id, ..Default::default() }
        };
        let described = client.describe_activity_execution(describe()).await.unwrap().into_inner();
        assert_eq!(described.info.unwrap().status(), ActivityExecutionStatus::Paused);
        let (namespace, activity_id) = named();
        let unpause = UnpauseActivityExecutionRequest { namespace, activity_id, ..Default::default() };
        client.unpause_activity_execution(unpause).await.unwrap();
        let (namespace, activity_id) = named();
        let cancel = RequestCancelActivityExecutionRequest {
            namespace,
            activity_id,
            request_id: "cancel".to_owned(),
            ..Default::default()
        };
        client.request_cancel_activity_execution(cancel).await.unwrap();
        let (namespace, activity_id) = named();
        let late = RespondActivityTaskCompletedByIdRequest { namespace, activity_id, ..Default::default() };
        let late = client.respond_activity_task_completed_by_id(late).await.unwrap_err();
        assert_eq!(late.message(), "invalid transition from Canceled");
        for client in &mut cluster.clients {
            let described = client.describe_activity_execution(describe()).await.unwrap().into_inner();
            assert_eq!(described.info.unwrap().status(), ActivityExecutionStatus::Canceled);
        }
    }
    cluster.stop().await;
}
