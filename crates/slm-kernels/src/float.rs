//! Float inputs times dequantized weights: *weight-only* quantization.
//!
//! Codes become floats in registers, their zero point is subtracted (both exact), and each group's sum is
//! scaled once at its end.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "a tile has a row and a panel on every side"
)]
use slm_quant_core::{Bits, Mapping};

use crate::lhs::FloatInputs;
use crate::macrokernel::GemmArgs;
use crate::packed_rhs::PackedRhs;
use crate::simd::{LINE_BYTES, Simd};
use crate::tile::Tile;
use crate::vector::store_biased_tile;

/// Panels that few rows are multiplied with side by side.
pub(crate) const PANELS_TOGETHER: usize = 4;

/// A product with float inputs.
pub(crate) struct FloatArgs<'a> {
    pub(crate) x: FloatInputs<'a>,
    pub(crate) w: &'a PackedRhs,
    pub(crate) out: Tile<'a, f32>,
    pub(crate) bias: Option<&'a [f32]>,
}

impl GemmArgs for FloatArgs<'_> {
    /// Floats are added in the order of columns.
    const SIDE_BY_SIDE: usize = PANELS_TOGETHER;

    fn is_grouped(&self) -> bool {
        false
    }

    #[inline(always)]
    fn microkernel<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
    ) {
        match (self.w.scheme().bits, self.w.scheme().mapping) {
            (Bits::Int8, Mapping::Affine) => self.tile::<S, M, NP, false, true>(simd, row, panels),
            (Bits::Int8, _) => self.tile::<S, M, NP, false, false>(simd, row, panels),
            (Bits::Int4, Mapping::Affine) => self.tile::<S, M, NP, true, true>(simd, row, panels),
            (Bits::Int4, _) => self.tile::<S, M, NP, true, false>(simd, row, panels),
        }
    }
}

/// Column `J` of a line: codes less zero points.
///
/// # Safety
/// `line` must be one of [`PackedRhs::panel_lines`].
#[inline(always)]
unsafe fn column<S: Simd, const J: usize, const INT4: bool, const AFFINE: bool>(
    simd: S,
    line: *const u8,
    zero_points: S::F32,
) -> S::F32 {
    // SAFETY: by this function's contract, which leaves a line before and after.
    let codes = unsafe { if INT4 { simd.nibble_to_f32::<J>(line) } else { simd.byte_to_f32::<J>(line) } };
    if AFFINE { simd.sub_f32(codes, zero_points) } else { codes }
}

/// Does the same with each column of a line: `$body` for `$column`, a constant.
macro_rules! for_each_column {
    ($int4:ident, $column:ident => $body:expr) => {
        for_each_column!(@ $column => $body; 0 1 2 3);
        if $int4 {
            for_each_column!(@ $column => $body; 4 5 6 7);
        }
    };
    (@ $column:ident => $body:expr; $($number:literal)*) => {
        $({
            const $column: usize = $number;
            $body
        })*
    };
}

impl FloatArgs<'_> {
    /// Zero points of a group as floats.
    #[inline(always)]
    fn zero_points<S: Simd>(&self, simd: S, panel: usize, group: usize) -> S::F32 {
        match self.w.zero_points(panel) {
            Some(values) => simd.to_f32(simd.widen_i8(&values[group])),
            None => simd.splat_f32(0.0),
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const M: usize, const NP: usize, const INT4: bool, const AFFINE: bool>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
    ) {
        let w = self.w;
        let mut x = self.x.rows::<M>(row);
        let mut lines = [std::ptr::null(); NP];
        for b in 0..NP {
            lines[b] = w.panel_lines(panels[b]);
        }
        let mut results = [[simd.splat_f32(0.0); NP]; M];
        for group in 0..w.groups_per_row() {
            let mut zero_points = [simd.splat_f32(0.0); NP];
            for b in 0..NP {
                zero_points[b] = self.zero_points(simd, panels[b], group);
            }
            let mut dot = [[simd.splat_f32(0.0); NP]; M];
            for _ in 0..w.steps(group) {
                for b in 0..NP {
                    simd.prefetch(lines[b].wrapping_add(S::PREFETCH_BYTES));
                }
                for_each_column!(INT4, J => {
                    let mut codes = [simd.splat_f32(0.0); NP];
                    for b in 0..NP {
                        // SAFETY: `lines[b]` starts at a panel's first line and advances one line a step; the steps of all
                        // groups are the lines of a panel.
                        codes[b] = unsafe { column::<S, J, INT4, AFFINE>(simd, lines[b], zero_points[b]) };
                    }
                    for i in 0..M {
                        // SAFETY: an input row holds as many floats as a panel has columns, padding included, and `x`
                        // advances by the columns of a line.
                        let x = simd.splat_f32(unsafe { *x[i].wrapping_add(J) });
                        for b in 0..NP {
                            dot[i][b] = simd.fma_f32(x, codes[b], dot[i][b]);
                        }
                    }
                });
                for b in 0..NP {
                    lines[b] = lines[b].wrapping_add(LINE_BYTES);
                }
                for x in &mut x {
                    *x = x.wrapping_add(if INT4 { 8 } else { 4 });
                }
            }
            self.scale(simd, panels, group, &dot, &mut results);
        }
        store_biased_tile(simd, &self.out, w.rows(), self.bias, row, panels, results);
    }

    /// Adds a group's scaled sums.
    #[inline(always)]
    fn scale<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        panels: [usize; NP],
        group: usize,
        dot: &[[S::F32; NP]; M],
        results: &mut [[S::F32; NP]; M],
    ) {
        for b in 0..NP {
            let scale = self.w.scales(panels[b]).load(simd, group);
            for i in 0..M {
                results[i][b] = simd.fma_f32(dot[i][b], scale, results[i][b]);
            }
        }
    }
}
