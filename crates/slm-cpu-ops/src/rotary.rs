//! Rotary position embedding.

use crate::dispatch::vectorized;

/// Rotates every head of a row. The two halves of its first `2 * pairs` values form the pairs: `(a, b)` becomes
/// `(a cos - b sin, b cos + a sin)` (Su and others, 2021, arXiv:2104.09864, in the order of Hugging Face's models). The
/// rest of a head is unchanged.
///
/// # Shapes
/// - `heads`: `[heads, head_dim]`, with `head_dim >= 2 * pairs`
/// - `cos`, `sin`: `[pairs]`
///
/// # Panics
/// If the lengths do not fit.
pub fn rotate(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let pairs = check(heads.len(), head_dim, cos, sin);
    vectorized! {
        for head in heads.chunks_exact_mut(head_dim) {
            let (first, second) = head[..2 * pairs].split_at_mut(pairs);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

/// The inverse of [`rotate`], which is also its backward pass.
///
/// # Shapes
/// Those of [`rotate`].
///
/// # Panics
/// If the lengths do not fit.
pub fn rotate_back(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let pairs = check(heads.len(), head_dim, cos, sin);
    vectorized! {
        for head in heads.chunks_exact_mut(head_dim) {
            let (first, second) = head[..2 * pairs].split_at_mut(pairs);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos + *b * sin, *b * cos - *a * sin);
            }
        }
    }
}

/// Checks the lengths and returns the number of rotated pairs.
fn check(len: usize, head_dim: usize, cos: &[f32], sin: &[f32]) -> usize {
    let pairs = cos.len();
    let fits = pairs == sin.len() && pairs > 0 && 2 * pairs <= head_dim && len.is_multiple_of(head_dim);
    assert!(fits, "rotary embedding: lengths do not fit");
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_by_hand() {
        for (pairs, rest) in [(1, 0), (2, 1), (8, 48), (32, 0), (37, 5)] {
            let head_dim = 2 * pairs + rest;
            let angles: Vec<f64> = (0..pairs).map(|i| 0.3 * i as f64 + 0.1).collect();
            let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
            let x: Vec<f32> = (0..3 * head_dim).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
            let mut y = x.clone();
            rotate(&mut y, head_dim, &cos, &sin);
            let mut back = y.clone();
            rotate_back(&mut back, head_dim, &cos, &sin);
            assert!(back.iter().zip(&x).all(|(back, x)| (back - x).abs() < 1e-5));
            for (x, y) in x.chunks(head_dim).zip(y.chunks(head_dim)) {
                assert_eq!(x[2 * pairs..], y[2 * pairs..]);
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
