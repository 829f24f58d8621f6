//! The reference: portable Rust on the canonical layout, straight from the formulas.

use rayon::prelude::*;

use super::{Kernel, QuantizedActivations, SharedOut};
use crate::QuantizedMatrix;

/// Rows of weights that one task takes; enough to pay for starting it.
const ROWS_PER_TASK: usize = 16;

/// Portable kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

impl Kernel for Scalar {
    type Weights = QuantizedMatrix;

    fn pack(self, matrix: QuantizedMatrix) -> QuantizedMatrix {
        matrix
    }

    fn linear_quantized(
        self,
        x: &QuantizedActivations,
        w: &QuantizedMatrix,
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let centered = centered(x);
        let out = SharedOut::new(out);
        for_each_row(w, |n, codes, scales| {
            for (i, x_row) in centered.chunks_exact(x.cols()).enumerate() {
                let sum = groups(w, x_row, codes)
                    .zip(scales)
                    .fold(0.0f32, |sum, (acc, &scale)| (acc as f32).mul_add(scale, sum));
                let y = sum.mul_add(x.qparams(i).scale, bias.map_or(0.0, |b| b[n]));
                // SAFETY: column `n` of the output is written by the task that owns weight row `n` only.
                unsafe { out.write(i * w.rows() + n, &[y]) }
            }
        });
    }

    fn accumulate(self, x: &QuantizedActivations, w: &QuantizedMatrix, out: &mut [i32]) {
        let centered = centered(x);
        let out = SharedOut::new(out);
        let count = w.groups_per_row();
        for_each_row(w, |n, codes, _| {
            for (i, x_row) in centered.chunks_exact(x.cols()).enumerate() {
                for (g, acc) in groups(w, x_row, codes).enumerate() {
                    // SAFETY: as in `linear_quantized`.
                    unsafe { out.write((i * w.rows() + n) * count + g, &[acc]) }
                }
            }
        });
    }

    fn linear_float(self, x: &[f32], w: &QuantizedMatrix, bias: Option<&[f32]>, out: &mut [f32]) {
        let out = SharedOut::new(out);
        let width = w.group_width();
        for_each_row(w, |n, codes, scales| {
            for (i, x_row) in x.chunks_exact(w.cols()).enumerate() {
                let groups = x_row.chunks(width).zip(codes.chunks(width)).zip(scales);
                let sum = groups.fold(0.0f32, |sum, ((x, codes), &scale)| {
                    let dot = x.iter().zip(codes).fold(0.0f32, |dot, (&x, &c)| x.mul_add(f32::from(c), dot));
                    dot.mul_add(scale, sum)
                });
                // SAFETY: as in `linear_quantized`.
                unsafe { out.write(i * w.rows() + n, &[sum + bias.map_or(0.0, |b| b[n])]) }
            }
        });
    }
}

/// Input codes less their zero points, which fit 16 bits.
fn centered(x: &QuantizedActivations) -> Vec<i16> {
    (0..x.rows())
        .flat_map(|i| {
            let zero_point = x.qparams(i).zero_point as i16;
            x.row_codes(i).iter().map(move |&code| i16::from(code) - zero_point)
        })
        .collect()
}

/// One exact integer sum per group. Both factors lie in `[-255, 255]`, and packing refused widths whose
/// sums could leave 32 bits.
fn groups<'a>(w: &QuantizedMatrix, x: &'a [i16], codes: &'a [i16]) -> impl Iterator<Item = i32> + 'a {
    let width = w.group_width();
    x.chunks(width)
        .zip(codes.chunks(width))
        .map(|(x, c)| x.iter().zip(c).map(|(&x, &c)| i32::from(x) * i32::from(c)).sum())
}

/// Calls `f(row, codes less zero points, scales)` for every row of weights, on all threads.
fn for_each_row(w: &QuantizedMatrix, f: impl Fn(usize, &[i16], &[f32]) + Sync) {
    let tasks = w.rows().div_ceil(ROWS_PER_TASK);
    (0..tasks).into_par_iter().for_each_init(
        || (vec![0i16; w.cols()], vec![0f32; w.groups_per_row()]),
        |(codes, scales), task| {
            let first = task * ROWS_PER_TASK;
            for row in first..w.rows().min(first + ROWS_PER_TASK) {
                for (group, (codes, scale)) in
                    codes.chunks_mut(w.group_width()).zip(scales.iter_mut()).enumerate()
                {
                    let params = w.qparams(w.scale_index(row, group));
                    *scale = params.scale;
                    for (i, code) in codes.iter_mut().enumerate() {
                        *code =
                            i16::from(w.code(row, group * w.group_width() + i)) - params.zero_point as i16;
                    }
                }
                f(row, codes, scales);
            }
        },
    );
}
