//! What the metadata say of how nodes prove who they are, where the cluster is its own certificate authority, and of tokens that let nodes join it.
//!
//! | row | content |
//! |---|---|
//! | `authority` | the authority's certificate and key ([`ClusterAuthority`]) |
//! | `certificate/<node>` | the certificate that a node says it has ([`NodeCertificate`]) |
//! | `join-token/<id>` | a token: a hash of its secret, until when it is good, and who has used it ([`TokenRow`]) |
//!
//! The authority's key lies in the rows as it is, so whoever reads a disk of the cluster has it. To seal it with the join secret would not keep
//! it from them: each node must open it again after a restart, so what opens it would lie on the same disk, and nodes that joined by a
//! token never had that secret. Of a token no row tells the secret.

use std::fmt;

use bytes::Bytes;
use everlog_storage::NodeId;
use prost::Message;

use super::MetaError;
use super::topology::Topology;

/// How long a token is remembered that is of no more use, milliseconds: a week, in which whoever comes with it hears why.
const TOKEN_REMEMBERED_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Tokens that a cluster has at a time.
pub const TOKENS_MAX: usize = 1000;

/// The authority of a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterAuthority {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

impl fmt::Debug for ClusterAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterAuthority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The certificate of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCertificate {
    /// The data directory that has it.
    pub directory_id: uuid::Uuid,
    /// Until when it is valid, milliseconds since 1970.
    pub expires_ms: u64,
}

/// Whom a token may let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenScope {
    /// The host that the node is dialled by; empty: any.
    pub host: String,
    /// The node whose lost disk its data directory takes the place of, once an operator says so; none: a node joins.
    pub replaces: Option<NodeId>,
}

/// A token as its cluster knows it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// What its bearer proves itself with: a hash of its secret.
    pub key: [u8; 32],
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// Until when it is good, milliseconds since 1970.
    pub expires_ms: u64,
    /// Whom it may let in.
    pub scope: TokenScope,
    /// Who has used it.
    pub used: Option<TokenUse>,
}

/// Who has used a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenUse {
    /// The data directory.
    pub directory_id: uuid::Uuid,
    /// The node that it is of.
    pub node: NodeId,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

impl fmt::Debug for TokenRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TokenRow { key: _, created_ms, expires_ms, scope, used } = self;
        let mut shown = f.debug_struct("TokenRow");
        shown.field("created_ms", created_ms).field("expires_ms", expires_ms).field("scope", scope);
        shown.field("used", used).finish_non_exhaustive()
    }
}

impl TokenRow {
    /// Whether it can be forgotten.
    fn is_over(&self, now_ms: u64) -> bool {
        let last = self.used.map_or(self.expires_ms, |used| used.at_ms.max(self.expires_ms));
        last.saturating_add(TOKEN_REMEMBERED_MS) < now_ms
    }
}

impl Topology {
    /// The tokens that can be forgotten.
    pub fn tokens_over(&self, now_ms: u64) -> Vec<u64> {
        self.tokens.iter().filter(|(_, row)| row.is_over(now_ms)).map(|(id, _)| *id).collect()
    }
}

#[derive(Clone, PartialEq, Message)]
struct AuthorityMessage {
    #[prost(string, tag = "1")]
    certificate: String,
    #[prost(string, tag = "2")]
    key: String,
}

#[derive(Clone, PartialEq, Message)]
struct CertificateMessage {
    #[prost(bytes = "bytes", tag = "1")]
    directory_id: Bytes,
    #[prost(uint64, tag = "2")]
    expires_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct TokenMessage {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(uint64, tag = "2")]
    created_ms: u64,
    #[prost(uint64, tag = "3")]
    expires_ms: u64,
    #[prost(string, tag = "4")]
    host: String,
    #[prost(uint32, tag = "5")]
    replaces: u32,
    /// Empty: nobody.
    #[prost(bytes = "bytes", tag = "6")]
    used_by: Bytes,
    #[prost(uint32, tag = "7")]
    used_node: u32,
    #[prost(uint64, tag = "8")]
    used_ms: u64,
}

fn corrupt(what: &str, why: impl fmt::Display) -> MetaError {
    MetaError::Corrupt(format!("{what}: {why}"))
}

impl ClusterAuthority {
    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let ClusterAuthority { certificate, key } = self.clone();
        AuthorityMessage { certificate, key }.encode_to_vec().into()
    }

    /// What a row says.
    ///
    /// # Errors
    ///
    /// [`MetaError::Corrupt`] if that means nothing.
    pub fn decode(value: &[u8]) -> Result<ClusterAuthority, MetaError> {
        const WHAT: &str = "authority";
        let message = AuthorityMessage::decode(value).map_err(|error| corrupt(WHAT, error))?;
        let AuthorityMessage { certificate, key } = message;
        if certificate.is_empty() || key.is_empty() {
            return Err(corrupt(WHAT, "it has no certificate or no key"));
        }
        Ok(ClusterAuthority { certificate, key })
    }
}

impl NodeCertificate {
    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let directory_id = Bytes::copy_from_slice(self.directory_id.as_bytes());
        CertificateMessage { directory_id, expires_ms: self.expires_ms }.encode_to_vec().into()
    }

    /// What a row says.
    ///
    /// # Errors
    ///
    /// [`MetaError::Corrupt`] if that means nothing.
    pub fn decode(value: &[u8]) -> Result<NodeCertificate, MetaError> {
        const WHAT: &str = "certificate of a node";
        let message = CertificateMessage::decode(value).map_err(|error| corrupt(WHAT, error))?;
        let directory_id = uuid::Uuid::from_slice(&message.directory_id).map_err(|error| corrupt(WHAT, error))?;
        Ok(NodeCertificate { directory_id, expires_ms: message.expires_ms })
    }
}

impl TokenRow {
    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let TokenRow { key, created_ms, expires_ms, scope: TokenScope { host, replaces }, used } = self.clone();
        let used_by = used.map(|used| Bytes::copy_from_slice(used.directory_id.as_bytes())).unwrap_or_default();
        let message = TokenMessage {
            key: Bytes::copy_from_slice(&key),
            created_ms,
            expires_ms,
            host,
            replaces: replaces.map_or(0, |node| node.0),
            used_by,
            used_node: used.map_or(0, |used| used.node.0),
            used_ms: used.map_or(0, |used| used.at_ms),
        };
        message.encode_to_vec().into()
    }

    /// What a row says.
    ///
    /// # Errors
    ///
    /// [`MetaError::Corrupt`] if that means nothing.
    pub fn decode(value: &[u8]) -> Result<TokenRow, MetaError> {
        const WHAT: &str = "join token";
        let message = TokenMessage::decode(value).map_err(|error| corrupt(WHAT, error))?;
        let TokenMessage { key, created_ms, expires_ms, host, replaces, used_by, used_node, used_ms } = message;
        let key = key[..].try_into().map_err(|_| corrupt(WHAT, "it has no hash"))?;
        let used = match used_by.is_empty() {
            true => None,
            false => {
                let directory_id = uuid::Uuid::from_slice(&used_by).map_err(|error| corrupt(WHAT, error))?;
                Some(TokenUse { directory_id, node: NodeId(used_node), at_ms: used_ms })
            }
        };
        let scope = TokenScope { host, replaces: (replaces > 0).then_some(NodeId(replaces)) };
        Ok(TokenRow { key, created_ms, expires_ms, scope, used })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn token() -> TokenRow {
        TokenRow { key: [7; 32], created_ms: 1000, expires_ms: 2000, scope: TokenScope::default(), used: None }
    }

    #[test]
    fn the_row_formats_are_for_ever() {
        let authority = ClusterAuthority { certificate: "c".to_owned(), key: "k".to_owned() };
        assert_eq!(hex(&authority.encode()), "0a016312016b");
        assert_eq!(ClusterAuthority::decode(&authority.encode()), Ok(authority.clone()));

        let directory_id = uuid::Uuid::from_u128(0x0102_0304);
        let certificate = NodeCertificate { directory_id, expires_ms: 300 };
        assert_eq!(hex(&certificate.encode()), "0a100000000000000000000000000102030410ac02");
        assert_eq!(NodeCertificate::decode(&certificate.encode()), Ok(certificate));

        let key = "07".repeat(32);
        assert_eq!(hex(&token().encode()), format!("0a20{key}10e80718d00f"));
        assert_eq!(TokenRow::decode(&token().encode()), Ok(token()));
        let used = TokenRow {
            scope: TokenScope { host: "n4".to_owned(), replaces: Some(NodeId(3)) },
            used: Some(TokenUse { directory_id, node: NodeId(4), at_ms: 300 }),
            ..token()
        };
        let golden = format!("0a20{key}10e80718d00f22026e342803321000000000000000000000000001020304380440ac02");
        assert_eq!(hex(&used.encode()), golden);
        assert_eq!(TokenRow::decode(&used.encode()), Ok(used));

        for bytes in [&b""[..], b"\xff", b"\x0a\x01\x01"] {
            assert!(matches!(ClusterAuthority::decode(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
            assert!(matches!(NodeCertificate::decode(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
            assert!(matches!(TokenRow::decode(bytes), Err(MetaError::Corrupt(_))), "{bytes:?}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let authority = ClusterAuthority { certificate: "certificate".to_owned(), key: "PRIVATE".to_owned() };
        assert!(!format!("{authority:?}").contains("PRIVATE"));
        assert!(!format!("{:?}", token()).contains("7, 7"));
    }

    #[test]
    fn a_token_is_remembered_for_a_week_after_it_was_good() {
        let week = TOKEN_REMEMBERED_MS;
        assert!(!token().is_over(2000 + week) && token().is_over(2001 + week));
        let used = TokenUse { directory_id: uuid::Uuid::nil(), node: NodeId(4), at_ms: 1500 };
        assert!(!TokenRow { used: Some(used), ..token() }.is_over(2000 + week));
    }
}
