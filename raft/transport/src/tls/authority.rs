//! A certificate authority that a cluster has of its own, and the certificates that it makes for nodes.
//!
//! A node makes a key, and asks with a signing request for a certificate of it. What the certificate says is the authority's to decide: the name of the
//! node that whoever asks has proven to be. The key never leaves the node. A request is the public key, and a signature over it that only
//! whoever has the private one can make; nobody but nodes reads it, so it is protobuf and not PKCS #10, whose names would count for nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everlog_storage::NodeId;
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm, SigningKey, date_time_ymd,
};
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{TlsError, node_name};

/// How long an authority's own certificate is valid.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Clocks of nodes may differ, but by less than a tenth of what a certificate is valid for.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60 * 60);

/// Tells authorities apart: the SHA-256 of its certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// That of the first certificate in a text, PEM.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn of(certificate: &str) -> Result<Fingerprint, TlsError> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| failed(&error))?;
        Ok(Fingerprint(sha256(&certificate)))
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// An authority: its certificate, and the key that it signs with.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one, with a key that nobody has.
    ///
    /// # Errors
    ///
    /// When the system has no random numbers.
    pub fn make() -> Result<Authority, TlsError> {
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let mut params = of_authority();
        lasts(&mut params, AUTHORITY_LIFETIME);
        let certificate = params.self_signed(&key).map_err(|error| failed(&error))?.pem();
        Ok(Authority { certificate, issuer: Issuer::new(params, key) })
    }

    /// The one with this certificate and key, PEM both.
    ///
    /// # Errors
    ///
    /// When the key is none.
    pub fn of(certificate: String, key: &str) -> Result<Authority, TlsError> {
        let key = KeyPair::from_pem(key).map_err(|error| failed(&error))?;
        Ok(Authority { certificate, issuer: Issuer::new(of_authority(), key) })
    }

    /// Its certificate, PEM: what nodes know it by.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, PEM. Whoever has it can be any node.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Makes a certificate of a node of the cluster with that name for the key that `request` is signed with: PEM.
    ///
    /// # Errors
    ///
    /// When the request is none, or is not signed with its key.
    pub fn certify(&self, request: &[u8], cluster: &str, node: NodeId, lifetime: Duration) -> Result<String, TlsError> {
        let public_key = signed(request)
            .ok_or_else(|| TlsError("the signing request is not signed with the key that it is for".to_owned()))?;
        let name = node_name(cluster, node).try_into().map_err(|error| failed(&error))?;
        let mut params = of_node(node, vec![SanType::URI(name)]);
        lasts(&mut params, lifetime);
        Ok(params.signed_by(&public_key, &self.issuer).map_err(|error| failed(&error))?.pem())
    }
}

/// What a request's signature is of, before the key.
const SIGNED: &[u8] = b"everlog signing request\0";

#[derive(Clone, PartialEq, Message)]
struct RequestMessage {
    /// A point of P-256, not compressed.
    #[prost(bytes = "vec", tag = "1")]
    public_key: Vec<u8>,
    /// ECDSA with SHA-256, ASN.1.
    #[prost(bytes = "vec", tag = "2")]
    signature: Vec<u8>,
}

/// The key that a request is for and signed with.
struct CertifiedKey(Vec<u8>);

impl PublicKeyData for CertifiedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

fn signed(request: &[u8]) -> Option<CertifiedKey> {
    let RequestMessage { public_key, signature } = RequestMessage::decode(request).ok()?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &public_key);
    key.verify(&[SIGNED, &public_key].concat(), &signature).ok()?;
    Some(CertifiedKey(public_key))
}

/// A new key, PEM, and the request to certify it.
pub struct SigningRequest {
    /// The key.
    pub key: String,
    /// The request.
    pub request: Vec<u8>,
}

impl SigningRequest {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// When the system has no random numbers.
    pub fn make() -> Result<SigningRequest, TlsError> {
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let public_key = key.public_key_raw().to_vec();
        let signature = key.sign(&[SIGNED, &public_key].concat()).map_err(|error| failed(&error))?;
        let request = RequestMessage { public_key, signature }.encode_to_vec();
        Ok(SigningRequest { key: key.serialize_pem(), request })
    }
}

impl std::fmt::Debug for SigningRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningRequest").finish_non_exhaustive()
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// What the certificate of an authority says, but when it expires. All have the same name: their keys tell them apart.
pub fn of_authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("Everlog cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// What the certificate of a node with these names says, but when it expires. Only the names count.
pub fn of_node(node: NodeId, names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("Everlog node {node}"));
    params.subject_alt_names = names;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn lasts(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = |since: Duration| date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs());
    params.not_before = at(now.saturating_sub(CLOCKS_DIFFER.min(lifetime / 10)));
    params.not_after = at(now + lifetime);
}

fn failed(error: &dyn std::fmt::Display) -> TlsError {
    TlsError(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_the_same_when_it_is_read_again() {
        let made = Authority::make().unwrap();
        let again = Authority::of(made.certificate().to_owned(), &made.key()).unwrap();
        assert_eq!(Fingerprint::of(again.certificate()), Fingerprint::of(made.certificate()));
        assert_ne!(Fingerprint::of(Authority::make().unwrap().certificate()), Fingerprint::of(made.certificate()));
        assert_eq!(again.key(), made.key());
        assert!(Authority::of(String::new(), "x").is_err() && Fingerprint::of("x").is_err());
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_request_is_certified_only_with_its_own_signature() {
        let authority = Authority::make().unwrap();
        let SigningRequest { request, .. } = SigningRequest::make().unwrap();
        let day = Duration::from_secs(86_400);
        assert!(authority.certify(&request, "prod", NodeId(4), day).unwrap().contains("CERTIFICATE"));
        let refused = |request: &[u8]| {
            let why = authority.certify(request, "prod", NodeId(4), day).unwrap_err().to_string();
            assert_eq!(why, "the signing request is not signed with the key that it is for");
        };
        for at in 0..request.len() {
            let mut damaged = request.clone();
            damaged[at] ^= 1;
            refused(&damaged);
            refused(&request[..at]);
        }
    }
}
