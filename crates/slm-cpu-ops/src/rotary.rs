//! Rotary position embedding.

use crate::dispatch::vectorized;

/// Rotates every head of a row, the two halves of a head forming the pairs: `(a, b)` becomes
/// `(a cos - b sin, b cos + a sin)` (Su and others, 2021, arXiv:2104.09864, in the order of Hugging Face's
/// models).
///
/// # Shapes
/// - `heads`: `[heads, 2 * pairs]`
/// - `cos`, `sin`: `[pairs]`
///
/// # Panics
/// When the lengths do not fit.
pub fn rotate(heads: &mut [f32], cos: &[f32], sin: &[f32]) {
    let pairs = cos.len();
    let fits = pairs == sin.len() && pairs > 0 && heads.len().is_multiple_of(2 * pairs);
    assert!(fits, "rotate: lengths do not fit");
    vectorized! {
        for head in heads.chunks_exact_mut(2 * pairs) {
            let (first, second) = head.split_at_mut(pairs);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

/// Turns back what [`rotate`] turned; also its backward pass.
///
/// # Shapes
/// Those of [`rotate`].
///
/// # Panics
/// When the lengths do not fit.
pub fn rotate_back(heads: &mut [f32], cos: &[f32], sin: &[f32]) {
    let pairs = cos.len();
    let fits = pairs == sin.len() && pairs > 0 && heads.len().is_multiple_of(2 * pairs);
    assert!(fits, "rotate_back: lengths do not fit");
    vectorized! {
        for head in heads.chunks_exact_mut(2 * pairs) {
            let (first, second) = head.split_at_mut(pairs);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos + *b * sin, *b * cos - *a * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_by_hand() {
        for pairs in [1, 2, 8, 32, 37] {
            let angles: Vec<f64> = (0..pairs).map(|i| 0.3 * i as f64 + 0.1).collect();
            let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
            let x: Vec<f32> = (0..3 * 2 * pairs).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
            let mut y = x.clone();
            rotate(&mut y, &cos, &sin);
            let mut back = y.clone();
            rotate_back(&mut back, &cos, &sin);
            assert!(back.iter().zip(&x).all(|(back, x)| (back - x).abs() < 1e-5));
            for (x, y) in x.chunks(2 * pairs).zip(y.chunks(2 * pairs)) {
                for i in 0..pairs {
                    let (a, b, t) = (f64::from(x[i]), f64::from(x[pairs + i]), angles[i]);
                    for (found, e) in
                        [(y[i], a * t.cos() - b * t.sin()), (y[pairs + i], b * t.cos() + a * t.sin())]
                    {
                        assert!((f64::from(found) - e).abs() < 1e-5, "{found} {e}");
                    }
                }
            }
        }
    }
}
