//! Archival: runs whose retention is over go into the archive before they go, whatever fails meanwhile, and are read from there.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::path::Path;
use std::time::{Duration, Instant};

use everlog_archive::{ArchiveOptions, FileOptions, PartOptions};
use everlog_config::{ArchivalSwitch, DynamicConfig};
use everlog_proto::api::enums::v1::ArchivalState;
use everlog_proto::api::history::v1::HistoryEvent;
use everlog_proto::api::namespace::v1::NamespaceConfig;
use everlog_proto::api::workflowservice::v1::{
    DeleteWorkflowExecutionRequest, DescribeNamespaceRequest, DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest, GetWorkflowExecutionHistoryResponse, ListArchivedWorkflowExecutionsRequest,
    ListArchivedWorkflowExecutionsResponse, RegisterNamespaceRequest, StartWorkflowExecutionRequest,
    TerminateWorkflowExecutionRequest, UpdateNamespaceRequest,
};
use harness::process::{Process, everlog};
use harness::requests::{seconds, signal, terminate};
use harness::wire::told;
use harness::{Client, Server, execution, start_request};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "kept";

fn archive_in(directory: &Path) -> ArchiveOptions {
    let part = |name: &str| PartOptions {
        is_enabled: true,
        is_read: true,
        is_default: false,
        default_uri: format!("file://{}/{name}", directory.display()),
    };
    ArchiveOptions {
        history: part("histories"),
        visibility: part("lists"),
        file: Some(FileOptions { root: Some(directory.display().to_string()) }),
        s3: None,
    }
}

/// Where runs are not kept for longer than they say.
fn config() -> DynamicConfig {
    let mut config = DynamicConfig::default();
    config.frontend.retention_min = Duration::from_secs(1);
    config.limits.retention_jitter = Duration::ZERO;
    config
}

fn register(retention: i64) -> RegisterNamespaceRequest {
    RegisterNamespaceRequest {
        namespace: NAMESPACE.to_owned(),
        workflow_execution_retention_period: seconds(retention),
        history_archival_state: ArchivalState::Enabled.into(),
        visibility_archival_state: ArchivalState::Enabled.into(),
        ..RegisterNamespaceRequest::default()
    }
}

/// Starts a run and ends it; its id.
async fn closed_run(client: &mut Client, workflow_id: &str) -> String {
    let start = StartWorkflowExecutionRequest { namespace: NAMESPACE.to_owned(), ..start_request(workflow_id) };
    let run_id = client.start_workflow_execution(start).await.unwrap().into_inner().run_id;
    let terminate = TerminateWorkflowExecutionRequest { namespace: NAMESPACE.to_owned(), ..terminate(workflow_id) };
    client.terminate_workflow_execution(terminate).await.unwrap();
    run_id
}

fn history_of(workflow_id: &str, run_id: &str) -> GetWorkflowExecutionHistoryRequest {
    let mut execution = execution(workflow_id);
    execution.as_mut().unwrap().run_id = run_id.to_owned();
    GetWorkflowExecutionHistoryRequest {
        namespace: NAMESPACE.to_owned(),
        execution,
        ..GetWorkflowExecutionHistoryRequest::default()
    }
}

async fn read(
    client: &mut Client,
    request: GetWorkflowExecutionHistoryRequest,
) -> Result<GetWorkflowExecutionHistoryResponse, Status> {
    Ok(client.get_workflow_execution_history(request).await?.into_inner())
}

fn events(response: &GetWorkflowExecutionHistoryResponse) -> Vec<HistoryEvent> {
    response.history.clone().unwrap_or_default().events
}

/// Waits until the run is in the archive, and nowhere else. What is read of it at any time is all of its history.
async fn archived(client: &mut Client, workflow_id: &str, run_id: &str) -> GetWorkflowExecutionHistoryResponse {
    let begin = Instant::now();
    loop {
        let response = read(client, history_of(workflow_id, run_id)).await.unwrap();
        assert_eq!(events(&response).len(), 3, "{response:?}");
        if response.archived {
            return response;
        }
        assert!(begin.elapsed() < PATIENCE, "{workflow_id} is not archived");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn list(
    client: &mut Client,
    query: &str,
    page_size: i32,
    token: Vec<u8>,
) -> Result<ListArchivedWorkflowExecutionsResponse, Status> {
    let request = ListArchivedWorkflowExecutionsRequest {
        namespace: NAMESPACE.to_owned(),
        query: query.to_owned(),
        page_size,
        next_page_token: token,
    };
    Ok(client.list_archived_workflow_executions(request).await?.into_inner())
}

/// The ids of all that is listed, page by page.
async fn ids(client: &mut Client, query: &str, page_size: i32) -> Vec<String> {
    let (mut ids, mut token) = (Vec::new(), Vec::new());
    loop {
        let page = list(client, query, page_size, token).await.unwrap();
        ids.extend(page.executions.into_iter().map(|run| run.execution.unwrap().workflow_id));
        if page.next_page_token.is_empty() {
            return ids;
        }
        token = page.next_page_token;
    }
}

#[tokio::test]
async fn a_run_is_read_from_the_archive_once_its_retention_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::archiving(config(), archive_in(directory.path())).await;
    let mut client = server.client().await;
    client.register_namespace(register(1)).await.unwrap();
    let run_id = closed_run(&mut client, "a").await;
    let before = read(&mut client, history_of("a", &run_id)).await.unwrap();
    let first = GetWorkflowExecutionHistoryRequest { maximum_page_size: 1, ..history_of("a", &run_id) };
    let half_read = read(&mut client, first).await.unwrap().next_page_token;
    let after = archived(&mut client, "a", &run_id).await;
    assert_eq!((before.archived, events(&before)), (false, events(&after)));

    // It is nowhere else, and read from there by those who name it and do not mind.
    let describe = DescribeWorkflowExecutionRequest { namespace: NAMESPACE.to_owned(), execution: execution("a") };
    assert_eq!(client.describe_workflow_execution(describe).await.unwrap_err().code(), Code::NotFound);
    let skipping = GetWorkflowExecutionHistoryRequest { skip_archival: true, ..history_of("a", &run_id) };
    assert_eq!(read(&mut client, skipping).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(read(&mut client, history_of("a", "")).await.unwrap_err().code(), Code::NotFound);
    assert!(!half_read.is_empty());
    let rest = GetWorkflowExecutionHistoryRequest { next_page_token: half_read, ..history_of("a", &run_id) };
    assert_eq!(read(&mut client, rest).await.unwrap_err().code(), Code::NotFound, "no event comes twice");
    let (mut paged, mut request) = (Vec::new(), history_of("a", &run_id));
    request.maximum_page_size = 1;
    for _ in 0..10 {
        let page = read(&mut client, request.clone()).await.unwrap();
        assert!(page.archived);
        paged.extend(events(&page));
        if page.next_page_token.is_empty() {
            break;
        }
        request.next_page_token = page.next_page_token;
    }
    assert_eq!(paged, events(&after));
    let unknown = "01010101-0101-0101-0101-010101010101";
    let told_of =
        |response: Result<_, Status>| told(&response.map(|_: GetWorkflowExecutionHistoryResponse| ()).unwrap_err());
    let missing = told_of(read(&mut client, history_of("a", unknown)).await);
    assert!(missing.contains("requested workflow history does not exist"), "{missing}");
    let of_another = GetWorkflowExecutionHistoryRequest {
        next_page_token: request.next_page_token.clone(),
        ..history_of("a", unknown)
    };
    let refused = told_of(read(&mut client, of_another).await);
    assert!(refused.contains("RunId in the request does not match the NextPageToken."), "{refused}");
    let elsewhere = GetWorkflowExecutionHistoryRequest { namespace: "default".to_owned(), ..history_of("a", unknown) };
    let refused = told_of(read(&mut client, elsewhere).await);
    let expected = "Requested workflow history not found, may have passed retention period.";
    assert!(refused.contains(expected), "{refused}");

    // What lists show of it is there, too.
    for workflow_id in ["b", "c"] {
        let run_id = closed_run(&mut client, workflow_id).await;
        archived(&mut client, workflow_id, &run_id).await;
    }
    for (query, page_size, expected) in [
        ("", 0, &["c", "b", "a"][..]),
        ("", 1, &["c", "b", "a"]),
        ("WorkflowId = 'b'", 1, &["b"]),
        ("WorkflowType = 'type' AND ExecutionStatus = 'Terminated'", 2, &["c", "b", "a"]),
        ("ExecutionStatus = 'Completed'", 10, &[]),
        ("ExecutionStatus = 'Running'", 10, &[]),
        ("CloseTime < '2000-01-01T00:00:00Z'", 10, &[]),
        (&format!("RunId = '{run_id}'"), 10, &["a"]),
    ] {
        let query = query.replace("'type'", &format!("'{}'", start_request("").workflow_type.unwrap().name));
        assert_eq!(ids(&mut client, &query, page_size).await, expected, "{query:?}");
    }
    let listed = list(&mut client, "WorkflowId = 'a'", 1, Vec::new()).await.unwrap().executions.remove(0);
    assert_eq!((listed.execution.unwrap().run_id, listed.history_length), (run_id, 3));
    assert!(listed.start_time.is_some() && listed.close_time.is_some() && listed.execution_time.is_some());
    let corrupted = list(&mut client, "", 1, b"x".to_vec()).await.unwrap_err();
    assert_eq!((corrupted.code(), corrupted.message()), (Code::InvalidArgument, "next page token is corrupted"));
    let wrong = list(&mut client, "nonsense", 1, Vec::new()).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    server.stopped().await;
}

#[tokio::test]
async fn a_run_that_somebody_deletes_is_not_archived() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::archiving(config(), archive_in(directory.path())).await;
    let mut client = server.client().await;
    client.register_namespace(register(2)).await.unwrap();
    let start = |workflow_id: &str| StartWorkflowExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        ..start_request(workflow_id)
    };
    let open = client.start_workflow_execution(start("open")).await.unwrap().into_inner().run_id;
    let closed = closed_run(&mut client, "closed").await;
    for workflow_id in ["open", "closed"] {
        let delete = DeleteWorkflowExecutionRequest {
            namespace: NAMESPACE.to_owned(),
            workflow_execution: execution(workflow_id),
        };
        client.delete_workflow_execution(delete).await.unwrap();
    }
    // One that is archived after them: they would have been by then.
    let kept = closed_run(&mut client, "kept").await;
    archived(&mut client, "kept", &kept).await;
    for (workflow_id, run_id) in [("open", open), ("closed", closed)] {
        let missing = read(&mut client, history_of(workflow_id, &run_id)).await.unwrap_err();
        assert_eq!(missing.message(), "requested workflow history does not exist", "{workflow_id}");
    }
    assert_eq!(ids(&mut client, "", 10).await, ["kept"]);
    server.stopped().await;
}

/// The archival of a namespace: states and URIs.
async fn archival(client: &mut Client, namespace: &str) -> [(ArchivalState, String); 2] {
    let request = DescribeNamespaceRequest { namespace: namespace.to_owned(), ..DescribeNamespaceRequest::default() };
    let config = client.describe_namespace(request).await.unwrap().into_inner().config.unwrap();
    [
        (config.history_archival_state(), config.history_archival_uri.clone()),
        (config.visibility_archival_state(), config.visibility_archival_uri.clone()),
    ]
}

#[tokio::test]
async fn a_namespace_says_once_where_it_is_archived() {
    use ArchivalState::{Disabled, Enabled, Unspecified};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let mut options = archive_in(directory.path());
    options.visibility.is_default = true;
    let server = Server::archiving(config(), options).await;
    let mut client = server.client().await;
    let (histories, lists) = (format!("file://{path}/histories"), format!("file://{path}/lists"));
    let new = |namespace: &str| RegisterNamespaceRequest {
        namespace: namespace.to_owned(),
        workflow_execution_retention_period: seconds(86_400),
        ..RegisterNamespaceRequest::default()
    };
    client.register_namespace(new("n")).await.unwrap();
    let never = (Disabled, String::new());
    assert_eq!(archival(&mut client, "n").await, [never.clone(), (Enabled, lists.clone())]);
    assert_eq!(archival(&mut client, "default").await, [never.clone(), never]);

    let mut update = async |state: ArchivalState, uri: &str| {
        let config = NamespaceConfig {
            history_archival_state: state.into(),
            history_archival_uri: uri.to_owned(),
            ..NamespaceConfig::default()
        };
        let request = UpdateNamespaceRequest {
            namespace: "n".to_owned(),
            config: Some(config),
            ..UpdateNamespaceRequest::default()
        };
        let updated = client.update_namespace(request).await;
        updated
            .map(|response| {
                let config = response.into_inner().config.unwrap();
                (config.history_archival_state(), config.history_archival_uri.clone())
            })
            .map_err(|status| (status.code(), status.message().to_owned()))
    };
    let immutable = || Err((Code::InvalidArgument, "Cannot update existing archival URI".to_owned()));
    let refused = |message: &str| Err((Code::Unknown, message.to_owned()));
    let other = format!("file://{path}/other");
    for (state, uri, expected) in [
        (Enabled, "nothing://a", refused("unknown archiver scheme")),
        (Enabled, "gs://bucket", refused("unable to find archiver config for the given scheme")),
        (Enabled, "s3://bucket", refused("unable to find archiver config for the given scheme")),
        (Enabled, ":", refused("parse \":\": missing protocol scheme")),
        (Enabled, "file://", refused("directory path is empty")),
        (Enabled, "file:///elsewhere", refused("the URI is not in the directory that this server archives to")),
        (Unspecified, "", Ok((Disabled, String::new()))),
        (Enabled, "", Ok((Enabled, histories.clone()))),
        (Enabled, &other, immutable()),
        (Disabled, "", Ok((Disabled, histories.clone()))),
        (Unspecified, &other, immutable()),
        (Enabled, &histories, Ok((Enabled, histories.clone()))),
    ] {
        assert_eq!(update(state, uri).await, expected, "{state:?} {uri:?}");
    }
    let disabled = RegisterNamespaceRequest { visibility_archival_state: Disabled.into(), ..new("m") };
    client.register_namespace(disabled).await.unwrap();
    assert_eq!(archival(&mut client, "m").await[1], (Disabled, String::new()));
    let unlisted = ListArchivedWorkflowExecutionsRequest {
        namespace: "m".to_owned(),
        ..ListArchivedWorkflowExecutionsRequest::default()
    };
    let refused = client.list_archived_workflow_executions(unlisted).await.unwrap_err();
    assert_eq!(refused.message(), "Namespace is not configured for visibility archival.");
    let wrong = RegisterNamespaceRequest {
        history_archival_state: Enabled.into(),
        history_archival_uri: "nothing://a".to_owned(),
        ..new("o")
    };
    assert_eq!(client.register_namespace(wrong).await.unwrap_err().message(), "unknown archiver scheme");
    server.stopped().await;
}

#[tokio::test]
async fn what_is_not_read_is_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = archive_in(directory.path());
    (options.history.is_read, options.visibility.is_read) = (false, false);
    let server = Server::archiving(config(), options).await;
    let mut client = server.client().await;
    client.register_namespace(register(86_400)).await.unwrap();
    let refused = list(&mut client, "", 1, Vec::new()).await.unwrap_err();
    assert_eq!(refused.message(), "Cluster is not configured for reading archived visibility records.");
    let run_id = "01010101-0101-0101-0101-010101010101";
    let missing = read(&mut client, history_of("a", run_id)).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert_ne!(missing.message(), "requested workflow history does not exist");
    server.stopped().await;
}

#[tokio::test]
async fn the_dynamic_configuration_turns_archival_off_and_says_whether_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let unread = ArchiveOptions {
        visibility: PartOptions { is_read: false, ..archive_in(directory.path()).visibility },
        ..archive_in(directory.path())
    };
    let (off, as_said) = (ArchivalSwitch::Off, ArchivalSwitch::AsConfigured);
    let not_at_all = Err("Cluster is not configured for visibility archival.".to_owned());
    let not_read = Err("Cluster is not configured for reading archived visibility records.".to_owned());
    for (options, switch, is_read, expected) in [
        (archive_in(directory.path()), as_said, None, Ok(0)),
        (archive_in(directory.path()), as_said, Some(false), not_read.clone()),
        (archive_in(directory.path()), off, Some(true), not_at_all.clone()),
        (unread.clone(), as_said, None, not_read),
        (unread, as_said, Some(true), Ok(0)),
        (ArchiveOptions::default(), as_said, Some(true), not_at_all),
    ] {
        let mut config = config();
        config.frontend.visibility_archival = switch;
        config.frontend.visibility_archive_read = is_read;
        config.frontend.archive_page_max = 5;
        let server = Server::archiving(config, options).await;
        let mut client = server.client().await;
        client.register_namespace(register(86_400)).await.unwrap();
        let listed = list(&mut client, "", 5, Vec::new()).await;
        let listed = listed.map(|list| list.executions.len()).map_err(|status| status.message().to_owned());
        assert_eq!(listed, expected, "{switch:?} {is_read:?}");
        let larger = list(&mut client, "", 6, Vec::new()).await.unwrap_err();
        assert_eq!(larger.message(), "PageSize is larger than allowed 5.");
        server.stopped().await;
    }
}

#[tokio::test]
async fn runs_go_without_being_kept_while_archival_is_turned_off() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config();
    (config.frontend.history_archival, config.frontend.visibility_archival) =
        (ArchivalSwitch::Off, ArchivalSwitch::Off);
    let server = Server::archiving(config, archive_in(directory.path())).await;
    let mut client = server.client().await;
    client.register_namespace(register(1)).await.unwrap();
    let run_id = closed_run(&mut client, "a").await;
    let begin = Instant::now();
    while read(&mut client, history_of("a", &run_id)).await.is_ok() {
        assert!(begin.elapsed() < PATIENCE, "the run stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    server.stopped().await;
}

/// `everlog server` with an archive in `archive`.
async fn start(data: &Path, archive: &Path) -> Process {
    let file = data.join("everlog.toml");
    let settings = format!(
        "data_dir = \"{data}/data\"\n[listen]\nport = 0\nhttp_port = 0\nmetrics_port = 0\n\
         [archival.history]\nenabled = true\nread = true\ndefault_uri = \"file://{archive}/histories\"\n\
         [archival.visibility]\nenabled = true\nread = true\ndefault_uri = \"file://{archive}/lists\"\n\
         [archival.file]\nroot = \"{archive}\"\n\
         [dynamic_config]\n\"system.namespaceMinRetentionLocal\" = \"1s\"\n\
         \"history.retentionTimerJitterDuration\" = \"1s\"\n",
        data = data.display(),
        archive = archive.display(),
    );
    std::fs::write(&file, settings).unwrap();
    let mut command = everlog();
    command.arg("server").arg("--config").arg(&file);
    Process::start(command).await
}

/// Waits until a try to archive a run has failed.
async fn failures(process: &Process) {
    let begin = Instant::now();
    loop {
        let metrics = process.get("metrics", "/metrics").await;
        let failures = metrics.lines().find_map(|line| line.strip_prefix("everlog_archive_failures_total "));
        if failures.is_some_and(|count| count != "0") {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "nothing has failed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn runs_stay_until_the_archive_takes_them_over_kills() {
    let (data, archive) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let process = start(data.path(), archive.path()).await;
    let mut client = process.client().await;
    client.register_namespace(register(1)).await.unwrap();
    // A file is in the way of the directory.
    let histories = archive.path().join("histories");
    std::fs::write(&histories, "").unwrap();
    let mut runs = Vec::new();
    for number in 0..20 {
        let workflow_id = format!("w{number}");
        let run_id = closed_run(&mut client, &workflow_id).await;
        runs.push((workflow_id, run_id));
    }
    failures(&process).await;
    process.kill().await;

    let process = start(data.path(), archive.path()).await;
    failures(&process).await;
    let mut client = process.client().await;
    for (workflow_id, run_id) in &runs {
        let response = read(&mut client, history_of(workflow_id, run_id)).await.unwrap();
        assert_eq!((response.archived, events(&response).len()), (false, 3), "{workflow_id} is still there");
    }
    assert!(ids(&mut client, "", 100).await.is_empty(), "what lists show comes after the history");
    // New work goes on beside.
    client.start_workflow_execution(start_request("open")).await.unwrap();
    client.signal_workflow_execution(signal("open", "request")).await.unwrap();
    std::fs::remove_file(&histories).unwrap();
    process.kill().await;

    // Killed again while they are archived.
    let process = start(data.path(), archive.path()).await;
    let begin = Instant::now();
    while !histories.exists() {
        assert!(begin.elapsed() < PATIENCE, "nothing is archived");
        tokio::task::yield_now().await;
    }
    process.kill().await;
    let process = start(data.path(), archive.path()).await;
    let mut client = process.client().await;
    for (workflow_id, run_id) in &runs {
        archived(&mut client, workflow_id, run_id).await;
    }
    let mut listed = ids(&mut client, "", 7).await;
    listed.sort_unstable();
    let mut expected: Vec<_> = runs.into_iter().map(|(workflow_id, _)| workflow_id).collect();
    expected.sort_unstable();
    assert_eq!(listed, expected, "each once");
    process.stop().await;
}
