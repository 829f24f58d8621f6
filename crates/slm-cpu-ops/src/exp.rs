//! The exponential function, in arithmetic that vectorizes.

use crate::dispatch::vectorized;

/// Computes `e^x` of every value in place.
///
/// The relative error is at most 2e-7 (3 units in the last place) from -87.3 to 88.3. Below that the result is 0
/// (f32 has only subnormal numbers there), above it is infinity. NaN stays NaN.
pub fn exp(x: &mut [f32]) {
    vectorized! {
        for x in x {
            *x = exp_scalar(*x);
        }
    }
}

/// Rounding constant, 1.5 * 2^23. Added, it leaves the rounded integer in the lowest bits of the sum.
const ROUND: f32 = 12_582_912.0;
/// `ln 2` split into a number with few bits, whose products with integers are exact, and the rest.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Bounds within which 2^n, with n the rounded exponent, is a normal number.
const LOWEST: f32 = -87.33;
const HIGHEST: f32 = 88.37;

/// `e^x = 2^n e^r` with `|r| <= ln 2 / 2`, where a polynomial of degree 6 gives `e^r` (the coefficients are those
/// of Cephes' `expf`: minimax, relative error 2e-8).
#[inline(always)]
pub(crate) fn exp_scalar(x: f32) -> f32 {
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = 1.987_569_1e-4_f32;
    for coefficient in [1.398_2e-3_f32, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = p.mul_add(r, coefficient);
    }
    let p = p.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let y = p * power;
    let y = if x < LOWEST { 0.0 } else { y };
    if x > HIGHEST { f32::INFINITY } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_over_the_whole_range() {
        let mut worst = 0.0_f64;
        let mut x = -87.3_f32;
        while x < 88.3 {
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp_scalar(x)) / expected - 1.0).abs());
            x += 0.000_37;
        }
        assert!(worst < 2e-7, "{worst}");
        assert!(worst > 1e-9, "an error that small means that nothing was compared");
    }

    #[test]
    fn ends_of_the_range() {
        for (x, expected) in [
            (0.0, 1.0),
            (-0.0, 1.0),
            (f32::NEG_INFINITY, 0.0),
            (f32::INFINITY, f32::INFINITY),
            (-1000.0, 0.0),
            (-88.0, 0.0),
            (89.0, f32::INFINITY),
            (1e30, f32::INFINITY),
        ] {
            let mut y = [x];
            exp(&mut y);
            assert_eq!(y, [expected], "{x}");
        }
        let mut y = [f32::NAN];
        exp(&mut y);
        assert!(y[0].is_nan());
    }
}
