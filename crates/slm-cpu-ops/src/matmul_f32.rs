//! Matrix products in f32. The terms of a block are summed in order.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use slm_kernels::{FloatValues, KernelKind, Panels, multiply_panels};

use crate::dispatch::vectorize;
use crate::matmul::{MatmulScratch, PackedRows, PanelBlock, PanelElement, TILE_ROWS};
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

    fn multiply(
        rows: &[&[Self]],
        panels: PanelBlock<'_, Self>,
        accumulate: bool,
        out: &mut [f32],
        out_stride: usize,
    ) {
        let PanelBlock { elements, count, stride, depth } = panels;
        match KernelKind::best() {
            KernelKind::Scalar => vectorize(Tile { rows, panels, accumulate, out, out_stride }),
            kernel => {
                let panels = Panels { values: FloatValues::F32(elements).into(), count, stride, depth };
                multiply_panels(kernel, rows, panels, accumulate, out, out_stride);
            }
        }
    }
}

/// A tile for processors without a kernel. The bits are the same where multiplications and additions are fused.
struct Tile<'a> {
    rows: &'a [&'a [f32]],
    panels: PanelBlock<'a, f32>,
    accumulate: bool,
    out: &'a mut [f32],
    out_stride: usize,
}

impl WithSimd for Tile<'_> {
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
                if self.accumulate {
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                } else {
                    out.copy_from_slice(sums);
                }
            }
        }
    }
}
