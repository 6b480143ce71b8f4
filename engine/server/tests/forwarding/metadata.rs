//! Calls that change the metadata and are made again because nobody knows what became of them.

#![allow(deprecated, reason = "older clients read these answers")]

use everlog_model::OperationId;
use everlog_proto::api::deployment::v1::WorkerDeploymentVersion;
use everlog_proto::api::enums::v1::{IndexedValueType, TaskQueueType};
use everlog_proto::api::namespace::v1::UpdateNamespaceInfo;
use everlog_proto::api::nexus::v1::endpoint_target::{Variant, Worker};
use everlog_proto::api::nexus::v1::{EndpointSpec, EndpointTarget};
use everlog_proto::api::operatorservice::v1 as operator;
use everlog_proto::api::taskqueue::v1::RateLimit;
use everlog_proto::api::workflowservice::v1 as api;
use everlog_proto::api::workflowservice::v1::update_task_queue_config_request::RateLimitUpdate;
use everlog_proto::wkt;
use prost::Message;
use tonic::Code;

use super::cluster::{Cluster, NODES};
use super::doors::answered_under;

const WORKFLOW: &str = "temporal.api.workflowservice.v1.WorkflowService";
const OPERATOR: &str = "temporal.api.operatorservice.v1.OperatorService";

/// Makes calls to a node that another one sends on.
struct Caller<'a> {
    cluster: &'a Cluster,
    service: &'static str,
}

impl Caller<'_> {
    /// Makes a call three times under one id: it is answered as the first time, although a call of its own is not, if it `is_refused_anew`.
    async fn once<R: Message + Default + PartialEq>(
        &self,
        method: &str,
        request: &impl Message,
        is_refused_anew: bool,
    ) -> R {
        let (message, operation) = (request.encode_to_vec(), OperationId::random());
        let call =
            |operation| answered_under(self.cluster, NODES[1], self.service, method, message.clone(), Some(operation));
        let first = call(operation).await.unwrap_or_else(|status| panic!("{method}: {status}"));
        for _ in 0..2 {
            let again = call(operation).await.unwrap_or_else(|status| panic!("{method} again: {status}"));
            assert_eq!(again, first, "{method}");
        }
        if is_refused_anew {
            call(OperationId::random()).await.expect_err(method);
        }
        R::decode(first).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_are_changed_once_however_often_a_call_is_made() {
    let cluster = Cluster::start().await;
    cluster.links.until_attached(NODES[1]).await;
    let workflow = Caller { cluster: &cluster, service: WORKFLOW };
    let operator = Caller { cluster: &cluster, service: OPERATOR };
    let namespace = || "shop".to_owned();
    let register = api::RegisterNamespaceRequest {
        namespace: namespace(),
        workflow_execution_retention_period: Some(wkt::Duration { seconds: 86_400, nanos: 0 }),
        ..Default::default()
    };
    let _: api::RegisterNamespaceResponse = workflow.once("RegisterNamespace", &register, true).await;
    let info = UpdateNamespaceInfo { description: "d".to_owned(), ..Default::default() };
    let update = api::UpdateNamespaceRequest { namespace: namespace(), update_info: Some(info), ..Default::default() };
    let updated: api::UpdateNamespaceResponse = workflow.once("UpdateNamespace", &update, false).await;
    assert_eq!(updated.namespace_info.unwrap().description, "d");

    let add = operator::AddSearchAttributesRequest {
        namespace: namespace(),
        search_attributes: [("Colour".to_owned(), IndexedValueType::Keyword as i32)].into(),
    };
    let _: operator::AddSearchAttributesResponse = operator.once("AddSearchAttributes", &add, false).await;
    let remove = operator::RemoveSearchAttributesRequest {
        namespace: namespace(),
        search_attributes: vec!["Colour".to_owned()],
    };
    let _: operator::RemoveSearchAttributesResponse = operator.once("RemoveSearchAttributes", &remove, false).await;

    let target = |queue: &str| {
        let worker = Worker { namespace: "shop".to_owned(), task_queue: queue.to_owned() };
        let target = Some(EndpointTarget { variant: Some(Variant::Worker(worker)) });
        Some(EndpointSpec { name: "endpoint".to_owned(), target, ..Default::default() })
    };
    let create = operator::CreateNexusEndpointRequest { spec: target("q") };
    let created: operator::CreateNexusEndpointResponse = operator.once("CreateNexusEndpoint", &create, true).await;
    let endpoint = created.endpoint.unwrap();
    let update = operator::UpdateNexusEndpointRequest {
        id: endpoint.id.clone(),
        version: endpoint.version,
        spec: target("other"),
    };
    let updated: operator::UpdateNexusEndpointResponse = operator.once("UpdateNexusEndpoint", &update, true).await;
    assert_eq!(updated.endpoint.unwrap().version, endpoint.version + 1);
    let delete = operator::DeleteNexusEndpointRequest { id: endpoint.id, version: 2 };
    let _: operator::DeleteNexusEndpointResponse = operator.once("DeleteNexusEndpoint", &delete, true).await;

    let limit = RateLimitUpdate { rate_limit: Some(RateLimit { requests_per_second: 7.0 }), ..Default::default() };
    let configure = api::UpdateTaskQueueConfigRequest {
        namespace: namespace(),
        task_queue: "q".to_owned(),
        task_queue_type: TaskQueueType::Activity as i32,
        update_queue_rate_limit: Some(limit),
        ..Default::default()
    };
    let configured: api::UpdateTaskQueueConfigResponse =
        workflow.once("UpdateTaskQueueConfig", &configure, false).await;
    let limit = configured.config.unwrap().queue_rate_limit.unwrap();
    // As the first time: it says when it was set.
    assert_eq!(limit.rate_limit.unwrap().requests_per_second, 7.0);

    deployments(&workflow).await;

    let delete = operator::DeleteNamespaceRequest { namespace: namespace(), ..Default::default() };
    let deleted: operator::DeleteNamespaceResponse = operator.once("DeleteNamespace", &delete, true).await;
    assert!(deleted.deleted_namespace.starts_with("shop-deleted-"), "{deleted:?}");
    cluster.stop().await;
}

async fn deployments(workflow: &Caller<'_>) {
    let (namespace, name) = (|| "shop".to_owned(), || "workers".to_owned());
    let create =
        api::CreateWorkerDeploymentRequest { namespace: namespace(), deployment_name: name(), ..Default::default() };
    let created: api::CreateWorkerDeploymentResponse = workflow.once("CreateWorkerDeployment", &create, true).await;
    let version = Some(WorkerDeploymentVersion { deployment_name: name(), build_id: "1".to_owned() });
    let create = api::CreateWorkerDeploymentVersionRequest {
        namespace: namespace(),
        deployment_version: version.clone(),
        ..Default::default()
    };
    let _: api::CreateWorkerDeploymentVersionResponse =
        workflow.once("CreateWorkerDeploymentVersion", &create, false).await;
    // By a token that is of no use the second time.
    let set = api::SetWorkerDeploymentCurrentVersionRequest {
        namespace: namespace(),
        deployment_name: name(),
        build_id: "1".to_owned(),
        conflict_token: created.conflict_token,
        allow_no_pollers: true,
        ..Default::default()
    };
    let current: api::SetWorkerDeploymentCurrentVersionResponse =
        workflow.once("SetWorkerDeploymentCurrentVersion", &set, false).await;
    let unset = api::SetWorkerDeploymentCurrentVersionRequest {
        build_id: String::new(),
        conflict_token: current.conflict_token,
        ..set
    };
    let current: api::SetWorkerDeploymentCurrentVersionResponse =
        workflow.once("SetWorkerDeploymentCurrentVersion", &unset, false).await;
    assert_eq!(current.previous_deployment_version.map(|version| version.build_id).as_deref(), Some("1"));
    let ramp = api::SetWorkerDeploymentRampingVersionRequest {
        namespace: namespace(),
        deployment_name: name(),
        build_id: "1".to_owned(),
        percentage: 20.0,
        conflict_token: current.conflict_token,
        allow_no_pollers: true,
        ..Default::default()
    };
    let ramping: api::SetWorkerDeploymentRampingVersionResponse =
        workflow.once("SetWorkerDeploymentRampingVersion", &ramp, false).await;
    let manage = api::SetWorkerDeploymentManagerRequest {
        namespace: namespace(),
        deployment_name: name(),
        identity: "me".to_owned(),
        conflict_token: ramping.conflict_token,
        new_manager_identity: Some(api::set_worker_deployment_manager_request::NewManagerIdentity::Self_(true)),
    };
    let managed: api::SetWorkerDeploymentManagerResponse =
        workflow.once("SetWorkerDeploymentManager", &manage, false).await;
    assert_eq!(managed.previous_manager_identity, "");
    let metadata = api::UpdateWorkerDeploymentVersionMetadataRequest {
        namespace: namespace(),
        deployment_version: version.clone(),
        upsert_entries: [("k".to_owned(), Default::default())].into(),
        identity: "me".to_owned(),
        ..Default::default()
    };
    let changed: api::UpdateWorkerDeploymentVersionMetadataResponse =
        workflow.once("UpdateWorkerDeploymentVersionMetadata", &metadata, false).await;
    assert_eq!(changed.metadata.unwrap().entries.len(), 1);
    let end = api::SetWorkerDeploymentRampingVersionRequest {
        namespace: namespace(),
        deployment_name: name(),
        identity: "me".to_owned(),
        ..Default::default()
    };
    let ended: api::SetWorkerDeploymentRampingVersionResponse =
        workflow.once("SetWorkerDeploymentRampingVersion", &end, false).await;
    assert_eq!(ended.previous_percentage, 20.0);
    let delete = api::DeleteWorkerDeploymentVersionRequest {
        namespace: namespace(),
        deployment_version: version,
        skip_drainage: true,
        identity: "me".to_owned(),
        ..Default::default()
    };
    let _: api::DeleteWorkerDeploymentVersionResponse =
        workflow.once("DeleteWorkerDeploymentVersion", &delete, false).await;
    let delete = api::DeleteWorkerDeploymentRequest {
        namespace: namespace(),
        deployment_name: name(),
        identity: "me".to_owned(),
    };
    let _: api::DeleteWorkerDeploymentResponse = workflow.once("DeleteWorkerDeployment", &delete, false).await;
    // A call without an id is done each time.
    let unknown = api::DeleteWorkerDeploymentVersionRequest::default().encode_to_vec();
    let refused =
        answered_under(workflow.cluster, NODES[1], WORKFLOW, "DeleteWorkerDeploymentVersion", unknown, None).await;
    assert_ne!(refused.unwrap_err().code(), Code::Ok);
}
