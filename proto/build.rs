//! Generates the *server* side of Temporal's two public gRPC services, and of the one that its test server has besides.
//!
//! The messages come from `temporalio-protos`, which hands on the descriptor set it was compiled from; only the files that
//! define these services are kept here, and every message type is taken from that crate. A few responses are replaced by
//! types of `src/encoded.rs`, which carry a history that is encoded already. The service between nodes is generated whole; its messages are
//! in `src/internal.rs`.

use std::{env, error::Error, fs};

use prost::Message;
use prost_types_plain::FileDescriptorSet;
use tonic_build::manual::{Builder, Method, Service};

/// The files whose services Everlog serves.
const SERVICE_FILES: [&str; 3] = [
    "temporal/api/workflowservice/v1/service.proto",
    "temporal/api/operatorservice/v1/service.proto",
    "temporal/api/testservice/v1/service.proto",
];

/// Responses that `src/encoded.rs` replaces.
const ENCODED: [&str; 4] = [
    "PollWorkflowTaskQueueResponse",
    "RespondWorkflowTaskCompletedResponse",
    "GetWorkflowExecutionHistoryResponse",
    "ListWorkflowExecutionsResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_TEMPORALIO_PROTOS_DESCRIPTOR_PATH");
    let path = env::var("DEP_TEMPORALIO_PROTOS_DESCRIPTOR_PATH")?;
    let all = fs::read(&path).map_err(|error| format!("cannot read the descriptor set {path}: {error}"))?;
    // Reflection serves the whole set.
    fs::write(format!("{}/descriptors.bin", env::var("OUT_DIR")?), &all)?;
    let mut descriptors = FileDescriptorSet::decode(all.as_slice())?;
    descriptors.file.retain(|file| SERVICE_FILES.contains(&file.name()));
    if descriptors.file.len() != SERVICE_FILES.len() {
        return Err(format!("{path} does not define {SERVICE_FILES:?}").into());
    }
    let mut builder = tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::codec::SmallBufferCodec")
        .generate_default_stubs(true)
        .extern_path(".temporal.api", "::temporalio_protos::temporal::api");
    for name in ENCODED {
        builder =
            builder.extern_path(format!(".temporal.api.workflowservice.v1.{name}"), format!("crate::encoded::{name}"));
    }
    builder.compile_fds(descriptors)?;
    internal_service();
    own_service()
}

/// Where Everlog's own API is defined.
const OWN_FILES: [&str; 1] = ["everlog/v1/cluster.proto"];

/// Generates Everlog's own services, server and client, and writes their descriptors down for reflection.
fn own_service() -> Result<(), Box<dyn Error>> {
    for file in OWN_FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(OWN_FILES, ["."])?;
    let out = env::var("OUT_DIR")?;
    fs::write(format!("{out}/own_descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}

/// The methods of the service between nodes: request and response are types of `src/internal.rs`.
const INTERNAL_METHODS: [(&str, &str, &str, &str); 18] = [
    ("announce", "Announce", "AnnounceRequest", "AnnounceResponse"),
    ("offer", "Offer", "OfferRequest", "Empty"),
    ("start_task", "StartTask", "StartTaskRequest", "StartTaskResponse"),
    ("task_page", "TaskPage", "TaskPageRequest", "TaskPageResponse"),
    ("deliver", "Deliver", "DeliverRequest", "DeliverResponse"),
    ("visibility_page", "VisibilityPage", "VisibilityRequest", "VisibilityPageResponse"),
    ("visibility_count", "VisibilityCount", "VisibilityRequest", "VisibilityCountResponse"),
    ("recent_poller", "RecentPoller", "RecentPollerRequest", "RecentPollerResponse"),
    ("register_worker", "RegisterWorker", "RegisterWorkerRequest", "RegisterWorkerResponse"),
    ("end_polls", "EndPolls", "EndPollsRequest", "Empty"),
    ("workers_heard", "WorkersHeard", "WorkersHeardRequest", "Empty"),
    ("metadata_position", "MetadataPosition", "Empty", "MetadataPosition"),
    ("await_metadata", "AwaitMetadata", "MetadataPosition", "Empty"),
    ("dispatch_nexus", "DispatchNexus", "DispatchNexusRequest", "DispatchNexusResponse"),
    ("report", "Report", "Empty", "NodeReport"),
    ("steer", "Steer", "SteerRequest", "Empty"),
    ("enrol", "Enrol", "EnrolRequest", "EnrolResponse"),
    ("move_step", "MoveStep", "MoveStepRequest", "MoveStepResponse"),
];

/// Generates the service that nodes call each other with: server and client.
fn internal_service() {
    let mut service = Service::builder().name("Internal").package("everlog.internal.v1").comment("Between nodes.");
    for (name, route, request, response) in INTERNAL_METHODS {
        let method = Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::internal::{request}"))
            .output_type(format!("crate::internal::{response}"))
            .codec_path("crate::codec::SmallBufferCodec")
            .build();
        service = service.method(method);
    }
    Builder::new().build_transport(false).compile(&[service.build()]);
}
