//! The list of methods in the README: what is served says so itself.
//!
//! `UPDATE_README=1 cargo test -p everlog-frontend method_table` writes it.

use std::fmt::Write;
use std::fs;

use everlog_proto::operator_service::operator_service_server;
use everlog_proto::test_service::test_service_server;
use everlog_proto::workflow_service::workflow_service_server;
use prost::Message;
use prost_types_plain::FileDescriptorSet;

use super::services::{OPERATOR_OPERATIONS, WORKFLOW_OPERATIONS};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");

const BEGIN: &str = "<!-- methods, as `UPDATE_README=1 cargo test -p everlog-frontend method_table` writes them -->\n";
const END: &str = "<!-- end of methods -->\n";

/// What is said of the methods that a file answers; the empty name stands for those that nothing answers.
const SAID: [(&str, &str); 2] =
    [("turned_off", "refused, as a Temporal server refuses it that nobody has configured"), ("", "not yet")];

const WORKS: &str = "works";

#[test]
fn the_readme_names_every_method_as_what_it_is() {
    let text = fs::read_to_string(README).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the README has a place for the methods");
    let (written, after) = rest.split_once(END).expect("the README's list of methods ends");
    let table = table();
    if std::env::var_os("UPDATE_README").is_some() {
        fs::write(README, [before, BEGIN, &table, END, after].concat()).unwrap();
        return;
    }
    assert!(
        written == table,
        "the README's list of methods is not what is served; to write it:\n  \
         UPDATE_README=1 cargo test -p everlog-frontend method_table\nIt should be:\n{table}"
    );
}

/// The list, by service, and by what is said of the methods.
fn table() -> String {
    let mut out = String::new();
    let services = [
        (workflow_service_server::SERVICE_NAME, everlog_proto::DESCRIPTORS, Some(WORKFLOW_OPERATIONS)),
        (operator_service_server::SERVICE_NAME, everlog_proto::DESCRIPTORS, Some(OPERATOR_OPERATIONS)),
        (test_service_server::SERVICE_NAME, everlog_proto::DESCRIPTORS, None),
        (everlog_proto::cluster::SERVICE_NAME, everlog_proto::OWN_DESCRIPTORS, None),
        ("grpc.health.v1.Health", tonic_health::pb::FILE_DESCRIPTOR_SET, None),
        ("grpc.reflection.v1.ServerReflection", tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, None),
        ("grpc.reflection.v1alpha.ServerReflection", tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET, None),
    ];
    for (service, descriptors, operations) in services {
        let methods = methods(service, descriptors);
        let said = |method: &str| {
            // The test service, the cluster service, health and reflection are served whole.
            let Some(operations) = operations else { return WORKS };
            let file = operations.iter().find(|(name, _)| *name == method).map_or("", |(_, file)| file);
            SAID.iter().find(|(name, _)| *name == file).map_or(WORKS, |(_, said)| said)
        };
        let _ = writeln!(out, "\n`{service}`\n");
        for wanted in [WORKS].into_iter().chain(SAID.map(|(_, said)| said)) {
            let named: Vec<&str> = methods.iter().map(String::as_str).filter(|method| said(method) == wanted).collect();
            if !named.is_empty() {
                let _ = writeln!(out, "- **{wanted}** ({}): {}", named.len(), named.join(", "));
            }
        }
    }
    out.push('\n');
    out
}

/// The names of a service's methods, sorted.
fn methods(service: &str, descriptors: &[u8]) -> Vec<String> {
    let files = FileDescriptorSet::decode(descriptors).unwrap().file;
    let mut names: Vec<String> = files
        .iter()
        .flat_map(|file| file.service.iter().map(|found| (format!("{}.{}", file.package(), found.name()), found)))
        .filter(|(name, _)| name == service)
        .flat_map(|(_, found)| found.method.iter().map(|method| method.name().to_owned()))
        .collect();
    names.sort_unstable();
    assert!(!names.is_empty(), "{service} is not in its descriptors");
    names
}
