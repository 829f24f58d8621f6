//! Conversion of fake-quantized layers to packed integers.

use slm_nn::{Linear, NamedLinears, Weight, to_vec_f32, try_for_each_linear_mut};
use slm_ptq::{LayerReport, pack_layer};

use crate::{Error, Result};

/// Replaces every fake-quantized layer of `model` by packed integers, in forward order, and calls `on_layer` after
/// each. The model must be without autodiff: use `valid()` of the trained model.
///
/// The error in a report is the rounding error of the trained float weights, which were trained to be rounded.
///
/// # Errors
/// [`Error::Layer`] for weights that are not finite, [`Error::NotObserved`] for static activations of a layer
/// that saw no batch, [`Error::NotPrepared`] if no layer is fake-quantized. The layers before the one that failed are
/// already converted.
pub fn convert<M: NamedLinears + ?Sized>(
    model: &mut M,
    on_layer: &mut dyn FnMut(&LayerReport),
) -> Result<Vec<LayerReport>> {
    let mut reports = Vec::new();
    try_for_each_linear_mut(model, |name, linear| {
        if let Some(report) = convert_layer(name, linear)? {
            on_layer(&report);
            reports.push(report);
        }
        Ok::<_, Error>(())
    })?;
    if reports.is_empty() { Err(Error::NotPrepared) } else { Ok(reports) }
}

fn convert_layer(name: &str, linear: &mut Linear) -> Result<Option<LayerReport>> {
    let Weight::FakeQuantized(weight) = &linear.weight else { return Ok(None) };
    let fail = |error: slm_nn::Error| Error::layer(name, error);
    let quantized = weight.quantize().map_err(fail)?;
    let activation =
        weight.activation().map_err(fail)?.ok_or_else(|| Error::NotObserved { layer: name.to_owned() })?;
    let values = to_vec_f32("weight", weight.float_weight()).map_err(fail)?;
    Ok(Some(pack_layer(name, linear, &values, quantized, activation)?))
}
