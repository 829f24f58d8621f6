//! Matrix products for training, with operands in f32 or rounded to BF16.
//!
//! The right matrix is packed once into panels ([`pack_panel`]). After that any rows of the result can be computed
//! independently ([`matmul_rows`]), so that the caller can split the work among threads. An element of the result has
//! the same bits however the rows are split: it is the sum over blocks of [`PanelElement::BLOCK`] elements, in order, of
//! the sum of the block's terms.

use std::ops::Range;

use crate::bf16::Bf16Pair;
use crate::matrix::Matrix;
use crate::panel::PANEL;

/// Number of columns of a packed panel.
pub const PANEL_COLUMNS: usize = PANEL;

/// Number of rows that are computed together. With a panel's two AVX2 vectors each they leave registers for the
/// operands.
pub const TILE_ROWS: usize = slm_kernels::PANEL_ROWS;

/// Number of panels that are multiplied together. With AVX-512 their sums fill the registers.
const GROUP: usize = 4;

/// The element of a packed matrix, which says what the operands of a product are rounded to: `f32` to nothing, and
/// [`Bf16Pair`] to BF16. Sums are f32 in both cases.
pub trait PanelElement: Copy + Default + Send + Sync + 'static {
    /// Number of consecutive terms of a sum that an element holds.
    const TERMS: usize;

    /// Number of elements whose terms are summed in registers before they are added to the result.
    const BLOCK: usize;

    /// Number of elements that hold `terms` terms.
    fn count(terms: usize) -> usize {
        terms.div_ceil(Self::TERMS)
    }

    /// Packs columns `PANEL_COLUMNS * panel ..` of `b`, as [`pack_panel`].
    #[doc(hidden)]
    fn pack(b: Matrix<'_>, panel: usize, out: &mut [Self]);

    /// Elements `block` of rows `rows` of `a`, in `scratch` unless they can be read where they are.
    #[doc(hidden)]
    fn rows<'a>(
        a: Matrix<'a>,
        rows: Range<usize>,
        block: Range<usize>,
        scratch: &'a mut MatmulScratch,
    ) -> PackedRows<'a, Self>;

    /// Computes a tile.
    #[doc(hidden)]
    fn multiply(tile: Tile<'_, Self>);
}

/// Rows of the left matrix.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct PackedRows<'a, E> {
    pub(crate) elements: &'a [E],
    /// Distance from one row to the next.
    pub(crate) stride: usize,
}

/// One block of consecutive panels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PanelBlock<'a, E> {
    /// The elements of all panels, and those between them.
    pub(crate) elements: &'a [E],
    /// Number of panels.
    pub(crate) count: usize,
    /// Distance in runs of [`PANEL_COLUMNS`] elements from one panel to the next.
    pub(crate) stride: usize,
    /// Number of runs that are read of each panel.
    pub(crate) depth: usize,
}

/// The product of at most [`TILE_ROWS`] rows with panels.
#[doc(hidden)]
#[derive(Debug)]
pub struct Tile<'a, E> {
    pub(crate) rows: &'a [&'a [E]],
    pub(crate) panels: PanelBlock<'a, E>,
    /// `true` to add the sums to what `out` contains.
    pub(crate) accumulate: bool,
    /// `[rows.len(), out_stride]`.
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
}

/// Writes `sums` to `out`, or adds them to what it contains.
#[inline(always)]
pub(crate) fn put_sums(out: &mut [f32], sums: &[f32], accumulate: bool) {
    if accumulate {
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
    } else {
        out.copy_from_slice(sums);
    }
}

/// Packs columns `PANEL_COLUMNS * panel ..` of `b` as `[E::count(rows), PANEL_COLUMNS]`. Missing columns become zeros.
///
/// # Panics
/// If there is no such panel or `out` has another size.
pub fn pack_panel<E: PanelElement>(b: Matrix<'_>, panel: usize, out: &mut [E]) {
    let fits = panel < b.panels() && out.len() == E::count(b.rows()) * PANEL;
    assert!(fits, "pack_panel: sizes do not fit");
    E::pack(b, panel, out);
}

/// Memory for packed rows, reused from call to call.
#[derive(Debug, Default)]
pub struct MatmulScratch {
    /// Rows of a transposed matrix, `[rows, terms of the block]`.
    pub(crate) rows: Vec<f32>,
    /// Rows rounded to BF16, `[rows, pairs of the block]`.
    pub(crate) pairs: Vec<Bf16Pair>,
}

/// Computes rows `rows` of `a b`, or adds them to `out`.
///
/// # Shapes
/// - `a`: `[m, k]`
/// - `packed`: all panels of `b`, `[panels, E::count(k), PANEL_COLUMNS]`
/// - `out`: `[rows.len(), columns]`
///
/// # Panics
/// If sizes do not fit.
pub fn matmul_rows<E: PanelElement>(
    a: Matrix<'_>,
    rows: Range<usize>,
    packed: &[E],
    columns: usize,
    mut accumulate: bool,
    out: &mut [f32],
    scratch: &mut MatmulScratch,
) {
    let depth = E::count(a.cols());
    assert!(rows.start <= rows.end && rows.end <= a.rows(), "matmul: no such rows");
    assert_eq!(packed.len(), columns.div_ceil(PANEL) * depth * PANEL, "matmul: size of the packed matrix");
    assert_eq!(out.len(), rows.len() * columns, "matmul: size of the result");
    if depth == 0 && !accumulate {
        out.fill(0.0);
    }
    if out.is_empty() {
        return;
    }
    for from in (0..depth).step_by(E::BLOCK) {
        let block = from..(from + E::BLOCK).min(depth);
        let lhs = E::rows(a, rows.clone(), block.clone(), scratch);
        multiply_block(lhs, rows.len(), packed, depth, block, columns, accumulate, out);
        accumulate = true;
    }
}

/// Multiplies `rows` rows with one block of all panels.
#[allow(clippy::too_many_arguments, reason = "the sizes of three matrices")]
fn multiply_block<E: PanelElement>(
    lhs: PackedRows<'_, E>,
    rows: usize,
    packed: &[E],
    depth: usize,
    block: Range<usize>,
    columns: usize,
    accumulate: bool,
    out: &mut [f32],
) {
    let mut sums = [0.0; TILE_ROWS * PANEL];
    for first in (0..columns.div_ceil(PANEL)).step_by(GROUP) {
        // Panels whose columns are all in the result, and whether a partial panel follows.
        let count = GROUP.min(columns / PANEL - first);
        let is_partial = count < GROUP && (first + count) * PANEL < columns;
        let panels = |first: usize, count: usize| {
            let end = (first + count.max(1) - 1) * depth + block.end;
            let elements = &packed[(first * depth + block.start) * PANEL..end * PANEL];
            PanelBlock { elements, count, stride: depth, depth: block.len() }
        };
        let (whole, partial) = (panels(first, count), is_partial.then(|| panels(first + count, 1)));
        for at in (0..rows).step_by(TILE_ROWS) {
            let height = TILE_ROWS.min(rows - at);
            // Rows past the last repeat it.
            let tile: [&[E]; TILE_ROWS] =
                std::array::from_fn(|i| &lhs.elements[(at + i).min(rows - 1) * lhs.stride..][..block.len()]);
            let rows = &tile[..height];
            let out = &mut out[at * columns + first * PANEL..];
            if count > 0 {
                E::multiply(Tile { rows, panels: whole, accumulate, out: &mut *out, out_stride: columns });
            }
            if let Some(panels) = partial {
                E::multiply(Tile { rows, panels, accumulate: false, out: &mut sums, out_stride: PANEL });
                for (out, sums) in out.chunks_mut(columns).zip(sums.as_chunks::<PANEL>().0).take(height) {
                    let out = &mut out[count * PANEL..][..columns % PANEL];
                    put_sums(out, &sums[..out.len()], accumulate);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "matmul_tests.rs"]
mod tests;
