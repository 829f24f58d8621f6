//! Making the layers of a module act as their quantized selves.

use slm_nn::{FakeQuantizedWeight, InputQuant, Linear, NamedLinears, PhaseSwitch, Weight, on_cpu};
use slm_ptq::Plan;
use slm_quant_core::{ActivationQuant, QuantizationType};

use crate::{Error, QatConfig, Result, ScaleMode, Schedule};

/// A module that is ready to be trained.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Which layers are fake-quantized, and why the others are not.
    pub plan: Plan,
    schedule: Schedule,
    phase: PhaseSwitch,
}

impl Prepared {
    /// Sets all layers to the phase of step `step`, counted from 0. To be called before the step.
    pub fn set_phase(&self, step: usize) {
        self.phase.set(self.schedule.phase(step));
    }
}

/// Makes every planned layer of `model` fake-quantized, for a run of `steps` steps.
///
/// A tied head is no layer: untie it before where it is to be quantized.
///
/// # Errors
/// As [`Plan::new`]; [`Error::Option`] for options that cannot work; [`Error::NoGradients`] for a layer on a
/// device without autodiff; [`Error::Layer`] for one whose weights are not finite or that the device cannot train so. The model is unchanged then, but for layers before the one
/// that failed.
pub fn prepare<M: NamedLinears + ?Sized>(
    model: &mut M,
    config: &QatConfig,
    steps: usize,
) -> Result<Prepared> {
    let schedule = config.options.schedule(steps)?;
    let plan = Plan::new(model, &config.quantization)?;
    let phase = PhaseSwitch::default();
    let mut failed = None;
    let mut planned = plan.layers.iter().peekable();
    model.for_each_linear_mut(&mut |name, linear| {
        if failed.is_some() || planned.next_if(|layer| layer.name == name).is_none() {
            return;
        }
        if let Err(error) = prepare_layer(name, linear, config, &phase) {
            failed = Some(error);
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(Prepared { plan, schedule, phase }),
    }
}

fn prepare_layer(name: &str, linear: &mut Linear, config: &QatConfig, phase: &PhaseSwitch) -> Result<()> {
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
        QuantizationType::WeightOnly => InputQuant::Fixed(ActivationQuant::Float),
        QuantizationType::Dynamic => {
            InputQuant::Fixed(ActivationQuant::Dynamic(quantization.activation_granularity))
        }
        QuantizationType::Static => InputQuant::Observed { averaging_constant: options.averaging_constant },
    };
    let build = match options.scale {
        ScaleMode::Observed => FakeQuantizedWeight::new,
        ScaleMode::Learned => FakeQuantizedWeight::learned,
    };
    let prepared = build(weight.clone(), quantization.scheme, options.observer(), input, phase);
    linear.weight = Weight::FakeQuantized(prepared.map_err(|error| Error::layer(name, error))?);
    Ok(())
}
