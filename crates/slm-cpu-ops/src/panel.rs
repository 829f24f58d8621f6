//! The product of a few rows with a panel, the inner loop of attention.

use pulp::Simd;

/// Number of columns of a panel.
pub(crate) const PANEL: usize = 16;

/// `M` rows of the left matrix of a product.
pub(crate) trait Rows<const M: usize>: Copy {
    /// The first `depth` columns. Tells the compiler the bounds of `at`.
    fn truncate(self, depth: usize) -> Self;

    /// The value at row `i`, column `k`.
    fn at(self, i: usize, k: usize) -> f32;
}

/// Rows anywhere in memory, each contiguous.
impl<const M: usize> Rows<M> for [&[f32]; M] {
    #[inline(always)]
    fn truncate(mut self, depth: usize) -> Self {
        for row in &mut self {
            *row = &row[..depth];
        }
        self
    }

    #[inline(always)]
    fn at(self, i: usize, k: usize) -> f32 {
        self[i][k]
    }
}

/// Multiplies `M` rows with `NP` panels: `out[i][n][j] = sum_k rows[i][k] * panels[n][k][j]`. A panel is
/// `[depth, PANEL]`, so that each step reads one run of it and one value of each row.
///
/// # Panics
/// If a row or a panel is shorter than `depth`.
#[inline(always)]
pub(crate) fn product<S: Simd, const M: usize, const NP: usize>(
    simd: S,
    depth: usize,
    rows: impl Rows<M>,
    panels: [&[f32]; NP],
) -> [[[f32; PANEL]; NP]; M] {
    let rows = rows.truncate(depth);
    let mut chunks: [&[[f32; PANEL]]; NP] = [&[]; NP];
    for n in 0..NP {
        chunks[n] = &panels[n].as_chunks::<PANEL>().0[..depth];
    }
    let panels = chunks;
    // The number of vectors in a panel's width. Only one arm is compiled for an instruction set.
    match S::F32_LANES {
        16 => accumulate::<S, M, NP, 1>(simd, depth, rows, panels),
        8 => accumulate::<S, M, NP, 2>(simd, depth, rows, panels),
        4 => accumulate::<S, M, NP, 4>(simd, depth, rows, panels),
        _ => accumulate_scalar(depth, rows, panels),
    }
}

// Loops over indices are unrolled early; through iterators the compiler keeps some sums in memory.
#[allow(clippy::needless_range_loop, clippy::manual_memcpy)]
#[inline(always)]
fn accumulate<S: Simd, const M: usize, const NP: usize, const V: usize>(
    simd: S,
    depth: usize,
    rows: impl Rows<M>,
    panels: [&[[f32; PANEL]]; NP],
) -> [[[f32; PANEL]; NP]; M] {
    let mut acc = [[[simd.splat_f32s(0.0); V]; NP]; M];
    for k in 0..depth {
        let mut b = [[simd.splat_f32s(0.0); V]; NP];
        for n in 0..NP {
            let vectors = S::as_simd_f32s(&panels[n][k]).0;
            for v in 0..V {
                b[n][v] = vectors[v];
            }
        }
        for i in 0..M {
            let a = simd.splat_f32s(rows.at(i, k));
            for n in 0..NP {
                for v in 0..V {
                    acc[i][n][v] = simd.mul_add_e_f32s(a, b[n][v], acc[i][n][v]);
                }
            }
        }
    }
    let mut out = [[[0.0; PANEL]; NP]; M];
    for i in 0..M {
        for n in 0..NP {
            let vectors = S::as_mut_simd_f32s(&mut out[i][n]).0;
            for v in 0..V {
                vectors[v] = acc[i][n][v];
            }
        }
    }
    out
}

#[inline(always)]
fn accumulate_scalar<const M: usize, const NP: usize>(
    depth: usize,
    rows: impl Rows<M>,
    panels: [&[[f32; PANEL]]; NP],
) -> [[[f32; PANEL]; NP]; M] {
    let mut out = [[[0.0; PANEL]; NP]; M];
    for k in 0..depth {
        for (i, out) in out.iter_mut().enumerate() {
            for (out, panel) in out.iter_mut().zip(panels) {
                for (out, b) in out.iter_mut().zip(&panel[k]) {
                    *out += rows.at(i, k) * b;
                }
            }
        }
    }
    out
}
