//! Quantization-aware training in the caller's training loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::Module;
use slm_nn::NamedLinears;
use slm_ptq::{PtqConfig, RoundingMethod};
use slm_qat::{Prepared, QatConfig, QatOptions, ScaleMode};

use crate::{Error, Quantizer, Report, Result, check};

/// Settings of quantization-aware training.
///
/// 1. [`Qat::prepare`] makes the layers of a module compute like quantized ones, with gradients.
/// 2. The caller trains the module as usual. [`PreparedQat::check`] reports which layer made a loss NaN, and why.
/// 3. [`PreparedQat::convert`] replaces the layers by packed integers, which compute the same.
///
/// Training observes the ranges of static activations, so no calibration is needed.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Qat {
    config: QatConfig,
    steps: usize,
}

/// Uses the settings of a [`Quantizer`], without its calibration and its activation observer: ranges of activations are
/// moving averages over the batches.
impl From<Quantizer> for Qat {
    fn from(quantizer: Quantizer) -> Self {
        let quantization = PtqConfig::from(quantizer);
        let options = QatOptions { observer: quantization.observer, ..QatOptions::default() };
        let config = QatConfig { quantization, options };
        // Without a schedule, no step is the last.
        Self { config, steps: usize::MAX }
    }
}

impl Qat {
    /// Trains the weight scales together with the weights (LSQ), instead of observing the weights in every step.
    pub fn learned_scales(mut self) -> Self {
        self.config.options.scale = ScaleMode::Learned;
        self
    }

    /// Disables rounding in the first `observe` of `steps` steps, and freezes observed ranges in the last `freeze`
    /// steps. [`PreparedQat::set_step`] must then be called before each step.
    pub fn schedule(mut self, steps: usize, observe: usize, freeze: usize) -> Self {
        self.steps = steps;
        self.config.options.observe_steps = observe;
        self.config.options.freeze_steps = freeze;
        self
    }

    /// Makes the layers of `module` compute like quantized ones. The module must be on a device with autodiff.
    ///
    /// # Errors
    /// [`Error::Unnamed`] and [`Error::SameName`]; [`Error::Qat`] for a device without autodiff, a skip pattern that
    /// matches nothing, an invalid schedule, a quantizer that uses GPTQ, or layers that cannot be trained.
    pub fn prepare<M: Module + NamedLinears>(&self, mut module: M) -> Result<(M, PreparedQat)> {
        let method = self.config.quantization.method;
        if method != RoundingMethod::Rtn {
            let (option, detail) = ("method", format!("is {method}, and training rounds to nearest"));
            let remedy = "leave out `gptq()`, or quantize after training by the `Quantizer` alone";
            return Err(slm_qat::Error::Option { option, detail, remedy }.into());
        }
        check::all_named(&module)?;
        let prepared = slm_qat::prepare(&mut module, &self.config, self.steps)?;
        let followed = Arc::default();
        Ok((module, PreparedQat { prepared, config: self.config.clone(), followed }))
    }
}

/// The state of a module's quantization-aware training.
#[derive(Debug, Clone)]
pub struct PreparedQat {
    prepared: Prepared,
    config: QatConfig,
    /// `true` once [`PreparedQat::set_step`] was called.
    followed: Arc<AtomicBool>,
}

impl PreparedQat {
    /// Sets the training stage of all layers for step `step` of the schedule, counted from 0.
    pub fn set_step(&self, step: usize) {
        self.followed.store(true, Ordering::Relaxed);
        self.prepared.set_stage(step);
    }

    /// Returns the first error in a layer since the last call. A forward pass cannot return errors, so a layer that
    /// fails outputs NaN; call this after a pass to learn the cause.
    ///
    /// # Errors
    /// [`Error::Qat`] with the layer and the cause, such as an input that is not finite.
    pub fn check(&self) -> Result<()> {
        Ok(self.prepared.check()?)
    }

    /// Replaces the trained layers by packed integers, in a copy of the module without autodiff.
    ///
    /// # Errors
    /// [`Error::Qat`] for weights that are not finite, for a pass that failed (with its cause), and for static
    /// activations of a layer that saw no batch; [`Error::ScheduleNotFollowed`].
    pub fn convert<M: Module + NamedLinears>(&self, module: &M) -> Result<(M, Report)> {
        let QatOptions { observe_steps, freeze_steps, .. } = self.config.options;
        if observe_steps + freeze_steps > 0 && !self.followed.load(Ordering::Relaxed) {
            return Err(Error::ScheduleNotFollowed);
        }
        let mut module = module.valid();
        let layers = match slm_qat::convert(&mut module, &mut |_| {}) {
            Ok(layers) => layers,
            Err(error) => {
                // The cause of NaN weights is more helpful than their presence.
                self.check()?;
                return Err(error.into());
            }
        };
        let skipped = self.prepared.plan.skipped.clone();
        let observer = match self.config.options.scale {
            ScaleMode::Observed => self.config.options.observer().to_string(),
            ScaleMode::Learned => format!("learned from {}", self.config.options.observer()),
        };
        Ok((module, Report::qat(layers, skipped, self.config.quantization.clone(), observer)))
    }
}
