//! Quantization-aware training of the transformer.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use slm_checkpoint::{
    FORMAT_VERSION, LayerMetadata, Lineage, QuantizationMetadata, QuantizationMode as CheckpointMode,
    SkippedLayer, TrainingRecord, WeightError,
};
use slm_model::{LM_HEAD, Transformer};
use slm_nn::{LayerState, NamedLinears};
use slm_ptq::LayerReport;
use slm_qat::{Prepared, QatConfig, layer_states, prepare, restore_layer_states};
use slm_quant_core::QuantizationType;

use crate::state::TrainingState;
use crate::{Error, Result, TrainingConfig};

/// How the layers of a model are fake-quantized.
pub(crate) struct Quantization {
    pub(crate) prepared: Prepared,
}

impl Quantization {
    /// Makes the layers of `model` fake-quantized. A tied head that is to be quantized becomes a layer of its own,
    /// so that the embedding stays float; one that is skipped stays tied.
    pub(crate) fn prepare(model: Transformer, config: &TrainingConfig) -> Result<(Transformer, Self)> {
        let qat = QatConfig { quantization: config.quantization.ptq(), options: config.qat.clone() };
        let steps = config.training.steps;
        let mut untied = model.clone();
        untied.untie_head();
        let prepared = prepare(&mut untied, &qat, steps)?;
        if prepared.plan.layers.iter().any(|layer| layer.name == LM_HEAD) || !model.head_is_tied() {
            return Ok((untied, Self { prepared }));
        }
        let mut tied = model;
        let mut qat = qat;
        // The pattern that skipped the head has no layer to match in a model whose head is none.
        qat.quantization.skip.retain(|pattern| pattern != LM_HEAD);
        let prepared = prepare(&mut tied, &qat, steps)?;
        Ok((tied, Self { prepared }))
    }

    /// Scales and ranges of every layer as a safetensors file.
    pub(crate) fn to_bytes(model: &Transformer) -> Result<Vec<u8>> {
        let failed = |error: safetensors::SafeTensorError| Error::State { detail: error.to_string() };
        let mut tensors = BTreeMap::new();
        for (layer, LayerState(values)) in layer_states(model)? {
            for (name, values) in values {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                tensors.insert(format!("{layer}:{name}"), (bytes, values.len()));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, (bytes, len))| Ok((name, TensorView::new(Dtype::F32, vec![*len], bytes)?)))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(failed)?;
        safetensors::serialize(views, None).map_err(failed)
    }

    /// Goes on from what [`Quantization::to_bytes`] gave.
    pub(crate) fn restore(model: &mut Transformer, bytes: &[u8]) -> Result<()> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|error| Error::State { detail: format!("scales and ranges: {error}") })?;
        let mut layers: BTreeMap<String, LayerState> = BTreeMap::new();
        for (name, view) in file.tensors() {
            let (layer, value) = name.split_once(':').unwrap_or((&name, ""));
            let (values, _) = view.data().as_chunks::<4>();
            let values = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            layers.entry(layer.to_owned()).or_default().0.push((value.to_owned(), values));
        }
        Ok(restore_layer_states(model, |layer| layers.remove(layer).unwrap_or_default())?)
    }

    /// What the checkpoint of the converted model says of its quantization.
    pub(crate) fn metadata(
        &self,
        model: &Transformer,
        reports: &[LayerReport],
        config: &TrainingConfig,
        state: &TrainingState,
    ) -> Result<QuantizationMetadata> {
        let mut layers = Vec::with_capacity(reports.len());
        model.for_each_linear(&mut |name, linear| {
            let report = reports.iter().find(|report| report.name == name);
            if let (Some(report), Some(packed)) = (report, linear.packed()) {
                let error = WeightError {
                    sqnr_db: report.error.sqnr_db(),
                    max_abs_error: report.error.max_abs_error(),
                    clipped_share: report.error.clipped_share().unwrap_or(0.0),
                };
                layers.push(LayerMetadata::new(name, &packed.matrix().unpack(), report.activation, error));
            }
        });
        let quantization = &config.quantization;
        let is = |wanted: QuantizationType| quantization.quantization_type == wanted;
        let training = &config.training;
        let tokens =
            training.steps * training.accumulation_steps * training.batch_size * training.sequence_length;
        Ok(QuantizationMetadata {
            format_version: FORMAT_VERSION,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: CheckpointMode::Qat,
            quantization_type: quantization.quantization_type,
            bits: quantization.quantization_bits,
            granularity: quantization.granularity,
            mapping: quantization.mapping,
            scale_dtype: quantization.scale_dtype,
            weight_observer: config.qat.observer().to_string(),
            activation_observer: is(QuantizationType::Static)
                .then(|| format!("moving-average:{}", config.qat.averaging_constant)),
            activation_granularity: is(QuantizationType::Dynamic)
                .then_some(quantization.activation_granularity),
            layers,
            skipped: self.prepared.plan.skipped.iter().map(skipped).collect(),
            lineage: Lineage {
                source_sha256: state.source_sha256.clone(),
                calibration: None,
                training: Some(TrainingRecord {
                    text_sha256: state.data_sha256.clone(),
                    tokens: tokens as u64,
                    steps: training.steps as u64,
                }),
            },
        })
    }
}

fn skipped(layer: &slm_ptq::SkippedLayer) -> SkippedLayer {
    SkippedLayer { name: layer.name.clone(), shape: layer.shape, reason: layer.reason.clone() }
}
