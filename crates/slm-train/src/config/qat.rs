//! The `[qat]` section of a training config.

use serde::{Deserialize, Serialize};
use slm_qat::{QatOptions, ScaleMode};
use slm_quant_core::ObserverKind;

use super::Check;
use crate::{Error, Result};

/// Options of quantization-aware training, the `[qat]` section of a training config. Unknown keys are rejected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Section", into = "Section")]
pub struct QatTrainingOptions {
    /// Options of ranges. In a file, its fields are keys of the same section.
    pub options: QatOptions,
    /// Learning rate of learned scales as a multiple of that of the weights. Default: 0.1.
    pub scale_learning_rate: f64,
    /// Trains towards the outputs of the float model (Kullback-Leibler divergence of its distribution over the next
    /// token) instead of the tokens of the text. Default: false.
    pub distill: bool,
}

impl Default for QatTrainingOptions {
    fn default() -> Self {
        Self { options: QatOptions::default(), scale_learning_rate: 0.1, distill: false }
    }
}

impl QatTrainingOptions {
    pub(super) fn validate(&self, check: &Check<'_>, steps: usize) -> Result<()> {
        self.options.schedule(steps).map_err(|error| match error {
            slm_qat::Error::Option { option, detail, remedy } => {
                check.refused(&format!("qat.{option}"), detail, remedy)
            }
            other => Error::Qat(other),
        })?;
        let rate = self.scale_learning_rate;
        check.that(rate > 0.0 && rate <= 100.0, "qat.scale_learning_rate", || {
            (format!("is {rate}"), "use a multiple of the learning rate such as 0.1".into())
        })
    }
}

/// The section in its written form.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Section {
    scale: ScaleMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    observer: Option<ObserverKind>,
    averaging_constant: f32,
    observe_steps: usize,
    freeze_steps: usize,
    scale_learning_rate: f64,
    distill: bool,
}

impl Default for Section {
    fn default() -> Self {
        QatTrainingOptions::default().into()
    }
}

impl From<Section> for QatTrainingOptions {
    fn from(section: Section) -> Self {
        let Section { scale, observer, averaging_constant, observe_steps, freeze_steps, .. } = section;
        Self {
            options: QatOptions { scale, observer, averaging_constant, observe_steps, freeze_steps },
            scale_learning_rate: section.scale_learning_rate,
            distill: section.distill,
        }
    }
}

impl From<QatTrainingOptions> for Section {
    fn from(config: QatTrainingOptions) -> Self {
        let QatOptions { scale, observer, averaging_constant, observe_steps, freeze_steps } = config.options;
        Self {
            scale,
            observer,
            averaging_constant,
            observe_steps,
            freeze_steps,
            scale_learning_rate: config.scale_learning_rate,
            distill: config.distill,
        }
    }
}
