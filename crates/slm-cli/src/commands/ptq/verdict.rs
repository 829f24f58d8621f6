//! The warning at the end of `slm ptq` if the quantized model is worse than expected, with the cause.

use slm_model::{Evaluation, LM_HEAD, Transformer, window_logits};
use slm_ptq::{
    CheckpointQuantizer, InputError, LayerReport, PtqConfig, RoundingMethod, input_errors,
    remove_activation_quant,
};
use slm_quant_core::{ActivationGranularity, Bits, Granularity, ObserverKind, QuantizationType};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::limits::TOLERATED_RISE;
use crate::text::evaluate_with_progress;

/// Number of tokens for finding the cause.
const DIAGNOSIS_TOKENS: usize = 2048;

/// Two evaluations of the same text.
pub(super) struct Evaluations<'a> {
    pub(super) float: &'a Evaluation,
    pub(super) quantized: &'a Evaluation,
    pub(super) windows: &'a [Vec<u32>],
}

impl Evaluations<'_> {
    fn rise(&self) -> f64 {
        self.quantized.perplexity() / self.float.perplexity() - 1.0
    }

    /// Returns the warning, if there is reason for one. `model` is the quantized model; afterwards it no longer
    /// quantizes activations.
    pub(super) fn warning(
        &self,
        model: &mut Transformer,
        quantizer: &CheckpointQuantizer<'_>,
        layers: &[LayerReport],
        context: &Context,
    ) -> Result<Option<String>> {
        if self.rise() <= TOLERATED_RISE || !self.float.perplexity().is_finite() {
            return Ok(None);
        }
        let config = quantizer.config();
        let cause = self.cause(model, config, context)?;
        Ok(Some(match &cause {
            Cause::Activations { weight_only, worst } => activations(*weight_only, worst.as_ref(), config),
            Cause::Weights => weights(quantizer, layers),
        }))
    }

    /// Disables the quantization of activations and examines the remaining loss.
    fn cause(&self, model: &mut Transformer, config: &PtqConfig, context: &Context) -> Result<Cause> {
        if config.quantization_type == QuantizationType::WeightOnly {
            return Ok(Cause::Weights);
        }
        let quants = remove_activation_quant(model);
        let longest = self.windows.iter().map(Vec::len).max().unwrap_or(1);
        let count = (DIAGNOSIS_TOKENS / longest).max(1);
        let windows = &self.windows[..self.windows.len().min(count)];
        let weight_only = evaluate_with_progress(context, "looking for the cause", model, windows)?;
        let nll = |evaluation: &Evaluation| {
            evaluation.window_nll.iter().take(weight_only.window_nll.len()).sum::<f64>()
        };
        let (float, quantized) = (nll(self.float), nll(self.quantized));
        if weight_only.nll - float > (quantized - float) / 2.0 {
            return Ok(Cause::Weights);
        }
        let first = windows.first().map_or(&[][..], Vec::as_slice);
        let errors =
            input_errors(model, &quants, |model| window_logits(model, first).map(drop).map_err(Error::from))?;
        let tokens = weight_only.tokens as f64;
        let rise = ((weight_only.nll - float) / tokens).exp() - 1.0;
        Ok(Cause::Activations { weight_only: rise, worst: errors.into_iter().next() })
    }
}

enum Cause {
    /// Activations cause the loss: with float activations, the perplexity rises only by `weight_only`, as a share of
    /// the float one.
    Activations {
        weight_only: f64,
        worst: Option<InputError>,
    },
    Weights,
}

fn activations(weight_only: f64, worst: Option<&InputError>, config: &PtqConfig) -> String {
    let mut text = format!(
        "most of the loss comes from the 8-bit {} activations: with float activations the same weights cost {:+.1} %.",
        config.quantization_type,
        weight_only * 100.0
    );
    if let Some(InputError { layer, relative_error }) = worst {
        text += &format!(
            "\nThe input of {layer} suffers most: a token of it loses {:.0} % of its length on average.",
            relative_error.min(1.0) * 100.0
        );
    }
    text += "\nTry ";
    text += match (config.quantization_type, config.activation_granularity) {
        (QuantizationType::Static, _) => "--type dynamic, which uses a separate scale for each token",
        (_, ActivationGranularity::PerTensor) => "--activation-granularity token",
        _ => "--type weight-only",
    };
    if let Some(InputError { layer, .. }) = worst {
        text += &format!(", or --skip '{layer}'");
    }
    text + "."
}

fn weights(quantizer: &CheckpointQuantizer<'_>, layers: &[LayerReport]) -> String {
    let (config, observer) = (quantizer.config(), quantizer.weight_observer());
    let mut text = format!(
        "most of the loss comes from the {} weights ({}, {observer} observer).",
        config.scheme, config.method
    );
    let sqnr = |layer: &&LayerReport| layer.error.sqnr_db();
    if let Some(worst) = layers.iter().min_by(|a, b| sqnr(a).total_cmp(&sqnr(b))) {
        text += &format!(
            "\nThe weight of {} suffers most: {:.1} dB signal to quantization noise.",
            worst.name,
            worst.error.sqnr_db()
        );
    }
    let mut remedies = Vec::new();
    match config.scheme.bits {
        Bits::Int8 if observer != ObserverKind::MinMax => remedies.push("--observer min-max"),
        Bits::Int4 if !matches!(observer, ObserverKind::MinMax | ObserverKind::WeightedMse) => {
            remedies.push("--observer weighted-mse");
        }
        _ => {}
    }
    if config.scheme.bits == Bits::Int4 && config.method == RoundingMethod::Rtn {
        remedies.push("--method gptq");
    }
    match config.scheme.granularity {
        Granularity::PerTensor => remedies.push("--granularity channel or group:32"),
        Granularity::PerChannel => remedies.push("--granularity group:32"),
        Granularity::PerGroup { .. } => {}
    }
    if config.scheme.bits == Bits::Int4 {
        remedies.push("--bits 8");
    }
    let head = layers.iter().any(|layer| layer.name == LM_HEAD);
    if head && remedies.len() < 2 {
        remedies.push("--skip lm_head");
    }
    if !remedies.is_empty() {
        text += &format!("\nTry {}.", remedies.join(", or "));
    }
    text
}
