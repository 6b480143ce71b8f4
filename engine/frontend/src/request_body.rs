//! Reads the bodies of requests, as many bytes at a time as a budget allows.
//!
//! What a request takes is known as soon as its body begins, because gRPC puts the length in front of the message. A body is read
//! only when that many bytes of the budget are free, and holds them until its handler has answered. Until then it is the client that
//! keeps it: flow control lets little more than the beginning through.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use everlog_model::limits;
use http::Request;
use http_body::{Body as _, Frame};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;

use super::errors::Error;
use super::response_body::Answers;

/// Bytes in front of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// How much larger a compressed message is taken to be until it has been decoded: what JSON usually comes to.
const EXPANSION: usize = 4;

const OVERLOADED_TEXT: &str = "the server has as many requests in memory as it may";

/// What is told to calls beyond [`limits::CALLS_MAX`].
const TOO_MANY_CALLS_TEXT: &str = "the server answers as many calls as it may";

/// Calls that wait for something to happen.
const WAITING_CALLS: [&str; 7] = [
    "PollWorkflowTaskQueue",
    "PollActivityTaskQueue",
    "PollNexusTaskQueue",
    "GetWorkflowExecutionHistory",
    "QueryWorkflow",
    "PollActivityExecution",
    "DescribeActivityExecution",
];

/// Whether a call of `method` waits for something to happen.
pub(super) fn waits_for_something(method: &str) -> bool {
    WAITING_CALLS.contains(&method)
}

/// The calls that a node answers, and the bytes of their requests and answers that it may have in memory.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) answers: Answers,
    calls: AtomicUsize,
    calls_max: usize,
    /// Of requests that fit into a frame, which never wait behind larger ones.
    small: Pool,
    large: Pool,
    /// The largest request that is taken.
    request_bytes_max: usize,
}

#[derive(Debug)]
struct Pool {
    bytes_max: usize,
    bytes: Arc<Semaphore>,
    /// Places to wait in.
    places: Semaphore,
}

/// A request's share of the budget, until it is dropped.
#[derive(Debug)]
pub(super) enum Held {
    Fixed { _bytes: OwnedSemaphorePermit },
    Settled { _bytes: Arc<Mutex<OwnedSemaphorePermit>> },
}

/// Stands in the extensions of a request that was compressed: only its handler learns how large it is.
#[derive(Clone, Debug)]
struct Compressed {
    budget: Arc<Budget>,
    bytes: Arc<Mutex<OwnedSemaphorePermit>>,
}

impl Budget {
    pub(super) fn new(request_bytes_max: usize) -> Budget {
        Budget {
            answers: Answers::new(limits::ANSWERS_BYTES_MAX),
            calls: AtomicUsize::new(0),
            calls_max: limits::CALLS_MAX,
            small: Pool::new(limits::SMALL_REQUESTS_BYTES_MAX, limits::SMALL_REQUESTS_WAITING_MAX),
            large: Pool::new(limits::LARGE_REQUESTS_BYTES_MAX, limits::LARGE_REQUESTS_WAITING_MAX),
            request_bytes_max,
        }
    }

    /// A place for a call of `method` until it is answered.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] if there is none: to wait for one would take as much memory as to have it.
    pub(super) fn begin(self: &Arc<Self>, method: &str) -> Result<Option<Place>, Status> {
        if waits_for_something(method) {
            return Ok(None);
        }
        let place = Place(Arc::clone(self));
        if self.calls.fetch_add(1, Ordering::Relaxed) >= self.calls_max {
            return Err(Error::Overloaded(TOO_MANY_CALLS_TEXT.to_owned()).into());
        }
        Ok(Some(place))
    }

    fn pool(&self, bytes: usize) -> &Pool {
        if bytes <= limits::SMALL_REQUEST_BYTES_MAX { &self.small } else { &self.large }
    }
}

/// A call's place among those that are answered, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Budget>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    fn new(bytes_max: usize, waiting_max: usize) -> Pool {
        Pool { bytes_max, bytes: Arc::new(Semaphore::new(bytes_max)), places: Semaphore::new(waiting_max) }
    }

    /// One request always fits, however large it is.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX)
    }

    fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.bytes).try_acquire_many_owned(self.permits(bytes)).ok()
    }

    /// Waits for a while, in the order of arrival.
    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        match self.try_take(bytes) {
            Some(permit) => Ok(permit),
            // Apart, so that calls that need not wait carry no timer with them.
            None => Box::pin(self.wait(bytes)).await,
        }
    }

    async fn wait(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let overloaded = || Error::Overloaded(OVERLOADED_TEXT.to_owned());
        let _place = self.places.try_acquire().map_err(|_| overloaded())?;
        let acquire = Arc::clone(&self.bytes).acquire_many_owned(self.permits(bytes));
        // The semaphores are never closed.
        timeout(limits::REQUEST_ADMISSION_WAIT_MAX, acquire).await.ok().and_then(Result::ok).ok_or_else(overloaded)
    }
}

/// Reads the body of a request whole once there is room for it.
///
/// # Errors
///
/// [`Error::Overloaded`] when there is no room for too long, [`Error::DeadlineExceeded`] when the body does not come.
pub(super) async fn read(
    budget: &Arc<Budget>,
    request: Request<Body>,
) -> Result<(Request<Frames>, Option<Held>), Status> {
    let (mut parts, mut body) = request.into_parts();
    let (message, permit) = read_in_time(read_message(budget, &mut body)).await?;
    let held = permit.map(|(permit, is_compressed)| {
        if !is_compressed {
            return Held::Fixed { _bytes: permit };
        }
        let bytes = Arc::new(Mutex::new(permit));
        parts.extensions.insert(Compressed { budget: Arc::clone(budget), bytes: Arc::clone(&bytes) });
        Held::Settled { _bytes: bytes }
    });
    Ok((Request::from_parts(parts, message), held))
}

/// What `reading` comes to, if it does so in time. Mostly all there is to read has arrived, and no timer is made.
async fn read_in_time<T>(reading: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let mut reading = pin!(reading);
    if let Poll::Ready(read) = futures::poll!(reading.as_mut()) {
        return read;
    }
    let read = Box::pin(timeout(limits::REQUEST_READ_TIME_MAX, reading)).await;
    read.unwrap_or_else(|_| Err(Error::DeadlineExceeded("the request's body did not arrive in time").into()))
}

/// The message with its share of the budget, and whether it is compressed.
async fn read_message(
    budget: &Budget,
    body: &mut Body,
) -> Result<(Frames, Option<(OwnedSemaphorePermit, bool)>), Status> {
    let mut message = Frames::default();
    let Some(prefix) = message.read_prefix(body).await? else { return Err(Status::unknown("EOF")) };
    if prefix.bytes > budget.request_bytes_max {
        // tonic refuses it by its prefix.
        return Ok((message, None));
    }
    let expansion = if prefix.is_compressed { EXPANSION } else { 1 };
    let charged = (prefix.bytes * expansion).min(budget.request_bytes_max);
    let permit = budget.pool(charged).take(charged).await?;
    message.read_to_end(body, PREFIX_BYTES + prefix.bytes).await?;
    if message.bytes() < PREFIX_BYTES + prefix.bytes {
        return Err(Status::unknown("unexpected EOF"));
    }
    Ok((message, Some((permit, prefix.is_compressed))))
}

/// Charges a request that was compressed for what it really takes, now that it is decoded.
///
/// # Errors
///
/// [`Error::Overloaded`] if it is larger than was thought and there is no room: it is in memory already, so it may not wait.
pub(super) fn settle<T: Message>(request: &tonic::Request<T>) -> Result<(), Error> {
    let Some(Compressed { budget, bytes }) = request.extensions().get::<Compressed>() else { return Ok(()) };
    let needed = request.get_ref().encoded_len();
    let mut held = bytes.lock();
    match held.num_permits().checked_sub(needed) {
        Some(surplus) => drop(held.split(surplus)),
        None => {
            let permit = budget.pool(needed).try_take(needed);
            *held = permit.ok_or_else(|| Error::Overloaded(OVERLOADED_TEXT.to_owned()))?;
        }
    }
    Ok(())
}

/// What stands in front of a message.
struct Prefix {
    is_compressed: bool,
    bytes: usize,
}

/// A body as it came in.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Almost always all there is.
    first: Bytes,
    /// Copied together: a client may send one byte a frame.
    others: BytesMut,
}

impl Frames {
    /// All bytes, in order.
    pub(super) fn into_bytes(self) -> [Bytes; 2] {
        [self.first, self.others.freeze()]
    }

    fn bytes(&self) -> usize {
        self.first.len() + self.others.len()
    }

    /// Whether the message is compressed, and the message. `None` if it is not whole.
    pub(super) fn message(&self) -> Option<(bool, Cow<'_, [u8]>)> {
        let (flag, length) = (*self.first.first()?, self.bytes().checked_sub(PREFIX_BYTES)?);
        let message = match self.first.get(PREFIX_BYTES..) {
            Some(message) if message.len() == length => Cow::Borrowed(message),
            _ => Cow::Owned(self.first.iter().chain(&self.others).skip(PREFIX_BYTES).copied().collect()),
        };
        Some((flag != 0, message))
    }

    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() {
            self.first = data;
        } else {
            self.others.extend_from_slice(&data);
        }
    }

    /// Reads until the length of the message is known. None if the body ends before that.
    async fn read_prefix(&mut self, body: &mut Body) -> Result<Option<Prefix>, Status> {
        while self.bytes() < PREFIX_BYTES {
            match next_data(body).await? {
                Some(data) => self.push(data),
                None => return Ok(None),
            }
        }
        let mut prefix = [0; PREFIX_BYTES];
        prefix.iter_mut().zip(self.first.iter().chain(&self.others)).for_each(|(place, byte)| *place = *byte);
        let [flag, length @ ..] = prefix;
        Ok(Some(Prefix { is_compressed: flag != 0, bytes: u32::from_be_bytes(length) as usize }))
    }

    /// Reads the rest of a message, and the end of the body. What is behind the message is not kept.
    async fn read_to_end(&mut self, body: &mut Body, bytes_max: usize) -> Result<(), Status> {
        self.others.reserve(bytes_max.saturating_sub(self.bytes()));
        while !body.is_end_stream()
            && let Some(mut data) = next_data(body).await?
        {
            data.truncate(bytes_max.saturating_sub(self.bytes()));
            self.push(data);
        }
        Ok(())
    }
}

/// The next data of a body; None at its end, which may be trailers.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Status> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await.transpose()?;
    Ok(frame.and_then(|frame| frame.into_data().ok()))
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match std::mem::take(&mut self.first) {
            first if first.is_empty() => std::mem::take(&mut self.others).freeze(),
            first => first,
        };
        Poll::Ready((!next.is_empty()).then(|| Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.others.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use http::Response;

    use super::*;

    const REQUEST_BYTES_MAX: usize = 4 << 20;

    fn budget() -> Arc<Budget> {
        Arc::new(Budget::new(REQUEST_BYTES_MAX))
    }

    /// A request whose body comes in these parts, and never ends if the last one is none.
    fn request(parts: Vec<Option<Bytes>>) -> Request<Body> {
        let ends = parts.last().is_none_or(Option::is_some);
        let parts = parts.into_iter().flatten().map(|data| Ok::<_, Status>(Frame::data(data)));
        let body = Parts { parts: parts.collect::<Vec<_>>().into_iter(), ends };
        Request::new(Body::new(body))
    }

    struct Parts {
        parts: std::vec::IntoIter<Result<Frame<Bytes>, Status>>,
        ends: bool,
    }

    impl http_body::Body for Parts {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.parts.next() {
                None if !self.ends => Poll::Pending,
                next => Poll::Ready(next),
            }
        }
    }

    fn message(flag: u8, bytes: usize) -> Vec<u8> {
        let mut message = vec![flag];
        message.extend(u32::try_from(bytes).unwrap().to_be_bytes());
        message.extend(std::iter::repeat_n(7, bytes));
        message
    }

    async fn collected(body: Frames) -> Vec<u8> {
        let mut body = Body::new(body);
        let mut all = Vec::new();
        while let Some(data) = next_data(&mut body).await.unwrap() {
            all.extend_from_slice(&data);
        }
        all
    }

    #[tokio::test]
    async fn a_body_is_the_same_however_it_comes() {
        for (bytes, part) in [(0, 3), (10, 1), (10, 4), (10, 100), (300_000, 16_384)] {
            let whole = message(0, bytes);
            let parts = whole.chunks(part).map(|part| Some(Bytes::copy_from_slice(part))).collect();
            let (read, held) = read(&budget(), request(parts)).await.unwrap();
            assert!(held.is_some());
            assert_eq!(collected(read.into_body()).await, whole, "{bytes} in parts of {part}");
        }
    }

    #[test]
    fn calls_beyond_the_bound_are_refused_and_those_that_wait_are_not_counted() {
        let budget = Arc::new(Budget { calls_max: 2, ..Budget::new(REQUEST_BYTES_MAX) });
        let first = budget.begin("SignalWorkflowExecution").unwrap();
        let _second = budget.begin("SignalWorkflowExecution").unwrap();
        for _ in 0..3 {
            let refused = budget.begin("SignalWorkflowExecution").unwrap_err();
            assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
            assert!(budget.begin("PollWorkflowTaskQueue").unwrap().is_none());
        }
        drop(first);
        assert!(budget.begin("SignalWorkflowExecution").unwrap().is_some());
    }

    #[tokio::test]
    async fn requests_that_do_not_arrive_take_no_places_of_calls() {
        let budget = Arc::new(Budget { calls_max: 1, ..Budget::new(REQUEST_BYTES_MAX) });
        let call = |parts| {
            let service = tower::service_fn(async |_: Request<Body>| Ok(Response::new(Body::empty())));
            let call = super::super::layer::call(
                Arc::clone(&budget),
                None,
                "SignalWorkflowExecution",
                request(parts),
                service,
            );
            Box::pin(call)
        };
        let begin = Bytes::from_static(b"\0\0\0\0\x05he");
        let mut halves: Vec<_> = (0..3).map(|_| call(vec![Some(begin.clone()), None])).collect();
        assert!(halves.iter_mut().all(|half| half.now_or_never().is_none()));
        let whole = call(vec![Some(begin.clone()), Some(Bytes::from_static(b"llo"))]).await.unwrap();
        assert!(Status::from_header_map(whole.headers()).is_none(), "{:?}", whole.headers());
    }

    #[tokio::test]
    async fn what_is_too_large_is_left_to_the_codec() {
        let large = vec![Some(Bytes::from(message(0, REQUEST_BYTES_MAX + 1)).slice(..100)), None];
        let (read, held) = read(&budget(), request(large)).await.unwrap();
        assert!(held.is_none());
        assert_eq!(collected(read.into_body()).await.len(), 100);
    }

    #[tokio::test]
    async fn a_body_that_ends_too_early_is_refused_as_grpc_go_does() {
        let cut = |bytes| vec![Some(Bytes::from(message(0, 10)).slice(..bytes))];
        for (parts, told) in [(vec![], "EOF"), (cut(3), "EOF"), (cut(5), "unexpected EOF"), (cut(14), "unexpected EOF")]
        {
            let budget = budget();
            let status = read(&budget, request(parts)).await.unwrap_err();
            assert_eq!((status.code(), status.message()), (tonic::Code::Unknown, told));
            assert_eq!(budget.small.bytes.available_permits(), limits::SMALL_REQUESTS_BYTES_MAX);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_wait_for_each_other_and_small_ones_for_none_of_them() {
        let budget = budget();
        let large = || request(vec![Some(message(0, 2 << 20).into())]);
        let mut held = Vec::new();
        for _ in 0..limits::LARGE_REQUESTS_BYTES_MAX / (2 << 20) {
            held.push(read(&budget, large()).await.unwrap());
        }
        let mut next = Box::pin(read(&budget, large()));
        assert!(next.as_mut().now_or_never().is_none());
        read(&budget, request(vec![Some(message(0, 100).into())])).now_or_never().unwrap().unwrap();
        drop(held.pop());
        let next = next.await.unwrap();

        let began = tokio::time::Instant::now();
        let refused = read(&budget, large()).await.unwrap_err();
        assert_eq!(
            (refused.code(), began.elapsed()),
            (tonic::Code::ResourceExhausted, limits::REQUEST_ADMISSION_WAIT_MAX)
        );
        drop((held, next));
        assert_eq!(budget.large.bytes.available_permits(), limits::LARGE_REQUESTS_BYTES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_wait() {
        let budget = budget();
        let _all = budget.large.take(limits::LARGE_REQUESTS_BYTES_MAX).await.unwrap();
        let waiting = (0..limits::LARGE_REQUESTS_WAITING_MAX).map(|_| Box::pin(budget.large.take(1)));
        let mut waiting: Vec<_> = waiting.collect();
        assert!(waiting.iter_mut().all(|one| one.as_mut().now_or_never().is_none()));
        assert!(budget.large.take(1).now_or_never().unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let budget = budget();
        let half = Bytes::from(message(0, 1 << 20)).slice(..1000);
        let began = tokio::time::Instant::now();
        let status = read(&budget, request(vec![Some(half), None])).await.unwrap_err();
        assert_eq!((status.code(), began.elapsed()), (tonic::Code::DeadlineExceeded, limits::REQUEST_READ_TIME_MAX));
        assert_eq!(budget.large.bytes.available_permits(), limits::LARGE_REQUESTS_BYTES_MAX);
        assert!(limits::REQUEST_READ_TIME_MAX > Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_compressed_request_is_charged_for_what_it_unpacks_to() {
        let budget = budget();
        let free = || (budget.small.bytes.available_permits(), budget.large.bytes.available_permits());
        let rest = free();
        // What a message encodes to is all that counts here.
        let decoded = |read: Request<Frames>, bytes: usize| {
            let (metadata, extensions) = (tonic::metadata::MetadataMap::new(), read.extensions().clone());
            tonic::Request::from_parts(metadata, extensions, prost::bytes::Bytes::from(vec![1; bytes]))
        };
        let (request_read, held) = read(&budget, request(vec![Some(message(1, 1000).into())])).await.unwrap();
        assert_eq!(free(), (rest.0 - 4000, rest.1));
        let smaller = decoded(request_read, 100);
        settle(&smaller).unwrap();
        assert_eq!(free(), (rest.0 - smaller.get_ref().encoded_len(), rest.1));
        let larger = tonic::Request::from_parts(
            smaller.metadata().clone(),
            smaller.extensions().clone(),
            Bytes::from(vec![1; 1 << 20]),
        );
        settle(&larger).unwrap();
        assert_eq!(free(), (rest.0, rest.1 - larger.get_ref().encoded_len()));
        let _all = budget.large.try_take(budget.large.bytes.available_permits()).unwrap();
        let huge = tonic::Request::from_parts(
            larger.metadata().clone(),
            larger.extensions().clone(),
            Bytes::from(vec![1; 2 << 20]),
        );
        assert!(settle(&huge).is_err());
        drop((held, smaller, larger, huge));
    }
}
