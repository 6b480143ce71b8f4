//! Nodes that prove to each other who they are.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, too")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use common::{
    CLUSTER, ECHO, Member, PATIENCE, SaysItsKind, body, directory_of, known, listen, members_with, start_with, until,
};
use everlog_storage::NodeId;
use everlog_transport::{Identity, KnownNode, Lane, Links as _, NodeTls, TlsFiles, Transport, node_name};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NAME: &str = "prod";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "a certificate authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// What a certificate says.
fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    let name = |name: &&str| match name.contains("://") {
        true => SanType::URI((*name).try_into().unwrap()),
        false => SanType::DnsName((*name).try_into().unwrap()),
    };
    params.subject_alt_names = names.iter().map(name).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Writes the three files that a node has.
fn write(dir: &Path, params: &CertificateParams, issuer: &Authority, trusted: &[&Authority]) -> TlsFiles {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let file = |name: &str, text: String| -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        ca: file("ca.crt", trusted.iter().map(|authority| authority.pem()).collect()),
        certificate: file("node.crt", certificate.pem()),
        key: file("node.key", key.serialize_pem()),
        peer_names: Vec::new(),
    }
}

/// What a node of the cluster proves with who it is.
fn of_node(node: u32, authority: &Authority) -> NodeTls {
    with_names(&[&node_name(NAME, NodeId(node))], authority)
}

fn with_names(names: &[&str], authority: &Authority) -> NodeTls {
    let dir = tempfile::tempdir().unwrap();
    NodeTls::open(write(dir.path(), &params(names), authority, &[authority]), NAME).unwrap()
}

async fn echoes(from: &Member, to: u32) {
    assert_eq!(from.mesh.call(NodeId(to), Lane::Bulk, ECHO, body("x")).await, Ok(body("x")));
}

async fn end(all: Vec<Member>) {
    for member in &all {
        member.mesh.shutdown().await;
    }
}

/// Carries bytes to `target` and remembers those that come from there.
async fn listening_in(target: String) -> (String, Arc<Mutex<Vec<u8>>>) {
    let (listener, address) = listen().await;
    let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
    let heard_here = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (mut near_read, mut near_write) = near.into_split();
            let (mut far_read, mut far_write) = TcpStream::connect(&target).await.unwrap().into_split();
            tokio::spawn(async move { tokio::io::copy(&mut near_read, &mut far_write).await });
            let heard = Arc::clone(&heard_here);
            tokio::spawn(async move {
                let mut bytes = vec![0; 64 << 10];
                while let Ok(read @ 1..) = far_read.read(&mut bytes).await {
                    heard.lock().extend_from_slice(&bytes[..read]);
                    if near_write.write_all(&bytes[..read]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, heard)
}

#[tokio::test]
async fn calls_are_answered_and_nobody_between_reads_them() {
    const SECRET: &str = "what only these two nodes should read";
    let authority = authority();
    let all = members_with(3, |node| Some(of_node(node, &authority))).await;
    let large = Bytes::from(vec![7; 9 << 20]);
    let (there, back) = tokio::join!(
        all[1].mesh.call(NodeId(3), Lane::Fast, ECHO, body("fast")),
        all[2].mesh.call(NodeId(2), Lane::Bulk, ECHO, large.clone()),
    );
    assert_eq!((there, back), (Ok(body("fast")), Ok(large)));

    let hears = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    let clear = start_alone(1, None).await;
    for (member, tls, is_heard) in [(&all[0], Some(of_node(2, &authority)), false), (&clear, None, true)] {
        member.mesh.answer_strangers(Arc::new(common::Echoes));
        let (way, heard) = listening_in(member.address.clone()).await;
        let caller = start_alone(2, tls).await;
        let (_, answer) = caller.mesh.call_stranger(&way, 40, body(SECRET)).await.unwrap();
        assert_eq!(answer, body(SECRET));
        assert_eq!(hears(&heard.lock()), is_heard, "encrypted: {}", !is_heard);
        caller.mesh.shutdown().await;
    }
    clear.mesh.shutdown().await;
    end(all).await;
}

async fn start_alone(node: u32, tls: Option<NodeTls>) -> Member {
    let (listener, address) = listen().await;
    start_with(listener, &address, directory_of(node), tls.map(Arc::new))
}

#[tokio::test]
async fn who_cannot_prove_that_it_is_a_node_is_told_so_and_not_let_in() {
    let (ours, others) = (authority(), authority());
    let all = members_with(2, |node| Some(of_node(node, &ours))).await;
    all[0].mesh.answer_strangers(Arc::new(SaysItsKind));

    // Of another authority, which ours is not told of; and one that would take ours, and is not taken.
    let stranger = start_alone(8, Some(of_node(2, &others))).await;
    // It does not take node 1's certificate.
    refused(&stranger, &all[0], "not of the cluster's certificate authority").await;
    let dir = tempfile::tempdir().unwrap();
    let files = write(dir.path(), &params(&[&node_name(NAME, NodeId(2))]), &others, &[&ours, &others]);
    let trusting = start_alone(8, Some(NodeTls::open(files, NAME).unwrap())).await;
    refused(&trusting, &all[0], "does not take this node's certificate (").await;

    // Of the same authority for another cluster.
    let dir = tempfile::tempdir().unwrap();
    let files = write(dir.path(), &params(&[&node_name("test", NodeId(2))]), &ours, &[&ours]);
    let other_cluster = start_alone(8, Some(NodeTls::open(files, "test").unwrap())).await;
    refused(&other_cluster, &all[0], "its certificate has no name of a node of cluster \"test\"").await;
    // One that would take anybody hears it from the other side.
    let dir = tempfile::tempdir().unwrap();
    let mut files = write(dir.path(), &params(&["database.example"]), &ours, &[&ours]);
    files.peer_names = vec!["database.example".to_owned(), "spiffe://everlog/*".to_owned()];
    let other_service = start_alone(8, Some(NodeTls::open(files, NAME).unwrap())).await;
    refused(&other_service, &all[0], "it has database.example").await;

    // In the clear: what it hears is in the clear, too.
    let in_the_clear = start_alone(8, None).await;
    refused(&in_the_clear, &all[0], "nodes of this cluster talk TLS").await;
    // And the other way round.
    in_the_clear.mesh.answer_strangers(Arc::new(SaysItsKind));
    refused(&all[0], &in_the_clear, "is cluster.tls \"off\" there?").await;

    for member in [stranger, trusting, other_cluster, other_service, in_the_clear] {
        assert!(!member.mesh.is_up(NodeId(1)));
        member.mesh.shutdown().await;
    }
    echoes(&all[0], 2).await;
    echoes(&all[1], 1).await;
    end(all).await;
}

async fn refused(caller: &Member, called: &Member, expected: &str) {
    let error = caller.mesh.call_stranger(&called.address, 40, body("let me in")).await.unwrap_err().to_string();
    assert!(error.contains(expected) && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn a_node_is_the_one_that_its_certificate_is_for() {
    let authority = authority();
    let mut all = members_with(3, |node| Some(of_node(node, &authority))).await;
    let others = known(&all);
    let gone = all.pop().unwrap();
    gone.mesh.shutdown().await;

    // Node 2 by its certificate says that it is node 3, with that node's directory.
    let impostor = start_alone(3, Some(of_node(2, &authority))).await;
    impostor.join(3, 9, vec![others[0].clone()]);
    // It dials node 1, and node 1 dials it once it knows it from somebody else.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(!impostor.mesh.is_up(NodeId(1)) && !all[0].mesh.is_up(NodeId(3)));
    impostor.mesh.shutdown().await;

    // A certificate that names no node is believed to be of any.
    let (listener, address) = listen().await;
    let shared = with_names(&["spiffe://everlog/cluster/prod"], &authority);
    let back = start_with(listener, &address, directory_of(3), Some(Arc::new(shared)));
    back.join(3, 10, others[..2].to_vec());
    until(|| back.mesh.is_up(NodeId(1)) && all[0].mesh.is_up(NodeId(3))).await;
    echoes(&all[0], 3).await;
    all.push(back);
    end(all).await;
}

#[tokio::test]
async fn nonsense_and_silence_end_a_connection_and_nothing_else() {
    let authority = authority();
    let all = members_with(2, |node| Some(of_node(node, &authority))).await;
    let long = [&b"EVPR\xff\xff\xff\x7f"[..], &[0; 100_000]].concat();
    let nonsense: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"EVPR",
        b"EVPR\x04\0\0\0\xff\xff\xff\xff",
        &long,
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff",
        b"",
    ];
    for nonsense in nonsense {
        let mut io = TcpStream::connect(&all[0].address).await.unwrap();
        // What is refused early may be closed while it is still being sent.
        let _ = io.write_all(nonsense).await;
        let _ = io.shutdown().await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, io.read_to_end(&mut rest)).await.expect("it is closed");
    }
    // Somebody who says nothing is given up.
    let mut silent = TcpStream::connect(&all[0].address).await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await.expect("it is closed");
    echoes(&all[0], 2).await;
    echoes(&all[1], 1).await;
    end(all).await;
}

#[tokio::test]
async fn files_that_change_count_for_the_next_connection() {
    let (before, after) = (authority(), authority());
    let dir = tempfile::tempdir().unwrap();
    let name = node_name(NAME, NodeId(1));
    let files = write(dir.path(), &params(&[&name]), &before, &[&before]);
    let member = start_alone(1, Some(NodeTls::open(files.clone(), NAME).unwrap())).await;
    member.mesh.answer_strangers(Arc::new(SaysItsKind));
    let known_before = start_alone(2, Some(of_node(2, &before))).await;
    let known_after = start_alone(2, Some(of_node(2, &after))).await;
    known_before.mesh.call_stranger(&member.address, 40, body("x")).await.unwrap();
    known_after.mesh.call_stranger(&member.address, 40, body("x")).await.unwrap_err();

    // Half a file, and a certificate of another node: what there was before stays.
    std::fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\n").unwrap();
    known_before.mesh.call_stranger(&member.address, 40, body("x")).await.unwrap();
    write(dir.path(), &params(&[&node_name(NAME, NodeId(3))]), &before, &[&before]);
    known_before.mesh.call_stranger(&member.address, 40, body("x")).await.unwrap();

    write(dir.path(), &params(&[&name]), &after, &[&after]);
    known_after.mesh.call_stranger(&member.address, 40, body("x")).await.unwrap();
    known_before.mesh.call_stranger(&member.address, 40, body("x")).await.unwrap_err();
    // Both for a while, as when one authority takes the place of another.
    write(dir.path(), &params(&[&name]), &after, &[&before, &after]);
    known_after.mesh.call_stranger(&member.address, 40, body("x")).await.unwrap();
    end(vec![member, known_before, known_after]).await;
}

#[tokio::test]
async fn members_connect_over_tls_after_a_restart_elsewhere() {
    let authority = authority();
    let mut all = members_with(2, |node| Some(of_node(node, &authority))).await;
    let gone = all.pop().unwrap();
    gone.mesh.shutdown().await;
    until(|| !all[0].mesh.is_up(NodeId(2))).await;
    let back = start_alone(2, Some(of_node(2, &authority))).await;
    let first = KnownNode { node_id: 1, start_count: 1, address: all[0].address.clone() };
    let identity = Identity { cluster_id: CLUSTER, node_id: NodeId(2), start_count: 2 };
    back.mesh.join(identity, vec![first], Arc::clone(&back.recorder) as _);
    until(|| all[0].mesh.is_up(NodeId(2)) && back.mesh.is_up(NodeId(1))).await;
    echoes(&all[0], 2).await;
    all.push(back);
    end(all).await;
}

#[test]
fn files_that_no_node_would_take_are_refused_with_a_reason() {
    let (ours, others) = (authority(), authority());
    let name = node_name(NAME, NodeId(1));
    let good = params(&[&name]);
    let mut expired = params(&[&name]);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut early = params(&[&name]);
    early.not_before = date_time_ymd(3000, 1, 1);
    let mut for_clients = params(&[&name]);
    for_clients.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let mut for_servers = params(&[&name]);
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];

    let opened = |files: TlsFiles| NodeTls::open(files, NAME).map(|_| ()).map_err(|error| error.to_string());
    let dir = || -> TempDir { tempfile::tempdir().unwrap() };
    let of = |params: &CertificateParams| {
        let dir = dir();
        opened(write(dir.path(), params, &ours, &[&ours]))
    };
    assert_eq!(of(&good), Ok(()));
    let listed = dir();
    let mut files = write(listed.path(), &params(&["n1.svc.local"]), &ours, &[&ours]);
    files.peer_names = vec!["*.svc.local".to_owned()];
    assert_eq!(opened(files), Ok(()));

    let of_others = dir();
    let of_others = opened(write(of_others.path(), &good, &others, &[&ours]));
    let missing = dir();
    let files = write(missing.path(), &good, &ours, &[&ours]);
    let no_key = opened(TlsFiles { key: missing.path().join("none.key"), ..files.clone() });
    let no_ca = opened(TlsFiles { ca: missing.path().join("none.crt"), ..files.clone() });
    let not_pem = opened(TlsFiles { certificate: files.key.clone(), ..files.clone() });
    let no_key_in_it = opened(TlsFiles { key: files.ca.clone(), ..files.clone() });
    std::fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let other_key = opened(files);

    let cases = [
        (of(&expired), "node.crt: the certificate has expired"),
        (of(&early), "node.crt: the certificate is not valid yet"),
        (of(&for_clients), "node.crt: the certificate must be one for servers and clients"),
        (of(&for_servers), "node.crt: the certificate must be one for servers and clients"),
        (of(&params(&["n1.svc.local"])), "it has n1.svc.local"),
        (of(&params(&[])), "it has none"),
        (of(&params(&["spiffe://everlog/cluster/test/node/1"])), "no name that other nodes of cluster \"prod\" take"),
        (of_others, "node.crt: the certificate is not of the cluster's certificate authority"),
        (no_key, "none.key: no private key can be read: No such file"),
        (no_ca, "none.crt: no certificate can be read: No such file"),
        (not_pem, "node.key: there is no certificate in it"),
        (no_key_in_it, "ca.crt: no private key can be read: there is none in it"),
        (other_key, "node.key: it does not go with the certificate"),
    ];
    for (opened, expected) in cases {
        let error = opened.expect_err(expected);
        assert!(error.contains(expected) && !error.contains('\n'), "{error}, not {expected}");
    }
}
