//! Answers on their way: compressed where that pays, and bounded in bytes, because what nobody reads stays in memory.

use std::future::poll_fn;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body as _, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;

use super::errors::Error;

/// Answers up to this size need no share, bytes: connections and their streams are bounded.
const FREE_BYTES: usize = 1024;

/// An answer that is smaller is not compressed, bytes: that would cost more than the network.
const COMPRESSED_BYTES_MIN: usize = 32 << 10;

const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// In front of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

const TOO_MANY_BYTES_TEXT: &str = "the server has as many answers in memory as it may that were not read";

/// The bytes of answers that a node may have in memory.
#[derive(Clone, Debug)]
pub(super) struct Answers(Arc<Semaphore>);

impl Answers {
    pub(super) fn new(bytes_max: usize) -> Answers {
        Answers(Arc::new(Semaphore::new(bytes_max)))
    }

    /// The answer, which has its share until all of it is on its way or its connection is gone; or [`Error::Overloaded`], if there is none
    /// left. The share goes with the bytes: HTTP/2 takes as many of them as its client's windows allow, and keeps them until they are
    /// written.
    pub(super) async fn hold(&self, response: Response<Body>) -> Response<Body> {
        let (head, mut rest) = response.into_parts();
        // What a handler has answered is encoded by this, and does not wait.
        let first = poll_fn(|context| Poll::Ready(Pin::new(&mut rest).poll_frame(context))).await;
        let first = match first {
            Poll::Ready(Some(first)) => first,
            Poll::Ready(None) => return Response::from_parts(head, Body::empty()),
            Poll::Pending => return Response::from_parts(head, rest),
        };
        let first = match first.map(Frame::into_data) {
            Ok(Ok(data)) if data.len() > FREE_BYTES => {
                let bytes = u32::try_from(data.len()).ok();
                let held = bytes.and_then(|bytes| Arc::clone(&self.0).try_acquire_many_owned(bytes).ok());
                let Some(held) = held else {
                    return Status::from(Error::Overloaded(TOO_MANY_BYTES_TEXT.to_owned())).into_http();
                };
                Ok(Frame::data(with_share(data, held)))
            }
            Ok(Ok(data)) => Ok(Frame::data(data)),
            Ok(Err(trailers)) => Ok(trailers),
            Err(status) => Err(status),
        };
        Response::from_parts(head, Body::new(Answer { first: Some(first), rest }))
    }
}

/// Whether a caller wants its answer compressed: it has compressed its request, which is what grpc-go goes by, and says that it can read
/// such an answer, as all clients do that can.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get("grpc-accept-encoding").and_then(|names| names.to_str().ok()).unwrap_or_default();
    headers.get("grpc-encoding") == Some(&GZIP) && accepted.split(',').any(|name| name.trim() == "gzip")
}

/// The answer, compressed if it is large enough and gets smaller by it. It names the encoding in any case, because some callers look at that:
/// each message says by itself whether it is encoded so.
pub(super) async fn compress(response: Response<Body>) -> Response<Body> {
    let (mut head, mut rest) = response.into_parts();
    let first = poll_fn(|context| Poll::Ready(Pin::new(&mut rest).poll_frame(context))).await;
    let first = match first {
        Poll::Ready(Some(first)) => first,
        Poll::Ready(None) => return Response::from_parts(head, Body::empty()),
        Poll::Pending => return Response::from_parts(head, rest),
    };
    let message = first.as_ref().ok().and_then(Frame::data_ref).filter(|data| data.len() >= COMPRESSED_BYTES_MIN);
    let compressed = match message.cloned() {
        Some(message) => tokio::task::spawn_blocking(move || compressed(&message)).await.ok().flatten(),
        None => None,
    };
    if first.as_ref().is_ok_and(Frame::is_data) {
        head.headers.insert("grpc-encoding", GZIP);
    }
    let first = compressed.map_or(first, |compressed| Ok(Frame::data(compressed)));
    Response::from_parts(head, Body::new(Answer { first: Some(first), rest }))
}

/// A message with its prefix, compressed. `None` if it is not a whole message, or gets no smaller.
fn compressed(message: &Bytes) -> Option<Bytes> {
    let (prefix, content) = message.split_first_chunk::<PREFIX_BYTES>()?;
    let [is_compressed, length @ ..] = *prefix;
    if is_compressed != 0 || u32::from_be_bytes(length) as usize != content.len() {
        return None;
    }
    let mut encoder = GzEncoder::new(vec![0; PREFIX_BYTES], Compression::fast());
    encoder.write_all(content).ok()?;
    let mut compressed = encoder.finish().ok()?;
    let length = u32::try_from(compressed.len() - PREFIX_BYTES).ok()?;
    compressed[0] = 1;
    compressed[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    (compressed.len() < message.len()).then(|| compressed.into())
}

/// Bytes that have a share for as long as any of them are in memory.
pub(super) fn with_share(data: Bytes, share: OwnedSemaphorePermit) -> Bytes {
    Bytes::from_owner(Counted { data, _share: share })
}

struct Counted {
    data: Bytes,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// The body of an answer, whose first frame was asked for.
struct Answer {
    first: Option<Result<Frame<Bytes>, Status>>,
    rest: Body,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of one frame of data and trailers.
    struct Whole(Option<Bytes>, Option<HeaderMap>);

    impl http_body::Body for Whole {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let data = self.0.take().map(Frame::data);
            Poll::Ready(data.or_else(|| self.1.take().map(Frame::trailers)).map(Ok))
        }
    }

    fn response(bytes: usize) -> Response<Body> {
        let trailers = HeaderMap::from_iter([(http::header::TRAILER, http::HeaderValue::from_static("there"))]);
        Response::new(Body::new(Whole(Some(vec![7; bytes].into()), Some(trailers))))
    }

    async fn frame(body: &mut Body) -> Option<Frame<Bytes>> {
        poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await.map(Result::unwrap)
    }

    fn is_refused(response: &Response<Body>) -> bool {
        Status::from_header_map(response.headers())
            .is_some_and(|status| status.code() == tonic::Code::ResourceExhausted)
    }

    #[tokio::test]
    async fn answers_beyond_the_bound_are_refused_until_others_were_read() {
        let answers = Answers::new(150_000);
        let first = answers.hold(response(100_000)).await;
        assert!(!is_refused(&first));
        for _ in 0..3 {
            assert!(is_refused(&answers.hold(response(100_000)).await));
            assert!(!is_refused(&answers.hold(response(100)).await));
        }
        let mut body = first.into_body();
        let mut data = frame(&mut body).await.unwrap().into_data().unwrap();
        assert_eq!(data.len(), 100_000);
        assert!(frame(&mut body).await.unwrap().is_trailers());
        assert!(frame(&mut body).await.is_none());
        drop(body);
        // Its bytes are still in the connection's memory, all or some.
        assert!(is_refused(&answers.hold(response(100_000)).await));
        drop(data.split_to(50_000));
        assert!(is_refused(&answers.hold(response(100_000)).await));
        drop(data);
        assert!(!is_refused(&answers.hold(response(100_000)).await));
    }

    #[test]
    fn who_compresses_and_can_decompress_is_answered_so() {
        let headers = |headers: &[(&'static str, &'static str)]| {
            headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
        };
        let sent = ("grpc-encoding", "gzip");
        for (sent, expected) in [
            (headers(&[sent, ("grpc-accept-encoding", "gzip")]), true),
            (headers(&[sent, ("grpc-accept-encoding", "identity, deflate, gzip")]), true),
            (headers(&[sent, ("grpc-accept-encoding", "identity,deflate")]), false),
            (headers(&[sent]), false),
            (headers(&[("grpc-accept-encoding", "gzip")]), false),
        ] {
            assert_eq!(takes_gzip(&sent), expected, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn large_answers_are_compressed() {
        use std::io::Read;

        let message = |bytes: usize| {
            let prefix = [&[0][..], &u32::try_from(bytes).unwrap().to_be_bytes()].concat();
            let frame = [prefix, vec![7; bytes]].concat();
            Response::new(Body::new(Whole(Some(frame.into()), Some(HeaderMap::new()))))
        };
        let small = compress(message(1000)).await;
        assert_eq!(small.headers().get("grpc-encoding"), Some(&GZIP));
        let data = frame(&mut small.into_body()).await.unwrap().into_data().unwrap();
        assert_eq!((data.len(), data[0]), (1005, 0));
        let large = compress(message(100_000)).await;
        assert_eq!(large.headers().get("grpc-encoding"), Some(&GZIP));
        let mut body = large.into_body();
        let data = frame(&mut body).await.unwrap().into_data().unwrap();
        let (prefix, content) = data.split_at(PREFIX_BYTES);
        assert_eq!(prefix, [&[1][..], &u32::try_from(content.len()).unwrap().to_be_bytes()].concat());
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(content).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, vec![7; 100_000]);
        assert!(frame(&mut body).await.unwrap().is_trailers());
        assert!(frame(&mut body).await.is_none());
        // What is no message stays what it is.
        let other = compress(response(100_000)).await;
        assert_eq!(frame(&mut other.into_body()).await.unwrap().into_data().unwrap(), vec![7; 100_000]);
        let nothing = compress(Response::new(Body::empty())).await;
        assert!(nothing.headers().is_empty());
    }

    #[tokio::test]
    async fn an_answer_of_nothing_stays_one() {
        let mut body = Answers::new(1).hold(Response::new(Body::empty())).await.into_body();
        assert!(frame(&mut body).await.is_none());
    }
}
