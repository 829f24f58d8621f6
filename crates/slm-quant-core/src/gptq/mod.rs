//! GPTQ: rounding that compensates for its own errors.
//!
//! Inputs of a layer are correlated, so the other weights of a row can partly cancel the rounding error of one. GPTQ
//! (Frantar et al. 2022, <https://arxiv.org/abs/2210.17323>) rounds one input after the other and moves the weights
//! that are not rounded yet so that the output changes least:
//!
//! ```text
//! e = (w[j] - q[j]) / U[j, j];    w[k] -= e U[j, k]  for k > j;    H⁻¹ = Uᵀ U
//! ```
//!
//! Scales and zero points are fixed beforehand (static groups), so that inputs can be rounded in the order of their
//! mean squares while groups stay in place. Within a block, errors are applied to the following columns at once. The
//! columns after the block are updated by one product per block: the same arithmetic with better use of caches.

mod factor;
mod refine;
mod refit;
mod scales;
mod subtract;

use rayon::prelude::*;

pub use factor::{GptqFactor, GptqOptions};
pub use refine::{RefineOptions, refine_matrix};
pub use refit::{RefitOptions, refit_matrix_gptq};
pub use scales::choose_gptq_qparams;
pub(crate) use subtract::subtract_matrix_product;
use subtract::{Columns, subtract_products};

use crate::matrix::{EncodedRows, check_weight};
use crate::round::Quantizer;
use crate::scan::check_len;
use crate::vectorized;
use crate::{Error, Granularity, QParams, QuantScheme, QuantizedMatrix, Result};

/// Columns whose errors are applied to the columns after them at once.
const BLOCK: usize = 64;

/// Rows that are rounded together.
pub(crate) const TILE: usize = 16;

/// Columns after a block that are updated at once.
const SPAN: usize = 512;

/// Quantizes a `[rows, cols]` weight, row-major, by GPTQ with the scales and zero points `qparams`, in the order of
/// [`QuantizedMatrix::scales`].
///
/// Rows are handled in parallel. The result does not depend on the number of threads.
///
/// # Errors
/// As [`quantize_matrix_with`](crate::quantize_matrix_with), and [`Error::Length`] if the number of inputs of `factor`
/// is not `cols`.
pub fn quantize_matrix_gptq(
    weight: &[f32],
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    qparams: &[QParams],
    factor: &GptqFactor,
) -> Result<QuantizedMatrix> {
    check_weight(weight, rows, cols)?;
    check_len("inputs of the GPTQ factor", cols, factor.inputs())?;
    let mut encoded = EncodedRows::new(rows, cols, scheme, qparams)?;
    let quantizers = encoded.quantizers();
    let rounding = Rounding::new(&quantizers, rows, cols, scheme, factor)?;
    let tile = |(index, (weight, packed)): (usize, (&[f32], &mut [u8]))| -> Result<()> {
        let mut codes = vec![0_i8; weight.len()];
        rounding.tile(index * TILE, weight, &mut codes, &mut vec![0.0; weight.len() / cols])?;
        let packed = packed.chunks_exact_mut(scheme.bits.row_bytes(cols));
        codes
            .chunks_exact(cols)
            .zip(packed)
            .for_each(|(codes, packed)| EncodedRows::pack(scheme.bits, codes, packed));
        Ok(())
    };
    let row_bytes = scheme.bits.row_bytes(cols);
    let tiles = weight.par_chunks(TILE * cols).zip(encoded.codes_mut().par_chunks_mut(TILE * row_bytes));
    // Collected so that the error of the first tile wins, whichever thread finishes first.
    let outcomes: Vec<Result<()>> = tiles.enumerate().map(tile).collect();
    outcomes.into_iter().collect::<Result<()>>()?;
    Ok(encoded.finish())
}

/// GPTQ of one matrix with given scales.
struct Rounding<'a> {
    quantizers: &'a [Quantizer],
    /// Number of quantizers of a row; 0 if all rows share one.
    groups: usize,
    /// Columns of a group.
    width: usize,
    factor: &'a GptqFactor,
}

impl<'a> Rounding<'a> {
    /// `quantizers` are in the order of [`QuantizedMatrix::scales`].
    fn new(
        quantizers: &'a [Quantizer],
        rows: usize,
        cols: usize,
        scheme: QuantScheme,
        factor: &'a GptqFactor,
    ) -> Result<Self> {
        let groups = match scheme.granularity {
            Granularity::PerTensor => 0,
            _ => quantizers.len() / rows,
        };
        Ok(Self { quantizers, groups, width: scheme.granularity.group_width(cols)?, factor })
    }

    /// Rounds the rows `weight`, which start at row `first`, to `codes`. Writes their output errors by the damped
    /// Hessian to `losses`.
    fn tile(&self, first: usize, weight: &[f32], codes: &mut [i8], losses: &mut [f64]) -> Result<()> {
        let cols = self.factor.inputs();
        let errors = vec![0.0; weight.len() / cols * BLOCK];
        let mut tile = Tile { weights: vec![0.0; weight.len()], errors, factor: self.factor };
        tile.load(weight);
        let code = |row: usize, column: usize, value: f32| -> (i8, f32) {
            let index = (first + row) * self.groups + if self.groups == 0 { 0 } else { column / self.width };
            let quantizer = &self.quantizers[index];
            let code = quantizer.code(value);
            (code as i8, quantizer.value(code))
        };
        losses.fill(0.0);
        for start in (0..cols).step_by(BLOCK) {
            let end = (start + BLOCK).min(cols);
            vectorized!(tile.round(start, end, codes, losses, &code))?;
            tile.update(start, end);
        }
        Ok(())
    }
}

/// Rows that are rounded together, their columns in the order of rounding.
struct Tile<'a> {
    weights: Vec<f32>,
    /// `[rows, BLOCK]`, of the current block.
    errors: Vec<f32>,
    factor: &'a GptqFactor,
}

impl Tile<'_> {
    fn load(&mut self, weight: &[f32]) {
        let cols = self.factor.inputs();
        for (row, values) in self.weights.chunks_exact_mut(cols).zip(weight.chunks_exact(cols)) {
            for (value, column) in row.iter_mut().zip(&self.factor.order) {
                *value = values[*column];
            }
        }
    }

    /// Rounds the columns `start..end` of all rows, and adds the squared errors of each to `losses`.
    #[inline(always)]
    fn round(
        &mut self,
        start: usize,
        end: usize,
        codes: &mut [i8],
        losses: &mut [f64],
        code: &impl Fn(usize, usize, f32) -> (i8, f32),
    ) -> Result<()> {
        let GptqFactor { order, upper } = self.factor;
        let cols = order.len();
        let rows = self.weights.chunks_exact_mut(cols).zip(self.errors.chunks_exact_mut(BLOCK));
        for (row, ((weights, errors), codes)) in rows.zip(codes.chunks_exact_mut(cols)).enumerate() {
            for column in start..end {
                let factors = &upper[column * cols..][column..end];
                let (code, value) = code(row, order[column], weights[column]);
                codes[order[column]] = code;
                let error = (weights[column] - value) / factors[0];
                if !error.is_finite() {
                    return Err(Error::NotFinite { what: "GPTQ error", index: column, value: error });
                }
                errors[column - start] = error;
                losses[row] += f64::from(error) * f64::from(error);
                for (weight, factor) in weights[column + 1..end].iter_mut().zip(&factors[1..]) {
                    *weight -= error * factor;
                }
            }
        }
        Ok(())
    }

    /// Compensates for the errors of the columns `start..end` in the columns after them.
    fn update(&mut self, start: usize, end: usize) {
        let cols = self.factor.inputs();
        for from in (end..cols).step_by(SPAN) {
            let to = (from + SPAN).min(cols);
            subtract_products(
                Columns { values: &mut self.weights, stride: cols, range: from..to },
                Columns { values: &self.errors, stride: BLOCK, range: 0..end - start },
                |k| &self.factor.upper[(start + k) * cols + from..],
            );
        }
    }
}
