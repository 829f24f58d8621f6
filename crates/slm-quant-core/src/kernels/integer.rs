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
use super::{PREFETCH_BYTES, SharedOut, load_lanes, store_tile};
use crate::Bits;

/// Where results go. The caller of its methods is the task that owns the rows and blocks.
pub(crate) trait Output: Sync {
    /// Takes the sums of a group.
    fn sums<S: Simd, const M: usize, const NB: usize>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        group: usize,
        sums: &[[S::I32; NB]; M],
    );
    /// Takes the scaled sums of whole rows.
    fn results<S: Simd, const M: usize, const NB: usize>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        x: &Inputs<'_>,
        results: &[[S::F32; NB]; M],
    );
}

/// `[m, rows]` floats, with a bias per row of weights.
pub(crate) struct Floats<'a> {
    pub(crate) out: SharedOut<'a, f32>,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) rows: usize,
}

impl Output for Floats<'_> {
    #[inline(always)]
    fn sums<S: Simd, const M: usize, const NB: usize>(
        &self,
        _: S,
        _: usize,
        _: [usize; NB],
        _: usize,
        _: &[[S::I32; NB]; M],
    ) {
    }

    #[inline(always)]
    fn results<S: Simd, const M: usize, const NB: usize>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        x: &Inputs<'_>,
        results: &[[S::F32; NB]; M],
    ) {
        let mut y = [[simd.splat_f32(0.0); NB]; M];
        for b in 0..NB {
            let bias = load_lanes(simd, self.bias, blocks[b]);
            for i in 0..M {
                y[i][b] = simd.fma_f32(results[i][b], simd.splat_f32(x.scale(row + i)), bias);
            }
        }
        store_tile(simd, &self.out, self.rows, row, blocks, &y);
    }
}

/// `[m, rows, groups]` integers.
pub(crate) struct Sums<'a> {
    pub(crate) out: SharedOut<'a, i32>,
    pub(crate) rows: usize,
    pub(crate) groups: usize,
}

impl Output for Sums<'_> {
    #[inline(always)]
    fn sums<S: Simd, const M: usize, const NB: usize>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        group: usize,
        sums: &[[S::I32; NB]; M],
    ) {
        let mut lanes = [[[0; LANES]; NB]; M];
        for i in 0..M {
            for b in 0..NB {
                simd.store_i32(sums[i][b], &mut lanes[i][b]);
            }
        }
        for (i, lanes) in lanes.iter().enumerate() {
            for (&block, lanes) in blocks.iter().zip(lanes) {
                for (lane, sum) in lanes.iter().enumerate().take(self.rows - block * LANES) {
                    let at = ((row + i) * self.rows + block * LANES + lane) * self.groups + group;
                    // SAFETY: the driver gives each row and block to one task, and with it these cells.
                    unsafe { self.out.write(at, &[*sum]) };
                }
            }
        }
    }

    #[inline(always)]
    fn results<S: Simd, const M: usize, const NB: usize>(
        &self,
        _: S,
        _: usize,
        _: [usize; NB],
        _: &Inputs<'_>,
        _: &[[S::F32; NB]; M],
    ) {
    }
}

/// A product with quantized inputs.
pub(crate) struct IntegerJob<'a, O> {
    pub(crate) x: Inputs<'a>,
    pub(crate) w: &'a Blocked,
    pub(crate) out: O,
}

impl<O: Output> Job for IntegerJob<'_, O> {
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

impl<O: Output> IntegerJob<'_, O> {
    /// `M` rows by `NB` blocks. `SUM_WEIGHTS`: weight sums are computed here, group by group.
    ///
    /// With many rows it pays to subtract zero points from INT4 codes as they are unpacked (which leaves
    /// `[-15, 15]`), because that drops the third sum for all of them.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const NB: usize, const INT4: bool, const SUM_WEIGHTS: bool>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
    ) {
        let w = self.w;
        let signed = INT4 && M >= 4;
        let centered = !INT4 && S::CENTERED_INPUT8;
        let x_step = if INT4 || centered { 8 } else { 4 };

        let zero = simd.splat_i32(0);
        let mut x = [std::ptr::null(); M];
        let mut x_zeros = [0; M];
        for i in 0..M {
            x[i] = self.x.row(row + i);
            x_zeros[i] = self.x.zero_point(row + i);
        }
        let mut lines = [std::ptr::null(); NB];
        for b in 0..NB {
            lines[b] = w.block_lines(blocks[b]);
        }
        let mut results = [[simd.splat_f32(0.0); NB]; M];
        let mut at = 0;

        for group in 0..w.groups_per_row() {
            let mut zero_points = [zero; NB];
            for b in 0..NB {
                zero_points[b] = match w.zero_points(blocks[b], group) {
                    Some(values) => simd.widen_i8(values),
                    None => zero,
                };
                if INT4 {
                    // INT4 codes are stored plus 8, and so are their zero points in effect.
                    zero_points[b] = simd.add_i32(zero_points[b], simd.splat_i32(8));
                }
            }
            let mut acc = [[zero; NB]; M];
            let mut weight_sums = [zero; NB];
            for _ in 0..w.steps(group) {
                let mut line = [simd.zero_bytes(); NB];
                for b in 0..NB {
                    simd.prefetch(lines[b].wrapping_add(PREFETCH_BYTES));
                    // SAFETY: `lines[b]` starts at a block's first line and advances one line a step; the
                    // steps of all groups are the lines of a block.
                    line[b] = unsafe { simd.load_line(lines[b]) };
                    lines[b] = lines[b].wrapping_add(LINE_BYTES);
                }
                if INT4 {
                    let mut codes = [[simd.zero_bytes(); NB]; 2];
                    for b in 0..NB {
                        codes[0][b] = simd.low_nibbles(line[b]);
                        codes[1][b] = simd.high_nibbles(line[b]);
                        if signed {
                            let zero_point = simd.repeat_byte(zero_points[b]);
                            codes[0][b] = simd.sub_bytes(codes[0][b], zero_point);
                            codes[1][b] = simd.sub_bytes(codes[1][b], zero_point);
                        }
                        if SUM_WEIGHTS {
                            let both = simd.add_bytes(codes[0][b], codes[1][b]);
                            weight_sums[b] = simd.sum4(weight_sums[b], both);
                        }
                    }
                    for half in 0..2 {
                        for i in 0..M {
                            let x = x[i].wrapping_add(at + 4 * half);
                            for b in 0..NB {
                                // SAFETY: an input row holds as many codes as a block has columns, padding
                                // included; `at` advances by the columns of a line, and the high nibbles
                                // are its second four.
                                acc[i][b] = unsafe { simd.dot4(acc[i][b], x, codes[half][b]) };
                            }
                        }
                    }
                } else {
                    let mut operand = [simd.operand8(line[0]); NB];
                    for b in 0..NB {
                        operand[b] = simd.operand8(line[b]);
                        if SUM_WEIGHTS && !centered {
                            weight_sums[b] = simd.sum8(weight_sums[b], line[b]);
                        }
                    }
                    for i in 0..M {
                        let x = x[i].wrapping_add(at);
                        for b in 0..NB {
                            // SAFETY: as for INT4, with inputs of the type that this instruction set
                            // takes, which is what the job was built with.
                            acc[i][b] = unsafe { simd.dot8(acc[i][b], x, operand[b]) };
                        }
                    }
                }
                at += x_step;
            }

            if !SUM_WEIGHTS && !centered {
                for b in 0..NB {
                    weight_sums[b] = simd.load_i32(w.row_sums(blocks[b]));
                    if signed {
                        let columns = simd.splat_i32(w.padded_cols() as i32);
                        weight_sums[b] = simd.sub_i32(weight_sums[b], simd.mul_i32(zero_points[b], columns));
                    }
                }
            }
            let mut scales = [simd.splat_f32(0.0); NB];
            for b in 0..NB {
                scales[b] = match w.scales(blocks[b], group) {
                    LaneScales::F32(values) => simd.load_f32(values),
                    LaneScales::F16(values) => simd.load_f16(values),
                };
            }
            if !signed && w.needs_input_sums() {
                let x_sums = self.x.group_sums::<M>(row, group);
                for i in 0..M {
                    let x_sum = simd.splat_i32(x_sums[i]);
                    for b in 0..NB {
                        acc[i][b] = simd.sub_i32(acc[i][b], simd.mul_i32(x_sum, zero_points[b]));
                    }
                }
            }
            for i in 0..M {
                let x_zero = simd.splat_i32(x_zeros[i]);
                for b in 0..NB {
                    if !centered {
                        acc[i][b] = simd.sub_i32(acc[i][b], simd.mul_i32(x_zero, weight_sums[b]));
                    }
                    results[i][b] = simd.fma_f32(simd.to_f32(acc[i][b]), scales[b], results[i][b]);
                }
            }
            self.out.sums(simd, row, blocks, group, &acc);
        }
        self.out.results(simd, row, blocks, &self.x, &results);
    }
}
