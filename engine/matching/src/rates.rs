//! Rates: a token bucket that limits them and a rolling count that measures them.

use std::time::Duration;

use everlog_model::limits;
use tokio::time::Instant;

/// Lets `per_second` tasks through on average, and up to a second's worth (at least one) at once.
#[derive(Debug)]
pub(super) struct TokenBucket {
    per_second: f64,
    tokens: f64,
    filled_at: Instant,
}

impl TokenBucket {
    /// A full bucket. A rate that is no number, or negative, lets nothing through.
    pub(super) fn new(per_second: f64, now: Instant) -> TokenBucket {
        let mut bucket = TokenBucket { per_second: per_second.max(0.0), tokens: 0.0, filled_at: now };
        bucket.tokens = bucket.burst();
        bucket
    }

    /// Whether that changes the rate.
    pub(super) fn set_rate(&mut self, per_second: f64, now: Instant) -> bool {
        let per_second = per_second.max(0.0);
        if per_second == self.per_second {
            return false;
        }
        self.fill(now);
        self.per_second = per_second;
        self.tokens = self.tokens.min(self.burst());
        true
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.take_part(1.0, now)
    }

    /// Takes a part of a token, if there is as much.
    pub(super) fn take_part(&mut self, part: f64, now: Instant) -> bool {
        self.fill(now);
        let available = self.tokens >= part;
        if available {
            self.tokens -= part;
        }
        available
    }

    /// Whether there is a token.
    pub(super) fn has_token(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens >= 1.0
    }

    /// Whether it has been left alone for long enough to have all its tokens.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens >= self.burst()
    }

    /// When the next token will be there; `None` if never.
    pub(super) fn next_at(&self) -> Option<Instant> {
        if self.per_second <= 0.0 {
            return None;
        }
        let missing = (1.0 - self.tokens).max(0.0) / self.per_second;
        // A rate of one task in years is as good as none; a millisecond more makes up for what rounding takes.
        let wait = Duration::try_from_secs_f64(missing).ok()?.checked_add(Duration::from_millis(1))?;
        self.filled_at.checked_add(wait)
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst());
        self.filled_at = now;
    }

    fn burst(&self) -> f64 {
        if self.per_second > 0.0 { self.per_second.ceil().max(1.0) } else { 0.0 }
    }
}

/// Who has set the rate that holds for a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateSource {
    /// Nobody: it is what the server allows any queue.
    #[default]
    System,
    /// The worker that polled last with a rate.
    Worker,
    /// The settings of the queue.
    Api,
}

/// How many tasks a second a queue hands out. What its settings say counts more than what workers say, and neither can raise it beyond
/// [`limits::QUEUE_TASKS_PER_SECOND_MAX`].
#[derive(Debug)]
pub(super) struct RateLimit {
    api: Option<f64>,
    worker: Option<f64>,
    bucket: TokenBucket,
}

impl RateLimit {
    pub(super) fn new(api: Option<f64>, now: Instant) -> RateLimit {
        let (per_second, _) = effective(api, None);
        RateLimit { api, worker: None, bucket: TokenBucket::new(per_second, now) }
    }

    /// What the settings say. Returns whether that changes the rate.
    pub(super) fn set_api(&mut self, per_second: Option<f64>, now: Instant) -> bool {
        self.api = per_second;
        self.bucket.set_rate(self.effective().0, now)
    }

    /// What a worker says. Returns whether that changes the rate.
    pub(super) fn set_worker(&mut self, per_second: f64, now: Instant) -> bool {
        self.worker = Some(per_second);
        self.bucket.set_rate(self.effective().0, now)
    }

    /// Tasks per second, and who says so.
    pub(super) fn effective(&self) -> (f64, RateSource) {
        effective(self.api, self.worker)
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.bucket.take(now)
    }

    /// Whether there is no token just now.
    pub(super) fn is_exhausted(&mut self, now: Instant) -> bool {
        !self.bucket.has_token(now)
    }

    /// When the next token will be there; `None` if never.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.bucket.next_at()
    }
}

fn effective(api: Option<f64>, worker: Option<f64>) -> (f64, RateSource) {
    let wanted = api.map(|rate| (rate, RateSource::Api)).or(worker.map(|rate| (rate, RateSource::Worker)));
    match wanted {
        Some((rate, source)) if rate < limits::QUEUE_TASKS_PER_SECOND_MAX => (rate, source),
        _ => (limits::QUEUE_TASKS_PER_SECOND_MAX, RateSource::System),
    }
}

/// Seconds that rates are measured over.
const WINDOW_SECONDS: u64 = 30;

/// Counts events of the last 30 seconds, in buckets of one second.
#[derive(Debug)]
pub(super) struct RollingCount {
    start: Instant,
    second: u64,
    buckets: [u32; WINDOW_SECONDS as usize],
}

impl RollingCount {
    pub(super) fn new(start: Instant) -> RollingCount {
        RollingCount { start, second: 0, buckets: [0; WINDOW_SECONDS as usize] }
    }

    pub(super) fn count(&mut self, now: Instant) {
        self.advance(now);
        let bucket = &mut self.buckets[(self.second % WINDOW_SECONDS) as usize];
        *bucket = bucket.saturating_add(1);
    }

    /// Events per second, over the last 30 s or since the start.
    pub(super) fn per_second(&mut self, now: Instant) -> f64 {
        self.advance(now);
        let events: u64 = self.buckets.iter().map(|count| u64::from(*count)).sum();
        let seconds = now.saturating_duration_since(self.start).as_secs_f64().clamp(1.0, WINDOW_SECONDS as f64);
        events as f64 / seconds
    }

    fn advance(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.start).as_secs();
        let passed = second.saturating_sub(self.second).min(WINDOW_SECONDS);
        for step in 1..=passed {
            self.buckets[((second - passed + step) % WINDOW_SECONDS) as usize] = 0;
        }
        self.second = self.second.max(second);
    }
}
