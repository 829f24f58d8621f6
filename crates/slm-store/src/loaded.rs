//! Tensors of a file in the form that a model needs: floats, and packed weights.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::TensorData;
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use slm_kernels::{KernelKind, PackedMatrixBuilder};
use slm_nn::{PackedWeight, Weight};
use slm_quant_core::{ActivationQuant, QParams, QuantizedMatrix, ScaleDtype, Scales};
use slm_runtime::advise_huge_pages;

use crate::layer::{self, codes_dtype, names};
use crate::metadata::WeightParams;
use crate::tensors::{Destination, widen};
use crate::{Error, LayerMetadata, QuantizationMetadata, Result, TensorFile};

/// Reads the quantized weight of `layer` and the quantization of its input, as described by `metadata`, which was read
/// from `metadata_path`. Returns `None` if the metadata describes no such layer.
///
/// # Errors
/// [`Error::Layer`] for an invalid weight, [`Error::Metadata`] for one that contradicts the metadata, and the errors of
/// [`TensorFile`].
pub fn read_quantized(
    weights: &TensorFile,
    metadata: &QuantizationMetadata,
    metadata_path: &Path,
    layer: &str,
) -> Result<Option<(QuantizedMatrix, ActivationQuant)>> {
    let Some(record) = metadata.layer(layer) else { return Ok(None) };
    let matrix = layer::read(weights, layer, record.shape, record.scheme)?;
    let activation = read_static_params(weights, layer)?;
    let quant = metadata.check_layer(metadata_path, record, &WeightParams::of(&matrix), activation)?;
    Ok(Some((matrix, quant)))
}

/// Reads the static parameters of the input of `layer`. Returns `None` if the file has none.
///
/// # Errors
/// [`Error::Layer`] for a scale that is not positive, and the errors of [`TensorFile`].
pub fn read_static_params(weights: &TensorFile, layer: &str) -> Result<Option<QParams>> {
    let name = names::input_scale(layer);
    if weights.shape(&name).is_none() {
        return Ok(None);
    }
    let scale = weights.read_f32(&name)?;
    let zero_point = weights.read_bytes(&names::input_zero_point(layer))?;
    layer::static_params(weights.path(), layer, &scale, &zero_point).map(Some)
}

/// All tensors of a file, which a model takes one after another.
///
/// The file is read once, sequentially, and each tensor goes straight to its final form: codes are packed for the
/// kernel a few rows at a time, and floats become the tensors of the model. On a device with host memory, loading
/// therefore needs no more memory than the model.
#[derive(Debug)]
pub struct LoadedTensors<'a> {
    weights: &'a TensorFile,
    destinations: HashMap<String, Destination>,
    layers: HashMap<String, Weight>,
}

impl<'a> LoadedTensors<'a> {
    /// Reads `weights`, whose quantized layers are described by `metadata`, which was read from `metadata_path`. The
    /// layers are packed for the kernel that [`KernelKind::selected`] returns.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a NaN or an infinity, [`Error::Layer`] for an invalid quantized weight,
    /// [`Error::Metadata`] for one that contradicts the metadata, [`Error::Io`] and [`Error::Truncated`];
    /// [`Error::Checksum`] if [`TensorFile::verify_when_read`] left verification to this call.
    pub fn read(
        weights: &'a TensorFile,
        metadata: Option<&QuantizationMetadata>,
        metadata_path: &Path,
    ) -> Result<Self> {
        let mut destinations = destinations(weights, metadata)?;
        weights.read_whole(destinations.iter_mut().map(|(name, to)| (name.as_str(), to)))?;
        let mut loaded = Self { weights, destinations, layers: HashMap::new() };
        let Some(metadata) = metadata else { return Ok(loaded) };
        let layers: Vec<_> =
            metadata.records().map(|record| loaded.take_layer(record)).collect::<Result<_>>()?;
        // Preparing the scales is parallel, since there may be many.
        let finish = |layer: Layer<'_>| layer.finish(weights, metadata, metadata_path);
        let layers: Vec<_> = layers.into_par_iter().map(finish).collect();
        loaded.layers = layers.into_iter().collect::<Result<_>>()?;
        Ok(loaded)
    }

    /// Returns the file.
    pub fn file(&self) -> &TensorFile {
        self.weights
    }

    /// Takes the packed weight of `layer`. Returns `None` if the metadata has no such layer.
    pub fn take_weight(&mut self, layer: &str) -> Option<Weight> {
        self.layers.remove(layer)
    }

    /// Takes the values of an F32, F16 or BF16 tensor as F32.
    ///
    /// # Errors
    /// [`Error::TensorSet`] for a tensor that does not exist, has another type or was already taken,
    /// [`Error::NotFinite`] for a NaN or an infinity.
    pub fn take_f32(&mut self, name: &str) -> Result<Vec<f32>> {
        match (self.destinations.remove(name), self.weights.dtype(name)) {
            (Some(Destination::Floats(values)), _) => Ok(values),
            (Some(Destination::Halves(bits)), Some(dtype)) => {
                self.weights.check_halves(name, &bits, dtype)?;
                Ok(widen(&bits, dtype))
            }
            _ => Err(self.weights.missing(name)),
        }
    }

    /// Takes the values of an F16 or BF16 tensor as stored. Returns `None` for a tensor of another type.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a NaN or an infinity.
    pub fn take_halves(&mut self, name: &str) -> Result<Option<TensorData>> {
        let shape = match self.weights.shape(name) {
            Some(shape) if matches!(self.destinations.get(name), Some(Destination::Halves(_))) => shape,
            _ => return Ok(None),
        };
        match (self.destinations.remove(name), self.weights.dtype(name)) {
            (Some(Destination::Halves(bits)), Some(dtype)) => {
                self.weights.check_halves(name, &bits, dtype)?;
                Ok(Some(match dtype {
                    Dtype::F16 => TensorData::new(bits.reinterpret_into::<f16>(), shape),
                    _ => TensorData::new(bits.reinterpret_into::<bf16>(), shape),
                }))
            }
            _ => Ok(None),
        }
    }

    /// Takes the bytes of a tensor of a type other than F32.
    ///
    /// # Errors
    /// [`Error::TensorSet`] for a tensor that does not exist, is of type F32 or was already taken.
    pub fn take_bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        match self.destinations.remove(name) {
            Some(Destination::Bytes(bytes)) => Ok(bytes),
            Some(Destination::Halves(bits)) => Ok(bits.into_iter().flat_map(u16::to_le_bytes).collect()),
            _ => Err(self.weights.missing(name)),
        }
    }

    /// Takes the tensors of a quantized layer.
    fn take_layer<'b>(&mut self, record: &'b LayerMetadata) -> Result<Layer<'b>> {
        let name = &record.name;
        let codes = names::codes(name);
        let Some(Destination::Codes(builder)) = self.destinations.remove(&codes) else {
            return Err(self.weights.missing(&codes));
        };
        let scales = names::scales(name);
        let scales = match record.scheme.scale_dtype {
            ScaleDtype::F32 => Scales::F32(self.take_f32(&scales)?),
            ScaleDtype::F16 => match self.destinations.remove(&scales) {
                Some(Destination::Halves(bits)) => Scales::F16(bits.reinterpret_into()),
                _ => return Err(self.weights.missing(&scales)),
            },
        };
        let zero_points = match record.scheme.mapping.is_symmetric() {
            true => None,
            false => {
                let bytes = self.take_bytes(&names::zero_points(name))?;
                Some(bytes.into_iter().map(u8::cast_signed).collect())
            }
        };
        let input_scale = names::input_scale(name);
        let activation = match self.destinations.contains_key(&input_scale) {
            false => None,
            true => {
                let zero_point = self.take_bytes(&names::input_zero_point(name))?;
                Some((self.take_f32(&input_scale)?, zero_point))
            }
        };
        Ok(Layer { record, builder, scales, zero_points, activation })
    }
}

/// Allocates memory for every tensor of the file.
fn destinations(
    weights: &TensorFile,
    metadata: Option<&QuantizationMetadata>,
) -> Result<HashMap<String, Destination>> {
    let kernel = KernelKind::selected();
    let mut destinations = HashMap::new();
    for record in metadata.iter().flat_map(|metadata| metadata.records()) {
        let ([rows, cols], scheme) = (record.shape, record.scheme);
        let codes = names::codes(&record.name);
        weights.check_dtype(&codes, &[codes_dtype(scheme)])?;
        weights.check_shape(&codes, &[rows, scheme.bits.row_bytes(cols)])?;
        let builder = PackedMatrixBuilder::new(rows, cols, scheme, kernel)
            .map_err(|source| layer_error(weights, &record.name, source))?;
        destinations.insert(codes, Destination::Codes(Box::new(builder)));
    }
    for name in weights.names() {
        let bytes = weights.byte_size(name).unwrap_or(0) as usize;
        let destination = || match weights.dtype(name) {
            Some(Dtype::F32) => {
                let mut values = vec![0.0; bytes / size_of::<f32>()];
                advise_huge_pages(&mut values);
                Destination::Floats(values)
            }
            Some(Dtype::F16 | Dtype::BF16) => {
                let mut bits = vec![0; bytes / size_of::<u16>()];
                advise_huge_pages(&mut bits);
                Destination::Halves(bits)
            }
            _ => Destination::Bytes(vec![0; bytes]),
        };
        destinations.entry(name.clone()).or_insert_with(destination);
    }
    Ok(destinations)
}

fn layer_error(weights: &TensorFile, layer: &str, source: slm_quant_core::Error) -> Error {
    Error::Layer { path: weights.path().to_owned(), layer: layer.to_owned(), source }
}

/// The tensors of a quantized layer.
struct Layer<'a> {
    record: &'a LayerMetadata,
    builder: Box<PackedMatrixBuilder>,
    scales: Scales,
    zero_points: Option<Vec<i8>>,
    /// Scale and zero point of the input, if these are static.
    activation: Option<(Vec<f32>, Vec<u8>)>,
}

impl Layer<'_> {
    /// Checks the tensors against the metadata, and returns the weight with its name.
    fn finish(
        self,
        weights: &TensorFile,
        metadata: &QuantizationMetadata,
        metadata_path: &Path,
    ) -> Result<(String, Weight)> {
        let Self { record, builder, scales, zero_points, activation } = self;
        let packed = builder
            .finish(scales.clone(), zero_points.clone())
            .map_err(|source| layer_error(weights, &record.name, source))?;
        let activation: Option<QParams> = activation
            .map(|(scale, zero_point)| {
                layer::static_params(weights.path(), &record.name, &scale, &zero_point)
            })
            .transpose()?;
        let params = WeightParams {
            shape: record.shape,
            scheme: record.scheme,
            scales: &scales,
            zero_points: zero_points.as_deref(),
        };
        let quant = metadata.check_layer(metadata_path, record, &params, activation)?;
        Ok((record.name.clone(), Weight::Packed(PackedWeight::new(Arc::new(packed), quant))))
    }
}
