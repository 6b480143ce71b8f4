//! What a node that has no certificate yet proves with that it belongs to a cluster: the secret that founders share, or a token that lets one node join.
//!
//! ```text
//!   everlog-join-1 . id, 16 hex digits . secret (32 bytes) │ fingerprint of the cluster's authority (32) │ CRC-32C of all (4), base64url
//! ```
//!
//! A cluster keeps the id of a token and a hash of its secret, which both sides derive their proofs from ([`ContactKey`]): from what a
//! cluster has written down, no token can be made again.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use super::authority::{Fingerprint, sha256};

const PREFIX: &str = "everlog-join-1";

/// Bytes of a token's secret.
const SECRET_BYTES: usize = 32;

/// Tells the tokens of a cluster apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = String;

    fn from_str(text: &str) -> Result<TokenId, String> {
        let is_id = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = is_id.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        id.map(TokenId).ok_or_else(|| format!("{text:?} is no id of a join token: 16 hex digits"))
    }
}

/// What both sides of a first contact know, and nobody else: never sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ContactKey(pub [u8; 32]);

impl fmt::Debug for ContactKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContactKey")
    }
}

impl ContactKey {
    /// That of the secret that founders share.
    pub fn of_secret(secret: &str) -> ContactKey {
        ContactKey(sha256(&[b"everlog join secret\0", secret.as_bytes()].concat()))
    }

    /// The proof that `role` knows it, for one channel and one purpose.
    pub(super) fn proof(&self, role: &[u8], said: &[u8]) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::sign(&key, &[role, b"\0", said].concat()).as_ref().to_vec()
    }

    pub(super) fn is_proof(&self, proof: &[u8], role: &[u8], said: &[u8]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::verify(&key, &[role, b"\0", said].concat(), proof).is_ok()
    }
}

/// Lets one node join a cluster, once.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// What the cluster knows it by.
    pub id: TokenId,
    secret: [u8; SECRET_BYTES],
    /// The cluster's authority.
    pub authority: Fingerprint,
}

impl JoinToken {
    /// A new one for the cluster with this authority.
    ///
    /// # Errors
    ///
    /// When the system has no random numbers.
    pub fn make(authority: Fingerprint) -> Result<JoinToken, getrandom::Error> {
        let (mut id, mut secret) = ([0; 8], [0; SECRET_BYTES]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        Ok(JoinToken { id: TokenId(u64::from_be_bytes(id)), secret, authority })
    }

    /// What its bearer proves itself with.
    pub fn key(&self) -> ContactKey {
        ContactKey(sha256(&[b"everlog join token\0", &self.secret[..]].concat()))
    }

    /// The token as it is handed on: one line.
    pub fn text(&self) -> String {
        let JoinToken { id, secret, authority } = self;
        let mut bytes = [&secret[..], &authority.0].concat();
        bytes.extend(checksum(*id, &bytes).to_be_bytes());
        format!("{PREFIX}.{id}.{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<JoinToken, &'static str> {
        let rest = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.'));
        let (id, rest) =
            rest.and_then(|rest| rest.split_once('.')).ok_or("it does not begin with \"everlog-join-1.\"")?;
        const CUT: &str = "it was cut off or changed";
        let id: TokenId = id.parse().map_err(|_| CUT)?;
        let bytes = URL_SAFE_NO_PAD.decode(rest).map_err(|_| CUT)?;
        let (bytes, sum) = bytes.split_last_chunk::<4>().ok_or(CUT)?;
        let (secret, authority) = bytes.split_first_chunk::<SECRET_BYTES>().ok_or(CUT)?;
        if checksum(id, bytes).to_be_bytes() != *sum {
            return Err(CUT);
        }
        Ok(JoinToken { id, secret: *secret, authority: Fingerprint(authority.try_into().map_err(|_| CUT)?) })
    }
}

fn checksum(id: TokenId, bytes: &[u8]) -> u32 {
    crc32c::crc32c(&[&id.0.to_be_bytes(), bytes].concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_token_stays_what_it_is() {
        let token = JoinToken { id: TokenId(0x0102_0304), secret: [7; 32], authority: Fingerprint([9; 32]) };
        let text = token.text();
        assert_eq!(
            text,
            "everlog-join-1.0000000001020304.BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCb5Vbs8"
        );
        assert_eq!(text.parse::<JoinToken>().unwrap(), token);
        assert!(!format!("{token:?}").contains("7, 7"));
    }

    #[test]
    fn a_token_that_was_changed_anywhere_is_none() {
        let text = JoinToken::make(Fingerprint([9; 32])).unwrap().text();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert!(String::from_utf8(changed).unwrap().parse::<JoinToken>().is_err(), "{at}");
            assert!(text[..at].parse::<JoinToken>().is_err(), "cut at {at}");
        }
        assert!(format!("{text}A").parse::<JoinToken>().is_err());
    }

    #[test]
    fn a_proof_is_of_one_role_and_one_channel() {
        let key = ContactKey::of_secret("x");
        let proof = key.proof(b"dialler", b"channel");
        assert!(key.is_proof(&proof, b"dialler", b"channel"));
        assert!(!key.is_proof(&proof, b"acceptor", b"channel") && !key.is_proof(&proof, b"dialler", b"other"));
        assert!(!ContactKey::of_secret("y").is_proof(&proof, b"dialler", b"channel"));
        let token = JoinToken::make(Fingerprint([9; 32])).unwrap();
        assert!(token.key() != ContactKey(token.secret), "what is kept is not the secret");
    }
}
