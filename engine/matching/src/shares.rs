//! Which lane of a queue has its turn: the lanes of fairness keys share it by their weights.
//!
//! Lanes advance in a time of their own (stride scheduling). Each has a *pass*, and the least of those that wait goes next; it then
//! moves on by a stride, which is the shorter the more its lane weighs. A lane that comes anew, or comes back, starts where the queue has
//! got to: what it did not use is not owed to it, so it starves nobody, and neither does it have to wait for others.
//!
//! ```text
//!   a, of weight 1   |        4        8        12          pass
//!   b, of weight 2   |    2   4   6    8   10   12          ▶ a b b a b b …
//!   c, which is new                     ▲ starts at the least of those that wait
//! ```
//!
//! Priorities come first: each has its own passes. A queue without keys has one lane, of which nothing is kept.
//!
//! Settings may also limit how many tasks a second each key gets, in proportion to its weight. A lane that is beyond its limit is passed
//! over until it is within it again.

use std::collections::BTreeSet;
use std::time::Duration;

use everlog_kernel::{Lane, Weight};
use everlog_model::{FastMap, limits};
use tokio::time::Instant;

use super::QueueSettings;
use super::rates::TokenBucket;

/// What a lane of weight 1 moves on by. Divided by the largest weight it is still exact to a thousandth.
const STRIDE: f64 = 1_000_000.0;

/// Priorities are 1 to 5.
const LEVELS: usize = 6;

/// When a lane has its turn whose limit is 0: long after settings have changed.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The lanes that wait, and how far all have got.
#[derive(Default)]
pub(super) struct Shares {
    settings: QueueSettings,
    /// The tasks without a key, if some wait.
    unkeyed: Option<Head>,
    /// The lanes that wait.
    keyed: FastMap<Lane, Head>,
    /// Those of them that may have their turn, in order: by priority, then by pass.
    order: BTreeSet<(u8, u64, Lane)>,
    /// Lanes that are beyond their limit, and when they are within it again.
    throttled: BTreeSet<(Instant, Lane)>,
    /// Where lanes are that have had a turn, at a priority. Empty as long as there are no keys.
    passes: FastMap<(Lane, u8), u64>,
    /// How far the queue has got, at each priority.
    reached: [u64; LEVELS],
    /// Of the limit that settings set for each key.
    buckets: FastMap<Lane, KeyBucket>,
}

/// The first task of a lane.
#[derive(Clone, Copy)]
struct Head {
    priority: u8,
    pass: u64,
    throttled_until: Option<Instant>,
}

struct KeyBucket {
    bucket: TokenBucket,
    /// Of its lane.
    factor: f64,
}

impl Shares {
    pub(super) fn new(settings: QueueSettings) -> Shares {
        Shares { settings, ..Shares::default() }
    }

    /// The first task of a lane has that priority now, or there is none.
    pub(super) fn set_head(&mut self, lane: Lane, priority: Option<u8>) {
        if self.head(lane).map(|head| head.priority) == priority {
            return;
        }
        self.remove(lane);
        if let Some(priority) = priority {
            let pass = self.start(lane, priority);
            self.insert(lane, Head { priority, pass, throttled_until: None });
        }
    }

    /// The lane that has its turn.
    pub(super) fn choose(&mut self, now: Instant) -> Option<Lane> {
        while let Some((at, lane)) = self.throttled.first().copied()
            && at <= now
        {
            self.release(lane);
        }
        loop {
            let lane = self.first()?;
            if self.is_within_limit(lane, now) {
                return Some(lane);
            }
            let next = self.buckets.get(&lane).and_then(|of| of.bucket.next_at());
            if let Some(head) = self.remove(lane) {
                self.insert(lane, Head { throttled_until: Some(next.unwrap_or(now + NEVER)), ..head });
            }
        }
    }

    /// When the first of the lanes is within its limit again that are beyond it.
    pub(super) fn next_ready(&self) -> Option<Instant> {
        self.throttled.first().map(|(at, _)| *at)
    }

    /// Whether a lane may have a task by the limit of its key.
    pub(super) fn is_within_limit(&mut self, lane: Lane, now: Instant) -> bool {
        match (self.settings.per_second_and_key, self.buckets.get_mut(&lane)) {
            (None, _) => true,
            (Some(per_second), None) => per_second > 0.0,
            (Some(_), Some(of)) => of.bucket.has_token(now),
        }
    }

    /// A lane gets a task. If more of its tasks wait, that is told next with [`Shares::set_head`].
    pub(super) fn charge(&mut self, lane: Lane, priority: u8, weight: Weight, now: Instant) {
        let head = self.remove(lane).filter(|head| head.priority == priority);
        let pass = head.map_or_else(|| self.start(lane, priority), |head| head.pass);
        let reached = &mut self.reached[level(priority)];
        *reached = pass.max(*reached);
        let factor = self.factor(lane, weight);
        if lane != Lane::NONE || self.has_keys() {
            self.make_room_for_a_pass();
            self.passes.insert((lane, priority), pass.saturating_add(stride(factor)));
        }
        if let Some(per_second) = self.settings.per_second_and_key {
            self.make_room_for_a_bucket(now);
            let rate = per_second * factor;
            let new = || KeyBucket { bucket: TokenBucket::new(rate, now), factor };
            let of = self.buckets.entry(lane).or_insert_with(new);
            of.factor = factor;
            of.bucket.set_rate(rate, now);
            of.bucket.take(now);
        }
    }

    /// A task comes back that its lane was charged for.
    pub(super) fn refund(&mut self, lane: Lane, priority: u8, weight: Weight) {
        let stride = stride(self.factor(lane, weight));
        let Some(pass) = self.passes.get_mut(&(lane, priority)) else { return };
        *pass = pass.saturating_sub(stride);
        let pass = *pass;
        if let Some(head) = self.head(lane).filter(|head| head.priority == priority) {
            self.remove(lane);
            self.insert(lane, Head { pass, ..head });
        }
    }

    /// What settings say counts from here on.
    pub(super) fn configure(&mut self, settings: QueueSettings, now: Instant) {
        self.settings = settings;
        match self.settings.per_second_and_key {
            None => self.buckets.clear(),
            Some(per_second) => {
                for (lane, of) in &mut self.buckets {
                    if let Some(weight) = self.settings.weights.get(lane) {
                        of.factor = weight.factor();
                    }
                    of.bucket.set_rate(per_second * of.factor, now);
                }
            }
        }
        while let Some((_, lane)) = self.throttled.first().copied() {
            self.release(lane);
        }
    }

    /// The lanes of keys that wait.
    pub(super) fn keyed(&self) -> impl Iterator<Item = Lane> {
        self.keyed.keys().copied()
    }

    /// Forgets where lanes are once none waits: all start alike then.
    pub(super) fn sweep(&mut self) {
        if self.unkeyed.is_none() && self.keyed.is_empty() {
            self.passes = FastMap::default();
        }
    }

    fn has_keys(&self) -> bool {
        !self.keyed.is_empty() || !self.passes.is_empty()
    }

    fn head(&self, lane: Lane) -> Option<Head> {
        match lane {
            Lane::NONE => self.unkeyed,
            _ => self.keyed.get(&lane).copied(),
        }
    }

    /// The lane with the least pass of the first priority.
    fn first(&self) -> Option<Lane> {
        let unkeyed = self.unkeyed.filter(|head| head.throttled_until.is_none());
        let unkeyed = unkeyed.map(|head| (head.priority, head.pass, Lane::NONE));
        let (_, _, lane) = self.order.first().copied().into_iter().chain(unkeyed).min()?;
        Some(lane)
    }

    fn insert(&mut self, lane: Lane, head: Head) {
        if let Some(at) = head.throttled_until {
            self.throttled.insert((at, lane));
        } else if lane != Lane::NONE {
            self.order.insert((head.priority, head.pass, lane));
        }
        match lane {
            Lane::NONE => self.unkeyed = Some(head),
            _ => {
                self.keyed.insert(lane, head);
            }
        }
    }

    fn remove(&mut self, lane: Lane) -> Option<Head> {
        let head = match lane {
            Lane::NONE => self.unkeyed.take(),
            _ => self.keyed.remove(&lane),
        }?;
        match head.throttled_until {
            Some(at) => self.throttled.remove(&(at, lane)),
            None => self.order.remove(&(head.priority, head.pass, lane)),
        };
        Some(head)
    }

    fn release(&mut self, lane: Lane) {
        if let Some(head) = self.remove(lane) {
            self.insert(lane, Head { throttled_until: None, ..head });
        }
    }

    /// Where a lane starts that did not wait before.
    fn start(&self, lane: Lane, priority: u8) -> u64 {
        let pass = self.passes.get(&(lane, priority)).copied().unwrap_or(0);
        pass.max(self.reached[level(priority)])
    }

    fn factor(&self, lane: Lane, weight: Weight) -> f64 {
        self.settings.weights.get(&lane).copied().unwrap_or(weight).factor()
    }

    /// Forgets lanes that are not ahead of the others, and if that is not enough, all that do not wait.
    fn make_room_for_a_pass(&mut self) {
        if self.passes.len() < limits::LANES_REMEMBERED_MAX {
            return;
        }
        let (keyed, reached) = (&self.keyed, self.reached);
        self.passes.retain(|(lane, priority), pass| keyed.contains_key(lane) || *pass > reached[level(*priority)]);
        if self.passes.len() > limits::LANES_REMEMBERED_MAX / 2 {
            self.passes.retain(|(lane, _), _| keyed.contains_key(lane));
        }
    }

    /// Forgets the limits of keys that have had no task for a while, and if that is not enough, of all that do not wait.
    fn make_room_for_a_bucket(&mut self, now: Instant) {
        if self.buckets.len() < limits::LANES_REMEMBERED_MAX {
            return;
        }
        self.buckets.retain(|_, of| !of.bucket.is_full(now));
        if self.buckets.len() > limits::LANES_REMEMBERED_MAX / 2 {
            let keyed = &self.keyed;
            self.buckets.retain(|lane, _| keyed.contains_key(lane));
        }
    }
}

fn level(priority: u8) -> usize {
    usize::from(priority).min(LEVELS - 1)
}

fn stride(factor: f64) -> u64 {
    (STRIDE / factor) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use everlog_random::Random;

    use super::*;

    fn settings(per_second_and_key: Option<f64>, weights: &[(u64, f32)]) -> QueueSettings {
        let weights = weights.iter().map(|(lane, weight)| (Lane(*lane), Weight::of(*weight))).collect();
        QueueSettings { per_second: None, per_second_and_key, weights: Arc::new(weights) }
    }

    /// Hands out a task of the lane that has its turn, and more of its tasks wait.
    fn next(shares: &mut Shares, weight: impl Fn(Lane) -> Weight, now: Instant) -> Option<Lane> {
        let lane = shares.choose(now)?;
        let priority = shares.head(lane).unwrap().priority;
        shares.charge(lane, priority, weight(lane), now);
        shares.set_head(lane, Some(priority));
        Some(lane)
    }

    #[test]
    fn lanes_share_by_weight_over_any_window() {
        let now = Instant::now();
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let weights: HashMap<Lane, f32> = (0..2 + random.below(8) as u64)
                .map(|lane| (Lane(lane), 0.5 + random.below(100) as f32 / 10.0))
                .collect();
            let mut shares = Shares::default();
            weights.keys().for_each(|lane| shares.set_head(*lane, Some(3)));
            let order: Vec<Lane> =
                (0..4_000).map(|_| next(&mut shares, |lane| Weight::of(weights[&lane]), now).unwrap()).collect();
            let total: f32 = weights.values().sum();
            for window in order.windows(400).step_by(37) {
                for (lane, weight) in &weights {
                    let expected = 400.0 * weight / total;
                    let got = window.iter().filter(|of| *of == lane).count() as f32;
                    // No lane is ever more than a turn or so off.
                    assert!((got - expected).abs() <= 2.0, "seed {seed}: {lane:?} has {got} of {expected}");
                }
            }
        }
    }

    #[test]
    fn a_lane_that_comes_late_neither_waits_nor_catches_up() {
        let now = Instant::now();
        let one = |_: Lane| Weight::ONE;
        let mut shares = Shares::default();
        shares.set_head(Lane(1), Some(3));
        for _ in 0..1_000_000 {
            next(&mut shares, one, now);
        }
        shares.set_head(Lane(2), Some(3));
        let order: Vec<u64> = (0..100).map(|_| next(&mut shares, one, now).unwrap().0).collect();
        assert!(order[..2].contains(&2));
        assert_eq!(order.iter().filter(|lane| **lane == 2).count(), 50);
        // It does not gain by going and coming back, either.
        let mut turns = 0;
        for _ in 0..100 {
            let lane = next(&mut shares, one, now).unwrap();
            shares.set_head(Lane(2), None);
            shares.set_head(Lane(2), Some(3));
            turns += u64::from(lane == Lane(2));
        }
        assert!((49..=51).contains(&turns), "{turns}");
    }

    #[test]
    fn priorities_come_before_weights() {
        let now = Instant::now();
        let mut shares = Shares::default();
        shares.set_head(Lane(1), Some(3));
        shares.set_head(Lane(2), Some(4));
        shares.set_head(Lane::NONE, Some(2));
        let heavy = |lane: Lane| if lane == Lane(2) { Weight::MAX } else { Weight::MIN };
        for _ in 0..10 {
            assert_eq!(next(&mut shares, heavy, now), Some(Lane::NONE));
        }
        shares.set_head(Lane::NONE, None);
        assert_eq!(next(&mut shares, heavy, now), Some(Lane(1)));
        // More urgent from here on.
        shares.set_head(Lane(2), Some(1));
        assert_eq!(next(&mut shares, heavy, now), Some(Lane(2)));
    }

    #[test]
    fn what_settings_say_of_a_weight_counts_more_than_tasks() {
        let now = Instant::now();
        let mut shares = Shares::new(settings(None, &[(1, 3.0)]));
        shares.set_head(Lane(1), Some(3));
        shares.set_head(Lane(2), Some(3));
        let order: Vec<_> = (0..400).map(|_| next(&mut shares, |_| Weight::ONE, now).unwrap()).collect();
        assert!((299..=301).contains(&order.iter().filter(|lane| **lane == Lane(1)).count()));
        shares.configure(settings(None, &[]), now);
        let order: Vec<_> = (0..400).map(|_| next(&mut shares, |_| Weight::ONE, now).unwrap()).collect();
        assert!((198..=202).contains(&order.iter().filter(|lane| **lane == Lane(1)).count()));
    }

    #[test]
    fn each_key_has_its_limit_by_its_weight() {
        let start = Instant::now();
        let mut shares = Shares::new(settings(Some(10.0), &[(2, 2.0), (3, 0.5)]));
        (0..4).for_each(|lane| shares.set_head(Lane(lane), Some(3)));
        let mut counts = [0; 4];
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            while let Some(lane) = next(&mut shares, |_| Weight::ONE, now) {
                counts[lane.0 as usize] += 1;
            }
        }
        // For 10 seconds, with a second's worth at once before.
        for (lane, expected) in [(0, 110), (1, 110), (2, 220), (3, 55)] {
            let count: i32 = counts[lane];
            assert!((count - expected).abs() <= 2, "lane {lane}: {count} of {expected}");
        }
        assert!(shares.next_ready().unwrap() <= start + Duration::from_secs(11));
        shares.configure(settings(Some(0.0), &[]), start + Duration::from_secs(20));
        assert_eq!(next(&mut shares, |_| Weight::ONE, start + Duration::from_secs(1_000)), None);
        shares.configure(settings(None, &[]), start + Duration::from_secs(20));
        assert!(next(&mut shares, |_| Weight::ONE, start + Duration::from_secs(20)).is_some());
    }

    #[test]
    fn what_comes_back_is_not_charged() {
        let now = Instant::now();
        let mut shares = Shares::default();
        shares.set_head(Lane(1), Some(3));
        shares.set_head(Lane(2), Some(3));
        let (mut done, mut comes_back) = ([0_i32; 2], false);
        for _ in 0..300 {
            let lane = next(&mut shares, |_| Weight::ONE, now).unwrap();
            // Every second task of the first one comes back.
            comes_back = lane == Lane(1) && !comes_back;
            if comes_back {
                shares.refund(lane, 3, Weight::ONE);
            } else {
                done[(lane.0 - 1) as usize] += 1;
            }
        }
        assert!((done[0] - done[1]).abs() <= 2, "{done:?}");
    }

    #[test]
    fn memory_is_bounded_whatever_keys_there_are() {
        let start = Instant::now();
        let mut shares = Shares::new(settings(Some(1.0), &[]));
        shares.set_head(Lane(1), Some(3));
        for key in 2..10 * limits::LANES_REMEMBERED_MAX as u64 {
            let now = start + Duration::from_millis(key);
            shares.charge(Lane(key), 3, Weight::MIN, now);
            assert!(shares.passes.len() <= limits::LANES_REMEMBERED_MAX);
            assert!(shares.buckets.len() <= limits::LANES_REMEMBERED_MAX);
        }
        shares.set_head(Lane(1), None);
        shares.sweep();
        assert!(shares.passes.is_empty() && shares.order.is_empty() && shares.throttled.is_empty());
    }

    #[test]
    fn nothing_is_kept_of_a_queue_without_keys() {
        let now = Instant::now();
        let mut shares = Shares::default();
        shares.set_head(Lane::NONE, Some(3));
        for _ in 0..100 {
            assert_eq!(next(&mut shares, |_| Weight::ONE, now), Some(Lane::NONE));
        }
        assert!(shares.passes.is_empty() && shares.order.is_empty() && shares.keyed.is_empty());
    }
}
