//! Tiles of many rows on weights that are unpacked beforehand.
//!
//! A thread multiplies the same few panels with many rows. If the codes of a line must be separated before they can be
//! multiplied, the thread does so once, into its own memory that stays in the second-level cache, and not again for
//! every tile of rows. An unpacked panel is its operands in the order of the columns. Each operand is the
//! [`LINE_BYTES`] bytes that one 32-bit word of input multiplies.

#![allow(clippy::needless_range_loop, reason = "a tile has a row and a panel on every side")]

use std::cell::RefCell;

use slm_quant_core::Bits;

use crate::integer::{IntegerArgs, Output, dot, stored_zero_points};
use crate::packed_rhs::CacheLine;
use crate::simd::{DOT4_OPERANDS, LINE_BYTES, Simd};

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
        self.out.prefetch::<S, M, NP>(simd, row, panels);
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
        lines: [*const u8; NP],
    ) {
        let mut x = [std::ptr::null(); M];
        for i in 0..M {
            x[i] = self.x.row(row + i);
        }
        let mut acc = [[simd.splat_i32(0); NP]; M];
        let mut operands = Operands { x, at: 0, lines };
        let mut left = OPERANDS * self.w.steps(0);
        // SAFETY: the lines of a panel are as many as its operands, and an input row holds as many codes, of the type
        // that this instruction set takes, as a panel has columns, padding included.
        unsafe {
            if INT4 && S::SUMS_16_BITS {
                while left >= DOT4_OPERANDS {
                    operands.add_in_16_bits::<S, DOT4_OPERANDS>(simd, &mut acc);
                    left -= DOT4_OPERANDS;
                }
                if left > 0 {
                    const { assert!(DOT4_OPERANDS == 2 * OPERANDS) }
                    operands.add_in_16_bits::<S, OPERANDS>(simd, &mut acc);
                }
            } else {
                for _ in 0..left / OPERANDS {
                    operands.add::<S, INT4>(simd, &mut acc);
                }
            }
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

/// The read position in inputs and unpacked panels, for rows of one group.
struct Operands<const M: usize, const NP: usize> {
    x: [*const u8; M],
    /// Number of bytes of each of `x` that have been read.
    at: usize,
    lines: [*const u8; NP],
}

impl<const M: usize, const NP: usize> Operands<M, NP> {
    /// Adds the products of the [`OPERANDS`] of a line.
    ///
    /// # Safety
    /// There must be as many, and inputs for them.
    #[inline(always)]
    unsafe fn add<S: Simd, const INT4: bool>(&mut self, simd: S, acc: &mut [[S::I32; NP]; M]) {
        for operand in 0..OPERANDS {
            // SAFETY: by this function's contract.
            let codes = unsafe { self.load(simd, operand) };
            for i in 0..M {
                let x = self.x[i].wrapping_add(self.at + 4 * operand);
                for b in 0..NP {
                    // SAFETY: by this function's contract; each operand multiplies one 32-bit word of inputs.
                    acc[i][b] = unsafe { dot::<S, INT4>(simd, acc[i][b], x, codes[b]) };
                }
            }
        }
        self.advance(OPERANDS);
    }

    /// Adds the products of `COUNT` operands, at most [`DOT4_OPERANDS`], of INT4 codes, which are summed in 16 bits first.
    ///
    /// # Safety
    /// There must be as many, and inputs for them.
    #[inline(always)]
    unsafe fn add_in_16_bits<S: Simd, const COUNT: usize>(&mut self, simd: S, acc: &mut [[S::I32; NP]; M]) {
        let mut sums = [[simd.start_nibbles(simd.splat_i32(0)); NP]; M];
        for operand in 0..COUNT {
            // SAFETY: by this function's contract.
            let codes = unsafe { self.load(simd, operand) };
            for i in 0..M {
                let x = self.x[i].wrapping_add(self.at + 4 * operand);
                for b in 0..NP {
                    // SAFETY: as in `add`.
                    sums[i][b] = unsafe { simd.dot4_16(sums[i][b], x, codes[b]) };
                }
            }
        }
        for i in 0..M {
            for b in 0..NP {
                acc[i][b] = simd.add_i32(acc[i][b], simd.end_nibbles(sums[i][b]));
            }
        }
        self.advance(COUNT);
    }

    /// The `operand`-th of the next operands of each panel.
    ///
    /// # Safety
    /// It must exist.
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, simd: S, operand: usize) -> [S::Bytes; NP] {
        let mut codes = [simd.zero_bytes(); NP];
        for b in 0..NP {
            // SAFETY: by this function's contract.
            codes[b] = unsafe { simd.load_line(self.lines[b].wrapping_add(operand * LINE_BYTES)) };
        }
        codes
    }

    #[inline(always)]
    fn advance(&mut self, operands: usize) {
        for b in 0..NP {
            self.lines[b] = self.lines[b].wrapping_add(operands * LINE_BYTES);
        }
        self.at += 4 * operands;
    }
}
