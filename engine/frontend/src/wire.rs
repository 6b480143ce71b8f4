//! The bytes of a connection: as they are, or under TLS, which is agreed while the first of them are read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::tls::Spoken;

/// What whoever speaks TLS says first.
const TLS_HANDSHAKE: u8 = 22;

/// What somebody is told who speaks HTTP in the clear where TLS is spoken: as servers in Go do.
const NOT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// A socket that does not wait for ever to be written to.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    /// How long whoever reads may take none of what there is for him.
    stall_max: Option<Duration>,
    stalled: Option<Pin<Box<Sleep>>>,
    written_bytes: u64,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, stall_max: Option<Duration>) -> Socket {
        Socket { stream, stall_max, stalled: None, written_bytes: 0 }
    }

    fn poll_stall(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stall_max) = self.stall_max else { return Poll::Pending };
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_max)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.poll_stall(context),
            written => {
                self.stalled = None;
                if let Poll::Ready(Ok(bytes)) = written {
                    self.written_bytes += bytes as u64;
                }
                written
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The bytes of a connection.
pub(super) enum Wire {
    /// As they are.
    Plain(Socket),
    /// Under TLS, once somebody says something.
    Silent(Socket, TlsAcceptor, Spoken),
    /// Under TLS, which is being agreed on.
    Agreeing(Box<Accept<Socket>>),
    /// Under TLS.
    Tls(Box<TlsStream<Socket>>),
    /// Nothing was agreed on.
    Over,
}

impl Wire {
    /// Bytes that the other side has taken, or the system for it; also those of TLS.
    pub(super) fn written_bytes(&self) -> u64 {
        match self {
            Wire::Plain(socket) | Wire::Silent(socket, ..) => socket.written_bytes,
            Wire::Agreeing(accept) => accept.get_ref().map_or(0, |socket| socket.written_bytes),
            Wire::Tls(stream) => stream.get_ref().0.written_bytes,
            Wire::Over => 0,
        }
    }

    /// Until bytes of those who talk can be read and written.
    fn poll_agreed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self {
                Wire::Plain(_) | Wire::Tls(_) => return Poll::Ready(Ok(())),
                Wire::Over => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                Wire::Silent(socket, ..) => {
                    let mut first = [0];
                    let peeked = ready!(socket.stream.poll_peek(context, &mut ReadBuf::new(&mut first)));
                    let Wire::Silent(socket, acceptor, spoken) = std::mem::replace(self, Wire::Over) else { continue };
                    match peeked? {
                        0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                        _ if first[0] == TLS_HANDSHAKE => *self = Wire::Agreeing(Box::new(acceptor.accept(socket))),
                        _ => {
                            if spoken == Spoken::Http {
                                // What was not read would end the connection before that is. Who does not take it at once does without.
                                let _ = socket.stream.try_read(&mut [0; 4096]);
                                let _ = socket.stream.try_write(NOT_TLS);
                            }
                            return Poll::Ready(Err(failed(&"TLS is not spoken")));
                        }
                    }
                }
                Wire::Agreeing(accept) => {
                    let agreed = ready!(Pin::new(&mut **accept).poll(context));
                    match agreed {
                        Ok(stream) => *self = Wire::Tls(Box::new(stream)),
                        Err(error) => {
                            *self = Wire::Over;
                            return Poll::Ready(Err(failed(&error)));
                        }
                    }
                }
            }
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> io::Error {
    metrics::counter!("everlog_tls_failures_total", "listener" => "frontend").increment(1);
    tracing::debug!(%error, "no TLS was agreed on with a client");
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(wire.poll_agreed(context))?;
        match wire {
            Wire::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_read(context, buffer),
            _ => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        ready!(wire.poll_agreed(context))?;
        match wire {
            Wire::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
            _ => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(socket) => Pin::new(socket).poll_flush(context),
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_flush(context),
            // There is nothing yet.
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(socket) | Wire::Silent(socket, ..) => Pin::new(socket).poll_shutdown(context),
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(context),
            // It ends with this.
            _ => Poll::Ready(Ok(())),
        }
    }
}
