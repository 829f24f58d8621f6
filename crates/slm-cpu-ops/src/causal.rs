//! Types and helpers shared by the forward and backward passes of causal attention over whole sequences.

use std::ops::Range;

use crate::panel::{PANEL, Rows};
use crate::rotary::{rotate, rotate_back};

/// Number of queries that are handled together. With a panel's two AVX2 vectors each they leave registers for the
/// operands.
pub(crate) const TILE: usize = 6;

/// One sequence and the query heads that share a KV head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CausalShape {
    /// Number of positions. Each attends to itself and those before it.
    pub len: usize,
    /// Query heads that share the KV head.
    pub group: usize,
    /// Floats of a head.
    pub head_dim: usize,
    /// Number of positions that a query attends to, itself included; `None` for all before it.
    pub window: Option<usize>,
    /// Factor of the scores before softmax, `1 / sqrt(head_dim)` in most models.
    pub scale: f32,
}

/// Cosines and sines of rotary positions, `[len, pairs]` each, that rotate queries and keys: in each head the first
/// `2 * pairs` values.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// Number of rotated pairs of a head, at most `head_dim / 2`.
    pub pairs: usize,
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
}

impl<'a> Rotation<'a> {
    /// The cosines and sines of a position.
    fn at(&self, position: usize) -> (&'a [f32], &'a [f32]) {
        let range = position * self.pairs..(position + 1) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Statistics of a row of scores for the backward pass: the maximum, and one over the sum of the exponentials.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowStatistics {
    /// Largest score, before scaling.
    pub(crate) max: f32,
    /// One over the sum.
    pub(crate) factor: f32,
}

/// Working memory of both passes, reused from call to call.
#[derive(Debug, Default)]
pub struct CausalScratch {
    /// Rotated queries, `[group, len, head_dim]`.
    pub(crate) q: Vec<f32>,
    /// Rotated keys, `[len, head_dim]`.
    pub(crate) k: Vec<f32>,
    /// Rotated keys, transposed: `[len / 16, head_dim, 16]`.
    pub(crate) keys: Vec<f32>,
    /// Values, `[head_dim / 16, len, 16]`.
    pub(crate) values: Vec<f32>,
    pub(crate) scores: Vec<f32>,
    pub(crate) gradient: crate::causal_backward::GradientScratch,
}

impl CausalShape {
    pub(crate) fn check(&self, rotation: Option<Rotation<'_>>, stats: usize) {
        let Self { len, group, head_dim, window, .. } = *self;
        assert!(group > 0 && head_dim > 0 && window != Some(0), "causal attention: nothing to see");
        assert_eq!(stats, group * len, "causal attention: length of the statistics");
        if let Some(Rotation { pairs, cos, sin }) = rotation {
            let size = len * pairs;
            let fits = pairs > 0 && 2 * pairs <= head_dim && cos.len() == size && sin.len() == size;
            assert!(fits, "causal attention: size of the rotary tables");
        }
    }

    /// The positions that queries `rows` attend to, and the panels that these span:
    /// `(first position of the first panel, end, floats of the panels)`.
    #[inline(always)]
    pub(crate) fn span(&self, rows: &Range<usize>) -> (usize, usize, usize) {
        let from = self.first_seen(rows.start) / PANEL * PANEL;
        (from, rows.end, (rows.end - from).next_multiple_of(PANEL))
    }

    #[inline(always)]
    pub(crate) fn first_seen(&self, row: usize) -> usize {
        (row + 1).saturating_sub(self.window.unwrap_or(usize::MAX))
    }

    /// Divides queries `rows` into tiles of about the same size.
    #[inline(always)]
    pub(crate) fn tiles(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let count = rows.len();
        let tiles = count.div_ceil(TILE);
        (0..tiles).map(move |t| rows.start + count * t / tiles..rows.start + count * (t + 1) / tiles)
    }
}

/// Copies rows of `heads` heads to `[heads, len, head_dim]`, rotated.
pub(crate) fn gather<'a>(
    rows: impl ExactSizeIterator<Item = &'a [f32]>,
    head_dim: usize,
    heads: usize,
    rotation: Option<Rotation<'_>>,
    out: &mut Vec<f32>,
) {
    let len = rows.len();
    out.resize(heads * len * head_dim, 0.0);
    for (position, row) in rows.enumerate() {
        assert_eq!(row.len(), heads * head_dim, "causal attention: width of a row");
        for (head, values) in row.chunks_exact(head_dim).enumerate() {
            let out = &mut out[(head * len + position) * head_dim..][..head_dim];
            out.copy_from_slice(values);
            if let Some(rotation) = rotation {
                let (cos, sin) = rotation.at(position);
                rotate(out, head_dim, cos, sin);
            }
        }
    }
}

/// Rotates the gradient of a rotated head at `position` back to that of the head before rotation.
pub(crate) fn turn_back(head: &mut [f32], position: usize, rotation: Option<Rotation<'_>>) {
    if let Some(rotation) = rotation {
        let (cos, sin) = rotation.at(position);
        rotate_back(head, head.len(), cos, sin);
    }
}

/// Packs rows as `[dim / 16, len, 16]`, with zeros past `dim`.
pub(crate) fn pack_columns<'a>(
    rows: impl ExactSizeIterator<Item = &'a [f32]>,
    dim: usize,
    out: &mut Vec<f32>,
) {
    let len = rows.len();
    out.resize(dim.div_ceil(PANEL) * len * PANEL, 0.0);
    for (position, row) in rows.enumerate() {
        for (panel, values) in row.chunks(PANEL).enumerate() {
            let out = &mut out[(panel * len + position) * PANEL..][..PANEL];
            match values.first_chunk::<PANEL>() {
                Some(values) => out.copy_from_slice(values),
                None => {
                    out[..values.len()].copy_from_slice(values);
                    out[values.len()..].fill(0.0);
                }
            }
        }
    }
}

/// Packs rows as `[len / 16, dim, 16]`, with zeros past the last row.
pub(crate) fn pack_transposed<'a>(
    rows: impl ExactSizeIterator<Item = &'a [f32]>,
    dim: usize,
    out: &mut Vec<f32>,
) {
    let len = rows.len();
    out.resize(len.div_ceil(PANEL) * dim * PANEL, 0.0);
    if !len.is_multiple_of(PANEL) {
        out[len / PANEL * dim * PANEL..].fill(0.0);
    }
    for (position, row) in rows.enumerate() {
        let panel = &mut out[position / PANEL * dim * PANEL..][..dim * PANEL];
        for (column, value) in panel.as_chunks_mut::<PANEL>().0.iter_mut().zip(row) {
            column[position % PANEL] = *value;
        }
    }
}

/// Four columns of a panel read as rows, its transpose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PanelColumns<'a, const FIRST: usize>(pub(crate) &'a [[f32; PANEL]]);

impl<const FIRST: usize> Rows<4> for PanelColumns<'_, FIRST> {
    #[inline(always)]
    fn truncate(self, depth: usize) -> Self {
        Self(&self.0[..depth])
    }

    #[inline(always)]
    fn at(self, i: usize, k: usize) -> f32 {
        self.0[k][FIRST + i]
    }
}
