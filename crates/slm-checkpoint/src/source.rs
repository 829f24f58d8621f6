//! Access to the tensors of a checkpoint one at a time, for models that are larger than memory.

use std::sync::Arc;

use burn::tensor::Device;
use slm_kernels::{KernelKind, PackedMatrix};
use slm_model::{SourceError, TensorSource};
use slm_nn::{PackedWeight, Weight};

use crate::{Checkpoint, Error, Result};
use slm_store::Error as StoreError;

/// Reads each tensor of a checkpoint on request, any number of times. [`Checkpoint::load_model`] is faster if all
/// tensors are needed.
#[derive(Debug)]
pub struct CheckpointSource<'a> {
    checkpoint: &'a Checkpoint,
}

impl<'a> CheckpointSource<'a> {
    /// Creates a source that reads from `checkpoint`.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint }
    }

    fn quantized(&self, layer: &str) -> Result<Option<Weight>> {
        let Some((matrix, activation)) = self.checkpoint.read_quantized(layer)? else { return Ok(None) };
        let kernel = KernelKind::selected();
        let packed = PackedMatrix::new(matrix, kernel).map_err(|source| {
            Error::Store(StoreError::Layer {
                path: self.checkpoint.tensors().path().to_owned(),
                layer: layer.to_owned(),
                source,
            })
        })?;
        Ok(Some(Weight::Packed(PackedWeight::new(Arc::new(packed), activation))))
    }
}

impl TensorSource for CheckpointSource<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.checkpoint.tensors().shape(name).map(<[usize]>::to_vec)
    }

    fn take_f32(&mut self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>, SourceError> {
        self.checkpoint.tensors().check_shape(name, expected_shape)?;
        Ok(self.checkpoint.tensors().read_f32(name)?)
    }

    fn take_linear(
        &mut self,
        name: &str,
        _out_features: usize,
        _in_features: usize,
        _device: &Device,
    ) -> Result<Option<Weight>, SourceError> {
        Ok(self.quantized(name)?)
    }
}
