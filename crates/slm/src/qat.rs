//! Quantization-aware training in a loop of the caller's.

use burn::module::Module;
use slm_nn::NamedLinears;
use slm_ptq::PtqConfig;
use slm_qat::{Prepared, QatConfig, QatOptions, ScaleMode};

use crate::{Quantizer, Report, Result, check};

/// Settings of quantization-aware training.
///
/// 1. [`Qat::prepare`] makes the layers of a module compute as their quantized selves, with gradients.
/// 2. The caller trains it as any module.
/// 3. [`PreparedQat::convert`] replaces the layers by packed integers, which compute what was trained.
///
/// Ranges of static activations are observed while the module is trained, so that no calibration is needed.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Qat {
    config: QatConfig,
    steps: usize,
}

/// Training for the result of a [`Quantizer`], of which the calibration is not used.
impl From<Quantizer> for Qat {
    fn from(quantizer: Quantizer) -> Self {
        let config = QatConfig { quantization: PtqConfig::from(quantizer), options: QatOptions::default() };
        // Without a schedule no step is the last.
        Self { config, steps: usize::MAX }
    }
}

impl Qat {
    /// Trains the scales of weights along with them (LSQ), instead of observing the weights in every step.
    pub fn learned_scales(mut self) -> Self {
        self.config.options.scale = ScaleMode::Learned;
        self
    }

    /// Rounds nothing in the first `observe` of `steps` steps, and holds observed ranges fixed in the last `freeze`.
    /// [`PreparedQat::set_step`] then must be called before each step.
    pub fn schedule(mut self, steps: usize, observe: usize, freeze: usize) -> Self {
        self.steps = steps;
        self.config.options.observe_steps = observe;
        self.config.options.freeze_steps = freeze;
        self
    }

    /// Makes the layers of `module` compute as their quantized selves. The module must be on a device with autodiff.
    ///
    /// # Errors
    /// [`Error::Unnamed`](crate::Error::Unnamed); [`Error::Qat`](crate::Error::Qat) for a device without autodiff, a
    /// skip pattern that matches nothing, a schedule that cannot work, or layers that cannot be trained so.
    pub fn prepare<M: Module + NamedLinears>(&self, mut module: M) -> Result<(M, PreparedQat)> {
        check::all_named(&module)?;
        let prepared = slm_qat::prepare(&mut module, &self.config, self.steps)?;
        Ok((module, PreparedQat { prepared, config: self.config.clone() }))
    }
}

/// The training that a module was prepared for.
#[derive(Debug, Clone)]
pub struct PreparedQat {
    prepared: Prepared,
    config: QatConfig,
}

impl PreparedQat {
    /// Sets all layers to the stage of step `step` of the schedule, counted from 0.
    pub fn set_step(&self, step: usize) {
        self.prepared.set_stage(step);
    }

    /// Replaces the trained layers by packed integers, in a copy of the module without autodiff.
    ///
    /// # Errors
    /// [`Error::Qat`](crate::Error::Qat) for weights that are not finite, and for static activations of a layer that saw
    /// no batch.
    pub fn convert<M: Module + NamedLinears>(&self, module: &M) -> Result<(M, Report)> {
        let mut module = module.valid();
        let layers = slm_qat::convert(&mut module, &mut |_| {})?;
        let skipped = self.prepared.plan.skipped.clone();
        let observer = match self.config.options.scale {
            ScaleMode::Observed => self.config.options.observer().to_string(),
            ScaleMode::Learned => format!("learned from {}", self.config.options.observer()),
        };
        Ok((module, Report::qat(layers, skipped, self.config.quantization.clone(), observer)))
    }
}
