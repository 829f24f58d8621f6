//! Training that starts with the codes and scales of a quantized model.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use slm_nn::{
    ErrorSlot, FakeQuantizedInput, FakeQuantizedWeight, LayerState, NamedLinears, SharedQatStage, Weight,
    report_errors, try_for_each_linear_mut,
};
use slm_ptq::{Plan, PlannedLayer, SkippedLayer};
use slm_quant_core::{ActivationQuant, ObserverKind, QuantRange, QuantScheme};

use crate::{Error, Prepared, QatOptions, Result, ScaleMode};

/// Scheme, scales and treatment of inputs of a packed layer whose weights were converted to floats.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedStart {
    scheme: QuantScheme,
    activation: ActivationQuant,
    /// Scales in the order of [`QuantizedMatrix::scales`](slm_quant_core::QuantizedMatrix::scales).
    scales: Vec<f32>,
}

/// Replaces the packed layers of `model` by float layers on `device` with the dequantized weights. Returns, by name, the
/// parameters that [`prepare_quantized`] needs to quantize them again.
///
/// # Errors
/// [`Error::NothingQuantized`] for a model without packed layers.
pub fn unpack<M: NamedLinears + ?Sized>(
    model: &mut M,
    device: &Device,
) -> Result<BTreeMap<String, QuantizedStart>> {
    let mut starts = BTreeMap::new();
    model.for_each_linear_mut(&mut |name, linear| {
        let Some(packed) = linear.packed() else { return };
        let matrix = packed.matrix().unpack();
        let start = QuantizedStart {
            scheme: matrix.scheme(),
            activation: packed.activation(),
            scales: (0..matrix.scales().len()).map(|index| matrix.qparams(index).scale).collect(),
        };
        let values = TensorData::new(matrix.dequantize(), [matrix.rows(), matrix.cols()]);
        linear.weight = Weight::Float(Param::from_tensor(Tensor::from_data(values, device)));
        starts.insert(name.to_owned(), start);
    });
    if starts.is_empty() { Err(Error::NothingQuantized) } else { Ok(starts) }
}

/// Makes the layers of `model` that `starts` names fake-quantized, for a run of `steps` steps, with their previous schemes,
/// scales and treatment of inputs. All other layers stay float.
///
/// Before the first step the model computes the same as the quantized one, up to the rounding of sums. So training starts
/// from the best known rounding, such as that of GPTQ, instead of rounding to nearest. Scales are learned. Ranges of static
/// activations keep their initial values and then follow the batches.
///
/// # Errors
/// [`Error::Option`] for options that cannot work, such as scales that are not learned; [`Error::NoGradients`] for a layer on a
/// device without autodiff; [`Error::Layer`] for a layer with an affine mapping, whose scales cannot be learned.
pub fn prepare_quantized<M: NamedLinears + ?Sized>(
    model: &mut M,
    starts: &BTreeMap<String, QuantizedStart>,
    options: &QatOptions,
    steps: usize,
) -> Result<Prepared> {
    let schedule = options.schedule(steps)?;
    if options.scale != ScaleMode::Learned {
        return Err(Error::Option {
            option: "scale",
            detail: "is \"observed\", which would choose other scales than those the codes belong to"
                .to_owned(),
            remedy: "set it to \"learned\", since training starts from a quantized model",
        });
    }
    if options.observe_steps > 0 {
        return Err(Error::Option {
            option: "observe_steps",
            detail: format!("is {}, but the model is already quantized", options.observe_steps),
            remedy: "use 0",
        });
    }
    let stage = SharedQatStage::default();
    let mut plan = Plan { layers: Vec::new(), skipped: Vec::new(), embedding: None };
    try_for_each_linear_mut(model, |name, linear| {
        let shape = linear.weight.dims();
        let Some(start) = starts.get(name) else {
            let reason = "float in the quantized model that training starts with".to_owned();
            plan.skipped.push(SkippedLayer { name: name.to_owned(), shape, reason });
            return Ok(());
        };
        let Weight::Float(weight) = &linear.weight else {
            return Err(Error::layer(name, slm_nn::Error::AlreadyPacked));
        };
        if !weight.device().is_autodiff() {
            return Err(Error::NoGradients { layer: name.to_owned() });
        }
        let prepared = start.prepare(weight.clone(), options, &stage);
        linear.weight = Weight::FakeQuantized(prepared.map_err(|error| Error::layer(name, error))?);
        plan.layers.push(PlannedLayer { name: name.to_owned(), shape });
        Ok(())
    })?;
    if plan.layers.len() != starts.len() {
        let missing = starts.keys().find(|name| plan.layers.iter().all(|layer| layer.name != **name));
        let layer = missing.cloned().unwrap_or_default();
        return Err(slm_ptq::Error::UnknownLayer { layer }.into());
    }
    let errors = ErrorSlot::default();
    report_errors(model, &errors);
    Ok(Prepared::new(plan, schedule, stage, errors))
}

impl QuantizedStart {
    fn prepare(
        &self,
        weight: Param<Tensor<2>>,
        options: &QatOptions,
        stage: &SharedQatStage,
    ) -> slm_nn::Result<FakeQuantizedWeight> {
        let input = match self.activation {
            ActivationQuant::Static(_) => {
                FakeQuantizedInput::Observed { averaging_constant: options.averaging_constant }
            }
            fixed => FakeQuantizedInput::Fixed(fixed),
        };
        // Any observer works, because its scales are replaced immediately.
        let mut prepared =
            FakeQuantizedWeight::learned(weight, self.scheme, ObserverKind::MinMax, input, stage)?;
        let mut state = LayerState::of_learned_scales(self.scales.clone());
        if let ActivationQuant::Static(params) = self.activation {
            let range = QuantRange::UINT8;
            let bound = |code: i32| (code - params.zero_point) as f32 * params.scale;
            state = state.with_input_bounds((bound(range.quant_min()), bound(range.quant_max())));
        }
        prepared.restore(&state)?;
        Ok(prepared)
    }
}
