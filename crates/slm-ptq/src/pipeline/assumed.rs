//! Inputs of a rotated model through which no text has run.

use slm_quant_core::Bits;

use crate::{Calibration, InputMoments, ObservedInputs, Plan, PtqConfig, Transforms};

/// Equal mean squares of the inputs of all layers whose input is rotated, and whose weight has 8 bits.
///
/// A rotation spreads large channels over all others, so that without a text it is the best guess that inputs are alike.
/// With 4 bits ranges chosen by this guess are no better than from minimum to maximum.
pub(super) fn assumed_inputs(plan: &Plan, config: &PtqConfig, transforms: &Transforms) -> Calibration {
    let layers = plan.layers.iter().filter(|layer| {
        transforms.rotates_input_of(&layer.name) && config.scheme_of(&layer.name).bits == Bits::Int8
    });
    let assumed = |layer: &crate::PlannedLayer| {
        let moments = InputMoments::MeanSquares(vec![1.0; layer.shape[1]]);
        (layer.name.clone(), ObservedInputs { activation: None, moments, drift: None })
    };
    Calibration { layers: layers.map(assumed).collect() }
}
