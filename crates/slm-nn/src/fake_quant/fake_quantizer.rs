//! Fake quantization of a matrix with fixed parameters, on slices.

use rayon::prelude::*;
use slm_quant_core::{QParams, QuantRange, QuantScheme, Quantizer, Result, check_finite, vectorized};
use slm_runtime::{equal_parts, written_by_parts};

/// Number of values that one thread takes at a time, so that small matrices are not split.
const CHUNK: usize = 1 << 14;

/// Scale and zero point of every value of a `[rows, cols]` matrix.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FakeQuantizer {
    range: QuantRange,
    cols: usize,
    /// Columns that share a scale within a row.
    width: usize,
    /// One entry for the matrix, or one for each row and group.
    params: Vec<QParams>,
}

impl FakeQuantizer {
    /// The grid of a weight with these parameters, in the order of `QuantizedMatrix::scales`.
    pub(crate) fn of_weight(scheme: QuantScheme, cols: usize, params: Vec<QParams>) -> Result<Self> {
        Ok(Self { range: scheme.range(), cols, width: scheme.granularity.group_width(cols)?, params })
    }

    /// The grid of activations with these parameters: one entry, or one for each row.
    pub(crate) fn of_activations(cols: usize, params: Vec<QParams>) -> Self {
        Self { range: QuantRange::UINT8, cols, width: cols, params }
    }

    pub(crate) fn params(&self) -> &[QParams] {
        &self.params
    }

    fn index(&self, row: usize, group: usize) -> usize {
        if self.params.len() == 1 { 0 } else { row * self.cols.div_ceil(self.width) + group }
    }

    /// Returns `dequantize(quantize(x))`.
    ///
    /// # Errors
    /// [`slm_quant_core::Error::NotFinite`] for a value or scale that is not finite.
    pub(crate) fn forward(&self, x: &[f32]) -> Result<Vec<f32>> {
        let block = self.block();
        let ([y], results) = written_by_parts(&equal_parts(x.len(), block), |index, [y]: [&mut [f32]; 1]| {
            let x = &x[index * block..][..y.len()];
            self.for_groups_of_block(
                index,
                x,
                y,
                #[inline(always)]
                |quantizer, x, y| quantizer.fake_quantize_into(x, y),
            )
            .map(drop)
        });
        results.into_iter().collect::<Result<()>>()?;
        Ok(y)
    }

    /// Turns `grad` into the gradient with respect to `x`: unchanged where a value is in range, 0 where it was clipped.
    ///
    /// # Errors
    /// As [`FakeQuantizer::forward`].
    pub(crate) fn backward(&self, x: &[f32], grad: &mut [f32]) -> Result<()> {
        self.for_groups(
            x,
            grad,
            #[inline(always)]
            |quantizer, x, grad| quantizer.clear_clipped(x, grad),
        )?;
        Ok(())
    }

    /// [`FakeQuantizer::backward`] that also returns the gradients with respect to the scales, each multiplied by
    /// `factor`.
    ///
    /// Sums are computed group by group and added in order, so that they do not depend on the number of threads.
    ///
    /// # Errors
    /// As [`FakeQuantizer::forward`].
    pub(crate) fn learned_backward(&self, x: &[f32], grad: &mut [f32], factor: f64) -> Result<Vec<f32>> {
        let sums = self.for_groups(
            x,
            grad,
            #[inline(always)]
            |quantizer, x, grad| quantizer.scale_backward(x, grad),
        )?;
        let mut by_scale = vec![0.0; self.params.len()];
        for (index, sum) in sums.into_iter().flatten().enumerate() {
            by_scale[if self.params.len() == 1 { 0 } else { index }] += sum;
        }
        Ok(by_scale.into_iter().map(|sum| (sum * factor) as f32).collect())
    }

    /// Calls `apply` with the quantizer of each group, its values in `x` and those in `y`, on all threads. Returns one
    /// result per block of rows, in order.
    fn for_groups<R: Send>(
        &self,
        x: &[f32],
        y: &mut [f32],
        apply: impl Fn(Quantizer, &[f32], &mut [f32]) -> R + Sync,
    ) -> Result<Vec<Vec<R>>> {
        let block = self.block();
        let blocks = y.par_chunks_mut(block).zip(x.par_chunks(block)).enumerate();
        blocks.map(|(index, (y, x))| self.for_groups_of_block(index, x, y, &apply)).collect()
    }

    /// Number of values of a block of rows.
    fn block(&self) -> usize {
        CHUNK.div_ceil(self.cols).max(1) * self.cols
    }

    /// [`FakeQuantizer::for_groups`] of one block of rows, on this thread.
    #[inline(always)]
    fn for_groups_of_block<R>(
        &self,
        block: usize,
        x: &[f32],
        y: &mut [f32],
        apply: impl Fn(Quantizer, &[f32], &mut [f32]) -> R,
    ) -> Result<Vec<R>> {
        let Self { range, cols, width, .. } = *self;
        let first_row = block * self.block() / cols;
        check_finite("x", x)?;
        let mut results = Vec::with_capacity(x.len() / cols * cols.div_ceil(width));
        vectorized!({
            for (row, (x, y)) in x.chunks(cols).zip(y.chunks_mut(cols)).enumerate() {
                for (group, (x, y)) in x.chunks(width).zip(y.chunks_mut(width)).enumerate() {
                    let params = self.params[self.index(first_row + row, group)];
                    params.check(range)?;
                    results.push(apply(Quantizer::new(params, range), x, y));
                }
            }
            Ok(results)
        })
    }
}
