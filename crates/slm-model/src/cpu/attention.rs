//! Attention on slices.

use std::ops::Range;

use slm_cpu_ops::{AttentionScratch, Queries, rotate};

use super::cache::LayerCache;
use super::compute::Span;
use super::norm::CpuNorm;
use super::parallel::{for_each_part, rows_per_part};
use crate::compute::HeadShape;
use crate::rotary::Angles;

/// Multiplications below which one row's attention runs on one thread: a few microseconds, most of which keys and
/// values take to arrive.
const SERIAL_PRODUCTS: usize = 1 << 13;

/// Rows of a part of attention come in multiples of what attention handles together.
const ROW_TILE: usize = 6;

/// The attention of one layer in one pass.
pub(super) struct CpuAttention<'a> {
    pub(super) shape: HeadShape,
    pub(super) window: Option<usize>,
    pub(super) scale: Option<f64>,
    pub(super) angles: Option<&'a Angles>,
    pub(super) q_norm: Option<&'a CpuNorm>,
    pub(super) k_norm: Option<&'a CpuNorm>,
}

impl CpuAttention<'_> {
    /// Normalizes and rotates `rows` rows of queries and keys.
    pub(super) fn place(&self, q: &mut [f32], k: &mut [f32], rows: usize) {
        if self.angles.is_none() && self.q_norm.is_none() && self.k_norm.is_none() {
            return;
        }
        let (q_width, k_width) = (q.len() / rows, k.len() / rows);
        let part = rows_per_part(rows, q_width);
        let parts = q.chunks_mut(part * q_width).zip(k.chunks_mut(part * k_width)).enumerate();
        for_each_part(parts, |(index, (q, k))| {
            for (heads, norm, width) in [(q, self.q_norm, q_width), (k, self.k_norm, k_width)] {
                if let Some(norm) = norm {
                    norm.normalize_heads(heads);
                }
                if let Some(angles) = self.angles {
                    for (row, heads) in heads.chunks_exact_mut(width).enumerate() {
                        let (cos, sin) = angles.row(index * part + row);
                        rotate(heads, self.shape.head_dim, cos, sin);
                    }
                }
            }
        });
    }

    /// Lets placed queries attend to what the caches hold. `spans` are those of all `rows` rows, each with its cache.
    pub(super) fn attend<'c>(
        &self,
        spans: impl Iterator<Item = (Span, &'c LayerCache)>,
        q: &[f32],
        out: &mut [f32],
        rows: usize,
        scratch: &mut Vec<AttentionScratch>,
    ) {
        let width = q.len() / rows;
        let (mut q, mut out) = (q, out);
        let mut pieces = Vec::new();
        for (span, cache) in spans {
            let (span_q, rest_q) = q.split_at(span.rows * width);
            let (span_out, rest_out) = out.split_at_mut(span.rows * width);
            (q, out) = (rest_q, rest_out);
            self.split(span, cache, span_q, span_out, &mut pieces);
        }
        if scratch.len() < pieces.len() {
            scratch.resize_with(pieces.len(), AttentionScratch::default);
        }
        let products: usize = pieces.iter().map(AttentionTask::products).sum();
        // The last rows see the most, so they go first.
        let pieces = pieces.into_iter().rev().zip(scratch);
        if products < SERIAL_PRODUCTS {
            pieces.for_each(|(piece, scratch)| piece.run(scratch));
        } else {
            for_each_part(pieces, |(piece, scratch)| piece.run(scratch));
        }
    }

    /// Splits the attention of a span: one row by heads, several by rows. Either way a piece's output is contiguous.
    fn split<'p>(
        &self,
        span: Span,
        cache: &'p LayerCache,
        q: &'p [f32],
        out: &'p mut [f32],
        pieces: &mut Vec<AttentionTask<'p>>,
    ) {
        let Span { start, rows, .. } = span;
        let HeadShape { kv_heads, head_dim, .. } = self.shape;
        let queries = Queries {
            start,
            rows,
            row_stride: q.len() / rows,
            group: self.shape.group(),
            window: self.window,
            scale: self.scale.map_or(1.0 / (head_dim as f32).sqrt(), |scale| scale as f32),
        };
        if rows == 1 {
            let seen = self.window.unwrap_or(usize::MAX).min(start + 1);
            let heads_each = match q.len() * seen < SERIAL_PRODUCTS {
                true => kv_heads,
                false => kv_heads.div_ceil(4 * rayon::current_num_threads()),
            };
            let size = heads_each * queries.group * head_dim;
            for (index, (q, out)) in q.chunks(size).zip(out.chunks_mut(size)).enumerate() {
                let heads = index * heads_each..kv_heads.min((index + 1) * heads_each);
                pieces.push(AttentionTask { cache, heads, queries, q, out });
            }
        } else {
            let rows_each = rows.div_ceil(8 * rayon::current_num_threads()).next_multiple_of(ROW_TILE);
            let size = rows_each * queries.row_stride;
            for (index, (q, out)) in q.chunks(size).zip(out.chunks_mut(size)).enumerate() {
                let (start, rows) = (start + index * rows_each, q.len() / queries.row_stride);
                pieces.push(AttentionTask {
                    cache,
                    heads: 0..kv_heads,
                    queries: Queries { start, rows, ..queries },
                    q,
                    out,
                });
            }
        }
    }
}

/// A part of an attention that runs on one thread.
struct AttentionTask<'a> {
    cache: &'a LayerCache,
    heads: Range<usize>,
    queries: Queries,
    q: &'a [f32],
    out: &'a mut [f32],
}

impl AttentionTask<'_> {
    /// Multiplications, about.
    fn products(&self) -> usize {
        let end = self.queries.start + self.queries.rows;
        self.q.len() * self.queries.window.unwrap_or(usize::MAX).min(end)
    }

    fn run(self, scratch: &mut AttentionScratch) {
        self.cache.attend(self.heads, &self.queries, self.q, self.out, scratch);
    }
}
