//! Attention on slices.

use std::ops::Range;

use slm_cpu_ops::{AttentionScratch, BlockAttention, Queries, rotate};

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

/// Number of tasks per thread into which the attention of single rows is split: enough that threads end at about the same
/// time.
const SHARES: usize = 8;

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

    /// Computes the attention of placed queries to the cached positions. `spans` cover all `rows` rows, each with its
    /// cache.
    pub(super) fn attend<'c>(
        &self,
        spans: impl Iterator<Item = (Span, &'c LayerCache)>,
        q: &[f32],
        out: &mut [f32],
        rows: usize,
        AttentionMemory { scratch, parts }: &mut AttentionMemory,
    ) {
        let width = q.len() / rows;
        let (mut q, mut out) = (q, out);
        let (mut tasks, mut splits) = (Vec::new(), Vec::new());
        for (span, cache) in spans {
            let (span_q, rest_q) = q.split_at(span.rows * width);
            let (span_out, rest_out) = out.split_at_mut(span.rows * width);
            (q, out) = (rest_q, rest_out);
            let queries = self.queries(span, width);
            let positions = self.window.unwrap_or(usize::MAX).min(span.start + 1);
            if span.rows > 1 {
                split_rows(cache, queries, span_q, span_out, &mut tasks);
            } else if span_q.len() * positions < SERIAL_PRODUCTS {
                tasks.push(AttentionTask::Rows { cache, queries, q: span_q, out: span_out });
            } else {
                splits.push(Split { cache, blocks: cache.in_blocks(&queries), q: span_q, out: span_out });
            }
        }
        let sizes = splits.iter().map(|split| split.blocks.units() * split.blocks.unit_len());
        let size = sizes.sum();
        if parts.len() < size {
            parts.resize(size, 0.0);
        }
        let parts = &mut parts[..size];
        let shares = (SHARES * rayon::current_num_threads()).div_ceil(splits.len().max(1));
        split_units(&splits, parts, shares, &mut tasks);
        if scratch.len() < tasks.len() {
            scratch.resize_with(tasks.len(), AttentionScratch::default);
        }
        let products: usize = tasks.iter().map(AttentionTask::products).sum();
        // The last rows attend to the most positions, so they go first.
        let tasks = tasks.into_iter().rev().zip(scratch);
        if products < SERIAL_PRODUCTS {
            tasks.for_each(|(task, scratch)| task.run(scratch));
        } else {
            for_each_part(tasks, |(task, scratch)| task.run(scratch));
        }
        let mut parts = &*parts;
        for Split { blocks, out, .. } in splits {
            let (own, rest) = parts.split_at(blocks.units() * blocks.unit_len());
            blocks.join(own, out);
            parts = rest;
        }
    }

    fn queries(&self, Span { start, rows, .. }: Span, row_stride: usize) -> Queries {
        Queries {
            start,
            rows,
            row_stride,
            group: self.shape.group(),
            window: self.window,
            scale: self.scale.map_or(1.0 / (self.shape.head_dim as f32).sqrt(), |scale| scale as f32),
        }
    }
}

/// Memory of [`CpuAttention::attend`], kept from pass to pass.
#[derive(Debug, Default)]
pub(super) struct AttentionMemory {
    /// One for each concurrent task.
    scratch: Vec<AttentionScratch>,
    /// Results of blocks.
    parts: Vec<f32>,
}

/// The attention of one row that is computed in blocks.
struct Split<'a> {
    cache: &'a LayerCache,
    blocks: BlockAttention,
    q: &'a [f32],
    out: &'a mut [f32],
}

/// Splits the attention of several rows of a sequence by rows, so that a task's output is contiguous.
fn split_rows<'a>(
    cache: &'a LayerCache,
    queries: Queries,
    q: &'a [f32],
    out: &'a mut [f32],
    tasks: &mut Vec<AttentionTask<'a>>,
) {
    let Queries { start, rows, row_stride, .. } = queries;
    let rows_each = rows.div_ceil(4 * rayon::current_num_threads()).next_multiple_of(ROW_TILE);
    let size = rows_each * row_stride;
    for (index, (q, out)) in q.chunks(size).zip(out.chunks_mut(size)).enumerate() {
        let (start, rows) = (start + index * rows_each, q.len() / row_stride);
        tasks.push(AttentionTask::Rows { cache, queries: Queries { start, rows, ..queries }, q, out });
    }
}

/// Splits the blocks of each row into `shares` runs of about the same length.
fn split_units<'a>(
    splits: &'a [Split<'a>],
    mut parts: &'a mut [f32],
    shares: usize,
    tasks: &mut Vec<AttentionTask<'a>>,
) {
    for Split { cache, blocks, q, .. } in splits {
        let (own, rest) = parts.split_at_mut(blocks.units() * blocks.unit_len());
        parts = rest;
        let each = blocks.units().div_ceil(shares);
        let firsts = (0..blocks.units()).step_by(each);
        for (first, parts) in firsts.zip(own.chunks_mut(each * blocks.unit_len())) {
            let units = first..(first + each).min(blocks.units());
            tasks.push(AttentionTask::Units { cache, blocks, units, q, parts });
        }
    }
}

/// A part of an attention that runs on one thread.
enum AttentionTask<'a> {
    Rows {
        cache: &'a LayerCache,
        queries: Queries,
        q: &'a [f32],
        out: &'a mut [f32],
    },
    Units {
        cache: &'a LayerCache,
        blocks: &'a BlockAttention,
        units: Range<usize>,
        q: &'a [f32],
        parts: &'a mut [f32],
    },
}

impl AttentionTask<'_> {
    /// Approximate number of multiplications.
    fn products(&self) -> usize {
        match self {
            Self::Rows { queries, q, .. } => {
                q.len() * queries.window.unwrap_or(usize::MAX).min(queries.start + queries.rows)
            }
            // A task of this kind exists only if there is enough work for several.
            Self::Units { .. } => SERIAL_PRODUCTS,
        }
    }

    fn run(self, scratch: &mut AttentionScratch) {
        match self {
            Self::Rows { cache, queries, q, out } => cache.attend(&queries, q, out, scratch),
            Self::Units { cache, blocks, units, q, parts } => {
                cache.attend_units(blocks, units, q, parts, scratch);
            }
        }
    }
}
