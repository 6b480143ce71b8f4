//! The ways between nodes, each of which can be cut or made slow in one direction.
//!
//! ```text
//!   node A ──dials the address that B advertises──▶ proxy ──▶ where B listens
//!            bytes from A to B pass if A ▶ B is open, those back if B ▶ A is
//! ```
//!
//! All nodes dial a node at the same address, so the proxy asks the system whose process has the other end of a connection. What is
//! under way when a link is cut waits, as it does in a network that sends again what was lost: it arrives when the link is open again,
//! unless the connection has been given up by then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Node;
use crate::failure::Failure;

/// Bytes that are read at a time, and how many such pieces are on their way.
const PIECE_BYTES: usize = 32 << 10;
const PIECES_MAX: usize = 64;
/// How often the system is asked whose a connection is, and how long to wait in between.
const OWNER_TRIES: usize = 20;
const OWNER_AGAIN: Duration = Duration::from_millis(5);

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Nothing passes.
    pub(crate) is_cut: bool,
    /// How long everything takes.
    pub(crate) delay: Duration,
}

/// All directions between all nodes. The proxies end when this is dropped.
pub(crate) struct Links {
    /// Bytes that were carried so far.
    carried: Arc<AtomicU64>,
    /// By where from and where to, as indexes of nodes.
    all: Arc<Vec<Vec<watch::Sender<Link>>>>,
    proxies: Vec<JoinHandle<()>>,
}

impl Links {
    /// Starts a proxy for each node, which listens where the node says that it is.
    pub(super) async fn start(
        nodes: &[Arc<Node>],
        advertised: &[SocketAddr],
        listen: &[SocketAddr],
    ) -> Result<Links, Failure> {
        let row = || nodes.iter().map(|_| watch::Sender::new(Link::default())).collect::<Vec<_>>();
        let all = Arc::new(nodes.iter().map(|_| row()).collect::<Vec<_>>());
        let pids: Arc<Vec<_>> = Arc::new(nodes.iter().map(|node| node.pid()).collect());
        let carried = Arc::<AtomicU64>::default();
        let mut proxies = Vec::new();
        for (to, address) in advertised.iter().enumerate() {
            let proxy = Proxy {
                to,
                target: listen[to],
                links: Arc::clone(&all),
                pids: Arc::clone(&pids),
                carried: Arc::clone(&carried),
            };
            proxies.push(tokio::spawn(proxy.run(TcpListener::bind(address).await?)));
        }
        Ok(Links { carried, all, proxies })
    }

    /// Changes one direction. Nodes are indexes.
    pub(crate) fn set(&self, from: usize, to: usize, link: Link) {
        self.all[from][to].send_replace(link);
    }

    /// Bytes that were carried so far, in all directions.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Opens everything.
    pub(crate) fn heal(&self) {
        for link in self.all.iter().flatten() {
            link.send_replace(Link::default());
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.proxies.iter().for_each(JoinHandle::abort);
    }
}

struct Proxy {
    to: usize,
    target: SocketAddr,
    links: Arc<Vec<Vec<watch::Sender<Link>>>>,
    pids: Arc<Vec<Arc<AtomicI32>>>,
    carried: Arc<AtomicU64>,
}

impl Proxy {
    async fn run(self, listener: TcpListener) {
        let proxy = Arc::new(self);
        loop {
            if let Ok((stream, from)) = listener.accept().await {
                let proxy = Arc::clone(&proxy);
                // A connection that fails is closed: that is all there is to say.
                tokio::spawn(async move { proxy.connection(stream, from).await });
            }
        }
    }

    async fn connection(&self, stream: TcpStream, from: SocketAddr) -> std::io::Result<()> {
        let here = stream.local_addr()?;
        let Some(from) = self.owner(from, here).await else { return Ok(()) };
        let (mut there, mut back) = (self.links[from][self.to].subscribe(), self.links[self.to][from].subscribe());
        open(&mut there, Instant::now()).await;
        open(&mut back, Instant::now()).await;
        let target = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        target.set_nodelay(true)?;
        let (near_read, near_write) = stream.into_split();
        let (far_read, far_write) = target.into_split();
        let carried = &self.carried;
        tokio::join!(pump(near_read, far_write, there, carried), pump(far_read, near_write, back, carried));
        Ok(())
    }

    /// The node whose process has dialled `here` from `address`.
    async fn owner(&self, address: SocketAddr, here: SocketAddr) -> Option<usize> {
        for _ in 0..OWNER_TRIES {
            let pids: Vec<_> = self.pids.iter().map(|pid| pid.load(Ordering::Relaxed)).collect();
            let found = tokio::task::spawn_blocking(move || {
                let inode = inode(&std::fs::read_to_string("/proc/net/tcp").ok()?, address, here)?;
                pids.iter().position(|pid| *pid != 0 && has_socket(*pid, inode))
            });
            if let Ok(Some(node)) = found.await {
                return Some(node);
            }
            tokio::time::sleep(OWNER_AGAIN).await;
        }
        None
    }
}

/// Waits until a link is open and what came at `at` has been on its way for long enough.
async fn open(link: &mut watch::Receiver<Link>, at: Instant) {
    loop {
        let Link { is_cut, delay } = *link.borrow_and_update();
        let due = at + delay;
        if !is_cut && due <= Instant::now() {
            return;
        }
        let changed = async {
            if link.changed().await.is_err() {
                // The links are gone, and the connection with them.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(due), if !is_cut => {}
        }
    }
}

/// Carries bytes in one direction until there are no more.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut link: watch::Receiver<Link>,
    carried: &AtomicU64,
) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let read = async move {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now(), buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, bytes)) = pieces.recv().await {
            open(&mut link, at).await;
            carried.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        open(&mut link, Instant::now()).await;
        // The other side may be gone already.
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

/// The socket in the system's table that goes from `local` to `remote`.
fn inode(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (in_table(local)?, in_table(remote)?);
    let sockets = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut matching = sockets.filter(|fields| fields.len() > 9 && fields[1] == local && fields[2] == remote);
    matching.find_map(|fields| fields[9].parse().ok().filter(|inode| *inode != 0))
}

/// An address as Linux writes it in `/proc/net/tcp`: the bytes of the IP backwards, then the port.
fn in_table(address: SocketAddr) -> Option<String> {
    match address {
        SocketAddr::V4(address) => {
            Some(format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port()))
        }
        SocketAddr::V6(_) => None,
    }
}

fn has_socket(pid: i32, inode: u64) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let name = format!("socket:[{inode}]");
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.to_str() == Some(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_in_the_systems_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1C41 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100 0 0 10 0\n\
            1: 0100007F:9C40 0200007F:1C43 01 00000000:00000000 00:00000000 00000000 0 0 4711 1 0 20 4 30 10 -1\n";
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(inode(table, at("127.0.0.1:40000"), at("127.0.0.2:7235")), Some(4711));
        assert_eq!(inode(table, at("127.0.0.2:7235"), at("127.0.0.1:40000")), None);
    }

    #[tokio::test]
    async fn a_link_passes_delays_and_holds_back() {
        // This very process is the node that dials.
        let me = Arc::new(AtomicI32::new(std::process::id() as i32));
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let links = Arc::new(vec![vec![watch::Sender::new(Link::default()), watch::Sender::new(Link::default())]; 2]);
        let carried = Arc::<AtomicU64>::default();
        let proxy = Proxy {
            to: 1,
            target: target.local_addr().unwrap(),
            links: Arc::clone(&links),
            pids: Arc::new(vec![me, Arc::default()]),
            carried: Arc::clone(&carried),
        };
        let running = tokio::spawn(proxy.run(listener));
        let mut near = TcpStream::connect(address).await.unwrap();
        let (mut far, _) = target.accept().await.unwrap();
        let mut byte = [0];
        near.write_all(b"a").await.unwrap();
        far.read_exact(&mut byte).await.unwrap();
        // Only one direction is cut.
        links[0][1].send_replace(Link { is_cut: true, ..Link::default() });
        near.write_all(b"b").await.unwrap();
        far.write_all(b"c").await.unwrap();
        near.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"c");
        let waits = tokio::time::timeout(Duration::from_millis(100), far.read_exact(&mut byte)).await;
        assert!(waits.is_err(), "it is held back");
        links[0][1].send_replace(Link::default());
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"b", "it arrives later");
        let delay = Duration::from_millis(150);
        links[1][0].send_replace(Link { delay, ..Link::default() });
        let sent = Instant::now();
        far.write_all(b"d").await.unwrap();
        near.read_exact(&mut byte).await.unwrap();
        assert!(sent.elapsed() >= delay, "{:?}", sent.elapsed());
        drop(near);
        assert_eq!(far.read(&mut byte).await.unwrap(), 0, "the end arrives, too");
        assert_eq!(carried.load(Ordering::Relaxed), 4);
        running.abort();
    }
}
