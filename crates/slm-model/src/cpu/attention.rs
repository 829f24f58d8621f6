//! Attention on slices.

use slm_cpu_ops::{AttentionScratch, KvLayer, Queries, attend, rotate};
use slm_runtime::HugeVec;

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
    /// Position of the first row.
    pub(super) start: usize,
    pub(super) rows: usize,
    pub(super) window: Option<usize>,
    pub(super) scale: Option<f64>,
    pub(super) angles: Option<&'a Angles>,
    pub(super) q_norm: Option<&'a CpuNorm>,
    pub(super) k_norm: Option<&'a CpuNorm>,
}

impl CpuAttention<'_> {
    /// Normalizes and rotates queries and keys.
    pub(super) fn place(&self, q: &mut [f32], k: &mut [f32]) {
        if self.angles.is_none() && self.q_norm.is_none() && self.k_norm.is_none() {
            return;
        }
        let (q_width, k_width) = (q.len() / self.rows, k.len() / self.rows);
        let part = rows_per_part(self.rows, q_width);
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

    /// Lets placed queries attend to what `cache` holds.
    pub(super) fn attend(
        &self,
        cache: &KvLayer<HugeVec<f32>>,
        q: &[f32],
        out: &mut [f32],
        scratch: &mut Vec<AttentionScratch>,
    ) {
        let Self { start, rows, window, .. } = *self;
        let HeadShape { kv_heads, head_dim, .. } = self.shape;
        let queries = Queries {
            start,
            rows,
            row_stride: q.len() / rows,
            group: self.shape.group(),
            window,
            scale: self.scale.map_or(1.0 / (head_dim as f32).sqrt(), |scale| scale as f32),
        };
        // One row is split by heads, several by rows: either way a part's output is one piece.
        let (parts, piece) = if rows == 1 {
            let seen = window.unwrap_or(usize::MAX).min(start + 1);
            let heads = match q.len() * seen < SERIAL_PRODUCTS {
                true => kv_heads,
                false => kv_heads.div_ceil(4 * rayon::current_num_threads()),
            };
            (kv_heads.div_ceil(heads), heads * queries.group * head_dim)
        } else {
            let rows_each = rows.div_ceil(8 * rayon::current_num_threads()).next_multiple_of(ROW_TILE);
            (rows.div_ceil(rows_each), rows_each * queries.row_stride)
        };
        if scratch.len() < parts {
            scratch.resize_with(parts, AttentionScratch::default);
        }
        let pieces = q.chunks(piece).zip(out.chunks_mut(piece)).zip(scratch).enumerate();
        // The last rows see the most, so they go first.
        let mut pieces: Vec<_> = pieces.collect();
        pieces.reverse();
        for_each_part(pieces.into_iter(), |(index, ((q, out), scratch))| {
            if rows == 1 {
                let heads = piece / (queries.group * head_dim);
                let heads = index * heads..kv_heads.min((index + 1) * heads);
                let width = q.len();
                attend(cache.slice(heads), &Queries { row_stride: width, ..queries }, q, out, scratch);
            } else {
                let start = start + index * (piece / queries.row_stride);
                let rows = q.len() / queries.row_stride;
                attend(cache.slice(0..kv_heads), &Queries { start, rows, ..queries }, q, out, scratch);
            }
        });
    }
}
