//! Tokens that let nodes join, and certificates for nodes: any node takes the question, the one that leads the metadata decides.
//!
//! ```text
//!   operator ──create──▶ any node: makes the text ──its hash──▶ whoever leads the metadata: writes it down
//!   a node without a certificate ──token, proof, request──▶ any node ──enrol──▶ whoever leads the metadata: gives it a place, certifies it
//!   a node whose certificate grows old ────────────────────────────enrol──▶ the same
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everlog_meta::{ClusterAuthority, NodeCertificate, TokenRow, TokenScope};
use everlog_model::NodeId;
use everlog_proto::cluster::{self as api, CreateJoinTokenRequest, CreateJoinTokenResponse, JoinTokenState};
use everlog_proto::internal::{EnrolRequest, EnrolResponse, NumberedRow, SteerRequest};
use everlog_transport::{Authority, ContactKey, Fingerprint, JoinToken, KnownToken, TokenId};
use tonic::Status;

use super::{Operations, invalid, refused};
use crate::{EnrolledBy, Enrolment, Note, Places};

/// How long a token is good where nobody says.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// How long it may be.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Operations {
    /// The token with an id, as far as this node has seen.
    pub fn known_token(&self, TokenId(id): TokenId) -> Option<KnownToken> {
        let topology = self.parts.namespaces.topology();
        let row = topology.tokens.get(&id)?;
        Some(KnownToken {
            key: ContactKey(row.key),
            is_expired: row.expires_ms <= now_ms(),
            used_by: row.used.map(|used| used.directory_id),
        })
    }

    /// Makes a token.
    pub(super) async fn create_token(
        &self,
        request: CreateJoinTokenRequest,
    ) -> Result<CreateJoinTokenResponse, Status> {
        let CreateJoinTokenRequest { node_name: host, replaces_node_id, lifetime_seconds } = request;
        let lifetime = match lifetime_seconds {
            0 => TOKEN_LIFETIME,
            seconds => Duration::from_secs(seconds),
        };
        if lifetime > TOKEN_LIFETIME_MAX {
            let days = TOKEN_LIFETIME_MAX.as_secs() / 86_400;
            return Err(Status::invalid_argument(format!(
                "lifetime_seconds: a join token is good for {days} days at most"
            )));
        }
        if host.contains(|char: char| char.is_whitespace() || char.is_control() || char == ':') {
            return Err(Status::invalid_argument(format!("node_name: {host:?} is no host")));
        }
        let replaces = (replaces_node_id > 0).then_some(NodeId(replaces_node_id));
        let places = self.places()?;
        if replaces.is_some_and(|node| !places.picture().nodes.contains_key(&node)) {
            return Err(Status::not_found(format!("there is no node {replaces_node_id}")));
        }
        let authority = places.topology().authority.clone().ok_or_else(no_authority)?;
        let fingerprint =
            Fingerprint::of(&authority.certificate).map_err(|error| Status::internal(error.to_string()))?;
        let token = JoinToken::make(fingerprint).map_err(|error| Status::internal(error.to_string()))?;
        let created_ms = now_ms();
        let row = TokenRow {
            key: token.key().0,
            created_ms,
            expires_ms: created_ms.saturating_add(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX)),
            scope: TokenScope { host, replaces },
            used: None,
        };
        let new_token = Some(NumberedRow { id: token.id.0, row: row.encode() });
        self.change(SteerRequest { new_token, ..SteerRequest::default() }).await?;
        Ok(CreateJoinTokenResponse { text: token.text(), token: Some(shown(token.id.0, &row, created_ms)) })
    }

    /// The tokens that there are, as far as this node has seen.
    pub(super) fn tokens(&self) -> Vec<api::JoinToken> {
        let (topology, now_ms) = (self.parts.namespaces.topology(), now_ms());
        let mut tokens: Vec<_> = topology.tokens.iter().map(|(id, row)| shown(*id, row, now_ms)).collect();
        tokens.sort_by_key(|token| token.created_ms);
        tokens
    }

    /// Takes a token back.
    pub(super) async fn revoke_token(&self, id: &str) -> Result<(), Status> {
        let TokenId(id) = id.parse().map_err(|why: String| Status::invalid_argument(format!("token_id: {why}")))?;
        self.change(SteerRequest { revoked_token: Some(id), ..SteerRequest::default() }).await
    }

    /// Has the metadata name the cluster's authority, unless they do.
    ///
    /// # Errors
    ///
    /// When they do not. It may be told again.
    pub async fn note_authority(&self, authority: &ClusterAuthority) -> Result<(), Status> {
        self.change(SteerRequest { authority: authority.encode(), ..SteerRequest::default() }).await
    }

    /// Has the metadata say that this node has a certificate.
    ///
    /// # Errors
    ///
    /// When they do not. It may be told again.
    pub async fn note_certificate(&self, certificate: &NodeCertificate) -> Result<(), Status> {
        let row = NumberedRow { id: self.me().0.into(), row: certificate.encode() };
        self.change(SteerRequest { certificate: Some(row), ..SteerRequest::default() }).await
    }

    /// A certificate for somebody who may have one, made by whoever leads the metadata.
    ///
    /// # Errors
    ///
    /// Why it may have none, or that nobody can say so now.
    pub async fn enrol(&self, request: EnrolRequest) -> Result<EnrolResponse, Status> {
        let leader = self.parts.namespaces.leader().unwrap_or(self.me());
        let enrolled = match &self.parts.nodes {
            Some(nodes) if leader != self.me() => nodes.enrol(leader, request).await?,
            _ => self.enrolled(request).await?,
        };
        // What is to be heard of it by those that it dials next is known to them, where that is possible.
        if let Some(nodes) = &self.parts.nodes {
            let namespaces = &self.parts.namespaces;
            let seen = namespaces.catch_up_with(async |leader| nodes.metadata_position(leader).await).await;
            seen.map_err(crate::wire::status_from_error)?;
            nodes.await_metadata(namespaces.seen()).await;
        }
        Ok(enrolled)
    }

    /// The same where the metadata are led.
    pub(crate) async fn enrolled(&self, request: EnrolRequest) -> Result<EnrolResponse, Status> {
        let EnrolRequest { directory_id, address, token, node, request } = request;
        let places = self.places()?;
        let ClusterAuthority { certificate: authority, key } =
            places.topology().authority.clone().ok_or_else(no_authority)?;
        let failed = |error: everlog_transport::TlsError| Status::internal(error.to_string());
        let issuer = Authority::of(authority.clone(), &key).map_err(failed)?;
        let directory_id = uuid::Uuid::from_slice(&directory_id).map_err(|error| invalid("directory_id", &error))?;
        let by = match (token, node) {
            (Some(id), _) => EnrolledBy::Token(id),
            (None, 0) => EnrolledBy::Secret,
            (None, node) => EnrolledBy::Node(NodeId(node)),
        };
        // Before anything is written down of somebody who gets none.
        let (name, lifetime) = (&self.parts.about.cluster_name, self.parts.certificate_lifetime);
        let certify = |node| issuer.certify(&request, name, node, lifetime);
        certify(NodeId(1)).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let enrolment = Enrolment { directory_id, address, by };
        let (node, _) = places.enrol(&enrolment, now_ms()).await.map_err(|error| refused(&error))?;
        tracing::info!(%node, %directory_id, ?by, "a node gets a certificate");
        Ok(EnrolResponse { node: node.0, certificate: certify(node).map_err(failed)?, authority })
    }

    pub(super) fn places(&self) -> Result<&Places, Status> {
        let places = self.parts.places.as_deref();
        places.ok_or_else(|| Status::failed_precondition("this node is alone, and was started without [cluster]"))
    }
}

/// What somebody wants the metadata to say of how nodes prove who they are.
pub(super) fn notes(request: &SteerRequest) -> Result<Vec<Note>, Status> {
    let SteerRequest { authority, certificate, new_token, revoked_token, .. } = request;
    let authority = (!authority.is_empty()).then(|| ClusterAuthority::decode(authority).map(Note::Authority));
    let certificate = certificate.as_ref().map(|NumberedRow { id, row }| {
        let node = NodeId(u32::try_from(*id).unwrap_or(u32::MAX));
        NodeCertificate::decode(row).map(|row| Note::Certificate(node, row))
    });
    let new = new_token.as_ref().map(|NumberedRow { id, row }| TokenRow::decode(row).map(|row| Note::Token(*id, row)));
    let revoked = revoked_token.map(|id| Ok(Note::NoToken(id)));
    let all = [authority, certificate, new, revoked].into_iter().flatten();
    all.collect::<Result<_, _>>().map_err(|error| refused(&error))
}

fn shown(id: u64, row: &TokenRow, now_ms: u64) -> api::JoinToken {
    let TokenRow { key: _, created_ms, expires_ms, scope: TokenScope { host, replaces }, used } = row.clone();
    let state = match used {
        Some(_) => JoinTokenState::Used,
        None if expires_ms <= now_ms => JoinTokenState::Expired,
        None => JoinTokenState::Good,
    };
    api::JoinToken {
        token_id: TokenId(id).to_string(),
        state: state as i32,
        node_name: host,
        replaces_node_id: replaces.map_or(0, |node| node.0),
        created_ms,
        expires_ms,
        used_by_node_id: used.map_or(0, |used| used.node.0),
        used_ms: used.map_or(0, |used| used.at_ms),
    }
}

fn no_authority() -> Status {
    Status::failed_precondition(
        "this cluster is not its own certificate authority, which join tokens and certificates for nodes need: cluster.tls = \"auto\"",
    )
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
