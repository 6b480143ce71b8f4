//! A cluster of real processes on loopback addresses of this machine, whose nodes can be killed, stopped and cut off from each other.

mod links;
mod node;
mod operator;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use parking_lot::Mutex;

use crate::failure::Failure;

pub(crate) use links::{Link, Links};
pub(crate) use node::Node;
pub(crate) use operator::until_printed;

/// How long a node may take until it serves.
pub(crate) const SERVE_TIME_MAX: Duration = Duration::from_secs(60);
/// How many lines of each node's log are shown when a test has failed.
const LOG_LINES_SHOWN: usize = 25;

/// Ports below those that the system gives to whoever asks for any.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// Some nodes with one list of seeds.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Arc<Node>>,
    /// The ways between them.
    pub(crate) links: Links,
    /// Those that are members, with the ids that the servers know them by.
    members: Mutex<BTreeMap<usize, u32>>,
}

impl Cluster {
    /// Nodes of a cluster, none of which is started.
    pub(crate) async fn new(binary: &Path, directory: &Path, count: usize) -> Result<Cluster, Failure> {
        Cluster::with_others(binary, directory, count, count).await
    }

    /// Nodes of a cluster that is founded with the first ones, none of which is started.
    pub(crate) async fn with_others(
        binary: &Path,
        directory: &Path,
        founders: usize,
        count: usize,
    ) -> Result<Cluster, Failure> {
        let mut ports = FreePorts::new();
        let ip = |number: usize| IpAddr::V4(Ipv4Addr::new(127, 0, 0, number as u8));
        let numbers = || 1..=count;
        let mut addresses = || numbers().map(|number| ports.next(ip(number))).collect::<Result<Vec<_>, _>>();
        let (listen, advertised, grpc) = (addresses()?, addresses()?, addresses()?);
        let mut nodes = Vec::new();
        for at in 0..count {
            let place = node::Place {
                number: at + 1,
                directory: directory.join(format!("node{}", at + 1)),
                grpc: grpc[at],
                listen: listen[at],
                advertise: advertised[at],
            };
            nodes.push(Arc::new(Node::new(binary, place, &advertised, founders)?));
        }
        let links = Links::start(&nodes, &advertised, &listen).await?;
        let members = Mutex::new((0..founders).zip(1..).collect());
        Ok(Cluster { nodes, links, members })
    }

    /// Starts all nodes at once, and waits until all serve.
    pub(crate) async fn start(&self) -> Result<(), Failure> {
        for node in self.members() {
            self.nodes[node].spawn().await?;
        }
        self.wait_serving().await
    }

    /// Waits until all nodes serve.
    pub(crate) async fn wait_serving(&self) -> Result<(), Failure> {
        let members = self.members();
        try_join_all(members.iter().map(|node| self.nodes[*node].wait_serving(SERVE_TIME_MAX))).await.map(drop)
    }

    /// The nodes that are members.
    pub(crate) fn members(&self) -> Vec<usize> {
        self.members.lock().keys().copied().collect()
    }

    /// A member is lost for ever.
    pub(crate) fn lose(&self, node: usize) {
        self.members.lock().remove(&node);
    }

    /// As the servers count them; 0 if it is no member.
    pub(crate) fn node_id(&self, node: usize) -> u32 {
        self.members.lock().get(&node).copied().unwrap_or_default()
    }

    /// Addresses for clients, by node.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.grpc()).collect()
    }

    /// Makes every node run and every way open.
    pub(crate) async fn heal(&self) -> Result<(), Failure> {
        self.links.heal();
        for node in self.members() {
            let node = &self.nodes[node];
            if node.is_running().await {
                node.resume()?;
            } else {
                node.spawn().await?;
            }
        }
        self.wait_serving().await
    }

    /// Asks all nodes to stop, one after the other. Each must do so with status 0.
    pub(crate) async fn stop(&self) -> Result<(), Failure> {
        for node in self.members() {
            self.nodes[node].stop().await?;
        }
        Ok(())
    }

    /// The end of each node's log.
    pub(crate) fn logs(&self) -> String {
        let tails = self.nodes.iter().map(|node| {
            let log = std::fs::read_to_string(node.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
            format!("--- the end of {}:\n{tail}", node.log().display())
        });
        tails.collect::<Vec<_>>().join("\n")
    }
}

/// Ports that nobody uses, as far as can be known.
struct FreePorts {
    next: u16,
}

impl FreePorts {
    /// Begins somewhere that differs between processes, so that tests which run at once do not meet.
    fn new() -> FreePorts {
        let span = u32::from(PORTS.end - PORTS.start);
        FreePorts { next: PORTS.start + (std::process::id().wrapping_mul(97) % span) as u16 }
    }

    fn next(&mut self, ip: IpAddr) -> Result<SocketAddr, Failure> {
        for _ in PORTS {
            let address = SocketAddr::new(ip, self.next);
            self.next = if self.next + 1 < PORTS.end { self.next + 1 } else { PORTS.start };
            if TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        Err(Failure::new(format!("no port is free on {ip}")))
    }
}

/// The server's binary: the one that is named, or the one that the gate's build makes.
pub(crate) fn binary(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(named) = named {
        return if named.is_file() { Ok(named) } else { Err(Failure(format!("{} is no file", named.display()))) };
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let built = std::process::Command::new("cargo")
        .args(["build", "--locked", "-p", "everlog-server", "--bin", "everlog"])
        .current_dir(&workspace)
        .status()?;
    if !built.success() {
        return Err(Failure::new("the server cannot be built"));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    Ok(target.join("debug/everlog"))
}
