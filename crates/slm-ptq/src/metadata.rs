//! The record that a quantized checkpoint carries of its quantization.

use slm_checkpoint::{
    FORMAT_VERSION, LayerMetadata, Lineage, QuantizationMetadata, QuantizationMode, SkippedLayer, WeightError,
};
use slm_quant_core::{QuantizationType, QuantizedMatrix};

use crate::{LayerReport, Plan, PtqConfig};

/// Builds the [`QuantizationMetadata`] of a checkpoint.
#[derive(Debug, Clone)]
pub struct MetadataBuilder(QuantizationMetadata);

impl MetadataBuilder {
    /// Starts with what `config` asks for and `plan` leaves out.
    pub fn new(config: &PtqConfig, plan: &Plan) -> Self {
        let PtqConfig { scheme, quantization_type, .. } = *config;
        let skipped = plan.skipped.iter().map(|layer| SkippedLayer {
            name: layer.name.clone(),
            shape: layer.shape,
            reason: layer.reason.clone(),
        });
        Self(QuantizationMetadata {
            format_version: FORMAT_VERSION,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: QuantizationMode::Ptq,
            quantization_type,
            bits: scheme.bits,
            granularity: scheme.granularity,
            mapping: scheme.mapping,
            scale_dtype: scheme.scale_dtype,
            weight_observer: config.observer.to_string(),
            activation_observer: (quantization_type == QuantizationType::Static)
                .then(|| config.activation_observer.to_string()),
            activation_granularity: (quantization_type == QuantizationType::Dynamic)
                .then_some(config.activation_granularity),
            embedding: None,
            layers: Vec::new(),
            skipped: skipped.collect(),
            lineage: Lineage::default(),
        })
    }

    /// Starts with what was asked for when `source` was quantized.
    pub fn from_source(source: &QuantizationMetadata) -> Self {
        Self(QuantizationMetadata {
            format_version: FORMAT_VERSION,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            embedding: None,
            layers: Vec::new(),
            lineage: Lineage::default(),
            ..source.clone()
        })
    }

    /// Names other observers than those of the config: `weights`, and `activations` if they are static.
    #[must_use]
    pub fn observers(mut self, weights: String, activations: String) -> Self {
        self.0.weight_observer = weights;
        if self.0.quantization_type == QuantizationType::Static {
            self.0.activation_observer = Some(activations);
        }
        self
    }

    /// Adds the quantized table of the embedding.
    #[must_use]
    pub fn embedding(mut self, embedding: Option<LayerMetadata>) -> Self {
        self.0.embedding = embedding;
        self
    }

    /// Adds the quantized layers, in forward order, and how they came about.
    #[must_use]
    pub fn build(
        mut self,
        mode: QuantizationMode,
        layers: Vec<LayerMetadata>,
        lineage: Lineage,
    ) -> QuantizationMetadata {
        self.0.mode = mode;
        self.0.layers = layers;
        self.0.lineage = lineage;
        self.0
    }
}

/// The record of one layer that was quantized to `matrix`.
pub fn layer_metadata(report: &LayerReport, matrix: &QuantizedMatrix) -> LayerMetadata {
    let error = WeightError {
        sqnr_db: report.error.sqnr_db(),
        max_abs_error: report.error.max_abs_error(),
        clipped_share: report.error.clipped_share().unwrap_or(0.0),
    };
    LayerMetadata::new(&report.name, matrix, report.activation, error)
}
