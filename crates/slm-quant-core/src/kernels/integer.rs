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

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "a tile has a row and a block on every side"
)]

use super::SharedOut;
use super::blocked::{Blocked, LaneScales};
use super::driver::Job;
use super::inputs::Inputs;
use super::simd::{LANES, LINE_BYTES, Simd};
use super::vector::{PREFETCH_BYTES, load_lanes, store_tile};
use crate::Bits;

/// Sums of a group where one would have to wait for itself.
const CHAINS: usize = 4;

/// Rows from which on zero points are subtracted from INT4 codes as they are unpacked (which leaves
/// `[-15, 15]`), because that drops the third sum for all of them.
const SIGNED_ROWS: usize = 4;

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
    /// Integers may be added in any order, so that one block can have several sums.
    const SIDE_BY_SIDE: bool = false;

    fn has_narrow_groups(&self) -> bool {
        !self.w.has_sums()
    }

    #[inline(always)]
    fn strip<S: Simd, const M: usize, const NB: usize>(&self, simd: S, row: usize, blocks: [usize; NB]) {
        match (self.w.scheme().bits, self.w.has_sums()) {
            (Bits::Int8, true) => self.tile::<S, M, NB, NB, false, false>(simd, row, blocks),
            (Bits::Int4, true) => self.tile::<S, M, NB, NB, true, false>(simd, row, blocks),
            (Bits::Int8, false) if S::FEW_REGISTERS => {
                self.tile::<S, M, NB, 1, false, true>(simd, row, blocks);
            }
            (Bits::Int4, false) if S::FEW_REGISTERS => {
                self.tile::<S, M, NB, 1, true, true>(simd, row, blocks);
            }
            (Bits::Int8, false) => self.tile::<S, M, NB, NB, false, true>(simd, row, blocks),
            (Bits::Int4, false) => self.tile::<S, M, NB, NB, true, true>(simd, row, blocks),
        }
    }

    fn unpacked_lines<S: Simd>(&self) -> Option<usize> {
        self.lines_unpacked::<S>()
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, simd: S, block: usize, to: *mut u8) {
        // SAFETY: the same contract.
        unsafe { self.unpack_block(simd, block, to) }
    }

    #[inline(always)]
    unsafe fn unpacked_strip<S: Simd, const M: usize, const NB: usize>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        lines: [*const u8; NB],
    ) {
        // SAFETY: the same contract.
        unsafe { self.unpacked_tile::<S, M, NB>(simd, row, blocks, lines) }
    }
}

impl<O: Output> IntegerJob<'_, O> {
    /// `M` rows by `NB` blocks, `BATCH` blocks at a time within a group. `SUM_WEIGHTS`: weight sums are
    /// computed here, group by group.
    #[inline(always)]
    fn tile<
        S: Simd,
        const M: usize,
        const NB: usize,
        const BATCH: usize,
        const INT4: bool,
        const SUM_WEIGHTS: bool,
    >(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
    ) {
        let w = self.w;
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
        for group in 0..w.groups_per_row() {
            for first in (0..NB).step_by(BATCH) {
                let mut batch = [0; BATCH];
                let mut batch_lines = [std::ptr::null(); BATCH];
                for b in 0..BATCH {
                    batch[b] = blocks[first + b];
                    batch_lines[b] = lines[first + b];
                }
                let place = Place { row, blocks: batch, group, x_zeros: &x_zeros };
                let sums = self.group::<S, M, BATCH, INT4, SUM_WEIGHTS>(simd, place, x, &mut batch_lines);
                for b in 0..BATCH {
                    lines[first + b] = batch_lines[b];
                    let scale = group_scale(simd, w, batch[b], group);
                    for i in 0..M {
                        let sum = simd.to_f32(sums[i][b]);
                        results[i][first + b] = simd.fma_f32(sum, scale, results[i][first + b]);
                    }
                }
                self.out.sums(simd, row, batch, group, &sums);
            }
            let columns = w.padded_columns_of(group);
            for x in &mut x {
                *x = x.wrapping_add(if !INT4 && S::CENTERED_INPUT8 { 2 * columns } else { columns });
            }
        }
        self.out.results(simd, row, blocks, &self.x, &results);
    }

    /// The sums of one group, from the inputs at `x` and the weights at `lines`, which are advanced.
    #[inline(always)]
    fn group<S: Simd, const M: usize, const NB: usize, const INT4: bool, const SUM_WEIGHTS: bool>(
        &self,
        simd: S,
        Place { row, blocks, group, x_zeros }: Place<'_, M, NB>,
        x: [*const u8; M],
        lines: &mut [*const u8; NB],
    ) -> [[S::I32; NB]; M] {
        let w = self.w;
        let signed = INT4 && M >= SIGNED_ROWS;
        let centered = !INT4 && S::CENTERED_INPUT8;
        let zero = simd.splat_i32(0);

        let mut zero_points = [zero; NB];
        for b in 0..NB {
            if let Some(values) = w.zero_points(blocks[b], group) {
                zero_points[b] = simd.widen_i8(values);
            }
            if INT4 {
                // INT4 codes are stored plus 8, and so are their zero points in effect.
                zero_points[b] = simd.add_i32(zero_points[b], simd.splat_i32(8));
            }
        }
        let mut run = Run {
            x,
            lines: *lines,
            zero_bytes: zero_points.map(|zero_points| simd.repeat_byte(zero_points)),
            acc: [[[zero; NB]; M]; CHAINS],
            weight_sums: [zero; NB],
        };
        let mut left = w.steps(group);
        if M * NB < CHAINS {
            while left >= CHAINS {
                run.lines::<CHAINS, INT4, SUM_WEIGHTS>(simd);
                left -= CHAINS;
            }
        }
        for _ in 0..left {
            run.lines::<1, INT4, SUM_WEIGHTS>(simd);
        }
        *lines = run.lines;
        let Run { acc: [mut acc, others @ ..], mut weight_sums, .. } = run;
        if M * NB < CHAINS {
            for other in others {
                for i in 0..M {
                    for b in 0..NB {
                        acc[i][b] = simd.add_i32(acc[i][b], other[i][b]);
                    }
                }
            }
        }

        if !signed && w.needs_input_sums() {
            for i in 0..M {
                let x_sum = simd.splat_i32(self.x.group_sum(row + i, group));
                for b in 0..NB {
                    acc[i][b] = simd.sub_i32(acc[i][b], simd.mul_i32(x_sum, zero_points[b]));
                }
            }
        }
        if centered {
            return acc;
        }
        for b in 0..NB {
            if SUM_WEIGHTS {
                // Less than 512 codes of at most 128 in magnitude: far below the 2^22 that may be split.
                weight_sums[b] = simd.split_sums(simd.sub_i32(zero, weight_sums[b]));
            } else {
                weight_sums[b] = simd.load_i32(w.sums(blocks[b], group));
                if signed {
                    let columns = simd.splat_i32(w.padded_columns_of(group) as i32);
                    weight_sums[b] = simd.sub_i32(weight_sums[b], simd.mul_i32(zero_points[b], columns));
                }
            }
        }
        for i in 0..M {
            let x_zero = x_zeros[i];
            for b in 0..NB {
                acc[i][b] = if SUM_WEIGHTS {
                    simd.add_scaled(acc[i][b], weight_sums[b], x_zero)
                } else {
                    simd.sub_i32(acc[i][b], simd.mul_i32(simd.splat_i32(x_zero), weight_sums[b]))
                };
            }
        }
        acc
    }
}

/// Scales of a block's group.
#[inline(always)]
pub(super) fn group_scale<S: Simd>(simd: S, w: &Blocked, block: usize, group: usize) -> S::F32 {
    match w.scales(block, group) {
        LaneScales::F32(values) => simd.load_f32(values),
        LaneScales::F16(values) => simd.load_f16(values),
    }
}

/// The state of multiplying a group.
struct Run<S: Simd, const M: usize, const NB: usize> {
    /// The inputs that the next line multiplies.
    x: [*const u8; M],
    /// The next lines of each block.
    lines: [*const u8; NB],
    /// Zero points of INT4 codes, repeated.
    zero_bytes: [S::Bytes; NB],
    /// Several sums for the same outputs: where rows and blocks are few, one alone would wait for itself.
    acc: [[[S::I32; NB]; M]; CHAINS],
    weight_sums: [S::I32; NB],
}

impl<S: Simd, const M: usize, const NB: usize> Run<S, M, NB> {
    /// Multiplies `COUNT` lines of each block, each adding to sums of its own.
    #[inline(always)]
    fn lines<const COUNT: usize, const INT4: bool, const SUM_WEIGHTS: bool>(&mut self, simd: S) {
        let signed = INT4 && M >= SIGNED_ROWS;
        let centered = !INT4 && S::CENTERED_INPUT8;
        let parts = if INT4 || centered { 2 } else { 1 };
        // At most 4 lines of two codes of at most 15 in magnitude: a byte holds their sum.
        let mut code_sums = [simd.zero_bytes(); NB];
        for number in 0..COUNT {
            let mut line = [simd.zero_bytes(); NB];
            for b in 0..NB {
                let at = self.lines[b].wrapping_add(number * LINE_BYTES);
                simd.prefetch(at.wrapping_add(PREFETCH_BYTES));
                // SAFETY: `lines[b]` starts at a block's first line and advances with the lines read; the
                // steps of all groups are the lines of a block.
                line[b] = unsafe { simd.load_line(at) };
                if SUM_WEIGHTS && !INT4 && !centered {
                    self.weight_sums[b] = simd.sum_bytes(self.weight_sums[b], line[b]);
                }
            }
            for part in 0..parts {
                let mut codes = [simd.zero_bytes(); NB];
                for b in 0..NB {
                    codes[b] = match (INT4, part) {
                        (false, _) => simd.operand8(line[b], part),
                        (true, 0) => simd.low_nibbles(line[b]),
                        (true, _) => simd.high_nibbles(line[b]),
                    };
                    if signed {
                        codes[b] = simd.sub_bytes(codes[b], self.zero_bytes[b]);
                    }
                    if INT4 && SUM_WEIGHTS {
                        code_sums[b] = simd.add_bytes(code_sums[b], codes[b]);
                    }
                }
                // With several lines at a time, the two parts of INT4 need not add to the same sums either.
                let acc = &mut self.acc[(number * parts + part) % COUNT];
                for i in 0..M {
                    let x = self.x[i].wrapping_add(4 * (number * parts + part));
                    for b in 0..NB {
                        // SAFETY: an input row holds as many codes, of the type that this instruction set
                        // takes, as a block has columns, padding included; `x` advances with the lines read,
                        // of which each part multiplies one 32-bit word.
                        acc[i][b] = unsafe {
                            if INT4 {
                                simd.dot4(acc[i][b], x, codes[b])
                            } else {
                                simd.dot8(acc[i][b], x, codes[b])
                            }
                        };
                    }
                }
            }
        }
        for b in 0..NB {
            self.lines[b] = self.lines[b].wrapping_add(COUNT * LINE_BYTES);
            if INT4 && SUM_WEIGHTS {
                self.weight_sums[b] = simd.sum_bytes(self.weight_sums[b], code_sums[b]);
            }
        }
        for i in 0..M {
            self.x[i] = self.x[i].wrapping_add(COUNT * parts * 4);
        }
    }
}

/// Where a group of a tile lies.
#[derive(Clone, Copy)]
struct Place<'a, const M: usize, const NB: usize> {
    row: usize,
    blocks: [usize; NB],
    group: usize,
    x_zeros: &'a [i32; M],
}
