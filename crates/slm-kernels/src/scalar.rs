//! The reference kernel: portable Rust on the canonical layout, straight from the formulas.

use std::ops::Range;

use slm_quant_core::{QParams, QuantizedMatrix};
use slm_runtime::{SharedSlice, for_each_task};

use crate::QuantizedActivations;
use crate::Workspace;
use crate::fixed_point::{self, BLOCK, DIGITS};
use crate::float_matrix::FloatElement;
use crate::kernel::{ACTIVATION_OFFSET, Input, Kernel, MatmulPart, NR};
use crate::rows::add_up;
use crate::tile::Tile;

/// The portable kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

impl Kernel for Scalar {
    type Weights = QuantizedMatrix;

    const PANELS_PER_TILE: usize = 1;

    fn pack_lhs(self, _: Input<'_>, _: &QuantizedMatrix, _: &mut Workspace) -> usize {
        0
    }

    fn part(self, w: &QuantizedMatrix, part: MatmulPart<'_>) {
        let MatmulPart { x, bias, out, panels, .. } = part;
        let rows = out.rows();
        match x {
            Input::Quantized(x) => {
                let grouped = w.groups_per_row() > 1;
                let offset = |i| if grouped { ACTIVATION_OFFSET } else { x.qparams(i).zero_point };
                let differences = subtract_offset(x, rows.clone(), offset);
                for_each_row(w, panels, |n, codes, scales| {
                    let weights = grouped.then(|| scaled_sum(w, codes, scales));
                    for (i, x_row) in rows.clone().zip(differences.chunks_exact(x.cols())) {
                        let QParams { scale: x_scale, zero_point } = x.qparams(i);
                        let mut sum = groups(w, x_row, codes)
                            .zip(scales)
                            .fold(0.0f32, |sum, (acc, &scale)| (acc as f32).mul_add(scale, sum));
                        if let Some(weights) = weights {
                            sum = weights.mul_add((ACTIVATION_OFFSET - zero_point) as f32, sum);
                        }
                        let y = sum.mul_add(x_scale, bias.map_or(0.0, |b| b[n]));
                        out.write(i, n, &[y]);
                    }
                });
            }
            Input::Float(x, _) => {
                let width = w.group_width();
                let inputs: Vec<Vec<Block>> = rows
                    .clone()
                    .map(|i| x[i * w.cols()..][..w.cols()].chunks(width).flat_map(split_group).collect())
                    .collect();
                for_each_row(w, panels, |n, codes, scales| {
                    for (i, blocks) in rows.clone().zip(&inputs) {
                        let mut blocks = blocks.iter();
                        let groups = codes.chunks(width).zip(scales);
                        let sum = groups.fold(0.0f32, |sum, (codes, &scale)| {
                            let parts = codes.chunks(BLOCK).zip(&mut blocks);
                            let dot =
                                parts.fold(0.0f32, |dot, (codes, block)| block.add_products(codes, dot));
                            dot.mul_add(scale, sum)
                        });
                        out.write(i, n, &[sum + bias.map_or(0.0, |b| b[n])]);
                    }
                });
            }
        }
    }

    fn accumulate(self, x: &QuantizedActivations, w: &QuantizedMatrix, out: &mut [i32]) {
        let differences = subtract_offset(x, 0..x.rows(), |i| x.qparams(i).zero_point);
        let out = SharedSlice::new(out);
        let count = w.groups_per_row();
        for_each_task(w.rows().div_ceil(NR), |panel| {
            let columns = panel * NR * count..w.rows().min((panel + 1) * NR) * count;
            // SAFETY: each task runs once, and has the rows of its panel to itself.
            let out = unsafe { Tile::new(out, w.rows() * count, 0..x.rows(), columns) };
            for_each_row(w, panel..panel + 1, |n, codes, _| {
                for (i, x_row) in differences.chunks_exact(x.cols()).enumerate() {
                    for (g, acc) in groups(w, x_row, codes).enumerate() {
                        out.write(i, n * count + g, &[acc]);
                    }
                }
            });
        });
    }
}

/// A block of a row of floats, as described in `fixed_point`.
struct Block {
    steps: [f32; DIGITS],
    digits: Vec<[i32; DIGITS]>,
}

/// Splits a group of columns into blocks.
fn split_group(values: &[f32]) -> impl Iterator<Item = Block> {
    values.chunks(BLOCK).map(|values| {
        let step = fixed_point::step(values);
        let digits = values.iter().map(|&x| fixed_point::digits(x, fixed_point::reciprocal(step)));
        Block { steps: fixed_point::digit_steps(step), digits: digits.collect() }
    })
}

impl Block {
    /// Adds to `dot` the products with codes less zero points, lowest digits first.
    fn add_products(&self, codes: &[i16], dot: f32) -> f32 {
        (0..DIGITS).fold(dot, |dot, digit| {
            let products = self.digits.iter().zip(codes).map(|(x, &code)| x[digit] * i32::from(code));
            (products.sum::<i32>() as f32).mul_add(self.steps[digit], dot)
        })
    }
}

/// Multiplies rows of float weights with rows of floats, as [`FloatMatrix`](crate::FloatMatrix) specifies.
pub(crate) fn multiply_rows<E: FloatElement>(
    values: &[E],
    cols: usize,
    x: &[f32],
    bias: Option<&[f32]>,
    out: &Tile<'_, f32>,
    panels: Range<usize>,
) {
    let weights = values.chunks_exact(cols).enumerate().skip(panels.start * NR).take(panels.len() * NR);
    for (n, weights) in weights {
        for i in out.rows() {
            let mut sums = [0.0f32; NR];
            for (x, weights) in x[i * cols..][..cols].chunks(NR).zip(weights.chunks(NR)) {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    // Missing columns are zeros.
                    let value = |values: Option<f32>| values.unwrap_or(0.0);
                    let weight = value(weights.get(lane).map(|w| w.widen()));
                    *sum = value(x.get(lane).copied()).mul_add(weight, *sum);
                }
            }
            let sum = add_up(sums);
            out.write(i, n, &[sum + bias.map_or(0.0, |b| b[n])]);
        }
    }
}

/// Input codes less the offset of their row. The differences fit in 16 bits.
fn subtract_offset(x: &QuantizedActivations, rows: Range<usize>, offset: impl Fn(usize) -> i32) -> Vec<i16> {
    rows.flat_map(|i| {
        let offset = offset(i) as i16;
        x.row_codes(i).iter().map(move |&code| i16::from(code) - offset)
    })
    .collect()
}

/// The scaled sum of a row of weights: each group is summed as integers, then scaled.
fn scaled_sum(w: &QuantizedMatrix, codes: &[i16], scales: &[f32]) -> f32 {
    let groups = codes.chunks(w.group_width()).zip(scales);
    groups.fold(0.0, |sum, (codes, &scale)| {
        let weights: i32 = codes.iter().map(|&code| i32::from(code)).sum();
        (weights as f32).mul_add(scale, sum)
    })
}

/// One exact integer sum per group. Both factors lie in `[-255, 255]`, and packing has rejected widths whose sums could
/// exceed 32 bits.
fn groups<'a>(w: &QuantizedMatrix, x: &'a [i16], codes: &'a [i16]) -> impl Iterator<Item = i32> + 'a {
    let width = w.group_width();
    x.chunks(width)
        .zip(codes.chunks(width))
        .map(|(x, c)| x.iter().zip(c).map(|(&x, &c)| i32::from(x) * i32::from(c)).sum())
}

/// Calls `f(row, codes less zero points, scales)` for every row of some panels of weights.
fn for_each_row(w: &QuantizedMatrix, panels: Range<usize>, mut f: impl FnMut(usize, &[i16], &[f32])) {
    let mut codes = vec![0i16; w.cols()];
    let mut scales = vec![0f32; w.groups_per_row()];
    for row in panels.start * NR..w.rows().min(panels.end * NR) {
        let by_group = codes.chunks_mut(w.group_width()).zip(&mut scales).enumerate();
        for (group, (codes, scale)) in by_group {
            let params = w.qparams(w.scale_index(row, group));
            *scale = params.scale;
            for (i, code) in codes.iter_mut().enumerate() {
                *code = i16::from(w.code(row, group * w.group_width() + i)) - params.zero_point as i16;
            }
        }
        f(row, &codes, &scales);
    }
}
