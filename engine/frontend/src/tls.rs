//! What clients are shown under TLS, and what they have to show: the same at the listeners for gRPC and for HTTP.
//!
//! The files are looked at for each new connection and read again when they have changed; connections that there are stay. What is wrong with
//! a file stops the start; later the one before stays in use.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use everlog_config::{ClientCertificates, FrontendTls};
use everlog_transport::pem::{Stamp, certificates, private_key, stamp, wrong};
use everlog_transport::{TlsError, certificate_expiry};
use parking_lot::Mutex;
use rustls::crypto::ring;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// From when on a certificate that will expire is warned of, and how often.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const EXPIRY_SAY_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// What is spoken under TLS at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// gRPC, which is HTTP/2.
    Grpc,
    /// HTTP of either version.
    Http,
}

impl Spoken {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Spoken::Grpc => vec![b"h2".to_vec()],
            Spoken::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

/// The TLS of the listeners.
#[derive(Debug)]
pub(super) struct ListenerTls {
    files: FrontendTls,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    /// Which versions of the files these are.
    stamps: [Option<Stamp>; 3],
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    expires: SystemTime,
    expiry_said: Option<Instant>,
}

impl ListenerTls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// When a file is missing or is none, or the key is not that of the certificate.
    pub(super) fn open(files: FrontendTls) -> Result<ListenerTls, TlsError> {
        let mut loaded = load(&files)?;
        loaded.warn_of_expiry(&files);
        Ok(ListenerTls { files, loaded: Mutex::new(loaded) })
    }

    /// What a new connection is agreed on with.
    pub(super) fn acceptor(&self, spoken: Spoken) -> TlsAcceptor {
        let mut loaded = self.loaded.lock();
        let stamps = stamps(&self.files);
        if stamps != loaded.stamps {
            match load(&self.files) {
                Ok(again) => {
                    tracing::info!(file = %self.files.certificate.display(), "the certificate for clients was read again");
                    *loaded = again;
                }
                Err(error) => {
                    tracing::warn!(%error, "the changed certificate for clients cannot be used, the one before stays in use");
                }
            }
            // Not again before the next change.
            loaded.stamps = stamps;
        }
        loaded.warn_of_expiry(&self.files);
        TlsAcceptor::from(Arc::clone(match spoken {
            Spoken::Grpc => &loaded.grpc,
            Spoken::Http => &loaded.http,
        }))
    }
}

impl Loaded {
    fn warn_of_expiry(&mut self, files: &FrontendTls) {
        let left = self.expires.duration_since(SystemTime::now()).unwrap_or_default();
        if left < EXPIRY_WARNING && self.expiry_said.is_none_or(|said| said.elapsed() > EXPIRY_SAY_INTERVAL) {
            self.expiry_said = Some(Instant::now());
            let (file, hours) = (files.certificate.display(), left.as_secs() / 3600);
            tracing::warn!(%file, hours, "the certificate for clients expires soon; they then refuse it");
        }
    }
}

fn stamps(files: &FrontendTls) -> [Option<Stamp>; 3] {
    [Some(&files.certificate), Some(&files.key), files.clients.ca()].map(|path| stamp(path?))
}

fn load(files: &FrontendTls) -> Result<Loaded, TlsError> {
    // Before they are read: what is written meanwhile is read the next time.
    let stamps = stamps(files);
    let chain = certificates(&files.certificate)?;
    let key = private_key(&files.key)?;
    let expiry = certificate_expiry(&chain[0])
        .ok_or_else(|| wrong(&files.certificate, &"it does not say until when it is valid"))?;
    let provider = Arc::new(ring::default_provider());
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| wrong(&files.certificate, &error))?;
    let verifier = match files.clients.ca() {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|error| wrong(path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match files.clients {
                ClientCertificates::Required(_) => verifier,
                _ => verifier.allow_unauthenticated(),
            };
            verifier.build().map_err(|error| wrong(path, &error))?
        }
    };
    let mut grpc = builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&files.key, &format_args!("it does not go with the certificate: {error}")))?;
    if files.clients.ca().is_some() {
        // Each connection is proven anew: an earlier proof may be of a certificate that has expired since.
        grpc.send_tls13_tickets = 0;
        grpc.session_storage = Arc::new(NoServerSessionStorage {});
    }
    let mut http = grpc.clone();
    grpc.alpn_protocols = Spoken::Grpc.protocols();
    http.alpn_protocols = Spoken::Http.protocols();
    metrics::gauge!("everlog_tls_certificate_expiry_seconds", "listener" => "frontend").set(expiry as f64);
    Ok(Loaded {
        stamps,
        grpc: Arc::new(grpc),
        http: Arc::new(http),
        expires: UNIX_EPOCH + Duration::from_secs(expiry),
        expiry_said: None,
    })
}
