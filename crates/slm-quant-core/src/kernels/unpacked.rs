//! Tiles of many rows on weights that are unpacked beforehand.
//!
//! A thread multiplies the same few blocks with many rows. Where the codes of a line have to be separated
//! before they can be multiplied, it does so once, into memory of its own that stays in the second-level
//! cache, and not again for every tile of rows. A group is then its operands in the order of the columns, each
//! of them the [`LINE_BYTES`] bytes that one 32-bit word of input multiplies, and after them, for 8-bit
//! inputs, the sums of these codes by lane.

#![allow(clippy::needless_range_loop, reason = "a tile has a row and a block on every side")]

use std::cell::RefCell;

use super::blocked::{Blocked, Line};
use super::integer::{IntegerJob, Output, group_scale};
use super::simd::{LANES, LINE_BYTES, Simd};
use crate::Bits;

thread_local! {
    /// Unpacked blocks of the tiles that this thread computes.
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with memory for `lines` lines.
pub(super) fn with_scratch(lines: usize, f: impl FnOnce(*mut u8)) {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < lines {
            scratch.resize(lines, Line::ZERO);
        }
        f(scratch.as_mut_ptr().cast());
    });
}

/// Operands in a line: the low and the high nibbles, or the first and last two codes.
const OPERANDS: usize = 2;

impl<O: Output> IntegerJob<'_, O> {
    /// Lines of a block once unpacked. None where lines are operands as they are.
    pub(super) fn lines_unpacked<S: Simd>(&self) -> Option<usize> {
        let w: &Blocked = self.w;
        let sums = usize::from(has_sums::<S>(w));
        let of_group = |group| OPERANDS * w.steps(group) + sums;
        let groups = w.groups_per_row();
        let needed = w.scheme().bits == Bits::Int4 || S::CENTERED_INPUT8;
        needed.then(|| (groups - 1) * of_group(0) + of_group(groups - 1))
    }

    /// Unpacks a block.
    ///
    /// # Safety
    /// `to` must be writable for [`IntegerJob::lines_unpacked`] lines and aligned to a line.
    #[inline(always)]
    pub(super) unsafe fn unpack_block<S: Simd>(&self, simd: S, block: usize, mut to: *mut u8) {
        let w = self.w;
        let int4 = w.scheme().bits == Bits::Int4;
        let mut line = w.block_lines(block);
        for group in 0..w.groups_per_row() {
            let mut zero_points = simd.splat_i32(8);
            if let Some(values) = w.zero_points(block, group) {
                zero_points = simd.add_i32(zero_points, simd.widen_i8(values));
            }
            let zero_bytes = simd.repeat_byte(zero_points);
            let mut sums = simd.splat_i32(0);
            for _ in 0..w.steps(group) {
                // SAFETY: the steps of all groups are the lines of a block, and `to` has as many pairs of lines
                // and a line for sums per group.
                unsafe {
                    let codes = simd.load_line(line);
                    let mut operands = [simd.operand8(codes, 0), simd.operand8(codes, 1)];
                    if int4 {
                        operands = [
                            simd.sub_bytes(simd.low_nibbles(codes), zero_bytes),
                            simd.sub_bytes(simd.high_nibbles(codes), zero_bytes),
                        ];
                        sums = simd.sum_bytes(sums, simd.add_bytes(operands[0], operands[1]));
                    }
                    simd.store_line(operands[0], to);
                    simd.store_line(operands[1], to.add(LINE_BYTES));
                    to = to.add(OPERANDS * LINE_BYTES);
                }
                line = line.wrapping_add(LINE_BYTES);
            }
            if has_sums::<S>(w) {
                // Narrow groups have less than 512 codes of at most 15 in magnitude: far below the 2^22 that
                // may be split.
                let sums =
                    if w.has_sums() { sums } else { simd.split_sums(simd.sub_i32(simd.splat_i32(0), sums)) };
                // SAFETY: as above; a line is as large and as aligned as 16 integers.
                unsafe {
                    simd.store_i32(sums, &mut *to.cast::<[i32; LANES]>());
                    to = to.add(LINE_BYTES);
                }
            }
        }
    }

    /// `M` rows by `NB` unpacked blocks.
    ///
    /// # Safety
    /// `lines` must point to what [`IntegerJob::unpack_block`] has made of `blocks`.
    #[inline(always)]
    pub(super) unsafe fn unpacked_tile<S: Simd, const M: usize, const NB: usize>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        lines: [*const u8; NB],
    ) {
        // SAFETY: by this function's contract.
        unsafe {
            match (self.w.scheme().bits, self.w.has_sums()) {
                (Bits::Int8, _) => self.unpacked::<S, M, NB, false, false>(simd, row, blocks, lines),
                (Bits::Int4, true) => self.unpacked::<S, M, NB, true, false>(simd, row, blocks, lines),
                (Bits::Int4, false) => self.unpacked::<S, M, NB, true, true>(simd, row, blocks, lines),
            }
        }
    }

    /// [`IntegerJob::unpacked_tile`] for one kind of weights. `NARROW`: sums are split.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn unpacked<S: Simd, const M: usize, const NB: usize, const INT4: bool, const NARROW: bool>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        mut lines: [*const u8; NB],
    ) {
        let w = self.w;
        let mut x = [std::ptr::null(); M];
        let mut x_zeros = [0; M];
        for i in 0..M {
            x[i] = self.x.row(row + i);
            x_zeros[i] = self.x.zero_point(row + i);
        }
        let mut results = [[simd.splat_f32(0.0); NB]; M];
        let mut at = 0;
        for group in 0..w.groups_per_row() {
            let mut acc = [[simd.splat_i32(0); NB]; M];
            for _ in 0..w.steps(group) {
                for operand in 0..OPERANDS {
                    let mut codes = [simd.zero_bytes(); NB];
                    for b in 0..NB {
                        // SAFETY: a group has as many operands.
                        codes[b] = unsafe { simd.load_line(lines[b].wrapping_add(operand * LINE_BYTES)) };
                    }
                    for i in 0..M {
                        let x = x[i].wrapping_add(at + 4 * operand);
                        for b in 0..NB {
                            // SAFETY: an input row holds as many codes, of the type that this instruction set
                            // takes, as a block has columns, padding included, and each operand multiplies one
                            // 32-bit word of them.
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
                for b in 0..NB {
                    lines[b] = lines[b].wrapping_add(OPERANDS * LINE_BYTES);
                }
                at += 4 * OPERANDS;
            }
            for b in 0..NB {
                if has_sums::<S>(w) {
                    // SAFETY: the line after a group's operands holds 16 integers.
                    let sums = simd.load_i32(unsafe { &*lines[b].cast::<[i32; LANES]>() });
                    lines[b] = lines[b].wrapping_add(LINE_BYTES);
                    for i in 0..M {
                        acc[i][b] = if NARROW {
                            simd.add_scaled(acc[i][b], sums, x_zeros[i])
                        } else {
                            simd.sub_i32(acc[i][b], simd.mul_i32(simd.splat_i32(x_zeros[i]), sums))
                        };
                    }
                } else if let Some(values) = w.zero_points(blocks[b], group) {
                    let zero_points = simd.widen_i8(values);
                    for i in 0..M {
                        let x_sum = simd.splat_i32(self.x.group_sum(row + i, group));
                        acc[i][b] = simd.sub_i32(acc[i][b], simd.mul_i32(x_sum, zero_points));
                    }
                }
                let scale = group_scale(simd, w, blocks[b], group);
                for i in 0..M {
                    results[i][b] = simd.fma_f32(simd.to_f32(acc[i][b]), scale, results[i][b]);
                }
            }
            self.out.sums(simd, row, blocks, group, &acc);
        }
        self.out.results(simd, row, blocks, &self.x, &results);
    }
}

/// Whether sums of codes are needed: not where inputs are without their zero point.
fn has_sums<S: Simd>(w: &Blocked) -> bool {
    w.scheme().bits == Bits::Int4 || !S::CENTERED_INPUT8
}
