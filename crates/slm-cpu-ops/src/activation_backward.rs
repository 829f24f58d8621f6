//! Backward passes of the activation functions of an MLP.

use crate::activation::{TWICE_SQRT_2_OVER_PI, normal_cdf};
use crate::dispatch::vectorized;
use crate::exp::exp_scalar;

/// Backward pass of [`swiglu`](crate::swiglu): `gate` and `up` hold the inputs and receive their gradients.
///
/// # Panics
/// If the lengths differ.
pub fn swiglu_backward(gate: &mut [f32], up: &mut [f32], grad: &[f32]) {
    assert!(gate.len() == up.len() && gate.len() == grad.len(), "swiglu_backward: lengths differ");
    vectorized! {
        for ((gate, up), grad) in gate.iter_mut().zip(up).zip(grad) {
            let sigmoid = 1.0 / (1.0 + exp_scalar(-*gate));
            let silu = *gate * sigmoid;
            let slope = silu.mul_add(1.0 - sigmoid, sigmoid);
            (*gate, *up) = (grad * *up * slope, grad * silu);
        }
    }
}

/// Backward pass of [`gelu`](crate::gelu): `x` holds the input and receives its gradient.
///
/// # Panics
/// If the lengths differ.
pub fn gelu_backward(x: &mut [f32], grad: &[f32]) {
    assert_eq!(x.len(), grad.len(), "gelu_backward: lengths differ");
    // The density of the normal distribution at 0.
    let density = 0.5 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    vectorized! {
        for (x, grad) in x.iter_mut().zip(grad) {
            let slope = normal_cdf(*x) + *x * density * exp_scalar(-0.5 * *x * *x);
            *x = grad * slope;
        }
    }
}

/// Backward pass of [`gelu_tanh`](crate::gelu_tanh): `x` holds the input and receives its gradient.
///
/// # Panics
/// If the lengths differ.
pub fn gelu_tanh_backward(x: &mut [f32], grad: &[f32]) {
    assert_eq!(x.len(), grad.len(), "gelu_tanh_backward: lengths differ");
    vectorized! {
        for (x, grad) in x.iter_mut().zip(grad) {
            let square = *x * *x;
            let twice_u = TWICE_SQRT_2_OVER_PI * *x * (0.044_715 * square + 1.0);
            let sigmoid = 1.0 / (1.0 + exp_scalar(-twice_u));
            let twice_u_slope = TWICE_SQRT_2_OVER_PI * (3.0 * 0.044_715 * square + 1.0);
            *x = grad * (*x * twice_u_slope * (1.0 - sigmoid)).mul_add(sigmoid, sigmoid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::{gelu, gelu_tanh, swiglu};

    fn points() -> Vec<f32> {
        (-700..=700).map(|i| i as f32 / 100.0).collect()
    }

    fn check(what: &str, found: &[f32], apply: impl Fn(&mut [f32]), grad: &[f32]) {
        let moved = |step: f32| {
            let mut y: Vec<f32> = points().iter().map(|x| x + step).collect();
            apply(&mut y);
            y
        };
        for (i, (plus, minus)) in moved(1e-2).iter().zip(moved(-1e-2)).enumerate() {
            let e = f64::from(plus - minus) / 2e-2 * f64::from(grad[i]);
            let f = f64::from(found[i]);
            assert!((f - e).abs() < 1e-3, "{what} at {}: {f} {e}", points()[i]);
        }
    }

    #[test]
    fn gelus_by_finite_differences() {
        let grad: Vec<f32> = points().iter().map(|x| 1.0 - x * 0.2).collect();
        for (what, forward, backward) in [
            ("gelu", gelu as fn(&mut [f32]), gelu_backward as fn(&mut [f32], &[f32])),
            ("gelu_tanh", gelu_tanh, gelu_tanh_backward),
        ] {
            let mut found = points();
            backward(&mut found, &grad);
            check(what, &found, forward, &grad);
        }
    }

    #[test]
    fn swiglu_by_finite_differences() {
        let up: Vec<f32> = points().iter().map(|x| 1.5 - x * 0.25).collect();
        let grad: Vec<f32> = points().iter().map(|x| 0.5 + x * 0.1).collect();
        let (mut by_gate, mut by_up) = (points(), up.clone());
        swiglu_backward(&mut by_gate, &mut by_up, &grad);
        check("gate", &by_gate, |gate| swiglu(gate, &up), &grad);
        // Linear in `up`: its slope is the value at 1.
        let mut at_one = points();
        swiglu(&mut at_one, &vec![1.0; up.len()]);
        for ((found, at_one), grad) in by_up.iter().zip(at_one).zip(&grad) {
            assert!((found - at_one * grad).abs() < 1e-5, "{found} {at_one}");
        }
    }
}
