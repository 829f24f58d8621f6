//! Quantized linear layers as tensors of a file.
//!
//! | tensor of layer `X` | type | shape |
//! |---|---|---|
//! | `X.weight.codes` | I8 | INT8: `[rows, cols]` |
//! | `X.weight.codes` | U8 | INT4: `[rows, row_bytes]`, two codes to a byte, the even column in the low nibble |
//! | `X.weight.scales` | F32 or F16 | `[1]` per tensor, `[rows]` per channel, `[rows, groups]` per group |
//! | `X.weight.zero_points` | I8 | as the scales; only in an affine mapping |
//! | `X.input.scale` | F32 | `[1]`; only with static activations |
//! | `X.input.zero_point` | U8 | `[1]`; only with static activations |

use std::path::Path;

use safetensors::Dtype;
use slm_quant_core::{Bits, Granularity, QParams, QuantScheme, QuantizedMatrix, ScaleDtype, Scales};

use crate::{Error, Result, TensorFile, TensorFileWriter, TensorSpec};

/// Names of the tensors of a layer.
pub mod names {
    /// Name of the float weight.
    pub fn weight(layer: &str) -> String {
        format!("{layer}.weight")
    }
    /// Name of the bias.
    pub fn bias(layer: &str) -> String {
        format!("{layer}.bias")
    }
    /// Name of the codes.
    pub fn codes(layer: &str) -> String {
        format!("{layer}.weight.codes")
    }
    /// Returns the layer that the codes `tensor` belong to.
    pub fn layer_of_codes(tensor: &str) -> &str {
        tensor.strip_suffix(".weight.codes").unwrap_or(tensor)
    }
    /// Name of the scales.
    pub fn scales(layer: &str) -> String {
        format!("{layer}.weight.scales")
    }
    /// Name of the zero points.
    pub fn zero_points(layer: &str) -> String {
        format!("{layer}.weight.zero_points")
    }
    /// Name of the static scale of the input.
    pub fn input_scale(layer: &str) -> String {
        format!("{layer}.input.scale")
    }
    /// Name of the static zero point of the input.
    pub fn input_zero_point(layer: &str) -> String {
        format!("{layer}.input.zero_point")
    }
}

/// The stored form of a quantized layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizedForm {
    shape: [usize; 2],
    scheme: QuantScheme,
    static_input: bool,
    groups: usize,
}

impl QuantizedForm {
    /// Describes a weight of `shape`, with or without static parameters of its input.
    ///
    /// # Errors
    /// [`slm_quant_core::Error::GroupSize`] for a group size of zero or above the width.
    pub fn new(
        shape: [usize; 2],
        scheme: QuantScheme,
        static_input: bool,
    ) -> Result<Self, slm_quant_core::Error> {
        let groups = scheme.granularity.groups_per_row(shape[1])?;
        Ok(Self { shape, scheme, static_input, groups })
    }

    /// Returns the tensors of layer `layer`.
    pub fn specs(&self, layer: &str) -> Vec<TensorSpec> {
        let Self { shape: [rows, cols], scheme, static_input, groups } = *self;
        let scale_shape = match scheme.granularity {
            Granularity::PerTensor => vec![1],
            Granularity::PerChannel => vec![rows],
            Granularity::PerGroup { .. } => vec![rows, groups],
        };
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

/// Element type of stored codes.
pub fn codes_dtype(scheme: QuantScheme) -> Dtype {
    match scheme.bits {
        Bits::Int8 => Dtype::I8,
        Bits::Int4 => Dtype::U8,
    }
}

/// Writes the quantized weight of `layer`, and the parameters of its input if these are static.
///
/// # Errors
/// [`Error::Io`]; [`Error::Write`] for a layer that was not declared in this form or was already written.
pub fn write(
    file: &mut TensorFileWriter,
    layer: &str,
    matrix: &QuantizedMatrix,
    activation: Option<QParams>,
) -> Result<()> {
    file.write_bytes(&names::codes(layer), codes_dtype(matrix.scheme()), matrix.codes())?;
    let scales = names::scales(layer);
    match matrix.scales() {
        Scales::F32(values) => file.write_f32(&scales, values)?,
        Scales::F16(values) => {
            let bytes: Vec<u8> = values.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            file.write_bytes(&scales, Dtype::F16, &bytes)?;
        }
    }
    if let Some(values) = matrix.zero_points() {
        let bytes: Vec<u8> = values.iter().map(|zero| zero.cast_unsigned()).collect();
        file.write_bytes(&names::zero_points(layer), Dtype::I8, &bytes)?;
    }
    if let Some(QParams { scale, zero_point }) = activation {
        let zero_point = u8::try_from(zero_point).map_err(|_| Error::Write {
            path: file.path().to_owned(),
            reason: format!("layer {layer:?}: input zero point {zero_point} is outside [0, 255]"),
        })?;
        file.write_f32(&names::input_scale(layer), &[scale])?;
        file.write_bytes(&names::input_zero_point(layer), Dtype::U8, &[zero_point])?;
    }
    Ok(())
}

/// Reads the quantized weight of `layer`, of shape `[rows, cols]`.
///
/// # Errors
/// [`Error::Layer`] for an invalid weight, and the errors of [`TensorFile`].
pub fn read(
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

/// Returns the static parameters of the input of `layer`, given the values of its two tensors in the file `path`.
///
/// # Errors
/// [`Error::Layer`] for a scale that is not positive.
pub(crate) fn static_params(path: &Path, layer: &str, scale: &[f32], zero_point: &[u8]) -> Result<QParams> {
    let scale = scale.first().copied().unwrap_or(0.0);
    let zero_point = zero_point.first().copied().map_or(0, i32::from);
    if scale <= 0.0 {
        return Err(Error::Layer {
            path: path.to_owned(),
            layer: layer.to_owned(),
            source: slm_quant_core::Error::Parameter {
                what: "input scale",
                detail: format!("value {scale} is not positive"),
            },
        });
    }
    Ok(QParams { scale, zero_point })
}

/// Checks that `file` contains the tensors `specs` with these shapes and types, and no others. Only the header is used.
///
/// # Errors
/// [`Error::TensorSet`] with `remedy`, [`Error::TensorType`], [`Error::Shape`].
pub fn check_specs(file: &TensorFile, specs: &[TensorSpec], remedy: &str) -> Result<()> {
    check_names(file.path(), specs.iter().map(|spec| spec.name.as_str()), file.names(), remedy)?;
    for spec in specs {
        file.check_dtype(&spec.name, &[spec.dtype])?;
        file.check_shape(&spec.name, &spec.shape)?;
    }
    Ok(())
}

/// Rejects a set of names other than `expected`, listing the differences.
///
/// # Errors
/// [`Error::TensorSet`].
pub fn check_names<'a>(
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
