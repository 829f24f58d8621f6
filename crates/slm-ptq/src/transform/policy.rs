//! The choice of transformations for a model and its quantization.

use std::sync::Arc;

use slm_checkpoint::{Checkpoint, TransformRecord};
use slm_model::LM_HEAD;
use slm_nn::ForwardHook;

use super::smoothing::MaximaHook;
use super::{TransformedSource, Transforms, cannot_rotate, outliers};
use crate::{Error, Plan, PtqConfig, Result, Rotate, RoundingMethod};

/// Seed of the rotations.
const SEED: u64 = 0;

impl Transforms {
    /// Chooses the transformations that `config` asks for. [`Rotate::Auto`] rotates if the model can be rotated and
    /// that makes the peaks of its weights or norms smaller, unless a tied head stays float: it would become a separate
    /// tensor as large as the embedding.
    ///
    /// # Errors
    /// Those of [`Transforms::rotation`].
    pub(crate) fn choose(checkpoint: &Checkpoint, plan: &Plan, config: &PtqConfig) -> Result<Self> {
        let model = &checkpoint.config().model;
        let shared = plan.embedding.is_some_and(|embedding| embedding.shared);
        match config.rotate {
            Rotate::On if shared => Err(cannot_rotate(
                "head and embedding share one quantized table, and rotated they are different".to_owned(),
            )),
            Rotate::Auto if shared => {
                Ok(Self::none(model).with_reason("head and embedding share one quantized table".to_owned()))
            }
            Rotate::Off => Ok(Self::none(model)),
            Rotate::Auto if config.method == RoundingMethod::Awq => Ok(Self::none(model)
                .with_reason("AWQ scales large channels, and a rotation would leave none".to_owned())),
            Rotate::On => Self::rotation(checkpoint, SEED),
            Rotate::Auto if model.tie_word_embeddings && !plan.quantizes(LM_HEAD) => Ok(Self::none(model)
                .with_reason("its tied head stays float, and would become a separate tensor".to_owned())),
            Rotate::Auto => match Self::rotation(checkpoint, SEED) {
                Err(Error::Setting { detail, .. }) => Ok(Self::none(model).with_reason(detail)),
                Err(error) => Err(error),
                Ok(rotated) => Ok(match outliers::reason_against(checkpoint, &rotated, plan, config)? {
                    Some(reason) => Self::none(model).with_reason(reason),
                    None => rotated,
                }),
            },
        }
    }

    /// Observes the inputs of layers while `forward` runs the model as changed so far, then adds smoothing.
    ///
    /// # Errors
    /// [`Error::Layer`] for inputs that cannot be read, [`Error::Checkpoint`] for weights that cannot be read, and
    /// whatever `forward` returns.
    pub(crate) fn calibrate_smoothing<E: From<Error>>(
        &mut self,
        checkpoint: &Checkpoint,
        strength: f64,
        with_head: bool,
        forward: impl FnOnce(&mut TransformedSource<'_>, &Arc<dyn ForwardHook>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.smoothing.clear();
        let hook = Arc::new(MaximaHook::default());
        forward(&mut TransformedSource::new(checkpoint, self), &(Arc::clone(&hook) as Arc<dyn ForwardHook>))?;
        Ok(self.smooth(checkpoint, &hook.take()?, strength, with_head)?)
    }

    /// The record of the applied changes; `None` if there are none.
    pub fn record(&self) -> Option<TransformRecord> {
        let record = TransformRecord {
            rotation_seed: self.seed,
            smoothing_strength: self.strength,
            equalized_norms: (self.equalized_norms > 0).then_some(self.equalized_norms as u64),
            equalized_mlps: self.equalized.filter(|&count| count > 0).map(|count| count as u64),
        };
        (!self.is_none()).then_some(record)
    }

    /// Reason for not rotating a model that would otherwise have been rotated; `None` if it is rotated, or rotation was
    /// not requested.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    fn with_reason(mut self, reason: String) -> Self {
        self.reason = Some(reason);
        self
    }
}
