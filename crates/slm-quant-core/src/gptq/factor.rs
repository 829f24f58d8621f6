//! The triangular factor of an inverse Hessian.
//!
//! GPTQ needs `U`, upper triangular, with `H⁻¹ = Uᵀ U`. The inverse itself is not needed: with `H = V Vᵀ`, `V` upper
//! triangular, `U = V⁻¹`. Read backwards, from the last row and column to the first, `V` is the ordinary Cholesky
//! factor of `H`. So this is a Cholesky factorization and the inverse of a triangle, in f64 and blocked.

use rayon::prelude::*;

use super::subtract::{Columns, subtract, subtract_products};
use crate::{Error, Hessian, Result};

/// Columns that are factored together.
const BLOCK: usize = 64;

/// Settings of a [`GptqFactor`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GptqOptions {
    /// Damping added to the diagonal of the Hessian, as a share of the diagonal's mean; at least 0.
    pub damping: f64,
    /// `true` to round inputs in the order of descending mean squares instead of from first to last.
    pub activation_order: bool,
}

impl Default for GptqOptions {
    fn default() -> Self {
        Self { damping: 0.01, activation_order: true }
    }
}

/// The order in which GPTQ rounds the inputs of a layer, and the factor by which later inputs compensate for the error
/// of each. It depends on the inputs only, so layers that read the same inputs can share one.
#[derive(Debug, Clone, PartialEq)]
pub struct GptqFactor {
    /// Original positions of the inputs in the order of rounding.
    pub(super) order: Vec<usize>,
    /// `U` in that order, `[inputs, inputs]`, zero below the diagonal.
    pub(super) upper: Vec<f32>,
}

impl GptqFactor {
    /// Factors `hessian`.
    ///
    /// # Errors
    /// [`Error::NothingObserved`] for a Hessian of no inputs; [`Error::Parameter`] for damping that is negative or not
    /// finite, or so small that the damped Hessian is not positive definite.
    pub fn new(hessian: &Hessian, options: GptqOptions) -> Result<Self> {
        let squares = hessian.mean_squares()?;
        let GptqOptions { damping, activation_order } = options;
        if !(damping.is_finite() && damping >= 0.0) {
            let detail = format!("{damping} is negative or not finite");
            return Err(Error::Parameter { what: "damping", detail });
        }
        let size = hessian.inputs();
        let mut order: Vec<usize> = (0..size).collect();
        if activation_order {
            order.sort_by(|a, b| squares[*b].total_cmp(&squares[*a]));
        }
        let samples = hessian.samples() as f64;
        let mean = squares.iter().map(|square| f64::from(*square)).sum::<f64>() / size as f64;
        // Inputs that are always zero cost nothing; any positive number keeps them apart from the others.
        let floor = if mean > 0.0 { damping * mean } else { 1.0 };
        let mut lower = vec![0.0_f64; size * size];
        for (row, values) in lower.chunks_exact_mut(size).enumerate() {
            let sums = &hessian.sums()[order[size - 1 - row] * size..][..size];
            for (column, value) in values.iter_mut().enumerate().take(row + 1) {
                *value = f64::from(sums[order[size - 1 - column]]) / samples;
            }
            values[row] += floor;
        }
        cholesky(&mut lower, size)?;
        let inverse = invert_lower(&lower, size);
        drop(lower);
        let mut upper = vec![0.0; size * size];
        for (row, values) in upper.chunks_exact_mut(size).enumerate() {
            let inverse = &inverse[(size - 1 - row) * size..][..size];
            for (column, value) in values.iter_mut().enumerate().skip(row) {
                *value = inverse[size - 1 - column] as f32;
            }
        }
        crate::scan::check_finite("inverse Hessian", &upper)?;
        Ok(Self { order, upper })
    }

    /// Number of input features.
    pub fn inputs(&self) -> usize {
        self.order.len()
    }

    /// Cost of a squared rounding error of each input, after the inputs that are rounded later have compensated for it
    /// as well as they can: `1 / U[i, i]²`. Ranges weighted by these costs suit GPTQ better than ranges weighted by the
    /// mean squares.
    pub fn remaining_costs(&self) -> Vec<f32> {
        let mut costs = vec![0.0; self.inputs()];
        for (index, column) in self.order.iter().enumerate() {
            costs[*column] = self.upper[index * (self.inputs() + 1)].powi(-2);
        }
        costs
    }

    /// The inverse of the damped Hessian, divided by the number of inputs.
    pub(crate) fn inverse(&self) -> Inverse<'_> {
        let size = self.inputs();
        let mut lower = vec![0.0; size * size];
        for (row, values) in self.upper.chunks_exact(size).enumerate() {
            for (column, value) in values.iter().enumerate().skip(row) {
                lower[column * size + row] = *value;
            }
        }
        Inverse { factor: self, lower }
    }
}

/// The inverse of a damped Hessian, `Uᵀ U`.
pub(crate) struct Inverse<'a> {
    factor: &'a GptqFactor,
    /// `Uᵀ`, `[inputs, inputs]`, zero above the diagonal.
    lower: Vec<f32>,
}

impl Inverse<'_> {
    /// Multiplies the rows `values` by the inverse.
    pub(crate) fn apply(&self, values: &mut [f32]) {
        let Self { factor: GptqFactor { order, upper }, lower } = self;
        let size = order.len();
        let mut ordered = Vec::with_capacity(values.len());
        for row in values.chunks_exact(size) {
            ordered.extend(order.iter().map(|&column| row[column]));
        }
        let (mut products, mut result) = (vec![0.0; values.len()], vec![0.0; values.len()]);
        let blocks = || (0..size).step_by(BLOCK).map(|start| start..(start + BLOCK).min(size));
        // Both passes subtract, so the sign cancels.
        for block in blocks() {
            let (start, range) = (block.start, 0..block.end);
            subtract_products(
                Columns { values: &mut products, stride: size, range },
                Columns { values: &ordered, stride: size, range: block },
                |k| &lower[(start + k) * size..],
            );
        }
        for block in blocks() {
            let (start, range) = (block.start, block.start..size);
            subtract_products(
                Columns { values: &mut result, stride: size, range },
                Columns { values: &products, stride: size, range: block },
                |k| &upper[(start + k) * size + start..],
            );
        }
        for (values, result) in values.chunks_exact_mut(size).zip(result.chunks_exact(size)) {
            order.iter().zip(result).for_each(|(&column, &value)| values[column] = value);
        }
    }
}

/// Replaces the lower triangle of a symmetric matrix by its Cholesky factor.
fn cholesky(a: &mut [f64], size: usize) -> Result<()> {
    for start in (0..size).step_by(BLOCK) {
        let end = (start + BLOCK).min(size);
        for row in start..end {
            let (above, current) = a.split_at_mut(row * size);
            solve_row(above, size, start, row, &mut current[start..row]);
            let values = &current[start..row];
            let pivot = current[row] - values.iter().map(|x| x * x).sum::<f64>();
            if !(pivot.is_finite() && pivot > 0.0) {
                let detail = format!("the Hessian is not positive definite at input {row}: use more damping");
                return Err(Error::Parameter { what: "damping", detail });
            }
            current[row] = pivot.sqrt();
        }
        let (done, below) = a.split_at_mut(end * size);
        below
            .par_chunks_exact_mut(size)
            .for_each(|row| solve_row(done, size, start, end, &mut row[start..end]));
        // The panel, transposed, so that the update below runs along rows.
        let rest = size - end;
        let mut panel = vec![0.0; (end - start) * rest];
        for (index, row) in below.chunks_exact(size).enumerate() {
            for (column, value) in row[start..end].iter().enumerate() {
                panel[column * rest + index] = *value;
            }
        }
        below.par_chunks_exact_mut(size).enumerate().for_each(|(index, row)| {
            let (factors, values) = row.split_at_mut(end);
            subtract(&mut values[..=index], &factors[start..], |k| &panel[k * rest..]);
        });
    }
    Ok(())
}

/// Solves `x Lᵀ = values` for the part of a row between columns `start` and `end`, where `above` has the rows of `L`.
fn solve_row(above: &[f64], size: usize, start: usize, end: usize, values: &mut [f64]) {
    for column in start..end {
        let factors = &above[column * size + start..=column * size + column];
        let (solved, rest) = values.split_at_mut(column - start);
        let dot: f64 = solved.iter().zip(factors).map(|(x, l)| x * l).sum();
        rest[0] = (rest[0] - dot) / factors[column - start];
    }
}

/// The inverse of a lower triangular matrix.
fn invert_lower(lower: &[f64], size: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; size * size];
    let starts: Vec<usize> = (0..size).step_by(BLOCK).collect();
    let stripe = |&start: &usize| {
        let width = BLOCK.min(size - start);
        // Columns `start..start + width` of the inverse, from row `start` on.
        let mut values = vec![0.0; (size - start) * width];
        for row in start..size {
            let (solved, rest) = values.split_at_mut((row - start) * width);
            let current = &mut rest[..width];
            if let Some(one) = current.get_mut(row - start) {
                *one = 1.0;
            }
            let factors = &lower[row * size..][start..row];
            subtract(current, factors, |k| &solved[k * width..]);
            let pivot = lower[row * size + row];
            current.iter_mut().for_each(|value| *value /= pivot);
        }
        values
    };
    let stripes: Vec<Vec<f64>> = starts.par_iter().map(stripe).collect();
    for (start, values) in starts.into_iter().zip(stripes) {
        let width = BLOCK.min(size - start);
        for (row, values) in values.chunks_exact(width).enumerate() {
            inverse[(start + row) * size + start..][..width].copy_from_slice(values);
        }
    }
    inverse
}
