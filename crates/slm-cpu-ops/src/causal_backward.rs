//! The backward pass of causal attention over whole sequences.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::causal::{
    CausalScratch, CausalShape, PanelColumns, Rotation, RowStatistics, TILE, gather, pack_columns,
    pack_transposed, turn_back,
};
use crate::causal_forward::{score_tile, tile_rows};
use crate::dispatch::vectorize;
use crate::exp::exp_scalar;
use crate::lanes;
use crate::panel::{PANEL, Rows, product};

/// Number of queries whose weights are kept at once. Their contributions to the gradients of keys and values are summed
/// in registers.
const BLOCK: usize = 16 * TILE;

/// Working memory of the backward pass.
#[derive(Debug, Default)]
pub(crate) struct GradientScratch {
    /// Gradient of the output, `[group, len, head_dim]`.
    grad: Vec<f32>,
    /// The output, in the same shape.
    out: Vec<f32>,
    /// Rotated keys, `[head_dim / 16, len, 16]`.
    key_columns: Vec<f32>,
    /// Values, transposed: `[len / 16, head_dim, 16]`.
    values_transposed: Vec<f32>,
    /// Rotated queries and gradient of the output of one head, `[head_dim / 16, len, 16]`.
    q_columns: Vec<f32>,
    grad_columns: Vec<f32>,
    /// Gradient of a tile's weights, then of its scores.
    score_grads: Vec<f32>,
    /// Weights of a block of queries and the gradients of their scores, `[len / 16, BLOCK, 16]`.
    weights: Vec<[f32; PANEL]>,
    weight_grads: Vec<[f32; PANEL]>,
    /// Gradients of the rotated queries, `[group, len, head_dim]`.
    by_q: Vec<f32>,
    /// Gradients of the rotated keys and of the values, `[head_dim / 16, len, 16]` with `len` in whole panels.
    by_k: Vec<[f32; PANEL]>,
    by_v: Vec<[f32; PANEL]>,
}

/// Backward pass of [`causal_attention`](crate::causal_attention): `inputs` hold q, k and v and receive their
/// gradients.
///
/// The scores are recomputed, a few rows at a time (Dao and others, 2022, arXiv:2205.14135).
///
/// # Shapes
/// Those of the forward pass; `grad` is that of `out`.
///
/// # Panics
/// If lengths do not fit.
pub fn causal_attention_backward(
    shape: &CausalShape,
    rotation: Option<Rotation<'_>>,
    inputs: [&mut [&mut [f32]]; 3],
    out: &[&[f32]],
    grad: &[&[f32]],
    stats: &[RowStatistics],
    scratch: &mut CausalScratch,
) {
    let CausalShape { len, group, head_dim, .. } = *shape;
    let [q, k, v] = inputs;
    shape.check(rotation, stats.len());
    let fits = q.len() == len && k.len() == len && v.len() == len && out.len() == len && grad.len() == len;
    assert!(fits, "causal attention: number of rows");
    gather(q.iter().map(|row| &**row), head_dim, group, rotation, &mut scratch.q);
    gather(k.iter().map(|row| &**row), head_dim, 1, rotation, &mut scratch.k);
    pack_transposed(scratch.k.chunks_exact(head_dim), head_dim, &mut scratch.keys);
    let gradient = &mut scratch.gradient;
    gather(grad.iter().copied(), head_dim, group, None, &mut gradient.grad);
    gather(out.iter().copied(), head_dim, group, None, &mut gradient.out);
    pack_columns(scratch.k.chunks_exact(head_dim), head_dim, &mut gradient.key_columns);
    pack_transposed(v.iter().map(|row| &**row), head_dim, &mut gradient.values_transposed);
    let padded = len.next_multiple_of(PANEL);
    scratch.scores.resize(TILE * padded, 0.0);
    gradient.score_grads.resize(TILE * padded, 0.0);
    gradient.weights.resize(padded / PANEL * BLOCK, [0.0; PANEL]);
    gradient.weight_grads.resize(padded / PANEL * BLOCK, [0.0; PANEL]);
    gradient.by_q.resize(group * len * head_dim, 0.0);
    for sums in [&mut gradient.by_k, &mut gradient.by_v] {
        sums.clear();
        sums.resize(head_dim.div_ceil(PANEL) * padded, [0.0; PANEL]);
    }
    for head in 0..group {
        let part = head * len * head_dim..(head + 1) * len * head_dim;
        let gradient = &mut scratch.gradient;
        pack_columns(scratch.q[part.clone()].chunks_exact(head_dim), head_dim, &mut gradient.q_columns);
        pack_columns(gradient.grad[part].chunks_exact(head_dim), head_dim, &mut gradient.grad_columns);
        vectorize(Backward { shape, head, stats, scratch });
    }
    let gradient = &scratch.gradient;
    for (position, row) in q.iter_mut().enumerate() {
        for (head, out) in row.chunks_exact_mut(head_dim).enumerate() {
            out.copy_from_slice(&gradient.by_q[(head * len + position) * head_dim..][..head_dim]);
            turn_back(out, position, rotation);
        }
    }
    for (position, (k, v)) in k.iter_mut().zip(v).enumerate() {
        for (panel, (k, v)) in k.chunks_mut(PANEL).zip(v.chunks_mut(PANEL)).enumerate() {
            k.copy_from_slice(&gradient.by_k[panel * padded + position][..k.len()]);
            v.copy_from_slice(&gradient.by_v[panel * padded + position][..v.len()]);
        }
        turn_back(k, position, rotation);
    }
}

struct Backward<'a> {
    shape: &'a CausalShape,
    head: usize,
    stats: &'a [RowStatistics],
    scratch: &'a mut CausalScratch,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let len = self.shape.len;
        for start in (0..len).step_by(BLOCK) {
            let block = start..(start + BLOCK).min(len);
            for rows in CausalShape::tiles(block.clone()) {
                match rows.len() {
                    1 => self.tile::<S, 1>(simd, start, rows),
                    2 => self.tile::<S, 2>(simd, start, rows),
                    3 => self.tile::<S, 3>(simd, start, rows),
                    4 => self.tile::<S, 4>(simd, start, rows),
                    5 => self.tile::<S, 5>(simd, start, rows),
                    _ => self.tile::<S, TILE>(simd, start, rows),
                }
            }
            self.keys_and_values(simd, block);
        }
    }
}

impl Backward<'_> {
    /// Computes the weights of some queries, the gradients of their scores, and the gradients of these queries.
    #[inline(always)]
    fn tile<S: Simd, const M: usize>(&mut self, simd: S, block_start: usize, rows: Range<usize>) {
        let CausalShape { len, head_dim, .. } = *self.shape;
        let (from, to, length) = self.shape.span(&rows);
        let CausalScratch { q, keys, scores, gradient, .. } = &mut *self.scratch;
        let first = self.head * len + rows.start;
        let at = first * head_dim..(first + M) * head_dim;
        let (grad, out) = (&gradient.grad[at.clone()], &gradient.out[at.clone()]);
        let score_grads = &mut gradient.score_grads;
        score_tile::<S, M>(simd, head_dim, &q[at.clone()], keys, from, length, scores);
        score_tile::<S, M>(simd, head_dim, grad, &gradient.values_transposed, from, length, score_grads);

        let scale = self.shape.scale;
        for i in 0..M {
            let (start, end) = (self.shape.first_seen(rows.start + i) - from, rows.start + i + 1 - from);
            let weights = &mut scores[i * length..(i + 1) * length];
            let grads = &mut score_grads[i * length..(i + 1) * length];
            for row in [&mut *weights, &mut *grads] {
                row[..start].fill(0.0);
                row[end..].fill(0.0);
            }
            let RowStatistics { max, factor } = self.stats[first + i];
            let part = i * head_dim..(i + 1) * head_dim;
            let mean = lanes::dot(&grad[part.clone()], &out[part]);
            for (weight, grad) in weights[start..end].iter_mut().zip(&mut grads[start..end]) {
                *weight = exp_scalar((*weight - max) * scale) * factor;
                *grad = *weight * (*grad - mean) * scale;
            }
        }

        let grads = tile_rows::<M>(score_grads, length);
        for panel in 0..head_dim.div_ceil(PANEL) {
            let keys = &gradient.key_columns[(panel * len + from) * PANEL..(panel * len + to) * PANEL];
            let sums = product::<S, M, 1>(simd, to - from, grads, [keys]);
            let count = PANEL.min(head_dim - panel * PANEL);
            for (i, [sums]) in sums.iter().enumerate() {
                let by_q = &mut gradient.by_q[(first + i) * head_dim + panel * PANEL..][..count];
                by_q.copy_from_slice(&sums[..count]);
            }
        }

        for (kept, row_major) in
            [(&mut gradient.weights, &*scores), (&mut gradient.weight_grads, &*score_grads)]
        {
            for (i, row) in row_major[..M * length].chunks_exact(length).enumerate() {
                for (panel, values) in row.as_chunks::<PANEL>().0.iter().enumerate() {
                    kept[(from / PANEL + panel) * BLOCK + rows.start + i - block_start] = *values;
                }
            }
        }
    }

    /// Adds the contribution of a block of queries to the gradients of all keys and values that they attend to.
    #[inline(always)]
    fn keys_and_values<S: Simd>(&mut self, simd: S, block: Range<usize>) {
        let CausalShape { len, head_dim, .. } = *self.shape;
        let padded = len.next_multiple_of(PANEL);
        let (first_panel, ..) = self.shape.span(&(block.start..block.start + 1));
        let gradient = &mut self.scratch.gradient;
        for panel in first_panel / PANEL..block.end.div_ceil(PANEL) {
            // A tile either attends to this whole panel or to none of it.
            let sees = |rows: &Range<usize>| {
                let (from, _, length) = self.shape.span(rows);
                (from / PANEL..(from + length) / PANEL).contains(&panel)
            };
            let mut seeing = CausalShape::tiles(block.clone()).filter(sees);
            let Some(first) = seeing.next() else { continue };
            let rows = first.start..seeing.last().unwrap_or(first).end;
            let kept = panel * BLOCK + rows.start - block.start..panel * BLOCK + rows.end - block.start;
            for (kept, columns, sums) in [
                (&gradient.weights[kept.clone()], &gradient.grad_columns, &mut gradient.by_v),
                (&gradient.weight_grads[kept.clone()], &gradient.q_columns, &mut gradient.by_k),
            ] {
                for column in 0..head_dim.div_ceil(PANEL) {
                    let columns = &columns[(column * len + rows.start) * PANEL..][..rows.len() * PANEL];
                    let sums = &mut sums[column * padded + panel * PANEL..][..PANEL];
                    add_product(simd, PanelColumns::<0>(kept), columns, &mut sums[0..4]);
                    add_product(simd, PanelColumns::<4>(kept), columns, &mut sums[4..8]);
                    add_product(simd, PanelColumns::<8>(kept), columns, &mut sums[8..12]);
                    add_product(simd, PanelColumns::<12>(kept), columns, &mut sums[12..16]);
                }
            }
        }
    }
}

#[inline(always)]
fn add_product<S: Simd>(simd: S, rows: impl Rows<4>, columns: &[f32], out: &mut [[f32; PANEL]]) {
    let sums = product::<S, 4, 1>(simd, columns.len() / PANEL, rows, [columns]);
    for (out, [sums]) in out.iter_mut().zip(&sums) {
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
    }
}

#[cfg(test)]
#[path = "causal_tests.rs"]
mod tests;
