//! *Weight-only* quantization: float inputs times quantized weights.
//!
//! Inputs are integers of several digits: see [`fixed_point`](crate::fixed_point). Sums of products of a digit and
//! codes are exact. For each block of columns these sums are added as floats, lowest digit first. At the end of a group
//! its sum is scaled once. `integer` describes how the zero points of weights, and the offset that makes their codes
//! unsigned, are removed from a sum.

// Loops over vectors, not closures: closures are not compiled with the instructions enabled.
#![allow(clippy::needless_range_loop, reason = "a tile has a row and a panel on every side")]

use slm_quant_core::Bits;

use crate::fixed_point::{BLOCK, BlockParams, CHUNK, DIGITS, block_digits};
use crate::lhs::{Digits, operand_offset};
use crate::macrokernel::GemmArgs;
use crate::packed_rhs::{GroupScales, LaneScales, PackedRhs, columns_per_line};
use crate::simd::{LANES, LINE_BYTES, NIBBLE_LINES, Simd};
use crate::tile::Tile;
use crate::unpacked::OPERANDS;
use crate::vector::{SCALE_PREFETCH_BYTES, store_biased_tile};

/// The sums of an output: one for each digit.
type Sums<S, const M: usize, const NP: usize> = [[[<S as Simd>::I32; NP]; M]; DIGITS];

/// Bytes of a digit in memory.
const fn digit_bytes<S: Simd>(int4: bool) -> usize {
    if S::WIDE_INPUT8 && !int4 { 2 } else { 1 }
}

/// A product with float inputs.
pub(crate) struct FloatArgs<'a> {
    pub(crate) x: Digits<'a>,
    pub(crate) w: &'a PackedRhs,
    pub(crate) out: Tile<'a, f32>,
    pub(crate) bias: Option<&'a [f32]>,
}

/// Operands of a line: the number of input words that it is multiplied with.
const fn operands<S: Simd>(bits: Bits) -> usize {
    match bits {
        Bits::Int8 if !S::WIDE_INPUT8 => 1,
        _ => OPERANDS,
    }
}

impl GemmArgs for FloatArgs<'_> {
    const SUMS: usize = DIGITS;

    fn is_grouped(&self) -> bool {
        self.w.is_grouped()
    }

    #[inline(always)]
    fn microkernel<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
    ) {
        let lines = panels.map(|panel| self.w.panel_lines(panel));
        // SAFETY: these are the lines of the panels.
        unsafe {
            match self.w.scheme().bits {
                Bits::Int8 => self.tile::<S, M, NP, false, false>(simd, row, panels, lines),
                Bits::Int4 => self.tile::<S, M, NP, true, false>(simd, row, panels, lines),
            }
        }
    }

    fn unpacked_lines<S: Simd>(&self) -> Option<usize> {
        Some(operands::<S>(self.w.scheme().bits) * self.w.panel_bytes() / LINE_BYTES)
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, simd: S, panel: usize, mut to: *mut u8) {
        let (bits, mut line) = (self.w.scheme().bits, self.w.panel_lines(panel));
        for _ in 0..self.w.panel_bytes() / LINE_BYTES {
            for part in 0..operands::<S>(bits) {
                // SAFETY: a panel has as many lines, and by this function's contract `to` as many for each operand.
                unsafe {
                    let codes = simd.load_line(line);
                    let operand = match (bits, part) {
                        (Bits::Int8, _) => simd.signed_operand8(codes, part),
                        (Bits::Int4, 0) => simd.low_nibbles(codes),
                        (Bits::Int4, _) => simd.high_nibbles(codes),
                    };
                    simd.store_line(operand, to);
                    to = to.add(LINE_BYTES);
                }
            }
            line = line.wrapping_add(LINE_BYTES);
        }
    }

    #[inline(always)]
    unsafe fn unpacked_microkernel<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
        lines: [*const u8; NP],
    ) {
        // SAFETY: the same contract.
        unsafe {
            match self.w.scheme().bits {
                Bits::Int8 => self.tile::<S, M, NP, false, true>(simd, row, panels, lines),
                Bits::Int4 => self.tile::<S, M, NP, true, true>(simd, row, panels, lines),
            }
        }
    }
}

impl FloatArgs<'_> {
    /// Computes `M` rows by `NP` panels. With `UNPACKED`, `lines` are operands in the order of columns.
    ///
    /// # Safety
    /// `lines` must point to the lines of `panels`, or if `UNPACKED` to what [`GemmArgs::unpack`] has made of them.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const NP: usize, const INT4: bool, const UNPACKED: bool>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
        lines: [*const u8; NP],
    ) {
        let w = self.w;
        let zero_points = panels.map(|panel| w.zero_points(panel));
        let scales = panels.map(|panel| w.scales(panel));
        // SAFETY: by this function's contract.
        let results = unsafe {
            match scales[0] {
                // For one row and panel: a loop without the properties that all groups share.
                LaneScales::F32(scales) if M * NP == 1 && zero_points[0].is_none() => {
                    self.sums::<S, _, M, NP, INT4, UNPACKED>(simd, row, lines, &[scales; NP], [None; NP])
                }
                LaneScales::F16(scales) if M * NP == 1 && zero_points[0].is_none() => {
                    self.sums::<S, _, M, NP, INT4, UNPACKED>(simd, row, lines, &[scales; NP], [None; NP])
                }
                _ => self.sums::<S, _, M, NP, INT4, UNPACKED>(simd, row, lines, &scales, zero_points),
            }
        };
        store_biased_tile(simd, &self.out, w.rows(), self.bias, row, panels, results);
    }

    /// The sums of a tile, scaled and with zero points applied.
    ///
    /// # Safety
    /// As [`FloatArgs::tile`].
    #[inline(always)]
    unsafe fn sums<
        S: Simd,
        G: PanelScales,
        const M: usize,
        const NP: usize,
        const INT4: bool,
        const UNPACKED: bool,
    >(
        &self,
        simd: S,
        row: usize,
        lines: [*const u8; NP],
        scales: &[G; NP],
        zero_points: [Option<&[[i8; LANES]]>; NP],
    ) -> [[S::F32; NP]; M] {
        let w = self.w;
        let block_lines = BLOCK / columns_per_line(w.scheme().bits);
        let block_bytes = block_digits(w.group_width()) * digit_bytes::<S>(INT4);
        let offset = simd.splat_i32(operand_offset::<S>(w));
        let mut cursor = TileCursor { x: [std::ptr::null(); M], lines };
        let mut params: [&[BlockParams]; M] = [&[]; M];
        for i in 0..M {
            cursor.x[i] = self.x.row(row + i);
            params[i] = self.x.params(row + i);
        }
        let mut results = [[simd.splat_f32(0.0); NP]; M];
        let mut block = 0;
        for group in 0..w.groups_per_row() {
            let mut dot = [[simd.splat_f32(0.0); NP]; M];
            let mut left = w.steps(group);
            while left > 0 {
                let count = left.min(block_lines);
                left -= count;
                let mut sums = [[[simd.splat_i32(0); NP]; M]; DIGITS];
                for digit in 0..DIGITS {
                    for i in 0..M {
                        sums[digit][i] = [simd.splat_i32(params[i][block].sums[digit]); NP];
                    }
                }
                for b in 0..NP {
                    if let Some(values) = zero_points[b] {
                        let zero_points = simd.add_i32(simd.widen_i8(&values[group]), offset);
                        for digit in 0..DIGITS {
                            for i in 0..M {
                                sums[digit][i][b] = simd.mul_i32(zero_points, sums[digit][i][b]);
                            }
                        }
                    }
                }
                let start = cursor.x;
                // SAFETY: the steps of all groups are the lines of a panel; an input row holds as many blocks of digits, of
                // the type that this instruction set takes, as a row of weights has, padding included.
                unsafe {
                    if INT4 {
                        cursor.nibble_block::<S, UNPACKED>(simd, count, &mut sums);
                    } else {
                        cursor.byte_block::<S, UNPACKED>(simd, count, &mut sums);
                    }
                }
                for i in 0..M {
                    cursor.x[i] = start[i].wrapping_add(block_bytes);
                }
                for digit in 0..DIGITS {
                    for i in 0..M {
                        let step = simd.splat_f32(params[i][block].steps[digit]);
                        for b in 0..NP {
                            dot[i][b] = simd.fma_f32(simd.to_f32(sums[digit][i][b]), step, dot[i][b]);
                        }
                    }
                }
                block += 1;
            }
            for b in 0..NP {
                if !UNPACKED {
                    scales[b].prefetch(simd, group);
                }
                let scale = scales[b].group(simd, group);
                for i in 0..M {
                    results[i][b] = simd.fma_f32(dot[i][b], scale, results[i][b]);
                }
            }
        }
        results
    }
}

/// The scales of a panel by group: of one known type, or of either type.
trait PanelScales {
    /// The scales of a group.
    fn group<S: Simd>(&self, simd: S, group: usize) -> S::F32;

    /// Prefetches the scales of later groups.
    fn prefetch<S: Simd>(&self, simd: S, group: usize);
}

impl PanelScales for LaneScales<'_> {
    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, group: usize) -> S::F32 {
        self.load(simd, group)
    }

    #[inline(always)]
    fn prefetch<S: Simd>(&self, simd: S, group: usize) {
        LaneScales::prefetch(*self, simd, group, SCALE_PREFETCH_BYTES);
    }
}

impl<T> PanelScales for &[[T; LANES]]
where
    [T; LANES]: GroupScales,
{
    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, group: usize) -> S::F32 {
        self[group].load(simd)
    }

    #[inline(always)]
    fn prefetch<S: Simd>(&self, simd: S, group: usize) {
        simd.prefetch(self.as_ptr().wrapping_add(group).cast::<u8>().wrapping_add(SCALE_PREFETCH_BYTES));
    }
}

/// The read position in the operands.
struct TileCursor<const M: usize, const NP: usize> {
    /// The digits of the next chunk of columns.
    x: [*const u8; M],
    lines: [*const u8; NP],
}

impl<const M: usize, const NP: usize> TileCursor<M, NP> {
    /// Multiplies `count` lines of INT4 codes of each panel.
    ///
    /// # Safety
    /// There must be as many lines, and inputs for them.
    #[inline(always)]
    unsafe fn nibble_block<S: Simd, const UNPACKED: bool>(
        &mut self,
        simd: S,
        count: usize,
        sums: &mut Sums<S, M, NP>,
    ) {
        const { assert!(CHUNK == 8 * NIBBLE_LINES) }
        let mut left = count;
        // SAFETY: by this function's contract.
        unsafe {
            while left >= NIBBLE_LINES {
                self.nibble_lines::<S, NIBBLE_LINES, UNPACKED>(simd, sums);
                left -= NIBBLE_LINES;
                for i in 0..M {
                    self.x[i] = self.x[i].wrapping_add(DIGITS * CHUNK);
                }
            }
            for _ in 0..left {
                self.nibble_lines::<S, 1, UNPACKED>(simd, sums);
                for i in 0..M {
                    self.x[i] = self.x[i].wrapping_add(4 * OPERANDS);
                }
            }
        }
    }

    /// Multiplies `COUNT` lines of INT4 codes of each panel.
    ///
    /// # Safety
    /// There must be as many lines, and inputs for them.
    #[inline(always)]
    unsafe fn nibble_lines<S: Simd, const COUNT: usize, const UNPACKED: bool>(
        &mut self,
        simd: S,
        all: &mut Sums<S, M, NP>,
    ) {
        let mut sums = [[[simd.start_nibbles(simd.splat_i32(0)); NP]; M]; DIGITS];
        for digit in 0..DIGITS {
            for i in 0..M {
                for b in 0..NP {
                    sums[digit][i][b] = simd.start_nibbles(all[digit][i][b]);
                }
            }
        }
        for number in 0..COUNT {
            for half in 0..OPERANDS {
                let mut codes = [simd.zero_bytes(); NP];
                for b in 0..NP {
                    // SAFETY: by this function's contract.
                    codes[b] = unsafe {
                        if UNPACKED {
                            simd.load_line(
                                self.lines[b].wrapping_add((OPERANDS * number + half) * LINE_BYTES),
                            )
                        } else {
                            let line = self.lines[b].wrapping_add(number * LINE_BYTES);
                            if half == 0 {
                                simd.prefetch(line.wrapping_add(S::PREFETCH_BYTES));
                                simd.nibbles::<false>(simd.load_line(line))
                            } else {
                                simd.nibbles::<true>(simd.load_line(line))
                            }
                        }
                    };
                }
                for digit in 0..DIGITS {
                    for i in 0..M {
                        let x = self.x[i].wrapping_add(digit * CHUNK + 4 * (OPERANDS * number + half));
                        let sums = &mut sums[digit][i];
                        for b in 0..NP {
                            // SAFETY: by this function's contract; nibbles that have been unpacked are low ones.
                            sums[b] = unsafe {
                                if UNPACKED || half == 0 {
                                    simd.dot_nibbles::<false>(sums[b], x, codes[b])
                                } else {
                                    simd.dot_nibbles::<true>(sums[b], x, codes[b])
                                }
                            };
                        }
                    }
                }
            }
        }
        for digit in 0..DIGITS {
            for i in 0..M {
                for b in 0..NP {
                    all[digit][i][b] = simd.end_nibbles(sums[digit][i][b]);
                }
            }
        }
        for b in 0..NP {
            let lines = if UNPACKED { OPERANDS * COUNT } else { COUNT };
            self.lines[b] = self.lines[b].wrapping_add(lines * LINE_BYTES);
        }
    }

    /// Multiplies `count` lines of INT8 codes of each panel.
    ///
    /// # Safety
    /// There must be as many lines, and inputs for them.
    #[inline(always)]
    unsafe fn byte_block<S: Simd, const UNPACKED: bool>(
        &mut self,
        simd: S,
        count: usize,
        sums: &mut Sums<S, M, NP>,
    ) {
        let mut others = [[[simd.splat_i32(0); NP]; M]; DIGITS];
        let mut left = count;
        while left > 0 {
            let start = self.x;
            let lines = left.min(CHUNK / 4);
            left -= lines;
            // SAFETY: by this function's contract.
            unsafe {
                for _ in 0..lines / 2 {
                    self.byte_line::<S, UNPACKED>(simd, sums);
                    // A single sum would wait for its own previous result.
                    let sums = if M * NP == 1 { &mut others } else { &mut *sums };
                    self.byte_line::<S, UNPACKED>(simd, sums);
                }
                if lines % 2 == 1 {
                    self.byte_line::<S, UNPACKED>(simd, sums);
                }
            }
            for i in 0..M {
                self.x[i] = start[i].wrapping_add(DIGITS * CHUNK * digit_bytes::<S>(false));
            }
        }
        if M * NP == 1 {
            for digit in 0..DIGITS {
                sums[digit][0][0] = simd.add_i32(sums[digit][0][0], others[digit][0][0]);
            }
        }
    }

    /// Multiplies a line of INT8 codes of each panel.
    ///
    /// # Safety
    /// There must be one, and inputs for it.
    #[inline(always)]
    unsafe fn byte_line<S: Simd, const UNPACKED: bool>(&mut self, simd: S, sums: &mut Sums<S, M, NP>) {
        let parts = operands::<S>(Bits::Int8);
        for part in 0..parts {
            let mut codes = [simd.zero_bytes(); NP];
            for b in 0..NP {
                // SAFETY: by this function's contract.
                codes[b] = unsafe {
                    if UNPACKED {
                        simd.load_line(self.lines[b].wrapping_add(part * LINE_BYTES))
                    } else {
                        simd.signed_operand8(simd.load_line(self.lines[b]), part)
                    }
                };
            }
            for digit in 0..DIGITS {
                for i in 0..M {
                    let x = self.x[i].wrapping_add(digit * CHUNK * digit_bytes::<S>(false) + 4 * part);
                    for b in 0..NP {
                        // SAFETY: by this function's contract.
                        sums[digit][i][b] = unsafe { simd.signed_dot8(sums[digit][i][b], x, codes[b]) };
                    }
                }
            }
        }
        for i in 0..M {
            self.x[i] = self.x[i].wrapping_add(4 * parts);
        }
        for b in 0..NP {
            if !UNPACKED {
                simd.prefetch(self.lines[b].wrapping_add(S::PREFETCH_BYTES));
            }
            let lines = if UNPACKED { parts } else { 1 };
            self.lines[b] = self.lines[b].wrapping_add(lines * LINE_BYTES);
        }
    }
}
