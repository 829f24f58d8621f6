//! Preparation of a module: makes its layers behave like quantized layers.

use slm_nn::{
    ErrorSlot, FakeQuantizedInput, FakeQuantizedWeight, Linear, NamedLinears, SharedQatStage, Weight, on_cpu,
    report_errors, try_for_each_linear_mut,
};
use slm_ptq::Plan;
use slm_quant_core::{ActivationQuant, QuantizationType};

use crate::{Error, QatConfig, Result, ScaleMode, StageSchedule};

/// A module that is ready to be trained.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The fake-quantized layers, and the skipped layers with their reasons.
    pub plan: Plan,
    schedule: StageSchedule,
    stage: SharedQatStage,
    errors: ErrorSlot,
}

impl Prepared {
    pub(crate) fn new(plan: Plan, schedule: StageSchedule, stage: SharedQatStage, errors: ErrorSlot) -> Self {
        Self { plan, schedule, stage, errors }
    }

    /// Sets all layers to the stage of step `step`, counted from 0. Call it before the step.
    pub fn set_stage(&self, step: usize) {
        self.stage.set(self.schedule.stage(step));
    }

    /// Returns the first error of a fake-quantized layer since the last call. Call it after each forward and backward
    /// pass: passes return only tensors, and a layer that cannot compute makes them NaN.
    ///
    /// # Errors
    /// [`Error::Pass`] with the layer and the cause, such as a scale that its type does not hold or an input that is not
    /// finite.
    pub fn check(&self) -> Result<()> {
        Ok(self.errors.check()?)
    }

    /// The slot that [`Prepared::check`] reads.
    pub fn errors(&self) -> &ErrorSlot {
        &self.errors
    }
}

/// Makes every planned layer of `model` fake-quantized, for a run of `steps` steps.
///
/// A tied head is not a layer: untie it first to quantize it.
///
/// # Errors
/// As [`Plan::new`]; [`Error::Option`] for options that cannot work; [`Error::NoGradients`] for a layer on a device
/// without autodiff; [`Error::Layer`] for a layer whose weights are not finite, or whose settings the device cannot
/// train. On an error the model is unchanged, except for layers before the one that failed.
pub fn prepare<M: NamedLinears + ?Sized>(
    model: &mut M,
    config: &QatConfig,
    steps: usize,
) -> Result<Prepared> {
    let plan = Plan::new(model, &config.quantization)?;
    prepare_planned(model, plan, config, steps)
}

/// Makes the layers of `plan` fake-quantized, for a run of `steps` steps: [`prepare`] with an existing plan. The skip
/// patterns of `config` are ignored.
///
/// # Errors
/// As [`prepare`], and [`slm_ptq::Error::UnknownLayer`] for a plan of another model.
pub fn prepare_planned<M: NamedLinears + ?Sized>(
    model: &mut M,
    plan: Plan,
    config: &QatConfig,
    steps: usize,
) -> Result<Prepared> {
    let schedule = config.options.schedule(steps)?;
    plan.check_model(model)?;
    let stage = SharedQatStage::default();
    try_for_each_linear_mut(model, |name, linear| match plan.quantizes(name) {
        true => prepare_layer(name, linear, config, &stage),
        false => Ok(()),
    })?;
    let errors = ErrorSlot::default();
    report_errors(model, &errors);
    Ok(Prepared::new(plan, schedule, stage, errors))
}

fn prepare_layer(name: &str, linear: &mut Linear, config: &QatConfig, stage: &SharedQatStage) -> Result<()> {
    let Weight::Float(weight) = &linear.weight else {
        return Err(Error::layer(name, slm_nn::Error::AlreadyPacked));
    };
    if !weight.device().is_autodiff() {
        return Err(Error::NoGradients { layer: name.to_owned() });
    }
    let options = &config.options;
    if options.freeze_steps > 0 && options.scale == ScaleMode::Observed && !on_cpu(&weight.device()) {
        return Err(Error::Option {
            option: "freeze_steps",
            detail: "would need the weights' ranges back on the host of this device".to_owned(),
            remedy: "use 0, learned scales, or a CPU device",
        });
    }
    let quantization = &config.quantization;
    let input = match quantization.quantization_type {
        QuantizationType::WeightOnly => FakeQuantizedInput::Fixed(ActivationQuant::Float),
        QuantizationType::Dynamic => {
            FakeQuantizedInput::Fixed(ActivationQuant::Dynamic(quantization.activation_granularity))
        }
        QuantizationType::Static => {
            FakeQuantizedInput::Observed { averaging_constant: options.averaging_constant }
        }
    };
    let build = match options.scale {
        ScaleMode::Observed => FakeQuantizedWeight::new,
        ScaleMode::Learned => FakeQuantizedWeight::learned,
    };
    let prepared = build(weight.clone(), quantization.scheme_of(name), options.observer(), input, stage);
    linear.weight = Weight::FakeQuantized(prepared.map_err(|error| Error::layer(name, error))?);
    Ok(())
}
