//! 8-bit inputs times integer weights, summed exactly in 32 bits: rows of one group. `grouped` handles rows of several.
//!
//! Let `x` be an input code, `w` a stored weight code, and `X`, `W` their zero points as stored. Then
//!
//! ```text
//! sum (x - X)(w - W)  =  sum x w  -  X sum w  -  W sum (x - X)
//! ```
//!
//! The first sum is computed by the instructions, the second is known when weights are packed, and the third is
//! computed once per input row. All arithmetic wraps modulo 2^32, so only the result has to fit, which packing has
//! verified.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "a tile has a row and a panel on every side"
)]
use slm_quant_core::Bits;

use crate::kernel::ACTIVATION_OFFSET;
use crate::lhs::Inputs;
use crate::macrokernel::GemmArgs;
use crate::packed_rhs::{PackedRhs, stored_offset};
use crate::simd::{LANES, LINE_BYTES, Simd};
use crate::tile::Tile;
use crate::vector::{load_lanes, store_tile};

/// Independent sums of an output, used when a single one would wait for its own previous result.
const CHAINS: usize = 4;

/// Minimum number of rows for which zero points are subtracted from INT4 codes as they are unpacked (which leaves
/// `[-15, 15]`). That drops the third sum for all of them.
const SIGNED_ROWS: usize = 4;

/// The destination of results.
pub(crate) trait Output {
    /// `true` if the destination takes sums.
    const SUMS: bool;

    /// Prefetches the cells that the results of a tile are written to. The other thread may have them in its cache from an
    /// earlier product. A store that waits for them delays all later stores, and a tile that lacks registers makes many.
    fn prefetch<S: Simd, const M: usize, const NP: usize>(
        &self,
        _simd: S,
        _row: usize,
        _panels: [usize; NP],
    ) {
    }

    /// Receives the exact sums of a group.
    fn sums<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        w: &PackedRhs,
        row: usize,
        panels: [usize; NP],
        group: usize,
        sums: &[[S::I32; NP]; M],
    );
    /// Receives the scaled sums of whole rows.
    fn results<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        w: &PackedRhs,
        row: usize,
        panels: [usize; NP],
        x: &Inputs<'_>,
        results: &[[S::F32; NP]; M],
    );
}

/// `[m, rows]` floats, with a bias per row of weights.
pub(crate) struct Floats<'a> {
    pub(crate) out: Tile<'a, f32>,
    pub(crate) bias: Option<&'a [f32]>,
}

impl Output for Floats<'_> {
    const SUMS: bool = false;

    #[inline(always)]
    fn prefetch<S: Simd, const M: usize, const NP: usize>(&self, simd: S, row: usize, panels: [usize; NP]) {
        for i in 0..M {
            for b in 0..NP {
                simd.prefetch_for_write(self.out.address(row + i, panels[b] * LANES));
            }
        }
    }

    #[inline(always)]
    fn sums<S: Simd, const M: usize, const NP: usize>(
        &self,
        _: S,
        _: &PackedRhs,
        _: usize,
        _: [usize; NP],
        _: usize,
        _: &[[S::I32; NP]; M],
    ) {
    }

    #[inline(always)]
    fn results<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        w: &PackedRhs,
        row: usize,
        panels: [usize; NP],
        x: &Inputs<'_>,
        results: &[[S::F32; NP]; M],
    ) {
        let mut y = [[simd.splat_f32(0.0); NP]; M];
        for b in 0..NP {
            let bias = load_lanes(simd, self.bias, panels[b]);
            for i in 0..M {
                y[i][b] = simd.fma_f32(results[i][b], simd.splat_f32(x.scale(row + i)), bias);
            }
        }
        store_tile(simd, &self.out, w.rows(), row, panels, &y);
    }
}

/// `[m, rows, groups]` integers.
pub(crate) struct Sums<'a> {
    pub(crate) out: Tile<'a, i32>,
}

impl Output for Sums<'_> {
    const SUMS: bool = true;

    #[inline(always)]
    fn sums<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        w: &PackedRhs,
        row: usize,
        panels: [usize; NP],
        group: usize,
        sums: &[[S::I32; NP]; M],
    ) {
        let mut lanes = [[[0; LANES]; NP]; M];
        for i in 0..M {
            for b in 0..NP {
                simd.store_i32(sums[i][b], &mut lanes[i][b]);
            }
        }
        for (i, lanes) in lanes.iter().enumerate() {
            for (&panel, lanes) in panels.iter().zip(lanes) {
                for (lane, sum) in lanes.iter().enumerate().take(w.rows() - panel * LANES) {
                    let column = (panel * LANES + lane) * w.groups_per_row() + group;
                    self.out.write(row + i, column, &[*sum]);
                }
            }
        }
    }

    #[inline(always)]
    fn results<S: Simd, const M: usize, const NP: usize>(
        &self,
        _: S,
        _: &PackedRhs,
        _: usize,
        _: [usize; NP],
        _: &Inputs<'_>,
        _: &[[S::F32; NP]; M],
    ) {
    }
}

/// A product with quantized inputs.
pub(crate) struct IntegerArgs<'a, O> {
    pub(crate) x: Inputs<'a>,
    pub(crate) w: &'a PackedRhs,
    pub(crate) out: O,
}

impl<O: Output> GemmArgs for IntegerArgs<'_, O> {
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
        match self.w.scheme().bits {
            // SAFETY: these are the lines of the panels.
            _ if self.is_grouped() => unsafe {
                self.grouped_tile::<S, M, NP, false>(simd, row, panels, lines);
            },
            // SAFETY: the same.
            Bits::Int8 => unsafe { self.tile::<S, M, NP, false>(simd, row, panels, lines) },
            // SAFETY: the same.
            Bits::Int4 => unsafe { self.tile::<S, M, NP, true>(simd, row, panels, lines) },
        }
    }

    fn unpacked_lines<S: Simd>(&self) -> Option<usize> {
        self.lines_unpacked::<S>()
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, simd: S, panel: usize, to: *mut u8) {
        // SAFETY: the same contract.
        unsafe { self.unpack_panel(simd, panel, to) }
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
        unsafe { self.unpacked_tile::<S, M, NP>(simd, row, panels, lines) }
    }
}

impl<O: Output> IntegerArgs<'_, O> {
    /// Computes `M` rows by `NP` panels of rows of one group.
    ///
    /// # Safety
    /// `lines` must point to the lines of `panels`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const NP: usize, const INT4: bool>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
        lines: [*const u8; NP],
    ) {
        let w = self.w;
        let signed = INT4 && M >= SIGNED_ROWS;
        let is_wide = !INT4 && S::WIDE_INPUT8;
        let zero = simd.splat_i32(0);

        let mut zero_points = [zero; NP];
        let mut zero_bytes = [simd.zero_bytes(); NP];
        for b in 0..NP {
            zero_points[b] = stored_zero_points(simd, w, panels[b]);
            zero_bytes[b] = simd.repeat_byte(zero_points[b]);
        }
        let mut x = [std::ptr::null(); M];
        for i in 0..M {
            x[i] = self.x.row(row + i);
        }
        let mut cursor = TileCursor { x, lines, zero_bytes, acc: [[[zero; NP]; M]; CHAINS] };
        let mut left = w.steps(0);
        if M * NP < CHAINS {
            while left >= CHAINS {
                // SAFETY: the lines of a panel are as many as its steps, and so are those that rows have inputs for.
                unsafe { cursor.lines::<CHAINS, INT4>(simd) };
                left -= CHAINS;
            }
        }
        for _ in 0..left {
            // SAFETY: as above.
            unsafe { cursor.lines::<1, INT4>(simd) };
        }
        let TileCursor { acc: [mut acc, others @ ..], .. } = cursor;
        if M * NP < CHAINS {
            for other in others {
                for i in 0..M {
                    for b in 0..NP {
                        acc[i][b] = simd.add_i32(acc[i][b], other[i][b]);
                    }
                }
            }
        }
        if !signed {
            self.apply_weight_zero_points(simd, row, zero_points, &mut acc);
        }
        if !is_wide {
            let mut code_sums = [zero; NP];
            for b in 0..NP {
                code_sums[b] = self.operand_sums(simd, panels[b], zero_points[b], signed);
            }
            self.apply_input_zero_points(simd, row, code_sums, &mut acc);
        }
        self.finish(simd, row, panels, &acc);
    }

    /// Sums of operands by lane: of stored codes, or with `signed` of codes less zero points.
    #[inline(always)]
    pub(crate) fn operand_sums<S: Simd>(
        &self,
        simd: S,
        panel: usize,
        zero_points: S::I32,
        signed: bool,
    ) -> S::I32 {
        let sums = simd.load_i32(self.w.code_sums(panel));
        if !signed {
            return sums;
        }
        simd.sub_i32(sums, simd.mul_i32(zero_points, simd.splat_i32(self.w.padded_cols() as i32)))
    }

    /// Subtracts the contribution of the zero points of weights from a sum of products.
    #[inline(always)]
    pub(crate) fn apply_weight_zero_points<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        row: usize,
        zero_points: [S::I32; NP],
        acc: &mut [[S::I32; NP]; M],
    ) {
        for i in 0..M {
            if let Some(&sum) = self.x.group_sums(row + i).first() {
                let x_sum = simd.splat_i32(sum);
                for b in 0..NP {
                    acc[i][b] = simd.sub_i32(acc[i][b], simd.mul_i32(x_sum, zero_points[b]));
                }
            }
        }
    }

    /// Subtracts the contribution of the zero points of inputs from a sum of products.
    #[inline(always)]
    pub(crate) fn apply_input_zero_points<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        row: usize,
        operand_sums: [S::I32; NP],
        acc: &mut [[S::I32; NP]; M],
    ) {
        // The offset is subtracted from the zero point as it is from the codes.
        let offset = if S::SIGNED_INPUT { ACTIVATION_OFFSET } else { 0 };
        for i in 0..M {
            let x_zero = simd.splat_i32(self.x.zero_point(row + i) - offset);
            for b in 0..NP {
                acc[i][b] = simd.sub_i32(acc[i][b], simd.mul_i32(x_zero, operand_sums[b]));
            }
        }
    }

    /// Scales the sums of whole rows and writes the results.
    #[inline(always)]
    pub(crate) fn finish<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
        acc: &[[S::I32; NP]; M],
    ) {
        if O::SUMS {
            self.out.sums(simd, self.w, row, panels, 0, acc);
        }
        let mut results = [[simd.splat_f32(0.0); NP]; M];
        for b in 0..NP {
            let scale = self.w.scales(panels[b]).load(simd, 0);
            for i in 0..M {
                results[i][b] = simd.fma_f32(simd.to_f32(acc[i][b]), scale, results[i][b]);
            }
        }
        self.out.results(simd, self.w, row, panels, &self.x, &results);
    }
}

/// Zero points of the codes as they are stored, for rows of one group.
#[inline(always)]
pub(crate) fn stored_zero_points<S: Simd>(simd: S, w: &PackedRhs, panel: usize) -> S::I32 {
    let offset = simd.splat_i32(stored_offset(w.scheme().bits));
    match w.zero_points(panel) {
        None => offset,
        Some(values) => simd.add_i32(simd.widen_i8(&values[0]), offset),
    }
}

/// [`Simd::dot4`] or [`Simd::dot8`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn dot<S: Simd, const INT4: bool>(
    simd: S,
    acc: S::I32,
    x: *const u8,
    w: S::Bytes,
) -> S::I32 {
    // SAFETY: by this function's contract.
    unsafe { if INT4 { simd.dot4(acc, x, w) } else { simd.dot8(acc, x, w) } }
}

/// The read position in the operands, and the sums so far, for rows of one group.
struct TileCursor<S: Simd, const M: usize, const NP: usize> {
    /// The inputs that the next line multiplies.
    x: [*const u8; M],
    /// The next lines of each panel.
    lines: [*const u8; NP],
    /// Zero points of INT4 codes, repeated.
    zero_bytes: [S::Bytes; NP],
    /// Several sums for the same outputs. With few rows and panels a single one would wait for its own previous result.
    acc: [[[S::I32; NP]; M]; CHAINS],
}

impl<S: Simd, const M: usize, const NP: usize> TileCursor<S, M, NP> {
    /// Multiplies `COUNT` lines of each panel. Each line adds to its own sums.
    ///
    /// # Safety
    /// There must be as many lines, and inputs for them.
    #[inline(always)]
    unsafe fn lines<const COUNT: usize, const INT4: bool>(&mut self, simd: S) {
        let signed = INT4 && M >= SIGNED_ROWS;
        let is_wide = !INT4 && S::WIDE_INPUT8;
        let parts = if INT4 || is_wide { 2 } else { 1 };
        for number in 0..COUNT {
            let mut line = [simd.zero_bytes(); NP];
            for b in 0..NP {
                let at = self.lines[b].wrapping_add(number * LINE_BYTES);
                simd.prefetch(at.wrapping_add(S::PREFETCH_BYTES));
                // SAFETY: by this function's contract.
                line[b] = unsafe { simd.load_line(at) };
            }
            for part in 0..parts {
                let mut codes = [simd.zero_bytes(); NP];
                for b in 0..NP {
                    codes[b] = match (INT4, part) {
                        (false, _) => simd.operand8(line[b], part),
                        (true, 0) => simd.low_nibbles(line[b]),
                        (true, _) => simd.high_nibbles(line[b]),
                    };
                    if signed {
                        codes[b] = simd.sub_bytes(codes[b], self.zero_bytes[b]);
                    }
                }
                // With several lines at a time, the two parts of INT4 need separate sums too.
                let acc = &mut self.acc[(number * parts + part) % COUNT];
                for i in 0..M {
                    let x = self.x[i].wrapping_add(4 * (number * parts + part));
                    for b in 0..NP {
                        // SAFETY: by this function's contract; each part of a line multiplies one 32-bit word.
                        acc[i][b] = unsafe { dot::<S, INT4>(simd, acc[i][b], x, codes[b]) };
                    }
                }
            }
        }
        for b in 0..NP {
            self.lines[b] = self.lines[b].wrapping_add(COUNT * LINE_BYTES);
        }
        for i in 0..M {
            self.x[i] = self.x[i].wrapping_add(COUNT * parts * 4);
        }
    }
}
