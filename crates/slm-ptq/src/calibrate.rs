//! Watching the inputs of layers to choose how weights and static activations are quantized.

use std::collections::BTreeMap;
use std::sync::Arc;

use slm_nn::{ForwardHook, NamedLinears, attach_hook, detach_hooks};
use slm_quant_core::{InputDrift, QParams};

use crate::inputs::{Gathering, InputGatherer, InputMoments};
use crate::{Error, Plan, PtqConfig, Result};

/// The range that calibration chose for one layer's input, and the parameters that follow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivationStats {
    /// Least value the observer goes by.
    pub min: f32,
    /// Greatest value the observer goes by.
    pub max: f32,
    /// Least and greatest value of all inputs, whatever the observer goes by.
    pub observed: (f32, f32),
    /// Unsigned 8-bit affine parameters.
    pub qparams: QParams,
    /// Estimate of `|x - x'| / |x|` of each input row, x' being the quantized x, as a mean over all rows.
    pub row_error: f64,
}

/// Statistics of the inputs of one layer, gathered by calibration.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedInputs {
    /// Static activations only.
    pub activation: Option<ActivationStats>,
    /// Second moments, by which ranges of weights and rounding are chosen.
    pub moments: InputMoments,
    /// Drift of the inputs from those in the float model, where the layers before are quantized already.
    pub drift: Option<InputDrift>,
}

/// Statistics of the inputs of the planned layers, by name, gathered by calibration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calibration {
    /// One entry for each planned layer.
    pub layers: BTreeMap<String, ObservedInputs>,
}

/// Runs `forward` while every planned layer's input is observed.
///
/// `forward` runs the model on calibration text however it likes: any number of times, in batches of any
/// size. Memory grows with the layers, not with the text: for [`RoundingMethod::Gptq`](crate::RoundingMethod::Gptq) a
/// square matrix of the input features of each layer, otherwise next to nothing.
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

/// [`calibrate`] for a model that is not there as a whole: `forward` shows every layer to the hook, in any order.
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

/// [`calibrate_with`] of nothing but `gathering`.
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
