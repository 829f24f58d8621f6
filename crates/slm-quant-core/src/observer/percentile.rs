//! An observer of the range that holds all but a small share of the values.

use crate::observer::Observer;
use crate::scan::min_max;
use crate::{Error, Histogram, Mapping, QuantRange, Result};

/// Maximum length of a slice that is ranked exactly, from a copy.
const EXACT: usize = 1 << 16;

/// Clips to a percentile: symmetric mappings to that of the magnitudes, the affine mapping to the percentiles `100 - p`
/// and `p`.
///
/// It streams values into a [`Histogram`], so the range is resolved to `max |x| / 4096`, and memory stays at 128 KiB
/// however many values are seen.
#[derive(Debug, Clone)]
pub struct PercentileObserver {
    percentile: f64,
    histogram: Histogram,
}

impl PercentileObserver {
    /// The percentile when none is given: one value in 10,000 may be clipped, on each side if affine.
    pub const PERCENTILE: f64 = 99.99;

    /// An observer of a percentile in (50, 100].
    ///
    /// # Errors
    /// [`Error::Parameter`] for one outside (50, 100].
    pub fn new(percentile: f64) -> Result<Self> {
        check_percentile(percentile)?;
        Ok(Self { percentile, histogram: Histogram::default() })
    }
}

impl Observer for PercentileObserver {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        self.histogram.observe(values)
    }

    fn bounds(&self) -> Option<(f32, f32)> {
        self.histogram.bounds()
    }

    fn choose_range(&self, _: QuantRange, mapping: Mapping, _: f32) -> Result<(f32, f32)> {
        let q = self.percentile / 100.0;
        let (min, max) =
            self.histogram.bounds().ok_or(Error::NothingObserved { what: "percentile observer" })?;
        if mapping.is_symmetric() {
            let magnitude = self.histogram.magnitude_quantile(q)?;
            Ok(clip(min, max, magnitude))
        } else {
            Ok((self.histogram.quantile(1.0 - q)?, self.histogram.quantile(q)?))
        }
    }
}

/// Bounds clipped to a magnitude. They always include zero, as every grid does.
fn clip(min: f32, max: f32, magnitude: f32) -> (f32, f32) {
    (min.min(0.0).max(-magnitude), max.max(0.0).min(magnitude))
}

/// The range for `values` that are all available at once. Up to 65,536 values are ranked exactly, with linear
/// interpolation between neighbours; more go through the streaming histogram.
pub(super) fn choose_range(
    values: &[f32],
    percentile: f64,
    range: QuantRange,
    mapping: Mapping,
) -> Result<(f32, f32)> {
    check_percentile(percentile)?;
    if values.len() > EXACT {
        let mut observer = PercentileObserver::new(percentile)?;
        for chunk in values.chunks(EXACT) {
            observer.observe(chunk)?;
        }
        return observer.choose_range(range, mapping, 0.0);
    }
    let (min, max) = min_max("values", values)?;
    let q = percentile / 100.0;
    let mut ranked = values.to_vec();
    if mapping.is_symmetric() {
        for x in &mut ranked {
            *x = x.abs();
        }
        let magnitude = quantile(&mut ranked, q);
        Ok(clip(min, max, magnitude))
    } else {
        Ok((quantile(&mut ranked, 1.0 - q), quantile(&mut ranked, q)))
    }
}

/// Quantile of a non-empty slice, which is reordered.
fn quantile(values: &mut [f32], q: f64) -> f32 {
    let rank = q * (values.len() - 1) as f64;
    let (_, at, above) = values.select_nth_unstable_by(rank as usize, f32::total_cmp);
    let next = above.iter().copied().fold(f32::INFINITY, f32::min);
    if next.is_finite() { *at + (next - *at) * rank.fract() as f32 } else { *at }
}

pub(super) fn check_percentile(percentile: f64) -> Result<()> {
    if percentile > 50.0 && percentile <= 100.0 {
        return Ok(());
    }
    Err(Error::Parameter {
        what: "percentile",
        detail: format!("{percentile} is outside (50, 100]; {} is usual", PercentileObserver::PERCENTILE),
    })
}
