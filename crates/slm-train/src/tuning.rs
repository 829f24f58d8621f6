//! Fine-tuning of a model whose weights stay quantized.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use slm_checkpoint::{
    LayerMetadata, Lineage, MetadataBuilder, QuantizationMetadata, QuantizationMode as CheckpointMode,
    TrainingRecord, WeightError,
};
use slm_model::Transformer;
use slm_nn::{
    ErrorSlot, NamedLinears, QuantizedTrainableWeight, Rounding, Weight, linear_names, report_errors,
    try_for_each_linear_mut,
};

use crate::state::TrainingState;
use crate::{Error, Result, TrainingConfig};

/// Bytes per weight of AdamW and the gradient: two moments and the gradient, in 32 bits each.
const OPTIMIZER_BYTES: f64 = 12.0;
const FLOAT_BYTES: f64 = 4.0;

/// Rounding of updated weights: the `[finetune]` section of a training config. Unknown keys are rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneOptions {
    /// `nearest`, `stochastic` or `error-feedback`. Default: `stochastic`, which learned as much as error feedback
    /// in measurements (docs/qat.md) and keeps no state.
    pub rounding: RoundingKind,
}

/// Rounding of updated weights back to codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoundingKind {
    /// Rounds to the nearest code, which loses most updates.
    Nearest,
    /// Rounds up or down at random, so that the mean is exact; drawn with the seed of `[training]`.
    #[default]
    Stochastic,
    /// Rounds to the nearest code and keeps the remainder in 8 bits for the next step.
    ErrorFeedback,
}

/// Bytes per quantized weight that training uses during and between steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TuningMemory {
    /// Codes and scales.
    pub weights: f64,
    /// Rounding residual.
    pub residual: f64,
    /// Two moments of AdamW and the gradient.
    pub optimizer: f64,
    /// The total.
    pub total: f64,
    /// The total for a model in 32-bit floats.
    pub float_total: f64,
}

/// The state of quantized fine-tuning, apart from the model and its optimizer.
pub(crate) struct Tuning {
    rounding: Rounding,
    /// Metadata of the checkpoint that the run started from.
    source: QuantizationMetadata,
    errors: ErrorSlot,
}

impl Tuning {
    /// Makes the packed layers of `model` trainable.
    pub(crate) fn prepare(
        model: &mut Transformer,
        source: QuantizationMetadata,
        config: &TrainingConfig,
    ) -> Result<Self> {
        let rounding = match config.finetune.rounding {
            RoundingKind::Nearest => Rounding::Nearest,
            RoundingKind::Stochastic => Rounding::Stochastic { seed: config.training.seed },
            RoundingKind::ErrorFeedback => Rounding::ErrorFeedback,
        };
        let device = model.device();
        each(model, |_, _, linear| {
            if let Weight::Packed(weight) = linear {
                *linear =
                    Weight::QuantizedTrainable(QuantizedTrainableWeight::new(weight, &device, rounding)?);
            }
            Ok(())
        })?;
        let errors = ErrorSlot::default();
        report_errors(model, &errors);
        Ok(Self { rounding, source, errors })
    }

    /// The slot that the trained layers report to.
    pub(crate) fn errors(&self) -> &ErrorSlot {
        &self.errors
    }

    /// Adds the updates of step `step` to the quantized weights.
    pub(crate) fn apply(&self, model: &mut Transformer, step: usize) -> Result<()> {
        let count = linear_names(model).len();
        each(model, |index, _, linear| {
            if let Weight::QuantizedTrainable(weight) = linear {
                weight.apply(self.rounding, (step * count + index) as u64)?;
            }
            Ok(())
        })
    }

    /// Rounding residuals of every layer, as a safetensors file; `None` without error feedback.
    pub(crate) fn residual_bytes(model: &Transformer) -> Result<Option<Vec<u8>>> {
        let failed = |error: safetensors::SafeTensorError| Error::State { detail: error.to_string() };
        let mut tensors: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        model.for_each_linear(&mut |name, linear| {
            if let Weight::QuantizedTrainable(weight) = &linear.weight
                && !weight.residual().is_empty()
            {
                let bytes = weight.residual().iter().map(|value| value.cast_unsigned()).collect();
                tensors.insert(name.to_owned(), bytes);
            }
        });
        if tensors.is_empty() {
            return Ok(None);
        }
        let views = tensors
            .iter()
            .map(|(name, bytes)| Ok((name, TensorView::new(Dtype::I8, vec![bytes.len()], bytes)?)))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(failed)?;
        safetensors::serialize(views, None).map(Some).map_err(failed)
    }

    /// Restores the residuals returned by [`Tuning::residual_bytes`].
    pub(crate) fn restore_residual(model: &mut Transformer, bytes: &[u8]) -> Result<()> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|error| Error::State { detail: format!("residuals: {error}") })?;
        each(model, |_, name, linear| {
            if let Weight::QuantizedTrainable(weight) = linear {
                let residual = file.tensor(name).map_or_else(
                    |_| Vec::new(),
                    |view| view.data().iter().map(|value| value.cast_signed()).collect(),
                );
                weight.restore_residual(residual)?;
            }
            Ok(())
        })
    }

    /// Returns `true` if residuals are kept between steps.
    pub(crate) fn keeps_residual(&self) -> bool {
        self.rounding == Rounding::ErrorFeedback
    }

    /// The memory that training uses per quantized weight.
    pub(crate) fn memory(model: &Transformer) -> TuningMemory {
        let (mut count, mut stored, mut kept) = (0, 0, 0);
        model.for_each_linear(&mut |_, linear| {
            if let Weight::QuantizedTrainable(weight) = &linear.weight {
                let [rows, cols] = weight.dims();
                count += rows * cols;
                stored += weight.packed().matrix().byte_size();
                kept += weight.residual().len();
            }
        });
        let per_weight = |bytes: usize| bytes as f64 / count.max(1) as f64;
        let (weights, residual) = (per_weight(stored), per_weight(kept));
        TuningMemory {
            weights,
            residual,
            optimizer: OPTIMIZER_BYTES,
            total: weights + residual + OPTIMIZER_BYTES,
            float_total: FLOAT_BYTES + OPTIMIZER_BYTES,
        }
    }

    /// Metadata of the model's checkpoint: that of the source checkpoint, with the current weights.
    pub(crate) fn metadata(
        &self,
        model: &Transformer,
        config: &TrainingConfig,
        state: &TrainingState,
    ) -> QuantizationMetadata {
        // There are only codes, and no float weights from which they could differ.
        let error = WeightError { sqnr_db: f64::INFINITY, max_abs_error: 0.0, clipped_share: 0.0 };
        let mut layers = Vec::new();
        model.for_each_linear(&mut |name, linear| {
            if let Some(packed) = linear.packed() {
                let quantization_type = self.source.quantization_type;
                let (matrix, activation) = (packed.matrix().unpack(), packed.activation());
                layers.push(LayerMetadata::new(name, &matrix, quantization_type, activation, error));
            }
        });
        let training = &config.training;
        let tokens =
            state.step * training.accumulation_steps * training.batch_size * training.sequence_length;
        let lineage = Lineage {
            source_sha256: state.source_sha256.clone(),
            calibration: self.source.lineage.calibration.clone(),
            transforms: self.source.lineage.transforms,
            training: Some(TrainingRecord {
                text_sha256: state.data_sha256.clone(),
                tokens: tokens as u64,
                steps: state.step as u64,
            }),
        };
        MetadataBuilder::from_source(&self.source).build(CheckpointMode::Finetuned, layers, lineage)
    }
}

/// Calls `change` with the index, name and weight of every linear layer.
fn each(
    model: &mut Transformer,
    mut change: impl FnMut(usize, &str, &mut Weight) -> slm_nn::Result<()>,
) -> Result<()> {
    let mut index = 0;
    try_for_each_linear_mut(model, |name, linear| {
        let changed = change(index, name, &mut linear.weight);
        index += 1;
        changed.map_err(|source| Error::Layer { layer: name.to_owned(), source })
    })
}

#[cfg(test)]
#[path = "tuning_tests.rs"]
mod tests;
