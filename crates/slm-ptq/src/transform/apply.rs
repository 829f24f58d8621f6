//! The transformation of one tensor, in f64.

use rayon::prelude::*;

use super::rotation::Rotation;

/// The exact changes of one linear layer, in the order in which they are applied: to its input columns, then to its
/// output rows.
#[derive(Debug, Clone, Default)]
pub(super) struct LinearChange<'a> {
    /// Factors of the columns, before the rotation: the weight of the norm that is folded in.
    pub(super) fold: Option<&'a [f64]>,
    /// Rotation of the input, applied to each run of its width.
    pub(super) input: Option<&'a Rotation>,
    /// Factors of the columns, after the rotation.
    pub(super) input_factors: Option<Vec<f64>>,
    /// Rotation of the output, applied to each run of its width.
    pub(super) output: Option<&'a Rotation>,
    /// Divisors of the rows, after the rotation.
    pub(super) output_divisors: Option<&'a [f64]>,
}

impl LinearChange<'_> {
    /// Changes the weight `values` of shape `[rows, cols]`.
    pub(super) fn weight(&self, values: &mut [f32], [rows, cols]: [usize; 2]) {
        if self.fold.is_some() || self.input.is_some() || self.input_factors.is_some() {
            each_row(values, cols, |row, scratch| {
                multiply(row, self.fold);
                rotate(row, self.input, scratch);
                multiply(row, self.input_factors.as_deref());
            });
        }
        if self.output.is_some() || self.output_divisors.is_some() {
            let mut columns = transposed(values, rows, cols);
            each_row(&mut columns, rows, |column, scratch| self.output(column, scratch));
            values.copy_from_slice(&transposed(&columns, cols, rows));
        }
    }

    /// Changes the bias.
    pub(super) fn bias(&self, values: &mut [f32]) {
        each_row(values, values.len(), |row, scratch| self.output(row, scratch));
    }

    fn output(&self, values: &mut [f64], scratch: &mut Vec<f64>) {
        rotate(values, self.output, scratch);
        if let Some(divisors) = self.output_divisors {
            values.iter_mut().zip(divisors).for_each(|(value, divisor)| *value /= divisor);
        }
    }
}

/// Rotates each row of a `[_, cols]` matrix.
pub(super) fn rotate_rows(values: &mut [f32], cols: usize, rotation: &Rotation) {
    each_row(values, cols, |row, scratch| rotation.apply(row, scratch));
}

/// Calls `change` for each row in f64, with a scratch vector, and rounds the result once.
fn each_row(values: &mut [f32], cols: usize, change: impl Fn(&mut [f64], &mut Vec<f64>) + Sync) {
    values.par_chunks_mut(cols.max(1)).for_each_init(
        || (Vec::new(), Vec::new()),
        |(row, scratch), values| {
            row.clear();
            row.extend(values.iter().map(|&value| f64::from(value)));
            change(row, scratch);
            values.iter_mut().zip(row.iter()).for_each(|(value, &changed)| *value = changed as f32);
        },
    );
}

fn multiply(row: &mut [f64], factors: Option<&[f64]>) {
    if let Some(factors) = factors {
        row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
    }
}

fn rotate(values: &mut [f64], rotation: Option<&Rotation>, scratch: &mut Vec<f64>) {
    if let Some(rotation) = rotation {
        values.chunks_exact_mut(rotation.width()).for_each(|run| rotation.apply(run, scratch));
    }
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut result = vec![0.0; values.len()];
    result.par_chunks_mut(rows.max(1)).enumerate().for_each(|(col, column)| {
        column.iter_mut().enumerate().for_each(|(row, value)| *value = values[row * cols + col]);
    });
    result
}
