//! Rounding of the float weight of a layer to codes.

use slm_quant_core::{
    Bits, GptqFactor, GptqOptions, ObserverKind, QuantizedMatrix, RefineOptions, RefitOptions,
    choose_gptq_qparams, choose_matrix_qparams, choose_weighted_qparams, quantize_matrix,
    quantize_matrix_gptq, quantize_matrix_with_qparams, refine_matrix, refit_matrix_gptq,
};

use crate::{Error, InputMoments, ObservedInputs, PtqConfig, Result, RoundingMethod};

/// Share of the mean over all inputs that is added to the mean square of each, so that inputs that the calibration text
/// does not use still count a little.
const IMPORTANCE_FLOOR: f32 = 0.01;

/// Share of the expected error that a range must save over that from minimum to maximum to be chosen for 8-bit codes. A
/// narrower range clips a few weights. Their errors fall on few outputs, which the expectation does not see, and with 256
/// codes the rest gains little.
const LEAST_GAIN_OF_8_BITS: f64 = 0.1;

/// Share of the input drift that a layer compensates for. The measured drift is partly specific to the calibration
/// text; compensating for half of it helps on other text.
const DRIFT_SHARE: f32 = 0.5;

/// Quantizes the weight `values` of the layer `name`, row-major and of shape `[out_features, in_features]`, as `config`
/// says. `inputs` are the statistics of its inputs, if they were observed.
///
/// # Errors
/// [`Error::NotCalibrated`] if the method or the observer needs moments and there are none; [`Error::Layer`] for
/// weights that are not finite, a scale that its type does not hold, or moments of another layer.
pub(crate) fn round_weight(
    name: &str,
    values: &[f32],
    [rows, cols]: [usize; 2],
    config: &PtqConfig,
    inputs: Option<&ObservedInputs>,
) -> Result<QuantizedMatrix> {
    let moments = inputs.map(|inputs| &inputs.moments);
    let fail = |error: slm_quant_core::Error| Error::layer(name, error);
    let missing = || Error::NotCalibrated { layer: name.to_owned() };
    let scheme = config.scheme_of(name);
    let observer = config.observer_of(scheme, moments.is_some());
    let factor = match (config.method, moments) {
        (RoundingMethod::Rtn | RoundingMethod::Awq, _) => None,
        (RoundingMethod::Gptq | RoundingMethod::Tune, Some(InputMoments::Hessian(hessian))) => {
            Some(GptqFactor::new(hessian, GptqOptions::default()).map_err(fail)?)
        }
        (RoundingMethod::Gptq | RoundingMethod::Tune, _) => return Err(missing()),
    };
    let compensated = match (&factor, inputs.and_then(|inputs| inputs.drift.as_ref())) {
        (Some(factor), Some(drift)) => Some(drift.compensated(values, factor, DRIFT_SHARE).map_err(fail)?),
        _ => None,
    };
    let values = compensated.as_deref().unwrap_or(values);
    let qparams = match (observer, &factor) {
        (ObserverKind::WeightedMse, Some(factor)) => {
            choose_gptq_qparams(values, rows, cols, scheme, factor).map_err(fail)?
        }
        (ObserverKind::WeightedMse, None) => {
            let squares = moments.ok_or_else(missing)?.mean_squares().map_err(fail)?;
            let least_gain = match scheme.bits {
                Bits::Int8 => LEAST_GAIN_OF_8_BITS,
                Bits::Int4 => 0.0,
            };
            choose_weighted_qparams(values, rows, cols, scheme, &with_floor(squares), least_gain)
                .map_err(fail)?
        }
        (observer, Some(_)) => choose_matrix_qparams(values, rows, cols, scheme, &observer).map_err(fail)?,
        (observer, None) => return quantize_matrix(values, rows, cols, scheme, &observer).map_err(fail),
    };
    let (Some(factor), Some(InputMoments::Hessian(hessian))) = (factor, moments) else {
        return quantize_matrix_with_qparams(values, rows, cols, scheme, &qparams).map_err(fail);
    };
    let matrix = quantize_matrix_gptq(values, rows, cols, scheme, &qparams, &factor).map_err(fail)?;
    let matrix =
        refit_matrix_gptq(values, matrix, hessian, &factor, RefitOptions::default()).map_err(fail)?;
    drop(factor);
    refine_matrix(values, matrix, hessian, RefineOptions::default()).map_err(fail)
}

fn with_floor(mut squares: Vec<f32>) -> Vec<f32> {
    let mean = squares.iter().map(|square| f64::from(*square)).sum::<f64>() / squares.len().max(1) as f64;
    squares.iter_mut().for_each(|square| *square += IMPORTANCE_FLOOR * mean as f32);
    squares
}
