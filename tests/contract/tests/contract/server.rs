//! An Everlog server inside the test's process.

use std::sync::Arc;

use everlog_config::{DynamicConfig, DynamicSettings, Listen};
use everlog_frontend::{Listeners, serve};
use everlog_model::{InForce, PerNamespace};
use everlog_server::node::{Node, Options};
use everlog_server::settings::Settings;

/// A server that serves until the process ends.
pub(crate) struct Server {
    pub(crate) address: String,
    _node: Node,
    _data: tempfile::TempDir,
}

impl Server {
    /// With a dynamic configuration, of which it takes what it knows.
    pub(crate) async fn start(settings: impl Iterator<Item = &str>) -> Server {
        let mut dynamic = DynamicSettings::default();
        for setting in settings {
            let (key, _) = setting.split_once('=').unwrap();
            if DynamicSettings::keys().any(|known| known == key) {
                dynamic.set_from_flag(setting).unwrap();
            }
        }
        Server::with(dynamic.per_namespace()).await
    }

    async fn with(config: PerNamespace<DynamicConfig>) -> Server {
        let data = tempfile::tempdir().unwrap();
        let listen = Listen { grpc_port: 0, http_port: 0, metrics_port: 0, ..Listen::default() };
        let listeners = Listeners::bind(&listen).await.unwrap();
        let node = Node::start(Options {
            partitions: 2,
            limits: Arc::new(InForce::new(config.map(|config| config.limits.clone()))),
            cache_bytes_max: 64 << 20,
            tables_open_max: 100,
            ..Options::of_one(data.path().to_owned())
        })
        .await
        .unwrap();
        node.parts.namespaces.ensure(["default"].into_iter(), Settings::default().retention(), &[]).await.unwrap();
        let services = node.parts.services(Arc::new(InForce::new(config)), node.cluster_id());
        let address = listeners.addresses().grpc.to_string();
        tokio::spawn(serve(listeners, services, std::future::pending()));
        Server { address, _node: node, _data: data }
    }
}
