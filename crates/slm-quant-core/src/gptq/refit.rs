//! Scales fitted to the codes of GPTQ, and GPTQ with these scales, in turn.
//!
//! GPTQ takes scales as given. For given codes, least squares yields the scales that fit them best, and with those
//! scales GPTQ finds other codes. Each row keeps the better result, so that no round makes it worse. The final error is
//! lower than that of coordinate descent, which moves one code at a time.

use rayon::prelude::*;

use super::refine::{Damped, State, Tile};
use super::{GptqFactor, Rounding, TILE};
use crate::matrix::check_weight;
use crate::round::Quantizer;
use crate::scan::check_len;
use crate::{Granularity, Hessian, QuantizedMatrix, Result};

/// Settings of [`refit_matrix_gptq`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefitOptions {
    /// Damping added to the diagonal of the Hessian, as in [`GptqOptions`](super::GptqOptions).
    pub damping: f64,
    /// Number of times that scales are fitted and codes are rounded again.
    pub rounds: usize,
}

impl Default for RefitOptions {
    fn default() -> Self {
        Self { damping: 0.01, rounds: 2 }
    }
}

/// Alternately fits the scales of `matrix`, which quantizes `weight`, to its codes and rounds `weight` again by GPTQ with
/// the new scales. `factor` is that of `hessian`, with the same damping. Zero points do not change. A matrix with a single
/// scale is returned unchanged: [`choose_gptq_qparams`](super::choose_gptq_qparams) has already tried scales for it.
///
/// # Errors
/// As [`refine_matrix`](super::refine_matrix) and [`quantize_matrix_gptq`](super::quantize_matrix_gptq).
pub fn refit_matrix_gptq(
    weight: &[f32],
    matrix: QuantizedMatrix,
    hessian: &Hessian,
    factor: &GptqFactor,
    options: RefitOptions,
) -> Result<QuantizedMatrix> {
    let (rows, cols, scheme) = (matrix.rows(), matrix.cols(), matrix.scheme());
    check_weight(weight, rows, cols)?;
    check_len("inputs of the Hessian", cols, hessian.inputs())?;
    check_len("inputs of the GPTQ factor", cols, factor.inputs())?;
    if options.rounds == 0 || scheme.granularity == Granularity::PerTensor {
        return Ok(matrix);
    }
    let damped = Damped::new(hessian, options.damping)?;
    let mut state = State::new(&matrix);
    drop(matrix);
    let width = scheme.granularity.group_width(cols)?;
    let groups = state.qparams.len() / rows;
    let tiles = weight
        .par_chunks(TILE * cols)
        .zip(state.codes.par_chunks_mut(TILE * cols))
        .zip(state.qparams.par_chunks_mut(TILE * groups));
    let refit = |((weight, codes), qparams): ((&[f32], &mut [i8]), &mut [_])| -> Result<()> {
        let mut tile = Tile::new(weight, codes, &damped, width, scheme);
        let mut rounded = vec![0_i8; weight.len()];
        let mut losses = vec![0.0; weight.len() / cols];
        for _ in 0..options.rounds {
            tile.gradients(|row, group| qparams[row * groups + group]);
            tile.move_scales(qparams, groups);
            let kept = tile.losses(|row, group| qparams[row * groups + group]);
            let quantizers: Vec<Quantizer> =
                qparams.iter().map(|qparams| Quantizer::new(*qparams, scheme.range())).collect();
            let rounding = Rounding::new(&quantizers, losses.len(), cols, scheme, factor)?;
            rounding.tile(0, weight, &mut rounded, &mut losses)?;
            for (row, (kept, loss)) in kept.iter().zip(&losses).enumerate() {
                if loss < kept {
                    let range = row * cols..(row + 1) * cols;
                    tile.codes_mut()[range.clone()].copy_from_slice(&rounded[range]);
                }
            }
        }
        Ok(())
    };
    // Collected so that the error of the first tile wins, whichever thread finishes first.
    let outcomes: Vec<Result<()>> = tiles.map(refit).collect();
    outcomes.into_iter().collect::<Result<()>>()?;
    state.encode()
}
