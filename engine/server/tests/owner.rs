//! A partition that fails on a command goes on without it.

use std::sync::Arc;

use everlog_kernel::Rejection;
use everlog_model::{CallError, WorkflowRef};
use everlog_partition::Status;
use everlog_server::node::{Node, Options};

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_the_command_that_did_it_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(Options {
        data_dir: directory.path().to_owned(),
        partitions: 1,
        limits: Arc::default(),
        cache_bytes_max: 1 << 20,
        tables_open_max: 100,
        neighbours: None,
    })
    .await
    .unwrap();
    let namespace = everlog_kernel::Namespace {
        id: everlog_kernel::NamespaceId([7; 16]),
        name: "n".to_owned(),
        retention: std::time::Duration::from_secs(1),
    };
    let namespace = Arc::new(namespace);
    let workflow = |id: &str| WorkflowRef { namespace: Arc::clone(&namespace), workflow_id: id.into() };
    let partition = node.router.partition_of(&workflow("w")).unwrap().clone();

    let poison: Result<(), CallError> = partition.inspect(workflow("w"), None, |_, _| panic!("poison")).await;
    assert!(matches!(poison, Err(CallError::Failed(_))), "{poison:?}");
    // The partition leads anew, and others are served; those who come too early wait.
    let other = partition.inspect(workflow("other"), None, |_, _| Ok(1)).await;
    assert!(matches!(other, Ok(1)), "{other:?}");
    assert_eq!(*partition.status().borrow(), Status::Serving);
    // What did it is refused for a while.
    let again: Result<i32, CallError> = partition.inspect(workflow("w"), None, |_, _| Ok(1)).await;
    assert!(matches!(again, Err(CallError::Failed(_))), "{again:?}");
    let missing: Result<i32, CallError> =
        partition.inspect(workflow("x"), None, |_, _| Err(Rejection::workflow_not_found())).await;
    assert!(matches!(missing, Err(CallError::Rejected(_))), "{missing:?}");
    node.stop().await.unwrap();
}
