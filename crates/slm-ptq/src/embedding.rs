//! The quantized token embedding of a checkpoint.

use std::sync::Arc;

use slm_checkpoint::LayerMetadata;
use slm_kernels::{KernelKind, PackedMatrix};
use slm_model::{ModelConfig, TOKEN_TABLE, Transformer};
use slm_nn::{PackedWeight, to_vec_f32};
use slm_quant_core::{ActivationQuant, ObserverKind, QuantizationType, QuantizedMatrix, quantize_matrix};

use crate::convert::report;
use crate::{Error, LayerReport, Plan, PtqConfig, Result, layer_metadata};

/// A separate quantized table of the embedding, and the report on it.
pub(crate) struct QuantizedTable {
    pub(crate) matrix: QuantizedMatrix,
    pub(crate) report: LayerReport,
}

impl QuantizedTable {
    /// Quantizes the table `values` of `model`; `None` if the plan leaves it in float, or the head holds it.
    pub(crate) fn new(
        values: &[f32],
        model: &ModelConfig,
        plan: &Plan,
        config: &PtqConfig,
    ) -> Result<Option<Self>> {
        let Some(embedding) = plan.embedding.filter(|embedding| !embedding.shared) else { return Ok(None) };
        let scheme = embedding.scheme;
        // A table is looked up by row and has no inputs to observe.
        let observer = match config.observer_of(scheme, false) {
            ObserverKind::WeightedMse => ObserverKind::MinMax,
            observer => observer,
        };
        let matrix = quantize_matrix(values, model.vocab_size, model.hidden_size, scheme, &observer)
            .map_err(|error| Error::layer(TOKEN_TABLE, error))?;
        let report = report(TOKEN_TABLE, values, &matrix, ActivationQuant::Float)?;
        Ok(Some(Self { matrix, report }))
    }

    /// The metadata of the table.
    pub(crate) fn metadata(&self) -> LayerMetadata {
        layer_metadata(&self.report, &self.matrix, QuantizationType::WeightOnly)
    }
}

/// Gives the embedding of `model`, whose layers are quantized, the table that `plan` requires. Returns the report if
/// the embedding has a separate table.
pub(crate) fn quantize_embedding(
    model: &mut Transformer,
    plan: &Plan,
    config: &PtqConfig,
) -> Result<Option<LayerReport>> {
    if plan.embedding.is_some_and(|embedding| embedding.shared) {
        model.share_table_with_head()?;
    }
    let Some(table) = model.float_embedding() else { return Ok(None) };
    if plan.embedding.is_none() {
        return Ok(None);
    }
    let values = to_vec_f32("embedding", table).map_err(|error| Error::layer(TOKEN_TABLE, error))?;
    let Some(QuantizedTable { matrix, report }) = QuantizedTable::new(&values, model.config(), plan, config)?
    else {
        return Ok(None);
    };
    let packed = PackedMatrix::new(matrix, KernelKind::selected())
        .map_err(|error| Error::layer(TOKEN_TABLE, error))?;
    model.set_packed_embedding(PackedWeight::new(Arc::new(packed), ActivationQuant::Float))?;
    Ok(Some(report))
}
