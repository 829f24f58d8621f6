//! Scales for GPTQ.
//!
//! A range of least squared error suits rounding to nearest. GPTQ moves weights before it rounds them, above all those
//! that it rounds last, so that another range clips fewer of them. A search finds how much wider or narrower that range
//! should be: it rounds a sample of rows by GPTQ with all scales multiplied by the same factor, and takes the factor with
//! the least output error.

use rayon::prelude::*;

use super::{GptqFactor, Rounding, TILE};
use crate::matrix::{check_weight, choose_signed_qparams};
use crate::qparams::stored_scale;
use crate::round::Quantizer;
use crate::scan::check_len;
use crate::{Granularity, QParams, QuantScheme, Result};

/// Ratios between the factors tried: the search steps by the first ratio, then by each finer one.
const STEPS: [f32; 4] = [1.15, 1.07, 1.035, 1.017];

/// Maximum number of steps of one size in one direction.
const MOST_STEPS: usize = 6;

/// Maximum number of values of the sampled rows.
const SAMPLE: usize = 1 << 18;

/// Scales and zero points of a `[rows, cols]` weight, row-major, for
/// [`quantize_matrix_gptq`](super::quantize_matrix_gptq) with `factor`, in the order of
/// [`QuantizedMatrix::scales`](crate::QuantizedMatrix::scales).
///
/// They are those of [`choose_weighted_qparams`](crate::choose_weighted_qparams) with the [remaining
/// costs](GptqFactor::remaining_costs), times one factor that is found by rounding a sample of the rows. On that sample
/// the output error is never above that without the factor. Symmetric 4-bit codes go from -8 to 7. Their scale is
/// negative if that lowers the error, and -8 then stands for the largest positive value.
///
/// # Errors
/// As [`choose_weighted_qparams`](crate::choose_weighted_qparams) and [`quantize_matrix_gptq`](super::quantize_matrix_gptq).
pub fn choose_gptq_qparams(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    factor: &GptqFactor,
) -> Result<Vec<QParams>> {
    check_weight(weight, rows, cols)?;
    check_len("inputs of the GPTQ factor", cols, factor.inputs())?;
    let qparams = choose_signed_qparams(weight, rows, cols, scheme, &factor.remaining_costs())?;
    let sample = Sample::new(weight, rows, cols, scheme, &qparams, factor);
    let Some(mut best) = sample.error(1.0)? else { return Ok(qparams) };
    let mut multiplier = 1.0;
    for step in STEPS {
        for step in [step, 1.0 / step] {
            let mut moved = false;
            for _ in 0..MOST_STEPS {
                match sample.error(multiplier * step)? {
                    Some(error) if error < best => {
                        (best, multiplier, moved) = (error, multiplier * step, true)
                    }
                    _ => break,
                }
            }
            if moved {
                break;
            }
        }
    }
    Ok(scaled(&qparams, multiplier, scheme).unwrap_or(qparams))
}

/// `qparams` with scales multiplied and stored as `scheme` says; `None` if a product is not a valid scale.
fn scaled(qparams: &[QParams], multiplier: f32, scheme: QuantScheme) -> Option<Vec<QParams>> {
    let scale = |q: &QParams| {
        let moved = QParams { scale: stored_scale(q.scale * multiplier, scheme.scale_dtype).ok()?, ..*q };
        moved.check(scheme.range()).ok().map(|()| moved)
    };
    qparams.iter().map(scale).collect()
}

/// Evenly spaced rows on which scales are tried.
struct Sample<'a> {
    weight: Vec<f32>,
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    qparams: Vec<QParams>,
    factor: &'a GptqFactor,
}

impl<'a> Sample<'a> {
    fn new(
        weight: &[f32],
        rows: usize,
        cols: usize,
        scheme: QuantScheme,
        qparams: &[QParams],
        factor: &'a GptqFactor,
    ) -> Self {
        let count = (SAMPLE / cols).clamp(TILE, rows.max(TILE)).min(rows);
        let chosen = || (0..count).map(|index| index * rows / count);
        let groups = qparams.len() / rows;
        let qparams = match scheme.granularity {
            Granularity::PerTensor => qparams.to_vec(),
            _ => chosen().flat_map(|row| &qparams[row * groups..][..groups]).copied().collect(),
        };
        let weight = chosen().flat_map(|row| &weight[row * cols..][..cols]).copied().collect();
        Self { weight, rows: count, cols, scheme, qparams, factor }
    }

    /// Output error with scales multiplied; `None` if a product is not a valid scale.
    fn error(&self, multiplier: f32) -> Result<Option<f64>> {
        let Self { weight, rows, cols, scheme, qparams, factor } = self;
        let Some(qparams) = scaled(qparams, multiplier, *scheme) else { return Ok(None) };
        let quantizers: Vec<Quantizer> =
            qparams.iter().map(|qparams| Quantizer::new(*qparams, scheme.range())).collect();
        let rounding = Rounding::new(&quantizers, *rows, *cols, *scheme, factor)?;
        let tile = |(index, weight): (usize, &[f32])| {
            let mut losses = vec![0.0; weight.len() / cols];
            rounding.tile(index * TILE, weight, &mut vec![0_i8; weight.len()], &mut losses)?;
            Ok(losses.iter().sum::<f64>())
        };
        // Collected, so that the order of the sum does not depend on the number of threads.
        let errors: Vec<Result<f64>> = weight.par_chunks(TILE * cols).enumerate().map(tile).collect();
        Ok(Some(errors.into_iter().sum::<Result<f64>>()?))
    }
}
