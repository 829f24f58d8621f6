//! Making a model of a checkpoint.

use burn::tensor::Device;
use slm_model::{SourceError, TensorSource, Transformer};
use slm_nn::Weight;
use slm_store::{LoadedTensors, METADATA};

use crate::{Checkpoint, Error, Result};

/// Builds the model of `checkpoint` on `device`, from one pass over the file of weights. A device with memory of its own
/// gets its floats after all are read.
pub(crate) fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Transformer> {
    let metadata_path = checkpoint.dir().join(METADATA);
    let tensors = LoadedTensors::read(checkpoint.tensors(), checkpoint.metadata(), &metadata_path)?;
    let model = Transformer::from_tensors(&checkpoint.config().model, &mut Loaded(tensors), device);
    model.map_err(|error| Error::from_model(checkpoint.dir(), error))
}

/// Hands over to a model what was read.
struct Loaded<'a>(LoadedTensors<'a>);

impl TensorSource for Loaded<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.file().shape(name).map(<[usize]>::to_vec)
    }

    fn take_f32(&mut self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>, SourceError> {
        self.0.file().check_shape(name, expected_shape)?;
        Ok(self.0.take_f32(name)?)
    }

    fn take_linear(
        &mut self,
        name: &str,
        _out_features: usize,
        _in_features: usize,
        _device: &Device,
    ) -> Result<Option<Weight>, SourceError> {
        Ok(self.0.take_weight(name))
    }
}
