//! How the commands that are clients of a server speak TLS with it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use everlog_transport::pem::{certificates, private_key, wrong};
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// What the server is believed by, and what it is shown.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct TlsArgs {
    /// Speak TLS: the server's certificate must be of an authority in this file, PEM.
    #[arg(long, value_name = "FILE")]
    tls_ca_path: Option<PathBuf>,
    /// The certificate to show, PEM, if the server asks for one.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key_path", "tls_ca_path"])]
    tls_cert_path: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert_path")]
    tls_key_path: Option<PathBuf>,
    /// The name that the server's certificate must have; by default the host of the address.
    #[arg(long, value_name = "NAME", requires = "tls_ca_path")]
    tls_server_name: Option<String>,
}

impl TlsArgs {
    /// Connects to `host`, which `endpoint` names.
    ///
    /// # Errors
    ///
    /// One line: a file that cannot be used, or why nobody answers.
    pub(super) async fn connect(&self, endpoint: Endpoint, address: &str) -> Result<Channel, String> {
        let Some(config) = self.config()? else {
            return endpoint.connect().await.map_err(|error| innermost(&error));
        };
        let name = self.tls_server_name.as_deref().unwrap_or_else(|| host_of(address));
        let name = ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} is no name of a server"))?;
        let (connector, address) = (TlsConnector::from(Arc::new(config)), address.to_owned());
        let connector = tower::service_fn(move |_| {
            let (connector, name, address) = (connector.clone(), name.clone(), address.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                connector.connect(name, stream).await.map(TokioIo::<TlsStream<TcpStream>>::new)
            }
        });
        endpoint.connect_with_connector(connector).await.map_err(|error| innermost(&error))
    }

    /// Why a server may end a connection.
    pub(super) fn doubt(&self) -> &'static str {
        match (&self.tls_ca_path, &self.tls_cert_path) {
            (None, _) => "does it speak TLS? (--tls-ca-path)",
            (Some(_), None) => "does it want a certificate? (--tls-cert-path, --tls-key-path)",
            (Some(_), Some(_)) => "does it take the certificate?",
        }
    }

    fn config(&self) -> Result<Option<ClientConfig>, String> {
        let Some(ca) = &self.tls_ca_path else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for root in certificates(ca).map_err(|error| error.to_string())? {
            roots.add(root).map_err(|error| wrong(ca, &error).to_string())?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match (&self.tls_cert_path, &self.tls_key_path) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate).map_err(|error| error.to_string())?;
                let own = private_key(key).map_err(|error| error.to_string())?;
                let wrong = |error| wrong(key, &format_args!("it does not go with the certificate: {error}"));
                builder.with_client_auth_cert(chain, own).map_err(|error| wrong(error).to_string())?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Some(config))
    }
}

/// Without its port, and without the brackets around an address of IPv6.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// What is below the library's own words.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_believed_by_the_host_that_is_called() {
        for (address, expected) in
            [("n1.example.com:7233", "n1.example.com"), ("10.0.0.1:1", "10.0.0.1"), ("[::1]:7233", "::1"), ("n1", "n1")]
        {
            assert_eq!(host_of(address), expected);
        }
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let args = TlsArgs { tls_ca_path: Some("/nowhere/ca.crt".into()), ..TlsArgs::default() };
        let error = args.config().map(|_| ()).unwrap_err();
        assert!(error.starts_with("/nowhere/ca.crt: no certificate can be read: "), "{error}");
    }
}
