//! The tensors of a quantized layer.

use safetensors::Dtype;
use slm_checkpoint::TensorSpec;
use slm_quant_core::{ActivationQuant, Granularity, QParams, QuantizedMatrix};

use super::scheme::{Inputs, Scheme};
use super::{pack, shape_tensor};
use crate::Result;
use crate::float::FloatType;
use crate::hf_export::Fused;
use crate::source::{Source, Stored};

/// A tensor of the Hugging Face model.
pub(super) enum Codes {
    Quantized(Box<Layer>),
    /// As floats; why, where it was codes.
    Float(Option<String>),
}

/// The quantized weight of a layer, whose rows may be those of several of ours.
pub(super) struct Layer {
    pub(super) scheme: Scheme,
    shape: [usize; 2],
    codes: Vec<i8>,
    /// By row, then group.
    pub(super) scales: Vec<f32>,
    zero_points: Option<Vec<i8>>,
    input: Option<QParams>,
}

/// The codes of `tensor`, if it has a form for them.
pub(super) fn codes(source: &Source<'_>, tensor: &Fused) -> Result<Codes> {
    let mut parts = Vec::new();
    for (part, origin) in &tensor.parts {
        match source.read(&part.name)? {
            Stored::Quantized(matrix, activation) if part.linear_weight => {
                parts.push((matrix, activation, origin))
            }
            Stored::Quantized(..) => {
                return Ok(Codes::Float(Some("compressed-tensors quantizes linear layers only".to_owned())));
            }
            Stored::Float(_) if parts.is_empty() => {}
            Stored::Float(_) => {
                return Ok(Codes::Float(Some("it is stored as one tensor with floats".to_owned())));
            }
        }
    }
    let Some((first, activation, origin)) = parts.first() else { return Ok(Codes::Float(None)) };
    if parts.len() < tensor.parts.len() {
        return Ok(Codes::Float(Some("it is stored as one tensor with floats".to_owned())));
    }
    if origin.is_transposed() {
        return Ok(Codes::Float(Some(
            "its layer is a Conv1D, which compressed-tensors does not quantize".to_owned(),
        )));
    }
    let scheme = match scheme_of(first, *activation) {
        Ok(scheme) => scheme,
        Err(because) => return Ok(Codes::Float(Some(because))),
    };
    let other = |(matrix, activation, _): &(QuantizedMatrix, ActivationQuant, _)| {
        scheme_of(matrix, *activation).as_ref() != Ok(&scheme)
            || static_params(*activation) != static_params(parts[0].1)
    };
    if parts.iter().any(other) {
        return Ok(Codes::Float(Some(
            "it is stored as one tensor, whose parts are quantized otherwise".to_owned(),
        )));
    }
    let cols = first.cols();
    let rows = tensor.shape[0];
    let per_row = scheme.group_size.map_or(1, |size| cols / size);
    let mut layer = Layer {
        scheme,
        shape: [rows, cols],
        codes: vec![0; rows * cols],
        scales: vec![0.0; rows * per_row],
        zero_points: (!scheme.symmetric).then(|| vec![0; rows * per_row]),
        input: static_params(*activation),
    };
    for (matrix, _, origin) in &parts {
        let places = origin.file_rows().unwrap_or_else(|| (0..matrix.rows()).collect());
        for (row, place) in places.into_iter().enumerate() {
            layer.put(matrix, row, place, per_row);
        }
    }
    Ok(Codes::Quantized(Box::new(layer)))
}

fn static_params(activation: ActivationQuant) -> Option<QParams> {
    activation.static_params()
}

/// How `matrix` is quantized there; otherwise why it cannot be.
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
    /// Copies row `row` of `matrix` to the row `place`.
    fn put(&mut self, matrix: &QuantizedMatrix, row: usize, place: usize, per_row: usize) {
        let cols = self.shape[1];
        for column in 0..cols {
            self.codes[place * cols + column] = matrix.code(row, column);
        }
        for group in 0..per_row {
            let params = matrix.qparams(matrix.scale_index(row, group));
            self.scales[place * per_row + group] = params.scale;
            if let Some(zero_points) = &mut self.zero_points {
                // Of a matrix they are 8 bits wide.
                zero_points[place * per_row + group] = params.zero_point as i8;
            }
        }
    }

    /// The tensors of the layer whose weight is called `name`, and their bytes.
    pub(super) fn tensors(&self, name: &str, float: FloatType) -> Vec<(TensorSpec, Vec<u8>)> {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let [rows, cols] = self.shape;
        let bits = self.scheme.bit_count();
        let per_row = self.scales.len() / rows.max(1);
        let spec = |tensor: &str, dtype, shape: &[usize]| {
            TensorSpec::new(format!("{module}.{tensor}"), dtype, shape)
        };
        let bytes_of = |values: &[i8]| values.iter().map(|value| value.cast_unsigned()).collect::<Vec<u8>>();
        let words_of = |words: Vec<u32>| words.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
        let mut tensors = Vec::new();
        if self.scheme.is_packed() {
            let words: Vec<u32> = self.codes.chunks(cols).flat_map(|row| pack::words(row, bits)).collect();
            tensors.push((spec("weight_packed", Dtype::I32, &[rows, words.len() / rows]), words_of(words)));
            let (dtype, bytes) = shape_tensor(self.shape);
            tensors.push((spec("weight_shape", dtype, &[2]), bytes));
        } else {
            tensors.push((spec("weight", Dtype::I8, &[rows, cols]), bytes_of(&self.codes)));
        }
        let mut scales = Vec::new();
        float.write(&mut scales, &self.scales);
        tensors.push((spec("weight_scale", float.dtype(), &[rows, per_row]), scales));
        if let Some(zero_points) = &self.zero_points {
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
            // Codes of inputs are 0 to 255 here, and -128 to 127 there.
            let zero_point = (zero_point - 128) as i8;
            tensors.push((spec("input_zero_point", Dtype::I8, &[1]), bytes_of(&[zero_point])));
        }
        tensors
    }
}
