//! 8-bit inputs times integer weights, summed exactly in 32 bits.
//!
//! With `x` an input code, `w` a stored weight code and `X`, `W` their zero points as stored,
//!
//! ```text
//! sum (x - X)(w - W)  =  sum x w  -  X sum w  -  W sum (x - X)
//! ```
//!
//! The first sum is what the instructions compute, the second is precomputed for rows of one group and
//! else summed beside the first, the third is computed once per input row and group. All arithmetic wraps
//! modulo 2^32, so that only the result has to fit, which packing has made sure of.

use super::activations::Inputs;
use super::blocked::{Blocked, LaneScales};
use super::driver::Job;
use super::simd::{LANES, LINE_BYTES, Simd};
use super::{PREFETCH_BYTES, SharedOut, store_lanes};
use crate::Bits;

/// Where results go.
pub(crate) enum Output<'a> {
    /// `[m, rows]` floats, and a bias per row of weights.
    Floats(SharedOut<'a, f32>, Option<&'a [f32]>),
    /// `[m, rows, groups]` sums.
    Sums(SharedOut<'a, i32>),
}

/// A product with quantized inputs.
pub(crate) struct IntegerJob<'a> {
    pub(crate) x: Inputs<'a>,
    pub(crate) w: &'a Blocked,
    pub(crate) out: Output<'a>,
}

impl Job for IntegerJob<'_> {
    fn rows(&self) -> usize {
        self.x.rows()
    }

    fn blocks(&self) -> usize {
        self.w.blocks()
    }

    fn block_bytes(&self) -> usize {
        self.w.block_bytes()
    }

    #[inline(always)]
    fn strip<S: Simd, const M: usize, const NB: usize>(&self, simd: S, row: usize, blocks: [usize; NB]) {
        match (self.w.scheme().bits, self.w.groups_per_row() == 1) {
            (Bits::Int8, true) => self.tile::<S, M, NB, false, false>(simd, row, blocks),
            (Bits::Int8, false) => self.tile::<S, M, NB, false, true>(simd, row, blocks),
            (Bits::Int4, true) => self.tile::<S, M, NB, true, false>(simd, row, blocks),
            (Bits::Int4, false) => self.tile::<S, M, NB, true, true>(simd, row, blocks),
        }
    }
}

impl IntegerJob<'_> {
    /// `M` rows by `NB` blocks. `SUM_WEIGHTS`: weight sums are computed here, group by group.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const NB: usize, const INT4: bool, const SUM_WEIGHTS: bool>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
    ) {
        let w = self.w;
        let x: [*const u8; M] = std::array::from_fn(|i| self.x.row(row + i));
        let mut lines: [*const u8; NB] = std::array::from_fn(|b| w.block_lines(blocks[b]));
        let mut sums = [[simd.splat_f32(0.0); NB]; M];
        let mut at = 0;
        let x_step = if !INT4 && S::CENTERED_INPUT8 { 8 } else { 4 };
        let centered = !INT4 && S::CENTERED_INPUT8;

        for group in 0..w.groups_per_row() {
            let mut acc = [[simd.splat_i32(0); NB]; M];
            let mut weight_sums = [simd.splat_i32(0); NB];
            for _ in 0..w.steps(group) {
                let line: [S::Bytes; NB] = std::array::from_fn(|b| {
                    simd.prefetch(lines[b].wrapping_add(PREFETCH_BYTES));
                    // SAFETY: `lines[b]` starts at a block's first line and advances one line a step;
                    // the steps of all groups are the lines of a block.
                    unsafe { simd.load_line(lines[b]) }
                });
                lines = lines.map(|l| l.wrapping_add(LINE_BYTES));
                if INT4 {
                    let low = line.map(|l| simd.low_nibbles(l));
                    for i in 0..M {
                        for b in 0..NB {
                            // SAFETY: an input row holds as many codes as a block has columns, padding
                            // included, and `at` advances by the columns of a line.
                            acc[i][b] = unsafe { simd.dot4(acc[i][b], x[i].wrapping_add(at), low[b]) };
                        }
                    }
                    let high = line.map(|l| simd.high_nibbles(l));
                    for i in 0..M {
                        for b in 0..NB {
                            // SAFETY: as above; the high nibbles are the second four columns.
                            acc[i][b] = unsafe { simd.dot4(acc[i][b], x[i].wrapping_add(at + 4), high[b]) };
                        }
                    }
                    if SUM_WEIGHTS {
                        for b in 0..NB {
                            weight_sums[b] = simd.sum4(weight_sums[b], simd.add_bytes(low[b], high[b]));
                        }
                    }
                    at += 8;
                } else {
                    let operand = line.map(|l| simd.operand8(l));
                    for i in 0..M {
                        for b in 0..NB {
                            // SAFETY: as for INT4, with inputs of the type that this instruction set
                            // takes, which is what the job was built with.
                            acc[i][b] = unsafe { simd.dot8(acc[i][b], x[i].wrapping_add(at), operand[b]) };
                        }
                    }
                    if SUM_WEIGHTS && !centered {
                        for b in 0..NB {
                            weight_sums[b] = simd.sum8(weight_sums[b], line[b]);
                        }
                    }
                    at += x_step;
                }
            }

            for b in 0..NB {
                let weight_sum =
                    if SUM_WEIGHTS { weight_sums[b] } else { simd.load_i32(w.row_sums(blocks[b])) };
                let zero_points = w.zero_points(blocks[b], group).map(|z| simd.widen_i8(z));
                // INT4 codes are stored plus 8, and so are their zero points in effect.
                let zero_points = match zero_points {
                    Some(z) if INT4 => Some(simd.add_i32(z, simd.splat_i32(8))),
                    None if INT4 => Some(simd.splat_i32(8)),
                    other => other,
                };
                let scale = match w.scales(blocks[b], group) {
                    LaneScales::F32(v) => simd.load_f32(v),
                    LaneScales::F16(v) => simd.load_f16(v),
                };
                for i in 0..M {
                    let mut total = acc[i][b];
                    if !centered {
                        let x_zero = simd.splat_i32(self.x.zero_point(row + i));
                        total = simd.sub_i32(total, simd.mul_i32(x_zero, weight_sum));
                    }
                    if let Some(zero_points) = zero_points {
                        let x_sum = simd.splat_i32(self.x.group_sum(row + i, group));
                        total = simd.sub_i32(total, simd.mul_i32(x_sum, zero_points));
                    }
                    if let Output::Sums(out) = &self.out {
                        self.store_sums(simd, out, row + i, blocks[b], group, total);
                    }
                    sums[i][b] = simd.fma_f32(simd.to_f32(total), scale, sums[i][b]);
                }
            }
        }

        if let Output::Floats(out, bias) = &self.out {
            for b in 0..NB {
                let bias = super::load_lanes(simd, *bias, blocks[b]);
                for i in 0..M {
                    let y = simd.fma_f32(sums[i][b], simd.splat_f32(self.x.scale(row + i)), bias);
                    store_lanes(simd, out, w.rows(), row + i, blocks[b], y);
                }
            }
        }
    }

    #[inline(never)]
    fn store_sums<S: Simd>(
        &self,
        simd: S,
        out: &SharedOut<'_, i32>,
        row: usize,
        block: usize,
        group: usize,
        sums: S::I32,
    ) {
        let (rows, groups) = (self.w.rows(), self.w.groups_per_row());
        let mut lanes = [0; LANES];
        simd.store_i32(sums, &mut lanes);
        for (lane, sum) in lanes.into_iter().enumerate().take(rows - block * LANES) {
            let at = (row * rows + block * LANES + lane) * groups + group;
            // SAFETY: each (row, block) belongs to one task, and with it these cells.
            unsafe { out.write(at, &[sum]) };
        }
    }
}
