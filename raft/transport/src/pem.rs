//! Files with certificates and keys, PEM, and whether they have changed.

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::TlsError;

/// When a file was written, and how many bytes it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(SystemTime, u64);

/// That of a file, if it is there.
pub fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp(metadata.modified().ok()?, metadata.len()))
}

/// The certificates in a file, one at least.
///
/// # Errors
///
/// A line that names the file and says what is wrong with it.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(wrong(path, &"there is no certificate in it")),
        Err(error) => Err(wrong(path, &format_args!("no certificate can be read: {}", problem(&error)))),
    }
}

/// The private key in a file.
///
/// # Errors
///
/// A line that names the file and says what is wrong with it.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| wrong(path, &format_args!("no private key can be read: {}", problem(&error))))
}

/// What is wrong with a file.
pub fn wrong(path: &Path, why: &dyn fmt::Display) -> TlsError {
    TlsError(format!("{}: {why}", path.display()))
}

fn problem(error: &rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => error.to_string(),
        rustls::pki_types::pem::Error::NoItemsFound => "there is none in it".to_owned(),
        error => error.to_string(),
    }
}
