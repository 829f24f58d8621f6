//! Error statistics of an approximation.

use crate::round::Quantizer;
use crate::scan::{check_finite, check_len};
use crate::{QParams, QuantRange, Result};

/// Number of independent sums.
const LANES: usize = 4;

/// Error statistics of an approximation, gathered in f64 over any number of batches.
///
/// ```
/// use slm_quant_core::ErrorStats;
///
/// let mut stats = ErrorStats::default();
/// stats.observe(&[3.0, 4.0], &[3.0, 4.5])?;
/// assert_eq!(stats.sqnr_db(), 20.0);
/// assert_eq!(stats.max_abs_error(), 0.5);
/// # Ok::<(), slm_quant_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ErrorStats {
    count: u64,
    reference_square: f64,
    approximation_square: f64,
    product: f64,
    error_square: f64,
    error_abs: f64,
    max_abs: f64,
    clipped: u64,
    clip_count: u64,
}

impl ErrorStats {
    /// Adds values and their approximations.
    ///
    /// # Errors
    /// [`crate::Error::Length`] where the slices differ in length, [`crate::Error::NotFinite`] for a NaN or
    /// an infinity in either.
    pub fn observe(&mut self, reference: &[f32], approximation: &[f32]) -> Result<()> {
        check_len("approximation", reference.len(), approximation.len())?;
        check_finite("reference", reference)?;
        check_finite("approximation", approximation)?;
        self.add(reference, approximation);
        Ok(())
    }

    /// [`ErrorStats::observe`] for finite values. Sums are in interleaved lanes, a fixed order that vectorizes.
    pub(crate) fn add(&mut self, reference: &[f32], approximation: &[f32]) {
        let mut sums = [[0.0_f64; LANES]; 5];
        let mut largest = [0.0_f64; LANES];
        let mut add = |lane: usize, x: f32, y: f32| {
            let (x, y) = (f64::from(x), f64::from(y));
            let error = (x - y).abs();
            let terms = [x * x, y * y, x * y, error * error, error];
            for (sum, term) in sums.iter_mut().zip(terms) {
                sum[lane] += term;
            }
            largest[lane] = if error > largest[lane] { error } else { largest[lane] };
        };
        let (whole, rest) = reference.as_chunks::<LANES>();
        let (whole_approximation, rest_approximation) = approximation.as_chunks::<LANES>();
        for (x, y) in whole.iter().zip(whole_approximation) {
            for lane in 0..LANES {
                add(lane, x[lane], y[lane]);
            }
        }
        for (lane, (x, y)) in rest.iter().zip(rest_approximation).enumerate() {
            add(lane, *x, *y);
        }
        let [reference_square, approximation_square, product, error_square, error_abs] =
            sums.map(|lanes| lanes.iter().sum::<f64>());
        self.reference_square += reference_square;
        self.approximation_square += approximation_square;
        self.product += product;
        self.error_square += error_square;
        self.error_abs += error_abs;
        self.max_abs = largest.into_iter().fold(self.max_abs, f64::max);
        self.count += reference.len() as u64;
    }

    /// Counts which of `values` are clipped by `qparams`: those whose rounded code falls outside `range`,
    /// that is, that lie more than half a step beyond its ends.
    ///
    /// # Errors
    /// As [`crate::quantize`].
    pub fn observe_clipping(&mut self, values: &[f32], qparams: QParams, range: QuantRange) -> Result<()> {
        qparams.check(range)?;
        check_finite("values", values)?;
        self.add_clipping(values, Quantizer::new(qparams, range));
        Ok(())
    }

    /// [`ErrorStats::observe_clipping`] for finite values and checked parameters.
    pub(crate) fn add_clipping(&mut self, values: &[f32], quantizer: Quantizer) {
        let clipped = |x: &f32| u32::from(!quantizer.contains(quantizer.rounded(*x)));
        self.clipped += values.iter().map(clipped).map(u64::from).sum::<u64>();
        self.clip_count += values.len() as u64;
    }

    /// Adds the statistics that `other` has gathered.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.reference_square += other.reference_square;
        self.approximation_square += other.approximation_square;
        self.product += other.product;
        self.error_square += other.error_square;
        self.error_abs += other.error_abs;
        self.max_abs = self.max_abs.max(other.max_abs);
        self.clipped += other.clipped;
        self.clip_count += other.clip_count;
    }

    /// Number of values compared.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Signal to quantization noise ratio, `20 log10(|x| / |x - y|)` in dB: infinite for identical values,
    /// minus infinity when the reference is zero and the approximation is not.
    pub fn sqnr_db(&self) -> f64 {
        if self.error_square == 0.0 {
            f64::INFINITY
        } else {
            10.0 * (self.reference_square / self.error_square).log10()
        }
    }

    /// Mean squared error; 0 over no values.
    pub fn mse(&self) -> f64 {
        self.mean(self.error_square)
    }

    /// Mean absolute error; 0 over no values.
    pub fn mean_abs_error(&self) -> f64 {
        self.mean(self.error_abs)
    }

    /// Greatest absolute error.
    pub fn max_abs_error(&self) -> f64 {
        self.max_abs
    }

    /// Cosine of the angle between reference and approximation: 1 when both are zero, 0 when one is.
    pub fn cosine(&self) -> f64 {
        let norms = (self.reference_square * self.approximation_square).sqrt();
        if norms > 0.0 {
            (self.product / norms).clamp(-1.0, 1.0)
        } else if self.reference_square == self.approximation_square {
            1.0
        } else {
            0.0
        }
    }

    /// Share of the values given to [`ErrorStats::observe_clipping`] that were clipped; `None` if there were none.
    pub fn clipped_share(&self) -> Option<f64> {
        (self.clip_count > 0).then(|| self.clipped as f64 / self.clip_count as f64)
    }

    fn mean(&self, sum: f64) -> f64 {
        if self.count == 0 { 0.0 } else { sum / self.count as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn merged_batches_equal_one() {
        let x: Vec<f32> = (0..32).map(|i| (i as f32 - 11.0) * 0.25).collect();
        let y: Vec<f32> = x.iter().map(|v| v.round()).collect();
        let mut whole = ErrorStats::default();
        whole.observe(&x, &y).unwrap();
        let (mut a, mut b) = (ErrorStats::default(), ErrorStats::default());
        a.observe(&x[..9], &y[..9]).unwrap();
        b.observe(&x[9..], &y[9..]).unwrap();
        a.merge(&b);
        assert_eq!(a, whole);
        assert_eq!(whole.count(), 32);
        assert_eq!(whole.mse(), (8.0 * 2.0 * 0.0625 + 8.0 * 0.25) / 32.0);
        assert_eq!(whole.mean_abs_error(), 0.25);
    }

    #[test]
    fn extremes() {
        let of = |x: &[f32], y: &[f32]| {
            let mut stats = ErrorStats::default();
            stats.observe(x, y).unwrap();
            (stats.sqnr_db(), stats.cosine())
        };
        assert_eq!(of(&[1.0, 2.0], &[1.0, 2.0]), (f64::INFINITY, 1.0));
        assert_eq!(of(&[0.0], &[0.0]), (f64::INFINITY, 1.0));
        assert_eq!(of(&[0.0], &[1.0]), (f64::NEG_INFINITY, 0.0));
        assert_eq!(of(&[1.0], &[0.0]), (0.0, 0.0));
        assert_eq!(of(&[1.0], &[-1.0]).1, -1.0);
    }

    #[test]
    fn clipping_counts_rounded_codes() {
        let mut stats = ErrorStats::default();
        assert_eq!(stats.clipped_share(), None);
        let qparams = QParams { scale: 1.0, zero_point: 0 };
        stats.observe_clipping(&[7.4, 7.6, -8.4, -8.6], qparams, QuantRange::INT4).unwrap();
        assert_eq!(stats.clipped_share(), Some(0.5));
    }

    #[test]
    fn refuses_mismatch_and_not_finite() {
        let mut stats = ErrorStats::default();
        assert!(matches!(stats.observe(&[1.0], &[]), Err(Error::Length { .. })));
        assert!(matches!(
            stats.observe(&[f32::NAN], &[0.0]),
            Err(Error::NotFinite { what: "reference", .. })
        ));
        assert!(matches!(
            stats.observe(&[0.0], &[f32::NAN]),
            Err(Error::NotFinite { what: "approximation", .. })
        ));
        assert_eq!(stats, ErrorStats::default());
    }
}
