//! Conversion of float layers to packed integers, one after the other.

use std::sync::Arc;

use slm_kernels::{KernelKind, PackedMatrix};
use slm_nn::{Linear, NamedLinears, PackedWeight, Weight, to_vec_f32, try_for_each_linear_mut};
use slm_quant_core::{ActivationQuant, ErrorStats, QParams, QuantScheme, QuantizedMatrix};

use crate::rounding::round_weight;
use crate::{Calibration, Error, ObservedInputs, Plan, PtqConfig, Result};

/// Result of quantizing one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerReport {
    /// Name of the layer.
    pub name: String,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// Quantization scheme of its weight.
    pub scheme: QuantScheme,
    /// The kernel that its weight is packed for.
    pub kernel: KernelKind,
    /// Scale and zero point of each tensor, row or group, in the order of
    /// [`QuantizedMatrix::scales`].
    pub qparams: Vec<QParams>,
    /// Treatment of its input.
    pub activation: ActivationQuant,
    /// Estimate of the error of one static scale for its input, if that was calibrated: see
    /// [`ActivationStats::row_error`](crate::ActivationStats::row_error).
    pub input_error: Option<f64>,
    /// Least and greatest value of its input during calibration, if a static scale was calibrated.
    pub observed_input: Option<(f32, f32)>,
    /// Error statistics of the dequantized weights against the float weights.
    pub error: ErrorStats,
    /// Bytes of the float weight, without bias.
    pub bytes_before: usize,
    /// Bytes of codes, scales and zero points.
    pub bytes_after: usize,
}

/// Converts the planned layers of `model` in place, in forward order, and calls `on_layer` after each.
///
/// A layer's float weight is dropped before the next layer is read: apart from the model itself, at most one layer is
/// in memory. Weights are packed for the kernel of [`KernelKind::selected`].
///
/// # Errors
/// [`Error::Layer`] for weights that are not finite or a scale that its type does not hold,
/// [`Error::NotCalibrated`] where static activations have no parameters, [`Error::UnknownLayer`] for a planned layer
/// that the model does not have, [`Error::Setting`] for [`RoundingMethod::Tune`](crate::RoundingMethod::Tune), which
/// needs the blocks of a checkpoint. The layers before the one that failed are already converted.
pub fn convert<M: NamedLinears + ?Sized>(
    model: &mut M,
    plan: &Plan,
    config: &PtqConfig,
    calibration: Option<&Calibration>,
    on_layer: &mut dyn FnMut(&LayerReport),
) -> Result<Vec<LayerReport>> {
    config.check_layers_suffice()?;
    plan.check_model(model)?;
    let mut reports = Vec::with_capacity(plan.layers.len());
    try_for_each_linear_mut(model, |name, linear| {
        if plan.quantizes(name) {
            let report = convert_layer(name, linear, config, calibration)?;
            on_layer(&report);
            reports.push(report);
        }
        Ok::<_, Error>(())
    })?;
    Ok(reports)
}

fn convert_layer(
    name: &str,
    linear: &mut Linear,
    config: &PtqConfig,
    calibration: Option<&Calibration>,
) -> Result<LayerReport> {
    let (values, shape) = float_values(name, linear)?;
    let inputs = calibration.and_then(|calibration| calibration.layers.get(name));
    let QuantizedLayer { matrix, activation, report } = quantize_layer(name, &values, shape, config, inputs)?;
    drop(values);
    replace(name, linear, matrix, activation)?;
    Ok(report)
}

/// The float weight of the layer `name` and its shape.
pub(crate) fn float_values(name: &str, linear: &Linear) -> Result<(Vec<f32>, [usize; 2])> {
    let fail = |error: slm_nn::Error| Error::layer(name, error);
    let weight = linear.float_weight().ok_or_else(|| fail(slm_nn::Error::AlreadyPacked))?;
    let shape = weight.dims();
    Ok((to_vec_f32("weight", weight).map_err(fail)?, shape))
}

/// A quantized layer that is not yet part of a model or checkpoint.
#[derive(Debug, Clone)]
pub struct QuantizedLayer {
    /// The quantized weight.
    pub matrix: QuantizedMatrix,
    /// Treatment of its input.
    pub activation: ActivationQuant,
    /// Result of the conversion.
    pub report: LayerReport,
}

/// Quantizes the float weight `values` of one layer, row-major and of shape `[out_features, in_features]`. A model
/// that is larger than memory is quantized with this function, one layer after the other. `inputs` are the statistics
/// of the layer's inputs from calibration.
///
/// # Errors
/// As [`convert`].
pub fn quantize_layer(
    name: &str,
    values: &[f32],
    shape: [usize; 2],
    config: &PtqConfig,
    inputs: Option<&ObservedInputs>,
) -> Result<QuantizedLayer> {
    let activation = config.activation_quant(name, inputs)?;
    let matrix = round_weight(name, values, shape, config, inputs)?;
    rounded_layer(name, values, matrix, activation, inputs)
}

/// The layer of the float weight `values`, which was rounded to `matrix`.
pub(crate) fn rounded_layer(
    name: &str,
    values: &[f32],
    matrix: QuantizedMatrix,
    activation: ActivationQuant,
    inputs: Option<&ObservedInputs>,
) -> Result<QuantizedLayer> {
    let mut report = report(name, values, &matrix, activation)?;
    if let Some(stats) = inputs.and_then(|inputs| inputs.activation) {
        report.input_error = Some(stats.row_error);
        report.observed_input = Some(stats.observed);
    }
    Ok(QuantizedLayer { matrix, activation, report })
}

/// Replaces the weight of one layer by `quantized`, packed for the kernel of [`KernelKind::selected`], and reports its
/// error compared with `values`, the float weight.
///
/// # Errors
/// [`Error::Layer`] if the two differ in shape or the kernel is not available.
pub fn pack_layer(
    name: &str,
    linear: &mut Linear,
    values: &[f32],
    quantized: QuantizedMatrix,
    activation: ActivationQuant,
) -> Result<LayerReport> {
    let report = report(name, values, &quantized, activation)?;
    replace(name, linear, quantized, activation)?;
    Ok(report)
}

pub(crate) fn replace(
    name: &str,
    linear: &mut Linear,
    quantized: QuantizedMatrix,
    activation: ActivationQuant,
) -> Result<()> {
    let fail = |error: slm_quant_core::Error| Error::layer(name, error);
    let kernel = KernelKind::selected();
    let packed = PackedMatrix::new(quantized, kernel).map_err(fail)?;
    linear.weight = Weight::Packed(PackedWeight::new(Arc::new(packed), activation));
    Ok(())
}

pub(crate) fn report(
    name: &str,
    values: &[f32],
    quantized: &QuantizedMatrix,
    activation: ActivationQuant,
) -> Result<LayerReport> {
    let fail = |error: slm_quant_core::Error| Error::layer(name, error);
    let (rows, cols) = (quantized.rows(), quantized.cols());
    Ok(LayerReport {
        name: name.to_owned(),
        shape: [rows, cols],
        scheme: quantized.scheme(),
        kernel: KernelKind::selected(),
        qparams: (0..quantized.scales().len()).map(|index| quantized.qparams(index)).collect(),
        activation,
        input_error: None,
        observed_input: None,
        error: quantized.error_stats(values).map_err(fail)?,
        bytes_before: rows * cols * size_of::<f32>(),
        bytes_after: quantized.byte_size(),
    })
}
