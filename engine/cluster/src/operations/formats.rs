//! Formats that nodes read and that the cluster has: who is told of them, and what operators see.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use everlog_model::{FormatSource, FormatVersion, NodeId, ReadableFormats};
use everlog_proto::cluster::{ClusterFormat, FinalizeFormatsRequest, FinalizeFormatsResponse, Node};
use everlog_proto::internal::{Finalize, FormatsOfNode, SteerRequest};
use tonic::Status;

use super::joining::now_ms;
use super::{Operations, refused};

/// How often is looked whether all nodes read a newer version.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Operations {
    /// Has the metadata say what this node reads, and, where they are led, has the cluster get what all nodes read, for as long as it is polled.
    pub async fn keep_formats(self: Arc<Self>) {
        let formats = &self.parts.formats;
        let namespaces = &self.parts.namespaces;
        loop {
            let topology = namespaces.topology();
            if !formats.is_announced()
                && let Err(status) = self.announce_formats().await
            {
                tracing::debug!(%status, "nobody was told yet which formats this node reads");
            }
            if namespaces.is_led_here() {
                match formats.carry_on(now_ms()).await {
                    Ok(Some(version)) => tracing::info!(%version, "the cluster has newer formats"),
                    Ok(None) => {}
                    Err(error) => tracing::info!(%error, "formats cannot be written down now"),
                }
            }
            let _ = tokio::time::timeout(LOOK_INTERVAL, namespaces.until_other_topology(&topology)).await;
        }
    }

    async fn announce_formats(&self) -> Result<(), Status> {
        let ReadableFormats { oldest, newest } = self.parts.formats.readable;
        let formats = FormatsOfNode { node: self.me().0, oldest: oldest.0, newest: newest.0 };
        let leader = self.leader_that_knows_formats()?;
        self.steer(leader, SteerRequest { formats: Some(formats), ..SteerRequest::default() }).await
    }

    /// The node that leads the metadata, if its release is not one that would pass over what it is asked.
    fn leader_that_knows_formats(&self) -> Result<NodeId, Status> {
        let leader = self.parts.namespaces.leader().unwrap_or(self.me());
        match self.parts.formats.takes(leader) {
            true => Ok(leader),
            false => Err(Status::failed_precondition(format!(
                "node {leader}, which leads the metadata, cannot be reached or runs a release that knows of no formats: start it with the new one"
            ))),
        }
    }

    pub(super) async fn carry_out_formats(
        &self,
        said: Option<FormatsOfNode>,
        finalize: Option<Finalize>,
    ) -> Result<(), Status> {
        let formats = &self.parts.formats;
        if let Some(FormatsOfNode { node, oldest, newest }) = said {
            let noted = formats.note(NodeId(node), ReadableFormats::said(oldest, newest)).await;
            noted.map_err(|error| refused(&error))?;
        }
        if let Some(Finalize { without }) = finalize {
            let without: BTreeSet<_> = without.into_iter().map(NodeId).collect();
            formats.finalize(&without).await.map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    /// Has the cluster get the newest version that its nodes read.
    pub(super) async fn finalize(&self, request: FinalizeFormatsRequest) -> Result<FinalizeFormatsResponse, Status> {
        let namespaces = &self.parts.namespaces;
        let FormatVersion(before) = namespaces.format();
        self.leader_that_knows_formats()?;
        let finalize = Some(Finalize { without: request.without_node_ids });
        self.change(SteerRequest { finalize, ..SteerRequest::default() }).await?;
        let FormatVersion(version) = namespaces.format();
        Ok(FinalizeFormatsResponse { version, before })
    }

    /// What the metadata say of formats; what they say of nodes is put to these.
    pub(super) fn show_formats(&self, nodes: &mut [Node]) -> ClusterFormat {
        let topology = self.parts.namespaces.topology();
        for node in nodes {
            let said = topology.formats_of(NodeId(node.node_id));
            (node.formats_oldest, node.formats_newest) = (said.readable.oldest.0, said.readable.newest.0);
            node.left_out_of_format = said.left_out_of.map_or(0, |version| version.0);
        }
        let ready = topology.format.ready;
        ClusterFormat {
            version: topology.format.version.0,
            ready_version: ready.map_or(0, |ready| ready.version.0),
            ready_since_ms: ready.map_or(0, |ready| ready.since_ms),
            newest: self.parts.formats.readable.newest.0,
        }
    }
}
