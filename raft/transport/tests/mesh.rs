//! Nodes that are connected over TCP on this machine.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, too")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::{
    CLUSTER, DROP, ECHO, KEEP, PATIENCE, SaysItsKind, body, directory_of, known, listen, members, start, start_able,
    until,
};
use everlog_storage::NodeId;
use everlog_transport::{Abilities, Failed, Identity, KnownNode, Lane, Links as _, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

#[tokio::test]
async fn calls_are_answered_and_arrive_in_order() {
    let all = members(3).await;
    assert_eq!(all[0].mesh.nodes(), [NodeId(2), NodeId(3)]);
    let calls: Vec<_> = (0..500).map(|i| all[0].mesh.call(NodeId(2), Lane::Bulk, ECHO, body(&i.to_string()))).collect();
    for (i, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await, Ok(body(&i.to_string())));
    }
    let wanted: Vec<_> = (0..500).map(|i| (NodeId(1), body(&i.to_string()))).collect();
    assert_eq!(*all[1].recorder.bodies.lock(), wanted);

    // Both ways, on both lanes, large and small.
    let large = Bytes::from(vec![7; 9 << 20]);
    let (there, back) = tokio::join!(
        all[1].mesh.call(NodeId(3), Lane::Fast, ECHO, body("fast")),
        all[2].mesh.call(NodeId(2), Lane::Bulk, ECHO, large.clone()),
    );
    assert_eq!((there, back), (Ok(body("fast")), Ok(large)));
    for member in &all {
        member.mesh.shutdown().await;
    }
}

#[tokio::test]
async fn nobody_waits_for_what_does_not_come() {
    let all = members(2).await;
    let dropped = all[0].mesh.call(NodeId(2), Lane::Bulk, DROP, body("x")).await;
    assert_eq!(dropped, Err(Failed::Lost(NodeId(2))));
    let unknown = all[0].mesh.call(NodeId(9), Lane::Bulk, ECHO, body("x")).await;
    assert!(matches!(unknown, Err(Failed::NotSent(_))), "{unknown:?}");

    // A caller that goes away is noticed on the other side.
    let kept = all[0].mesh.call(NodeId(2), Lane::Bulk, KEEP, body("kept"));
    until(|| all[1].recorder.bodies.lock().len() == 2).await;
    drop(kept);
    until(|| all[1].recorder.cancelled.load(Ordering::Relaxed) == 1).await;

    // So is a node that ends: by who waits for it, and by who answers it.
    let kept = all[0].mesh.call(NodeId(2), Lane::Bulk, KEEP, body("kept"));
    let answered = all[1].mesh.call(NodeId(1), Lane::Bulk, KEEP, body("kept"));
    until(|| all[1].recorder.bodies.lock().len() == 3 && all[0].recorder.bodies.lock().len() == 1).await;
    all[1].mesh.shutdown().await;
    assert_eq!(kept.await, Err(Failed::Lost(NodeId(2))));
    assert_eq!(answered.await, Err(Failed::Lost(NodeId(1))));
    until(|| all[0].recorder.cancelled.load(Ordering::Relaxed) == 1).await;
    until(|| all[0].recorder.disconnected.load(Ordering::Relaxed) == 2).await;
    until(|| !all[0].mesh.is_up(NodeId(2))).await;
    let later = all[0].mesh.call(NodeId(2), Lane::Bulk, ECHO, body("x")).await;
    assert!(matches!(later, Err(Failed::NotSent(_))), "{later:?}");
    all[0].mesh.shutdown().await;
}

#[tokio::test]
async fn a_node_that_comes_back_elsewhere_is_found() {
    let mut all = members(3).await;
    let gone = all.remove(1);
    gone.mesh.shutdown().await;
    until(|| !all[0].mesh.is_up(NodeId(2)) && !all[1].mesh.is_up(NodeId(2))).await;

    let (listener, address) = listen().await;
    let back = start(listener, &address, gone.directory_id);
    // It knows one of them: the other one it hears of, as the others hear of its new address.
    let first = KnownNode { node_id: 1, start_count: 1, address: all[0].address.clone() };
    let stale = KnownNode { node_id: 3, start_count: 0, address: "127.0.0.1:1".to_owned() };
    back.join(2, 2, vec![first, stale]);
    until(|| all.iter().all(|member| member.mesh.is_up(NodeId(2)))).await;
    until(|| back.mesh.is_up(NodeId(1)) && back.mesh.is_up(NodeId(3))).await;
    let answer = all[1].mesh.call(NodeId(2), Lane::Fast, ECHO, body("again")).await;
    assert_eq!(answer, Ok(body("again")));
    all.push(back);
    for member in &all {
        member.mesh.shutdown().await;
    }
}

#[tokio::test]
async fn only_members_are_let_in() {
    let all = members(2).await;
    let others = known(&all);

    let (listener, address) = listen().await;
    let stranger = start(listener, &address, directory_of(8));
    let identity = Identity { cluster_id: uuid::Uuid::from_u128(8), node_id: NodeId(2), start_count: 9 };
    stranger.mesh.join(identity, vec![others[0].clone()], Arc::clone(&stranger.recorder) as _);

    let (listener, address) = listen().await;
    let unknown = start(listener, &address, directory_of(9));
    unknown.join(9, 1, vec![others[0].clone()]);

    // A copy of node 2's directory under its name, and one that says it is node 2 with another directory.
    let (listener, address) = listen().await;
    let impostor = start(listener, &address, directory_of(7));
    impostor.join(2, 9, vec![others[0].clone()]);

    tokio::time::sleep(Duration::from_millis(500)).await;
    for member in [&stranger, &unknown, &impostor] {
        assert!(!member.mesh.is_up(NodeId(1)));
        let call = member.mesh.call(NodeId(1), Lane::Bulk, ECHO, body("let me in")).await;
        assert!(matches!(call, Err(Failed::NotSent(_))), "{call:?}");
        member.mesh.shutdown().await;
    }
    assert!(all[0].recorder.bodies.lock().is_empty());
    // What they said of themselves was not believed.
    assert!(all[0].mesh.is_up(NodeId(2)));
    assert_eq!(all[0].mesh.call(NodeId(2), Lane::Bulk, ECHO, body("x")).await, Ok(body("x")));
    for member in &all {
        member.mesh.shutdown().await;
    }
}

#[tokio::test]
async fn a_node_of_the_cluster_that_this_one_is_left_of_is_told_that_it_was_removed() {
    let all = members(1).await;
    let (former, other) = (uuid::Uuid::from_u128(5), uuid::Uuid::from_u128(6));
    all[0].mesh.set_former(vec![former]);
    let mut lost = Vec::new();
    for cluster_id in [former, other] {
        let (listener, address) = listen().await;
        let node = start(listener, &address, directory_of(2));
        let identity = Identity { cluster_id, node_id: NodeId(2), start_count: 9 };
        node.mesh.join(identity, known(&all), Arc::clone(&node.recorder) as _);
        lost.push(node);
    }
    let told = tokio::time::timeout(Duration::from_secs(20), lost[0].mesh.removed()).await;
    assert_eq!(told.unwrap(), "the cluster was recovered without node 2");
    let told = tokio::time::timeout(Duration::from_millis(300), lost[1].mesh.removed()).await;
    assert!(told.is_err(), "it has nothing to do with this cluster: {told:?}");
    for member in all.iter().chain(&lost) {
        member.mesh.shutdown().await;
    }
}

#[tokio::test]
async fn a_node_that_does_not_read_what_the_cluster_has_is_refused_and_told() {
    let all = members(2).await;
    all[0].mesh.answer_strangers(Arc::new(SaysItsKind));
    let able = |formats| Abilities { formats, features: 5 };
    let joined = async |node: u32, abilities: Abilities| {
        let (listener, address) = listen().await;
        let member = start_able(listener, &address, directory_of(node), None, abilities);
        let place = KnownNode { node_id: node, start_count: 1, address };
        all.iter().for_each(|other| other.mesh.add(place.clone(), directory_of(node)));
        member.join(node, 1, known(&all));
        member
    };
    let earlier = joined(3, able((1, 1))).await;
    until(|| all[0].mesh.is_up(NodeId(3)) && earlier.mesh.is_up(NodeId(1))).await;
    assert_eq!(all[0].mesh.abilities(NodeId(3)), Some(able((1, 1))));
    assert_eq!(all[0].mesh.abilities(NodeId(2)), Some(Abilities::default()), "of a release that does not say so");
    earlier.mesh.shutdown().await;
    until(|| !all[0].mesh.is_up(NodeId(3))).await;
    assert_eq!(all[0].mesh.abilities(NodeId(3)), None);

    // It never becomes less again.
    all[0].mesh.require_format(2);
    all[0].mesh.require_format(1);
    let text = "the cluster has format 2, and this release reads format 1: start a release that reads format 2";
    let (earlier, later) = (joined(4, able((1, 1))).await, joined(5, able((1, 2))).await);
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), earlier.mesh.outdated()).await.unwrap(), text);
    until(|| all[0].mesh.is_up(NodeId(5)) && later.mesh.is_up(NodeId(1))).await;
    assert!(!all[0].mesh.is_up(NodeId(4)) || !earlier.mesh.is_up(NodeId(1)));
    let told = tokio::time::timeout(Duration::from_millis(300), later.mesh.outdated()).await;
    assert!(told.is_err(), "{told:?}");

    // Whoever wants to join is told, too.
    let (listener, address) = listen().await;
    let fresh = start_able(listener, &address, directory_of(8), None, able((1, 1)));
    let refused = fresh.mesh.call_stranger(&all[0].address, 40, body("abc")).await.unwrap_err();
    assert!(refused.to_string().contains(text), "{refused}");
    assert_eq!(fresh.mesh.outdated().await, text);
    for member in all.iter().chain([&earlier, &later, &fresh]) {
        member.mesh.shutdown().await;
    }
}

#[tokio::test]
async fn strangers_may_call_where_somebody_answers_them() {
    let all = members(1).await;
    let (listener, address) = listen().await;
    let fresh = start(listener, &address, directory_of(8));
    let refused = fresh.mesh.call_stranger(&all[0].address, 40, body("abc")).await.unwrap_err();
    assert!(refused.to_string().contains("nobody answers strangers here"), "{refused}");
    all[0].mesh.answer_strangers(Arc::new(SaysItsKind));
    let (hello, answer) = fresh.mesh.call_stranger(&all[0].address, 40, body("abc")).await.unwrap();
    assert_eq!((hello.node_id, answer), (1, body("40 0 3")));
    assert_eq!(hello.cluster_id, CLUSTER.as_bytes());
    fresh.mesh.call_stranger("127.0.0.1:1", 40, body("abc")).await.unwrap_err();
    fresh.mesh.shutdown().await;
    all[0].mesh.shutdown().await;
}

/// Carries bytes to `target` until it is told to stop, and then keeps its connections open without carrying anything.
async fn proxy(target: String, stopped: watch::Receiver<bool>) -> String {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (target, mut stopped) = (target.clone(), stopped.clone());
            tokio::spawn(async move {
                if *stopped.borrow() {
                    return std::future::pending().await;
                }
                let Ok(mut far) = TcpStream::connect(target).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                    _ = stopped.wait_for(|stopped| *stopped) => {}
                }
                std::future::pending::<()>().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_given_up() {
    let (listener_1, address_1) = listen().await;
    let (listener_2, address_2) = listen().await;
    let (stop, stopped) = watch::channel(false);
    let way = proxy(address_2.clone(), stopped).await;
    let one = start(listener_1, &address_1, directory_of(1));
    // Node 2 is dialled through the proxy; it dials node 1 directly.
    let two = start(listener_2, &way, directory_of(2));
    one.join(1, 1, vec![KnownNode { node_id: 2, start_count: 1, address: way.clone() }]);
    two.join(2, 1, vec![KnownNode { node_id: 1, start_count: 1, address: address_1 }]);
    until(|| one.mesh.is_up(NodeId(2)) && two.mesh.is_up(NodeId(1))).await;

    let kept = one.mesh.call(NodeId(2), Lane::Bulk, KEEP, body("kept"));
    until(|| two.recorder.bodies.lock().len() == 1).await;
    stop.send_replace(true);
    assert_eq!(tokio::time::timeout(PATIENCE, kept).await.unwrap(), Err(Failed::Lost(NodeId(2))));
    until(|| !one.mesh.is_up(NodeId(2))).await;
    // What only works in one direction is no good: node 2 is not listened to either.
    until(|| !two.mesh.is_up(NodeId(1))).await;
    one.mesh.shutdown().await;
    two.mesh.shutdown().await;
}

#[tokio::test]
async fn nonsense_ends_a_connection_and_nothing_else() {
    let all = members(2).await;
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"EVPR\xff\xff\xff\xff", b"EVPR\x04\0\0\0\xff\xff\xff\xff", b""] {
        let mut io = TcpStream::connect(&all[0].address).await.unwrap();
        io.write_all(nonsense).await.unwrap();
        io.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // Closed or reset; in any case in time.
        let _ = tokio::time::timeout(PATIENCE, io.read_to_end(&mut rest)).await.expect("it is closed");
    }
    assert_eq!(all[0].mesh.call(NodeId(2), Lane::Bulk, ECHO, body("x")).await, Ok(body("x")));
    assert_eq!(all[1].mesh.call(NodeId(1), Lane::Bulk, ECHO, body("x")).await, Ok(body("x")));
    for member in &all {
        member.mesh.shutdown().await;
    }
}
