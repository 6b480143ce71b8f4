//! Accepts connections: as many as there are descriptors for, and none for long that says nothing.
//!
//! A descriptor that a connection takes is one that neither the log nor the rows can open a file with, so there is a bound, and what is
//! beyond it is refused at the door. A connection that was refused is closed; its client tries again. Before that, one that has yet to
//! begin to speak makes place ([`Handshakes`]). Under TLS nothing was said before it is agreed on.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::{FutureExt, Stream, stream};
use http_body::{Frame, SizeHint};
use metrics::{Counter, Gauge};
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use super::handshakes::{Handshakes, Unfinished};
use super::tls::{ListenerTls, Spoken};
use super::wire::{Socket, Wire};

/// What a client of HTTP/2 says first, bytes. From then on it is asked from time to time whether it is there.
const PREFACE_BYTES: usize = 24;

/// Bytes that are written at once. The HTTP/2 codec writes a response of a few hundred bytes by itself; under load a connection has many
/// of them ready, and a system call costs more than anything else in a small one.
const WRITE_BUFFER_BYTES: usize = 32 * 1024;

/// How long to wait for the place of a connection that has to go.
const PLACE_WAIT_MAX: Duration = Duration::from_millis(50);

/// How long to wait when a connection can be neither accepted nor refused.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// When a connection has said too little.
#[derive(Clone, Copy, Debug)]
pub(super) enum Silence {
    /// It has not begun to speak HTTP/2.
    BeforePreface,
    /// It is not in the middle of a request, and waits for no answer; for HTTP/1.
    BetweenRequests,
}

impl Silence {
    fn spoken(self) -> Spoken {
        match self {
            Silence::BeforePreface => Spoken::Grpc,
            Silence::BetweenRequests => Spoken::Http,
        }
    }
}

/// A listener that bounds its connections.
pub(super) struct Door {
    listener: TcpListener,
    tls: Option<Arc<ListenerTls>>,
    places: Arc<Semaphore>,
    handshakes: Handshakes,
    silence: Silence,
    silence_max: Duration,
    /// A descriptor that is let go of to accept a connection that is to be refused: otherwise it would be offered again at once.
    spare: Option<File>,
    connections: Gauge,
    refused: Counter,
}

impl Door {
    /// At most `connections_max` of `listener`, each of which may be silent for `silence_max`; and at most `handshakes_max` from one
    /// address that have yet to begin to speak, or half of all.
    pub(super) fn new(
        name: &'static str,
        listener: TcpListener,
        connections_max: usize,
        handshakes_max: usize,
        silence: Silence,
        silence_max: Duration,
    ) -> Door {
        Door {
            listener,
            tls: None,
            places: Arc::new(Semaphore::new(connections_max)),
            handshakes: Handshakes::new(handshakes_max.min(connections_max / 2)),
            silence,
            silence_max,
            spare: spare(),
            connections: metrics::gauge!("everlog_connections", "listener" => name),
            refused: metrics::counter!("everlog_connections_refused_total", "listener" => name),
        }
    }

    /// The same, whose connections are under TLS.
    pub(super) fn with_tls(self, tls: Option<Arc<ListenerTls>>) -> Door {
        Door { tls, ..self }
    }

    /// The next connection that there is a place for.
    async fn next(&mut self) -> Connection {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some((place, handshake)) = self.admit(peer.ip()).await {
                        return self.connection(stream, peer, place, handshake);
                    }
                }
                Err(error) => self.refuse(&error).await,
            }
        }
    }

    /// A place for a connection from `peer`: a free one, or that of a connection that has yet to begin to speak.
    async fn admit(&self, peer: IpAddr) -> Option<(OwnedSemaphorePermit, Unfinished)> {
        let (handshake, makes_place) = self.handshakes.begin(peer);
        let free = Arc::clone(&self.places).try_acquire_owned().ok();
        if makes_place || free.is_none() {
            // That one, or this.
            self.refused.increment(1);
        }
        if let Some(place) = free {
            return Some((place, handshake));
        }
        if !makes_place && !handshake.end_another() {
            return None;
        }
        let place = tokio::time::timeout(PLACE_WAIT_MAX, Arc::clone(&self.places).acquire_owned()).await.ok()?.ok()?;
        Some((place, handshake))
    }

    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        place: OwnedSemaphorePermit,
        handshake: Unfinished,
    ) -> Connection {
        // What is flushed is to go out. A connection that is broken says so when it is read.
        let _ = stream.set_nodelay(true);
        self.connections.increment(1);
        let patience = Patience {
            silence: self.silence,
            max: self.silence_max,
            heard_bytes: 0,
            written_bytes: 0,
            handshake: Some(handshake),
            waits: Waits::default(),
            end: Box::pin(tokio::time::sleep(self.silence_max)),
        };
        // A client of gRPC is asked whether it is still there.
        let stall_max = match self.silence {
            Silence::BeforePreface => None,
            Silence::BetweenRequests => Some(self.silence_max),
        };
        let socket = Socket::new(stream, stall_max);
        let wire = match &self.tls {
            Some(tls) => Wire::Silent(socket, tls.acceptor(self.silence.spoken()), self.silence.spoken()),
            None => Wire::Plain(socket),
        };
        let stream = BufWriter::with_capacity(WRITE_BUFFER_BYTES, wire);
        Connection { stream, peer, patience: Some(patience), connections: self.connections.clone(), _place: place }
    }

    /// Deals with a connection that could not be accepted.
    async fn refuse(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return;
        }
        tracing::warn!(%error, "a connection cannot be accepted");
        self.refused.increment(1);
        if self.spare.take().is_some() {
            drop(self.listener.accept().now_or_never());
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
        self.spare = spare();
    }

    /// The connections, without end.
    pub(super) fn connections(self) -> impl Stream<Item = io::Result<Connection>> {
        stream::unfold(self, |mut door| async {
            let connection = door.next().await;
            Some((Ok(connection), door))
        })
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// How many answers the client of a connection waits for. While there are any, it need not speak.
#[derive(Clone, Debug, Default)]
pub(super) struct Waits(Arc<AtomicUsize>);

impl Waits {
    /// One more, until what is returned is dropped.
    pub(super) fn begin(&self) -> Waiting {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waiting(self.clone())
    }
}

/// An answer that is waited for.
#[derive(Debug)]
pub(super) struct Waiting(Waits);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Waits {
    /// The answer, whose body counts as waited for as long as it has nothing for its client: not while he does not read what it has.
    pub(super) fn over(&self, answer: Response) -> Response {
        answer.map(|body| Body::new(Coming { body, waits: self.clone(), waiting: None }))
    }
}

/// The body of an answer.
struct Coming {
    body: Body,
    waits: Waits,
    waiting: Option<Waiting>,
}

impl http_body::Body for Coming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.waiting = frame.is_pending().then(|| self.waiting.take().unwrap_or_else(|| self.waits.begin()));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that has a place.
pub(super) struct Connection {
    stream: BufWriter<Wire>,
    peer: SocketAddr,
    /// None once it may be silent for as long as it likes.
    patience: Option<Patience>,
    connections: Gauge,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Who has connected.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }

    /// What its client waits for.
    pub(super) fn waits(&self) -> Waits {
        self.patience.as_ref().map(|patience| patience.waits.clone()).unwrap_or_default()
    }

    /// What was tried, unless it waits for a client who has had his time. That may also be while something is written: under TLS nothing is
    /// before that is agreed on.
    fn bear<T>(&mut self, tried: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let written_bytes = self.stream.get_ref().written_bytes();
        if let Some(patience) = &mut self.patience
            && tried.is_pending()
            && patience.is_over(written_bytes, context)
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        tried
    }
}

struct Patience {
    silence: Silence,
    max: Duration,
    heard_bytes: usize,
    /// What the client had taken when its time was looked at last.
    written_bytes: u64,
    /// Until it has begun to speak.
    handshake: Option<Unfinished>,
    waits: Waits,
    end: Pin<Box<Sleep>>,
}

impl Patience {
    /// Whether the connection, whose client has taken so many bytes, has been silent for too long, or another one needs its place.
    fn is_over(&mut self, written_bytes: u64, context: &mut Context<'_>) -> bool {
        let has_to_go = self.handshake.as_mut().is_some_and(|handshake| handshake.end.poll_unpin(context).is_ready());
        if has_to_go {
            return true;
        }
        while self.end.as_mut().poll(context).is_ready() {
            let has_read = std::mem::replace(&mut self.written_bytes, written_bytes) != written_bytes;
            if !has_read && self.waits.0.load(Ordering::Relaxed) == 0 {
                return true;
            }
            self.end.as_mut().reset(Instant::now() + self.max);
        }
        false
    }

    /// Whether the connection must go on speaking after these bytes.
    fn hear(&mut self, bytes: usize) -> bool {
        self.heard_bytes += bytes;
        match self.silence {
            Silence::BeforePreface => {
                if let Some(handshake) = &self.handshake
                    && bytes > 0
                {
                    handshake.has_spoken();
                }
                self.heard_bytes < PREFACE_BYTES
            }
            Silence::BetweenRequests => {
                self.handshake = None;
                self.end.as_mut().reset(Instant::now() + self.max);
                true
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(patience) = &mut self.patience
            && read.is_ready()
            && !patience.hear(buffer.filled().len() - before)
        {
            self.patience = None;
        }
        self.bear(read, context)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bear(written, context)
    }

    /// The HTTP/2 codec flushes behind a frame of data that it does not copy, so that a response's trailers take a system call of their
    /// own. It copies frames of up to 1 KiB instead of 256 bytes where this is false.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.bear(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    /// No method asks where a call comes from, and each call would get a copy of it.
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::BodyDataStream;
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const EMFILE: i32 = 24;

    const SILENCE_MAX: Duration = Duration::from_millis(50);

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    async fn door(connections_max: usize, silence: Silence) -> (Door, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Door::new("test", listener, connections_max, 100, silence, SILENCE_MAX), address)
    }

    #[tokio::test]
    async fn a_connection_beyond_the_bound_is_closed_and_the_next_one_has_the_place_of_one_that_left() {
        let (mut door, address) = door(1, Silence::BeforePreface).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut first_accepted = door.next().await;
        first.write_all(PREFACE).await.unwrap();
        first_accepted.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
        let accepting = tokio::spawn(async move { door.next().await.peer });
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert_eq!(refused.read(&mut [0]).await.unwrap(), 0);
        drop(first_accepted);
        let third = TcpStream::connect(address).await.unwrap();
        assert_eq!(accepting.await.unwrap(), third.local_addr().unwrap());
    }

    /// Connects from an address of the machine's own.
    async fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    /// Whether the server has closed a connection.
    async fn ended(stream: &mut TcpStream) -> bool {
        tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0])).await.is_ok()
    }

    /// Serves connections as a server would: reads until they end.
    fn serve(mut door: Door, heard: tokio::sync::mpsc::UnboundedSender<usize>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                let (mut connection, heard) = (door.next().await, heard.clone());
                tokio::spawn(async move {
                    while let Ok(bytes @ 1..) = connection.read(&mut [0; 100]).await {
                        let _ = heard.send(bytes);
                    }
                });
            }
        })
    }

    #[tokio::test]
    async fn places_of_connections_that_say_nothing_go_to_new_ones_and_no_address_takes_all() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let door = Door::new("test", listener, 4, 100, Silence::BeforePreface, Duration::from_secs(600));
        let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let serving = serve(door, heard);
        let mut speaks = connect_from([127, 0, 0, 1], address).await;
        speaks.write_all(PREFACE).await.unwrap();
        assert_eq!(hears.recv().await, Some(PREFACE_BYTES));
        let mut quiet = connect_from([127, 0, 0, 2], address).await;
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(connect_from([127, 0, 0, 1], address).await);
        }
        // An address has half of the places for those that say nothing, the newest ones.
        for stream in &mut silent[..18] {
            assert!(ended(stream).await);
        }
        assert!(!ended(&mut silent[18]).await && !ended(&mut silent[19]).await);
        assert!(!ended(&mut quiet).await && !ended(&mut speaks).await);
        // All places are taken: the one that has been silent for longest makes place.
        let mut new = connect_from([127, 0, 0, 3], address).await;
        new.write_all(PREFACE).await.unwrap();
        assert!(ended(&mut quiet).await && !ended(&mut new).await && !ended(&mut speaks).await);
        serving.abort();
    }

    #[tokio::test]
    async fn without_a_descriptor_a_client_is_refused_by_means_of_the_spare_one() {
        let (mut door, address) = door(10, Silence::BeforePreface).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        // The listener is to hear of it.
        tokio::time::sleep(Duration::from_millis(10)).await;
        door.refuse(&io::Error::from_raw_os_error(EMFILE)).await;
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert!(door.spare.is_some());
    }

    #[tokio::test]
    async fn silence_ends_a_connection_but_not_once_it_speaks_http_2() {
        let (mut door, address) = door(10, Silence::BeforePreface).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut silent = door.next().await;
        client.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut heard = [0; 100];
        assert_eq!(silent.read(&mut heard).await.unwrap(), 14);
        assert_eq!(silent.read(&mut heard).await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let mut client = TcpStream::connect(address).await.unwrap();
        let mut speaking = door.next().await;
        client.write_all(PREFACE).await.unwrap();
        assert_eq!(speaking.read(&mut heard).await.unwrap(), PREFACE_BYTES);
        assert!(speaking.patience.is_none());
    }

    #[tokio::test]
    async fn a_connection_of_http_1_may_be_silent_for_a_while_after_each_request() {
        let (mut door, address) = door(10, Silence::BetweenRequests).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut accepted = door.next().await;
        let mut heard = [0; 100];
        for _ in 0..3 {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            assert_eq!(accepted.read(&mut heard).await.unwrap(), 18);
        }
        assert_eq!(accepted.read(&mut heard).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_answer_is_waited_for_while_there_is_nothing_of_it() {
        let waits = Waits::default();
        let waiting = || waits.0.load(Ordering::Relaxed);
        let (mut sender, pieces) = futures::channel::mpsc::channel::<io::Result<&str>>(2);
        let answer = waits.over(Response::new(Body::from_stream(pieces)));
        let mut body = answer.into_body().into_data_stream();
        let next = |body: &mut BodyDataStream| body.next().now_or_never();
        for _ in 0..2 {
            assert!(next(&mut body).is_none() && next(&mut body).is_none());
            assert_eq!(waiting(), 1);
            sender.try_send(Ok("a")).unwrap();
            assert!(next(&mut body).is_some());
            // Whether its reader takes it is his affair.
            assert_eq!(waiting(), 0);
        }
        assert!(next(&mut body).is_none());
        drop(body);
        assert_eq!(waiting(), 0);
    }
}
