//! Which tensors `model.safetensors` holds, and in which form.

use std::path::Path;

use safetensors::Dtype;
use slm_model::{ModelConfig, expected_tensors};
use slm_quant_core::{Bits, Granularity, QuantScheme, QuantizedMatrix, ScaleDtype, Scales};

use crate::tensors::{TensorFile, TensorSpec};
use crate::{Error, Result};

/// The tensors of a model's weight file, in canonical order.
///
/// Float tensors have the canonical names of [`expected_tensors`] and are F32. Of a quantized linear layer
/// `X` the file holds, instead of `X.weight`:
///
/// | tensor | type | shape |
/// |---|---|---|
/// | `X.weight.codes` | I8 | INT8: `[rows, cols]` |
/// | `X.weight.codes` | U8 | INT4: `[rows, row_bytes]`, two codes to a byte, the even column in the low nibble |
/// | `X.weight.scales` | F32 or F16 | `[1]` per tensor, `[rows]` per channel, `[rows, groups]` per group |
/// | `X.weight.zero_points` | I8 | as the scales; only in an affine mapping |
/// | `X.input.scale` | F32 | `[1]`; only with static activations |
/// | `X.input.zero_point` | U8 | `[1]`; only with static activations |
///
/// A bias stays `X.bias`, F32. A tied head has no tensor. Quantizing it makes it a layer of its own, so that
/// the configuration no longer says `tie_word_embeddings`.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// Canonical name of the float tensor.
    name: String,
    shape: Vec<usize>,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// A float tensor that can only be float.
    Float,
    /// A linear weight, as yet float.
    Linear,
    /// A linear weight of `cols` inputs, quantized.
    Quantized { scheme: QuantScheme, static_input: bool, cols: usize },
}

/// Names of the tensors of a quantized layer.
pub(crate) mod names {
    pub(crate) fn weight(layer: &str) -> String {
        format!("{layer}.weight")
    }
    pub(crate) fn codes(layer: &str) -> String {
        format!("{layer}.weight.codes")
    }
    /// The layer whose codes `tensor` is.
    pub(crate) fn layer_of_codes(tensor: &str) -> &str {
        tensor.strip_suffix(".weight.codes").unwrap_or(tensor)
    }
    pub(crate) fn scales(layer: &str) -> String {
        format!("{layer}.weight.scales")
    }
    pub(crate) fn zero_points(layer: &str) -> String {
        format!("{layer}.weight.zero_points")
    }
    pub(crate) fn input_scale(layer: &str) -> String {
        format!("{layer}.input.scale")
    }
    pub(crate) fn input_zero_point(layer: &str) -> String {
        format!("{layer}.input.zero_point")
    }
}

impl Layout {
    /// A float model.
    pub fn new(config: &ModelConfig) -> Self {
        let entry = |tensor: slm_model::ExpectedTensor| Entry {
            name: tensor.name,
            shape: tensor.shape,
            form: if tensor.linear_weight { Form::Linear } else { Form::Float },
        };
        Self { entries: expected_tensors(config).into_iter().map(entry).collect() }
    }

    /// Stores the linear layer `layer` quantized. Returns its `[rows, cols]`; none where the model has no
    /// such layer, or it is quantized already.
    ///
    /// # Errors
    /// [`slm_quant_core::Error::GroupSize`] for a group size of zero or above the width.
    pub fn quantize(
        &mut self,
        layer: &str,
        scheme: QuantScheme,
        static_input: bool,
    ) -> Result<Option<[usize; 2]>, slm_quant_core::Error> {
        let name = names::weight(layer);
        let found = self.entries.iter_mut().find(|entry| entry.name == name && entry.form == Form::Linear);
        let Some(entry) = found else { return Ok(None) };
        let [rows, cols] = entry.shape[..] else { return Ok(None) };
        scheme.granularity.group_width(cols)?;
        entry.form = Form::Quantized { scheme, static_input, cols };
        Ok(Some([rows, cols]))
    }

    /// The tensors as they are stored.
    pub fn specs(&self) -> Vec<TensorSpec> {
        self.entries.iter().flat_map(Entry::specs).collect()
    }

    /// Makes sure that `file` holds these tensors and no others, with these shapes and types. No tensor is
    /// read.
    pub(crate) fn check(&self, file: &TensorFile, remedy: &str) -> Result<()> {
        let specs = self.specs();
        check_names(file.path(), specs.iter().map(|spec| spec.name.as_str()), file.names(), remedy)?;
        for spec in specs {
            file.check_dtype(&spec.name, &[spec.dtype])?;
            file.check_shape(&spec.name, &spec.shape)?;
        }
        Ok(())
    }
}

impl Entry {
    fn specs(&self) -> Vec<TensorSpec> {
        let Form::Quantized { scheme, static_input, cols } = self.form else {
            return vec![TensorSpec::new(&self.name, Dtype::F32, self.shape.as_slice())];
        };
        let layer = self.name.trim_end_matches(".weight");
        let rows = self.shape[0];
        let scale_shape = scale_shape(scheme.granularity, rows, cols);
        let scale_dtype = match scheme.scale_dtype {
            ScaleDtype::F32 => Dtype::F32,
            ScaleDtype::F16 => Dtype::F16,
        };
        let mut specs = vec![
            TensorSpec::new(names::codes(layer), codes_dtype(scheme), [rows, scheme.bits.row_bytes(cols)]),
            TensorSpec::new(names::scales(layer), scale_dtype, scale_shape.as_slice()),
        ];
        if !scheme.mapping.is_symmetric() {
            specs.push(TensorSpec::new(names::zero_points(layer), Dtype::I8, scale_shape));
        }
        if static_input {
            specs.push(TensorSpec::new(names::input_scale(layer), Dtype::F32, [1]));
            specs.push(TensorSpec::new(names::input_zero_point(layer), Dtype::U8, [1]));
        }
        specs
    }
}

/// The type of a layer's stored codes: that of the codes where one takes a byte.
pub(crate) fn codes_dtype(scheme: QuantScheme) -> Dtype {
    match scheme.bits {
        Bits::Int8 => Dtype::I8,
        Bits::Int4 => Dtype::U8,
    }
}

fn scale_shape(granularity: Granularity, rows: usize, cols: usize) -> Vec<usize> {
    match granularity {
        Granularity::PerTensor => vec![1],
        Granularity::PerChannel => vec![rows],
        // The group size was checked when the layer was declared quantized.
        Granularity::PerGroup { group_size } => vec![rows, cols.div_ceil(group_size.max(1))],
    }
}

/// Refuses a set of names other than `expected`, listing the differences.
pub(crate) fn check_names<'a>(
    path: &Path,
    expected: impl IntoIterator<Item = &'a str>,
    found: &[String],
    remedy: &str,
) -> Result<()> {
    let mut unexpected: std::collections::BTreeSet<&str> = found.iter().map(String::as_str).collect();
    let missing: Vec<String> =
        expected.into_iter().filter(|name| !unexpected.remove(name)).map(str::to_owned).collect();
    if missing.is_empty() && unexpected.is_empty() {
        return Ok(());
    }
    let unexpected = unexpected.into_iter().map(str::to_owned).collect();
    Err(Error::TensorSet { path: path.to_owned(), missing, unexpected, remedy: remedy.to_owned() })
}

/// Reads the quantized weight of `layer`, of shape `[rows, cols]`.
pub(crate) fn read_matrix(
    file: &TensorFile,
    layer: &str,
    [rows, cols]: [usize; 2],
    scheme: QuantScheme,
) -> Result<QuantizedMatrix> {
    let scales = names::scales(layer);
    let scales = match scheme.scale_dtype {
        ScaleDtype::F32 => Scales::F32(file.read_f32(&scales)?),
        ScaleDtype::F16 => Scales::F16(file.read_f16(&scales)?),
    };
    let zero_points = match scheme.mapping.is_symmetric() {
        true => None,
        false => Some(file.read_i8(&names::zero_points(layer))?),
    };
    let codes = file.read_bytes(&names::codes(layer))?;
    QuantizedMatrix::from_parts(rows, cols, scheme, codes, scales, zero_points)
        .map_err(|source| Error::Layer { path: file.path().to_owned(), layer: layer.to_owned(), source })
}
