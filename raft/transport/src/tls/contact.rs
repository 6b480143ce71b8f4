//! The first contact of a node that has no certificate yet: both sides prove that they know the same secret, without saying it.
//!
//! ```text
//!   dialler ──TLS 1.3, the acceptor's certificate is of nobody── Knock: which secret, a proof of it for this channel ──▶ acceptor
//!           ◀─────────────── its own proof for this channel, or why not ───────────────
//! ```
//!
//! A proof is a keyed hash of what TLS derives for this one channel and nobody else can (RFC 5705, RFC 9266). Whoever stands between two nodes has two
//! channels, so what it hears on one is of no use on the other, and the secret cannot be tried out faster than by asking. What follows on such a
//! connection are the calls of a stranger, nothing else.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::authority::Fingerprint;
use super::failures::{Why, distrust, said, untrusted};
use super::token::{ContactKey, JoinToken, TokenId};
use super::{Servers, Taken, TlsError, read_rest};
use crate::handshake;

/// What both sides must say they speak.
pub(super) const ALPN: &[u8] = b"everlog-join/1";

/// What TLS derives proofs from: the binding to a channel (RFC 9266).
const BINDING: &[u8] = b"EXPORTER-Channel-Binding";

const DIALLER: &[u8] = b"dialler";
const ACCEPTOR: &[u8] = b"acceptor";

/// What a node proves itself with that has no certificate yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// The secret that the founders of a cluster share.
    Secret(ContactKey),
    /// A token that lets one node join.
    Token(JoinToken),
}

/// A token as its cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownToken {
    /// What its bearer proves itself with.
    pub key: ContactKey,
    /// Whether its time is up.
    pub is_expired: bool,
    /// The data directory that has joined with it.
    pub used_by: Option<uuid::Uuid>,
}

/// Knows the tokens of a cluster.
pub type Tokens = Box<dyn Fn(TokenId) -> Option<KnownToken> + Send + Sync>;

/// What somebody has proven to know at a first contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// The secret that founders share.
    Secret,
    /// That of a token.
    Token(TokenId),
}

/// How a node meets others before one of them has a certificate.
pub struct FirstContact {
    credential: Option<Credential>,
    /// The secret that it takes from others.
    secret: Option<ContactKey>,
    tokens: OnceLock<Tokens>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for FirstContact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstContact").field("credential", &self.credential).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Knock {
    /// The token; none: the secret that founders share.
    #[prost(fixed64, optional, tag = "1")]
    token: Option<u64>,
    /// Whose data directory it is for, 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    directory_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    proof: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Opened {
    /// Why it is not; empty if it is.
    #[prost(string, tag = "1")]
    why_not: String,
    #[prost(bytes = "vec", tag = "2")]
    proof: Vec<u8>,
    /// Whether it may be later.
    #[prost(bool, tag = "3")]
    is_not_ready: bool,
}

impl FirstContact {
    /// A node that proves itself with `credential`, and takes `secret` from others.
    ///
    /// # Errors
    ///
    /// When the system has no random numbers.
    pub fn new(credential: Option<Credential>, secret: Option<ContactKey>) -> Result<FirstContact, TlsError> {
        let failed = |error: &dyn fmt::Display| TlsError(error.to_string());
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let certificate = CertificateParams::default().self_signed(&key).map_err(|error| failed(&error))?;
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).map_err(|error| failed(&error))?;
        let provider = Arc::new(ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(&error))?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .map_err(|error| failed(&error))?;
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Servers { taken: Taken::OfAnybody, provider }))
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        client.alpn_protocols = vec![ALPN.to_vec()];
        let tokens = OnceLock::new();
        Ok(FirstContact { credential, secret, tokens, client: Arc::new(client), server: Arc::new(server) })
    }

    /// What the node proves itself with.
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Tokens are taken from others from now on.
    pub fn take_tokens(&self, tokens: Tokens) {
        // They are named once.
        let _ = self.tokens.set(tokens);
    }

    /// Whether the authority with this certificate, PEM, is the one that the node was told of, if it was told of one.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn check_authority(&self, certificate: &str) -> Result<(), TlsError> {
        let found = Fingerprint::of(certificate)?;
        match &self.credential {
            Some(Credential::Token(token)) if token.authority != found => Err(TlsError(format!(
                "join token {} is of the cluster with the authority {}, and that of this one is {found}",
                token.id, token.authority
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Proves to whoever was dialled that this node knows its secret, and wants the same of it.
    pub(super) async fn knock(&self, io: TcpStream, directory_id: uuid::Uuid) -> io::Result<TlsStream<TcpStream>> {
        let (token, key) = match &self.credential {
            None => {
                let why = "this node has no certificate, and nothing to get one with: set cluster.join_secret_file or cluster.join_token_file";
                return Err(untrusted(why));
            }
            Some(Credential::Secret(key)) => (None, *key),
            Some(Credential::Token(token)) => (Some(token.id.0), token.key()),
        };
        let name = ServerName::from(io.peer_addr()?.ip());
        let connected = TlsConnector::from(Arc::clone(&self.client)).connect(name, io).await;
        let mut io = TlsStream::from(connected.map_err(said)?);
        let said = bound(&io, directory_id.as_bytes())?;
        let directory_id = directory_id.as_bytes().to_vec();
        handshake::write(&mut io, &Knock { token, directory_id, proof: key.proof(DIALLER, &said) }).await?;
        let Opened { why_not, proof, is_not_ready } = handshake::read(&mut io).await?;
        if is_not_ready {
            return Err(io::Error::other(why_not));
        }
        if !why_not.is_empty() {
            return Err(distrust(Why::OnTheOtherSide, format!("it does not let this node in: {why_not}")));
        }
        if !key.is_proof(&proof, ACCEPTOR, &said) {
            return Err(distrust(Why::WrongSecret, "it does not know the secret that this node has"));
        }
        Ok(io)
    }

    /// Hears what somebody has to prove who has dialled, and proves the same to it. Returns what that is, and of which data directory.
    pub(super) async fn opened(
        &self,
        mut io: TlsStream<TcpStream>,
    ) -> io::Result<(TlsStream<TcpStream>, Contact, uuid::Uuid)> {
        let Knock { token, directory_id, proof } = handshake::read(&mut io).await?;
        let said = bound(&io, &directory_id)?;
        let judged = self.judge(token.map(TokenId), &directory_id, &proof, &said);
        match judged {
            Ok((contact, directory_id, key)) => {
                let opened = Opened { proof: key.proof(ACCEPTOR, &said), ..Opened::default() };
                handshake::write(&mut io, &opened).await?;
                Ok((io, contact, directory_id))
            }
            Err((why, text)) => {
                let is_not_ready = why == Why::NotReady;
                let opened = Opened { why_not: text.clone(), is_not_ready, ..Opened::default() };
                handshake::write(&mut io, &opened).await?;
                read_rest(io).await;
                Err(if is_not_ready { io::Error::other(text) } else { distrust(why, text) })
            }
        }
    }

    fn judge(
        &self,
        token: Option<TokenId>,
        directory_id: &[u8],
        proof: &[u8],
        said: &[u8],
    ) -> Result<(Contact, uuid::Uuid, ContactKey), (Why, String)> {
        let directory_id = uuid::Uuid::from_slice(directory_id)
            .map_err(|_| (Why::Untrusted, "it does not name its data directory".to_owned()))?;
        let Some(id) = token else {
            let key = self.secret.ok_or_else(|| (Why::WrongSecret, "no join secret is known here".to_owned()))?;
            return match key.is_proof(proof, DIALLER, said) {
                true => Ok((Contact::Secret, directory_id, key)),
                false => Err((Why::WrongSecret, "the join secret is another one here".to_owned())),
            };
        };
        let tokens = self.tokens.get().ok_or_else(|| {
            (Why::NotReady, "the metadata are not known here yet, and join tokens with them".to_owned())
        })?;
        let unknown = || {
            (Why::TokenUnknown, format!("join token {id} is of another cluster, or was taken back, or is long over"))
        };
        let KnownToken { key, is_expired, used_by } = tokens(id).ok_or_else(unknown)?;
        // Nobody hears more of a token who does not have it.
        if !key.is_proof(proof, DIALLER, said) {
            return Err((Why::WrongSecret, format!("the secret of join token {id} is another one")));
        }
        if used_by.is_some_and(|used_by| used_by != directory_id) {
            return Err((Why::TokenUsed, format!("join token {id} was used by another node: each needs its own")));
        }
        if is_expired {
            return Err((Why::TokenExpired, format!("join token {id} has expired")));
        }
        Ok((Contact::Token(id), directory_id, key))
    }
}

/// What a proof is of: this channel, and the data directory of whoever dialled.
fn bound(io: &TlsStream<TcpStream>, directory_id: &[u8]) -> io::Result<Vec<u8>> {
    let exported = match io {
        TlsStream::Client(io) => io.get_ref().1.export_keying_material([0_u8; 32], BINDING, None),
        TlsStream::Server(io) => io.get_ref().1.export_keying_material([0_u8; 32], BINDING, None),
    };
    Ok([&exported.map_err(io::Error::other)?[..], directory_id].concat())
}
