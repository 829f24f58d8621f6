//! The inner loop of float products: rows of input times weights that are stored column by column, one output to a
//! lane.

#![allow(clippy::needless_range_loop, reason = "a tile has a row and a panel on every side")]

use crate::simd::{LINE_BYTES, Simd};

/// Prefetch distance for panels, which lie in the second-level cache.
const PREFETCH_BYTES: usize = 512;

/// Adds to `acc` the products of `count` columns of `M` rows and `NP` panels, in order.
///
/// # Safety
/// Each of `x` must be readable for `count` floats, and each of `panels` for as many lines, aligned to a line.
#[inline(always)]
pub(crate) unsafe fn add_columns<S: Simd, const M: usize, const NP: usize>(
    simd: S,
    x: [*const f32; M],
    panels: [*const u8; NP],
    count: usize,
    acc: &mut [[S::F32; NP]; M],
) {
    for k in 0..count {
        let mut w = [simd.splat_f32(0.0); NP];
        for b in 0..NP {
            simd.prefetch(panels[b].wrapping_add(k * LINE_BYTES + PREFETCH_BYTES));
            // SAFETY: by this function's contract; a line is 16 floats.
            w[b] = simd.load_f32(unsafe { &*panels[b].wrapping_add(k * LINE_BYTES).cast() });
        }
        for i in 0..M {
            // SAFETY: by this function's contract.
            let x = simd.splat_f32(unsafe { *x[i].wrapping_add(k) });
            for b in 0..NP {
                acc[i][b] = simd.fma_f32(x, w[b], acc[i][b]);
            }
        }
    }
}
