//! Nodes of a cluster that is its own authority: how they meet before they have certificates, and what they have then.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, too")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use common::{ECHO, Member, PATIENCE, body, directory_of, listen, start_with, until};
use everlog_storage::NodeId;
use everlog_transport::{
    Answer, Authority, Contact, ContactKey, Credential, Fingerprint, FirstContact, JoinToken, KnownNode, KnownToken,
    Lane, Links as _, NodeTls, Proof, SigningRequest, Stranger, StrangerCalls, TlsFiles, Transport,
};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::net::TcpStream;

const NAME: &str = "prod";
const DAY: Duration = Duration::from_secs(86_400);

/// Counts of whom this process has refused, by the reason.
#[derive(Default)]
struct Refused(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Recorder for Refused {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let reason = key.labels().find(|label| label.key() == "reason");
        match reason.filter(|_| key.name() == "everlog_peer_refused_total") {
            Some(reason) => Counter::from_arc(self.0.lock().entry(reason.value().to_owned()).or_default().clone()),
            None => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// How many were refused for a reason so far.
fn refused_for(reason: &str) -> u64 {
    counts().0.lock().get(reason).map_or(0, |count| count.load(Ordering::Relaxed))
}

fn counts() -> &'static Refused {
    static COUNTS: OnceLock<&Refused> = OnceLock::new();
    COUNTS.get_or_init(|| {
        let counts: &Refused = Box::leak(Box::default());
        metrics::set_global_recorder(counts).ok().unwrap();
        counts
    })
}

/// Answers strangers with what they have proven.
struct SaysItsProof;

impl StrangerCalls for SaysItsProof {
    fn answer(&self, from: &Stranger, _kind: u8, _body: Bytes, answer: Answer) {
        answer.send(Bytes::from(format!("{:?}", from.proof)));
    }
}

/// A node, and where its files are.
struct Own {
    member: Member,
    tls: Arc<NodeTls>,
    dir: TempDir,
}

fn files(dir: &Path) -> TlsFiles {
    let node = dir.join("node.pem");
    TlsFiles { ca: dir.join("ca.crt"), certificate: node.clone(), key: node, peer_names: Vec::new() }
}

/// Has a node have a certificate for so long.
fn certify(dir: &Path, node: u32, authority: &Authority, lifetime: Duration) {
    let SigningRequest { key, request } = SigningRequest::make().unwrap();
    let certificate = authority.certify(&request, NAME, NodeId(node), lifetime).unwrap();
    std::fs::write(dir.join("ca.crt"), authority.certificate()).unwrap();
    std::fs::write(dir.join("new"), certificate + &key).unwrap();
    std::fs::rename(dir.join("new"), dir.join("node.pem")).unwrap();
}

/// Node with that data directory, which has this in its settings, and a certificate if it is `certified`.
async fn start(node: u32, credential: Option<Credential>, secret: Option<&str>, certified: Option<&Authority>) -> Own {
    counts();
    let dir = tempfile::tempdir().unwrap();
    if let Some(authority) = certified {
        certify(dir.path(), node, authority, DAY);
    }
    let contact = FirstContact::new(credential, secret.map(ContactKey::of_secret)).unwrap();
    let tls = Arc::new(NodeTls::of_its_own(files(dir.path()), NAME, contact));
    let (listener, address) = listen().await;
    let member = start_with(listener, &address, directory_of(node), Some(Arc::clone(&tls)));
    member.mesh.answer_strangers(Arc::new(SaysItsProof));
    Own { member, tls, dir }
}

fn by_secret(secret: &str) -> Option<Credential> {
    Some(Credential::Secret(ContactKey::of_secret(secret)))
}

fn by_token(token: &JoinToken) -> Option<Credential> {
    Some(Credential::Token(token.clone()))
}

async fn calls(caller: &Own, address: &str) -> Result<String, String> {
    let called = caller.member.mesh.call_stranger(address, 40, body("x")).await;
    called.map(|(_, answer)| String::from_utf8(answer.to_vec()).unwrap()).map_err(|error| error.to_string())
}

/// It is told so, and each time counts.
async fn refused(caller: &Own, called: &Own, reason: &str, expected: &str) {
    let before = refused_for(reason);
    let why = calls(caller, &called.member.address).await.unwrap_err();
    assert!(why.contains(expected) && !why.contains('\n'), "{why}");
    until(|| refused_for(reason) > before).await;
}

async fn end(all: Vec<Own>) {
    for own in &all {
        own.member.mesh.shutdown().await;
    }
}

#[tokio::test]
async fn founders_meet_by_the_secret_that_they_share() {
    const SECRET: &str = "what the three founders know";
    let authority = Authority::make().unwrap();
    let first = start(1, by_secret(SECRET), Some(SECRET), None).await;
    let second = start(2, by_secret(SECRET), Some(SECRET), None).await;
    let with_certificate = start(3, by_secret(SECRET), Some(SECRET), Some(&authority)).await;
    let expected = format!("{:?}", Proof::Contact(Contact::Secret, directory_of(1)));
    for called in [&second, &with_certificate] {
        assert_eq!(calls(&first, &called.member.address).await, Ok(expected.clone()));
    }
    // Whoever has a certificate shows that, which the others cannot judge yet.
    let why = calls(&with_certificate, &first.member.address).await.unwrap_err();
    assert!(why.contains("it has no certificate yet"), "{why}");

    let other = start(4, by_secret("something else"), Some("something else"), None).await;
    refused(&other, &second, "WrongSecret", "it does not let this node in: the join secret is another one here").await;
    let none = start(5, None, None, None).await;
    refused(&other, &none, "WrongSecret", "no join secret is known here").await;
    let why = calls(&none, &second.member.address).await.unwrap_err();
    assert!(why.contains("set cluster.join_secret_file or cluster.join_token_file"), "{why}");
    // By a secret nobody is more than a stranger.
    first.member.join(1, 1, Vec::new());
    first.member.mesh.add(
        KnownNode { node_id: 3, start_count: 1, address: with_certificate.member.address.clone() },
        directory_of(3),
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!first.member.mesh.is_up(NodeId(3)));
    end(vec![first, second, with_certificate, other, none]).await;
}

#[tokio::test]
async fn a_token_lets_in_one_node_as_long_as_it_is_good() {
    let authority = Authority::make().unwrap();
    let fingerprint = Fingerprint::of(authority.certificate()).unwrap();
    let token = || JoinToken::make(fingerprint).unwrap();
    let (good, mine, used, expired, unknown) = (token(), token(), token(), token(), token());
    let node = start(1, None, None, Some(&authority)).await;
    let joins = start(4, by_token(&good), None, None).await;
    let why = calls(&joins, &node.member.address).await.unwrap_err();
    assert!(why.contains("the metadata are not known here yet") && refused_for("NotReady") == 0, "{why}");

    let known_tokens: BTreeMap<_, _> = [
        (&good, false, None),
        (&mine, false, Some(directory_of(4))),
        (&used, false, Some(directory_of(9))),
        (&expired, true, None),
    ]
    .map(|(token, is_expired, used_by)| (token.id, KnownToken { key: token.key(), is_expired, used_by }))
    .into();
    let tokens = known_tokens.clone();
    node.tls.contact().unwrap().take_tokens(Box::new(move |id| tokens.get(&id).cloned()));
    let expected = |token: &JoinToken| Ok(format!("{:?}", Proof::Contact(Contact::Token(token.id), directory_of(4))));
    assert_eq!(calls(&joins, &node.member.address).await, expected(&good));
    let again = start(4, by_token(&mine), None, None).await;
    assert_eq!(calls(&again, &node.member.address).await, expected(&mine), "it may ask again");

    // The same id with another secret.
    let mut forged = good.text();
    forged.truncate("everlog-join-1.".len() + 16);
    let other = token().text();
    let forged = forged + &other["everlog-join-1.".len() + 16..];
    assert!(forged.parse::<JoinToken>().is_err(), "the checksum is of the id, too");
    let other_cluster = JoinToken::make(Fingerprint([1; 32])).unwrap();
    for (token, reason, expected) in [
        (&used, "TokenUsed", "was used by another node: each needs its own"),
        (&expired, "TokenExpired", "has expired"),
        (&unknown, "TokenUnknown", "is of another cluster, or was taken back"),
        (&other_cluster, "TokenUnknown", "is of another cluster"),
    ] {
        let stranger = start(5, by_token(token), None, None).await;
        refused(&stranger, &node, reason, expected).await;
        end(vec![stranger]).await;
    }
    // A token says of which cluster it is, so its bearer knows, too.
    let check =
        |token: &JoinToken| FirstContact::new(by_token(token), None).unwrap().check_authority(authority.certificate());
    assert_eq!(check(&good), Ok(()));
    assert!(check(&other_cluster).unwrap_err().to_string().contains("is of the cluster with the authority 0101"));
    end(vec![node, joins, again]).await;
}

#[tokio::test]
async fn whoever_only_has_the_id_of_a_token_hears_nothing_of_it() {
    let authority = Authority::make().unwrap();
    let token = JoinToken::make(Fingerprint::of(authority.certificate()).unwrap()).unwrap();
    let node = start(1, None, None, Some(&authority)).await;
    // As the cluster would know another token with that id, used and expired.
    let known = KnownToken { key: ContactKey([3; 32]), is_expired: true, used_by: Some(directory_of(9)) };
    node.tls.contact().unwrap().take_tokens(Box::new(move |_| Some(known.clone())));
    let stranger = start(4, by_token(&token), None, None).await;
    refused(&stranger, &node, "WrongSecret", &format!("the secret of join token {} is another one", token.id)).await;
    end(vec![node, stranger]).await;
}

/// Speaks TLS on both sides, as whoever stands between two nodes must, and hands on what each says.
async fn in_the_middle(target: String) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"everlog-join/1".to_vec()];
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    client.alpn_protocols = vec![b"everlog-join/1".to_vec()];
    let (acceptor, connector) =
        (tokio_rustls::TlsAcceptor::from(Arc::new(server)), tokio_rustls::TlsConnector::from(Arc::new(client)));
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let mut near = acceptor.accept(near).await.unwrap();
            let far = TcpStream::connect(&target).await.unwrap();
            let name = ServerName::from(far.peer_addr().unwrap().ip());
            let mut far = connector.connect(name, far).await.unwrap();
            // Until one of them ends it.
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
    });
    address
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[tokio::test]
async fn what_is_proven_on_one_channel_is_of_no_use_on_another() {
    const SECRET: &str = "what the three founders know";
    let first = start(1, by_secret(SECRET), Some(SECRET), None).await;
    let second = start(2, by_secret(SECRET), Some(SECRET), None).await;
    let way = in_the_middle(second.member.address.clone()).await;
    let before = refused_for("WrongSecret");
    let why = tokio::time::timeout(PATIENCE, calls(&first, &way)).await.unwrap().unwrap_err();
    assert!(why.contains("the join secret is another one here"), "{why}");
    until(|| refused_for("WrongSecret") > before).await;
    // Without anybody between them it is the right one.
    calls(&first, &second.member.address).await.unwrap();
    end(vec![first, second]).await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_or_is_another_nodes_lets_nobody_in() {
    let authority = Authority::make().unwrap();
    let node = start(1, None, None, Some(&authority)).await;
    node.member.join(1, 1, Vec::new());
    let late = start(2, None, None, None).await;
    certify(late.dir.path(), 2, &authority, Duration::from_secs(5));
    late.tls.read().unwrap();
    calls(&late, &node.member.address).await.unwrap();
    let (begins, expires) = late.tls.validity().unwrap();
    let life = expires.duration_since(begins).unwrap();
    assert!((Duration::from_secs(4)..=Duration::from_secs(6)).contains(&life), "{life:?}");
    until(|| std::time::SystemTime::now() > expires + Duration::from_secs(1)).await;
    refused(&late, &node, "CertificateExpired", "does not take this node's certificate (CertificateExpired)").await;

    let others = Authority::make().unwrap();
    let other = start(2, None, None, Some(&others)).await;
    refused(&other, &node, "OtherAuthority", "not of the cluster's certificate authority").await;

    // Node 3 by its certificate says that it is node 2.
    let impostor = start(3, None, None, Some(&authority)).await;
    impostor.member.join(2, 1, Vec::new());
    refused(&impostor, &node, "OtherName", "it says that it is node 2, and has the certificate of node 3").await;
    end(vec![node, late, other, impostor]).await;
}

#[tokio::test]
async fn a_certificate_is_renewed_without_the_end_of_a_connection() {
    let authority = Authority::make().unwrap();
    let (first, second) = (start(1, None, None, Some(&authority)).await, start(2, None, None, Some(&authority)).await);
    let address = |own: &Own, node_id| KnownNode { node_id, start_count: 1, address: own.member.address.clone() };
    let all = vec![address(&first, 1), address(&second, 2)];
    first.member.join(1, 1, all.clone());
    second.member.join(2, 1, all);
    until(|| first.member.mesh.is_up(NodeId(2)) && second.member.mesh.is_up(NodeId(1))).await;
    let before = second.tls.validity().unwrap().1;
    certify(second.dir.path(), 2, &authority, 3 * DAY);
    second.tls.read().unwrap();
    assert!(second.tls.validity().unwrap().1 > before + DAY);
    for _ in 0..20 {
        let echo = |from: &Own, to| from.member.mesh.call(NodeId(to), Lane::Bulk, ECHO, body("x"));
        assert_eq!((echo(&first, 2).await, echo(&second, 1).await), (Ok(body("x")), Ok(body("x"))));
    }
    let disconnected = |own: &Own| own.member.recorder.disconnected.load(Ordering::Relaxed);
    assert_eq!((disconnected(&first), disconnected(&second)), (0, 0));
    calls(&second, &first.member.address).await.unwrap();
    end(vec![first, second]).await;
}
