//! Each change with what it leads to, the rows, and where queues lead.

use std::sync::Arc;

use everlog_proto::api::enums::v1::{TaskQueueType, VersionDrainageStatus, WorkerDeploymentVersionStatus as Status};
use prost::Message;

use super::*;
use crate::task::TaskKind;
use crate::{Rejection, Time};

const MAX: (usize, usize) = (3, 2);

fn queue(name: &str) -> VersionQueue {
    VersionQueue { kind: TaskQueueType::Workflow.into(), name: name.to_owned() }
}

fn with_versions(builds: &[&str]) -> Deployment {
    let mut deployment = Deployment::new("d", Time(1));
    for (at, build) in (2..).zip(builds) {
        deployment.register(build, queue("q"), MAX, &Unwatched::default(), Time(at)).unwrap();
    }
    deployment
}

fn current(version: &str) -> SetCurrent {
    SetCurrent {
        version: version.to_owned(),
        identity: "me".to_owned(),
        conflict_token: Vec::new(),
        allows_no_pollers: false,
    }
}

fn ramping(version: &str, percentage: f32) -> SetRamping {
    SetRamping {
        version: version.to_owned(),
        percentage,
        identity: "me".to_owned(),
        conflict_token: Vec::new(),
        allows_no_pollers: false,
    }
}

fn statuses(deployment: &Deployment) -> Vec<(String, Status)> {
    deployment.versions.iter().map(|(id, version)| (id.clone(), version.status)).collect()
}

fn text(refused: Result<impl std::fmt::Debug, Rejection>) -> String {
    refused.unwrap_err().to_string()
}

#[test]
fn versions_are_read_in_both_ways_of_writing_them() {
    let version =
        |text| version_of_name(text).map(|version| version.map(|version| (version.deployment_name, version.build_id)));
    let named = |name: &str, build: &str| Ok(Some((name.to_owned(), build.to_owned())));
    for (written, read) in [
        ("d:b", Err("build id is empty in version string d:b".to_owned())),
        ("d.b", named("d", "b")),
        ("d:1.0", named("d", "1.0")),
        ("d.1:0", named("d", "1:0")),
        (UNVERSIONED, Ok(None)),
        ("d", Err("expected delimiter ':' or '.' not found in version string d".to_owned())),
        (".b", Err("deployment name is empty in version string .b".to_owned())),
        ("d.", Err("build id is empty in version string d.".to_owned())),
    ] {
        assert_eq!(version(written), read, "{written}");
    }
}

#[test]
fn a_version_goes_from_inactive_to_drained() {
    let none = Unwatched::default();
    let mut deployment = with_versions(&["1", "2"]);
    assert_eq!(statuses(&deployment), [("1".to_owned(), Status::Inactive), ("2".to_owned(), Status::Inactive)]);
    assert_eq!(deployment.set_current(&current("d.1"), 3, &none, Time(10)), Ok(UNVERSIONED.to_owned()));
    assert_eq!(deployment.set_ramping(&ramping("d.2", 30.0), 3, &none, Time(11)), Ok((String::new(), 0.0)));
    assert_eq!(statuses(&deployment), [("1".to_owned(), Status::Current), ("2".to_owned(), Status::Ramping)]);
    assert_eq!(deployment.routing.revision_number, 2);
    // Who was ramping becomes current: the ramp is over.
    assert_eq!(deployment.set_current(&current("d.2"), 3, &none, Time(12)), Ok("d.1".to_owned()));
    assert_eq!(statuses(&deployment), [("1".to_owned(), Status::Draining), ("2".to_owned(), Status::Current)]);
    assert_eq!(deployment.routing.ramping_deployment_version, None);
    assert_eq!(deployment.versions["2"].ramping_since, None);
    assert_eq!(deployment.versions["2"].first_activation, Some(Time(11)));
    let drainage = |deployment: &Deployment| deployment.versions["1"].drainage.unwrap().status();
    deployment.drain("1", 5, Time(20));
    assert_eq!(drainage(&deployment), VersionDrainageStatus::Draining);
    deployment.drain("1", 0, Time(21));
    assert_eq!(drainage(&deployment), VersionDrainageStatus::Drained);
    assert_eq!(deployment.versions["1"].status, Status::Drained);
    // An override pins another workflow to it.
    deployment.drain("1", 1, Time(22));
    assert_eq!(deployment.versions["1"].status, Status::Draining);
    // It is current again, and nothing is said of drainage any more.
    deployment.set_current(&current("d.1"), 3, &none, Time(23)).unwrap();
    assert_eq!((deployment.versions["1"].status, deployment.versions["1"].drainage), (Status::Current, None));
    deployment.drain("1", 0, Time(24));
    assert_eq!(deployment.versions["1"].drainage, None);
}

#[test]
fn a_change_that_changes_nothing_keeps_the_token() {
    let none = Unwatched::default();
    let mut deployment = with_versions(&["1"]);
    deployment.set_current(&current("d.1"), 3, &none, Time(10)).unwrap();
    let token = deployment.conflict_token.clone();
    assert_eq!(deployment.set_current(&current("d.1"), 3, &none, Time(11)), Ok("d.1".to_owned()));
    assert_eq!(deployment.conflict_token, token);
    // Somebody else: the same version, and another token.
    let other = SetCurrent { identity: "other".to_owned(), ..current("d.1") };
    deployment.set_current(&other, 3, &none, Time(12)).unwrap();
    assert_ne!(deployment.conflict_token, token);
    assert_eq!(deployment.routing.revision_number, 1);
    let late = SetCurrent { conflict_token: token, ..current(UNVERSIONED) };
    assert_eq!(text(deployment.set_current(&late, 3, &none, Time(13))), "conflict token mismatch");
}

#[test]
fn what_cannot_be_is_refused() {
    let none = Unwatched::default();
    let mut deployment = with_versions(&["1", "2"]);
    assert_eq!(
        text(deployment.set_current(&current("d.7"), 3, &none, Time(10))),
        "build ID '7' not found in Worker Deployment 'd'"
    );
    deployment.set_current(&current("d.1"), 3, &none, Time(10)).unwrap();
    assert_eq!(
        text(deployment.set_ramping(&ramping("d.1", 5.0), 3, &none, Time(11))),
        "requested ramping version d.1 is already current"
    );
    assert_eq!(
        text(deployment.delete_version("1", "me", true)),
        "version 'd:1' cannot be deleted since it is current or ramping"
    );
    deployment.set_manager("boss", "boss", b"", Time(12)).unwrap();
    assert!(
        text(deployment.set_current(&current(UNVERSIONED), 3, &none, Time(13))).starts_with("ManagerIdentity 'boss'")
    );
    deployment.set_manager("", "boss", b"", Time(14)).unwrap();
    deployment.set_current(&current("d.2"), 3, &none, Time(15)).unwrap();
    assert_eq!(
        text(deployment.delete_version("1", "me", false)),
        "version 'd:1' cannot be deleted since it is draining"
    );
    assert_eq!(text(deployment.check_empty()), "deployment has versions, can't be deleted");
    assert_eq!(deployment.delete_version("1", "me", true), Ok(()));
    assert_eq!(deployment.delete_version("1", "me", true), Ok(()), "it is gone already");
}

#[test]
fn there_are_only_so_many_versions_and_queues() {
    let none = Unwatched::default();
    let mut deployment = with_versions(&["1", "2", "3"]);
    let register = |deployment: &mut Deployment, build: &str, name: &str, goes: &Unwatched| {
        deployment.register(build, queue(name), MAX, goes, Time(9))
    };
    assert_eq!(
        text(register(&mut deployment, "4", "q", &none)),
        "cannot add version d.4 since maximum number of versions (3) have been registered in the deployment"
    );
    deployment.set_current(&current("d.1"), 3, &none, Time(5)).unwrap();
    assert!(register(&mut deployment, "4", "q", &Unwatched(Some("1".to_owned()))).is_err(), "it is current");
    assert_eq!(deployment.deletable().map(|(id, _)| id).collect::<Vec<_>>(), ["2", "3"]);
    register(&mut deployment, "4", "q", &Unwatched(Some("2".to_owned()))).unwrap();
    assert_eq!(deployment.versions.keys().collect::<Vec<_>>(), ["1", "3", "4"]);
    register(&mut deployment, "4", "r", &none).unwrap();
    assert_eq!(
        text(register(&mut deployment, "4", "s", &none)),
        "cannot add task queue s since maximum number of task queues (2) have been registered in deployment"
    );
    // Another kind of a queue that it has is no other queue.
    let activities = VersionQueue { kind: TaskQueueType::Activity.into(), name: "r".to_owned() };
    deployment.register("4", activities, MAX, &none, Time(10)).unwrap();
}

#[test]
fn queues_lead_to_the_current_version_and_to_the_ramping_one_for_some() {
    let none = Unwatched::default();
    let mut deployment = with_versions(&["1", "2"]);
    deployment.set_current(&current("d.1"), 3, &none, Time(10)).unwrap();
    deployment.set_ramping(&ramping("d.2", 30.0), 3, &none, Time(11)).unwrap();
    let (one, two) = (deployment.version("1"), deployment.version("2"));
    let routes = |deployment: &Deployment| Deployments::new([Arc::new(deployment.clone())]);
    let ids: Vec<String> = (0..1000).map(|number| format!("workflow-{number}")).collect();
    let ramped = |deployments: &Deployments| -> Vec<&String> {
        ids.iter().filter(|id| deployments.route(TaskKind::Workflow, "q", None, id) == Some(&two)).collect()
    };
    let some = routes(&deployment);
    let first = ramped(&some).into_iter().cloned().collect::<Vec<_>>();
    assert!((200..400).contains(&first.len()), "{}", first.len());
    assert_eq!(some.route(TaskKind::Workflow, "q", Some(&one), &first[0]), Some(&one), "pinned");
    assert_eq!(some.route(TaskKind::Workflow, "other", None, "w"), None);
    // An activity whose queue no version has polled is one of its own.
    assert_eq!(some.route(TaskKind::Activity, "q", Some(&one), "w"), None);
    deployment.set_ramping(&ramping("d.2", 60.0), 3, &none, Time(12)).unwrap();
    let more = routes(&deployment);
    assert!(first.iter().all(|id| ramped(&more).contains(&id)), "who has ramped stays");
    deployment.set_ramping(&ramping("d.2", 100.0), 3, &none, Time(13)).unwrap();
    assert_eq!(ramped(&routes(&deployment)).len(), ids.len());
    deployment.set_ramping(&ramping("", 0.0), 3, &none, Time(14)).unwrap();
    assert_eq!(ramped(&routes(&deployment)).len(), 0);
    assert_eq!(deployment.versions["2"].status, Status::Draining);
}

#[test]
fn a_queue_that_a_version_has_never_polled_is_not_led_to_it() {
    let none = Unwatched::default();
    let mut deployment = with_versions(&["1", "2"]);
    deployment.register("1", queue("only-1"), MAX, &none, Time(4)).unwrap();
    deployment.set_current(&current("d.2"), 3, &none, Time(10)).unwrap();
    let routes = Deployments::new([Arc::new(deployment.clone())]);
    assert_eq!(routes.route(TaskKind::Workflow, "only-1", None, "w"), None);
    assert_eq!(routes.route(TaskKind::Workflow, "q", None, "w"), Some(&deployment.version("2")));
    // Another deployment takes the queue over.
    let mut other = Deployment::new("e", Time(1));
    other.register("1", queue("q"), MAX, &none, Time(2)).unwrap();
    let late = SetCurrent { version: "e.1".to_owned(), ..current("") };
    other.set_current(&late, 3, &none, Time(11)).unwrap();
    let routes = Deployments::new([Arc::new(deployment), Arc::new(other.clone())]);
    assert_eq!(routes.route(TaskKind::Workflow, "q", None, "w"), Some(&other.version("1")));
}

#[test]
fn the_threshold_of_a_workflow_is_for_ever() {
    let mut deployment = with_versions(&["1"]);
    let none = Unwatched::default();
    let least = |deployment: &mut Deployment, id: &str| {
        (1..=100_u8).find(|percentage| {
            deployment.set_ramping(&ramping("d.1", f32::from(*percentage)), 3, &none, Time(10)).unwrap();
            let routes = Deployments::new([Arc::new(deployment.clone())]);
            routes.route(TaskKind::Workflow, "q", None, id).is_some()
        })
    };
    let found = ["", "a", "order-1", "order-2"].map(|id| least(&mut deployment, id).unwrap());
    assert_eq!(found, THRESHOLDS);
}

/// From which percentage on the four ids of the test above ramp.
const THRESHOLDS: [u8; 4] = [93, 93, 76, 35];

#[test]
fn rows_are_read_as_they_were_written() {
    let none = Unwatched::default();
    let mut deployment = with_versions(&["1", "2"]);
    deployment.set_current(&current("d.1"), 3, &none, Time(10)).unwrap();
    deployment.set_ramping(&ramping("d.2", 30.0), 3, &none, Time(11)).unwrap();
    deployment.set_current(&current("d.2"), 3, &none, Time(12)).unwrap();
    deployment.update_metadata("1", &[("k".to_owned(), Default::default())].into(), &[], "me").unwrap();
    let read = Deployment::from_row("d", &deployment.to_row()).unwrap();
    assert_eq!(Deployment { versions: deployment.versions.clone(), ..read }, deployment);
    for version in deployment.versions.values() {
        assert_eq!(DeploymentVersion::from_row(&version.to_row()).unwrap(), **version);
    }
    assert!(Deployment::from_row("d", b"").is_err() && DeploymentVersion::from_row(b"\xff").is_err());
}

#[test]
fn overrides_are_brought_into_one_form() {
    #[expect(deprecated, reason = "older clients say it so")]
    let old = everlog_proto::api::workflow::v1::VersioningOverride {
        behavior: everlog_proto::api::enums::v1::VersioningBehavior::Pinned.into(),
        pinned_version: "d.b".to_owned(),
        ..Default::default()
    };
    check_override(Some(&old)).unwrap();
    let version = override_target(&old).unwrap();
    assert_eq!(version_name(&version), "d:b");
    assert_eq!(override_target(&normal_override(&old)), Some(version));
    assert_eq!(normal_override(&normal_override(&old)), normal_override(&old));
    let none = everlog_proto::api::workflow::v1::VersioningOverride::default();
    assert_eq!(text(check_override(Some(&none))), "override behavior is required");
    assert!(none.encode_to_vec().is_empty());
}
