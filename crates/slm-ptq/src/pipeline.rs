//! Post-training quantization from one checkpoint into another, one layer at a time.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::json;
use slm_checkpoint::{
    CalibrationRecord, Checkpoint, CheckpointSource, CheckpointWriter, Layout, Lineage, QuantizationMode,
    SaveRequest,
};
use slm_model::{
    EMBED_TOKENS, LM_HEAD, TOKEN_TABLE, Transformer, forward_layerwise, layerwise_steps, windows,
};
use slm_quant_core::QuantizationType;

use crate::embedding::{QuantizedTable, embedding_type, quantize_embedding};
use crate::{
    Calibration, Error, LayerReport, MetadataBuilder, Plan, PlannedEmbedding, PtqConfig, Result,
    calibrate_with, convert, copies_tied_head, layer_metadata, plan_transformer, planned_config,
    planned_tensors, quantize_layer, sharing_config, untie_planned_head,
};

/// Post-training quantization of a checkpoint.
///
/// The float model is never in memory as a whole: [`calibrate`](Self::calibrate) and [`write`](Self::write) hold one
/// layer at a time. Both report [`Progress`] to a callback, and an error of the callback ends them; nothing is at the
/// output then.
///
/// ```
/// use burn::tensor::Device;
/// use slm_checkpoint::{Checkpoint, SaveRequest, save};
/// use slm_model::{ModelConfig, Transformer};
/// use slm_ptq::{CalibrationTokens, CheckpointQuantizer, Error, PtqConfig};
/// use slm_quant_core::{Bits, QuantScheme, QuantizationType};
///
/// # let root = tempfile::tempdir()?;
/// let device = Device::flex();
/// let model = Transformer::new(&ModelConfig::new(64, 16, 32, 1, 2, 32), 0, &device)?;
/// save(root.path().join("float"), &model, &SaveRequest::default(), false)?;
///
/// let float = Checkpoint::open(root.path().join("float"))?;
/// let config = PtqConfig::new(QuantScheme::per_tensor(Bits::Int8), QuantizationType::Static);
/// let mut quantizer = CheckpointQuantizer::new(&float, config)?;
/// let ids: Vec<u32> = (0..64).collect();
/// let tokens = CalibrationTokens { ids: &ids, window: 16, prefix: &[], text_sha256: "0".repeat(64) };
/// quantizer.calibrate(&tokens, &device, &mut |_| Ok::<_, Error>(()))?;
/// let written = quantizer.write(root.path().join("int8"), false, &mut |progress| {
///     println!("{} of {} layers", progress.done, progress.total);
///     Ok::<_, Error>(())
/// })?;
///
/// assert_eq!(written.layers.len(), 7 + 1, "seven linear layers and the head");
/// assert!(Checkpoint::open(&written.path)?.is_quantized());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CheckpointQuantizer<'a> {
    source: &'a Checkpoint,
    config: PtqConfig,
    plan: Plan,
    calibration: Option<(Calibration, CalibrationRecord)>,
}

/// The text that static activations are calibrated on.
#[derive(Debug, Clone)]
pub struct CalibrationTokens<'a> {
    /// Token ids of the text.
    pub ids: &'a [u32],
    /// Tokens that run through the model as one sequence.
    pub window: usize,
    /// Tokens in front of each window, such as the beginning-of-sequence token that prompts begin with: static ranges
    /// must suit it too.
    pub prefix: &'a [u32],
    /// Lower-case hexadecimal SHA-256 of the text, for the record of the checkpoint.
    pub text_sha256: String,
}

/// The steps of post-training quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Running the float model to observe the inputs of layers. Counts windows of layers.
    Calibrating,
    /// Quantizing and writing layers. Counts layers.
    Quantizing,
}

/// How far a step has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The step.
    pub stage: Stage,
    /// Units of work done.
    pub done: usize,
    /// Units of work in all.
    pub total: usize,
}

/// A checkpoint that was written, and what was done to each quantized layer.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedCheckpoint {
    /// Directory of the checkpoint.
    pub path: PathBuf,
    /// Reports in forward order.
    pub layers: Vec<LayerReport>,
    /// Report of the embedding, if it is quantized and not the head's table.
    pub embedding: Option<LayerReport>,
}

impl<'a> CheckpointQuantizer<'a> {
    /// Plans the quantization of `source`, with its head among the layers even if it is tied.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a quantized checkpoint, and those of [`Plan::of_layers`].
    pub fn new(source: &'a Checkpoint, config: PtqConfig) -> Result<Self> {
        source.require_float()?;
        let config = sharing_config(&source.config().model, config)?;
        let plan = plan_transformer(&source.config().model, &config)?;
        Ok(Self { source, config, plan, calibration: None })
    }

    /// Layers that are quantized, and those that are not with the reason.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The settings.
    pub fn config(&self) -> &PtqConfig {
        &self.config
    }

    /// Whether [`calibrate`](Self::calibrate) must be called first: activations are static.
    pub fn needs_calibration(&self) -> bool {
        self.config.quantization_type == QuantizationType::Static
    }

    /// Whether the tied head is quantized as a copy of its own, while the embedding stays float.
    pub fn copies_tied_head(&self) -> bool {
        copies_tied_head(&self.source.config().model, &self.plan)
    }

    /// Observes the input of every planned layer while the float model runs on `tokens`, and chooses the parameters of
    /// static activations.
    ///
    /// # Errors
    /// Those of [`calibrate_with`] and [`forward_layerwise`], and whatever `progress` returns.
    pub fn calibrate<E: From<Error>>(
        &mut self,
        tokens: &CalibrationTokens<'_>,
        device: &Device,
        progress: &mut dyn FnMut(Progress) -> Result<(), E>,
    ) -> Result<(), E> {
        let model = &self.source.config().model;
        if tokens.window == 0 {
            return Err(Error::EmptyWindow.into());
        }
        let windows = windows(tokens.ids, tokens.window, tokens.prefix);
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        let with_head = self.plan.quantizes(LM_HEAD);
        let total = layerwise_steps(model, windows.len(), with_head);
        let mut done = 0;
        let mut step = || {
            done += 1;
            progress(Progress { stage: Stage::Calibrating, done, total }).map_err(Stopped::Callback)
        };
        let mut source = CheckpointSource::new(self.source);
        let calibration = calibrate_with(&self.plan, &self.config.activation_observer, |hook| {
            forward_layerwise(model, &mut source, device, &windows, with_head, hook, &mut step)
        })
        .map_err(Stopped::into_error)?;
        let record =
            CalibrationRecord { text_sha256: tokens.text_sha256.clone(), tokens: tokens.ids.len() as u64 };
        self.calibration = Some((calibration, record));
        Ok(())
    }

    /// Reads, quantizes and writes one tensor after the other into a new checkpoint at `out`.
    ///
    /// No more is in memory than the largest tensor, float and quantized. An existing checkpoint is replaced only with
    /// `overwrite`.
    ///
    /// # Errors
    /// [`Error::NotCalibrated`] for static activations without [`calibrate`](Self::calibrate), [`Error::Layer`] for a
    /// layer that cannot be quantized, [`Error::Checkpoint`] for files that cannot be read or written, and whatever
    /// `progress` returns.
    pub fn write<E: From<Error>>(
        &self,
        out: impl AsRef<Path>,
        overwrite: bool,
        progress: &mut dyn FnMut(Progress) -> Result<(), E>,
    ) -> Result<QuantizedCheckpoint, E> {
        let total = self.plan.layers.len();
        let mut report =
            |done| progress(Progress { stage: Stage::Quantizing, done, total }).map_err(Stopped::Callback);
        self.write_layers(out.as_ref(), overwrite, &mut report).map_err(Stopped::into_error)
    }

    fn write_layers<E>(
        &self,
        out: &Path,
        overwrite: bool,
        progress: &mut dyn FnMut(usize) -> Result<(), Stopped<E>>,
    ) -> Result<QuantizedCheckpoint, Stopped<E>> {
        let Self { source, plan, config, .. } = self;
        let model = planned_config(&source.config().model, plan);
        let calibration = self.calibration.as_ref().map(|(calibration, _)| calibration);
        let mut layout = Layout::new(&model);
        for layer in &plan.layers {
            layout
                .quantize(&layer.name, config.scheme_of(&layer.name), self.needs_calibration())
                .map_err(|error| Error::layer(&layer.name, error))?;
        }
        let mut tensors = CheckpointSource::new(source);
        match plan.embedding {
            None => layout.store_embedding_as(embedding_type(&mut tensors, &model)?),
            Some(PlannedEmbedding { shared: true, .. }) => {}
            Some(PlannedEmbedding { scheme, .. }) => {
                layout
                    .quantize(TOKEN_TABLE, scheme, false)
                    .map_err(|error| Error::layer(TOKEN_TABLE, error))?;
            }
        }
        let mut writer = CheckpointWriter::create(out, &model, &layout, overwrite)?;
        let (mut layers, mut records, mut embedding) = (Vec::new(), Vec::new(), None);
        for tensor in planned_tensors(&source.config().model, plan) {
            progress(layers.len())?;
            let layer = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
            let tied = layer == LM_HEAD && source.config().model.tie_word_embeddings;
            let stored = if tied { EMBED_TOKENS } else { &tensor.name };
            let values = source.tensors().read_f32(stored).map_err(slm_checkpoint::Error::from)?;
            if tensor.name == EMBED_TOKENS
                && let Some(table) = QuantizedTable::new(&values, &model, plan, config)?
            {
                writer.write_quantized(TOKEN_TABLE, &table.matrix, None)?;
                embedding = Some(table);
                continue;
            }
            let shape = match tensor.shape[..] {
                [rows, cols] if tensor.linear_weight && plan.quantizes(layer) => [rows, cols],
                _ => {
                    writer.write_f32(&tensor.name, &values)?;
                    continue;
                }
            };
            let quantized = quantize_layer(layer, &values, shape, config, calibration)?;
            drop(values);
            writer.write_quantized(layer, &quantized.matrix, quantized.report.activation)?;
            records.push(layer_metadata(&quantized.report, &quantized.matrix));
            layers.push(quantized.report);
        }
        progress(layers.len())?;
        // Also makes sure that all of the above was read from one and the same file.
        let source_sha256 = source.weights_sha256()?;
        let lineage = Lineage {
            source_sha256: Some(source_sha256.clone()),
            calibration: self.calibration.as_ref().map(|(_, record)| record.clone()),
            training: None,
        };
        let metadata = MetadataBuilder::new(config, plan)
            .embedding(embedding.as_ref().map(QuantizedTable::metadata))
            .build(QuantizationMode::Ptq, records, lineage);
        let path = writer.finish(&SaveRequest {
            tokenizer_json: source.tokenizer_json(),
            tokenizer: source.config().tokenizer.clone(),
            metadata: Some(&metadata),
            lineage: Some(json!({
                "method": "ptq",
                "source_sha256": source_sha256,
                "source": source.config().lineage,
            })),
            training: source.config().training.clone(),
            extra_files: &[],
        })?;
        Ok(QuantizedCheckpoint { path, layers, embedding: embedding.map(|table| table.report) })
    }

    /// Loads the model and quantizes it in memory, for a comparison that needs no checkpoint. It computes what a model
    /// loaded from the checkpoint of [`write`](Self::write) computes.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn load(&self, device: &Device) -> Result<(Transformer, Vec<LayerReport>)> {
        let mut model = self.source.load_model(device)?;
        untie_planned_head(&mut model, &self.plan);
        let calibration = self.calibration.as_ref().map(|(calibration, _)| calibration);
        let layers = convert(&mut model, &self.plan, &self.config, calibration, &mut |_| {})?;
        quantize_embedding(&mut model, &self.plan, &self.config)?;
        Ok((model, layers))
    }
}

/// What ended a step: an error of its own, or one of the callback.
enum Stopped<E> {
    Failed(Error),
    Callback(E),
}

impl<E: From<Error>> Stopped<E> {
    fn into_error(self) -> E {
        match self {
            Self::Failed(error) => error.into(),
            Self::Callback(error) => error,
        }
    }
}

impl<E> From<Error> for Stopped<E> {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl<E> From<slm_model::Error> for Stopped<E> {
    fn from(error: slm_model::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl<E> From<slm_checkpoint::Error> for Stopped<E> {
    fn from(error: slm_checkpoint::Error) -> Self {
        Self::Failed(error.into())
    }
}
