//! Products of rows with a matrix, subtracted in place.

use std::ops::Range;

use super::BLOCK;
use crate::vectorized;

/// Rows that [`subtract_products`] keeps in registers at once.
const ROWS: usize = 4;

/// Columns that [`subtract_products`] keeps in registers at once: two registers of AVX2.
const COLUMNS: usize = 16;

/// A range of columns of rows of equal length.
#[derive(Clone)]
pub(super) struct Columns<T> {
    pub(super) values: T,
    /// Length of a row.
    pub(super) stride: usize,
    pub(super) range: Range<usize>,
}

/// Subtracts from `values` the sum of `factors[k]` times the start of `row(k)`, four rows at a time.
pub(super) fn subtract<'a>(values: &mut [f64], factors: &[f64], row: impl Fn(usize) -> &'a [f64]) {
    vectorized!(subtract_fours(values, factors, row));
}

#[inline(always)]
fn subtract_fours<'a>(values: &mut [f64], factors: &[f64], row: impl Fn(usize) -> &'a [f64]) {
    let width = values.len();
    let fours = factors.chunks_exact(4);
    let (rest, first) = (fours.remainder(), factors.len() / 4 * 4);
    for (index, factors) in fours.enumerate() {
        let [a, b, c, d] = std::array::from_fn(|k| &row(4 * index + k)[..width]);
        for (index, value) in values.iter_mut().enumerate() {
            *value = *value
                - factors[0] * a[index]
                - factors[1] * b[index]
                - factors[2] * c[index]
                - factors[3] * d[index];
        }
    }
    for (index, factor) in rest.iter().enumerate() {
        for (value, x) in values.iter_mut().zip(&row(first + index)[..width]) {
            *value -= factor * x;
        }
    }
}

/// Subtracts from each row of `values` the sum over `k` of `factors[k]`, from the same row of `factors`, times the start
/// of `row(k)`, in this order and by fused multiply-add. Each `row(k)` is read once for four rows of `values`.
pub(super) fn subtract_products<'a>(
    values: Columns<&mut [f32]>,
    factors: Columns<&[f32]>,
    row: impl Fn(usize) -> &'a [f32],
) {
    vectorized!({
        let Columns { values, stride, range } = values;
        let whole = range.len() / COLUMNS * COLUMNS;
        let rows = values.chunks_mut(ROWS * stride).zip(factors.values.chunks(ROWS * factors.stride));
        for (values, of_rows) in rows {
            let factors = Columns { values: of_rows, ..factors.clone() };
            let tiled = if values.len() == ROWS * stride { whole } else { 0 };
            for column in (0..tiled).step_by(COLUMNS) {
                subtract_tile(&mut values[range.start + column..], stride, &factors, column, &row);
            }
            let rest = values.chunks_exact_mut(stride).zip(factors.values.chunks_exact(factors.stride));
            for (values, factors_of_row) in rest {
                let values = &mut values[range.start + tiled..range.end];
                for (k, factor) in factors_of_row[factors.range.clone()].iter().enumerate() {
                    let terms = values.iter_mut().zip(&row(k)[tiled..]);
                    terms.for_each(|(value, x)| *value = (-factor).mul_add(*x, *value));
                }
            }
        }
    });
}

/// Subtracts `x m` from `outputs`.
///
/// # Shapes
/// - `outputs`: `[rows, columns]`, at least one row
/// - `x`: `[rows, inputs]`
/// - `m`: at least `[inputs, columns]`
pub(crate) fn subtract_matrix_product(outputs: &mut [f32], x: &[f32], m: &[f32], columns: usize) {
    let inputs = x.len() / (outputs.len() / columns);
    for start in (0..inputs).step_by(BLOCK) {
        subtract_products(
            Columns { values: outputs, stride: columns, range: 0..columns },
            Columns { values: x, stride: inputs, range: start..(start + BLOCK).min(inputs) },
            |k| &m[(start + k) * columns..],
        );
    }
}

/// [`subtract_products`] for [`ROWS`] rows and the [`COLUMNS`] columns of `row(k)` from `column` on. `values` starts at
/// the first of these columns.
#[inline(always)]
fn subtract_tile<'a>(
    values: &mut [f32],
    stride: usize,
    factors: &Columns<&[f32]>,
    column: usize,
    row: &impl Fn(usize) -> &'a [f32],
) {
    let mut sums = [[0.0_f32; COLUMNS]; ROWS];
    for (index, sums) in sums.iter_mut().enumerate() {
        sums.copy_from_slice(&values[index * stride..][..COLUMNS]);
    }
    let of_rows: [&[f32]; ROWS] =
        std::array::from_fn(|index| &factors.values[index * factors.stride..][factors.range.clone()]);
    for k in 0..factors.range.len() {
        let mut x = [0.0_f32; COLUMNS];
        x.copy_from_slice(&row(k)[column..][..COLUMNS]);
        for (sums, factors) in sums.iter_mut().zip(&of_rows) {
            let factor = -factors[k];
            sums.iter_mut().zip(&x).for_each(|(sum, x)| *sum = factor.mul_add(*x, *sum));
        }
    }
    for (index, sums) in sums.iter().enumerate() {
        values[index * stride..][..COLUMNS].copy_from_slice(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(seed: usize) -> f32 {
        ((seed * 7919 + seed * seed * 31) % 10_007) as f32 / 997.0 - 5.0
    }

    /// Code for the registers of this processor gives the same bits as code that every processor can run.
    #[test]
    fn wide_registers_change_no_bit() {
        let value = |seed: usize| f64::from(value(seed));
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        for (width, count) in [(1, 3), (7, 4), (64, 64), (577, 61)] {
            let rows: Vec<f64> = (0..width * count).map(value).collect();
            let factors: Vec<f64> = (0..count).map(|index| value(index + 17)).collect();
            let start: Vec<f64> = (0..width).map(|index| value(index + 101)).collect();
            let (mut wide, mut plain) = (start.clone(), start);
            subtract(&mut wide, &factors, |k| &rows[k * width..]);
            subtract_fours(&mut plain, &factors, |k| &rows[k * width..]);
            assert_eq!(bits(&wide), bits(&plain), "{width} {count}");
        }
    }

    #[test]
    fn products_are_those_of_one_value_at_a_time_bit_for_bit() {
        for (rows, width, count) in [(1, 33, 5), (4, 16, 1), (5, 40, 64), (16, 77, 31), (3, 15, 4)] {
            let (stride, factor_stride) = (width + 3, count + 2);
            let matrix: Vec<f32> = (0..width * count).map(value).collect();
            let factors: Vec<f32> = (0..rows * factor_stride).map(|index| value(index + 17)).collect();
            let start: Vec<f32> = (0..rows * stride).map(|index| value(index + 101)).collect();
            let (mut together, mut alone) = (start.clone(), start);
            subtract_products(
                Columns { values: &mut together, stride, range: 2..2 + width },
                Columns { values: &factors, stride: factor_stride, range: 1..1 + count },
                |k| &matrix[k * width..],
            );
            for row in 0..rows {
                for column in 0..width {
                    let value = &mut alone[row * stride + 2 + column];
                    for k in 0..count {
                        let factor = factors[row * factor_stride + 1 + k];
                        *value = (-factor).mul_add(matrix[k * width + column], *value);
                    }
                }
            }
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&together), bits(&alone), "{rows} {width} {count}");
        }
    }
}
