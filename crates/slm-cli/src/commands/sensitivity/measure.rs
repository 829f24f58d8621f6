//! Effect of quantizing single layers on the predictions of a model.

use std::collections::BTreeMap;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;
use slm_checkpoint::Checkpoint;
use slm_model::{Divergence, EvalWindow, Transformer, window_logits};
use slm_ptq::{LayerReport, Plan, PlannedLayer, PtqConfig, convert};
use slm_quant_core::QuantizationType;
use slm_train::QuantizationConfig;

use crate::commands::scheme_args::MeasuredSchemeArgs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::text::{Limit, Tokens, WindowArgs, tokenizer};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::commands) enum Unit {
    /// All layers whose names end alike
    Kind,
    /// One layer
    Layer,
}

#[derive(Serialize)]
pub(in crate::commands) struct UnitResult {
    /// Name of the layer, or of the kind of layers.
    pub(in crate::commands) name: String,
    pub(in crate::commands) layers: usize,
    pub(in crate::commands) scheme: String,
    /// Mean divergence in nats.
    pub(in crate::commands) kl_mean: f64,
    pub(in crate::commands) perplexity: f64,
    pub(in crate::commands) top1_agreement: f64,
    pub(in crate::commands) bytes_saved: u64,
}

impl UnitResult {
    /// Divergence for each gigabyte that is saved, in nats.
    pub(in crate::commands) fn nats_per_gb(&self) -> f64 {
        self.kl_mean * 1e9 / self.bytes_saved.max(1) as f64
    }
}

/// Returns the settings of a measurement, weight-only by default.
pub(in crate::commands) fn sensitivity_config(scheme: &MeasuredSchemeArgs) -> Result<PtqConfig> {
    let mut config = QuantizationConfig {
        quantization_type: QuantizationType::WeightOnly,
        ..QuantizationConfig::default()
    };
    scheme.apply(&mut config);
    if config.quantization_type == QuantizationType::Static {
        return Err(Error::Usage(
            "--type static: ranges of activations are those of a whole quantized model; use weight-only or dynamic"
                .to_owned(),
        ));
    }
    Ok(config.ptq())
}

/// Returns the groups of layers that are quantized together, by name.
pub(in crate::commands) fn units(plan: &Plan, by: Unit) -> Vec<(String, Vec<PlannedLayer>)> {
    let mut units: BTreeMap<String, Vec<PlannedLayer>> = BTreeMap::new();
    for layer in &plan.layers {
        let name = match by {
            Unit::Layer => &*layer.name,
            Unit::Kind => layer.name.rsplit('.').next().unwrap_or(&layer.name),
        };
        units.entry(name.to_owned()).or_default().push(layer.clone());
    }
    units.into_iter().collect()
}

/// The windows of a text, with the float model's logits for each.
pub(in crate::commands) struct SensitivityText<'a> {
    windows: Vec<EvalWindow<'a>>,
    float: Vec<Vec<f32>>,
}

impl SensitivityText<'_> {
    /// Reads the first `max_tokens` tokens of the text at `path`, runs the float model of `checkpoint` on them, and
    /// passes both to `then`. The model's head is untied, so that it can be quantized like any other layer.
    pub(in crate::commands) fn with<T>(
        checkpoint: &Checkpoint,
        path: &Path,
        windows: &WindowArgs,
        max_tokens: usize,
        context: &Context,
        then: impl FnOnce(&Transformer, &SensitivityText<'_>) -> Result<T>,
    ) -> Result<T> {
        let windowing = windows.windowing(checkpoint)?;
        let limit = Limit { option: "--max-tokens", tokens: max_tokens };
        let vocab_size = checkpoint.config().model.vocab_size;
        let tokens = Tokens::read(&tokenizer(checkpoint)?, path, limit.tokens, vocab_size, context)?;
        tokens.check_length(path, &windowing, limit)?;
        let ids: Vec<Vec<u32>> =
            tokens.windows(&windowing).into_iter().filter(|ids| ids.len() >= 2).collect();
        let windows: Vec<EvalWindow<'_>> =
            ids.iter().map(|ids| EvalWindow { ids, first_scored: 1 }).collect();
        let mut model = context.load_model(checkpoint)?;
        model.untie_head();
        let bar = context.progress.bar("float model", windows.len());
        let mut float = Vec::with_capacity(windows.len());
        for window in &windows {
            context.interrupt.check()?;
            float.push(window_logits(&model, window.ids)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        then(&model, &SensitivityText { windows, float })
    }

    fn divergence(
        &self,
        vocab_size: usize,
        mut logits: impl FnMut(usize) -> Result<Vec<f32>>,
    ) -> Result<Divergence> {
        let mut divergence = Divergence::default();
        for (index, (window, float)) in self.windows.iter().zip(&self.float).enumerate() {
            divergence.observe(float, &logits(index)?, *window, vocab_size)?;
        }
        Ok(divergence)
    }

    /// Returns the number of scored tokens, and the float model's perplexity.
    pub(in crate::commands) fn float_perplexity(&self, model: &Transformer) -> Result<(usize, f64)> {
        let same = self.divergence(model.config().vocab_size, |index| Ok(self.float[index].clone()))?;
        Ok(same.summary().map_or((0, f64::NAN), |summary| (summary.tokens, summary.perplexity)))
    }
}

/// Quantizes `layers` of a copy of the model, and compares its predictions with the float model's.
pub(in crate::commands) fn measure(
    name: String,
    layers: Vec<PlannedLayer>,
    float: &Transformer,
    config: &PtqConfig,
    text: &SensitivityText<'_>,
) -> Result<UnitResult> {
    let count = layers.len();
    let plan = Plan { layers, skipped: Vec::new(), embedding: None };
    let mut model = float.clone();
    let reports = convert(&mut model, &plan, config, None, &mut |_: &LayerReport| {})?;
    let divergence = text
        .divergence(model.config().vocab_size, |index| Ok(window_logits(&model, text.windows[index].ids)?))?;
    let summary =
        divergence.summary().ok_or_else(|| Error::Usage("the text has no token to score".to_owned()))?;
    let mut schemes: Vec<String> = reports.iter().map(|report| report.scheme.to_string()).collect();
    schemes.dedup();
    let saved = |report: &LayerReport| report.bytes_before.saturating_sub(report.bytes_after) as u64;
    Ok(UnitResult {
        name,
        layers: count,
        scheme: schemes.join(", "),
        kl_mean: summary.mean,
        perplexity: summary.perplexity,
        top1_agreement: summary.top1_agreement,
        bytes_saved: reports.iter().map(saved).sum(),
    })
}
