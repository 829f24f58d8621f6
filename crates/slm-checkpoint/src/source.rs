//! The tensors of a checkpoint as a model asks for them.

use std::sync::Arc;

use burn::tensor::Device;
use slm_model::{SourceError, TensorSource};
use slm_quant_core::{KernelKind, PackedMatrix};
use slm_quant_nn::{PackedWeight, Weight};

use crate::{Checkpoint, Error};

/// Reads each tensor when it is asked for.
pub(crate) struct CheckpointSource<'a> {
    checkpoint: &'a Checkpoint,
    kernel: KernelKind,
}

impl<'a> CheckpointSource<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, kernel: KernelKind) -> Self {
        Self { checkpoint, kernel }
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
        let Some((matrix, activation)) = self.checkpoint.read_quantized(name)? else { return Ok(None) };
        let packed = PackedMatrix::new(matrix, self.kernel).map_err(|source| Error::Layer {
            path: self.checkpoint.tensors().path().to_owned(),
            layer: name.to_owned(),
            source,
        })?;
        Ok(Some(Weight::Packed(PackedWeight::new(Arc::new(packed), activation))))
    }
}
