//! Where a node listens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::HttpAccess;

/// Where the node listens. Port 0 lets the system choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address of all three listeners.
    pub ip: IpAddr,
    /// gRPC: what SDKs, the CLI and the UI connect to.
    pub grpc_port: u16,
    /// HTTP: health.
    pub http_port: u16,
    /// Prometheus metrics.
    pub metrics_port: u16,
    /// The largest gRPC request, bytes. 4 MiB is what clients of Temporal expect.
    pub request_bytes_max: usize,
    /// How long a connection may say nothing: of gRPC before it begins to speak HTTP/2, of HTTP between requests.
    pub handshake_timeout: Duration,
    /// Connections of one address that have yet to begin to speak, of each listener; never more than half of its connections.
    pub handshakes_per_address_max: usize,
    /// What gRPC and HTTP are under TLS with; none: they are in the clear.
    pub tls: Option<FrontendTls>,
    /// Who may use the HTTP API in which way.
    pub http: HttpAccess,
}

/// What clients are shown, and what they have to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendTls {
    /// The certificate, PEM, with those between it and its authority's behind it, if there are any.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// What clients have to show.
    pub clients: ClientCertificates,
}

/// The certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for any.
    None,
    /// Who has one shows it; it must be of an authority in this file, PEM.
    Requested(PathBuf),
    /// Nobody is answered without one.
    Required(PathBuf),
}

impl ClientCertificates {
    /// The file with their authorities.
    pub fn ca(&self) -> Option<&PathBuf> {
        match self {
            ClientCertificates::None => None,
            ClientCertificates::Requested(ca) | ClientCertificates::Required(ca) => Some(ca),
        }
    }
}

/// The addresses that a node really listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// gRPC.
    pub grpc: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
    /// Prometheus metrics.
    pub metrics: SocketAddr,
}

impl Default for Listen {
    fn default() -> Listen {
        Listen {
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            grpc_port: 7233,
            http_port: 7243,
            metrics_port: 9233,
            request_bytes_max: 4 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(30),
            handshakes_per_address_max: 100,
            tls: None,
            http: HttpAccess::default(),
        }
    }
}
