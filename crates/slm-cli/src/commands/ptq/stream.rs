//! Quantizing from one checkpoint into another, one layer at a time.

use std::path::{Path, PathBuf};

use serde_json::json;
use slm_checkpoint::{
    CalibrationRecord, Checkpoint, CheckpointWriter, FORMAT_VERSION, LayerMetadata, Layout, Lineage,
    QuantizationMetadata, QuantizationMode, SaveRequest, SkippedLayer, WeightError,
};
use slm_model::{EMBED_TOKENS, LM_HEAD, expected_tensors};
use slm_ptq::{Calibration, LayerReport, Plan, PtqConfig, quantize_layer};
use slm_quant_core::QuantizationType;

use crate::context::Context;
use crate::error::Result;

/// What is quantized, how, and where to.
pub(super) struct Job<'a> {
    pub(super) source: &'a Checkpoint,
    pub(super) plan: &'a Plan,
    pub(super) config: &'a PtqConfig,
    pub(super) calibration: Option<&'a Calibration>,
    /// The text of the calibration.
    pub(super) record: Option<CalibrationRecord>,
    pub(super) out: &'a Path,
    pub(super) overwrite: bool,
}

impl Job<'_> {
    /// Reads, quantizes and writes one tensor after the other: beside the reports, no more is in memory than the
    /// largest of them, float and quantized. Returns where the checkpoint is, and what was done to each layer.
    pub(super) fn run(self, context: &Context) -> Result<(PathBuf, Vec<LayerReport>)> {
        let Self { source, plan, config, .. } = self;
        let is_planned = |layer: &str| plan.layers.iter().any(|planned| planned.name == layer);
        let mut model = source.config().model.clone();
        let tied = model.tie_word_embeddings;
        model.tie_word_embeddings = tied && !is_planned(LM_HEAD);

        let mut layout = Layout::new(&model);
        let is_static = config.quantization_type == QuantizationType::Static;
        for layer in &plan.layers {
            layout
                .quantize(&layer.name, config.scheme, is_static)
                .map_err(|error| slm_ptq::Error::Layer { layer: layer.name.clone(), source: error.into() })?;
        }
        let mut writer = CheckpointWriter::create(self.out, &model, &layout, self.overwrite)?;
        let bar = context.progress.bar("quantizing layers", plan.layers.len());
        let (mut reports, mut records) = (Vec::new(), Vec::new());
        for tensor in expected_tensors(&model) {
            context.interrupt.check()?;
            let layer = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
            let stored = if layer == LM_HEAD && tied { EMBED_TOKENS } else { &tensor.name };
            let values = source.tensors().read_f32(stored)?;
            let shape = match tensor.shape[..] {
                [rows, cols] if tensor.linear_weight && is_planned(layer) => [rows, cols],
                _ => {
                    writer.write_f32(&tensor.name, &values)?;
                    continue;
                }
            };
            let quantized = quantize_layer(layer, &values, shape, config, self.calibration)?;
            drop(values);
            let report = quantized.report;
            writer.write_quantized(layer, &quantized.matrix, report.activation)?;
            let error = WeightError {
                sqnr_db: report.error.sqnr_db(),
                max_abs_error: report.error.max_abs_error(),
                clipped_share: report.error.clipped_share().unwrap_or(0.0),
            };
            records.push(LayerMetadata::new(layer, &quantized.matrix, report.activation, error));
            reports.push(report);
            bar.inc(1);
        }
        bar.finish_and_clear();
        // Also makes sure that all of the above was read from one and the same file.
        let source_sha256 = source.weights_sha256()?;
        let metadata = self.metadata(records, source_sha256);
        let path = writer.finish(&SaveRequest {
            tokenizer_json: source.tokenizer_json(),
            tokenizer: source.config().tokenizer.clone(),
            metadata: Some(&metadata),
            lineage: Some(json!({
                "method": "ptq",
                "source_sha256": metadata.lineage.source_sha256,
                "source": source.config().lineage,
            })),
            training: source.config().training.clone(),
            extra_files: &[],
        })?;
        Ok((path, reports))
    }

    fn metadata(self, layers: Vec<LayerMetadata>, source_sha256: String) -> QuantizationMetadata {
        let PtqConfig { scheme, quantization_type, .. } = *self.config;
        let is_static = quantization_type == QuantizationType::Static;
        let is_dynamic = quantization_type == QuantizationType::Dynamic;
        let skipped = self.plan.skipped.iter().map(|layer| SkippedLayer {
            name: layer.name.clone(),
            shape: layer.shape,
            reason: layer.reason.clone(),
        });
        QuantizationMetadata {
            format_version: FORMAT_VERSION,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: QuantizationMode::Ptq,
            quantization_type,
            bits: scheme.bits,
            granularity: scheme.granularity,
            mapping: scheme.mapping,
            scale_dtype: scheme.scale_dtype,
            weight_observer: self.config.observer.to_string(),
            activation_observer: is_static.then(|| self.config.activation_observer.to_string()),
            activation_granularity: is_dynamic.then_some(self.config.activation_granularity),
            layers,
            skipped: skipped.collect(),
            lineage: Lineage { source_sha256: Some(source_sha256), calibration: self.record, training: None },
        }
    }
}
