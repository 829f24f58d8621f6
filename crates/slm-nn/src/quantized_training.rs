//! Trainable quantized weights: stored as codes, updated in float, quantized again after every step.

#[cfg(feature = "wgpu")]
mod device;
mod host;
mod ops;
mod record;
mod requantize;

use std::sync::Arc;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor};
use slm_kernels::PackedMatrix;

use crate::errors::Reporter;
use crate::{Error, PackedWeight, ParameterRole, Result, on_cpu, to_vec_f32};
pub use requantize::Rounding;
use requantize::requantize;

/// Packed weights `[out_features, in_features]` that can be trained.
///
/// Forward and backward passes read the codes, which on a GPU are packed in its memory. The gradient with respect to
/// the weights goes to a parameter for the pending update: it is zero and takes no memory until an optimizer adds its
/// step. [`QuantizedTrainableWeight::apply`] then adds the step to the weights, layer by layer, and quantizes them
/// again with their existing scales. It does so on the host, whatever the device, so that the same update gives the
/// same codes everywhere.
#[derive(Debug, Clone)]
pub struct QuantizedTrainableWeight {
    /// `[out_features, in_features]`.
    update: Param<Tensor<2>>,
    stored: Arc<Stored>,
}

/// State of a layer between steps.
#[derive(Debug)]
pub(crate) struct Stored {
    packed: PackedWeight,
    /// Rounding residuals, in 254ths of a scale; empty without error feedback.
    residual: Vec<i8>,
}

impl QuantizedTrainableWeight {
    /// Makes packed weights trainable on `device`, with memory for the residual if `rounding` is error feedback.
    ///
    /// # Errors
    /// [`Error::TuningDevice`] on a device other than a CPU in a build without the feature `wgpu`.
    pub fn new(weight: &PackedWeight, device: &Device, rounding: Rounding) -> Result<Self> {
        if !on_cpu(device) && !cfg!(feature = "wgpu") {
            return Err(Error::TuningDevice);
        }
        let shape @ [rows, cols] = [weight.matrix().rows(), weight.matrix().cols()];
        let residual = match rounding {
            Rounding::ErrorFeedback => vec![0; rows * cols],
            Rounding::Nearest | Rounding::Stochastic { .. } => Vec::new(),
        };
        let stored = Stored { packed: weight.clone(), residual };
        let update = Param::from_tensor(zeros(shape, device));
        Ok(Self { update, stored: Arc::new(stored) })
    }

    /// `[out_features, in_features]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.packed().matrix().rows(), self.packed().matrix().cols()]
    }

    /// The stored weights.
    pub fn packed(&self) -> &PackedWeight {
        &self.stored.packed
    }

    pub(crate) fn parameter_role(&self) -> (ParamId, ParameterRole) {
        (self.update.id, ParameterRole::Update)
    }

    pub(crate) fn set_reporter(&mut self, errors: Reporter) {
        let mut packed = self.packed().clone();
        packed.set_reporter(errors);
        self.stored = Arc::new(Stored { packed, residual: self.stored.residual.clone() });
    }

    /// Rounding residuals, in 254ths of a scale, row by row; empty without error feedback.
    pub fn residual(&self) -> &[i8] {
        &self.stored.residual
    }

    /// Restores a residual returned by [`QuantizedTrainableWeight::residual`].
    ///
    /// # Errors
    /// [`Error::State`] for a residual of another length.
    pub fn restore_residual(&mut self, residual: Vec<i8>) -> Result<()> {
        let (expected, found) = (self.stored.residual.len(), residual.len());
        if expected != found {
            return Err(Error::State { name: "residual".to_owned(), expected, found });
        }
        self.stored = Arc::new(Stored { packed: self.packed().clone(), residual });
        Ok(())
    }

    /// Returns `true` if an optimizer has made an update that [`QuantizedTrainableWeight::apply`] has not added to the
    /// weights.
    ///
    /// # Errors
    /// [`Error::Data`] for an update that cannot be read back.
    pub fn has_update(&self) -> Result<bool> {
        Ok(to_vec_f32("update", self.update.val())?.iter().any(|&value| value != 0.0))
    }

    /// Adds the update that an optimizer has made to the weights, quantizes them again with their scales, and clears
    /// the update. On a device with its own memory the update is read back; the new codes are uploaded with the next
    /// product. `draw` numbers the call, so that stochastic rounding draws new numbers in each.
    ///
    /// # Errors
    /// [`Error::Core`] for an update that is not finite.
    pub fn apply(&mut self, rounding: Rounding, draw: u64) -> Result<()> {
        let update = to_vec_f32("update", self.update.val())?;
        let shape = self.dims();
        let (id, tensor, mapper) = self.update.clone().consume();
        let zeros = zeros(shape, &tensor.device()).set_require_grad(tensor.is_require_grad());
        self.update = Param::from_mapped_value(id, zeros, mapper);
        let old = self.packed();
        let mut residual = self.stored.residual.clone();
        let quantized = requantize(&old.matrix().unpack(), &update, &mut residual, rounding, draw)?;
        let matrix = Arc::new(PackedMatrix::new(quantized, old.matrix().kernel())?);
        let packed = old.with_matrix(matrix);
        self.stored = Arc::new(Stored { packed, residual });
        Ok(())
    }

    /// `x W^T`.
    pub(crate) fn matmul(&self, x: Tensor<2>) -> Tensor<2> {
        ops::quantized_training_linear(x, self.update.val(), &self.stored)
    }
}

/// Zeros that take the memory of one value.
fn zeros(shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::<2>::zeros([1, 1], device).expand(shape)
}
