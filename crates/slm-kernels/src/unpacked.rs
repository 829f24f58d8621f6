//! Tiles of many rows on weights that are unpacked beforehand.
//!
//! A thread multiplies the same few blocks with many rows. Where the codes of a line have to be separated
//! before they can be multiplied, it does so once, into memory of its own that stays in the second-level
//! cache, and not again for every tile of rows. A block is then its operands in the order of the columns, each
//! of them the [`LINE_BYTES`] bytes that one 32-bit word of input multiplies.

#![allow(clippy::needless_range_loop, reason = "a tile has a row and a block on every side")]

use std::cell::RefCell;

use slm_quant_core::Bits;

use crate::blocked::Line;
use crate::integer::{IntegerJob, Output, stored_zero_points};
use crate::simd::{LINE_BYTES, Simd};

thread_local! {
    /// Unpacked blocks of the tiles that this thread computes.
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with memory for `lines` lines.
pub(crate) fn with_scratch(lines: usize, f: impl FnOnce(*mut u8)) {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < lines {
            scratch.resize(lines, Line::ZERO);
        }
        f(scratch.as_mut_ptr().cast());
    });
}

/// Operands in a line: the low and the high nibbles, or the first and last two codes.
pub(crate) const OPERANDS: usize = 2;

impl<O: Output> IntegerJob<'_, O> {
    /// Lines of a block once unpacked. None where lines are operands as they are.
    pub(crate) fn lines_unpacked<S: Simd>(&self) -> Option<usize> {
        let needed = self.w.scheme().bits == Bits::Int4 || S::CENTERED_INPUT8;
        needed.then(|| OPERANDS * self.w.block_bytes() / LINE_BYTES)
    }

    /// Unpacks a block. INT4 codes of rows of one group become codes less zero points, those of several groups
    /// stay as they are stored.
    ///
    /// # Safety
    /// `to` must be writable for [`IntegerJob::lines_unpacked`] lines and aligned to a line.
    #[inline(always)]
    pub(crate) unsafe fn unpack_block<S: Simd>(&self, simd: S, block: usize, mut to: *mut u8) {
        let w = self.w;
        let zero_bytes = if w.is_grouped() {
            simd.zero_bytes()
        } else {
            simd.repeat_byte(stored_zero_points(simd, w, block))
        };
        let mut line = w.block_lines(block);
        for _ in 0..w.block_bytes() / LINE_BYTES {
            // SAFETY: a block has as many lines, and `to` twice as many.
            unsafe {
                let codes = simd.load_line(line);
                let operands = match w.scheme().bits {
                    Bits::Int8 => [simd.operand8(codes, 0), simd.operand8(codes, 1)],
                    Bits::Int4 => [
                        simd.sub_bytes(simd.low_nibbles(codes), zero_bytes),
                        simd.sub_bytes(simd.high_nibbles(codes), zero_bytes),
                    ],
                };
                simd.store_line(operands[0], to);
                simd.store_line(operands[1], to.add(LINE_BYTES));
                to = to.add(OPERANDS * LINE_BYTES);
            }
            line = line.wrapping_add(LINE_BYTES);
        }
    }

    /// `M` rows by `NB` unpacked blocks.
    ///
    /// # Safety
    /// `lines` must point to what [`IntegerJob::unpack_block`] has made of `blocks`.
    #[inline(always)]
    pub(crate) unsafe fn unpacked_tile<S: Simd, const M: usize, const NB: usize>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        lines: [*const u8; NB],
    ) {
        // SAFETY: by this function's contract.
        unsafe {
            match self.w.scheme().bits {
                _ if self.w.is_grouped() => {
                    self.grouped_tile::<S, M, NB, true>(simd, row, blocks, lines);
                }
                Bits::Int8 => self.unpacked::<S, M, NB, false>(simd, row, blocks, lines),
                Bits::Int4 => self.unpacked::<S, M, NB, true>(simd, row, blocks, lines),
            }
        }
    }

    /// [`IntegerJob::unpacked_tile`] for rows of one group and one kind of weights.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn unpacked<S: Simd, const M: usize, const NB: usize, const INT4: bool>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        mut lines: [*const u8; NB],
    ) {
        let mut x = [std::ptr::null(); M];
        for i in 0..M {
            x[i] = self.x.row(row + i);
        }
        let mut acc = [[simd.splat_i32(0); NB]; M];
        let mut at = 0;
        for _ in 0..self.w.steps(0) {
            for operand in 0..OPERANDS {
                let mut codes = [simd.zero_bytes(); NB];
                for b in 0..NB {
                    // SAFETY: a step has as many operands.
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
        let mut zero_points = [simd.splat_i32(0); NB];
        for b in 0..NB {
            zero_points[b] = stored_zero_points(simd, self.w, blocks[b]);
        }
        if INT4 {
            let mut sums = zero_points;
            for b in 0..NB {
                sums[b] = self.operand_sums(simd, blocks[b], zero_points[b], true);
            }
            self.apply_input_zero_points(simd, row, sums, &mut acc);
        } else {
            self.apply_weight_zero_points(simd, row, zero_points, &mut acc);
        }
        self.finish(simd, row, blocks, &acc);
    }
}
