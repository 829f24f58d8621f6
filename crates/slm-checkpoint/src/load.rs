//! Loading of models from checkpoints.

use burn::tensor::{Device, TensorData};
use slm_model::{SourceError, TensorSource, Transformer};
use slm_nn::Weight;
use slm_store::{LoadedTensors, METADATA};

use crate::{Checkpoint, Error, Result};

/// Builds the model of `checkpoint` on `device` in one pass over the weight file. A device with its own memory receives
/// the floats after all are read.
pub(crate) fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Transformer> {
    let metadata_path = checkpoint.dir().join(METADATA);
    let tensors = LoadedTensors::read(checkpoint.tensors(), checkpoint.metadata(), &metadata_path)?;
    let mut source = Loaded { tensors };
    let model = Transformer::from_tensors(&checkpoint.config().model, &mut source, device);
    model.map_err(|error| Error::from_model(checkpoint.dir(), error))
}

/// Source that passes the loaded tensors to a model.
struct Loaded<'a> {
    tensors: LoadedTensors<'a>,
}

impl TensorSource for Loaded<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.file().shape(name).map(<[usize]>::to_vec)
    }

    fn take_f32(&mut self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>, SourceError> {
        self.tensors.file().check_shape(name, expected_shape)?;
        Ok(self.tensors.take_f32(name)?)
    }

    fn take_halves(
        &mut self,
        name: &str,
        expected_shape: &[usize],
    ) -> Result<Option<TensorData>, SourceError> {
        self.tensors.file().check_shape(name, expected_shape)?;
        Ok(self.tensors.take_halves(name)?)
    }

    fn take_linear(
        &mut self,
        name: &str,
        _out_features: usize,
        _in_features: usize,
        _device: &Device,
    ) -> Result<Option<Weight>, SourceError> {
        Ok(self.tensors.take_weight(name))
    }
}
