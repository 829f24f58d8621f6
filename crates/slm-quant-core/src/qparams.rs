//! Scale and zero point of a grid, computed from the bounds of some values.

use half::f16;

use crate::{Error, Mapping, QParams, QuantRange, Result, ScaleDtype};

/// Least scale of PyTorch's observers: `torch.finfo(torch.float32).eps`, 2^-23.
pub const TORCH_EPS: f32 = f32::EPSILON;

/// Default least scale of torchao's `choose_qparams_affine`: the smallest normal number
/// (`torch.finfo(torch.float32).tiny`), so that a scale always has a finite reciprocal.
pub const TORCHAO_EPS: f32 = f32::MIN_POSITIVE;

/// Least scale that PyTorch's dynamic quantization gives activations (`SMALL_SCALE_THRESHOLD` in its
/// `quant_utils.h`).
pub const DYNAMIC_SCALE_FLOOR: f32 = 6.1e-5;

impl QParams {
    /// Rejects parameters that cannot quantize into `range`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] or [`Error::Parameter`] for a scale that is not finite, is not positive (for signed codes
    /// with zero point 0 it may be negative), has no finite reciprocal, or makes an outermost code stand for an infinite
    /// value; and [`Error::Parameter`] for a zero point outside `range`.
    #[inline]
    pub fn check(&self, range: QuantRange) -> Result<()> {
        let Self { scale, zero_point } = *self;
        let (lo, hi) = self.representable(range);
        let codes = range.quant_min()..=range.quant_max();
        let is_good =
            self.has_good_sign(range) && (1.0 / scale).is_finite() && lo.is_finite() && hi.is_finite();
        match scale.is_finite() && is_good && codes.contains(&zero_point) {
            true => Ok(()),
            false => self.refuse(range),
        }
    }

    /// The error of [`QParams::check`].
    #[cold]
    fn refuse(&self, range: QuantRange) -> Result<()> {
        let Self { scale, zero_point } = *self;
        if !scale.is_finite() {
            return Err(Error::NotFinite { what: "scale", index: 0, value: scale });
        }
        if !self.has_good_sign(range) || !(1.0 / scale).is_finite() {
            return Err(Error::Parameter {
                what: "scale",
                detail: format!("{scale:e} is not positive with a finite reciprocal"),
            });
        }
        if zero_point < range.quant_min() || zero_point > range.quant_max() {
            return Err(Error::Parameter {
                what: "zero point",
                detail: format!("{zero_point} is outside [{}, {}]", range.quant_min(), range.quant_max()),
            });
        }
        let (lo, hi) = self.representable(range);
        if !lo.is_finite() || !hi.is_finite() {
            return Err(Error::Parameter {
                what: "scale",
                detail: format!(
                    "{scale:e} makes codes of [{}, {}] infinite",
                    range.quant_min(),
                    range.quant_max()
                ),
            });
        }
        Ok(())
    }

    /// Returns `true` for a positive scale, and for a negative scale of signed codes with zero point 0: it mirrors the
    /// grid, so that the code without a counterpart, such as -8, stands for a positive value.
    #[inline]
    fn has_good_sign(&self, range: QuantRange) -> bool {
        self.scale > 0.0 || (self.scale < 0.0 && self.zero_point == 0 && range.is_signed())
    }

    /// Values of the lowest and of the highest code.
    #[inline]
    pub fn representable(&self, range: QuantRange) -> (f32, f32) {
        let value = |code: i32| (code - self.zero_point) as f32 * self.scale;
        (value(range.quant_min()), value(range.quant_max()))
    }
}

/// Checks bounds and widens them to include zero, so that zero is always on the grid.
#[inline(always)]
fn with_zero(min: f32, max: f32) -> Result<(f32, f32)> {
    for (index, value) in [min, max].into_iter().enumerate() {
        if !value.is_finite() {
            return Err(Error::NotFinite { what: "bounds", index, value });
        }
    }
    if min > max {
        return Err(Error::Parameter { what: "bounds", detail: format!("min {min} is above max {max}") });
    }
    Ok((min.min(0.0), max.max(0.0)))
}

/// The zero point of symmetric mappings: 0 for signed codes, 128 for `[0, 255]`, the lower middle of any
/// other unsigned range (as in PyTorch's observers).
fn symmetric_zero_point(range: QuantRange) -> i32 {
    if range.is_signed() {
        0
    } else if range == QuantRange::UINT8 {
        128
    } else {
        (range.quant_min() + range.quant_max()) / 2
    }
}

/// Scale and zero point for values in `[min, max]`, as PyTorch's observers and torchao's
/// `choose_qparams_affine` compute them, in f32.
///
/// With `lo = min(min, 0)` and `hi = max(max, 0)`:
///
/// | mapping | scale, at least `eps` | zero point |
/// |---|---|---|
/// | [`Mapping::Affine`] | `(hi - lo) / (quant_max - quant_min)` | `clamp(quant_min - rte(lo / scale))` |
/// | [`Mapping::SymmetricTorch`] | `max(-lo, hi) / ((quant_max - quant_min) / 2)` | 0; 128 for `[0, 255]`; else the lower middle |
/// | [`Mapping::Symmetric`] | `max(lo / quant_min, hi / quant_max)` | 0 |
///
/// # Errors
/// [`Error::NotFinite`] for bounds that are not finite; [`Error::Parameter`] for `min > max`, an `eps` below
/// [`TORCHAO_EPS`], bounds so wide that codes would stand for infinities, and
/// [`Mapping::Symmetric`] with unsigned codes.
///
/// ```
/// use slm_quant_core::{Mapping, QuantRange, TORCH_EPS, choose_qparams};
///
/// let qparams = choose_qparams(-1.0, 3.0, QuantRange::UINT8, Mapping::Affine, TORCH_EPS)?;
/// assert_eq!(qparams.scale, 4.0 / 255.0);
/// assert_eq!(qparams.zero_point, 64);
/// # Ok::<(), slm_quant_core::Error>(())
/// ```
pub fn choose_qparams(min: f32, max: f32, range: QuantRange, mapping: Mapping, eps: f32) -> Result<QParams> {
    let (lo, hi) = with_zero(min, max)?;
    let scale = raw_scale(lo, hi, range, mapping, eps)?;
    at_scale(lo, scale, range, mapping)
}

/// [`choose_qparams`] with the scale rounded to the type it will be stored in before anything is derived
/// from it.
///
/// An F16 scale is at least the smallest positive F16 (2^-24). Below 2^-14 F16 is subnormal and a scale
/// keeps fewer bits.
///
/// # Errors
/// As [`choose_qparams`]; [`Error::Parameter`] for a scale above what F16 holds.
#[inline(always)]
pub fn choose_qparams_stored(
    min: f32,
    max: f32,
    range: QuantRange,
    mapping: Mapping,
    eps: f32,
    scale_dtype: ScaleDtype,
) -> Result<QParams> {
    let (lo, hi) = with_zero(min, max)?;
    let scale = raw_scale(lo, hi, range, mapping, eps)?;
    at_scale(lo, stored_scale(scale, scale_dtype)?, range, mapping)
}

/// Rounds a scale to `dtype`. The scale keeps its sign and does not become 0.
#[inline(always)]
pub(crate) fn stored_scale(scale: f32, dtype: ScaleDtype) -> Result<f32> {
    match dtype {
        ScaleDtype::F32 => Ok(scale),
        ScaleDtype::F16 => {
            let rounded = f16::from_f32(scale);
            if !rounded.is_finite() {
                return Err(Error::Parameter {
                    what: "scale",
                    detail: format!(
                        "{scale} does not fit an f16, which ends at {}: use f32 scales",
                        f16::MAX
                    ),
                });
            }
            Ok(rounded.to_f32().abs().max(f16::MIN_POSITIVE_SUBNORMAL.to_f32()).copysign(scale))
        }
    }
}

#[inline(always)]
fn raw_scale(lo: f32, hi: f32, range: QuantRange, mapping: Mapping, eps: f32) -> Result<f32> {
    if !eps.is_finite() || eps < TORCHAO_EPS {
        return Err(Error::Parameter {
            what: "eps",
            detail: format!("{eps:e} is not a finite number of at least {TORCHAO_EPS:e}"),
        });
    }
    let scale = match mapping {
        Mapping::Affine => (hi - lo) / range.steps() as f32,
        Mapping::SymmetricTorch => (-lo).max(hi) / (range.steps() as f32 / 2.0),
        Mapping::Symmetric => {
            if range.quant_min() >= 0 || range.quant_max() <= 0 {
                return Err(Error::Parameter {
                    what: "mapping",
                    detail: format!(
                        "{mapping} needs codes on both sides of zero, not [{}, {}]",
                        range.quant_min(),
                        range.quant_max()
                    ),
                });
            }
            (lo / range.quant_min() as f32).max(hi / range.quant_max() as f32)
        }
    };
    Ok(scale.max(eps))
}

#[inline(always)]
fn at_scale(lo: f32, scale: f32, range: QuantRange, mapping: Mapping) -> Result<QParams> {
    let zero_point = match mapping {
        Mapping::Affine => {
            let from_lo = range.quant_min() - (lo / scale).round_ties_even() as i32;
            from_lo.clamp(range.quant_min(), range.quant_max())
        }
        Mapping::SymmetricTorch => symmetric_zero_point(range),
        Mapping::Symmetric => 0,
    };
    let qparams = QParams { scale, zero_point };
    qparams.check(range)?;
    Ok(qparams)
}

/// Affine parameters of dynamically quantized activations, as PyTorch's `quantize_dynamic` linears compute them, in f64
/// (`ChooseQuantizationParams` in its `quant_utils.h`).
///
/// It differs from [`choose_qparams`] in three ways. The zero point comes from whichever end has the
/// smaller error. A range of zero width gives scale 0.1. A scale below [`DYNAMIC_SCALE_FLOOR`] is raised
/// to it, and the bounds are stretched along.
///
/// PyTorch's `reduce_range` corresponds to `range = [0, 127]` here, with codes clamped to `[0, 255]` later.
///
/// # Errors
/// [`Error::NotFinite`] and [`Error::Parameter`] for bounds as in [`choose_qparams`].
pub fn choose_qparams_dynamic(min: f32, max: f32, range: QuantRange) -> Result<QParams> {
    let (mut lo, mut hi) = with_zero(min, max)?;
    let (quant_min, quant_max) = (f64::from(range.quant_min()), f64::from(range.quant_max()));
    let mut scale = (f64::from(hi) - f64::from(lo)) / (quant_max - quant_min);
    if scale as f32 == 0.0 || (1.0 / scale as f32).is_infinite() {
        scale = 0.1;
    }
    if scale < f64::from(DYNAMIC_SCALE_FLOOR) {
        if lo == 0.0 {
            hi = DYNAMIC_SCALE_FLOOR * range.steps() as f32;
        } else if hi == 0.0 {
            lo = -DYNAMIC_SCALE_FLOOR * range.steps() as f32;
        } else {
            let stretch = DYNAMIC_SCALE_FLOOR / scale as f32;
            lo *= stretch;
            hi *= stretch;
        }
        scale = f64::from(DYNAMIC_SCALE_FLOOR);
    }
    let (lo, hi) = (f64::from(lo) / scale, f64::from(hi) / scale);
    let exact =
        if quant_min.abs() - lo.abs() < quant_max.abs() - hi.abs() { quant_min - lo } else { quant_max - hi };
    let zero_point = exact.clamp(quant_min, quant_max).round_ties_even() as i32;
    let qparams = QParams { scale: scale as f32, zero_point };
    qparams.check(range)?;
    Ok(qparams)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_bad_bounds_and_eps() {
        let choose = |min, max, eps| choose_qparams(min, max, QuantRange::INT8, Mapping::Affine, eps);
        assert!(matches!(choose(f32::NAN, 1.0, TORCH_EPS), Err(Error::NotFinite { index: 0, .. })));
        assert!(matches!(choose(0.0, f32::INFINITY, TORCH_EPS), Err(Error::NotFinite { index: 1, .. })));
        assert!(matches!(choose(1.0, -1.0, TORCH_EPS), Err(Error::Parameter { .. })));
        assert!(matches!(choose(0.0, 1.0, 0.0), Err(Error::Parameter { .. })));
        assert!(matches!(choose(0.0, 1.0, f32::NAN), Err(Error::Parameter { .. })));
        assert!(choose(f32::MIN, f32::MAX, TORCH_EPS).is_err());
        let unsigned = choose_qparams(0.0, 1.0, QuantRange::UINT8, Mapping::Symmetric, TORCH_EPS);
        assert!(matches!(unsigned, Err(Error::Parameter { what: "mapping", .. })));
    }

    #[test]
    fn f16_scales_are_positive_and_finite() {
        let choose = |max| {
            let symmetric = Mapping::Symmetric;
            choose_qparams_stored(0.0, max, QuantRange::INT8, symmetric, TORCHAO_EPS, ScaleDtype::F16)
        };
        assert_eq!(choose(0.0).unwrap().scale, 2.0_f32.powi(-24));
        assert_eq!(choose(127.0 * 1.0004).unwrap().scale, 1.0);
        assert!(matches!(choose(127.0 * 70_000.0), Err(Error::Parameter { what: "scale", .. })));
    }

    #[test]
    fn dynamic_floor_and_zero() {
        let zero = choose_qparams_dynamic(0.0, 0.0, QuantRange::UINT8).unwrap();
        assert_eq!(zero, QParams { scale: 0.1, zero_point: 0 });
        let small = choose_qparams_dynamic(-1e-4, 3e-4, QuantRange::UINT8).unwrap();
        assert_eq!(small, QParams { scale: DYNAMIC_SCALE_FLOOR, zero_point: 64 });
        assert!(choose_qparams_dynamic(f32::NAN, 0.0, QuantRange::UINT8).is_err());
    }
}
