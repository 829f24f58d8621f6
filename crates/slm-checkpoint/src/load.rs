//! Making a model of a checkpoint.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::Device;
use rayon::prelude::*;
use safetensors::Dtype;
use slm_kernels::{KernelKind, PackedMatrixBuilder};
use slm_model::{SourceError, TensorSource, Transformer};
use slm_nn::{PackedWeight, Weight};
use slm_quant_core::{QParams, ScaleDtype, Scales};
use slm_runtime::advise_huge_pages;

use crate::layout::{codes_dtype, names};
use crate::metadata::WeightParams;
use crate::tensors::{Target, TensorFile, to_f16};
use crate::{Checkpoint, Error, LayerMetadata, Result};

/// Builds the model of `checkpoint` on `device`.
///
/// The file of weights is read once, from end to end, and everything in it goes where it stays: codes are packed for
/// the kernel a few rows at a time, and floats become the tensors of the model. So no more memory is taken than the
/// model has, on a device whose memory is the host's; another device gets its floats after all are read.
pub(crate) fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Transformer> {
    let weights = checkpoint.tensors();
    let mut targets = targets(checkpoint)?;
    weights.read_whole(targets.iter_mut().map(|(name, target)| (name.as_str(), target)))?;
    let mut tensors = Tensors { weights, targets };
    let records = checkpoint.metadata().map_or(&[][..], |metadata| &metadata.layers);
    let layers = records.iter().map(|record| tensors.take_layer(record)).collect::<Result<Vec<_>>>()?;
    // Scales are put in order here, of which there may be many.
    let layers: Vec<_> = layers.into_par_iter().map(|layer| layer.finish(checkpoint)).collect();
    let layers = layers.into_iter().collect::<Result<HashMap<_, _>>>()?;
    let model =
        Transformer::from_tensors(&checkpoint.config().model, &mut Loaded { tensors, layers }, device);
    model.map_err(|error| Error::from_model(checkpoint.dir(), error))
}

/// Memory for every tensor of the file.
fn targets(checkpoint: &Checkpoint) -> Result<HashMap<String, Target>> {
    let kernel = KernelKind::selected();
    let weights = checkpoint.tensors();
    let mut targets = HashMap::new();
    for record in checkpoint.metadata().iter().flat_map(|metadata| &metadata.layers) {
        let ([rows, cols], scheme) = (record.shape, record.scheme);
        let codes = names::codes(&record.name);
        weights.check_dtype(&codes, &[codes_dtype(scheme)])?;
        weights.check_shape(&codes, &[rows, scheme.bits.row_bytes(cols)])?;
        let builder = PackedMatrixBuilder::new(rows, cols, scheme, kernel)
            .map_err(|source| layer_error(weights, &record.name, source))?;
        targets.insert(codes, Target::Codes(Box::new(builder)));
    }
    for name in weights.names() {
        let bytes = weights.byte_size(name).unwrap_or(0) as usize;
        let target = || match weights.dtype(name) {
            Some(Dtype::F32) => {
                let mut values = vec![0.0; bytes / size_of::<f32>()];
                advise_huge_pages(&mut values);
                Target::Floats(values)
            }
            _ => Target::Bytes(vec![0; bytes]),
        };
        targets.entry(name.clone()).or_insert_with(target);
    }
    Ok(targets)
}

fn layer_error(weights: &TensorFile, layer: &str, source: slm_quant_core::Error) -> Error {
    Error::Layer { path: weights.path().to_owned(), layer: layer.to_owned(), source }
}

/// The tensors that were read and are not yet part of the model.
struct Tensors<'a> {
    weights: &'a TensorFile,
    targets: HashMap<String, Target>,
}

impl<'a> Tensors<'a> {
    fn take_floats(&mut self, name: &str) -> Result<Vec<f32>> {
        match self.targets.remove(name) {
            Some(Target::Floats(values)) => Ok(values),
            _ => Err(self.weights.missing(name)),
        }
    }

    fn take_bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        match self.targets.remove(name) {
            Some(Target::Bytes(bytes)) => Ok(bytes),
            _ => Err(self.weights.missing(name)),
        }
    }

    /// The tensors of a quantized layer.
    fn take_layer<'b>(&mut self, record: &'b LayerMetadata) -> Result<Layer<'b>> {
        let name = &record.name;
        let codes = names::codes(name);
        let Some(Target::Codes(builder)) = self.targets.remove(&codes) else {
            return Err(self.weights.missing(&codes));
        };
        let scales = names::scales(name);
        let scales = match record.scheme.scale_dtype {
            ScaleDtype::F32 => Scales::F32(self.take_floats(&scales)?),
            ScaleDtype::F16 => Scales::F16(to_f16(&self.take_bytes(&scales)?)),
        };
        let zero_points = match record.scheme.mapping.is_symmetric() {
            true => None,
            false => {
                let bytes = self.take_bytes(&names::zero_points(name))?;
                Some(bytes.into_iter().map(u8::cast_signed).collect())
            }
        };
        let input_scale = names::input_scale(name);
        let activation = match self.targets.contains_key(&input_scale) {
            false => None,
            true => {
                let zero_point = self.take_bytes(&names::input_zero_point(name))?;
                Some((self.take_floats(&input_scale)?, zero_point))
            }
        };
        Ok(Layer { record, builder, scales, zero_points, activation })
    }
}

/// The tensors of a quantized layer.
struct Layer<'a> {
    record: &'a LayerMetadata,
    builder: Box<PackedMatrixBuilder>,
    scales: Scales,
    zero_points: Option<Vec<i8>>,
    /// Scale and zero point of the input, where these are static.
    activation: Option<(Vec<f32>, Vec<u8>)>,
}

impl Layer<'_> {
    /// The weight with its name, once its tensors are valid and what the metadata says.
    fn finish(self, checkpoint: &Checkpoint) -> Result<(String, Weight)> {
        let Self { record, builder, scales, zero_points, activation } = self;
        let weights = checkpoint.tensors();
        let packed = builder
            .finish(scales.clone(), zero_points.clone())
            .map_err(|source| layer_error(weights, &record.name, source))?;
        let activation: Option<QParams> = activation
            .map(|(scale, zero_point)| checkpoint.static_params_of(&record.name, &scale, &zero_point))
            .transpose()?;
        let params = WeightParams {
            shape: record.shape,
            scheme: record.scheme,
            scales: &scales,
            zero_points: zero_points.as_deref(),
        };
        let quant = checkpoint.check_metadata(record, &params, activation)?;
        Ok((record.name.clone(), Weight::Packed(PackedWeight::new(Arc::new(packed), quant))))
    }
}

/// Hands over to a model what was read.
struct Loaded<'a> {
    tensors: Tensors<'a>,
    layers: HashMap<String, Weight>,
}

impl TensorSource for Loaded<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.weights.shape(name).map(<[usize]>::to_vec)
    }

    fn take_f32(&mut self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>, SourceError> {
        self.tensors.weights.check_shape(name, expected_shape)?;
        Ok(self.tensors.take_floats(name)?)
    }

    fn take_linear(
        &mut self,
        name: &str,
        _out_features: usize,
        _in_features: usize,
        _device: &Device,
    ) -> Result<Option<Weight>, SourceError> {
        Ok(self.layers.remove(name))
    }
}
