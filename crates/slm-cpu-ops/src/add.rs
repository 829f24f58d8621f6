//! Sums and multiples of vectors.

use crate::dispatch::vectorized;

/// Computes `x += y`.
///
/// # Panics
/// If the lengths differ.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add: lengths differ");
    vectorized! {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

/// Computes `x += factor * y`.
///
/// # Panics
/// If the lengths differ.
pub fn add_scaled(x: &mut [f32], y: &[f32], factor: f32) {
    assert_eq!(x.len(), y.len(), "add_scaled: lengths differ");
    vectorized! {
        for (x, y) in x.iter_mut().zip(y) {
            *x = factor.mul_add(*y, *x);
        }
    }
}

/// Computes `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    vectorized! {
        for x in x {
            *x *= factor;
        }
    }
}

/// Computes `out = x + y`.
///
/// # Panics
/// If the lengths differ.
pub fn add_into(x: &[f32], y: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "add: lengths differ");
    vectorized! {
        for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
            *out = x + y;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let x: Vec<f32> = (0..37).map(|i| i as f32).collect();
        let y: Vec<f32> = (0..37).map(|i| i as f32 * 0.5).collect();
        let expected: Vec<f32> = (0..37).map(|i| i as f32 * 1.5).collect();
        let mut scaled = x.clone();
        add_scaled(&mut scaled, &y, 2.0);
        scale(&mut scaled, 0.5);
        assert!(scaled.iter().enumerate().all(|(i, scaled)| *scaled == i as f32));
        let (mut in_place, mut out) = (x.clone(), vec![0.0; 37]);
        add(&mut in_place, &y);
        add_into(&x, &y, &mut out);
        assert_eq!((in_place, out), (expected.clone(), expected));
    }
}
