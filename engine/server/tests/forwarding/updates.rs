//! Updates are sent and answered wherever worker and caller are.

use everlog_proto::api::update::v1::outcome::Value;
use everlog_proto::api::workflowservice::v1::RespondWorkflowTaskCompletedRequest;

use super::cluster::{Cluster, NAMESPACE};
use super::harness::payloads;
use super::harness::updates::{able, completed, rejected, update};
use super::requests::{poll, respond, start_on, workflow_poll};

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_answered_wherever_its_worker_and_its_caller_are() {
    let mut cluster = Cluster::start().await;
    for number in 0..16 {
        let [led, home, polled, asked] = [number & 1, number >> 1 & 1, number >> 2 & 1, number >> 3];
        let (id, queue) = (cluster.id_at(led, &format!("w{number}")), cluster.id_at(home, &format!("q{number}")));
        cluster.clients[asked].start_workflow_execution(start_on(&id, &queue)).await.unwrap();
        let first = poll(&mut cluster.clients[polled], workflow_poll(&queue)).await;
        let client = &mut cluster.clients[polled];
        client.respond_workflow_task_completed(respond(first.task_token, Vec::new())).await.unwrap();

        for (update_id, is_rejected) in [("yes", false), ("no", true)] {
            let waiting = update(&cluster.clients[asked], NAMESPACE, &id, update_id);
            let task = poll(&mut cluster.clients[polled], workflow_poll(&queue)).await;
            let [message] = task.messages.as_slice() else { panic!("{number}: {task:?}") };
            let messages = if is_rejected { rejected(message) } else { completed(message, "done") };
            let response = RespondWorkflowTaskCompletedRequest {
                messages,
                capabilities: able(),
                ..respond(task.task_token, Vec::new())
            };
            let answered = cluster.clients[1 - polled].respond_workflow_task_completed(response).await.unwrap();
            assert_eq!(answered.into_inner().reset_history_event_id > 0, is_rejected, "{number}");
            let outcome = waiting.await.unwrap().unwrap().outcome.and_then(|outcome| outcome.value);
            match outcome {
                Some(Value::Failure(failure)) => {
                    assert!(is_rejected && failure.message == "no", "{number}: {failure:?}")
                }
                outcome => assert_eq!(outcome, payloads("done").map(Value::Success), "{number}"),
            }
        }
    }
    cluster.stop().await;
}
