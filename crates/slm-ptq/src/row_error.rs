//! The error that one scale for all rows of an input causes in each row.

use rayon::prelude::*;
use slm_quant_core::QParams;

/// Number of classes of root mean squares per octave (factor of two).
const CLASSES_PER_OCTAVE: f64 = 4.0;
/// Binary logarithm of the root mean square of the first class.
const FIRST_OCTAVE: f64 = -64.0;
/// Number of classes: 128 octaves.
const CLASSES: usize = 512;

/// Histogram of the root mean squares of rows. Its size does not depend on their number.
#[derive(Debug, Clone)]
pub(crate) struct RowMagnitudes {
    counts: Vec<u64>,
    /// Number of rows of zeros, which have no error.
    zeros: u64,
}

impl Default for RowMagnitudes {
    fn default() -> Self {
        Self { counts: vec![0; CLASSES], zeros: 0 }
    }
}

impl RowMagnitudes {
    /// Counts the rows of a `[_, cols]` matrix.
    pub(crate) fn observe(&mut self, values: &[f32], cols: usize) {
        let class = |row: &[f32]| {
            let squares: f64 = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
            let octave = (squares / row.len() as f64).log2() / 2.0 - FIRST_OCTAVE;
            (squares > 0.0).then(|| (octave * CLASSES_PER_OCTAVE).clamp(0.0, (CLASSES - 1) as f64) as usize)
        };
        let classes: Vec<Option<usize>> = values.par_chunks_exact(cols.max(1)).map(class).collect();
        for class in classes {
            match class {
                Some(class) => self.counts[class] += 1,
                None => self.zeros += 1,
            }
        }
    }

    /// Estimate of the mean over all rows x of `|x - x'| / |x|`, where x' is the row quantized with `qparams`. It
    /// assumes a rounding error of `scale / sqrt(12)` in each value, and at most the row itself.
    pub(crate) fn relative_error(&self, qparams: QParams) -> f64 {
        let rounding = f64::from(qparams.scale) / 12f64.sqrt();
        let rows = self.zeros + self.counts.iter().sum::<u64>();
        let error = |class: usize| {
            let octave = FIRST_OCTAVE + (class as f64 + 0.5) / CLASSES_PER_OCTAVE;
            (rounding / octave.exp2()).min(1.0)
        };
        let sum: f64 =
            self.counts.iter().enumerate().map(|(class, &count)| count as f64 * error(class)).sum();
        if rows == 0 { 0.0 } else { sum / rows as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_the_error_of_rounding() {
        // A row of a hundredth of the range, a row of the whole range, and a row of zeros.
        let wave = |scale: f32| (0..1000).map(move |i| (i as f32 * 0.7).sin() * scale);
        let rows: Vec<f32> = wave(0.01).chain(wave(1.0)).chain(wave(0.0)).collect();
        let scale = 2.0 / 255.0;
        let error = |row: &[f32]| {
            let squares =
                |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
            let noise = squares(&mut row.iter().map(|x| x - (x / scale).round_ties_even() * scale));
            noise / squares(&mut row.iter().copied()).max(f64::MIN_POSITIVE)
        };
        let expected = rows.chunks(1000).map(error).sum::<f64>() / 3.0;
        let mut magnitudes = RowMagnitudes::default();
        magnitudes.observe(&rows, 1000);
        let found = magnitudes.relative_error(QParams { scale, zero_point: 128 });
        assert!((found / expected - 1.0).abs() < 0.15, "{found} {expected}");
    }
}
