//! What it costs to set a connection between two nodes up, in the clear and with TLS: `cargo run --release --example connect_cost`.
//!
//! Both ends are in this process, on the loopback interface: a connection, the greetings, and one call with its answer.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool to be run by hand")]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use everlog_storage::NodeId;
use everlog_transport::{
    Abilities, Answer, Links as _, Mesh, MeshOptions, NodeTls, Stranger, StrangerCalls, Timing, TlsFiles, node_name,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use tokio::net::TcpListener;

const CONNECTIONS: u32 = 1000;

struct Echoes;

impl StrangerCalls for Echoes {
    fn answer(&self, _from: &Stranger, _kind: u8, body: Bytes, answer: Answer) {
        answer.send(body);
    }
}

fn node(number: u32, issuer: &CertifiedIssuer<'_, KeyPair>, dir: &std::path::Path) -> NodeTls {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(node_name("cost", NodeId(number)).as_str().try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let file = |name: &str, text: String| {
        let path = dir.join(format!("{number}.{name}"));
        std::fs::write(&path, text).unwrap();
        path
    };
    let files = TlsFiles {
        ca: file("ca", issuer.pem()),
        certificate: file("crt", params.signed_by(&key, issuer).unwrap().pem()),
        key: file("key", key.serialize_pem()),
        peer_names: Vec::new(),
    };
    NodeTls::open(files, "cost").unwrap()
}

async fn mesh(number: u32, tls: Option<NodeTls>) -> (Mesh, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = MeshOptions {
        directory_id: uuid::Uuid::from_u128(number.into()),
        address: address.clone(),
        timing: Timing::default(),
        tls: tls.map(Arc::new),
        abilities: Abilities::default(),
    };
    let mesh = Mesh::start(options, listener);
    mesh.answer_strangers(Arc::new(Echoes));
    (mesh, address)
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    for (name, with_tls) in [("in the clear", false), ("with TLS", true)] {
        let tls = |number| with_tls.then(|| node(number, &issuer, dir.path()));
        let (called, address) = mesh(1, tls(1)).await;
        let (caller, _) = mesh(2, tls(2)).await;
        let mut took = Vec::new();
        for _ in 0..CONNECTIONS {
            let begin = Instant::now();
            caller.call_stranger(&address, 40, Bytes::from_static(b"x")).await.unwrap();
            took.push(begin.elapsed());
        }
        took.sort();
        let at = |share: usize| took[took.len() * share / 100];
        println!("{name}: p50 {:?}, p99 {:?}", at(50), at(99));
        caller.shutdown().await;
        called.shutdown().await;
    }
}
