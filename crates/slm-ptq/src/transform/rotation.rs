//! Random orthogonal matrices that are cheap to multiply by.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::hadamard;

/// Largest dense factor of a width for which no Hadamard matrix is known.
const MAX_DENSE: usize = 512;

/// A random orthogonal matrix R of some width: random signs, then the Kronecker product of a small dense orthogonal
/// matrix and a Hadamard matrix whose order is a power of two (QuaRot: Ashkboos and others, 2024). All its entries have
/// about the same magnitude, so that one large value becomes many small ones.
///
/// The dense factor is a Hadamard matrix if one is known, and otherwise a matrix of orthonormalized random numbers. A
/// seed gives the same matrix on every machine.
#[derive(Debug, Clone)]
pub(super) struct Rotation {
    signs: Vec<f64>,
    /// `[order, order]`, scaled so that the whole matrix is orthogonal.
    dense: Vec<f64>,
    order: usize,
    /// Unit vector whose reflection makes the vector of ones a fixed point, if that was requested.
    reflection: Option<Vec<f64>>,
}

impl Rotation {
    /// The rotation of `width` with this seed. With `keeps_ones` the vector of ones is a fixed point, so the mean of a
    /// vector does not change. `None` for a width that has an odd factor above 512.
    pub(super) fn new(width: usize, seed: u64, keeps_ones: bool) -> Option<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let signs = (0..width).map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect();
        let (order, mut dense) = match hadamard::factor(width) {
            Some((order, _)) => (order, hadamard::paley(order)),
            None => {
                let odd = width.checked_shr(width.trailing_zeros()).filter(|&odd| odd <= MAX_DENSE)?;
                let scale = (odd as f64).sqrt();
                (odd, random_orthogonal(odd, &mut rng).into_iter().map(|value| value * scale).collect())
            }
        };
        let scale = 1.0 / (width as f64).sqrt();
        dense.iter_mut().for_each(|value| *value *= scale);
        let mut rotation = Self { signs, dense, order, reflection: None };
        if keeps_ones {
            rotation.reflection = rotation.reflection_to_ones();
        }
        Some(rotation)
    }

    /// Number of values in a vector that it rotates.
    pub(super) fn width(&self) -> usize {
        self.signs.len()
    }

    /// The direction from the image of the vector of ones to that vector.
    fn reflection_to_ones(&self) -> Option<Vec<f64>> {
        let one = 1.0 / (self.width() as f64).sqrt();
        let mut direction = vec![one; self.width()];
        self.apply(&mut direction, &mut Vec::new());
        direction.iter_mut().for_each(|value| *value -= one);
        let norm = direction.iter().map(|value| value * value).sum::<f64>().sqrt();
        if norm < 1e-12 {
            return None;
        }
        direction.iter_mut().for_each(|value| *value /= norm);
        Some(direction)
    }

    /// Replaces the vector `row` by `row R`. `scratch` is overwritten.
    pub(super) fn apply(&self, row: &mut [f64], scratch: &mut Vec<f64>) {
        let (order, power) = (self.order, row.len() / self.order.max(1));
        row.iter_mut().zip(&self.signs).for_each(|(value, sign)| *value *= sign);
        row.chunks_exact_mut(power.max(1)).for_each(hadamard::sylvester);
        scratch.clear();
        scratch.resize(row.len(), 0.0);
        for (segment, factors) in row.chunks_exact(power.max(1)).zip(self.dense.chunks_exact(order)) {
            for (sums, &factor) in scratch.chunks_exact_mut(power.max(1)).zip(factors) {
                sums.iter_mut().zip(segment).for_each(|(sum, value)| *sum += factor * value);
            }
        }
        row.copy_from_slice(scratch);
        if let Some(direction) = &self.reflection {
            let along = 2.0 * row.iter().zip(direction).map(|(value, unit)| value * unit).sum::<f64>();
            row.iter_mut().zip(direction).for_each(|(value, unit)| *value -= along * unit);
        }
    }
}

/// A random matrix, orthonormalized row by row (Gram and Schmidt, with two passes over each row against rounding
/// errors).
fn random_orthogonal(order: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(order);
    while rows.len() < order {
        let mut row: Vec<f64> = (0..order).map(|_| normal(rng)).collect();
        for _ in 0..2 {
            for other in &rows {
                let product: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(value, unit)| *value -= product * unit);
            }
        }
        let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        // A row in the span of those before it is drawn again.
        if norm > 1e-6 {
            rows.push(row.into_iter().map(|value| value / norm).collect());
        }
    }
    rows.concat()
}

/// A normal value (Box and Muller, 1958).
pub(super) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rotation: &Rotation) -> Vec<Vec<f64>> {
        let rows = (0..rotation.width()).map(|index| {
            let mut row = vec![0.0; rotation.width()];
            row[index] = 1.0;
            rotation.apply(&mut row, &mut Vec::new());
            row
        });
        rows.collect()
    }

    #[test]
    fn every_width_is_orthogonal() {
        for width in [1, 2, 7, 8, 12, 18, 30, 36, 64, 72, 576] {
            for keeps_ones in [false, true] {
                let rotation = Rotation::new(width, 3, keeps_ones).unwrap();
                let rows = matrix(&rotation);
                for (i, a) in rows.iter().enumerate() {
                    for (j, b) in rows.iter().enumerate() {
                        let product: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                        let expected = f64::from(u8::from(i == j));
                        assert!((product - expected).abs() < 1e-12, "{width} {keeps_ones}: {i}, {j}");
                    }
                }
                if keeps_ones {
                    let mut ones = vec![1.0; width];
                    rotation.apply(&mut ones, &mut Vec::new());
                    assert!(ones.iter().all(|value| (value - 1.0).abs() < 1e-12), "{width}: {ones:?}");
                }
            }
        }
        assert!(Rotation::new(1021, 0, false).is_none());
    }

    #[test]
    fn one_large_value_becomes_many_small_ones() {
        let rotation = Rotation::new(576, 0, false).unwrap();
        for row in matrix(&rotation) {
            assert!(row.iter().all(|value| (value.abs() - 1.0 / 24.0).abs() < 1e-12));
        }
    }

    #[test]
    fn seeds_differ() {
        let [a, b, again] = [0, 1, 0].map(|seed| matrix(&Rotation::new(24, seed, false).unwrap()));
        assert_ne!(a, b);
        assert_eq!(a, again);
    }
}
