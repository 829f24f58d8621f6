//! The activation functions of an MLP.

use crate::dispatch::vectorized;
use crate::exp::exp_scalar;
use crate::halves::Float;

/// `2 sqrt(2 / pi)`.
pub(crate) const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;

/// Computes `gate = silu(gate) * up`, with `silu(x) = x / (1 + e^-x)` (Shazeer, 2020, arXiv:2002.05202).
///
/// # Shapes
/// - `gate`, `up`: the same length
///
/// # Panics
/// If the lengths differ.
pub fn swiglu<T: Float>(gate: &mut [f32], up: &[T]) {
    assert_eq!(gate.len(), up.len(), "swiglu: lengths differ");
    vectorized! {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp_scalar(-*gate)) * up.wide();
        }
    }
}

/// Computes `gate = gelu(gate) * up`, with GELU by the error function (Shazeer, 2020, arXiv:2002.05202).
///
/// # Shapes
/// - `gate`, `up`: the same length
///
/// # Panics
/// If the lengths differ.
pub fn geglu(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "geglu: lengths differ");
    vectorized! {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate *= normal_cdf(*gate) * up;
        }
    }
}

/// [`geglu`] with the tanh approximation of GELU.
///
/// # Panics
/// If the lengths differ.
pub fn geglu_tanh(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "geglu_tanh: lengths differ");
    vectorized! {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = gelu_tanh_scalar(*gate) * up;
        }
    }
}

/// Computes `x / (1 + e^-x)` in place.
pub fn silu(x: &mut [f32]) {
    vectorized! {
        for x in x {
            *x /= 1.0 + exp_scalar(-*x);
        }
    }
}

/// Computes GELU by the error function, `x (1 + erf(x / sqrt 2)) / 2`, in place (Hendrycks and Gimpel, 2016,
/// arXiv:1606.08415).
///
/// The absolute error is at most `2e-7 (1 + |x|)`.
pub fn gelu(x: &mut [f32]) {
    vectorized! {
        for x in x {
            *x *= normal_cdf(*x);
        }
    }
}

/// Computes the tanh approximation of GELU, `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`, in place.
///
/// The absolute error compared with that formula is at most `2e-7 (1 + |x|)`.
pub fn gelu_tanh(x: &mut [f32]) {
    vectorized! {
        for x in x {
            *x = gelu_tanh_scalar(*x);
        }
    }
}

#[inline(always)]
fn gelu_tanh_scalar(x: f32) -> f32 {
    // (1 + tanh u) / 2 is 1 / (1 + e^-2u).
    let twice_u = TWICE_SQRT_2_OVER_PI * x * (0.044_715 * x * x + 1.0);
    x / (1.0 + exp_scalar(-twice_u))
}

/// The cumulative distribution function of the normal distribution, `(1 + erf(x / sqrt 2)) / 2`.
#[inline(always)]
pub(crate) fn normal_cdf(x: f32) -> f32 {
    // erfc(z) = t (a1 + t (a2 + ...)) e^(-z^2), t = 1 / (1 + p z), z >= 0: Abramowitz and Stegun, 7.1.26.
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / 0.327_591_1_f32.mul_add(z, 1.0);
    let mut p = 1.061_405_4_f32;
    for coefficient in [-1.453_152_f32, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        p = p.mul_add(t, coefficient);
    }
    let half_erfc = 0.5 * p * t * exp_scalar(-z * z);
    if x < 0.0 { half_erfc } else { 1.0 - half_erfc }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> Vec<f32> {
        (-9000..=9000).map(|i| i as f32 / 600.0).collect()
    }

    /// The error function by its series (small `z`) or its continued fraction.
    fn erf(z: f64) -> f64 {
        if z.abs() < 3.0 {
            let (mut term, mut sum) = (z, z);
            for n in 1..200 {
                term *= -z * z / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let a = z.abs();
        let mut fraction = a;
        for n in (1..200).rev() {
            fraction = a + f64::from(n) / 2.0 / fraction;
        }
        (1.0 - (-a * a).exp() / fraction / std::f64::consts::PI.sqrt()).copysign(z)
    }

    fn check(apply: fn(&mut [f32]), expected: impl Fn(f64) -> f64) {
        let mut y = points();
        apply(&mut y);
        for (x, y) in points().into_iter().zip(y) {
            let e = expected(f64::from(x));
            assert!((f64::from(y) - e).abs() <= 2e-7 * (1.0 + f64::from(x.abs())), "{x}: {y} is not {e}");
        }
    }

    #[test]
    fn gelus_follow_their_formulas() {
        check(gelu, |x| x * 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2)));
        let factor = (2.0 / std::f64::consts::PI).sqrt();
        check(gelu_tanh, |x| x * 0.5 * (1.0 + (factor * (x + 0.044715 * x * x * x)).tanh()));
    }

    #[test]
    fn swiglu_follows_its_formula() {
        let mut y = points();
        let up: Vec<f32> = points().iter().map(|x| 1.5 - x * 0.25).collect();
        swiglu(&mut y, &up);
        for ((x, up), y) in points().into_iter().zip(&up).zip(y) {
            let e = f64::from(x) / (1.0 + (-f64::from(x)).exp()) * f64::from(*up);
            assert!((f64::from(y) - e).abs() <= 4e-7 * (e.abs() + 1e-3), "{x}: {y} is not {e}");
        }
    }

    #[test]
    fn gated_gelus_are_products() {
        let up: Vec<f32> = points().iter().map(|x| 1.5 - x * 0.25).collect();
        for (gated, plain) in
            [(geglu as fn(&mut [f32], &[f32]), gelu as fn(&mut [f32])), (geglu_tanh, gelu_tanh)]
        {
            let (mut found, mut expected) = (points(), points());
            gated(&mut found, &up);
            plain(&mut expected);
            for ((found, plain), up) in found.iter().zip(expected).zip(&up) {
                assert!((found - plain * up).abs() <= 1e-6 * plain.abs() + 1e-30, "{found} {plain} {up}");
            }
        }
    }

    #[test]
    fn large_inputs_saturate_and_nan_stays() {
        for apply in [gelu, gelu_tanh, silu, |x: &mut [f32]| swiglu(x, &[1.0; 3])] {
            let mut y = [-1e6, 1e6, f32::NAN];
            apply(&mut y);
            assert_eq!((y[0].abs(), y[1]), (0.0, 1e6));
            assert!(y[2].is_nan());
        }
    }
}
