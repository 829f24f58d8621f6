//! Fake quantization of a matrix with fixed parameters, on slices.

use rayon::prelude::*;
use slm_quant_core::{
    QParams, QuantRange, QuantScheme, Result, fake_quantize_backward_into, fake_quantize_into,
    fake_quantize_learnable_backward_into,
};

/// Values that one thread takes at a time, so that small matrices are not split.
const CHUNK: usize = 1 << 14;

/// Number of a block of rows; where to write; values; their gradients.
type BackwardBlock<'a> = (usize, ((&'a mut [f32], &'a [f32]), &'a [f32]));

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

    /// `dequantize(quantize(x))`.
    ///
    /// # Errors
    /// [`slm_quant_core::Error::NotFinite`] for a value or scale that is not finite.
    pub(crate) fn forward(&self, x: &[f32]) -> Result<Vec<f32>> {
        let mut y = vec![0.0; x.len()];
        let apply = |(block, (y, x)): (usize, (&mut [f32], &[f32]))| {
            self.for_groups(block, x)
                .zip(self.split_mut(y))
                .try_for_each(|((params, _, x), y)| fake_quantize_into(x, params, self.range, y))
        };
        let block = self.block();
        y.par_chunks_mut(block).zip(x.par_chunks(block)).enumerate().try_for_each(apply)?;
        Ok(y)
    }

    /// The gradient by `x`: `grad` where a value is in range, 0 where it was clipped.
    ///
    /// # Errors
    /// As [`FakeQuantizer::forward`].
    pub(crate) fn backward(&self, x: &[f32], grad: &[f32]) -> Result<Vec<f32>> {
        let mut out = vec![0.0; x.len()];
        let block = self.block();
        let apply = |(block, ((out, x), grad)): BackwardBlock<'_>| {
            let groups = self.for_groups(block, x).zip(self.split(grad)).zip(self.split_mut(out));
            for (((params, _, x), grad), out) in groups {
                fake_quantize_backward_into(x, grad, params, self.range, out)?;
            }
            Ok::<_, slm_quant_core::Error>(())
        };
        let chunks = out.par_chunks_mut(block).zip(x.par_chunks(block)).zip(grad.par_chunks(block));
        chunks.enumerate().try_for_each(apply)?;
        Ok(out)
    }

    /// [`FakeQuantizer::backward`], and the gradients by the scales, each multiplied by `factor`.
    ///
    /// Sums are taken row by row and added in the order of rows, so that they do not depend on threads.
    ///
    /// # Errors
    /// As [`FakeQuantizer::forward`].
    pub(crate) fn learned_backward(
        &self,
        x: &[f32],
        grad: &[f32],
        factor: f64,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let mut out = vec![0.0; x.len()];
        let block = self.block();
        let apply = |(block, ((out, x), grad)): BackwardBlock<'_>| {
            let mut sums = Vec::new();
            let groups = self.for_groups(block, x).zip(self.split(grad)).zip(self.split_mut(out));
            for (((params, index, x), grad), out) in groups {
                let [by_scale, _] = fake_quantize_learnable_backward_into(x, grad, params, self.range, out)?;
                sums.push((index, by_scale));
            }
            Ok(sums)
        };
        let chunks = out.par_chunks_mut(block).zip(x.par_chunks(block)).zip(grad.par_chunks(block));
        let sums: Result<Vec<Vec<(usize, f64)>>> = chunks.enumerate().map(apply).collect();
        let mut by_scale = vec![0.0; self.params.len()];
        for (index, sum) in sums?.into_iter().flatten() {
            by_scale[index] += sum;
        }
        Ok((out, by_scale.into_iter().map(|sum| (sum * factor) as f32).collect()))
    }

    /// Values of a block: whole rows.
    fn block(&self) -> usize {
        CHUNK.div_ceil(self.cols).max(1) * self.cols
    }

    /// The groups of block number `block`, whose values are `x`: parameters, their index, values.
    fn for_groups<'a>(
        &'a self,
        block: usize,
        x: &'a [f32],
    ) -> impl Iterator<Item = (QParams, usize, &'a [f32])> + 'a {
        let first_row = block * (self.block() / self.cols);
        x.chunks(self.cols).enumerate().flat_map(move |(row, x)| {
            x.chunks(self.width).enumerate().map(move |(group, x)| {
                let index = self.index(first_row + row, group);
                (self.params[index], index, x)
            })
        })
    }

    fn split<'a>(&self, values: &'a [f32]) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        let width = self.width;
        values.chunks(self.cols).flat_map(move |row| row.chunks(width))
    }

    fn split_mut<'a>(&self, values: &'a mut [f32]) -> impl Iterator<Item = &'a mut [f32]> + use<'a> {
        let width = self.width;
        values.chunks_mut(self.cols).flat_map(move |row| row.chunks_mut(width))
    }
}
