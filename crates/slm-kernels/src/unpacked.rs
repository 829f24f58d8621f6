//! Tiles of many rows on weights that are unpacked beforehand.
//!
//! A thread multiplies the same few panels with many rows. If the codes of a line must be separated before they can be
//! multiplied, the thread does so once, into its own memory that stays in the second-level cache, and not again for
//! every tile of rows. An unpacked panel is its operands in the order of the columns. Each operand is the
//! [`LINE_BYTES`] bytes that one 32-bit word of input multiplies.

#![allow(clippy::needless_range_loop, reason = "a tile has a row and a panel on every side")]

use std::cell::RefCell;

use slm_quant_core::Bits;

use crate::integer::{IntegerArgs, Output, stored_zero_points};
use crate::packed_rhs::CacheLine;
use crate::simd::{LINE_BYTES, Simd};

thread_local! {
    /// Unpacked panels of this thread's tiles.
    static SCRATCH: RefCell<Vec<CacheLine>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with memory for `lines` lines.
pub(crate) fn with_scratch(lines: usize, f: impl FnOnce(*mut u8)) {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < lines {
            scratch.resize(lines, CacheLine::ZERO);
        }
        f(scratch.as_mut_ptr().cast());
    });
}

/// Operands in a line: the low and the high nibbles, or the first and last two codes.
pub(crate) const OPERANDS: usize = 2;

impl<O: Output> IntegerArgs<'_, O> {
    /// Lines of an unpacked panel; `None` if lines are operands already.
    pub(crate) fn lines_unpacked<S: Simd>(&self) -> Option<usize> {
        let needed = self.w.scheme().bits == Bits::Int4 || S::WIDE_INPUT8;
        needed.then(|| OPERANDS * self.w.panel_bytes() / LINE_BYTES)
    }

    /// Unpacks a panel. INT4 codes become codes less zero points for rows of one group, and stay as stored for rows of
    /// several.
    ///
    /// # Safety
    /// `to` must be writable for [`IntegerArgs::lines_unpacked`] lines and aligned to a line.
    #[inline(always)]
    pub(crate) unsafe fn unpack_panel<S: Simd>(&self, simd: S, panel: usize, mut to: *mut u8) {
        let w = self.w;
        let zero_bytes = if w.is_grouped() {
            simd.zero_bytes()
        } else {
            simd.repeat_byte(stored_zero_points(simd, w, panel))
        };
        let mut line = w.panel_lines(panel);
        for _ in 0..w.panel_bytes() / LINE_BYTES {
            // SAFETY: a panel has as many lines, and `to` twice as many.
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

    /// Computes `M` rows by `NP` unpacked panels.
    ///
    /// # Safety
    /// `lines` must point to what [`IntegerArgs::unpack_panel`] has made of `panels`.
    #[inline(always)]
    pub(crate) unsafe fn unpacked_tile<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
        lines: [*const u8; NP],
    ) {
        // SAFETY: by this function's contract.
        unsafe {
            match self.w.scheme().bits {
                _ if self.w.is_grouped() => {
                    self.grouped_tile::<S, M, NP, true>(simd, row, panels, lines);
                }
                Bits::Int8 => self.unpacked::<S, M, NP, false>(simd, row, panels, lines),
                Bits::Int4 => self.unpacked::<S, M, NP, true>(simd, row, panels, lines),
            }
        }
    }

    /// [`IntegerArgs::unpacked_tile`] for rows of one group and one kind of weights.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn unpacked<S: Simd, const M: usize, const NP: usize, const INT4: bool>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
        mut lines: [*const u8; NP],
    ) {
        let mut x = [std::ptr::null(); M];
        for i in 0..M {
            x[i] = self.x.row(row + i);
        }
        let mut acc = [[simd.splat_i32(0); NP]; M];
        let mut at = 0;
        for _ in 0..self.w.steps(0) {
            for operand in 0..OPERANDS {
                let mut codes = [simd.zero_bytes(); NP];
                for b in 0..NP {
                    // SAFETY: a step has as many operands.
                    codes[b] = unsafe { simd.load_line(lines[b].wrapping_add(operand * LINE_BYTES)) };
                }
                for i in 0..M {
                    let x = x[i].wrapping_add(at + 4 * operand);
                    for b in 0..NP {
                        // SAFETY: an input row holds as many codes, of the type that this instruction set
                        // takes, as a panel has columns, padding included, and each operand multiplies one
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
            for b in 0..NP {
                lines[b] = lines[b].wrapping_add(OPERANDS * LINE_BYTES);
            }
            at += 4 * OPERANDS;
        }
        let mut zero_points = [simd.splat_i32(0); NP];
        for b in 0..NP {
            zero_points[b] = stored_zero_points(simd, self.w, panels[b]);
        }
        if INT4 {
            let mut sums = zero_points;
            for b in 0..NP {
                sums[b] = self.operand_sums(simd, panels[b], zero_points[b], true);
            }
            self.apply_input_zero_points(simd, row, sums, &mut acc);
        } else {
            self.apply_weight_zero_points(simd, row, zero_points, &mut acc);
        }
        self.finish(simd, row, panels, &acc);
    }
}
