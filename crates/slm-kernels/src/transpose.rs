//! Transposition of float matrices, in squares of 16 by 16.

use crate::KernelKind;
use crate::isa::{Isa, with_isa};
use crate::simd::{LANES, Simd};
use crate::vectorize::Op;

/// Computes `to[c, r] = from[r, c]`.
///
/// # Shapes
/// - `from`: `[rows, from_stride]`, of which the first `cols` columns are read
/// - `to`: `[cols, to_stride]`, of which the first `rows` columns are written
///
/// # Panics
/// If lengths do not fit. `kernel` falls back to the scalar one if this processor lacks it.
pub fn transpose(
    kernel: KernelKind,
    [rows, cols]: [usize; 2],
    from: &[f32],
    from_stride: usize,
    to: &mut [f32],
    to_stride: usize,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    let fits = |len: usize, rows: usize, cols: usize, stride: usize| {
        let end = (rows - 1).checked_mul(stride).and_then(|start| start.checked_add(cols));
        cols <= stride && end.is_some_and(|end| end <= len)
    };
    assert!(fits(from.len(), rows, cols, from_stride), "transpose: size of the matrix");
    assert!(fits(to.len(), cols, rows, to_stride), "transpose: size of the result");
    let mut transpose = Transpose { rows, cols, from, from_stride, to, to_stride };
    let [rows_done, cols_done] = match Isa::new(kernel) {
        Some(isa) => with_isa!(isa, simd => {
            simd.vectorize(Squares { simd, transpose: &mut transpose });
            [rows, cols].map(|n| n / LANES * LANES)
        }),
        None => [0, 0],
    };
    transpose.one_by_one(0..rows_done, cols_done..cols);
    transpose.one_by_one(rows_done..rows, 0..cols);
}

struct Transpose<'a> {
    rows: usize,
    cols: usize,
    from: &'a [f32],
    from_stride: usize,
    to: &'a mut [f32],
    to_stride: usize,
}

impl Transpose<'_> {
    fn one_by_one(&mut self, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) {
        for row in rows {
            for col in cols.clone() {
                self.to[col * self.to_stride + row] = self.from[row * self.from_stride + col];
            }
        }
    }
}

/// The squares that a matrix has in whole.
struct Squares<'a, 'b, S> {
    simd: S,
    transpose: &'a mut Transpose<'b>,
}

impl<S: Simd> Op for Squares<'_, '_, S> {
    #[inline(always)]
    fn run(self) {
        let Self { simd, transpose: Transpose { rows, cols, from, from_stride, to, to_stride } } = self;
        for row in (0..*rows / LANES * LANES).step_by(LANES) {
            for col in (0..*cols / LANES * LANES).step_by(LANES) {
                let mut square = [simd.splat_f32(0.0); LANES];
                for (i, values) in square.iter_mut().enumerate() {
                    let (from, _) = from[(row + i) * *from_stride + col..].as_chunks::<LANES>();
                    *values = simd.load_f32(&from[0]);
                }
                for (i, values) in simd.transpose(square).into_iter().enumerate() {
                    let (to, _) = to[(col + i) * *to_stride + row..].as_chunks_mut::<LANES>();
                    simd.store_f32(values, &mut to[0]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_finds_its_place() {
        for kernel in [KernelKind::Scalar, KernelKind::best()] {
            for [rows, cols] in [[0, 3], [1, 1], [16, 16], [15, 40], [33, 17], [70, 64]] {
                let (from_stride, to_stride) = (cols + 3, rows + 2);
                let from: Vec<f32> = (0..rows * from_stride).map(|i| i as f32).collect();
                let mut to = vec![-1.0; cols * to_stride];
                transpose(kernel, [rows, cols], &from, from_stride, &mut to, to_stride);
                for (col, to) in to.chunks(to_stride).enumerate() {
                    let (values, rest) = to.split_at(rows);
                    let column = (0..rows).map(|row| (row * from_stride + col) as f32);
                    assert!(column.eq(values.iter().copied()), "{rows} {cols} {col}");
                    assert_eq!(rest, [-1.0; 2]);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "transpose: size of the result")]
    fn a_result_of_another_size_is_refused() {
        transpose(KernelKind::best(), [2, 3], &[0.0; 6], 3, &mut [0.0; 5], 2);
    }
}
