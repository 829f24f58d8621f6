//! Causal attention over cached keys and values.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::dispatch::vectorize;
use crate::kv::{KvElement, KvHeads, widen};
use crate::panel::{PANEL, product};
use crate::softmax::exponentials;

/// Where queries stand and what they see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Queries {
    /// Position of the first row; each sees itself and the positions before it.
    pub start: usize,
    /// Rows, at consecutive positions.
    pub rows: usize,
    /// Floats from one row to the next, in the queries and in the output.
    pub row_stride: usize,
    /// Query heads that share a KV head.
    pub group: usize,
    /// Positions that a query sees, itself included; all before it where there is no window.
    pub window: Option<usize>,
    /// Factor of the scores before softmax, `1 / sqrt(head_dim)` in most models.
    pub scale: f32,
}

/// Memory of an attention, to be kept from call to call.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    scores: Vec<f32>,
    /// Keys and values as 32-bit floats.
    wide: Vec<f32>,
}

/// `softmax(scale q K^T) V` for the query heads that belong to `kv`.
///
/// The positions of the queries must have been stored in the layer.
///
/// # Shapes
/// - `q`, `out`: rows of `[kv heads * group, head_dim]` at a distance of `row_stride`
///
/// # Panics
/// When the lengths do not fit, or a position lies outside the layer's capacity.
pub fn attend<E: KvElement>(
    kv: KvHeads<'_, E>,
    queries: &Queries,
    q: &[f32],
    out: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let Queries { start, rows, row_stride, group, window, .. } = *queries;
    if rows == 0 {
        return;
    }
    let width = kv.count() * group * kv.head_dim();
    let needed = (rows - 1) * row_stride + width;
    assert!(q.len() >= needed && out.len() >= needed && row_stride >= width, "attend: lengths do not fit");
    assert!(start + rows <= kv.capacity(), "attend: positions beyond the capacity");
    assert!(window != Some(0), "attend: a query sees at least itself");
    // A tile of rows has at most one panel more than it sees.
    let longest = (start + rows).next_multiple_of(PANEL);
    if scratch.scores.len() < TILE * longest {
        scratch.scores.resize(TILE * longest, 0.0);
    }
    let AttentionScratch { scores, wide } = scratch;
    vectorize(Attend { kv, wide, tiles: Tiles { queries, q, out, scores } });
}

/// Queries that are handled together. With a panel's two AVX2 vectors each they leave registers for the operands.
const TILE: usize = 6;

/// Positions whose values are widened at once, for a few queries: they stay in the nearest cache.
const VALUE_BLOCK: usize = 128;

struct Attend<'a, E> {
    kv: KvHeads<'a, E>,
    wide: &'a mut Vec<f32>,
    tiles: Tiles<'a>,
}

/// Queries, and where their results go.
struct Tiles<'a> {
    queries: &'a Queries,
    q: &'a [f32],
    out: &'a mut [f32],
    scores: &'a mut [f32],
}

impl<E: KvElement> WithSimd for Attend<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { kv, wide, mut tiles } = self;
        let Queries { start, rows, row_stride, group, window, .. } = *tiles.queries;
        let dim = kv.head_dim();
        if rows == 1 {
            // Each panel is read once for all queries of a head, so it is widened there and then.
            let len = 4 * PANEL * dim.max(VALUE_BLOCK);
            if wide.len() < len {
                wide.resize(len, 0.0);
            }
        }
        for kv_head in 0..kv.count() {
            let first = kv_head * group * dim;
            if rows == 1 {
                tiles.run(simd, kv, kv_head, wide, group, |i| (0, first + i * dim));
            } else {
                let from = (start + 1).saturating_sub(window.unwrap_or(usize::MAX)) / PANEL * PANEL;
                let head_kv = kv.widen_head(kv_head, from..start + rows, wide);
                for head in 0..group {
                    let place = |i| (i, first + head * dim + i * row_stride);
                    tiles.run(simd, head_kv, 0, &mut [], rows, place);
                }
            }
        }
    }
}

impl Tiles<'_> {
    /// Queries `0 .. count` of one KV head, in tiles of about the same size. `place` gives row and offset.
    #[inline(always)]
    fn run<S: Simd, E: KvElement>(
        &mut self,
        simd: S,
        kv: KvHeads<'_, E>,
        kv_head: usize,
        wide: &mut [f32],
        count: usize,
        place: impl Fn(usize) -> (usize, usize),
    ) {
        let tiles = count.div_ceil(TILE);
        for tile in 0..tiles {
            let (at, end) = (count * tile / tiles, count * (tile + 1) / tiles);
            let place = |i| place(at + i);
            // With few queries several panels at once keep enough sums in flight to hide their latency.
            match end - at {
                1 => self.tile::<S, E, 1, 4>(simd, kv, kv_head, wide, place),
                2 => self.tile::<S, E, 2, 2>(simd, kv, kv_head, wide, place),
                3 => self.tile::<S, E, 3, 2>(simd, kv, kv_head, wide, place),
                4 => self.tile::<S, E, 4, 1>(simd, kv, kv_head, wide, place),
                5 => self.tile::<S, E, 5, 1>(simd, kv, kv_head, wide, place),
                _ => self.tile::<S, E, TILE, 1>(simd, kv, kv_head, wide, place),
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, E: KvElement, const M: usize, const NP: usize>(
        &mut self,
        simd: S,
        kv: KvHeads<'_, E>,
        kv_head: usize,
        wide: &mut [f32],
        place: impl Fn(usize) -> (usize, usize),
    ) {
        let dim = kv.head_dim();
        let window = self.queries.window.unwrap_or(usize::MAX);
        let places: [(usize, usize); M] = std::array::from_fn(place);
        let seen: [Range<usize>; M] = std::array::from_fn(|i| {
            let end = self.queries.start + places[i].0 + 1;
            end.saturating_sub(window)..end
        });
        // Rows ascend, so the first sees farthest back and the last farthest ahead.
        let (from, to) = (seen[0].start / PANEL * PANEL, seen[M - 1].end);
        let length = (to - from).next_multiple_of(PANEL);
        let scores = &mut self.scores[..M * length];

        let rows: [&[f32]; M] = std::array::from_fn(|i| &self.q[places[i].1..][..dim]);
        let panels = length / PANEL;
        let mut at = 0;
        while at < panels {
            // Past the last panel that one is done again.
            let index: [usize; NP] = std::array::from_fn(|n| (at + n).min(panels - 1));
            let keys = index.map(|index| kv.key_panel(kv_head, from / PANEL + index));
            let keys = floats(keys, wide);
            let tile = product::<S, M, NP>(simd, dim, rows, keys);
            for (row, tile) in tile.iter().enumerate() {
                for (index, values) in index.into_iter().zip(tile) {
                    scores[row * length + index * PANEL..][..PANEL].copy_from_slice(values);
                }
            }
            at += NP;
        }

        let scale = self.queries.scale;
        let mut factors = [0.0; M];
        for (i, row) in scores.chunks_exact_mut(length).enumerate() {
            let (start, end) = (seen[i].start - from, seen[i].end - from);
            row[..start].fill(0.0);
            row[end..].fill(0.0);
            factors[i] = 1.0 / exponentials(&mut row[start..end], scale);
        }

        let rows: [&[f32]; M] = std::array::from_fn(|i| &scores[i * length..][..length]);
        let panels = dim.div_ceil(PANEL);
        let mut at = 0;
        while at < panels {
            let index: [usize; NP] = std::array::from_fn(|n| (at + n).min(panels - 1));
            // In one sum where values are 32-bit floats, else in sums of blocks.
            let block = if E::as_floats(&[]).is_some() { to - from } else { VALUE_BLOCK };
            let mut tile = [[[0.0; PANEL]; NP]; M];
            let mut block_from = from;
            while block_from < to {
                let block_to = to.min(block_from + block);
                let values = index.map(|index| kv.value_panel(kv_head, index, block_from..block_to));
                let values = floats(values, wide);
                let rows = rows.map(|row| &row[block_from - from..block_to - from]);
                let sums = product::<S, M, NP>(simd, block_to - block_from, rows, values);
                for (total, sums) in tile.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                    for (total, sum) in total.iter_mut().zip(sums) {
                        *total += sum;
                    }
                }
                block_from = block_to;
            }
            for (i, tile) in tile.iter().enumerate() {
                for (index, values) in index.into_iter().zip(tile) {
                    let count = PANEL.min(dim - index * PANEL);
                    let out = &mut self.out[places[i].1 + index * PANEL..][..count];
                    for (out, value) in out.iter_mut().zip(values) {
                        *out = value * factors[i];
                    }
                }
            }
            at += NP;
        }
    }
}

/// Panels of the same length as 32-bit floats, in `wide` where they are kept otherwise.
#[inline(always)]
fn floats<'s, E: KvElement, const NP: usize>(panels: [&'s [E]; NP], wide: &'s mut [f32]) -> [&'s [f32]; NP] {
    if E::as_floats(&[]).is_some() {
        return panels.map(|panel| E::as_floats(panel).unwrap_or_default());
    }
    let len = panels[0].len();
    for (panel, wide) in panels.iter().zip(wide.chunks_exact_mut(len)) {
        widen(panel, wide);
    }
    let wide: &[f32] = wide;
    std::array::from_fn(|n| &wide[n * len..][..len])
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kv::KvLayer;

    fn wave(len: usize, step: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * step) % 97) as f32 / 24.0 - 2.0).collect()
    }

    struct Case {
        kv_heads: usize,
        group: usize,
        dim: usize,
        window: Option<usize>,
        scale: f32,
    }

    /// Attention of the query at `position` by its definition, in f64.
    fn reference(case: &Case, position: usize, q: &[f32], keys: &[f32], values: &[f32]) -> Vec<f64> {
        let (dim, width) = (case.dim, case.kv_heads * case.dim);
        let first = (position + 1).saturating_sub(case.window.unwrap_or(usize::MAX));
        let mut out = Vec::new();
        for head in 0..case.kv_heads * case.group {
            let offset = head / case.group * dim;
            let at = |x: &[f32], p: usize, d: usize| f64::from(x[p * width + offset + d]);
            let scores: Vec<f64> = (first..=position)
                .map(|p| {
                    let dot: f64 = (0..dim).map(|d| f64::from(q[head * dim + d]) * at(keys, p, d)).sum();
                    (dot * f64::from(case.scale)).exp()
                })
                .collect();
            let total: f64 = scores.iter().sum();
            out.extend((0..dim).map(|d| {
                let sum: f64 =
                    scores.iter().zip(first..=position).map(|(score, p)| score * at(values, p, d)).sum();
                sum / total
            }));
        }
        out
    }

    #[test]
    fn equals_its_definition() {
        let cases = [
            Case { kv_heads: 1, group: 1, dim: 16, window: None, scale: 0.25 },
            Case { kv_heads: 2, group: 3, dim: 12, window: None, scale: 0.4 },
            Case { kv_heads: 3, group: 8, dim: 64, window: None, scale: 0.125 },
            Case { kv_heads: 2, group: 2, dim: 40, window: Some(1), scale: 1.0 },
            Case { kv_heads: 2, group: 7, dim: 8, window: Some(19), scale: 0.125_f32.sqrt() },
        ];
        let mut scratch = AttentionScratch::default();
        for case in &cases {
            let Case { kv_heads, group, dim, window, scale } = *case;
            let (positions, kv_width, width) = (53, kv_heads * dim, kv_heads * group * dim);
            let (keys, values) = (wave(positions * kv_width, 17), wave(positions * kv_width, 41));
            let q = wave(positions * width, 31);
            let mut layer = KvLayer::<Vec<f32>>::new(kv_heads, dim, positions);
            layer.store(0, &keys[..20 * kv_width], &values[..20 * kv_width]).unwrap();
            layer.store(20, &keys[20 * kv_width..], &values[20 * kv_width..]).unwrap();
            for (start, rows) in [(0, positions), (0, 1), (15, 1), (16, 2), (40, 13), (52, 1)] {
                let queries = Queries { start, rows, row_stride: width, group, window, scale };
                let q = &q[start * width..][..rows * width];
                let mut out = vec![f32::NAN; rows * width];
                attend(layer.slice(0..kv_heads), &queries, q, &mut out, &mut scratch);
                for (row, (q, out)) in q.chunks(width).zip(out.chunks(width)).enumerate() {
                    let expected = reference(case, start + row, q, &keys, &values);
                    for (found, e) in out.iter().zip(expected) {
                        assert!(
                            (f64::from(*found) - e).abs() < 2e-6,
                            "{kv_heads} {group} {dim}: {found} {e}"
                        );
                    }
                }
                // A head alone gives the same bits as among others.
                let head = kv_heads - 1;
                let part = head * group * dim;
                let mut alone = vec![f32::NAN; rows * width];
                attend(layer.slice(head..kv_heads), &queries, &q[part..], &mut alone[part..], &mut scratch);
                for (alone, out) in alone.chunks(width).zip(out.chunks(width)) {
                    assert_eq!(alone[part..], out[part..]);
                }
            }
        }
    }

    /// Keys and values in 16 bits against the same ones, rounded, in 32.
    #[test]
    fn halves_give_what_their_values_give() {
        let mut scratch = AttentionScratch::default();
        for (kv_heads, group, dim, window) in [
            (1, 1, 16, None),
            (2, 3, 12, None),
            (3, 8, 64, Some(150)),
            (2, 7, 40, Some(19)),
            (1, 5, 8, Some(1)),
        ] {
            let (positions, kv_width, width) = (300, kv_heads * dim, kv_heads * group * dim);
            let rounded = |step| -> Vec<f32> {
                wave(positions * kv_width, step).iter().map(|&x| f16::from_f32(x * 1.001).to_f32()).collect()
            };
            let (keys, values, q) = (rounded(17), rounded(41), wave(positions * width, 31));
            let mut wide = KvLayer::<Vec<f32>>::new(kv_heads, dim, positions);
            let mut narrow = KvLayer::<Vec<f16>>::new(kv_heads, dim, positions);
            wide.store(0, &keys, &values).unwrap();
            narrow.store(0, &keys, &values).unwrap();
            assert_eq!(2 * narrow.byte_size(), wide.byte_size());
            for (start, rows) in [(0, positions), (0, 1), (16, 2), (140, 113), (299, 1)] {
                let queries = Queries { start, rows, row_stride: width, group, window, scale: 0.25 };
                let q = &q[start * width..][..rows * width];
                let (mut expected, mut found) = (vec![f32::NAN; rows * width], vec![f32::NAN; rows * width]);
                attend(wide.slice(0..kv_heads), &queries, q, &mut expected, &mut scratch);
                attend(narrow.slice(0..kv_heads), &queries, q, &mut found, &mut scratch);
                if rows > 1 {
                    assert_eq!(found, expected, "the same sums of the same values");
                }
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 2e-6, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn what_was_stored_later_is_not_seen() {
        let mut layer = KvLayer::<Vec<f32>>::new(1, 16, 32);
        layer.store(0, &wave(32 * 16, 17), &wave(32 * 16, 41)).unwrap();
        let queries = Queries { start: 9, rows: 1, row_stride: 16, group: 1, window: None, scale: 0.25 };
        let (q, mut scratch) = (wave(16, 31), AttentionScratch::default());
        let mut before = [0.0; 16];
        attend(layer.slice(0..1), &queries, &q, &mut before, &mut scratch);
        layer.store(10, &[100.0; 16], &[-100.0; 16]).unwrap();
        let mut after = [0.0; 16];
        attend(layer.slice(0..1), &queries, &q, &mut after, &mut scratch);
        assert_eq!(before, after);
    }
}
