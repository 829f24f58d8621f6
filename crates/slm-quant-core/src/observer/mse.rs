//! An observer of the range with the least mean squared quantization error.
//!
//! Wide ranges waste codes on outliers, and narrow ranges clip them. The least error lies between the two, and for few
//! bits far inside the bounds. The search has three stages. Both bounds shrink together over a geometric grid, from the
//! bounds themselves down to where clipping must dominate. The affine mapping then moves each bound separately. Last,
//! the scale is repeatedly fitted by least squares to the codes that it gave. Neither rounding nor fitting can raise
//! the error (Lloyd's argument), so this ends in a minimum.
//!
//! The bounds themselves are always a candidate, so the result is never worse than min-max.

use rayon::prelude::*;

use crate::observer::Observer;
use crate::round::{Quantizer, round_small};
use crate::scan::min_max;
use crate::{
    Error, Histogram, Mapping, QParams, QuantRange, QuantScheme, Result, ScaleDtype, TORCHAO_EPS,
    choose_qparams_stored, vectorized,
};

/// Candidates of the first grid.
const GRID: usize = 48;

/// Candidates on either side of the best one when the grid is refined.
const FINE: usize = 4;

/// Factors tried on one bound of an affine range while the other is fixed.
const SIDE: [f32; 10] = [0.6, 0.7, 0.8, 0.87, 0.93, 0.97, 1.03, 1.07, 1.15, 1.3];

/// Rounds over both bounds of an affine range.
const SIDE_ROUNDS: usize = 2;

/// Maximum number of least-squares fits of the scale.
const FITS: usize = 6;

/// Smallest range tried, in root mean squares of the values. A tighter range would clip most of the values that make up
/// the mean square.
const LEAST_RANGE: f64 = 0.5;

/// Values summed before their error goes from f32 to f64.
const CHUNK: usize = 512;

/// Length of the parts into which longer slices are split among threads.
const PART: usize = 1 << 16;

/// Chooses the range with the least mean squared quantization error for a code range and mapping.
///
/// It streams values into a [`Histogram`] whose bins count as their midpoints, so the error of a range is exact up to
/// the width of the bins, at most `max |x| / 4096`.
#[derive(Debug, Clone, Default)]
pub struct MseObserver {
    histogram: Histogram,
}

impl Observer for MseObserver {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        self.histogram.observe(values)
    }

    fn bounds(&self) -> Option<(f32, f32)> {
        self.histogram.bounds()
    }

    fn choose_range(&self, range: QuantRange, mapping: Mapping, eps: f32) -> Result<(f32, f32)> {
        let bounds =
            self.histogram.bounds().ok_or(Error::NothingObserved { what: "mean-squared-error observer" })?;
        let half = self.histogram.bin_width() / 2.0;
        let weighted =
            |(edge, count): (f64, u64)| (((edge + half) as f32).clamp(bounds.0, bounds.1), count as f64);
        let midpoints = Weighted(self.histogram.bins().map(weighted).collect());
        Ok(search(&midpoints, bounds, Target { range, mapping, eps, scale_dtype: ScaleDtype::F32 })?
            .best
            .bounds)
    }
}

/// The range for `values` that are all available at once, by their exact error.
pub(super) fn choose_range(
    values: &[f32],
    range: QuantRange,
    mapping: Mapping,
    eps: f32,
) -> Result<(f32, f32)> {
    let bounds = min_max("values", values)?;
    let target = Target { range, mapping, eps, scale_dtype: ScaleDtype::F32 };
    vectorized! { Ok(search(&Exact(values), bounds, target)?.best.bounds) }
}

/// Scale and zero point for `values`, by their exact error weighted by column: `weights` has one weight for each column,
/// and `values` are rows of that width. Errors are those of scales as `scheme` stores them. Of all ranges tried, min-max
/// among them, the result has the least error; it is min-max unless the error is less by the share `least_gain`.
pub(crate) fn choose_weighted(
    values: &[f32],
    weights: &[f32],
    scheme: QuantScheme,
    least_gain: f64,
) -> Result<QParams> {
    let Found { best, min_max } = search_weighted(values, weights, scheme)?;
    Ok(match best.error <= (1.0 - least_gain) * min_max.error {
        true => best.qparams,
        false => min_max.qparams,
    })
}

/// [`choose_weighted`] of the values or, if the error is less, of their negatives with a negative scale.
pub(crate) fn choose_weighted_signed(
    values: &[f32],
    weights: &[f32],
    scheme: QuantScheme,
) -> Result<QParams> {
    let best = search_weighted(values, weights, scheme)?.best;
    let negatives: Vec<f32> = values.iter().map(|value| -value).collect();
    let turned = search_weighted(&negatives, weights, scheme)?.best;
    Ok(match turned.error < best.error {
        true => QParams { scale: -turned.qparams.scale, ..turned.qparams },
        false => best.qparams,
    })
}

fn search_weighted(values: &[f32], weights: &[f32], scheme: QuantScheme) -> Result<Found> {
    let bounds = min_max("values", values)?;
    let target = Target {
        range: scheme.range(),
        mapping: scheme.mapping,
        eps: TORCHAO_EPS,
        scale_dtype: scheme.scale_dtype,
    };
    vectorized! { search(&WeightedRows { values, weights }, bounds, target) }
}

/// Data on which the search evaluates ranges.
trait Data {
    /// Sum of squared values, and weight of all of them.
    fn square(&self) -> (f64, f64);

    /// Sum of squared quantization errors.
    fn error(&self, quantizer: Quantizer) -> f64;

    /// Sums of `x k` and of `k²`, where `k` is the code minus the zero point. Their quotient is the scale that fits the
    /// codes best.
    fn fit(&self, quantizer: Quantizer) -> (f64, f64);
}

/// A slice.
struct Exact<'a>(&'a [f32]);

impl Exact<'_> {
    /// Adds up `part` over parts of the slice, in an order that does not depend on the number of threads.
    #[inline(always)]
    fn sum<const N: usize>(&self, part: impl Fn(&[f32]) -> [f64; N] + Send + Sync) -> [f64; N] {
        if self.0.len() <= PART {
            return part(self.0);
        }
        let add = |a: [f64; N], b: [f64; N]| std::array::from_fn(|i| a[i] + b[i]);
        let part = |values: &[f32]| vectorized! { part(values) };
        let parts: Vec<[f64; N]> = self.0.par_chunks(PART).map(part).collect();
        parts.into_iter().fold([0.0; N], add)
    }
}

impl Data for Exact<'_> {
    #[inline(always)]
    fn square(&self) -> (f64, f64) {
        let [square] = self.sum(|part| [part.iter().map(|x| f64::from(*x) * f64::from(*x)).sum()]);
        (square, self.0.len() as f64)
    }

    #[inline(always)]
    fn error(&self, quantizer: Quantizer) -> f64 {
        let steps = Steps::new(quantizer);
        let [error] = self.sum(
            #[inline(always)]
            |part| {
                let mut sum = 0.0;
                for chunk in part.chunks(CHUNK) {
                    sum += f64::from(lanes(
                        chunk,
                        #[inline(always)]
                        |x| {
                            let error = x - steps.of(x) * steps.scale;
                            error * error
                        },
                    ));
                }
                [sum]
            },
        );
        error
    }

    #[inline(always)]
    fn fit(&self, quantizer: Quantizer) -> (f64, f64) {
        let steps = Steps::new(quantizer);
        let [product, square] = self.sum(
            #[inline(always)]
            |part| {
                let mut sums = [0.0, 0.0];
                for chunk in part.chunks(CHUNK) {
                    sums[0] += f64::from(lanes(
                        chunk,
                        #[inline(always)]
                        |x| x * steps.of(x),
                    ));
                    sums[1] += f64::from(lanes(
                        chunk,
                        #[inline(always)]
                        |x| steps.of(x) * steps.of(x),
                    ));
                }
                sums
            },
        );
        (product, square)
    }
}

/// Rows of values with a weight for each column.
struct WeightedRows<'a> {
    values: &'a [f32],
    weights: &'a [f32],
}

impl WeightedRows<'_> {
    /// Adds up `term` of every value and its weight, in an order that does not depend on the number of threads.
    #[inline(always)]
    fn sum<const N: usize>(&self, term: impl Fn(f32, f32) -> [f32; N] + Send + Sync) -> [f64; N] {
        let width = self.weights.len();
        if self.values.len() <= PART {
            return self.sum_rows(self.values, &term);
        }
        let rows_per_part = (PART / width).max(1);
        let part = |rows: &[f32]| vectorized! { self.sum_rows(rows, &term) };
        let parts: Vec<[f64; N]> = self.values.par_chunks(rows_per_part * width).map(part).collect();
        parts.into_iter().fold([0.0; N], |a, b| std::array::from_fn(|i| a[i] + b[i]))
    }

    /// [`sum`](Self::sum) of some rows. A loop over rows, because a closure that an iterator calls is not guaranteed to be
    /// inlined.
    #[inline(always)]
    fn sum_rows<const N: usize>(&self, rows: &[f32], term: &impl Fn(f32, f32) -> [f32; N]) -> [f64; N] {
        let mut sums = [0.0; N];
        for row in rows.chunks(self.weights.len()) {
            let mut of_row = [0.0; N];
            for (values, weights) in row.chunks(CHUNK).zip(self.weights.chunks(CHUNK)) {
                let terms = weighted_lanes(values, weights, term);
                of_row.iter_mut().zip(terms).for_each(|(sum, term)| *sum += f64::from(term));
            }
            sums.iter_mut().zip(of_row).for_each(|(sum, of_row)| *sum += of_row);
        }
        sums
    }
}

impl Data for WeightedRows<'_> {
    #[inline(always)]
    fn square(&self) -> (f64, f64) {
        let [square, weight] = self.sum(
            #[inline(always)]
            |x, w| [w * x * x, w],
        );
        (square, weight)
    }

    #[inline(always)]
    fn error(&self, quantizer: Quantizer) -> f64 {
        let steps = Steps::new(quantizer);
        let [error] = self.sum(
            #[inline(always)]
            |x, w| {
                let error = x - steps.of(x) * steps.scale;
                [w * error * error]
            },
        );
        error
    }

    #[inline(always)]
    fn fit(&self, quantizer: Quantizer) -> (f64, f64) {
        let steps = Steps::new(quantizer);
        let [product, square] = self.sum(
            #[inline(always)]
            |x, w| {
                let k = steps.of(x);
                [w * x * k, w * k * k]
            },
        );
        (product, square)
    }
}

/// Values with weights.
struct Weighted(Vec<(f32, f64)>);

impl Data for Weighted {
    #[inline(always)]
    fn square(&self) -> (f64, f64) {
        self.0.iter().fold((0.0, 0.0), |(square, weight), (x, w)| {
            (square + w * f64::from(*x) * f64::from(*x), weight + w)
        })
    }

    #[inline(always)]
    fn error(&self, quantizer: Quantizer) -> f64 {
        let steps = Steps::new(quantizer);
        let error = |(x, w): &(f32, f64)| w * f64::from(x - steps.of(*x) * steps.scale).powi(2);
        self.0.iter().map(error).sum()
    }

    #[inline(always)]
    fn fit(&self, quantizer: Quantizer) -> (f64, f64) {
        let steps = Steps::new(quantizer);
        self.0.iter().fold((0.0, 0.0), |(product, square), (x, w)| {
            let k = f64::from(steps.of(*x));
            (product + w * f64::from(*x) * k, square + w * k * k)
        })
    }
}

/// The grid counted from its zero point, all in floats, which vectorizes best. Clamping before rounding gives the same
/// result as after it, because the bounds are integers.
struct Steps {
    scale: f32,
    inverse: f32,
    lowest: f32,
    highest: f32,
}

impl Steps {
    #[inline(always)]
    fn new(quantizer: Quantizer) -> Self {
        Self {
            scale: quantizer.scale,
            inverse: quantizer.inverse,
            lowest: (quantizer.quant_min - quantizer.zero_point) as f32,
            highest: (quantizer.quant_max - quantizer.zero_point) as f32,
        }
    }

    #[inline(always)]
    fn of(&self, x: f32) -> f32 {
        round_small((x * self.inverse).clamp(self.lowest, self.highest))
    }
}

/// Sum of `f` in eight interleaved lanes, a fixed order that vectorizes.
#[inline(always)]
fn lanes(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; 8];
    let mut chunks = values.chunks_exact(8);
    for chunk in &mut chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f(*x);
        }
    }
    for (sum, x) in sums.iter_mut().zip(chunks.remainder()) {
        *sum += f(*x);
    }
    sums.iter().sum()
}

/// Sums of `term` in eight interleaved lanes, a fixed order that vectorizes.
#[inline(always)]
fn weighted_lanes<const N: usize>(
    values: &[f32],
    weights: &[f32],
    term: &impl Fn(f32, f32) -> [f32; N],
) -> [f32; N] {
    let mut sums = [[0.0_f32; 8]; N];
    let (mut values, mut weights) = (values.chunks_exact(8), weights.chunks_exact(8));
    for (values, weights) in (&mut values).zip(&mut weights) {
        for lane in 0..8 {
            let terms = term(values[lane], weights[lane]);
            for (sum, term) in sums.iter_mut().zip(terms) {
                sum[lane] += term;
            }
        }
    }
    for (lane, (x, w)) in values.remainder().iter().zip(weights.remainder()).enumerate() {
        for (sum, term) in sums.iter_mut().zip(term(*x, *w)) {
            sum[lane] += term;
        }
    }
    sums.map(|lanes| lanes.iter().sum())
}

/// The grids among which a range is searched.
#[derive(Clone, Copy)]
struct Target {
    range: QuantRange,
    mapping: Mapping,
    eps: f32,
    scale_dtype: ScaleDtype,
}

impl Target {
    #[inline(always)]
    fn qparams(&self, (lo, hi): (f32, f32)) -> Result<QParams> {
        choose_qparams_stored(lo, hi, self.range, self.mapping, self.eps, self.scale_dtype)
    }
}

/// A range that was tried.
#[derive(Clone, Copy)]
struct Tried {
    bounds: (f32, f32),
    qparams: QParams,
    error: f64,
}

/// Result of a search: the best range, and the one from minimum to maximum.
struct Found {
    best: Tried,
    min_max: Tried,
}

struct Search<'a, D> {
    data: &'a D,
    target: Target,
    /// The best range so far.
    best: Tried,
}

impl<D: Data> Search<'_, D> {
    /// Keeps `bounds` if they are better than the best so far, and returns `true` if they are.
    #[inline(always)]
    fn attempt(&mut self, bounds: (f32, f32)) -> Result<bool> {
        let qparams = self.target.qparams(bounds)?;
        if qparams == self.best.qparams {
            return Ok(false);
        }
        let error = self.data.error(Quantizer::new(qparams, self.target.range));
        let better = error < self.best.error;
        if better {
            self.best = Tried { bounds, qparams, error };
        }
        Ok(better)
    }

    /// Shrinks both bounds together, then again around the best factor.
    #[inline(always)]
    fn shrink(&mut self, (lo, hi): (f32, f32), least: f64) -> Result<()> {
        let ratio = least.powf(1.0 / GRID as f64);
        let mut nearest = 0;
        for step in 1..=GRID {
            let factor = ratio.powi(step as i32) as f32;
            if self.attempt((lo * factor, hi * factor))? {
                nearest = step;
            }
        }
        let centre = ratio.powi(nearest as i32);
        for step in 1..=FINE {
            let part = ratio.powf(step as f64 / (FINE + 1) as f64);
            for factor in [(centre * part) as f32, (centre / part).min(1.0) as f32] {
                self.attempt((lo * factor, hi * factor))?;
            }
        }
        Ok(())
    }

    /// Moves one bound at a time, within the bounds of the data.
    #[inline(always)]
    fn sides(&mut self, (min, max): (f32, f32)) -> Result<()> {
        for _ in 0..SIDE_ROUNDS {
            let before = self.best.error;
            let (lo, _) = self.best.bounds;
            for factor in SIDE {
                let hi = self.best.bounds.1;
                self.attempt(((lo * factor).max(min), hi))?;
            }
            let (_, hi) = self.best.bounds;
            for factor in SIDE {
                let lo = self.best.bounds.0;
                self.attempt((lo, (hi * factor).min(max)))?;
            }
            if self.best.error >= before {
                break;
            }
        }
        Ok(())
    }

    /// Fits the scale to the codes while that helps.
    #[inline(always)]
    fn fit(&mut self) -> Result<()> {
        for _ in 0..FITS {
            let QParams { zero_point, .. } = self.best.qparams;
            let (product, square) = self.data.fit(Quantizer::new(self.best.qparams, self.target.range));
            let scale = (product / square) as f32;
            if !(scale.is_finite() && scale >= self.target.eps) {
                break;
            }
            let (lowest, highest) = match self.target.mapping {
                Mapping::SymmetricTorch => {
                    let half = self.target.range.steps() as f32 / 2.0;
                    (-half, half)
                }
                _ => (
                    (self.target.range.quant_min() - zero_point) as f32,
                    (self.target.range.quant_max() - zero_point) as f32,
                ),
            };
            if !self.attempt((lowest * scale, highest * scale))? {
                break;
            }
        }
        Ok(())
    }
}

#[inline(always)]
fn search<D: Data>(data: &D, (min, max): (f32, f32), target: Target) -> Result<Found> {
    let bounds = (min.min(0.0), max.max(0.0));
    let qparams = target.qparams(bounds)?;
    let error = data.error(Quantizer::new(qparams, target.range));
    let min_max = Tried { bounds, qparams, error };
    let mut search = Search { data, target, best: min_max };
    let largest = f64::from(bounds.1.max(-bounds.0));
    let (square, weight) = data.square();
    if error == 0.0 || largest == 0.0 || weight == 0.0 {
        return Ok(Found { best: min_max, min_max });
    }
    let least = (LEAST_RANGE * (square / weight).sqrt() / largest).clamp(1e-3, 0.9);
    search.shrink(bounds, least)?;
    if target.mapping == Mapping::Affine {
        search.sides(bounds)?;
    }
    search.fit()?;
    Ok(Found { best: search.best, min_max })
}
