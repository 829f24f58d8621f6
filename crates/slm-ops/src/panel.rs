//! The product of a few rows with a panel, the one loop that attention consists of.

use pulp::Simd;

/// Columns of a panel.
pub(crate) const PANEL: usize = 16;

/// `M` rows times `NP` panels, `out[i][n][j] = sum_k rows[i][k] * panels[n][k][j]`. A panel is `[depth, PANEL]`,
/// so that each step reads one run of it and one value of each row.
///
/// # Panics
/// When a row or a panel is shorter than `depth`.
#[inline(always)]
pub(crate) fn product<S: Simd, const M: usize, const NP: usize>(
    simd: S,
    depth: usize,
    rows: [&[f32]; M],
    panels: [&[f32]; NP],
) -> [[[f32; PANEL]; NP]; M] {
    let rows = rows.map(|row| &row[..depth]);
    let panels = panels.map(|panel| &panel.as_chunks::<PANEL>().0[..depth]);
    // The vectors of a panel's width; only one arm exists in the code for an instruction set.
    match S::F32_LANES {
        16 => accumulate::<S, M, NP, 1>(simd, depth, rows, panels),
        8 => accumulate::<S, M, NP, 2>(simd, depth, rows, panels),
        4 => accumulate::<S, M, NP, 4>(simd, depth, rows, panels),
        _ => accumulate_scalar(depth, rows, panels),
    }
}

#[inline(always)]
fn accumulate<S: Simd, const M: usize, const NP: usize, const V: usize>(
    simd: S,
    depth: usize,
    rows: [&[f32]; M],
    panels: [&[[f32; PANEL]]; NP],
) -> [[[f32; PANEL]; NP]; M] {
    let mut acc = [[[simd.splat_f32s(0.0); V]; NP]; M];
    for k in 0..depth {
        let mut b = [[simd.splat_f32s(0.0); V]; NP];
        for (b, panel) in b.iter_mut().zip(panels) {
            b.copy_from_slice(S::as_simd_f32s(&panel[k]).0);
        }
        for (acc, row) in acc.iter_mut().zip(rows) {
            let a = simd.splat_f32s(row[k]);
            for (acc, b) in acc.iter_mut().zip(&b) {
                for (acc, &b) in acc.iter_mut().zip(b) {
                    *acc = simd.mul_add_e_f32s(a, b, *acc);
                }
            }
        }
    }
    let mut out = [[[0.0; PANEL]; NP]; M];
    for (out, acc) in out.iter_mut().flatten().zip(acc.iter().flatten()) {
        S::as_mut_simd_f32s(out).0.copy_from_slice(acc);
    }
    out
}

#[inline(always)]
fn accumulate_scalar<const M: usize, const NP: usize>(
    depth: usize,
    rows: [&[f32]; M],
    panels: [&[[f32; PANEL]]; NP],
) -> [[[f32; PANEL]; NP]; M] {
    let mut out = [[[0.0; PANEL]; NP]; M];
    for k in 0..depth {
        for (out, row) in out.iter_mut().zip(rows) {
            for (out, panel) in out.iter_mut().zip(panels) {
                for (out, b) in out.iter_mut().zip(&panel[k]) {
                    *out += row[k] * b;
                }
            }
        }
    }
    out
}
