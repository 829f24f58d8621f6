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
use crate::vector::{load_lanes, store_tile};

/// A product with float inputs.
pub(crate) struct FloatArgs<'a> {
    pub(crate) x: FloatInputs<'a>,
    pub(crate) w: &'a PackedRhs,
    pub(crate) out: Tile<'a, f32>,
    pub(crate) bias: Option<&'a [f32]>,
}

impl GemmArgs for FloatArgs<'_> {
    /// Floats are added in the order of columns.
    const SIDE_BY_SIDE: bool = true;

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

/// Adds the products of column `J` of `NP` lines with `M` rows of input.
///
/// # Safety
/// The inputs must be readable at `J`.
#[inline(always)]
unsafe fn column<
    S: Simd,
    const M: usize,
    const NP: usize,
    const J: u32,
    const INT4: bool,
    const AFFINE: bool,
>(
    simd: S,
    x: [*const f32; M],
    line: &[S::Bytes; NP],
    zero_points: &[S::F32; NP],
    dot: &mut [[S::F32; NP]; M],
) {
    let mut code = [simd.splat_f32(0.0); NP];
    for b in 0..NP {
        code[b] = if INT4 { simd.nibble_to_f32::<J>(line[b]) } else { simd.byte_to_f32::<J>(line[b]) };
        if AFFINE {
            code[b] = simd.sub_f32(code[b], zero_points[b]);
        }
    }
    for i in 0..M {
        // SAFETY: by this function's contract.
        let x = simd.splat_f32(unsafe { *x[i].wrapping_add(J as usize) });
        for b in 0..NP {
            dot[i][b] = simd.fma_f32(x, code[b], dot[i][b]);
        }
    }
}

impl FloatArgs<'_> {
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const NP: usize, const INT4: bool, const AFFINE: bool>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
    ) {
        let w = self.w;
        let mut x = [std::ptr::null(); M];
        for i in 0..M {
            x[i] = self.x.row(row + i);
        }
        let mut lines = [std::ptr::null(); NP];
        for b in 0..NP {
            lines[b] = w.panel_lines(panels[b]);
        }
        let mut results = [[simd.splat_f32(0.0); NP]; M];
        for group in 0..w.groups_per_row() {
            let mut zero_points = [simd.splat_f32(0.0); NP];
            for b in 0..NP {
                if let Some(values) = w.zero_points(panels[b]) {
                    zero_points[b] = simd.to_f32(simd.widen_i8(&values[group]));
                }
            }
            let mut dot = [[simd.splat_f32(0.0); NP]; M];
            for _ in 0..w.steps(group) {
                let mut line = [simd.zero_bytes(); NP];
                for b in 0..NP {
                    simd.prefetch(lines[b].wrapping_add(S::PREFETCH_BYTES));
                    // SAFETY: `lines[b]` starts at a panel's first line and advances one line a step; the
                    // steps of all groups are the lines of a panel.
                    line[b] = unsafe { simd.load_line(lines[b]) };
                    lines[b] = lines[b].wrapping_add(LINE_BYTES);
                }
                // SAFETY: an input row holds as many floats as a panel has columns, padding included, and
                // `x` advances by the columns of a line.
                unsafe {
                    column::<S, M, NP, 0, INT4, AFFINE>(simd, x, &line, &zero_points, &mut dot);
                    column::<S, M, NP, 1, INT4, AFFINE>(simd, x, &line, &zero_points, &mut dot);
                    column::<S, M, NP, 2, INT4, AFFINE>(simd, x, &line, &zero_points, &mut dot);
                    column::<S, M, NP, 3, INT4, AFFINE>(simd, x, &line, &zero_points, &mut dot);
                    if INT4 {
                        column::<S, M, NP, 4, INT4, AFFINE>(simd, x, &line, &zero_points, &mut dot);
                        column::<S, M, NP, 5, INT4, AFFINE>(simd, x, &line, &zero_points, &mut dot);
                        column::<S, M, NP, 6, INT4, AFFINE>(simd, x, &line, &zero_points, &mut dot);
                        column::<S, M, NP, 7, INT4, AFFINE>(simd, x, &line, &zero_points, &mut dot);
                    }
                }
                for x in &mut x {
                    *x = x.wrapping_add(if INT4 { 8 } else { 4 });
                }
            }
            for b in 0..NP {
                let scale = w.scales(panels[b]).load(simd, group);
                for i in 0..M {
                    results[i][b] = simd.fma_f32(dot[i][b], scale, results[i][b]);
                }
            }
        }
        for b in 0..NP {
            let bias = load_lanes(simd, self.bias, panels[b]);
            for i in 0..M {
                results[i][b] = simd.add_f32(results[i][b], bias);
            }
        }
        store_tile(simd, &self.out, w.rows(), row, panels, &results);
    }
}
