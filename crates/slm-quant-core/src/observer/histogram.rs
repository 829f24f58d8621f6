//! PyTorch's histogram observer: 2048 bins and a search for the range of least quantization error.

use crate::observer::Observer;
use crate::scan::min_max;
use crate::{Error, Mapping, QuantRange, Result};

/// Bins of the histogram.
const BINS: usize = 2048;

/// Number of parts that every old bin is cut into when the range widens.
const PARTS: usize = 16;

/// Number of quantization bins that the search assumes, whatever the code range (as PyTorch does).
const QUANT_BINS: f64 = 256.0;

/// Share of the counts by which the search moves at a time.
const STEP: f64 = 1e-5;

/// Counts values in 2048 bins and chooses the range that [`histogram_search`] finds.
///
/// It reproduces PyTorch's `HistogramObserver`, whose histogram depends slightly on the batches: when a batch widens
/// the range, every old bin is cut into 16 parts that go to the new bins of their midpoints. Unlike
/// [`PercentileObserver`](crate::PercentileObserver) and [`MseObserver`](crate::MseObserver), it always drops at least
/// one end bin, and it assumes 8 bits even if the range has 4.
#[derive(Debug, Clone, Default)]
pub struct HistogramObserver {
    bounds: Option<(f32, f32)>,
    counts: Vec<f64>,
}

impl HistogramObserver {
    /// Counts of the 2048 bins between the bounds; fractional once the range has widened. Empty before the
    /// first batch.
    pub fn counts(&self) -> &[f64] {
        &self.counts
    }
}

impl Observer for HistogramObserver {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        let (lo, hi) = min_max("values", values)?;
        let bounds = match self.bounds {
            None => {
                self.counts = vec![0.0; BINS];
                (lo, hi)
            }
            Some(old) => {
                let new = (old.0.min(lo), old.1.max(hi));
                if new != old {
                    self.counts = widened(&self.counts, old, new);
                }
                new
            }
        };
        self.bounds = Some(bounds);
        let grid = BinGrid::new(bounds);
        for &x in values {
            self.counts[grid.bin(f64::from(x))] += 1.0;
        }
        Ok(())
    }

    fn bounds(&self) -> Option<(f32, f32)> {
        self.bounds
    }

    fn choose_range(&self, _: QuantRange, _: Mapping, _: f32) -> Result<(f32, f32)> {
        let (min, max) = self.bounds.ok_or(Error::NothingObserved { what: "histogram observer" })?;
        let found = histogram_search(&self.counts, min, max)?;
        Ok((found.min, found.max))
    }
}

/// Bins of equal width between two bounds; a single value gets a range of 1 on both sides.
struct BinGrid {
    lo: f64,
    width: f64,
}

impl BinGrid {
    fn new((min, max): (f32, f32)) -> Self {
        let (lo, hi) = (f64::from(min), f64::from(max));
        let (lo, hi) = if lo == hi { (lo - 1.0, hi + 1.0) } else { (lo, hi) };
        Self { lo, width: hi - lo }
    }

    /// The upper bound belongs to the last bin.
    fn bin(&self, x: f64) -> usize {
        (((x - self.lo) * BINS as f64 / self.width) as usize).min(BINS - 1)
    }
}

/// Converts counts over the bounds `old` to the wider bounds `new`.
fn widened(counts: &[f64], old: (f32, f32), new: (f32, f32)) -> Vec<f64> {
    let grid = BinGrid::new(new);
    let mut carried = vec![0.0; BINS];
    if old.0 == old.1 {
        carried[grid.bin(f64::from(old.0))] = counts.iter().sum();
        return carried;
    }
    let part_width = (f64::from(old.1) - f64::from(old.0)) / (BINS * PARTS) as f64;
    for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
        for part in 0..PARTS {
            let midpoint = f64::from(old.0) + ((index * PARTS + part) as f64 + 0.5) * part_width;
            carried[grid.bin(midpoint)] += count / PARTS as f64;
        }
    }
    carried
}

/// Result of [`histogram_search`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HistogramSearch {
    /// First bin of the range.
    pub start_bin: usize,
    /// Last bin of the range.
    pub end_bin: usize,
    /// Lower edge of the first bin.
    pub min: f32,
    /// Upper edge of the last bin.
    pub max: f32,
}

/// Narrows the range of a histogram over `[min, max]` while that lowers the estimated quantization error:
/// the search of PyTorch's `HistogramObserver._non_linear_param_search`.
///
/// Each step moves the end that has further to go to its next quantile of 1e-5. The search stops when the error grows.
/// The error is the L2 norm of rounding values, spread evenly within their bins, to 256 equal quantization bins over
/// the range.
///
/// # Errors
/// [`Error::Length`] for another number of bins than 2048, [`Error::NotFinite`] for bounds that are not
/// finite, [`Error::Parameter`] for `min > max` and for a count that is negative or not finite,
/// [`Error::NothingObserved`] when all counts are zero.
pub fn histogram_search(counts: &[f64], min: f32, max: f32) -> Result<HistogramSearch> {
    let total = check_histogram(counts, min, max)?;
    let bin_width = (f64::from(max) - f64::from(min)) / BINS as f64;
    let mut below = 0.0;
    let cumulative: Vec<f64> = counts
        .iter()
        .map(|count| {
            below += count;
            below
        })
        .collect();
    // Empty bins add nothing to the error, and nearly all bins of a histogram of few values are empty.
    let filled: Vec<(usize, f64)> = counts.iter().copied().enumerate().filter(|(_, n)| *n > 0.0).collect();

    let (mut lower_share, mut upper_share) = (0.0, 1.0);
    let (mut start, mut end) = (0, BINS - 1);
    let mut least = f64::INFINITY;
    while lower_share < upper_share {
        let (next_lower, next_upper) = (lower_share + STEP, upper_share - STEP);
        let (mut left, mut right) = (start, end);
        while left < end && cumulative[left] < next_lower * total {
            left += 1;
        }
        while right > start && cumulative[right] > next_upper * total {
            right -= 1;
        }
        let (mut next_start, mut next_end) = (start, end);
        if left - start > end - right {
            next_start = left;
            lower_share = next_lower;
        } else {
            next_end = right;
            upper_share = next_upper;
        }
        if (next_start, next_end) == (start, end) {
            continue;
        }
        let error = quantization_error(&filled, bin_width, next_start, next_end);
        if error > least {
            break;
        }
        least = error;
        (start, end) = (next_start, next_end);
    }
    Ok(HistogramSearch {
        start_bin: start,
        end_bin: end,
        min: (f64::from(min) + bin_width * start as f64) as f32,
        max: (f64::from(min) + bin_width * (end + 1) as f64) as f32,
    })
}

/// Checks the input of the search and sums the counts.
fn check_histogram(counts: &[f64], min: f32, max: f32) -> Result<f64> {
    crate::scan::check_len("histogram", BINS, counts.len())?;
    crate::scan::check_finite("bounds", &[min, max])?;
    if min > max {
        return Err(Error::Parameter { what: "bounds", detail: format!("min {min} is above max {max}") });
    }
    if let Some((index, count)) = counts.iter().enumerate().find(|(_, n)| !(n.is_finite() && **n >= 0.0)) {
        return Err(Error::Parameter {
            what: "histogram",
            detail: format!("count {count} at index {index} is negative or not finite"),
        });
    }
    let total: f64 = counts.iter().sum();
    if total > 0.0 { Ok(total) } else { Err(Error::NothingObserved { what: "histogram" }) }
}

/// Squared error of quantizing the histogram to 256 bins over `start..=end`.
fn quantization_error(filled: &[(usize, f64)], bin_width: f64, start: usize, end: usize) -> f64 {
    let step = bin_width * (end - start + 1) as f64 / QUANT_BINS;
    if step == 0.0 {
        return 0.0;
    }
    // Integral of x^2 from u to v.
    let moment = |u: f64, v: f64| (v * v * v - u * u * u) / 3.0;
    let whole = moment(-step / 2.0, step / 2.0);
    let mut error = 0.0;
    for &(index, count) in filled {
        let from = (index as f64 - start as f64) * bin_width;
        let to = from + bin_width;
        let first = (from / step).floor().clamp(0.0, QUANT_BINS - 1.0);
        let last = (to / step).floor().clamp(0.0, QUANT_BINS - 1.0);
        let head = moment(from - (first + 0.5) * step, step / 2.0);
        let tail = moment(-step / 2.0, to - (last + 0.5) * step);
        error += count / bin_width * (head + (last - first - 1.0) * whole + tail);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_the_integral_of_the_squared_distance_to_the_middles() {
        let third = |x: f64| x.powi(3) / 3.0;
        for (index, start, end, expected) in [
            // Steps of 8: from 3 to 4, below a middle of 4.
            (3, 0, 2047, third(1.0)),
            // Steps of a half: two whole ones.
            (10, 0, 127, 2.0 * 2.0 * third(0.25)),
            // Steps of one: clipped to the last and to the first middle.
            (600, 256, 511, third(89.5) - third(88.5)),
            (167, 256, 511, third(89.5) - third(88.5)),
        ] {
            let found = quantization_error(&[(index, 2.0)], 1.0, start, end);
            assert!((found - 2.0 * expected).abs() < 1e-9, "{index}: {found}");
        }
    }

    #[test]
    fn the_upper_end_moves_first_where_both_have_as_far_to_go() {
        let mut counts = [1.0; BINS];
        counts[0] = 0.01;
        let found = histogram_search(&counts, 0.0, 2048.0).unwrap();
        assert_eq!((found.start_bin, found.end_bin), (1, 2046));
        assert_eq!((found.min, found.max), (1.0, 2047.0));
    }
}
