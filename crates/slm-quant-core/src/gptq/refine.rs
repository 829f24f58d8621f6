//! Refinement of a quantized matrix by coordinate descent on its output error.
//!
//! The error of a row, `(w - q)ᵀ H (w - q)`, is quadratic in each code and in each scale while all others are fixed.
//! One after the other, each code and each scale moves to the value on its grid with the least error, so that no step
//! increases the error (for codes: Behdin et al. 2023, "QuantEase", <https://arxiv.org/abs/2309.01885>; for scales:
//! least squares). GPTQ never revisits a code, so refinement after it reduces the error further.

use rayon::prelude::*;

use super::TILE;
use super::subtract::subtract_matrix_product;
use crate::matrix::{EncodedRows, check_weight};
use crate::qparams::stored_scale;
use crate::round::Quantizer;
use crate::scan::check_len;
use crate::vectorized;
use crate::{Error, Granularity, Hessian, QParams, QuantScheme, QuantizedMatrix, Result};

/// Settings of a refinement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefineOptions {
    /// Damping added to the diagonal of the Hessian, as in [`GptqOptions`](super::GptqOptions).
    pub damping: f64,
    /// Number of sweeps over all codes and scales. One more sweep over the codes only follows. With 0, nothing changes.
    pub sweeps: usize,
}

impl Default for RefineOptions {
    fn default() -> Self {
        Self { damping: 0.01, sweeps: 3 }
    }
}

/// Moves the codes and scales of `matrix`, which quantizes `weight`, so that the error of the outputs decreases: the
/// error by `hessian` with a damped diagonal. Zero points do not change.
///
/// # Errors
/// [`Error::Length`] for shapes that differ, [`Error::NotFinite`] for weights that are not finite,
/// [`Error::NothingObserved`] for a Hessian of no inputs, [`Error::Parameter`] for damping that is negative or not finite.
pub fn refine_matrix(
    weight: &[f32],
    matrix: QuantizedMatrix,
    hessian: &Hessian,
    options: RefineOptions,
) -> Result<QuantizedMatrix> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    check_weight(weight, rows, cols)?;
    check_len("inputs of the Hessian", cols, hessian.inputs())?;
    if options.sweeps == 0 {
        return Ok(matrix);
    }
    let damped = Damped::new(hessian, options.damping)?;
    let mut state = State::new(&matrix);
    drop(matrix);
    match state.scheme.granularity {
        Granularity::PerTensor => {
            (0..options.sweeps).for_each(|_| state.sweep_tensor(weight, &damped, true));
            state.sweep_tensor(weight, &damped, false);
        }
        _ => state.sweep_rows(weight, &damped, options.sweeps),
    }
    state.encode()
}

/// The damped Hessian, divided by the number of inputs.
pub(super) struct Damped {
    size: usize,
    values: Vec<f32>,
}

impl Damped {
    pub(super) fn new(hessian: &Hessian, damping: f64) -> Result<Self> {
        if !(damping.is_finite() && damping >= 0.0) {
            let detail = format!("{damping} is negative or not finite");
            return Err(Error::Parameter { what: "damping", detail });
        }
        let size = hessian.inputs();
        let squares = hessian.mean_squares()?;
        let mean = squares.iter().map(|square| f64::from(*square)).sum::<f64>() / size as f64;
        // Inputs that are always zero cost nothing; any positive number keeps their weights where they are.
        let floor = if mean > 0.0 { damping * mean } else { 1.0 };
        let samples = hessian.samples() as f32;
        let mut values: Vec<f32> = hessian.sums().iter().map(|sum| sum / samples).collect();
        (0..size).for_each(|i| values[i * (size + 1)] += floor as f32);
        Ok(Self { size, values })
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.size..][..self.size]
    }

    /// Subtracts `H x` from each of `outputs`, rows of `size`, for rows `x` of the columns from `start` on.
    fn subtract_products(&self, outputs: &mut [f32], x: &[f32], start: usize) {
        subtract_matrix_product(outputs, x, &self.values[start * self.size..], self.size);
    }
}

/// A quantized matrix in parts, while it is refined.
pub(super) struct State {
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    /// Row-major, one to an `i8`.
    pub(super) codes: Vec<i8>,
    pub(super) qparams: Vec<QParams>,
}

impl State {
    pub(super) fn new(matrix: &QuantizedMatrix) -> Self {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let mut codes = vec![0; rows * cols];
        codes.par_chunks_exact_mut(cols).enumerate().for_each(|(row, codes)| matrix.unpack_row(row, codes));
        let qparams = (0..matrix.scales().len()).map(|index| matrix.qparams(index)).collect();
        Self { rows, cols, scheme: matrix.scheme(), codes, qparams }
    }

    /// Sweeps over all codes and, if `scales` is set, over the one scale of the matrix.
    fn sweep_tensor(&mut self, weight: &[f32], hessian: &Damped, scales: bool) {
        let Self { cols, scheme, codes, qparams, .. } = self;
        let shared = qparams[0];
        let tile = |(weight, codes): (&[f32], &mut [i8])| {
            let mut tile = Tile::new(weight, codes, hessian, *cols, *scheme);
            tile.gradients(|_, _| shared);
            tile.move_codes(|_, _| shared);
            if scales { tile.scale_terms(shared.zero_point) } else { [0.0; 2] }
        };
        let tiles = weight.par_chunks(TILE * *cols).zip(codes.par_chunks_mut(TILE * *cols)).map(tile);
        // Collected, so that the order of the sum does not depend on the number of threads.
        let terms: Vec<[f64; 2]> = tiles.collect();
        let [product, square] = terms.iter().fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
        if let Some((moved, _)) = moved_scale(shared, product, square, *scheme) {
            qparams[0] = moved;
        }
    }

    /// Sweeps `sweeps` times over all codes and all scales of rows or groups, and once more over the codes.
    fn sweep_rows(&mut self, weight: &[f32], hessian: &Damped, sweeps: usize) {
        let Self { rows, cols, scheme, codes, qparams } = self;
        let width = scheme.granularity.group_width(*cols).unwrap_or(*cols);
        let groups = qparams.len() / *rows;
        weight
            .par_chunks(TILE * *cols)
            .zip(codes.par_chunks_mut(TILE * *cols))
            .zip(qparams.par_chunks_mut(TILE * groups))
            .for_each(|((weight, codes), qparams)| {
                let mut tile = Tile::new(weight, codes, hessian, width, *scheme);
                tile.gradients(|row, group| qparams[row * groups + group]);
                for _ in 0..sweeps {
                    tile.move_codes(|row, group| qparams[row * groups + group]);
                    tile.move_scales(qparams, groups);
                }
                tile.move_codes(|row, group| qparams[row * groups + group]);
            });
    }

    pub(super) fn encode(self) -> Result<QuantizedMatrix> {
        let Self { rows, cols, scheme, codes, qparams } = self;
        let mut encoded = EncodedRows::new(rows, cols, scheme, &qparams)?;
        let packed = encoded.codes_mut().par_chunks_mut(scheme.bits.row_bytes(cols));
        packed
            .zip(codes.par_chunks(cols))
            .for_each(|(packed, codes)| EncodedRows::pack(scheme.bits, codes, packed));
        Ok(encoded.finish())
    }
}

/// The scale that fits the codes best while everything else is fixed, and its change; `None` if it would not lower the
/// error. `product` is the product of the codes with the gradient, `square` that of the codes with themselves by `H`.
fn moved_scale(qparams: QParams, product: f64, square: f64, scheme: QuantScheme) -> Option<(QParams, f32)> {
    let wanted = (f64::from(qparams.scale) + product / square) as f32;
    if !(wanted.is_finite() && wanted * qparams.scale > 0.0) {
        return None;
    }
    let moved = QParams { scale: stored_scale(wanted, scheme.scale_dtype).ok()?, ..qparams };
    moved.check(scheme.range()).ok()?;
    let step = f64::from(moved.scale) - f64::from(qparams.scale);
    // The change of the error must be negative.
    (step * step * square - 2.0 * step * product < 0.0).then_some((moved, step as f32))
}

/// Rows that are refined together.
pub(super) struct Tile<'a> {
    weight: &'a [f32],
    codes: &'a mut [i8],
    hessian: &'a Damped,
    /// Columns of a group.
    width: usize,
    scheme: QuantScheme,
    /// `H (w - q)` of each row.
    gradients: Vec<f32>,
}

impl<'a> Tile<'a> {
    pub(super) fn new(
        weight: &'a [f32],
        codes: &'a mut [i8],
        hessian: &'a Damped,
        width: usize,
        scheme: QuantScheme,
    ) -> Self {
        let gradients = vec![0.0; weight.len()];
        Self { weight, codes, hessian, width, scheme, gradients }
    }

    pub(super) fn codes_mut(&mut self) -> &mut [i8] {
        self.codes
    }

    /// Dequantized codes minus weights: the negative errors.
    fn differences(&self, qparams: impl Fn(usize, usize) -> QParams) -> Vec<f32> {
        let cols = self.hessian.size;
        let rows = self.weight.chunks_exact(cols).zip(self.codes.chunks_exact(cols));
        let mut differences = Vec::with_capacity(self.weight.len());
        for (row, (weight, codes)) in rows.enumerate() {
            for (group, (weight, codes)) in
                weight.chunks(self.width).zip(codes.chunks(self.width)).enumerate()
            {
                let QParams { scale, zero_point } = qparams(row, group);
                let value = |code: &i8| (i32::from(*code) - zero_point) as f32 * scale;
                differences.extend(weight.iter().zip(codes).map(|(weight, code)| value(code) - weight));
            }
        }
        differences
    }

    /// Computes the gradients of all codes.
    pub(super) fn gradients(&mut self, qparams: impl Fn(usize, usize) -> QParams) {
        let differences = self.differences(qparams);
        self.gradients.fill(0.0);
        self.hessian.subtract_products(&mut self.gradients, &differences, 0);
    }

    /// Output error of each row by the damped Hessian. The gradients must be those of the current codes.
    pub(super) fn losses(&self, qparams: impl Fn(usize, usize) -> QParams) -> Vec<f64> {
        let cols = self.hessian.size;
        let differences = self.differences(qparams);
        let rows = differences.chunks_exact(cols).zip(self.gradients.chunks_exact(cols));
        rows.map(|(differences, gradients)| -dot(differences, gradients)).collect()
    }

    /// Moves each code in turn to the best value on its grid.
    fn move_codes(&mut self, qparams: impl Fn(usize, usize) -> QParams) {
        vectorized!(self.move_codes_one_by_one(qparams));
    }

    #[inline(always)]
    fn move_codes_one_by_one(&mut self, qparams: impl Fn(usize, usize) -> QParams) {
        let (cols, range) = (self.hessian.size, self.scheme.range());
        let rows = self.codes.chunks_exact_mut(cols).zip(self.gradients.chunks_exact_mut(cols));
        for (row, (codes, gradients)) in rows.enumerate() {
            for (group, codes) in codes.chunks_mut(self.width).enumerate() {
                let quantizer = Quantizer::new(qparams(row, group), range);
                for (column, code) in (group * self.width..).zip(codes) {
                    let factors = self.hessian.row(column);
                    let value = quantizer.value(i32::from(*code));
                    let better = quantizer.code(value + gradients[column] / factors[column]);
                    if better == i32::from(*code) {
                        continue;
                    }
                    *code = better as i8;
                    let step = quantizer.value(better) - value;
                    for (gradient, factor) in gradients.iter_mut().zip(factors) {
                        *gradient -= step * factor;
                    }
                }
            }
        }
    }

    /// The sums over all rows that [`moved_scale`] takes.
    fn scale_terms(&self, zero_point: i32) -> [f64; 2] {
        let cols = self.hessian.size;
        let steps: Vec<f32> = self.codes.iter().map(|code| (i32::from(*code) - zero_point) as f32).collect();
        let mut products = vec![0.0; steps.len()];
        self.hessian.subtract_products(&mut products, &steps, 0);
        let mut terms = [0.0; 2];
        for (row, steps) in steps.chunks_exact(cols).enumerate() {
            let range = row * cols..(row + 1) * cols;
            terms[0] += dot(steps, &self.gradients[range.clone()]);
            terms[1] -= dot(steps, &products[range]);
        }
        terms
    }

    /// Moves the scale of each group of each row in turn.
    pub(super) fn move_scales(&mut self, qparams: &mut [QParams], groups: usize) {
        let cols = self.hessian.size;
        let rows = self.weight.len() / cols;
        let mut products = vec![0.0; rows * cols];
        for group in 0..groups {
            let start = group * self.width;
            let width = self.width.min(cols - start);
            let mut steps = Vec::with_capacity(rows * width);
            for (codes, qparams) in self.codes.chunks_exact(cols).zip(qparams.chunks_exact(groups)) {
                let zero_point = qparams[group].zero_point;
                let step = |code: &i8| (i32::from(*code) - zero_point) as f32;
                steps.extend(codes[start..start + width].iter().map(step));
            }
            products.fill(0.0);
            self.hessian.subtract_products(&mut products, &steps, start);
            for row in 0..rows {
                let (steps, products) = (&steps[row * width..][..width], &products[row * cols..][..cols]);
                let gradients = &mut self.gradients[row * cols..][..cols];
                let product = dot(steps, &gradients[start..start + width]);
                let square = -dot(steps, &products[start..start + width]);
                let current = &mut qparams[row * groups + group];
                if let Some((moved, step)) = moved_scale(*current, product, square, self.scheme) {
                    *current = moved;
                    gradients
                        .iter_mut()
                        .zip(products)
                        .for_each(|(gradient, product)| *gradient += step * product);
                }
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
