//! The tensors of a checkpoint as a model asks for them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use burn::tensor::Device;
use slm_model::{SourceError, TensorSource, Transformer, expected_tensors};
use slm_quant_core::{ActivationQuant, KernelKind, PackedMatrix, QuantizedMatrix};
use slm_quant_nn::{PackedWeight, Weight};

use crate::{Checkpoint, Error, Result};

/// A quantized weight, and how its input is treated.
type Layer = (QuantizedMatrix, ActivationQuant);

/// Quantized layers that are read before they are asked for.
const AHEAD: usize = 1;

/// Builds the model of `checkpoint` on `device`.
///
/// A thread reads quantized layers in the order in which the model asks for them, while this one packs them for
/// the kernel: reading is a matter of one processor, packing of all. No more than `AHEAD + 2` layers exist
/// outside the model.
pub(crate) fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Transformer> {
    let kernel = KernelKind::select().map_err(|source| Error::Kernel { source })?;
    let config = &checkpoint.config().model;
    let layers: Vec<String> = expected_tensors(config)
        .into_iter()
        .filter_map(|tensor| tensor.name.strip_suffix(".weight").map(str::to_owned))
        .filter(|layer| checkpoint.metadata().is_some_and(|metadata| metadata.layer(layer).is_some()))
        .collect();
    let model = thread::scope(|scope| {
        let (sender, receiver) = sync_channel(AHEAD);
        scope.spawn(move || {
            for layer in layers {
                let read = checkpoint.read_quantized(&layer);
                // Nobody receives any more where the model could not be built.
                if sender.send((layer, read)).is_err() {
                    break;
                }
            }
        });
        Transformer::from_tensors(config, &mut CheckpointSource { checkpoint, kernel, receiver }, device)
    });
    model.map_err(|error| Error::from_model(checkpoint.dir(), error))
}

/// Reads each tensor when it is asked for, or has it read already.
struct CheckpointSource<'a> {
    checkpoint: &'a Checkpoint,
    kernel: KernelKind,
    receiver: Receiver<(String, Result<Option<Layer>>)>,
}

impl CheckpointSource<'_> {
    fn quantized(&self, layer: &str) -> Result<Option<Layer>> {
        if self.checkpoint.metadata().is_none_or(|metadata| metadata.layer(layer).is_none()) {
            return Ok(None);
        }
        match self.receiver.recv() {
            Ok((read, result)) if read == layer => result,
            // A model that asks in another order than it says costs time and nothing else.
            _ => self.checkpoint.read_quantized(layer),
        }
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
        let Some((matrix, activation)) = self.quantized(name)? else { return Ok(None) };
        let packed = PackedMatrix::new(matrix, self.kernel).map_err(|source| Error::Layer {
            path: self.checkpoint.tensors().path().to_owned(),
            layer: name.to_owned(),
            source,
        })?;
        Ok(Some(Weight::Packed(PackedWeight::new(Arc::new(packed), activation))))
    }
}
