//! Products of a few rows of floats with panels of keys and values, which attention consists of.
//!
//! A panel is `[depth, 16]`: each step reads one run of it and one value of each row. Every sum adds its products in order,
//! each by a fused multiply-add, so that all kernels give the same bits and rows do not depend on each other.

#![allow(clippy::needless_range_loop, reason = "a tile has a row and a panel on every side")]

use crate::KernelKind;
use crate::float_matrix::{FloatElement, FloatValues, with_values};
use crate::isa::{Isa, with_isa};
use crate::simd::{LANES, Simd};
use crate::vectorize::Op;

/// Most rows that are multiplied together.
pub const PANEL_ROWS: usize = 6;

/// Width of a panel.
pub const PANEL_WIDTH: usize = LANES;

/// Panels that a product reads.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    /// All of them, and what lies between.
    pub values: FloatValues<'a>,
    /// Number of panels.
    pub count: usize,
    /// Values from one panel to the next.
    pub stride: usize,
    /// Runs of 16 values that are read of each.
    pub depth: usize,
}

/// `out[i, 16 n + j] = sum_k rows[i][k] * panel_n[k, j]` for up to [`PANEL_ROWS`] rows.
///
/// # Shapes
/// - each of `rows`: at least `depth` values
/// - `out`: `[rows.len(), out_stride]`, of which the first `16 * count` columns are written
///
/// # Panics
/// When lengths do not fit or there are more rows. `kernel` is the scalar one where this processor lacks another.
pub fn multiply_panels(
    kernel: KernelKind,
    rows: &[&[f32]],
    panels: Panels<'_>,
    out: &mut [f32],
    out_stride: usize,
) {
    let Panels { values, count, stride, depth } = panels;
    if count == 0 || rows.is_empty() {
        return;
    }
    let end = (count - 1).checked_mul(stride).and_then(|start| start.checked_add(depth.checked_mul(LANES)?));
    assert!(end.is_some_and(|end| end <= values.len()), "panels: more than there are values");
    assert!(rows.len() <= PANEL_ROWS && rows.iter().all(|row| row.len() >= depth), "panels: rows do not fit");
    let width = count * LANES;
    assert!(
        out_stride >= width && out.len() >= (rows.len() - 1) * out_stride + width,
        "panels: size of the result"
    );
    with_values!(values, values => {
        let product = PanelMatmul { rows, values, count, stride, depth, out, out_stride };
        match Isa::new(kernel) {
            Some(isa) => with_isa!(isa, simd => simd.vectorize(Vectors { simd, product })),
            None => product.scalar(),
        }
    });
}

/// Writes 16-bit floats as 32-bit ones.
///
/// # Panics
/// When lengths differ.
pub fn widen(kernel: KernelKind, from: FloatValues<'_>, to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "widen: lengths differ");
    with_values!(from, from => match Isa::new(kernel) {
        Some(isa) => with_isa!(isa, simd => simd.vectorize(Widen { simd, from, to })),
        None => to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen()),
    });
}

struct Widen<'a, S, E> {
    simd: S,
    from: &'a [E],
    to: &'a mut [f32],
}

impl<S: Simd, E: FloatElement> Op for Widen<'_, S, E> {
    #[inline(always)]
    fn run(self) {
        let (from, from_rest) = self.from.as_chunks::<LANES>();
        let (to, to_rest) = self.to.as_chunks_mut::<LANES>();
        for (from, to) in from.iter().zip(to) {
            self.simd.store_f32(E::load(self.simd, from), to);
        }
        for (from, to) in from_rest.iter().zip(to_rest) {
            *to = from.widen();
        }
    }
}

/// Operands of a product whose lengths fit.
struct PanelMatmul<'a, E> {
    rows: &'a [&'a [f32]],
    values: &'a [E],
    count: usize,
    stride: usize,
    depth: usize,
    out: &'a mut [f32],
    out_stride: usize,
}

impl<E: FloatElement> PanelMatmul<'_, E> {
    fn scalar(self) {
        for (i, row) in self.rows.iter().enumerate() {
            for n in 0..self.count {
                let (panel, _) = self.values[n * self.stride..][..self.depth * LANES].as_chunks::<LANES>();
                let mut sums = [0.0f32; LANES];
                for (x, panel) in row.iter().zip(panel) {
                    for (sum, value) in sums.iter_mut().zip(panel) {
                        *sum = x.mul_add(value.widen(), *sum);
                    }
                }
                self.out[i * self.out_stride + n * LANES..][..LANES].copy_from_slice(&sums);
            }
        }
    }

    /// All panels, with as many at once as registers hold sums of.
    #[inline(always)]
    fn all<S: Simd, const M: usize>(&mut self, simd: S) {
        let mut n = 0;
        if S::VECTORS >= 32 || M == 1 {
            n = self.from::<S, M, 4>(simd, n);
        }
        if S::VECTORS >= 32 || M <= 3 {
            n = self.from::<S, M, 2>(simd, n);
        }
        self.from::<S, M, 1>(simd, n);
    }

    /// Panels from `n` on, `NP` at a time. Returns the first that is left over.
    #[inline(always)]
    fn from<S: Simd, const M: usize, const NP: usize>(&mut self, simd: S, mut n: usize) -> usize {
        let mut rows: [&[f32]; M] = [&[]; M];
        for i in 0..M {
            rows[i] = &self.rows[i][..self.depth];
        }
        while n + NP <= self.count {
            let mut panels: [&[[E; LANES]]; NP] = [&[]; NP];
            for b in 0..NP {
                panels[b] = &self.values[(n + b) * self.stride..].as_chunks::<LANES>().0[..self.depth];
            }
            let mut acc = [[simd.splat_f32(0.0); NP]; M];
            for k in 0..self.depth {
                let mut values = [simd.splat_f32(0.0); NP];
                for b in 0..NP {
                    values[b] = E::load(simd, &panels[b][k]);
                }
                for i in 0..M {
                    let x = simd.splat_f32(rows[i][k]);
                    for b in 0..NP {
                        acc[i][b] = simd.fma_f32(x, values[b], acc[i][b]);
                    }
                }
            }
            for i in 0..M {
                let (out, _) = self.out[i * self.out_stride + n * LANES..].as_chunks_mut::<LANES>();
                for b in 0..NP {
                    simd.store_f32(acc[i][b], &mut out[b]);
                }
            }
            n += NP;
        }
        n
    }
}

struct Vectors<'a, S, E> {
    simd: S,
    product: PanelMatmul<'a, E>,
}

impl<S: Simd, E: FloatElement> Op for Vectors<'_, S, E> {
    #[inline(always)]
    fn run(mut self) {
        match self.product.rows.len() {
            1 => self.product.all::<S, 1>(self.simd),
            2 => self.product.all::<S, 2>(self.simd),
            3 => self.product.all::<S, 3>(self.simd),
            4 => self.product.all::<S, 4>(self.simd),
            5 => self.product.all::<S, 5>(self.simd),
            _ => self.product.all::<S, PANEL_ROWS>(self.simd),
        }
    }
}
