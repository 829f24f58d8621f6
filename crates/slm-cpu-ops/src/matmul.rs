//! Matrix products in f32, for the large products of training.
//!
//! The right matrix is packed once into panels ([`pack_panel`]). After that any rows of the result can be computed
//! independently ([`matmul_rows`]), so that the caller can split the work among threads. An element of the result has
//! the same bits however the rows are split: it is the sum over blocks of [`DEPTH`] terms, in order, of the sum of the
//! block's terms, in order.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use slm_kernels::{FloatValues, KernelKind, Panels, multiply_panels, transpose};

use crate::dispatch::vectorize;
use crate::panel::{PANEL, product};

/// Number of columns of a packed panel.
pub const PANEL_COLUMNS: usize = PANEL;

/// Number of terms that are summed in registers before they are added to the result. A panel of that depth and the rows
/// it is multiplied with stay in the first-level cache.
const DEPTH: usize = 256;

/// Number of rows that are computed together. With a panel's two AVX2 vectors each they leave registers for the
/// operands.
pub const TILE_ROWS: usize = slm_kernels::PANEL_ROWS;
const TILE: usize = TILE_ROWS;

/// Number of panels that are multiplied together. With AVX-512 their sums fill the registers.
const GROUP: usize = 4;

/// A matrix in a slice: row-major, or the transpose of a row-major one.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    /// `true` if `data` holds one column after the other.
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Wraps `data` as a row-major `[rows, cols]` matrix.
    ///
    /// # Panics
    /// If the length is not `rows * cols`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "matrix: {rows} x {cols} values");
        Self { data, rows, cols, transposed: false }
    }

    /// The transpose, `[cols, rows]`, of the same data.
    #[must_use]
    pub fn transpose(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Number of rows.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Number of panels that the columns fill, the last one perhaps in part.
    pub fn panels(self) -> usize {
        self.cols.div_ceil(PANEL)
    }
}

/// Packs columns `PANEL_COLUMNS * panel ..` of `b` as `[rows, PANEL_COLUMNS]`. Missing columns become zeros.
///
/// # Panics
/// If there is no such panel or `out` has another size.
pub fn pack_panel(b: Matrix<'_>, panel: usize, out: &mut [f32]) {
    assert!(panel < b.panels() && out.len() == b.rows * PANEL, "pack_panel: sizes do not fit");
    let first = panel * PANEL;
    let count = PANEL.min(b.cols - first);
    let (out, _) = out.as_chunks_mut::<PANEL>();
    if count < PANEL {
        out.as_flattened_mut().fill(0.0);
    }
    if b.transposed {
        let columns = &b.data[first * b.rows..];
        transpose(KernelKind::best(), [count, b.rows], columns, b.rows, out.as_flattened_mut(), PANEL);
    } else {
        for (out, row) in out.iter_mut().zip(b.data.chunks_exact(b.cols)) {
            match row[first..].first_chunk::<PANEL>() {
                Some(whole) => *out = *whole,
                None => out[..count].copy_from_slice(&row[first..]),
            }
        }
    }
}

/// Memory for packed rows, reused from call to call.
#[derive(Debug, Default)]
pub struct MatmulScratch {
    /// Rows of a transposed matrix, `[rows, depth of the block]`.
    rows: Vec<f32>,
}

/// Computes rows `rows` of `a b`, or adds them to `out`.
///
/// # Shapes
/// - `a`: `[m, k]`
/// - `packed`: all panels of `b`, `[panels, k, PANEL_COLUMNS]`
/// - `out`: `[rows.len(), columns]`
///
/// # Panics
/// If sizes do not fit.
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
    let matmul = Matmul { a, rows, packed, columns, accumulate, out, packed_rows: &mut scratch.rows };
    match KernelKind::best() {
        KernelKind::Scalar => vectorize(matmul),
        kernel => matmul.with_kernel(kernel),
    }
}

struct Matmul<'a> {
    a: Matrix<'a>,
    rows: Range<usize>,
    packed: &'a [f32],
    columns: usize,
    accumulate: bool,
    out: &'a mut [f32],
    packed_rows: &'a mut Vec<f32>,
}

/// For processors without a kernel. The bits are the same where multiplications and additions are fused.
impl WithSimd for Matmul<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        self.blocks(|matmul, block| {
            for panel in 0..matmul.columns.div_ceil(PANEL) {
                matmul.panel(simd, panel, block.clone());
            }
        });
    }
}

impl Matmul<'_> {
    /// Calls `add` with each block of terms, whose sums are added to those of the blocks before.
    #[inline(always)]
    fn blocks(&mut self, mut add: impl FnMut(&mut Self, Range<usize>)) {
        let depth = self.a.cols;
        let mut from = 0;
        while from < depth {
            let block = from..(from + DEPTH).min(depth);
            if self.a.transposed {
                self.pack_rows(block.clone());
            }
            from = block.end;
            add(self, block);
            self.accumulate = true;
        }
    }

    /// Transposes the columns of the left matrix into rows.
    fn pack_rows(&mut self, block: Range<usize>) {
        let (length, stride) = (block.len(), self.a.rows);
        self.packed_rows.resize(self.rows.len() * length, 0.0);
        let columns = &self.a.data[block.start * stride + self.rows.start..];
        let size = [length, self.rows.len()];
        transpose(KernelKind::best(), size, columns, stride, self.packed_rows, length);
    }

    /// Computes the product with a kernel, whose sums have the same order.
    fn with_kernel(mut self, kernel: KernelKind) {
        let (depth, columns) = (self.a.cols, self.columns);
        let mut sums = [0.0; TILE * PANEL];
        self.blocks(|matmul, block| {
            for first in (0..columns.div_ceil(PANEL)).step_by(GROUP) {
                // Panels whose columns are all in the result, and whether a partial panel follows.
                let count = GROUP.min(columns / PANEL - first);
                let is_partial = count < GROUP && (first + count) * PANEL < columns;
                let panels = |first: usize, count: usize| {
                    let end = (first + count.max(1) - 1) * depth + block.end;
                    let values =
                        FloatValues::F32(&matmul.packed[(first * depth + block.start) * PANEL..end * PANEL]);
                    Panels { values: values.into(), count, stride: depth, depth: block.len() }
                };
                let (whole, partial) = (panels(first, count), is_partial.then(|| panels(first + count, 1)));
                for at in (0..matmul.rows.len()).step_by(TILE) {
                    let height = TILE.min(matmul.rows.len() - at);
                    let rows = tile(matmul.a, &matmul.rows, matmul.packed_rows, at, &block);
                    let rows = &rows[..height];
                    let out = &mut matmul.out[at * columns + first * PANEL..];
                    multiply_panels(kernel, rows, whole, matmul.accumulate, out, columns);
                    if let Some(partial) = partial {
                        multiply_panels(kernel, rows, partial, false, &mut sums, PANEL);
                        for (i, sums) in sums.as_chunks::<PANEL>().0.iter().enumerate().take(height) {
                            matmul.store(first + count, at + i, sums);
                        }
                    }
                }
            }
        });
    }

    /// Multiplies all rows with one block of one panel, which stays in the cache.
    #[inline(always)]
    fn panel<S: Simd>(&mut self, simd: S, panel: usize, block: Range<usize>) {
        let depth = self.a.cols;
        let values = &self.packed[(panel * depth + block.start) * PANEL..][..block.len() * PANEL];
        for at in (0..self.rows.len()).step_by(TILE) {
            let rows = tile(self.a, &self.rows, self.packed_rows, at, &block);
            let sums = product::<S, TILE, 1>(simd, block.len(), rows, [values]);
            for (i, [sums]) in sums.iter().enumerate().take(self.rows.len() - at) {
                self.store(panel, at + i, sums);
            }
        }
    }

    #[inline(always)]
    fn store(&mut self, panel: usize, row: usize, sums: &[f32; PANEL]) {
        let first = panel * PANEL;
        let count = PANEL.min(self.columns - first);
        let out = &mut self.out[row * self.columns + first..][..count];
        match (out.first_chunk_mut::<PANEL>(), self.accumulate) {
            (Some(out), true) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
            (Some(out), false) => *out = *sums,
            (None, true) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
            (None, false) => out.copy_from_slice(&sums[..count]),
        }
    }
}

/// The rows of the left matrix from `at` on, within a block. Rows past the last repeat it.
#[inline(always)]
fn tile<'a>(
    a: Matrix<'a>,
    rows: &Range<usize>,
    packed_rows: &'a [f32],
    at: usize,
    block: &Range<usize>,
) -> [&'a [f32]; TILE] {
    let last = rows.len() - 1;
    std::array::from_fn(|i| {
        let row = (at + i).min(last);
        match a.transposed {
            true => &packed_rows[row * block.len()..][..block.len()],
            false => &a.data[(rows.start + row) * a.cols..][block.clone()],
        }
    })
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
