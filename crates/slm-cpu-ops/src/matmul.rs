//! Matrix products in f32, for the large products of training.
//!
//! The right matrix is packed once into panels ([`pack_panel`]); after that any rows of the result can be computed
//! apart from all others ([`matmul_rows`]), which is how a caller splits the work among threads. An element of
//! the result is the same to the last bit however the rows are split: it is the sum over blocks of [`DEPTH`]
//! terms, in order, of the sum of the block's terms, in order.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::dispatch::{vectorize, vectorized};
use crate::panel::{PANEL, product};

/// Columns of a packed panel.
pub const PANEL_COLUMNS: usize = PANEL;

/// Terms that are summed in registers before they are added to the result: a panel of that depth and the rows it
/// meets stay in the first-level cache.
const DEPTH: usize = 256;

/// Rows that are computed together. Times a panel's two AVX2 vectors they leave registers for the operands.
pub const TILE_ROWS: usize = 6;
const TILE: usize = TILE_ROWS;

/// A matrix in a slice: row-major, or the transpose of a row-major one.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    /// Whether `data` holds the columns one after the other.
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// `data` as `[rows, cols]`, row-major.
    ///
    /// # Panics
    /// When the length is not `rows * cols`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "matrix: {rows} x {cols} values");
        Self { data, rows, cols, transposed: false }
    }

    /// The transpose, `[cols, rows]`, of the same data.
    #[must_use]
    pub fn transpose(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Rows.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Panels that the columns fill, the last perhaps in part.
    pub fn panels(self) -> usize {
        self.cols.div_ceil(PANEL)
    }
}

/// Packs columns `PANEL_COLUMNS * panel ..` of `b` as `[rows, PANEL_COLUMNS]`, missing ones as zeros.
///
/// # Panics
/// When there is no such panel or `out` has another size.
pub fn pack_panel(b: Matrix<'_>, panel: usize, out: &mut [f32]) {
    assert!(panel < b.panels() && out.len() == b.rows * PANEL, "pack_panel: sizes do not fit");
    let first = panel * PANEL;
    let count = PANEL.min(b.cols - first);
    let (out, _) = out.as_chunks_mut::<PANEL>();
    if count < PANEL {
        out.as_flattened_mut().fill(0.0);
    }
    if b.transposed {
        vectorized! {
            for column in 0..count {
                let values = &b.data[(first + column) * b.rows..][..b.rows];
                for (out, value) in out.iter_mut().zip(values) {
                    out[column] = *value;
                }
            }
        }
    } else {
        for (out, row) in out.iter_mut().zip(b.data.chunks_exact(b.cols)) {
            match row[first..].first_chunk::<PANEL>() {
                Some(whole) => *out = *whole,
                None => out[..count].copy_from_slice(&row[first..]),
            }
        }
    }
}

/// Memory for packed rows, to be kept from call to call.
#[derive(Debug, Default)]
pub struct MatmulScratch {
    tiles: Vec<[f32; TILE]>,
}

/// Rows `rows` of `a b`, or these added to what `out` holds.
///
/// # Shapes
/// - `a`: `[m, k]`
/// - `packed`: all panels of `b`, `[panels, k, PANEL_COLUMNS]`
/// - `out`: `[rows.len(), columns]`
///
/// # Panics
/// When sizes do not fit.
pub fn matmul_rows(
    a: Matrix<'_>,
    rows: Range<usize>,
    packed: &[f32],
    columns: usize,
    accumulate: bool,
    out: &mut [f32],
    scratch: &mut MatmulScratch,
) {
    assert!(rows.start <= rows.end && rows.end <= a.rows, "matmul: no such rows");
    assert_eq!(packed.len(), columns.div_ceil(PANEL) * a.cols * PANEL, "matmul: size of the packed matrix");
    assert_eq!(out.len(), rows.len() * columns, "matmul: size of the result");
    if a.cols == 0 && !accumulate {
        out.fill(0.0);
    }
    if out.is_empty() || a.cols == 0 {
        return;
    }
    vectorize(Matmul { a, rows, packed, columns, accumulate, out, tiles: &mut scratch.tiles });
}

struct Matmul<'a> {
    a: Matrix<'a>,
    rows: Range<usize>,
    packed: &'a [f32],
    columns: usize,
    accumulate: bool,
    out: &'a mut [f32],
    tiles: &'a mut Vec<[f32; TILE]>,
}

impl WithSimd for Matmul<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let depth = self.a.cols;
        let mut from = 0;
        while from < depth {
            let block = from..(from + DEPTH).min(depth);
            if self.a.transposed {
                self.pack_rows(block.clone());
            }
            for panel in 0..self.columns.div_ceil(PANEL) {
                self.panel(simd, panel, block.clone());
            }
            from = block.end;
            // Later blocks add to the first.
            self.accumulate = true;
        }
    }
}

impl Matmul<'_> {
    /// Interleaves the rows of each tile, column by column.
    #[inline(always)]
    fn pack_rows(&mut self, block: Range<usize>) {
        let (count, length) = (self.rows.len(), block.len());
        let tiles = count.div_ceil(TILE);
        self.tiles.clear();
        self.tiles.resize(tiles * length, [0.0; TILE]);
        for (k, column) in self.a.data.chunks_exact(self.a.rows).skip(block.start).take(length).enumerate() {
            let column = &column[self.rows.clone()];
            let (whole, rest) = column.as_chunks::<TILE>();
            for (tile, values) in whole.iter().enumerate() {
                self.tiles[tile * length + k] = *values;
            }
            if !rest.is_empty() {
                self.tiles[(tiles - 1) * length + k][..rest.len()].copy_from_slice(rest);
            }
        }
    }

    /// All rows times one block of one panel, which stays in the cache.
    #[inline(always)]
    fn panel<S: Simd>(&mut self, simd: S, panel: usize, block: Range<usize>) {
        let depth = self.a.cols;
        let values = &self.packed[(panel * depth + block.start) * PANEL..][..block.len() * PANEL];
        let mut at = 0;
        while at < self.rows.len() {
            let height = TILE.min(self.rows.len() - at);
            if self.a.transposed {
                let tile = &self.tiles[at / TILE * block.len()..][..block.len()];
                let sums = product::<S, TILE, 1>(simd, block.len(), tile, [values]);
                self.store(panel, at, &sums[..height]);
            } else {
                match height {
                    1 => self.row_tile::<S, 1>(simd, panel, at, block.clone(), values),
                    2 => self.row_tile::<S, 2>(simd, panel, at, block.clone(), values),
                    3 => self.row_tile::<S, 3>(simd, panel, at, block.clone(), values),
                    4 => self.row_tile::<S, 4>(simd, panel, at, block.clone(), values),
                    5 => self.row_tile::<S, 5>(simd, panel, at, block.clone(), values),
                    _ => self.row_tile::<S, TILE>(simd, panel, at, block.clone(), values),
                }
            }
            at += height;
        }
    }

    #[inline(always)]
    fn row_tile<S: Simd, const M: usize>(
        &mut self,
        simd: S,
        panel: usize,
        at: usize,
        block: Range<usize>,
        values: &[f32],
    ) {
        let first = (self.rows.start + at) * self.a.cols + block.start;
        let rows: [&[f32]; M] =
            std::array::from_fn(|i| &self.a.data[first + i * self.a.cols..][..block.len()]);
        let sums = product::<S, M, 1>(simd, block.len(), rows, [values]);
        self.store(panel, at, &sums);
    }

    #[inline(always)]
    fn store(&mut self, panel: usize, at: usize, sums: &[[[f32; PANEL]; 1]]) {
        let first = panel * PANEL;
        let count = PANEL.min(self.columns - first);
        for (i, [sums]) in sums.iter().enumerate() {
            let out = &mut self.out[(at + i) * self.columns + first..][..count];
            match (out.first_chunk_mut::<PANEL>(), self.accumulate) {
                (Some(out), true) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
                (Some(out), false) => *out = *sums,
                (None, true) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
                (None, false) => out.copy_from_slice(&sums[..count]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize, step: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * step) % 97) as f32 / 48.0 - 1.0).collect()
    }

    fn pack(b: Matrix<'_>) -> Vec<f32> {
        let mut packed = vec![f32::NAN; b.panels() * b.rows() * PANEL];
        if b.rows() > 0 {
            for (panel, out) in packed.chunks_mut(b.rows() * PANEL).enumerate() {
                pack_panel(b, panel, out);
            }
        }
        packed
    }

    fn transposed(data: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        (0..cols).flat_map(|c| (0..rows).map(move |r| data[r * cols + c])).collect()
    }

    #[test]
    fn equals_its_definition_in_every_layout() {
        for (m, n, k) in [(1, 1, 1), (7, 5, 3), (6, 16, 256), (13, 33, 257), (29, 47, 600), (3, 4, 0)] {
            let (a, b) = (wave(m * k, 31), wave(k * n, 17));
            let (a_t, b_t) = (transposed(&a, m, k), transposed(&b, k, n));
            let mut results = Vec::new();
            for a in [Matrix::new(&a, m, k), Matrix::new(&a_t, k, m).transpose()] {
                for b in [Matrix::new(&b, k, n), Matrix::new(&b_t, n, k).transpose()] {
                    let mut out = vec![f32::NAN; m * n];
                    let mut scratch = MatmulScratch::default();
                    matmul_rows(a, 0..m, &pack(b), n, false, &mut out, &mut scratch);
                    results.push(out);
                }
            }
            for (at, found) in results[0].iter().enumerate() {
                let (i, j) = (at / n, at % n);
                let e: f64 = (0..k).map(|t| f64::from(a[i * k + t]) * f64::from(b[t * n + j])).sum();
                assert!((f64::from(*found) - e).abs() < 1e-6 * (1.0 + k as f64), "{m} {n} {k}: {found} {e}");
            }
            assert!(results.iter().all(|other| *other == results[0]), "{m} {n} {k}");
        }
    }

    #[test]
    fn rows_apart_and_added_are_the_same_bits() {
        let (m, n, k) = (31, 20, 300);
        let (a, b) = (wave(m * k, 31), wave(k * n, 17));
        let packed = pack(Matrix::new(&b, k, n));
        let a_t = transposed(&a, m, k);
        let mut scratch = MatmulScratch::default();
        for a in [Matrix::new(&a, m, k), Matrix::new(&a_t, k, m).transpose()] {
            let mut whole = vec![f32::NAN; m * n];
            matmul_rows(a, 0..m, &packed, n, false, &mut whole, &mut scratch);
            let mut parts = vec![f32::NAN; m * n];
            let mut at = 0;
            for height in [1, 5, 8, 6, 11] {
                let out = &mut parts[at * n..(at + height) * n];
                matmul_rows(a, at..at + height, &packed, n, false, out, &mut scratch);
                at += height;
            }
            assert_eq!(whole, parts);
            matmul_rows(a, 0..m, &packed, n, true, &mut parts, &mut scratch);
            for (twice, once) in parts.iter().zip(&whole) {
                assert!((twice - 2.0 * once).abs() <= 1e-5 * (1.0 + once.abs()), "{twice} {once}");
            }
        }
    }
}
