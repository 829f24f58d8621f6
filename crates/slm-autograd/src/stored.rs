//! Values as backward passes keep them.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;
use half::bf16;

use crate::host::{HostBackend, dims};
use crate::parallel;
use crate::precision::Precision;

/// Number of values that a task converts.
const TASK: usize = 1 << 14;

/// A tensor in the precision of products. Where these are BF16, the outputs of layers that attention and activation functions
/// need for their gradients are rounded to it, as PyTorch's autocast does, and take half the memory. The forward pass
/// computes with the rounded values, too, so that its gradients are those of what it computed.
#[derive(Debug, Clone)]
pub(crate) enum Stored<B: HostBackend> {
    F32(FloatTensor<B>),
    Bf16(Arc<Vec<bf16>>, Shape),
}

impl<B: HostBackend> Stored<B> {
    /// Stores `x`, rounded to `precision`.
    pub(crate) fn new(x: FloatTensor<B>, precision: Precision) -> Self {
        let x = B::contiguous(x);
        match precision {
            Precision::F32 => Self::F32(x),
            Precision::Bf16 => {
                let values = B::values(&x);
                let [halves] = parallel::written(values.len(), TASK, |range, [out]| {
                    slm_cpu_ops::round_to_bf16(&values[range], out);
                });
                Self::Bf16(Arc::new(halves), Shape::from(dims(&x)))
            }
        }
    }

    /// The values in 32 bits, contiguous.
    pub(crate) fn tensor(&self) -> FloatTensor<B> {
        match self {
            Self::F32(x) => x.clone(),
            Self::Bf16(halves, shape) => {
                let [values] = parallel::written(halves.len(), TASK, |range, [out]| self.widen(range, out));
                B::from_values(values, shape)
            }
        }
    }

    /// [`tensor`](Self::tensor), after which only the result shares the memory.
    pub(crate) fn into_tensor(self) -> FloatTensor<B> {
        match self {
            Self::F32(x) => x,
            Self::Bf16(..) => self.tensor(),
        }
    }

    /// Sizes of the dimensions.
    pub(crate) fn dims(&self) -> Vec<usize> {
        match self {
            Self::F32(x) => dims(x),
            Self::Bf16(_, shape) => shape.to_vec(),
        }
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// Copies the values of `range` to `out`, in 32 bits.
    pub(crate) fn widen(&self, range: Range<usize>, out: &mut [f32]) {
        match self {
            Self::F32(x) => out.copy_from_slice(&B::values(x)[range]),
            Self::Bf16(halves, _) => slm_cpu_ops::widen(&halves[range], out),
        }
    }
}
