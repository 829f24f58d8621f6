//! A histogram that widens as values arrive and does not depend on their order.

use rayon::prelude::*;

use crate::scan::min_max;
use crate::{Error, Result};

/// Bins on each side of zero.
const HALF: usize = 8192;

/// Values that one thread counts at a time.
const PART: usize = 1 << 16;

/// Width exponent of a histogram that has only seen zeros: the finest that any f32 can need.
const FINEST: i32 = -160;

/// Counts of values in 16384 bins of equal width around zero.
///
/// The width is a power of two and every bin starts at a multiple of it. When a value does not fit, the
/// width doubles and neighbours merge exactly, so what is counted never depends on the order or batching of
/// the values, and two histograms merge without loss. The resolution is `max |x| / 4096` or finer.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Empty until the first value.
    counts: Vec<u64>,
    /// The width is two to this power.
    exponent: i32,
    min: f32,
    max: f32,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Vec::new(), exponent: FINEST, min: f32::INFINITY, max: f32::NEG_INFINITY, count: 0 }
    }
}

/// Counts of values in `counts.len()` bins of equal width from `min` to `max`, for display.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HistogramView {
    /// Least value seen, where the first bin starts.
    pub min: f32,
    /// Greatest value seen, where the last bin ends.
    pub max: f32,
    /// Values per bin.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Counts `values`.
    ///
    /// # Errors
    /// [`Error::Empty`] and [`Error::NotFinite`]; nothing is counted then.
    pub fn observe(&mut self, values: &[f32]) -> Result<()> {
        let (min, max) = min_max("values", values)?;
        if values.len() < 2 * PART {
            self.count_between(values, min, max);
            return Ok(());
        }
        // The parts may be counted in any order.
        let count = |part: &[f32]| {
            let mut counted = Self::default();
            counted.count_between(part, min, max);
            counted
        };
        let counted: Vec<Self> = values.par_chunks(PART).map(count).collect();
        counted.iter().for_each(|part| self.merge(part));
        Ok(())
    }

    /// Counts finite `values` that lie between `min` and `max`. These bounds count as seen.
    fn count_between(&mut self, values: &[f32], min: f32, max: f32) {
        self.widen_for(min, max);
        // Exact: the width is a power of two, and f64 holds every f32 divided by it.
        let inverse = (-f64::from(self.exponent)).exp2();
        for &x in values {
            let position = f64::from(x) * inverse;
            let towards_zero = position as i32;
            // The floor, without a call where the processor's baseline has no instruction for it.
            let bin = towards_zero - i32::from(position < f64::from(towards_zero)) + HALF as i32;
            self.counts[bin as usize] += 1;
        }
        self.count += values.len() as u64;
    }

    /// Adds what `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.widen_for(other.min, other.max);
        let mut other = other.clone();
        // Both now cover both ranges. The coarser of the two widths is used.
        let exponent = self.exponent.max(other.exponent);
        self.coarsen(exponent);
        other.coarsen(exponent);
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
    }

    /// Number of values counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Least and greatest value; `None` before the first.
    pub fn bounds(&self) -> Option<(f32, f32)> {
        (self.count > 0).then_some((self.min, self.max))
    }

    /// Width of a bin.
    pub fn bin_width(&self) -> f64 {
        f64::from(self.exponent).exp2()
    }

    /// Lower edge and count of every bin that is not empty, in ascending order.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let width = self.bin_width();
        let edge = move |index: usize| (index as f64 - HALF as f64) * width;
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(move |(i, n)| (edge(i), *n))
    }

    /// The counts in `bins` bins of equal width over the range seen; each fine bin goes to the one that
    /// holds its midpoint.
    ///
    /// # Errors
    /// [`Error::NothingObserved`] before the first value, [`Error::Parameter`] for no bins.
    pub fn view(&self, bins: usize) -> Result<HistogramView> {
        let Some((min, max)) = self.bounds() else {
            return Err(Error::NothingObserved { what: "histogram" });
        };
        if bins == 0 {
            return Err(Error::Parameter { what: "bins", detail: "0; use at least 1".to_owned() });
        }
        let mut counts = vec![0; bins];
        let width = (f64::from(max) - f64::from(min)) / bins as f64;
        for (edge, count) in self.bins() {
            let middle = edge + self.bin_width() / 2.0 - f64::from(min);
            let bin = if width > 0.0 { (middle / width).max(0.0) as usize } else { 0 };
            counts[bin.min(bins - 1)] += count;
        }
        Ok(HistogramView { min, max, counts })
    }

    /// The value below which the share `q` (0 to 1) of the values lies, interpolated within its bin.
    ///
    /// # Errors
    /// [`Error::NothingObserved`] before the first value.
    pub fn quantile(&self, q: f64) -> Result<f32> {
        let Some((min, max)) = self.bounds() else {
            return Err(Error::NothingObserved { what: "histogram" });
        };
        let value = interpolate(self.bins(), self.count, self.bin_width(), q);
        Ok((value as f32).clamp(min, max))
    }

    /// [`Histogram::quantile`] of the magnitudes.
    ///
    /// # Errors
    /// As [`Histogram::quantile`].
    pub fn magnitude_quantile(&self, q: f64) -> Result<f32> {
        let Some((min, max)) = self.bounds() else {
            return Err(Error::NothingObserved { what: "histogram" });
        };
        let width = self.bin_width();
        let folded = (0..HALF).map(|i| (i as f64 * width, self.counts[HALF + i] + self.counts[HALF - 1 - i]));
        let value = interpolate(folded.filter(|(_, n)| *n > 0), self.count, width, q);
        Ok((value as f32).clamp(0.0, max.max(-min)))
    }

    fn widen_for(&mut self, min: f32, max: f32) {
        let exponent = exponent_for(max.max(-min));
        if self.counts.is_empty() {
            self.counts = vec![0; 2 * HALF];
            self.exponent = exponent;
        } else {
            self.coarsen(exponent);
        }
        self.min = self.min.min(min);
        self.max = self.max.max(max);
    }

    /// Merges bins until the width is two to `exponent`, unless it is wider already.
    fn coarsen(&mut self, exponent: i32) {
        if exponent <= self.exponent {
            return;
        }
        let shift = (exponent - self.exponent).min(63);
        let mut counts = vec![0; 2 * HALF];
        for (index, count) in self.counts.iter().enumerate() {
            let from_zero = (index as i64 - HALF as i64) >> shift;
            counts[(from_zero + HALF as i64) as usize] += count;
        }
        self.counts = counts;
        self.exponent = exponent;
    }
}

/// Least exponent `e` with `largest < HALF * 2^e`, where `largest >= 0`.
fn exponent_for(largest: f32) -> i32 {
    // The exponent field of an f64, in which every f32 is normal: 2^k <= largest < 2^(k + 1).
    let k = (f64::from(largest).to_bits() >> 52) as i32 - 1023;
    (k + 1 - HALF.ilog2() as i32).max(FINEST)
}

/// Interpolates the value below which the share `q` of `count` values lies, if they are spread evenly within their
/// bins.
fn interpolate(bins: impl Iterator<Item = (f64, u64)>, count: u64, width: f64, q: f64) -> f64 {
    let target = q.clamp(0.0, 1.0) * count as f64;
    let mut below = 0.0;
    let mut end = 0.0;
    for (edge, n) in bins {
        let n = n as f64;
        if below + n >= target {
            return edge + width * ((target - below) / n).max(0.0);
        }
        below += n;
        end = edge + width;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        histogram.observe(values).unwrap();
        histogram
    }

    #[test]
    fn order_batches_and_merging_do_not_matter() {
        let values = [0.0, 1e-30, -3.0, 2.5, 1e10, -1e-3, 7.0, 1e-45];
        let whole = of(&values);
        let mut forwards = Histogram::default();
        let mut backwards = Histogram::default();
        for i in 0..values.len() {
            forwards.observe(&values[i..=i]).unwrap();
            let j = values.len() - 1 - i;
            backwards.observe(&values[j..=j]).unwrap();
        }
        assert_eq!(forwards, whole);
        assert_eq!(backwards, whole);
        for split in 1..values.len() {
            let mut merged = of(&values[..split]);
            merged.merge(&of(&values[split..]));
            assert_eq!(merged, whole, "{split}");
        }
        let mut merged = Histogram::default();
        merged.merge(&whole);
        merged.merge(&Histogram::default());
        assert_eq!(merged, whole);
        assert_eq!(whole.bins().map(|(_, n)| n).sum::<u64>(), 8);
    }

    #[test]
    fn parts_counted_in_parallel_are_the_whole() {
        let values: Vec<f32> = (0..3 * PART + 7).map(|i| (i as f32 * 0.37).sin() * (i % 91) as f32).collect();
        let mut one_by_one = Histogram::default();
        values.chunks(1000).for_each(|chunk| one_by_one.observe(chunk).unwrap());
        assert_eq!(of(&values), one_by_one);
    }

    #[test]
    fn resolution_is_as_documented() {
        for largest in [1.0_f32, 1.999, 2.0, 1e-38, f32::MAX] {
            let histogram = of(&[largest, -largest]);
            assert!(histogram.bin_width() <= f64::from(largest) / 4096.0, "{largest}");
            let (lowest, _) = histogram.bins().next().unwrap();
            assert!(lowest <= f64::from(-largest) && f64::from(-largest) < lowest + histogram.bin_width());
        }
    }

    #[test]
    fn quantiles_and_view_of_a_ramp() {
        let ramp: Vec<f32> = (0..=10_000).map(|i| i as f32 / 100.0 - 50.0).collect();
        let histogram = of(&ramp);
        for q in [0.0, 0.001, 0.25, 0.5, 0.999, 1.0] {
            assert!((histogram.quantile(q).unwrap() - (q as f32 * 100.0 - 50.0)).abs() < 0.03, "{q}");
            assert!((histogram.magnitude_quantile(q).unwrap() - q as f32 * 50.0).abs() < 0.03, "{q}");
        }
        let view = histogram.view(10).unwrap();
        assert_eq!((histogram.count(), view.min, view.max), (10_001, -50.0, 50.0));
        assert!(view.counts.iter().all(|n| (990..=1010).contains(n)), "{view:?}");
        assert_eq!(of(&[3.0; 4]).view(2).unwrap().counts, [4, 0]);
    }

    #[test]
    fn a_view_takes_each_bin_at_its_midpoint() {
        // The values are the lower edges of bins 2^-12 wide; the greatest shares the last bin of the view.
        let edges: Vec<f32> = (0..=4096).map(|i| i as f32 / 4096.0).collect();
        let view = of(&edges).view(4096).unwrap();
        assert_eq!(view.counts[..4095], [1; 4095]);
        assert_eq!(view.counts[4095], 2);
    }

    #[test]
    fn quantiles_are_interpolated_within_their_bin() {
        let width = 2.0_f32.powi(-12);
        let histogram = of(&[0.0, width, width, width, width, 2.0 * width, 2.0 * width, 1.0]);
        assert_eq!(f64::from(width), histogram.bin_width());
        for (q, bins) in [(0.0625, 0.5), (0.125, 1.0), (0.375, 1.5), (0.625, 2.0), (0.75, 2.5)] {
            assert_eq!(histogram.quantile(q).unwrap(), bins * width, "{q}");
            assert_eq!(histogram.magnitude_quantile(q).unwrap(), bins * width, "{q}");
        }
    }

    #[test]
    fn nothing_counted_is_an_error() {
        let empty = Histogram::default();
        assert!(matches!(empty.quantile(0.5), Err(Error::NothingObserved { .. })));
        assert!(matches!(empty.magnitude_quantile(0.5), Err(Error::NothingObserved { .. })));
        assert!(matches!(empty.view(3), Err(Error::NothingObserved { .. })));
        assert_eq!(Histogram::default().observe(&[]), Err(Error::Empty { what: "values" }));
        assert!(of(&[1.0]).view(0).is_err());
    }
}
