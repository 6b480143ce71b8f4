//! What went wrong between nodes that should trust each other, in words, and not all the time.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::CertificateError;

/// Somebody is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Untrusted(String);

pub(crate) fn untrusted(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, Untrusted(why.into()))
}

/// Whether a connection failed because one side does not trust the other.
pub(crate) fn is_untrusted(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Untrusted>)
}

/// What an error of TLS means; any other error is what it is.
pub(crate) fn said(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => untrusted(reason(tls).unwrap_or_else(|| format!("no TLS connection comes about: {tls}"))),
        None => error,
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
