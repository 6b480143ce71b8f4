//! TLS between clients and the listeners for gRPC and HTTP.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod harness;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use everlog_config::{ClientCertificates, FrontendTls, Listen};
use harness::process::{Process, everlog, run};
use harness::{Client, Server, start_request};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Endpoint;

/// An authority and what it has certified, as files.
struct Certificates {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Certificates {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.crt"), authority.pem()).unwrap();
        Certificates { directory, authority }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Certifies somebody: `NAME.crt` and `NAME.key`.
    fn certify(&self, name: &str, host: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, &*self.authority).unwrap();
        std::fs::write(self.path(&format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// What a server is to be given that asks for these certificates of clients.
    fn listen(&self, clients: ClientCertificates) -> Listen {
        let tls = FrontendTls { certificate: self.path("server.crt"), key: self.path("server.key"), clients };
        Listen { tls: Some(tls), ..Listen::default() }
    }

    /// A client that speaks `protocols`, and has the certificate of `name`, if any.
    fn client(&self, name: Option<&str>, protocols: &[&str]) -> ClientConfig {
        self.client_with(name.map(|name| (self, name)), protocols)
    }

    /// The same with one that others have certified.
    fn client_of(&self, others: &Certificates, name: &str, protocols: &[&str]) -> ClientConfig {
        self.client_with(Some((others, name)), protocols)
    }

    fn client_with(&self, shown: Option<(&Certificates, &str)>, protocols: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            Some((of, name)) => {
                let certificate = CertificateDer::from_pem_file(of.path(&format!("{name}.crt"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(of.path(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

async fn connect(address: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
}

/// The answer to GET of a path, or why there is none.
async fn get(address: SocketAddr, config: ClientConfig, path: &str) -> std::io::Result<String> {
    let mut stream = connect(address, config).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A client of gRPC.
async fn grpc(address: SocketAddr, config: ClientConfig) -> Result<Client, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move { connect(address, config).await.map(TokioIo::new) }
    });
    Ok(Client::new(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?))
}

/// The protocol that is agreed on, and what the server shows.
fn agreed(stream: &TlsStream<TcpStream>) -> (Option<String>, CertificateDer<'static>) {
    let connection = stream.get_ref().1;
    let protocol = connection.alpn_protocol().map(|protocol| String::from_utf8(protocol.to_vec()).unwrap());
    (protocol, connection.peer_certificates().unwrap()[0].clone().into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_are_under_tls_and_speak_what_their_clients_do() {
    let certificates = Certificates::new();
    certificates.certify("server", "localhost");
    let server = Server::listening(certificates.listen(ClientCertificates::None)).await;
    let (of_grpc, of_http) = (server.addresses.grpc, server.addresses.http);
    let client = |protocols: &[&str]| certificates.client(None, protocols);

    let mut started = grpc(of_grpc, client(&["h2"])).await.unwrap();
    started.start_workflow_execution(start_request("w")).await.unwrap();
    let answer = get(of_http, client(&["http/1.1"]), "/namespaces/default/workflows/w").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"workflowId\":\"w\""), "{answer}");
    for (address, protocols, expected) in [
        (of_http, &["h2", "http/1.1"][..], Some("h2")),
        (of_http, &["http/1.1"], Some("http/1.1")),
        (of_http, &[], None),
        (of_grpc, &["h2"], Some("h2")),
    ] {
        let (protocol, _) = agreed(&connect(address, client(protocols)).await.unwrap());
        assert_eq!(protocol.as_deref(), expected, "{protocols:?}");
    }
    assert!(connect(of_grpc, client(&["http/1.1"])).await.is_err(), "gRPC is HTTP/2");

    // Who does not speak TLS is told so, as far as he speaks HTTP.
    let mut plain = TcpStream::connect(of_http).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 400") && answer.contains("HTTPS server"), "{answer}");
    let mut plain = TcpStream::connect(of_grpc).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert!(matches!(plain.read(&mut [0]).await, Ok(0) | Err(_)));
    // Metrics are for whoever reaches them.
    let mut probe = TcpStream::connect(server.addresses.metrics).await.unwrap();
    probe.write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_certificates_where_they_have_to() {
    let certificates = Certificates::new();
    certificates.certify("server", "localhost");
    certificates.certify("worker", "worker");
    let strangers = Certificates::new();
    strangers.certify("worker", "worker");
    let ca = certificates.path("ca.crt");
    for (clients, without) in
        [(ClientCertificates::Required(ca.clone()), false), (ClientCertificates::Requested(ca), true)]
    {
        let server = Server::listening(certificates.listen(clients)).await;
        let (of_grpc, of_http) = (server.addresses.grpc, server.addresses.http);
        let own = |protocol: &str| certificates.client(Some("worker"), &[protocol]);
        assert!(get(of_http, own("http/1.1"), "/health").await.unwrap().starts_with("HTTP/1.1 200"));
        let mut client = grpc(of_grpc, own("h2")).await.unwrap();
        client.start_workflow_execution(start_request("w")).await.unwrap();

        let nobody = |protocol: &str| certificates.client(None, &[protocol]);
        assert_eq!(get(of_http, nobody("http/1.1"), "/health").await.is_ok(), without);
        // TLS 1.3 tells a client later that it is refused.
        let started = async |config: ClientConfig| match grpc(of_grpc, config).await {
            Ok(mut client) => client.start_workflow_execution(start_request("v")).await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(started(nobody("h2")).await, without);

        // A certificate of somebody else is worse than none.
        let stranger = |protocol: &str| certificates.client_of(&strangers, "worker", &[protocol]);
        assert!(get(of_http, stranger("http/1.1"), "/health").await.is_err());
        assert!(!started(stranger("h2")).await);
        server.stopped().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_count_for_the_next_connection_if_they_can_be_used() {
    let certificates = Certificates::new();
    certificates.certify("server", "localhost");
    let server = Server::listening(certificates.listen(ClientCertificates::None)).await;
    let address = server.addresses.http;
    let shown = async || agreed(&connect(address, certificates.client(None, &[])).await.unwrap()).1;
    let mut open = connect(address, certificates.client(None, &[])).await.unwrap();
    let first = shown().await;
    std::fs::write(certificates.path("server.crt"), "none").unwrap();
    assert_eq!(shown().await, first);
    certificates.certify("server", "localhost");
    let second = shown().await;
    assert_ne!(second, first);
    assert_eq!(shown().await, second);
    // Connections that there are stay.
    open.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.stopped().await;
}

/// `everlog server` under TLS, with more of the settings.
fn settings(certificates: &Certificates, more: &str) -> PathBuf {
    let file = certificates.path("everlog.toml");
    let text = format!(
        "ephemeral = true\n[listen]\nport = 0\nhttp_port = 0\nmetrics_port = 0\nhandshake_timeout = \"1s\"\n\
         [tls.frontend]\ncertificate = {:?}\nkey = {:?}\n{more}",
        certificates.path("server.crt"),
        certificates.path("server.key"),
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn the_command_line_speaks_tls_with_a_server_that_does() {
    let certificates = Certificates::new();
    certificates.certify("server", "localhost");
    certificates.certify("operator", "operator");
    let ca = certificates.path("ca.crt");
    let file = settings(&certificates, &format!("client_ca = {ca:?}\n"));
    let mut command = everlog();
    command.arg("server").arg("--config").arg(&file);
    let server = Process::start(command).await;
    let address = server.address("grpc").to_string();
    let (certificate, key) = (certificates.path("operator.crt"), certificates.path("operator.key"));
    let with = |flags: &[&str]| run(&[&["cluster", "nodes", "--address", &address], flags].concat());
    let shown = ["--tls-ca-path", text(&ca), "--tls-cert-path", text(&certificate), "--tls-key-path", text(&key)];
    let named = [&shown[..], &["--tls-server-name", "localhost"]].concat();
    let (code, said, error) = with(&named);
    assert_eq!(code, Some(0), "{said}{error}");
    for (flags, expected) in [
        (&[][..], "does it speak TLS? (--tls-ca-path)"),
        (&["--tls-ca-path", text(&ca), "--tls-server-name", "localhost"], "does it want a certificate?"),
        // Of 127.0.0.1 it says nothing.
        (&shown, "not valid for name"),
        (&["--tls-ca-path", "/nowhere"], "/nowhere: no certificate can be read"),
        (&["--tls-ca-path", text(&key)], "no certificate"),
        (&["--tls-cert-path", text(&certificate)], "--tls-key-path"),
    ] {
        let (code, said, error) = with(flags);
        assert!(
            code != Some(0) && error.contains(expected) && error.trim_end().lines().count() == 1,
            "{flags:?}: {said}{error}"
        );
    }

    // Whoever begins and does not go on loses his place, however much he has said of TLS.
    let mut silent = TcpStream::connect(server.address("grpc")).await.unwrap();
    silent.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await.unwrap();
    silent.write_all(&[0; 100]).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok());
    server.stop().await;
}

#[test]
fn files_that_cannot_be_used_stop_the_start_with_a_line_that_names_them() {
    let certificates = Certificates::new();
    certificates.certify("server", "localhost");
    certificates.certify("other", "localhost");
    let said = |more: &str| {
        let file = settings(&certificates, more);
        let (code, out, error) = run(&["server", "--config", text(&file)]);
        assert_ne!(code, Some(0), "{out}");
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        error
    };
    let key = std::fs::read_to_string(certificates.path("server.key")).unwrap();
    let wrong_ca = format!("client_ca = {:?}\n", certificates.path("server.key"));
    let error = said(&wrong_ca);
    assert!(error.contains("tls.frontend: ") && error.contains("server.key: there is no certificate in it"), "{error}");
    std::fs::copy(certificates.path("other.key"), certificates.path("server.key")).unwrap();
    let error = said("");
    assert!(error.contains("server.key: it does not go with the certificate"), "{error}");
    std::fs::write(certificates.path("server.key"), "none").unwrap();
    let error = said("");
    assert!(error.contains("server.key: no private key can be read: there is none in it"), "{error}");
    std::fs::write(certificates.path("server.key"), key).unwrap();
    std::fs::remove_file(certificates.path("server.crt")).unwrap();
    let error = said("");
    assert!(error.contains("server.crt: no certificate can be read: "), "{error}");
}
