//! Causal attention over cached keys and values.

use slm_kernels::{KernelKind, PANEL_ROWS, Panels, multiply_panels};

use crate::dispatch::vectorized;
use crate::kv::{KvElement, KvHeads};
use crate::panel::PANEL;
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
    /// Sums of values.
    sums: Vec<f32>,
    /// Keys and values as 32-bit floats.
    wide: Vec<f32>,
}

/// `softmax(scale q K^T) V` for the query heads that belong to `kv`.
///
/// The positions of the queries must have been stored in the layer. Each row of the result is the same to the last bit
/// whatever rows are computed with it and whatever the processor.
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
    let dim = kv.head_dim();
    let width = kv.count() * group * dim;
    let needed = (rows - 1) * row_stride + width;
    assert!(q.len() >= needed && out.len() >= needed && row_stride >= width, "attend: lengths do not fit");
    assert!(start + rows <= kv.capacity(), "attend: positions beyond the capacity");
    assert!(window != Some(0), "attend: a query sees at least itself");
    // A tile of rows has at most one panel more than it sees.
    let longest = (start + rows).next_multiple_of(PANEL);
    let AttentionScratch { scores, sums, wide } = scratch;
    for (memory, len) in [(&mut *scores, TILE * longest), (sums, TILE * dim.next_multiple_of(PANEL))] {
        if memory.len() < len {
            memory.resize(len, 0.0);
        }
    }
    let mut tiles = Tiles { kernel: KernelKind::selected(), queries, q, out, scores, sums };
    for kv_head in 0..kv.count() {
        let first = kv_head * group * dim;
        if rows == 1 {
            tiles.run(kv, kv_head, group, |i| (0, first + i * dim));
        } else {
            // Many rows read each key and value, so these are widened once for all of them.
            let from = (start + 1).saturating_sub(window.unwrap_or(usize::MAX)) / PANEL * PANEL;
            let head_kv = kv.widen_head(kv_head, from..start + rows, wide);
            for head in 0..group {
                tiles.run(head_kv, 0, rows, |i| (i, first + head * dim + i * row_stride));
            }
        }
    }
}

/// Queries that are handled together.
const TILE: usize = PANEL_ROWS;

/// Queries, and where their results go.
struct Tiles<'a> {
    kernel: KernelKind,
    queries: &'a Queries,
    q: &'a [f32],
    out: &'a mut [f32],
    scores: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Tiles<'_> {
    /// Queries `0 .. count` of one KV head, in tiles of about the same size. `place` gives row and offset.
    fn run<E: KvElement>(
        &mut self,
        kv: KvHeads<'_, E>,
        kv_head: usize,
        count: usize,
        place: impl Fn(usize) -> (usize, usize),
    ) {
        let tiles = count.div_ceil(TILE);
        for tile in 0..tiles {
            let (at, end) = (count * tile / tiles, count * (tile + 1) / tiles);
            let mut places = [(0, 0); TILE];
            for (to, i) in places.iter_mut().zip(at..end) {
                *to = place(i);
            }
            self.tile(kv, kv_head, &places[..end - at]);
        }
    }

    /// Queries at `places`, whose rows ascend.
    fn tile<E: KvElement>(&mut self, kv: KvHeads<'_, E>, kv_head: usize, places: &[(usize, usize)]) {
        let dim = kv.head_dim();
        let window = self.queries.window.unwrap_or(usize::MAX);
        let seen = |&(row, _): &(usize, usize)| {
            let end = self.queries.start + row + 1;
            end.saturating_sub(window)..end
        };
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return };
        // The first sees farthest back and the last farthest ahead.
        let (from, to) = (seen(first).start / PANEL * PANEL, seen(last).end);
        let length = (to - from).next_multiple_of(PANEL);

        let mut rows: [&[f32]; TILE] = [&[]; TILE];
        for (row, (_, offset)) in rows.iter_mut().zip(places) {
            *row = &self.q[*offset..][..dim];
        }
        let keys = Panels {
            values: E::values(kv.key_panels(kv_head, from / PANEL, length / PANEL)),
            count: length / PANEL,
            stride: dim * PANEL,
            depth: dim,
        };
        multiply_panels(self.kernel, &rows[..places.len()], keys, self.scores, length);

        let scale = self.queries.scale;
        let mut factors = [0.0; TILE];
        let scores = &mut self.scores[..places.len() * length];
        let by_row = scores.chunks_exact_mut(length).zip(places).zip(&mut factors);
        vectorized! {
            for ((scores, place), factor) in by_row {
                let seen = seen(place);
                let (start, end) = (seen.start - from, seen.end - from);
                scores[..start].fill(0.0);
                scores[end..].fill(0.0);
                *factor = 1.0 / exponentials(&mut scores[start..end], scale);
            }
        }

        for (row, scores) in rows.iter_mut().zip(self.scores.chunks_exact(length)) {
            *row = scores;
        }
        let (values, stride) = kv.value_panels(kv_head, from..to);
        let panels = dim.div_ceil(PANEL);
        let values = Panels { values: E::values(values), count: panels, stride, depth: to - from };
        multiply_panels(self.kernel, &rows[..places.len()], values, self.sums, panels * PANEL);
        let sums = self.sums.chunks_exact(panels * PANEL).zip(places).zip(factors);
        for ((sums, (_, offset)), factor) in sums {
            for (out, sum) in self.out[*offset..][..dim].iter_mut().zip(sums) {
                *out = sum * factor;
            }
        }
    }
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
                assert_eq!(found, expected, "the same sums of the same values");
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
