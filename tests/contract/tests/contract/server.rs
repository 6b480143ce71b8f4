//! An Everlog server inside the test's process.

use std::sync::Arc;

use everlog_archive::{Archive, ArchiveOptions, FileOptions, PartOptions};
use everlog_config::{DynamicConfig, DynamicSettings, Listen};
use everlog_frontend::{Listeners, Services, serve};
use everlog_model::{InForce, PerNamespace};
use everlog_server::node::{Node, Options};
use everlog_server::settings::Settings;

/// The setting that gives a server an archive in a directory.
const ARCHIVE: &str = "archival.directory";

fn archive_in(directory: &str) -> ArchiveOptions {
    let part = |name: &str| PartOptions {
        is_enabled: true,
        is_read: true,
        is_default: false,
        default_uri: format!("file://{directory}/{name}"),
    };
    ArchiveOptions {
        history: part("histories"),
        visibility: part("lists"),
        file: Some(FileOptions::default()),
        s3: None,
    }
}

/// A server that serves until the process ends.
pub(crate) struct Server {
    pub(crate) address: String,
    _node: Node,
    _data: tempfile::TempDir,
}

impl Server {
    /// With a dynamic configuration, of which it takes what it knows.
    pub(crate) async fn start(settings: impl Iterator<Item = &str>) -> Server {
        let (mut dynamic, mut archive) = (DynamicSettings::default(), ArchiveOptions::default());
        for setting in settings {
            let (key, value) = setting.split_once('=').unwrap();
            if key == ARCHIVE {
                archive = archive_in(value.trim_matches('"'));
            }
            if DynamicSettings::keys().any(|known| known == key) {
                dynamic.set_from_flag(setting).unwrap();
            }
        }
        Server::with(dynamic.per_namespace(), archive).await
    }

    async fn with(config: PerNamespace<DynamicConfig>, archive: ArchiveOptions) -> Server {
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
        let services = Services {
            archive: Archive::new(archive),
            ..node.parts.services(Arc::new(InForce::new(config)), node.cluster_id())
        };
        let address = listeners.addresses().grpc.to_string();
        tokio::spawn(serve(listeners, services, std::future::pending()));
        Server { address, _node: node, _data: data }
    }
}
