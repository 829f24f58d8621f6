//! The metadata of a quantized checkpoint or module.

use slm_quant_core::{QuantizationType, QuantizedMatrix};
use slm_store::{LayerMetadata, MetadataBuilder, WeightError};

use crate::{LayerReport, PtqConfig, SkippedLayer};

impl PtqConfig {
    /// Starts the metadata of a model that is quantized with these settings. `calibrated` says whether ranges of
    /// weights were chosen by the inputs of layers; `skipped` are the layers that stay float.
    pub fn metadata(&self, skipped: &[SkippedLayer], calibrated: bool) -> MetadataBuilder {
        MetadataBuilder::new(self.scheme, self.quantization_type)
            .method(self.method)
            .weight_observer(self.weight_observer(calibrated))
            .activation_observer(self.activation_observer)
            .activation_granularity(self.activation_granularity)
            .skipped(skipped.iter().map(|layer| slm_store::SkippedLayer {
                name: layer.name.clone(),
                shape: layer.shape,
                reason: layer.reason.clone(),
            }))
    }
}

/// The metadata of one layer that was quantized to `matrix`.
pub fn layer_metadata(
    report: &LayerReport,
    matrix: &QuantizedMatrix,
    quantization_type: QuantizationType,
) -> LayerMetadata {
    let error = WeightError {
        sqnr_db: report.error.sqnr_db(),
        max_abs_error: report.error.max_abs_error(),
        clipped_share: report.error.clipped_share().unwrap_or(0.0),
    };
    let observed_input = report.observed_input.map(|(min, max)| [min, max]);
    LayerMetadata {
        observed_input,
        ..LayerMetadata::new(&report.name, matrix, quantization_type, report.activation, error)
    }
}
