//! Calibration: observes the inputs of layers to choose how weights and static activations are quantized.

use std::collections::BTreeMap;
use std::sync::Arc;

use slm_nn::{ForwardHook, NamedLinears, attach_hook, detach_hooks};
use slm_quant_core::{InputDrift, QParams};

use crate::inputs::{Gathering, InputGatherer, InputMoments};
use crate::{Error, Plan, PtqConfig, Result};

/// The range that calibration chose for one layer's input, and the resulting parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivationStats {
    /// Least value of the range that the observer chose.
    pub min: f32,
    /// Greatest value of the range that the observer chose.
    pub max: f32,
    /// Least and greatest value of all inputs, whatever the observer chose.
    pub observed: (f32, f32),
    /// Unsigned 8-bit affine parameters.
    pub qparams: QParams,
    /// Estimate of the mean over all input rows x of `|x - x'| / |x|`, where x' is the quantized row.
    pub row_error: f64,
}

/// Statistics of the inputs of one layer, gathered by calibration.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedInputs {
    /// Range of the input, for static activations only.
    pub activation: Option<ActivationStats>,
    /// Second moments, by which ranges of weights and rounding are chosen.
    pub moments: InputMoments,
    /// Drift of the inputs from those in the float model, if the layers before are already quantized.
    pub drift: Option<InputDrift>,
}

/// Statistics of the inputs of the planned layers, by name, gathered by calibration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calibration {
    /// One entry for each planned layer.
    pub layers: BTreeMap<String, ObservedInputs>,
}

/// Runs `forward` and observes the input of every planned layer.
///
/// `forward` may run the model on calibration text any number of times, in batches of any size. Memory grows with the
/// layers, not with the text: for [`RoundingMethod::Gptq`](crate::RoundingMethod::Gptq) a square matrix over the input
/// features of each layer, otherwise very little.
///
/// # Errors
/// [`Error::NotCalibrated`] for a planned layer that saw no input, [`Error::Layer`] for inputs that are not
/// finite, and whatever `forward` returns.
pub fn calibrate<M, E>(
    model: &mut M,
    plan: &Plan,
    config: &PtqConfig,
    forward: impl FnOnce(&M) -> Result<(), E>,
) -> Result<Calibration, E>
where
    M: NamedLinears,
    E: From<Error>,
{
    calibrate_with(plan, config, |hook| {
        attach_hook(model, hook);
        let outcome = forward(model);
        detach_hooks(model);
        outcome
    })
}

/// [`calibrate`] for a model that is not in memory as a whole: `forward` runs every layer with the hook attached, in
/// any order.
///
/// # Errors
/// As [`calibrate`].
pub fn calibrate_with<E: From<Error>>(
    plan: &Plan,
    config: &PtqConfig,
    forward: impl FnOnce(&Arc<dyn ForwardHook>) -> Result<(), E>,
) -> Result<Calibration, E> {
    gather(plan, config, Gathering::of(config), forward)
}

/// [`calibrate_with`] that gathers only the statistics in `gathering`.
pub(crate) fn gather<E: From<Error>>(
    plan: &Plan,
    config: &PtqConfig,
    gathering: Gathering,
    forward: impl FnOnce(&Arc<dyn ForwardHook>) -> Result<(), E>,
) -> Result<Calibration, E> {
    let names = || plan.layers.iter().map(|layer| layer.name.as_str());
    let gatherer = InputGatherer::new(&config.activation_observer, gathering, names())?;
    forward(&(Arc::clone(&gatherer) as Arc<dyn ForwardHook>))?;
    let layers = names().map(|name| Ok((name.to_owned(), gatherer.take(name)?)));
    Ok(Calibration { layers: layers.collect::<Result<_>>()? })
}
