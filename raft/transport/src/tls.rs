//! Who a node is, proven by certificates: TLS 1.3 in both directions, before anything that a peer says is read.
//!
//! ```text
//!   dialler ──TCP──TLS 1.3: both show a certificate of the cluster's CA──its name: of this cluster? of that node?── Hello ──▶ acceptor
//! ```
//!
//! A certificate speaks for a node by a name of the form `spiffe://everlog/cluster/NAME/node/ID`. The part with the node may be missing: then
//! it proves that somebody is a node of the cluster, and which one it is is believed. Names of other forms count where the settings list
//! them. What host a node is dialled by is no matter: addresses change.
//!
//! The files are looked at for each new connection and read again when they have changed; connections that there are stay.
//!
//! Where a cluster is its own [authority](Authority), nodes begin without certificates, and meet by [`FirstContact`] until they have them.

mod authority;
mod contact;
mod failures;
mod names;
mod token;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use everlog_storage::NodeId;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{Accept, LazyConfigAcceptor, TlsAcceptor, TlsConnector, TlsStream};

pub use self::authority::{
    Authority, Fingerprint, SigningRequest, of_authority as certificate_of_authority, of_node as certificate_of_node,
};
pub use self::contact::{Contact, Credential, FirstContact, KnownToken, Tokens};
use self::failures::reason;
pub(crate) use self::failures::{Complaints, Whom, Why, distrust, distrusted, said, untrusted};
use self::names::Names;
pub use self::names::{certificate_names, node_name};
pub use self::token::{ContactKey, JoinToken, TokenId};
use crate::pem::{Stamp, certificates, private_key, stamp, wrong};

/// What both sides must say they speak.
const ALPN: &[u8] = b"everlog-peer/1";

/// From when on a certificate that will expire is warned of, and how often.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const EXPIRY_SAY_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Nobody waits longer for a certificate to expire: a hundred years.
const EXPIRY_LOOK_SECONDS: u64 = 100 * 366 * 24 * 60 * 60;

/// Bytes that are read of somebody whose handshake has failed, so that it can read why.
const REST_BYTES_MAX: usize = 64 << 10;
/// How long that may take.
const REST_TIME_MAX: Duration = Duration::from_millis(500);

/// The files that a node proves with who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the cluster's authority, PEM. More than one while one takes the place of another.
    pub ca: PathBuf,
    /// The node's certificate, PEM, with those between it and the authority's behind it, if there are any.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Names one of which a peer's certificate must have: DNS names (`*.` stands for one label) or URIs (`/*` at the end for anything). None:
    /// the name of this cluster, as `everlog cluster init` gives it.
    pub peer_names: Vec<String>,
}

/// The files cannot be used; a line that says which, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(pub(crate) String);

/// What a node proves itself with, and takes as a proof.
pub struct NodeTls {
    files: TlsFiles,
    /// The name of the cluster.
    cluster: String,
    /// None as long as it has no certificate.
    loaded: Mutex<Option<Loaded>>,
    /// How it meets others as long as one of them has no certificate, if its cluster makes these itself.
    contact: Option<FirstContact>,
    expiry_said: Mutex<Option<Instant>>,
}

struct Loaded {
    /// Which versions of the files these are.
    stamps: [Option<Stamp>; 3],
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    node: Option<NodeId>,
    begins: SystemTime,
    expires: SystemTime,
}

/// What a peer has proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: nodes talk in the clear.
    None,
    /// That it is a node of this cluster; which one, if its certificate says so.
    Certificate(Option<NodeId>),
    /// That it knows a secret, for the node with this data directory.
    Contact(Contact, uuid::Uuid),
}

impl Proof {
    /// Whether the peer may say that it is this node, 0 while it has no id.
    pub(crate) fn check(self, node: u32) -> Result<(), (Why, String)> {
        match self {
            Proof::Certificate(Some(proven)) if node != 0 && proven.0 != node => {
                let text = format!("it says that it is node {node}, and has the certificate of node {proven}");
                Err((Why::OtherName, text))
            }
            _ => Ok(()),
        }
    }

    /// Whether the peer may be more than a stranger.
    pub(crate) fn is_of_a_node(self) -> bool {
        !matches!(self, Proof::Contact(..))
    }
}

impl fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeTls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl NodeTls {
    /// Reads the files for a node of the cluster with this name.
    ///
    /// # Errors
    ///
    /// When a file is missing or is none, the key is not that of the certificate, or no other node would take the certificate: it has expired, is
    /// not of this authority, or has not the name.
    pub fn open(files: TlsFiles, cluster: &str) -> Result<NodeTls, TlsError> {
        let loaded = Mutex::new(Some(load(&files, cluster)?));
        let cluster = cluster.to_owned();
        let tls = NodeTls { files, cluster, loaded, contact: None, expiry_said: Mutex::default() };
        tls.warn_of_expiry();
        Ok(tls)
    }

    /// For a node whose cluster makes the files itself: they are not there at first, and of no use once they have expired.
    pub fn of_its_own(files: TlsFiles, cluster: &str, contact: FirstContact) -> NodeTls {
        let (cluster, contact) = (cluster.to_owned(), Some(contact));
        let tls = NodeTls { files, cluster, loaded: Mutex::default(), contact, expiry_said: Mutex::default() };
        if tls.files.certificate.exists()
            && let Err(error) = tls.read()
        {
            tracing::warn!(%error, "this node needs a new certificate");
        }
        tls
    }

    /// Reads the files.
    ///
    /// # Errors
    ///
    /// See [`NodeTls::open`]. What was read before stays in use then.
    pub fn read(&self) -> Result<(), TlsError> {
        *self.loaded.lock() = Some(load(&self.files, &self.cluster)?);
        Ok(())
    }

    /// The node that the certificate is for, if there is one and it says so.
    pub fn node(&self) -> Option<NodeId> {
        self.loaded.lock().as_ref()?.node
    }

    /// From when to when the certificate is valid, if there is one.
    pub fn validity(&self) -> Option<(SystemTime, SystemTime)> {
        self.loaded.lock().as_ref().map(|loaded| (loaded.begins, loaded.expires))
    }

    /// The certificate's file.
    pub fn certificate(&self) -> &Path {
        &self.files.certificate
    }

    /// How the node meets others that have no certificate, or as long as it has none itself.
    pub fn contact(&self) -> Option<&FirstContact> {
        self.contact.as_ref()
    }

    /// Proves to whoever was dialled who this node is, and wants the same of it.
    pub(crate) async fn connect(&self, io: TcpStream) -> io::Result<(TlsStream<TcpStream>, Proof)> {
        let Some((client, _)) = self.current() else {
            return Err(io::Error::other("this node has no certificate yet"));
        };
        // It is not what the certificate is checked for; as an address it is not even sent.
        let name = ServerName::from(io.peer_addr()?.ip());
        let connected = TlsConnector::from(client).connect(name, io).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset if self.contact.is_some() => {
                io::Error::other("it ends the connection before TLS is agreed: it has no certificate yet, or cluster.tls is another one there")
            }
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                untrusted("it ends the connection before TLS is agreed: is cluster.tls \"off\" there?")
            }
            _ => said(error),
        });
        let io = TlsStream::from(connected?);
        let proof = self.prove(&io).map_err(|(why, text)| distrust(why, text))?;
        Ok((io, proof))
    }

    /// The same for a node that may have no certificate yet, and is a stranger then to whoever was dialled.
    pub(crate) async fn connect_as_stranger(
        &self,
        io: TcpStream,
        directory_id: uuid::Uuid,
    ) -> io::Result<(TlsStream<TcpStream>, Proof)> {
        match &self.contact {
            Some(contact) if self.loaded.lock().is_none() => {
                // What the other side has proven is that it knows the same.
                Ok((contact.knock(io, directory_id).await?, Proof::Certificate(None)))
            }
            _ => self.connect(io).await,
        }
    }

    /// The same for whoever has dialled. A peer that is of the authority without being a node of this cluster is told so by whoever
    /// called this.
    pub(crate) async fn accept(
        &self,
        io: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Result<Proof, (Why, String)>)> {
        let own = self.current().map(|(_, server)| server);
        let Some(contact) = &self.contact else {
            let own = own.ok_or_else(|| io::Error::other("this node has no certificate"))?;
            let io = agreed(TlsAcceptor::from(own).accept(io)).await?;
            let proof = self.prove(&io);
            return Ok((io, proof));
        };
        let mut acceptor = std::pin::pin!(LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io));
        let started = match acceptor.as_mut().await {
            Ok(started) => started,
            Err(error) => {
                if let Some(io) = acceptor.take_io() {
                    read_rest(io).await;
                }
                return Err(said(error));
            }
        };
        let is_contact =
            started.client_hello().alpn().is_some_and(|mut spoken| spoken.any(|spoken| spoken == contact::ALPN));
        if is_contact {
            let io = agreed(started.into_stream(contact.server())).await?;
            let (io, known, directory_id) = contact.opened(io).await?;
            return Ok((io, Ok(Proof::Contact(known, directory_id))));
        }
        let own = own.ok_or_else(|| io::Error::other("this node has no certificate yet"))?;
        let io = agreed(started.into_stream(own)).await?;
        let proof = self.prove(&io);
        Ok((io, proof))
    }

    /// None as long as there is no certificate.
    fn current(&self) -> Option<(Arc<ClientConfig>, Arc<ServerConfig>)> {
        let mut now = self.loaded.lock();
        let loaded = now.as_mut()?;
        let stamps = stamps(&self.files);
        if stamps != loaded.stamps {
            match load(&self.files, &self.cluster) {
                Ok(again) if again.node != loaded.node => {
                    let node = again.node.map_or("no node by its id".to_owned(), |node| format!("node {node}"));
                    tracing::warn!(
                        "the new certificate is for {node}: it takes a restart, the one before stays in use"
                    );
                }
                Ok(again) => {
                    tracing::info!(file = %self.files.certificate.display(), "the node's certificate was read again");
                    *loaded = again;
                }
                Err(error) => {
                    tracing::warn!(%error, "the changed certificate cannot be used, the one before stays in use")
                }
            }
            // Not again before the next change.
            loaded.stamps = stamps;
        }
        let configs = (Arc::clone(&loaded.client), Arc::clone(&loaded.server));
        drop(now);
        self.warn_of_expiry();
        Some(configs)
    }

    fn warn_of_expiry(&self) {
        let Some((begins, expires)) = self.validity() else { return };
        let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
        // Those that a cluster makes are made anew before that.
        let warning = match &self.contact {
            Some(_) => expires.duration_since(begins).unwrap_or_default() / 6,
            None => EXPIRY_WARNING,
        };
        let mut said = self.expiry_said.lock();
        if left < warning && said.is_none_or(|said| said.elapsed() > EXPIRY_SAY_INTERVAL) {
            *said = Some(Instant::now());
            let hours = left.as_secs() / 3600;
            tracing::warn!(file = %self.files.certificate.display(), hours, "the node's certificate expires soon; connections then fail");
        }
    }

    fn prove(&self, io: &TlsStream<TcpStream>) -> Result<Proof, (Why, String)> {
        let certificates = io.get_ref().1.peer_certificates();
        let none = || (Why::Untrusted, "it shows no certificate".to_owned());
        let certificate = certificates.and_then(<[_]>::first).ok_or_else(none)?;
        let unreadable = |error| (Why::Untrusted, format!("its certificate cannot be read: {error}"));
        let names = Names::of(certificate).map_err(unreadable)?;
        if names.are_of(&self.cluster, &self.files.peer_names) {
            return Ok(Proof::Certificate(names.node(&self.cluster)));
        }
        let text = format!("its certificate has no name of a node of cluster {:?}; it has {names}", self.cluster);
        Err((Why::OtherName, text))
    }
}

/// Waits until TLS is agreed with whoever has dialled.
async fn agreed(accepting: Accept<TcpStream>) -> io::Result<TlsStream<TcpStream>> {
    match accepting.into_fallible().await {
        Ok(io) => Ok(TlsStream::from(io)),
        Err((error, io)) => {
            read_rest(io).await;
            Err(said(error))
        }
    }
}

fn stamps(files: &TlsFiles) -> [Option<Stamp>; 3] {
    [&files.ca, &files.certificate, &files.key].map(|path| stamp(path))
}

fn load(files: &TlsFiles, cluster: &str) -> Result<Loaded, TlsError> {
    // Before they are read: what is written meanwhile is read the next time.
    let stamps = stamps(files);
    let mut roots = RootCertStore::empty();
    for root in certificates(&files.ca)? {
        roots.add(root).map_err(|error| wrong(&files.ca, &error))?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(&files.certificate)?;
    let key = private_key(&files.key)?;
    let names = Names::of(&chain[0]).map_err(|error| wrong(&files.certificate, &error))?;
    if !names.are_of(cluster, &files.peer_names) {
        let why = format!("it has no name that other nodes of cluster {cluster:?} take; it has {names}");
        return Err(wrong(&files.certificate, &why));
    }
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(|error| wrong(&files.ca, &error))?;
    let servers = Arc::new(Servers { taken: Taken::OfAuthority(roots), provider: Arc::clone(&provider) });
    // What others would say of it.
    let (now, between) = (UnixTime::now(), &chain[1..]);
    clients
        .verify_client_cert(&chain[0], between, now)
        .and_then(|_| servers.verify(&chain[0], between, now))
        .map_err(|error| wrong(&files.certificate, &reason(&error).unwrap_or_else(|| error.to_string())))?;
    let is_good = |at| servers.verify(&chain[0], between, at).is_ok();
    let (begins, expires) = (begins(now.as_secs(), is_good), expires(now.as_secs(), is_good));
    let keyed = |error: rustls::Error| wrong(&files.key, &format!("it does not go with the certificate: {error}"));
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError(error.to_string()))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(keyed)?;
    // Each connection is proven anew: an earlier proof may be of a certificate that has expired since.
    server.send_tls13_tickets = 0;
    server.alpn_protocols = vec![ALPN.to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(servers)
        .with_client_auth_cert(chain, key)
        .map_err(keyed)?;
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![ALPN.to_vec()];
    metrics::gauge!("everlog_tls_certificate_expiry_seconds", "listener" => "node").set(expires as f64);
    Ok(Loaded {
        stamps,
        client: Arc::new(client),
        server: Arc::new(server),
        node: names.node(cluster),
        begins: UNIX_EPOCH + Duration::from_secs(begins),
        expires: UNIX_EPOCH + Duration::from_secs(expires),
    })
}

/// The last second, since 1970, at which a certificate that is good `now` `is_good`, with all that it depends on.
fn expires(now: u64, is_good: impl Fn(UnixTime) -> bool) -> u64 {
    let (mut good, mut bad) = (now, now + EXPIRY_LOOK_SECONDS);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match is_good(UnixTime::since_unix_epoch(Duration::from_secs(middle))) {
            true => good = middle,
            false => bad = middle,
        }
    }
    good
}

/// The first second of the same.
fn begins(now: u64, is_good: impl Fn(UnixTime) -> bool) -> u64 {
    // Seconds before now, counted as those after it are.
    let before =
        expires(0, |back| is_good(UnixTime::since_unix_epoch(Duration::from_secs(now.saturating_sub(back.as_secs())))));
    now.saturating_sub(before)
}

/// Which servers are taken, whatever their address. In either case they have the key of their certificate, and talk TLS 1.3.
#[derive(Debug)]
enum Taken {
    /// Those that have a certificate of the authority; `NodeTls::prove` looks at the names.
    OfAuthority(Arc<RootCertStore>),
    /// Any: what counts is proven on the channel, at a [first contact](contact).
    OfAnybody,
}

#[derive(Debug)]
struct Servers {
    taken: Taken,
    provider: Arc<CryptoProvider>,
}

impl Servers {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Taken::OfAuthority(roots) = &self.taken else { return Ok(()) };
        let parsed = rustls::server::ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, between, now, algorithms)
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("nodes talk TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

/// Reads what is still coming, so that the other side can read the reason before it hears that nobody is there any more.
async fn read_rest(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let rest = async {
        io.shutdown().await?;
        let mut taken = [0; 4096];
        let mut bytes = 0;
        while bytes < REST_BYTES_MAX {
            match io.read(&mut taken).await? {
                0 => break,
                read => bytes += read,
            }
        }
        Ok::<_, io::Error>(())
    };
    // Nobody waits for it.
    let _ = tokio::time::timeout(REST_TIME_MAX, rest).await;
}

/// Reads what somebody says who does not speak TLS.
pub(crate) async fn read_greeting_unheard(io: &mut TcpStream) -> io::Result<()> {
    let mut header = [0; 8];
    io.read_exact(&mut header).await?;
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let mut rest = (&mut *io).take(length.min(REST_BYTES_MAX) as u64);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_good_second_is_found() {
        let good_until = |last: u64| expires(1_000, |at| at.as_secs() <= last);
        assert_eq!((good_until(1_000), good_until(1_001), good_until(5_000_000)), (1_000, 1_001, 5_000_000));
        assert!(good_until(u64::MAX) < u64::MAX, "for ever is a hundred years");
        let good_from = |first: u64| begins(1_000_000, |at| at.as_secs() >= first);
        assert_eq!((good_from(1_000_000), good_from(999_999), good_from(5_000)), (1_000_000, 999_999, 5_000));
        assert_eq!(good_from(0), 0);
    }
}
