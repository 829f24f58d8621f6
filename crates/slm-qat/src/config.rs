//! Options of quantization-aware training.

use serde::{Deserialize, Serialize};
use slm_nn::QatStage;
use slm_ptq::PtqConfig;
use slm_quant_core::{MovingAverageMinMaxObserver, ObserverKind};

use crate::{Error, Result};

/// Settings of a whole run: the simulated quantization, and its training.
#[derive(Debug, Clone, PartialEq)]
pub struct QatConfig {
    /// Scheme, type and skipped layers. Its observers are those of post-training quantization and are not used here.
    pub quantization: PtqConfig,
    /// Options of ranges and stages.
    pub options: QatOptions,
}

/// Source of the scales of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleMode {
    /// Scales are observed, that is, chosen from the weights of each step.
    #[default]
    Observed,
    /// Scales are trained parameters (LSQ, Esser and others, 2020, arXiv:1902.08153). The observer chooses their
    /// initial values.
    Learned,
}

/// Options of ranges in training. Unknown keys are rejected.
///
/// ```
/// use slm_qat::{QatOptions, ScaleMode};
///
/// let options: QatOptions = serde_json::from_str(r#"{"scale": "learned", "freeze_steps": 20}"#)?;
/// assert_eq!(options.scale, ScaleMode::Learned);
/// assert_eq!(options.observer().to_string(), "mse");
/// assert!(serde_json::from_str::<QatOptions>(r#"{"frezze_steps": 20}"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QatOptions {
    /// `observed` or `learned`. Default: `observed`.
    pub scale: ScaleMode,
    /// Observer that chooses the ranges of weights: in every step or, for learned scales, before the first. Default:
    /// `min-max` for observed scales, which costs almost nothing and to which the weights adapt; `mse` for learned
    /// scales, which training then moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observer: Option<ObserverKind>,
    /// Weight of a new batch in the moving average of static activation ranges, in (0, 1]. Default: 0.01, as
    /// in PyTorch.
    pub averaging_constant: f32,
    /// Number of steps at the start in which observers watch and nothing is rounded. Default: 0.
    pub observe_steps: usize,
    /// Number of steps at the end in which observed ranges no longer change. Default: 0.
    pub freeze_steps: usize,
}

impl Default for QatOptions {
    fn default() -> Self {
        Self {
            scale: ScaleMode::default(),
            observer: None,
            averaging_constant: MovingAverageMinMaxObserver::AVERAGING_CONSTANT,
            observe_steps: 0,
            freeze_steps: 0,
        }
    }
}

impl QatOptions {
    /// The observer that chooses the ranges, or the initial ranges, of weights.
    pub fn observer(&self) -> ObserverKind {
        self.observer.unwrap_or(match self.scale {
            ScaleMode::Observed => ObserverKind::MinMax,
            ScaleMode::Learned => ObserverKind::Mse,
        })
    }

    /// The schedule of a run of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Option`] for options that leave no step with rounding, or are out of range.
    pub fn schedule(&self, steps: usize) -> Result<StageSchedule> {
        let refuse = |option: &'static str, detail: String, remedy: &'static str| {
            Err(Error::Option { option, detail, remedy })
        };
        if !(self.averaging_constant > 0.0 && self.averaging_constant <= 1.0) {
            let detail = format!("is {}", self.averaging_constant);
            return refuse("averaging_constant", detail, "use a number above 0 and at most 1; 0.01 is usual");
        }
        if self.observe_steps >= steps {
            let detail = format!("is {}, and the run has {steps} steps", self.observe_steps);
            return refuse("observe_steps", detail, "use fewer, so that some steps train with rounding");
        }
        if self.freeze_steps > steps - self.observe_steps {
            let detail = format!(
                "is {}, and {} steps follow the observe_steps",
                self.freeze_steps,
                steps - self.observe_steps
            );
            return refuse("freeze_steps", detail, "use fewer");
        }
        if let Some(observer) = self.observer
            && let Err(error) = observer.build()
        {
            return refuse("observer", error.to_string(), "use an observer with valid parameters");
        }
        Ok(StageSchedule { observe_until: self.observe_steps, freeze_from: steps - self.freeze_steps })
    }
}

/// Schedule of the stages of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageSchedule {
    observe_until: usize,
    freeze_from: usize,
}

impl StageSchedule {
    /// The stage of step `step`, counted from 0.
    pub fn stage(&self, step: usize) -> QatStage {
        if step < self.observe_until {
            QatStage::Observe
        } else if step >= self.freeze_from {
            QatStage::Frozen
        } else {
            QatStage::Train
        }
    }
}
