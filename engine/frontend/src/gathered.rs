//! A connection whose writes are gathered: what is written between two flushes goes out in one system call.
//!
//! The HTTP/2 codec writes a response of a few hundred bytes by itself, since it does not copy payloads of that size. Under load
//! a connection has many such responses ready at once, and on small responses a system call costs more than anything else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Bytes that are gathered; a write that has no room goes out behind what is there.
const BUFFER_BYTES: usize = 32 * 1024;

/// A connection that gathers what is written to it.
#[derive(Debug)]
pub(super) struct Gathered<S> {
    inner: S,
    buffer: Vec<u8>,
    /// Of the buffer, what has been written already.
    written: usize,
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    pub(super) fn new(inner: S) -> Gathered<S> {
        Gathered { inner, buffer: Vec::new(), written: 0 }
    }

    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let rest = &self.buffer[self.written..];
            match ready!(Pin::new(&mut self.inner).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.buffer.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            ready!(self.poll_drain(context))?;
        }
        if bytes.len() >= BUFFER_BYTES {
            return Pin::new(&mut self.inner).poll_write(context, bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: Connected> Connected for Gathered<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Takes at most so many bytes a write, every other time only after a wait, and remembers what each write brought.
    struct Writes {
        bytes_max: usize,
        waits: bool,
        writes: Vec<Vec<u8>>,
    }

    impl AsyncWrite for Writes {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.waits = !self.waits;
            if self.waits {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let count = bytes.len().min(self.bytes_max);
            self.writes.push(bytes[..count].to_vec());
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gathered(bytes_max: usize) -> Gathered<Writes> {
        Gathered::new(Writes { bytes_max, waits: false, writes: Vec::new() })
    }

    #[tokio::test]
    async fn writes_between_flushes_go_out_together() {
        let mut connection = gathered(usize::MAX);
        for part in [&b"head"[..], b"payload", b"trailers"] {
            connection.write_all(part).await.unwrap();
        }
        assert!(connection.inner.writes.is_empty());
        connection.flush().await.unwrap();
        connection.write_all(b"next").await.unwrap();
        connection.shutdown().await.unwrap();
        assert_eq!(connection.inner.writes, [b"headpayloadtrailers".to_vec(), b"next".to_vec()]);
    }

    #[tokio::test]
    async fn bytes_keep_their_order_however_they_are_taken() {
        for (part, bytes_max) in [(1000, 700), (BUFFER_BYTES - 1, 9000), (BUFFER_BYTES, 20_000), (100_000, 30_000)] {
            let mut connection = gathered(bytes_max);
            let mut sent = Vec::new();
            for number in 0..40u8 {
                let bytes = vec![number; part];
                connection.write_all(&bytes).await.unwrap();
                sent.extend(bytes);
                assert!(connection.buffer.len() <= BUFFER_BYTES);
            }
            connection.flush().await.unwrap();
            assert_eq!(connection.inner.writes.concat(), sent);
        }
    }
}
