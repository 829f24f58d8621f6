//! The forward pass of causal attention over whole sequences.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::causal::{
    CausalScratch, CausalShape, Rotation, RowStatistics, TILE, gather, pack_columns, pack_transposed,
};
use crate::dispatch::vectorize;
use crate::exp::exp_scalar;
use crate::lanes;
use crate::panel::{PANEL, product};

/// Computes `softmax(scale q K^T) V` for the query heads that share a KV head, at positions `0 .. len`. Queries and
/// keys are rotated first if a `rotation` is given.
///
/// # Shapes
/// A row for each position:
/// - `q`, `out`: rows of `[group, head_dim]`
/// - `k`, `v`: rows of `[head_dim]`
/// - `stats`: `[group, len]`, for the backward pass
///
/// # Panics
/// If lengths do not fit.
pub fn causal_attention(
    shape: &CausalShape,
    rotation: Option<Rotation<'_>>,
    [q, k, v]: [&[&[f32]]; 3],
    out: &mut [&mut [f32]],
    stats: &mut [RowStatistics],
    scratch: &mut CausalScratch,
) {
    let CausalShape { len, group, head_dim, .. } = *shape;
    shape.check(rotation, stats.len());
    let fits = q.len() == len && k.len() == len && v.len() == len && out.len() == len;
    assert!(fits, "causal attention: number of rows");
    assert!(out.iter().all(|row| row.len() == group * head_dim), "causal attention: width of a row");
    gather(q.iter().copied(), head_dim, group, rotation, &mut scratch.q);
    gather(k.iter().copied(), head_dim, 1, rotation, &mut scratch.k);
    pack_transposed(scratch.k.chunks_exact(head_dim), head_dim, &mut scratch.keys);
    pack_columns(v.iter().copied(), head_dim, &mut scratch.values);
    scratch.scores.resize(TILE * len.next_multiple_of(PANEL), 0.0);
    vectorize(Forward { shape, out, stats, scratch });
}

struct Forward<'a, 'b> {
    shape: &'a CausalShape,
    out: &'a mut [&'b mut [f32]],
    stats: &'a mut [RowStatistics],
    scratch: &'a mut CausalScratch,
}

impl WithSimd for Forward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for head in 0..self.shape.group {
            for rows in CausalShape::tiles(0..self.shape.len) {
                match rows.len() {
                    1 => self.tile::<S, 1>(simd, head, rows),
                    2 => self.tile::<S, 2>(simd, head, rows),
                    3 => self.tile::<S, 3>(simd, head, rows),
                    4 => self.tile::<S, 4>(simd, head, rows),
                    5 => self.tile::<S, 5>(simd, head, rows),
                    _ => self.tile::<S, TILE>(simd, head, rows),
                }
            }
        }
    }
}

impl Forward<'_, '_> {
    #[inline(always)]
    fn tile<S: Simd, const M: usize>(&mut self, simd: S, head: usize, rows: Range<usize>) {
        let CausalShape { len, head_dim, .. } = *self.shape;
        let (from, to, length) = self.shape.span(&rows);
        let CausalScratch { q, keys, values, scores, .. } = &mut *self.scratch;
        let first = (head * len + rows.start) * head_dim;
        score_tile::<S, M>(simd, head_dim, &q[first..], keys, from, length, scores);

        let scale = self.shape.scale;
        for (i, row) in scores[..M * length].chunks_exact_mut(length).enumerate() {
            let (start, end) = (self.shape.first_seen(rows.start + i) - from, rows.start + i + 1 - from);
            row[..start].fill(0.0);
            row[end..].fill(0.0);
            let row = &mut row[start..end];
            let max = lanes::max(row);
            row.iter_mut().for_each(|score| *score = exp_scalar((*score - max) * scale));
            self.stats[head * len + rows.start + i] = RowStatistics { max, factor: 1.0 / lanes::sum(row) };
        }

        let weights = tile_rows::<M>(scores, length);
        for panel in 0..head_dim.div_ceil(PANEL) {
            let values = &values[(panel * len + from) * PANEL..(panel * len + to) * PANEL];
            let sums = product::<S, M, 1>(simd, to - from, weights, [values]);
            let count = PANEL.min(head_dim - panel * PANEL);
            for (i, [sums]) in sums.iter().enumerate() {
                let factor = self.stats[head * len + rows.start + i].factor;
                let out = &mut self.out[rows.start + i][head * head_dim + panel * PANEL..][..count];
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * factor);
            }
        }
    }
}

/// Multiplies `M` consecutive rows with the panels from position `from` on: `[M, length]`.
#[inline(always)]
pub(crate) fn score_tile<S: Simd, const M: usize>(
    simd: S,
    head_dim: usize,
    rows: &[f32],
    panels: &[f32],
    from: usize,
    length: usize,
    scores: &mut [f32],
) {
    let rows = tile_rows::<M>(rows, head_dim);
    for panel in 0..length / PANEL {
        let at = (from / PANEL + panel) * head_dim * PANEL;
        let sums = product::<S, M, 1>(simd, head_dim, rows, [&panels[at..][..head_dim * PANEL]]);
        for (i, [sums]) in sums.iter().enumerate() {
            scores[i * length + panel * PANEL..][..PANEL].copy_from_slice(sums);
        }
    }
}

/// The first `M` rows of a row-major matrix.
#[inline(always)]
pub(crate) fn tile_rows<const M: usize>(data: &[f32], width: usize) -> [&[f32]; M] {
    let mut rows: [&[f32]; M] = [&[]; M];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = &data[i * width..][..width];
    }
    rows
}
