//! The tensors of a quantized layer.

use safetensors::Dtype;
use slm_checkpoint::TensorSpec;
use slm_quant_core::{ActivationQuant, Granularity, QParams, QuantizedMatrix};

use super::scheme::{Inputs, Scheme};
use super::shape_tensor;
use crate::float::FloatType;
use crate::hf_export::Fused;
use crate::hf_export::codes::{Codes, Part, Parts, WITH_FLOATS, parts};
use crate::source::Source;
use crate::{Result, pack};

/// A tensor of the Hugging Face model.
pub(super) enum Weight {
    Quantized(Box<Layer>),
    /// Written as floats, with the reason if it was quantized.
    Float(Option<String>),
}

/// The quantized weight of a layer. Its rows may come from several layers of the checkpoint.
pub(super) struct Layer {
    pub(super) scheme: Scheme,
    pub(super) codes: Codes,
    input: Option<QParams>,
}

/// The codes of `tensor`, if the format can hold them.
pub(super) fn weight(source: &Source<'_>, tensor: &Fused) -> Result<Weight> {
    let float = |because: &str| Ok(Weight::Float(Some(because.to_owned())));
    let parts = match parts(source, tensor)? {
        Parts::Float => return Ok(Weight::Float(None)),
        _ if !tensor.parts.iter().all(|(part, _)| part.linear_weight) => {
            return float("compressed-tensors quantizes linear layers only");
        }
        Parts::Mixed => return float(WITH_FLOATS),
        Parts::Quantized(parts) => parts,
    };
    let Some(Part { matrix: first, activation, origin }) = parts.first() else {
        return Ok(Weight::Float(None));
    };
    if origin.is_transposed() {
        return float("its layer is a Conv1D, which compressed-tensors does not quantize");
    }
    let scheme = match scheme_of(first, *activation) {
        Ok(scheme) => scheme,
        Err(because) => return Ok(Weight::Float(Some(because))),
    };
    let other = |part: &Part<'_>| {
        scheme_of(&part.matrix, part.activation).as_ref() != Ok(&scheme)
            || part.activation.static_params() != activation.static_params()
    };
    if parts.iter().any(other) {
        return float("it is stored as one tensor, whose parts are quantized otherwise");
    }
    let codes = Codes::stack(&parts, scheme.group_size.unwrap_or(first.cols()));
    Ok(Weight::Quantized(Box::new(Layer { scheme, codes, input: activation.static_params() })))
}

/// The scheme of `matrix` in compressed-tensors, or the reason why there is none.
fn scheme_of(matrix: &QuantizedMatrix, activation: ActivationQuant) -> Result<Scheme, String> {
    let scheme = matrix.scheme();
    let group_size = match scheme.granularity {
        Granularity::PerTensor | Granularity::PerChannel => None,
        Granularity::PerGroup { .. } if matrix.group_width() >= matrix.cols() => None,
        Granularity::PerGroup { .. } => Some(matrix.group_width()),
    };
    if let Some(size) = group_size
        && !matrix.cols().is_multiple_of(size)
    {
        return Err(format!("its rows of {} values are not whole groups of {size}", matrix.cols()));
    }
    let symmetric = scheme.mapping.is_symmetric();
    Ok(Scheme { bits: scheme.bits, group_size, symmetric, inputs: Inputs::from(activation) })
}

impl Layer {
    /// The tensors of the layer whose weight is called `name`, with their bytes.
    pub(super) fn tensors(&self, name: &str, float: FloatType) -> Vec<(TensorSpec, Vec<u8>)> {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let Codes { shape: [rows, cols], codes, scales, zero_points } = &self.codes;
        let (rows, cols) = (*rows, *cols);
        let bits = self.scheme.bit_count();
        let per_row = scales.len() / rows.max(1);
        let spec = |tensor: &str, dtype, shape: &[usize]| {
            TensorSpec::new(format!("{module}.{tensor}"), dtype, shape)
        };
        let bytes_of = |values: &[i8]| values.iter().map(|value| value.cast_unsigned()).collect::<Vec<u8>>();
        let words_of = |words: Vec<u32>| words.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
        let mut tensors = Vec::new();
        if self.scheme.is_packed() {
            let words: Vec<u32> = codes.chunks(cols).flat_map(|row| pack::words(row, bits)).collect();
            tensors.push((spec("weight_packed", Dtype::I32, &[rows, words.len() / rows]), words_of(words)));
            let (dtype, bytes) = shape_tensor([rows, cols]);
            tensors.push((spec("weight_shape", dtype, &[2]), bytes));
        } else {
            tensors.push((spec("weight", Dtype::I8, &[rows, cols]), bytes_of(codes)));
        }
        let mut bytes = Vec::new();
        float.write(&mut bytes, scales);
        tensors.push((spec("weight_scale", float.dtype(), &[rows, per_row]), bytes));
        if !self.scheme.symmetric {
            tensors.push(match self.scheme.is_packed() {
                true => {
                    let words = pack::columns(zero_points, per_row, bits);
                    let shape = [words.len() / per_row, per_row];
                    (spec("weight_zero_point", Dtype::I32, &shape), words_of(words))
                }
                false => (spec("weight_zero_point", Dtype::I8, &[rows, per_row]), bytes_of(zero_points)),
            });
        }
        if let Some(QParams { scale, zero_point }) = self.input {
            tensors.push((spec("input_scale", Dtype::F32, &[1]), scale.to_le_bytes().to_vec()));
            // Input codes are 0 to 255 in slm, and -128 to 127 in the file.
            let zero_point = (zero_point - 128) as i8;
            tensors.push((spec("input_zero_point", Dtype::I8, &[1]), bytes_of(&[zero_point])));
        }
        tensors
    }
}
