//! Latencies in bounded memory: a log-linear histogram with a relative error below 1.6 %.

use std::time::Duration;

/// Values below this are counted exactly.
const LINEAR: u64 = 128;
/// Buckets per power of two above that.
const PER_OCTAVE: usize = 64;
/// Powers of two covered; 2^40 µs are twelve days.
const OCTAVES: usize = 33;

/// Counts of latencies in microseconds.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Histogram { counts: vec![0; LINEAR as usize + OCTAVES * PER_OCTAVE], total: 0 }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.counts[bucket(latency.as_micros() as u64)] += 1;
        self.total += 1;
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// How many values were recorded.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The value in microseconds that `quantile` (0 to 1) of all values do not exceed; none when nothing was recorded.
    pub(crate) fn quantile_us(&self, quantile: f64) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        let rank = ((quantile * self.total as f64).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(middle(index));
            }
        }
        None
    }
}

fn bucket(us: u64) -> usize {
    if us < LINEAR {
        return us as usize;
    }
    let exponent = 63 - us.leading_zeros() as usize;
    let within = (us >> (exponent - 6)) as usize & (PER_OCTAVE - 1);
    (LINEAR as usize + (exponent - 7) * PER_OCTAVE + within).min(LINEAR as usize + OCTAVES * PER_OCTAVE - 1)
}

fn middle(index: usize) -> f64 {
    if index < LINEAR as usize {
        return index as f64;
    }
    let exponent = (index - LINEAR as usize) / PER_OCTAVE + 7;
    let within = (index - LINEAR as usize) % PER_OCTAVE;
    let width = (1u64 << (exponent - 6)) as f64;
    (PER_OCTAVE + within) as f64 * width + width / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_stay_within_the_stated_error() {
        let mut histogram = Histogram::new();
        for us in 1..=100_000 {
            histogram.record(Duration::from_micros(us));
        }
        for (quantile, expected) in [(0.5, 50_000.0), (0.99, 99_000.0), (1.0, 100_000.0), (0.00001, 1.0)] {
            let value = histogram.quantile_us(quantile).unwrap();
            assert!((value - expected).abs() <= expected * 0.016, "{quantile}: {value} instead of {expected}");
        }
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(Histogram::new().quantile_us(0.5), None);
    }
}
