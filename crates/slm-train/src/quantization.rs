//! Quantization-aware training of the transformer.

use std::collections::BTreeMap;

use burn::tensor::Device;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use slm_checkpoint::{
    Checkpoint, Lineage, MetadataBuilder, QuantizationMetadata, QuantizationMode as CheckpointMode,
    TrainingRecord,
};
use slm_model::Transformer;
use slm_nn::{LayerState, NamedLinears};
use slm_ptq::{LayerReport, RoundingMethod, layer_metadata, plan_transformer, untie_planned_head};
use slm_qat::{
    Prepared, QatConfig, layer_states, prepare_planned, prepare_quantized, restore_layer_states, unpack,
};

use crate::state::TrainingState;
use crate::{Error, QuantizationConfig, Result, TrainingConfig};

/// Fake quantization of the layers of a model.
pub(crate) struct Quantization {
    pub(crate) prepared: Prepared,
    /// Metadata of the quantized checkpoint that the run started from, if any.
    source: Option<QuantizationMetadata>,
}

impl Quantization {
    /// Makes the layers of `model` fake-quantized.
    pub(crate) fn prepare(model: &mut Transformer, config: &TrainingConfig) -> Result<Self> {
        let qat = QatConfig { quantization: config.quantization.ptq(), options: config.qat.options.clone() };
        let plan = plan_transformer(model.config(), &qat.quantization)?;
        untie_planned_head(model, &plan);
        let prepared = prepare_planned(model, plan, &qat, config.training.steps)?;
        Ok(Self { prepared, source: None })
    }

    /// Makes the layers of `model` fake-quantized as in the quantized `checkpoint`. `model` was loaded from that checkpoint,
    /// or trained from it.
    pub(crate) fn resume_from(
        model: &mut Transformer,
        checkpoint: &Checkpoint,
        config: &TrainingConfig,
        device: &Device,
    ) -> Result<Self> {
        let source = checkpoint.metadata().cloned().ok_or(Error::NotQuantized)?;
        check_scheme(checkpoint, &source, &config.quantization)?;
        if model.embedding_is_quantized() {
            return Err(Error::QuantizedEmbedding);
        }
        let mut packed = 0;
        model.for_each_linear(&mut |_, linear| packed += usize::from(linear.packed().is_some()));
        let starts = match packed {
            0 => unpack(&mut checkpoint.load_model(&device.clone().inner())?, &device.clone().inner())?,
            _ => unpack(model, device)?,
        };
        let prepared = prepare_quantized(model, &starts, &config.qat.options, config.training.steps)?;
        Ok(Self { prepared, source: Some(source) })
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

    /// Restores the state returned by [`Quantization::to_bytes`].
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

    /// Metadata of the converted model's checkpoint.
    pub(crate) fn metadata(
        &self,
        model: &Transformer,
        reports: &[LayerReport],
        config: &TrainingConfig,
        state: &TrainingState,
    ) -> QuantizationMetadata {
        let source = self.source.as_ref();
        let quantization_type =
            source.map_or(config.quantization.quantization_type, |source| source.quantization_type);
        let mut layers = Vec::with_capacity(reports.len());
        model.for_each_linear(&mut |name, linear| {
            let report = reports.iter().find(|report| report.name == name);
            if let (Some(report), Some(packed)) = (report, linear.packed()) {
                layers.push(layer_metadata(report, &packed.matrix().unpack(), quantization_type));
            }
        });
        let training = &config.training;
        let tokens =
            training.steps * training.accumulation_steps * training.batch_size * training.sequence_length;
        let lineage = Lineage {
            source_sha256: state.source_sha256.clone(),
            calibration: source.and_then(|source| source.lineage.calibration.clone()),
            transforms: source.and_then(|source| source.lineage.transforms),
            training: Some(TrainingRecord {
                text_sha256: state.data_sha256.clone(),
                tokens: tokens as u64,
                steps: training.steps as u64,
            }),
        };
        if let Some(source) = source {
            return MetadataBuilder::from_source(source).method(RoundingMethod::Rtn).build(
                CheckpointMode::Qat,
                layers,
                lineage,
            );
        }
        let activations = format!("moving-average:{}", config.qat.options.averaging_constant);
        let quantization = config.quantization.ptq();
        quantization
            .metadata(&self.prepared.plan.skipped, false)
            .method(RoundingMethod::Rtn)
            .weight_observer(config.qat.options.observer())
            .activation_observer(activations)
            .build(CheckpointMode::Qat, layers, lineage)
    }
}

/// Rejects a config whose schemes differ from those of `checkpoint`.
fn check_scheme(
    checkpoint: &Checkpoint,
    source: &QuantizationMetadata,
    config: &QuantizationConfig,
) -> Result<()> {
    let found = QuantizationConfig::of_metadata(source);
    let describe = |config: &QuantizationConfig| format!("{} {}", config.scheme(), config.quantization_type);
    let asked = match (config.skip.first(), config.layers.first()) {
        (Some(pattern), _) => format!("{pattern:?} to be skipped"),
        (None, Some(rule)) => format!("another scheme for {:?}", rule.pattern),
        (None, None) if describe(config) == describe(&found) => return Ok(()),
        (None, None) => describe(config),
    };
    Err(Error::CheckpointScheme { dir: checkpoint.dir().to_owned(), found: describe(&found), asked })
}
