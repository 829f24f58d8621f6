//! Matrix products in f32. The terms of a block are summed in order.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use slm_kernels::{FloatValues, KernelKind, Panels, multiply_panels};

use crate::dispatch::vectorize;
use crate::matmul::{MatmulScratch, PackedRows, PanelBlock, PanelElement, TILE_ROWS, Tile, put_sums};
use crate::matrix::Matrix;
use crate::panel::{PANEL, product};

impl PanelElement for f32 {
    const TERMS: usize = 1;

    /// A panel of that depth and the rows it is multiplied with stay in the first-level cache.
    const BLOCK: usize = 256;

    fn pack(b: Matrix<'_>, panel: usize, out: &mut [Self]) {
        b.copy_panel(panel, 0..b.rows(), out);
    }

    fn rows<'a>(
        a: Matrix<'a>,
        rows: Range<usize>,
        block: Range<usize>,
        scratch: &'a mut MatmulScratch,
    ) -> PackedRows<'a, Self> {
        if let Some(values) = a.row_major() {
            let elements = &values[rows.start * a.cols() + block.start..];
            return PackedRows { elements, stride: a.cols() };
        }
        scratch.rows.resize(rows.len() * block.len(), 0.0);
        a.copy_rows(rows, block.clone(), &mut scratch.rows);
        PackedRows { elements: &scratch.rows, stride: block.len() }
    }

    fn multiply(tile: Tile<'_, Self>) {
        match KernelKind::best() {
            KernelKind::Scalar => vectorize(tile),
            kernel => {
                let PanelBlock { elements, count, stride, depth } = tile.panels;
                let panels = Panels { values: FloatValues::F32(elements).into(), count, stride, depth };
                multiply_panels(kernel, tile.rows, panels, tile.accumulate, tile.out, tile.out_stride);
            }
        }
    }
}

/// Computes a tile on processors without a kernel. The bits are the same where multiplications and additions are fused.
impl WithSimd for Tile<'_, f32> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let PanelBlock { elements, count, stride, depth } = self.panels;
        let rows: [&[f32]; TILE_ROWS] = std::array::from_fn(|i| self.rows[i.min(self.rows.len() - 1)]);
        for panel in 0..count {
            let values = &elements[panel * stride * PANEL..][..depth * PANEL];
            let sums = product::<S, TILE_ROWS, 1>(simd, depth, rows, [values]);
            for (i, [sums]) in sums.iter().enumerate().take(self.rows.len()) {
                let out = &mut self.out[i * self.out_stride + panel * PANEL..][..PANEL];
                put_sums(out, sums, self.accumulate);
            }
        }
    }
}
