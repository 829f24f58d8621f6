//! Causal attention over cached keys and values.

use std::ops::Range;

use slm_kernels::{KernelKind, PANEL_ROWS, Panels, multiply_panels};

use crate::dispatch::vectorized;
use crate::exp::exp_scalar;
use crate::kv::KvHeads;
use crate::kv_run::KvRun;
use crate::lanes;
use crate::panel::PANEL;
use crate::softmax::exponentials;

/// Positions and layout of queries, and the range of positions that they attend to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Queries {
    /// Position of the first row. Each row attends to itself and the positions before it.
    pub start: usize,
    /// Number of rows, at consecutive positions.
    pub rows: usize,
    /// Distance in floats from one row to the next, in the queries and in the output.
    pub row_stride: usize,
    /// Query heads that share a KV head.
    pub group: usize,
    /// Number of positions that a query attends to, itself included; `None` for all before it.
    pub window: Option<usize>,
    /// Factor of the scores before softmax, `1 / sqrt(head_dim)` in most models.
    pub scale: f32,
}

/// Working memory of attention, reused from call to call.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    scores: Vec<f32>,
    /// Sums of values.
    sums: Vec<f32>,
    /// Keys and values of a block as 32-bit floats.
    wide: Vec<[f32; PANEL]>,
    /// One state for each row and query head of a KV head.
    states: Vec<State>,
}

/// Positions whose softmax is computed at once. Results of several blocks are joined in order, so they do not depend on
/// which thread computed which. A block of keys and values stays in the cache of a core.
const BLOCK: usize = 256;

/// Number of queries that are handled together.
const TILE: usize = PANEL_ROWS;

/// Computes `softmax(scale q K^T) V` for the query heads that belong to `kv`.
///
/// The positions of the queries must already be stored in the layer. Each row of the result has the same bits whatever
/// rows are computed with it, and on every processor.
///
/// # Shapes
/// - `q`, `out`: rows of `[kv heads * group, head_dim]` at a distance of `row_stride`
///
/// # Panics
/// If the lengths do not fit, or a position lies outside the layer's capacity.
pub fn attend<R: KvRun>(
    kv: KvHeads<'_, R>,
    queries: &Queries,
    q: &[f32],
    out: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let Queries { start, rows, row_stride, group, .. } = *queries;
    if rows == 0 {
        return;
    }
    let dim = kv.head_dim();
    let width = kv.count() * group * dim;
    let needed = (rows - 1) * row_stride + width;
    assert!(q.len() >= needed && out.len() >= needed && row_stride >= width, "attend: lengths do not fit");
    let blocks = queries.blocks(kv.capacity());
    let AttentionScratch { scores, sums, wide, states } = scratch;
    let mut tiles = Tiles::new(queries, q, dim, scores, sums);
    let mut places = Vec::with_capacity(rows.max(group));
    for kv_head in 0..kv.count() {
        let first = kv_head * group * dim;
        states.clear();
        states.resize(rows * group, State::EMPTY);
        for index in blocks.clone() {
            let block = index * BLOCK..((index + 1) * BLOCK).min(start + rows);
            let mut take = |place: Place, part: State, values: &[f32]| {
                states[place.state].join(&mut out[place.offset..][..dim], part, values);
            };
            if rows == 1 {
                places.clear();
                places.extend((0..group).map(|i| Place { row: 0, offset: first + i * dim, state: i }));
                tiles.run(kv, kv_head, block, &places, &mut take);
                continue;
            }
            // Many rows read each key and value, so these are widened once for all of them.
            let block_kv = kv.widen_head(kv_head, block.clone(), wide);
            for head in 0..group {
                places.clear();
                places.extend(queries.rows_that_see(&block).map(|row| Place {
                    row,
                    offset: first + head * dim + row * row_stride,
                    state: row * group + head,
                }));
                tiles.run(block_kv, 0, block.clone(), &places, &mut take);
            }
        }
        for (index, state) in states.iter().enumerate() {
            let offset = first + index % group * dim + index / group * row_stride;
            state.divide(&mut out[offset..][..dim]);
        }
    }
}

impl Queries {
    /// The indices of the blocks that the rows attend to.
    fn blocks(&self, capacity: usize) -> Range<usize> {
        assert!(self.start + self.rows <= capacity, "attend: positions beyond the capacity");
        assert!(self.window != Some(0), "attend: a query sees at least itself");
        self.seen(0).start / BLOCK..(self.start + self.rows).div_ceil(BLOCK)
    }

    /// The positions that a row attends to.
    fn seen(&self, row: usize) -> Range<usize> {
        let end = self.start + row + 1;
        end.saturating_sub(self.window.unwrap_or(usize::MAX))..end
    }

    /// The rows that attend to any position of `block`.
    fn rows_that_see(&self, block: &Range<usize>) -> Range<usize> {
        let first = block.start.saturating_sub(self.start);
        let end = match self.window {
            Some(window) => (block.end + window - 1).saturating_sub(self.start).min(self.rows),
            None => self.rows,
        };
        first..end.max(first)
    }
}

/// The attention of one row in blocks that several threads compute in any division: call [`attend`](Self::attend) as
/// often as needed, then [`join`](Self::join). The result has the same bits as that of [`attend`].
#[derive(Debug, Clone, Copy)]
pub struct BlockAttention {
    queries: Queries,
    kv_heads: usize,
    head_dim: usize,
    first: usize,
    blocks: usize,
}

impl BlockAttention {
    /// The attention of `queries`, which must be one row, to all heads of `kv`.
    ///
    /// # Panics
    /// If there are more rows, or the row's position lies outside the layer's capacity.
    pub fn new<R: KvRun>(kv: KvHeads<'_, R>, queries: &Queries) -> Self {
        assert!(queries.rows == 1, "attend: blocks are those of one row");
        let blocks = queries.blocks(kv.capacity());
        let (first, blocks) = (blocks.start, blocks.len());
        Self { queries: *queries, kv_heads: kv.count(), head_dim: kv.head_dim(), first, blocks }
    }

    /// Number of units of work: the blocks of each KV head in turn.
    pub fn units(&self) -> usize {
        self.kv_heads * self.blocks
    }

    /// Number of floats in the result of a unit: for each of its query heads the maximum, the sum, and a value for each
    /// dimension.
    pub fn unit_len(&self) -> usize {
        self.queries.group * (2 + self.head_dim)
    }

    /// Computes `units`.
    ///
    /// # Shapes
    /// - `q`: `[kv heads * group, head_dim]`
    /// - `parts`: `[units, unit_len]`
    ///
    /// # Panics
    /// If the lengths do not fit, or there are fewer units.
    pub fn attend<R: KvRun>(
        &self,
        kv: KvHeads<'_, R>,
        units: Range<usize>,
        q: &[f32],
        parts: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let Self { queries, head_dim: dim, .. } = *self;
        assert!(units.end <= self.units() && parts.len() == units.len() * self.unit_len(), "attend: parts");
        assert!(q.len() >= self.kv_heads * queries.group * dim, "attend: lengths do not fit");
        let AttentionScratch { scores, sums, .. } = scratch;
        let mut tiles = Tiles::new(&queries, q, dim, scores, sums);
        let mut places = Vec::with_capacity(queries.group);
        for (unit, parts) in units.zip(parts.chunks_exact_mut(self.unit_len())) {
            let (kv_head, index) = (unit / self.blocks, self.first + unit % self.blocks);
            let block = index * BLOCK..((index + 1) * BLOCK).min(queries.start + 1);
            let place = |i| Place { row: 0, offset: (kv_head * queries.group + i) * dim, state: i };
            places.clear();
            places.extend((0..queries.group).map(place));
            tiles.run(kv, kv_head, block, &places, &mut |place, part, values| {
                let to = &mut parts[place.state * (2 + dim)..][..2 + dim];
                (to[0], to[1]) = (part.max, part.sum);
                to[2..].copy_from_slice(values);
            });
        }
    }

    /// Joins the results of all units.
    ///
    /// # Shapes
    /// - `parts`: `[units, unit_len]`
    /// - `out`: `[kv heads * group, head_dim]`
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn join(&self, parts: &[f32], out: &mut [f32]) {
        let (dim, group, unit_len) = (self.head_dim, self.queries.group, self.unit_len());
        assert!(parts.len() == self.units() * unit_len, "attend: parts");
        for (head, out) in out.chunks_exact_mut(dim).enumerate() {
            let units = parts[head / group * self.blocks * unit_len..].chunks_exact(unit_len);
            let mut state = State::EMPTY;
            for unit in units.take(self.blocks) {
                let part = &unit[head % group * (2 + dim)..][..2 + dim];
                state.join(out, State { max: part[0], sum: part[1] }, &part[2..]);
            }
            state.divide(out);
        }
    }
}

/// A query of one head.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    row: usize,
    /// Offset of the row in the queries, and of its result in the output.
    offset: usize,
    /// Index of the query's state.
    state: usize,
}

/// The running softmax of a query: the largest score, and the sum of exponentials relative to it. The output is not yet
/// divided by the sum.
#[derive(Debug, Clone, Copy, PartialEq)]
struct State {
    max: f32,
    sum: f32,
}

impl State {
    const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Adds the result of a block, whose output is `values`.
    fn join(&mut self, out: &mut [f32], part: Self, values: &[f32]) {
        if *self == Self::EMPTY {
            *self = part;
            out.copy_from_slice(values);
            return;
        }
        let max = self.max.max(part.max);
        vectorized! {
            let (ours, theirs) = (exp_scalar(self.max - max), exp_scalar(part.max - max));
            *self = State { max, sum: self.sum * ours + part.sum * theirs };
            for (out, value) in out.iter_mut().zip(values) {
                *out = *out * ours + value * theirs;
            }
        }
    }

    /// Divides the output by the sum.
    fn divide(&self, out: &mut [f32]) {
        let factor = 1.0 / self.sum;
        out.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Queries, and the memory of a tile of them.
struct Tiles<'a> {
    kernel: KernelKind,
    queries: &'a Queries,
    q: &'a [f32],
    scores: &'a mut [f32],
    sums: &'a mut [f32],
}

impl<'a> Tiles<'a> {
    fn new(
        queries: &'a Queries,
        q: &'a [f32],
        dim: usize,
        scores: &'a mut Vec<f32>,
        sums: &'a mut Vec<f32>,
    ) -> Self {
        for (memory, len) in [(&mut *scores, TILE * BLOCK), (&mut *sums, TILE * dim.next_multiple_of(PANEL))]
        {
            if memory.len() < len {
                memory.resize(len, 0.0);
            }
        }
        Self { kernel: KernelKind::selected(), queries, q, scores, sums }
    }

    /// Runs the queries at `places`, whose rows ascend and attend to part of `block`, in tiles of about the same size.
    /// `take` receives the result of each query.
    fn run<R: KvRun>(
        &mut self,
        kv: KvHeads<'_, R>,
        kv_head: usize,
        block: Range<usize>,
        places: &[Place],
        take: &mut impl FnMut(Place, State, &[f32]),
    ) {
        let count = places.len();
        let tiles = count.div_ceil(TILE);
        for tile in 0..tiles {
            let places = &places[count * tile / tiles..count * (tile + 1) / tiles];
            self.tile(kv, kv_head, &block, places, take);
        }
    }

    fn tile<R: KvRun>(
        &mut self,
        kv: KvHeads<'_, R>,
        kv_head: usize,
        block: &Range<usize>,
        places: &[Place],
        take: &mut impl FnMut(Place, State, &[f32]),
    ) {
        let dim = kv.head_dim();
        let seen = |place: &Place| {
            let seen = self.queries.seen(place.row);
            seen.start.max(block.start)..seen.end.min(block.end)
        };
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return };
        // The first row reaches farthest back and the last farthest ahead.
        let (from, to) = (seen(first).start / PANEL * PANEL, seen(last).end);
        let length = (to - from).next_multiple_of(PANEL);

        let mut rows: [&[f32]; TILE] = [&[]; TILE];
        for (row, place) in rows.iter_mut().zip(places) {
            *row = &self.q[place.offset..][..dim];
        }
        let keys = Panels {
            values: R::values(kv.key_panels(kv_head, from / PANEL, length / PANEL)),
            count: length / PANEL,
            stride: dim,
            depth: dim,
        };
        multiply_panels(self.kernel, &rows[..places.len()], keys, false, self.scores, length);

        let scale = self.queries.scale;
        let mut states = [State::EMPTY; TILE];
        // Weighted sums of the lowest values of grids, which all dimensions share.
        let mut least = [0.0; TILE];
        let scores = &mut self.scores[..places.len() * length];
        let by_row = scores.chunks_exact_mut(length).zip(places).zip(&mut states).zip(rows).zip(&mut least);
        vectorized! {
            for ((((scores, place), state), q), least) in by_row {
                let seen = seen(place);
                let (start, end) = (seen.start - from, seen.end - from);
                scores[..start].fill(0.0);
                scores[end..].fill(0.0);
                let scores = &mut scores[start..end];
                let grids = kv.grids(kv_head, seen);
                if let Some((keys, _)) = grids {
                    let q_sum = lanes::sum(q);
                    for (score, grid) in scores.iter_mut().zip(keys) {
                        *score = *score * grid.scale + q_sum * grid.least;
                    }
                }
                let (max, sum) = exponentials(scores, scale);
                *state = State { max: max * scale, sum };
                if let Some((_, values)) = grids {
                    let mut lane_sums = [0.0_f32; PANEL];
                    for (scores, grids) in scores.chunks_mut(PANEL).zip(values.chunks(PANEL)) {
                        for ((score, grid), sum) in scores.iter_mut().zip(grids).zip(&mut lane_sums) {
                            *sum += *score * grid.least;
                            *score *= grid.scale;
                        }
                    }
                    *least = lane_sums.iter().sum();
                }
            }
        }

        for (row, scores) in rows.iter_mut().zip(self.scores.chunks_exact(length)) {
            *row = scores;
        }
        let (values, stride) = kv.value_panels(kv_head, from..to);
        let panels = dim.div_ceil(PANEL);
        let values = Panels { values: R::values(values), count: panels, stride, depth: to - from };
        multiply_panels(self.kernel, &rows[..places.len()], values, false, self.sums, panels * PANEL);
        let sums = self.sums.chunks_exact_mut(panels * PANEL);
        for (((sums, place), state), least) in sums.zip(places).zip(states).zip(least) {
            if least != 0.0 {
                sums.iter_mut().for_each(|sum| *sum += least);
            }
            take(*place, state, &sums[..dim]);
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

    /// Attention of the query at `position` by definition, in f64.
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
            let mut layer = KvLayer::<Vec<[f32; PANEL]>>::new(kv_heads, dim, positions);
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
                // A head by itself gives the same bits as among others.
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

    /// 16-bit keys and values give the same results as the same rounded values in 32 bits.
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
            let mut wide = KvLayer::<Vec<[f32; PANEL]>>::new(kv_heads, dim, positions);
            let mut narrow = KvLayer::<Vec<[f16; PANEL]>>::new(kv_heads, dim, positions);
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

    /// Several blocks, with and without a window, agree with the definition, with single rows, and with blocks divided
    /// into units.
    #[test]
    fn blocks_give_what_all_positions_give() {
        let mut scratch = AttentionScratch::default();
        for (window, start) in [(None, 600), (Some(300), 600), (Some(256), 511), (Some(20), 700), (None, 255)]
        {
            let case = Case { kv_heads: 2, group: 3, dim: 24, window, scale: 0.3 };
            let Case { kv_heads, group, dim, window, scale } = case;
            let (positions, kv_width, width) = (start + 20, kv_heads * dim, kv_heads * group * dim);
            let (keys, values) = (wave(positions * kv_width, 17), wave(positions * kv_width, 41));
            let q = wave(positions * width, 31);
            let mut layer = KvLayer::<Vec<[f16; PANEL]>>::new(kv_heads, dim, positions);
            layer.store(0, &keys, &values).unwrap();
            let round = |x: &[f32]| -> Vec<f32> { x.iter().map(|&x| f16::from_f32(x).to_f32()).collect() };
            let (keys, values) = (round(&keys), round(&values));
            let kv = layer.slice(0..kv_heads);
            let queries = Queries { start, rows: 20, row_stride: width, group, window, scale };
            let mut all = vec![f32::NAN; 20 * width];
            attend(kv, &queries, &q[start * width..], &mut all, &mut scratch);
            for (row, all) in all.chunks_exact(width).enumerate() {
                let position = start + row;
                let q = &q[position * width..][..width];
                for (found, expected) in all.iter().zip(reference(&case, position, q, &keys, &values)) {
                    assert!((f64::from(*found) - expected).abs() < 3e-6, "{window:?}: {found} {expected}");
                }
                let queries = Queries { start: position, rows: 1, ..queries };
                let mut alone = vec![f32::NAN; width];
                attend(kv, &queries, q, &mut alone, &mut scratch);
                assert_eq!(alone, all, "{window:?}: a row alone");
                let blocks = BlockAttention::new(kv, &queries);
                let mut parts = vec![f32::NAN; blocks.units() * blocks.unit_len()];
                for share in [1, 2, blocks.units()] {
                    let units = (0..blocks.units()).step_by(share);
                    for (first, parts) in units.zip(parts.chunks_mut(share * blocks.unit_len())) {
                        let units = first..(first + share).min(blocks.units());
                        blocks.attend(kv, units, q, parts, &mut scratch);
                    }
                    let mut joined = vec![f32::NAN; width];
                    blocks.join(&parts, &mut joined);
                    assert_eq!(joined, all, "{window:?}: blocks in shares of {share}");
                }
            }
        }
    }

    /// Attention on codes agrees with the definition on the dequantized values, and a row by itself with the row among
    /// others.
    fn codes_are_near<R: KvRun>(tolerance: f64) {
        let mut scratch = AttentionScratch::default();
        for (window, start) in [(None, 280), (Some(100), 280), (None, 3)] {
            let case = Case { kv_heads: 2, group: 3, dim: 24, window, scale: 0.3 };
            let Case { kv_heads, group, dim, window, scale } = case;
            let (positions, kv_width, width) = (start + 20, kv_heads * dim, kv_heads * group * dim);
            let (keys, values) = (wave(positions * kv_width, 17), wave(positions * kv_width, 41));
            let q = wave(positions * width, 31);
            let mut layer = KvLayer::<Vec<R>>::new(kv_heads, dim, positions);
            layer.store(0, &keys, &values).unwrap();
            // Round to a grid between the extremes of each position and head.
            let on_grid = |numbers: &[f32]| -> Vec<f32> {
                let steps = R::STEPS.unwrap();
                let of_head = |numbers: &[f32]| {
                    let least = numbers.iter().copied().fold(f32::INFINITY, f32::min);
                    let most = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let (scale, inverse) = ((most - least) / steps, 1.0 / ((most - least) / steps));
                    let on_grid = |x: &f32| least + ((x - least) * inverse).round_ties_even() * scale;
                    numbers.iter().map(on_grid).collect::<Vec<_>>()
                };
                numbers.chunks_exact(dim).flat_map(of_head).collect()
            };
            let (keys, values) = (on_grid(&keys), on_grid(&values));
            let kv = layer.slice(0..kv_heads);
            let queries = Queries { start, rows: 20, row_stride: width, group, window, scale };
            let mut all = vec![f32::NAN; 20 * width];
            attend(kv, &queries, &q[start * width..], &mut all, &mut scratch);
            for (row, all) in all.chunks_exact(width).enumerate() {
                let position = start + row;
                let q = &q[position * width..][..width];
                for (found, expected) in all.iter().zip(reference(&case, position, q, &keys, &values)) {
                    assert!(
                        (f64::from(*found) - expected).abs() < tolerance,
                        "{window:?}: {found} {expected}"
                    );
                }
                let mut alone = vec![f32::NAN; width];
                attend(kv, &Queries { start: position, rows: 1, ..queries }, q, &mut alone, &mut scratch);
                assert_eq!(alone, all, "{window:?}");
            }
        }
        // Equal values, and one that is NaN.
        let mut layer = KvLayer::<Vec<R>>::new(1, 16, 16);
        layer.store(0, &[0.5; 16], &[-3.0; 16]).unwrap();
        let queries = Queries { start: 0, rows: 1, row_stride: 16, group: 1, window: None, scale: 0.25 };
        let mut out = [f32::NAN; 16];
        attend(layer.slice(0..1), &queries, &wave(16, 31), &mut out, &mut scratch);
        assert_eq!(out, [-3.0; 16]);
        let mut bad = [1.0; 16];
        bad[5] = f32::NAN;
        layer.store(0, &[0.5; 16], &bad).unwrap();
        attend(layer.slice(0..1), &queries, &wave(16, 31), &mut out, &mut scratch);
        assert!(out.iter().all(|value| value.is_nan()), "{out:?}");
    }

    #[test]
    fn codes_give_what_their_values_give() {
        codes_are_near::<[i8; PANEL]>(2e-5);
        codes_are_near::<[u8; PANEL / 2]>(2e-5);
    }

    #[test]
    fn what_was_stored_later_is_not_seen() {
        let mut layer = KvLayer::<Vec<[f32; PANEL]>>::new(1, 16, 32);
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
