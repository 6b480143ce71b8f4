//! Where calls from other nodes come in: those of clients that belong here, and what nodes ask of each other.

use std::sync::Arc;

use everlog_cluster::{Entry, Service, not_done};
use everlog_proto::operator_service::operator_service_server;
use everlog_proto::workflow_service::{WorkflowServiceServer, workflow_service_server};
use futures::FutureExt;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;

use super::forward::Forward;
use super::layer::{bounded, method_of};
use super::request_body::Budget;
use super::services::WorkflowApi;

/// What other nodes reach. No listener for clients leads here.
pub(super) struct Inside {
    pub(super) workflow: WorkflowServiceServer<WorkflowApi>,
    pub(super) others: Routes,
    pub(super) internal: Service,
    pub(super) forward: Arc<Forward>,
    pub(super) budget: Arc<Budget>,
}

impl Inside {
    /// The way in.
    pub(super) fn entry(self) -> Entry {
        let inside = Arc::new(self);
        Entry::new(move |request| {
            let inside = Arc::clone(&inside);
            async move { inside.answer(request).await }.boxed()
        })
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if method_of(&path, Service::NAME).is_some() {
            return self.internal.call(request).await;
        }
        // The same bounds as for calls that come straight from clients: each node keeps its own.
        if let Some(method) = method_of(&path, workflow_service_server::SERVICE_NAME) {
            let answer = async |request| self.forward.answer_here(method, request, self.workflow.clone()).await;
            bounded(&self.budget, method, request, answer, not_done).await
        } else if let Some(method) = method_of(&path, operator_service_server::SERVICE_NAME) {
            let answer = async |request| self.forward.answer_here(method, request, self.others.clone()).await;
            bounded(&self.budget, method, request, answer, not_done).await
        } else {
            Status::unimplemented("nodes do not ask that of each other").into_http()
        }
    }
}
