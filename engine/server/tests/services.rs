//! The services as a client sees them, on a node in this process.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::time::Duration;

use everlog_kernel::token::{self, QueryTaskToken};
use everlog_proto::api::enums::v1::{EventType, HistoryEventFilterType, QueryResultType};
use everlog_proto::api::query::v1::WorkflowQuery;
use everlog_proto::api::workflowservice::v1::{
    GetSystemInfoRequest, GetWorkflowExecutionHistoryRequest, ListNamespacesRequest,
    PollWorkflowExecutionTimeSkippingRequest, QueryWorkflowRequest, RegisterNamespaceRequest,
    RespondQueryTaskCompletedRequest, TerminateWorkflowExecutionRequest,
};
use everlog_proto::wkt;
use harness::requests::{complete, event_ids, history, respond, signal};
use harness::{Client, Server, execution, payloads, poll, start_request, task_queue, within};
use tonic::Code;

const LONG: Duration = Duration::from_secs(30);

async fn register(client: &mut Client, namespace: &str) {
    let request = RegisterNamespaceRequest {
        namespace: namespace.to_owned(),
        workflow_execution_retention_period: Some(wkt::Duration { seconds: 86_400, nanos: 0 }),
        ..RegisterNamespaceRequest::default()
    };
    client.register_namespace(request).await.unwrap();
}

#[tokio::test]
async fn a_namespace_can_be_used_as_soon_as_it_is_registered() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut request = start_request("w");
    request.namespace = "orders".to_owned();
    let refused = client.start_workflow_execution(request.clone()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "Namespace orders is not found."));
    register(&mut client, "orders").await;
    assert!(client.start_workflow_execution(request).await.unwrap().into_inner().started);

    register(&mut client, "billing").await;
    let mut names = Vec::new();
    let mut next_page_token = Vec::new();
    loop {
        let request = ListNamespacesRequest { page_size: 1, next_page_token, ..ListNamespacesRequest::default() };
        let page = client.list_namespaces(request).await.unwrap().into_inner();
        names.extend(page.namespaces.into_iter().map(|namespace| namespace.namespace_info.unwrap().name));
        next_page_token = page.next_page_token;
        if next_page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["billing", "default", "orders", "temporal-system"]);
    server.stopped().await;
}

#[tokio::test]
async fn what_is_not_built_is_an_unknown_method() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let refused = client
        .poll_workflow_execution_time_skipping(PollWorkflowExecutionTimeSkippingRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(
        refused.message(),
        "unknown method PollWorkflowExecutionTimeSkipping for service temporal.api.workflowservice.v1.WorkflowService"
    );
    let capabilities =
        client.get_system_info(GetSystemInfoRequest {}).await.unwrap().into_inner().capabilities.unwrap();
    assert!(capabilities.sdk_metadata && capabilities.supports_schedules && capabilities.nexus);
    server.stopped().await;
}

#[tokio::test]
async fn a_start_is_deduplicated_and_a_second_one_refused_with_the_run() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let first = client.start_workflow_execution(start_request("w")).await.unwrap().into_inner();
    let again = client.start_workflow_execution(start_request("w")).await.unwrap().into_inner();
    assert_eq!((first.run_id.as_str(), again.started), (again.run_id.as_str(), true));
    let mut other = start_request("w");
    other.request_id = "other".to_owned();
    let refused = client.start_workflow_execution(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    // The detail carries the run that stands in the way.
    let detail = String::from_utf8_lossy(refused.details()).into_owned();
    assert!(detail.contains("WorkflowExecutionAlreadyStartedFailure") && detail.contains(&first.run_id), "{detail}");
    server.stopped().await;
}

#[tokio::test]
async fn a_history_is_followed_until_the_run_closes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    let follow = |token| GetWorkflowExecutionHistoryRequest { wait_new_event: true, ..history("w", token) };

    let first = client.get_workflow_execution_history(within(LONG, follow(Vec::new()))).await.unwrap().into_inner();
    assert_eq!(event_ids(&first), [1, 2]);
    // Nothing happens: the answer comes before the caller gives up, without events and with a token.
    let short = Duration::from_millis(1200);
    let nothing =
        client.get_workflow_execution_history(within(short, follow(first.next_page_token))).await.unwrap().into_inner();
    assert!(event_ids(&nothing).is_empty());
    assert!(!nothing.next_page_token.is_empty());

    let mut waiter = client.clone();
    let waiting = tokio::spawn(async move {
        waiter.get_workflow_execution_history(within(LONG, follow(nothing.next_page_token))).await.unwrap().into_inner()
    });
    client.signal_workflow_execution(signal("w", "1")).await.unwrap();
    let news = waiting.await.unwrap();
    assert_eq!(event_ids(&news), [3]);

    let mut waiter = client.clone();
    let closing = tokio::spawn(async move {
        let request = GetWorkflowExecutionHistoryRequest {
            wait_new_event: true,
            history_event_filter_type: HistoryEventFilterType::CloseEvent as i32,
            ..history("w", Vec::new())
        };
        waiter.get_workflow_execution_history(within(LONG, request)).await.unwrap().into_inner()
    });
    client
        .terminate_workflow_execution(TerminateWorkflowExecutionRequest {
            namespace: "default".to_owned(),
            workflow_execution: execution("w"),
            ..TerminateWorkflowExecutionRequest::default()
        })
        .await
        .unwrap();
    let closed = closing.await.unwrap();
    assert_eq!(event_ids(&closed), [4]);
    assert_eq!(closed.history.unwrap().events[0].event_type(), EventType::WorkflowExecutionTerminated);
    assert!(closed.next_page_token.is_empty());
    let last = client.get_workflow_execution_history(follow(news.next_page_token)).await.unwrap().into_inner();
    assert_eq!((event_ids(&last), last.next_page_token.is_empty()), (vec![4], true));
    server.stopped().await;
}

#[tokio::test]
async fn a_long_history_comes_in_pages_and_ends_with_the_start_of_the_task() {
    const SIGNALS: i64 = 600;
    let server = Server::start().await;
    let mut client = server.client().await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    for number in 0..SIGNALS {
        client.signal_workflow_execution(signal("w", &number.to_string())).await.unwrap();
    }
    let task = poll(&mut client).await;
    assert_eq!((task.started_event_id, task.attempt), (SIGNALS + 3, 1));
    let mut ids: Vec<i64> = task.history.unwrap().events.iter().map(|event| event.event_id).collect();
    let mut next_page_token = task.next_page_token;
    let mut pages = 1;
    while !next_page_token.is_empty() {
        let page = client.get_workflow_execution_history(history("w", next_page_token)).await.unwrap().into_inner();
        ids.extend(event_ids(&page));
        next_page_token = page.next_page_token;
        pages += 1;
    }
    assert_eq!(pages, 3);
    assert_eq!(ids, (1..=SIGNALS + 3).collect::<Vec<_>>());
    // A worker that lost its cache reads the history anew, and needs the start of its task too.
    let mut reread = Vec::new();
    loop {
        let page = client.get_workflow_execution_history(history("w", next_page_token)).await.unwrap().into_inner();
        reread.extend(event_ids(&page));
        next_page_token = page.next_page_token;
        if next_page_token.is_empty() {
            break;
        }
    }
    assert_eq!(reread, ids);
    client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
    server.stopped().await;
}

#[tokio::test]
async fn a_token_is_good_once_and_in_its_namespace() {
    let server = Server::start().await;
    let mut client = server.client().await;
    register(&mut client, "orders").await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    let token = poll(&mut client).await.task_token;

    let mut elsewhere = respond(token.clone(), vec![complete("done")]);
    elsewhere.namespace = "orders".to_owned();
    let refused = client.respond_workflow_task_completed(elsewhere).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "Operation requested with a token from a different namespace.");
    let refused = client.respond_workflow_task_completed(respond(b"abc".to_vec(), Vec::new())).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "Error deserializing task token."));

    client.respond_workflow_task_completed(respond(token.clone(), vec![complete("done")])).await.unwrap();
    let stale = client.respond_workflow_task_completed(respond(token, vec![complete("done")])).await.unwrap_err();
    assert_eq!(stale.code(), Code::NotFound);
    server.stopped().await;
}

#[tokio::test]
async fn a_query_reaches_a_worker_and_its_answer_the_caller() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.start_workflow_execution(start_request("w")).await.unwrap();
    let token = poll(&mut client).await.task_token;
    client.respond_workflow_task_completed(respond(token, Vec::new())).await.unwrap();

    let mut asker = client.clone();
    let asked = tokio::spawn(async move {
        let request = QueryWorkflowRequest {
            namespace: "default".to_owned(),
            execution: execution("w"),
            query: Some(WorkflowQuery { query_type: "state".to_owned(), ..WorkflowQuery::default() }),
            ..QueryWorkflowRequest::default()
        };
        asker.query_workflow(within(LONG, request)).await.unwrap().into_inner().query_result
    });
    let task = poll(&mut client).await;
    assert_eq!((task.query.unwrap().query_type.as_str(), task.started_event_id), ("state", 0));
    let answer = RespondQueryTaskCompletedRequest {
        namespace: "default".to_owned(),
        task_token: task.task_token,
        completed_type: QueryResultType::Answered as i32,
        query_result: payloads("42"),
        ..RespondQueryTaskCompletedRequest::default()
    };
    // A client of another namespace that counts, and one of this namespace that has seen another query.
    register(&mut client, "other").await;
    let other_id = server.node.parts.namespaces.by_name("other").unwrap().namespace.id;
    let token: QueryTaskToken = token::decode(&answer.task_token).unwrap();
    let forged = [
        ("other", QueryTaskToken { namespace_id: other_id, ..token.clone() }),
        ("default", QueryTaskToken { secret: 0, ..token.clone() }),
        ("default", QueryTaskToken { workflow_id: "v".to_owned(), ..token }),
    ];
    for (namespace, forged) in forged {
        let forged = RespondQueryTaskCompletedRequest {
            namespace: namespace.to_owned(),
            task_token: token::encode(&forged),
            query_result: payloads("forged"),
            ..answer.clone()
        };
        let refused = client.respond_query_task_completed(forged).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::NotFound, "query task not found, or already expired"));
    }
    client.respond_query_task_completed(answer.clone()).await.unwrap();
    assert_eq!(asked.await.unwrap(), payloads("42"));
    let late = client.respond_query_task_completed(answer).await.unwrap_err();
    assert_eq!(late.code(), Code::NotFound);
    server.stopped().await;
}

#[tokio::test]
async fn a_poll_that_was_given_up_takes_no_task() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for round in 0..20 {
        let mut given_up = client.clone();
        let poll_given_up = tokio::spawn(async move { poll(&mut given_up).await });
        // Any answer to another request of the connection comes after the poll has arrived.
        client.get_system_info(GetSystemInfoRequest {}).await.unwrap();
        poll_given_up.abort();
        assert!(poll_given_up.await.unwrap_err().is_cancelled());
        client.get_system_info(GetSystemInfoRequest {}).await.unwrap();
        let workflow_id = format!("w{round}");
        client.start_workflow_execution(start_request(&workflow_id)).await.unwrap();
        let task = tokio::time::timeout(Duration::from_secs(5), poll(&mut client)).await.unwrap();
        assert_eq!(task.workflow_execution.unwrap().workflow_id, workflow_id);
        client.respond_workflow_task_completed(respond(task.task_token, vec![complete("done")])).await.unwrap();
    }
    server.stopped().await;
}

#[tokio::test]
async fn a_server_that_stops_ends_polls_empty() {
    let mut server = Server::start().await;
    let mut client = server.client().await;
    let request = everlog_proto::api::workflowservice::v1::PollWorkflowTaskQueueRequest {
        namespace: "default".to_owned(),
        task_queue: task_queue("queue"),
        ..Default::default()
    };
    let mut poller = client.clone();
    let polling = tokio::spawn(async move { poller.poll_workflow_task_queue(within(LONG, request)).await });
    client.get_system_info(GetSystemInfoRequest {}).await.unwrap();
    server.stop();
    let ended = tokio::time::timeout(Duration::from_secs(5), polling).await.unwrap().unwrap().unwrap().into_inner();
    assert!(ended.task_token.is_empty());
    server.stopped().await;
}
