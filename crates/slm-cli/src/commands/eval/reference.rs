//! The reference checkpoint of a comparison.

use std::path::Path;

use burn::tensor::Device;
use slm_checkpoint::Checkpoint;
use slm_model::{Divergence, InferencePath, Transformer, window_logits, window_logits_by};

use super::{DivergenceView, TextResult, Window, check_vocabularies, each_window};
use crate::context::Context;
use crate::error::Result;

pub(super) struct Reference {
    weight_bytes: u64,
    model: Transformer,
    /// The same model, computed by Burn's operations on the CPU.
    other: Option<Transformer>,
    total: Divergence,
    noise: Divergence,
}

impl Reference {
    /// Loads the reference in `dir`. With `noise_floor`, prepares a second copy for computation by Burn's operations.
    pub(super) fn load(
        dir: &Path,
        judged: &Checkpoint,
        noise_floor: bool,
        context: &Context,
    ) -> Result<Self> {
        let checkpoint = context.open_checkpoint(dir)?;
        check_vocabularies(judged, &checkpoint)?;
        let model = context.load_model(&checkpoint)?;
        let other = match (noise_floor, model.inference_path()) {
            (false, _) => None,
            (true, InferencePath::Cpu) => Some(model.clone()),
            (true, _) => Some(checkpoint.load_model(&Device::flex())?),
        };
        Ok(Self {
            weight_bytes: checkpoint.weight_bytes(),
            model,
            other,
            total: Divergence::default(),
            noise: Divergence::default(),
        })
    }

    /// Runs both models over `windows`.
    pub(super) fn compare(
        &mut self,
        path: &Path,
        model: &Transformer,
        windows: &[Window],
        context: &Context,
    ) -> Result<TextResult> {
        let vocab_size = model.config().vocab_size;
        let mut divergence = Divergence::default();
        each_window(windows, context, |window| {
            let reference = window_logits(&self.model, window.ids)?;
            let logits = window_logits(model, window.ids)?;
            divergence.observe(&reference, &logits, window, vocab_size)?;
            if let Some(other) = &self.other {
                let logits = window_logits_by(other, InferencePath::Burn, window.ids)?;
                self.noise.observe(&reference, &logits, window, vocab_size)?;
            }
            Ok(())
        })?;
        self.total.merge(&divergence);
        let summary = divergence.summary();
        let tokens = summary.map_or(0, |summary| summary.tokens);
        let perplexity = summary.map_or(f64::NAN, |summary| summary.perplexity);
        Ok(TextResult {
            path: path.to_owned(),
            perplexity,
            bits_per_byte: None,
            total_nll: divergence.nll(),
            tokens,
            windows: windows.len(),
            divergence: summary.map(DivergenceView::from),
        })
    }

    /// Size of all its tensors in bytes.
    pub(super) fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// The divergence over all texts so far.
    pub(super) fn total(&self) -> Option<DivergenceView> {
        self.total.summary().map(DivergenceView::from)
    }

    /// The divergence that is due to rounding only.
    pub(super) fn noise(&self) -> Option<DivergenceView> {
        self.noise.summary().map(DivergenceView::from)
    }
}
