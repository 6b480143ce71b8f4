//! What went wrong between nodes that should trust each other, in words, and not all the time.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::{AlertDescription, CertificateError};

/// What somebody is not trusted for. Its name is what it is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Anything else.
    Untrusted,
    /// The other side does not trust this one, and counts it.
    OnTheOtherSide,
    /// Its join secret, or that of its token, is another one.
    WrongSecret,
    /// Nobody knows its join token.
    TokenUnknown,
    /// Another node has joined with its token.
    TokenUsed,
    /// The time of its token is up.
    TokenExpired,
    /// Tokens cannot be told apart yet.
    NotReady,
    /// The time of its certificate is up, or has not come.
    CertificateExpired,
    /// Its certificate is of another authority.
    OtherAuthority,
    /// Its certificate is another node's, or of no node of this cluster.
    OtherName,
}

/// Somebody is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Untrusted {
    why: Why,
    text: String,
}

pub(crate) fn untrusted(why: impl Into<String>) -> io::Error {
    distrust(Why::Untrusted, why)
}

pub(crate) fn distrust(why: Why, text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, Untrusted { why, text: text.into() })
}

/// Why a connection failed, if that is because one side does not trust the other.
pub(crate) fn distrusted(error: &io::Error) -> Option<Why> {
    error.get_ref()?.downcast_ref::<Untrusted>().map(|untrusted| untrusted.why)
}

/// What an error of TLS means; any other error is what it is.
pub(crate) fn said(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => distrust(why(tls), reason(tls).unwrap_or_else(|| format!("no TLS connection comes about: {tls}"))),
        None => error,
    }
}

fn why(error: &rustls::Error) -> Why {
    use CertificateError::{BadSignature, Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer};
    match error {
        rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        ) => Why::CertificateExpired,
        rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature) => Why::OtherAuthority,
        rustls::Error::AlertReceived(_) => Why::OnTheOtherSide,
        _ => Why::Untrusted,
    }
}

/// What people call some errors.
pub(super) fn reason(error: &rustls::Error) -> Option<String> {
    let why = match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet"
            }
            // An authority that has the same name and another key is another one.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the certificate is not of the cluster's certificate authority"
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the certificate must be one for servers and clients (extended key usage)"
            }
            _ => return None,
        },
        rustls::Error::NoCertificatesPresented => "it shows no certificate",
        rustls::Error::InvalidMessage(_) => "it does not speak TLS",
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "it takes no join secrets or tokens, or this node needs none: is cluster.tls \"auto\" on one side only?"
        }
        rustls::Error::AlertReceived(alert) => {
            return Some(format!("it does not take this node's certificate ({alert:?})"));
        }
        _ => return None,
    };
    Some(why.to_owned())
}

/// What was said of whom, so that somebody who tries again and again is named once in a while.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<Vec<(Whom, String, Instant)>>);

/// Whom a complaint is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Somebody who has dialled.
    From(IpAddr),
    /// Somebody who was dialled.
    At(String),
}

impl Complaints {
    /// How long the same is not said again of the same.
    const INTERVAL: Duration = Duration::from_secs(60);
    /// How many are remembered; beyond, nothing is said until one is forgotten.
    const MAX: usize = 256;

    /// Whether it is to be said.
    pub(crate) fn is_due(&self, whom: Whom, why: &str) -> bool {
        let mut said = self.0.lock();
        said.retain(|(_, _, at)| at.elapsed() < Complaints::INTERVAL);
        if said.len() >= Complaints::MAX || said.iter().any(|(known, text, _)| *known == whom && text == why) {
            return false;
        }
        said.push((whom, why.to_owned(), Instant::now()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_not_said_of_the_same_all_the_time() {
        let complaints = Complaints::default();
        let whom = || Whom::At("host:1".to_owned());
        assert!(complaints.is_due(whom(), "why") && !complaints.is_due(whom(), "why"));
        assert!(complaints.is_due(whom(), "another") && complaints.is_due(Whom::From([127, 0, 0, 1].into()), "why"));
        for number in 0..Complaints::MAX {
            complaints.is_due(Whom::At(number.to_string()), "why");
        }
        assert!(!complaints.is_due(Whom::At("one more".to_owned()), "why"), "they are not remembered without end");
    }
}
