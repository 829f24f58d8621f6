//! Post-training quantization from one checkpoint into another, one layer at a time.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::json;
use slm_checkpoint::{
    CalibrationRecord, Checkpoint, CheckpointSource, CheckpointWriter, LayerMetadata, Layout, Lineage,
    QuantizationMode, SaveRequest,
};
use slm_model::{
    EMBED_TOKENS, LM_HEAD, TOKEN_TABLE, TensorSource, Transformer, forward_layerwise, layerwise_steps,
    windows,
};
use slm_nn::try_for_each_linear_mut;
use slm_quant_core::QuantizationType;

use crate::convert::replace;
use crate::embedding::{QuantizedTable, embedding_type, quantize_embedding};
use crate::sequential::{SequentialRun, SequentialSink};
use crate::{
    Calibration, Error, LayerReport, MetadataBuilder, Plan, PlannedEmbedding, PtqConfig, QuantizedLayer,
    Result, calibrate_with, convert, copies_tied_head, layer_metadata, plan_transformer, planned_config,
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
    calibrated: Option<Calibrated>,
}

/// What is known of the calibration text.
#[derive(Debug)]
struct Calibrated {
    record: CalibrationRecord,
    state: State,
}

#[derive(Debug)]
enum State {
    /// All layers have seen it.
    Observed(Calibration),
    /// Layers see it while they are quantized, one after the other.
    Pending { windows: Vec<Vec<u32>>, device: Device },
}

/// The text that ranges of weights and activations are calibrated on.
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
    /// Running the model to observe the inputs of layers. Counts windows of layers.
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
        Ok(Self { source, config, plan, calibrated: None })
    }

    /// Layers that are quantized, and those that are not with the reason.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The settings.
    pub fn config(&self) -> &PtqConfig {
        &self.config
    }

    /// Whether [`calibrate`](Self::calibrate) must be called first: activations are static, or the method or the observer
    /// needs it. Where it need not, it makes weights better.
    pub fn needs_calibration(&self) -> bool {
        self.config.needs_calibration()
    }

    /// Whether [`calibrate`](Self::calibrate) changes anything: it is needed, or the observer of weights is left to the
    /// default, which is better with calibration text.
    pub fn uses_calibration(&self) -> bool {
        self.config.uses_calibration()
    }

    /// Whether [`calibrate`](Self::calibrate) was called.
    pub fn is_calibrated(&self) -> bool {
        self.calibrated.is_some()
    }

    /// Whether the tied head is quantized as a copy of its own, while the embedding stays float.
    pub fn copies_tied_head(&self) -> bool {
        copies_tied_head(&self.source.config().model, &self.plan)
    }

    /// Observes the input of every planned layer while the float model runs on `tokens`.
    ///
    /// [`RoundingMethod::Gptq`](crate::RoundingMethod::Gptq) observes each layer behind the quantized layers before it:
    /// nothing runs yet, and [`write`](Self::write) reports the progress.
    ///
    /// # Errors
    /// [`Error::EmptyWindow`], those of [`calibrate_with`] and [`forward_layerwise`], and whatever `progress` returns.
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
        let record =
            CalibrationRecord { text_sha256: tokens.text_sha256.clone(), tokens: tokens.ids.len() as u64 };
        let windows = windows(tokens.ids, tokens.window, tokens.prefix);
        if self.config.method.is_sequential() {
            let device = device.clone();
            self.calibrated = Some(Calibrated { record, state: State::Pending { windows, device } });
            return Ok(());
        }
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        let with_head = self.plan.quantizes(LM_HEAD);
        let total = layerwise_steps(model, windows.len(), with_head, false);
        let mut done = 0;
        let mut step = || {
            done += 1;
            progress(Progress { stage: Stage::Calibrating, done, total }).map_err(Stopped::Callback)
        };
        let mut source = self.float_tensors();
        let calibration = calibrate_with(&self.plan, &self.config, |hook| {
            forward_layerwise(model, &mut source, device, &windows, with_head, hook, &mut step)
        })
        .map_err(Stopped::into_error)?;
        self.calibrated = Some(Calibrated { record, state: State::Observed(calibration) });
        Ok(())
    }

    /// The float tensors that are quantized.
    fn float_tensors(&self) -> CheckpointSource<'a> {
        CheckpointSource::new(self.source)
    }

    /// What calibration saw, where all layers were observed.
    fn observed(&self) -> Option<&Calibration> {
        match &self.calibrated {
            Some(Calibrated { state: State::Observed(calibration), .. }) => Some(calibration),
            _ => None,
        }
    }

    /// Quantizes layer by layer behind the text that is pending, and hands each to `sink`. False where none is pending.
    fn run_pending<E: From<Error> + From<slm_model::Error>>(
        &self,
        sink: &mut dyn SequentialSink<E>,
    ) -> Result<bool, E> {
        let Some(Calibrated { state: State::Pending { windows, device }, .. }) = &self.calibrated else {
            return Ok(false);
        };
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        let run = SequentialRun {
            config: &self.config,
            plan: &self.plan,
            model: &self.source.config().model,
            windows: &windows,
            with_head: self.plan.quantizes(LM_HEAD),
            device,
        };
        run.run(&mut self.float_tensors(), sink)?;
        Ok(true)
    }

    /// Reads, quantizes and writes one tensor after the other into a new checkpoint at `out`.
    ///
    /// No more is in memory than the largest tensor, float and quantized; where layers are observed while they are
    /// quantized, also one block and the hidden states of the calibration text. An existing checkpoint is replaced only with
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
        let mut report = |progress_now| progress(progress_now).map_err(Stopped::Callback);
        self.write_layers(out.as_ref(), overwrite, &mut report).map_err(Stopped::into_error)
    }

    fn write_layers<E>(
        &self,
        out: &Path,
        overwrite: bool,
        progress: &mut dyn FnMut(Progress) -> Result<(), Stopped<E>>,
    ) -> Result<QuantizedCheckpoint, Stopped<E>> {
        let Self { source, plan, config, .. } = self;
        let model = planned_config(&source.config().model, plan);
        let mut layout = Layout::new(&model);
        for layer in &plan.layers {
            let static_input = config.quantization_type == QuantizationType::Static;
            layout
                .quantize(&layer.name, config.scheme_of(&layer.name), static_input)
                .map_err(|error| Error::layer(&layer.name, error))?;
        }
        let mut tensors = self.float_tensors();
        match plan.embedding {
            None => layout.store_embedding_as(embedding_type(&mut tensors, &model)?),
            Some(PlannedEmbedding { shared: true, .. }) => {}
            Some(PlannedEmbedding { scheme, .. }) => {
                layout
                    .quantize(TOKEN_TABLE, scheme, false)
                    .map_err(|error| Error::layer(TOKEN_TABLE, error))?;
            }
        }
        let total = plan.layers.len();
        let mut sink = WriterSink {
            writer: CheckpointWriter::create(out, &model, &layout, overwrite)?,
            layers: Vec::with_capacity(total),
            records: Vec::with_capacity(total),
            total,
            progress,
        };
        let sequential = self.run_pending(&mut sink)?;
        let (observed, mut embedding) = (self.observed(), None);
        for tensor in planned_tensors(&source.config().model, plan) {
            let layer = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
            let planned = tensor.linear_weight && plan.quantizes(layer);
            if planned && sequential {
                continue;
            }
            sink.report()?;
            let tied = layer == LM_HEAD && source.config().model.tie_word_embeddings;
            let stored = if tied { EMBED_TOKENS } else { &tensor.name };
            let values = tensors
                .take_f32(stored, &tensor.shape)
                .map_err(|source| slm_model::Error::Source { name: stored.to_owned(), source })?;
            if tensor.name == EMBED_TOKENS
                && let Some(table) = QuantizedTable::new(&values, &model, plan, config)?
            {
                sink.writer.write_quantized(TOKEN_TABLE, &table.matrix, None)?;
                embedding = Some(table);
                continue;
            }
            match tensor.shape[..] {
                [rows, cols] if planned => {
                    let inputs = observed.and_then(|calibration| calibration.layers.get(layer));
                    let quantized = quantize_layer(layer, &values, [rows, cols], config, inputs)?;
                    drop(values);
                    sink.write(quantized)?;
                }
                _ => sink.writer.write_f32(&tensor.name, &values)?,
            }
        }
        sink.report()?;
        let WriterSink { writer, layers, records, .. } = sink;
        // Also makes sure that all of the above was read from one and the same file.
        let source_sha256 = source.weights_sha256()?;
        let lineage = Lineage {
            source_sha256: Some(source_sha256.clone()),
            calibration: self.calibrated.as_ref().map(|calibrated| calibrated.record.clone()),
            training: None,
        };
        let metadata = MetadataBuilder::new(config, plan, self.is_calibrated())
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
        let mut sink = ModelSink { model: &mut model, layers: Vec::new() };
        let layers = match self.run_pending(&mut sink)? {
            true => sink.layers,
            false => convert(&mut model, &self.plan, &self.config, self.observed(), &mut |_| {})?,
        };
        quantize_embedding(&mut model, &self.plan, &self.config)?;
        Ok((model, layers))
    }
}

/// Writes quantized layers into a checkpoint.
struct WriterSink<'a, E> {
    writer: CheckpointWriter,
    layers: Vec<LayerReport>,
    records: Vec<LayerMetadata>,
    total: usize,
    progress: &'a mut dyn FnMut(Progress) -> Result<(), Stopped<E>>,
}

impl<E> WriterSink<'_, E> {
    fn report(&mut self) -> Result<(), Stopped<E>> {
        (self.progress)(Progress { stage: Stage::Quantizing, done: self.layers.len(), total: self.total })
    }

    fn write(&mut self, layer: QuantizedLayer) -> Result<(), Stopped<E>> {
        let QuantizedLayer { matrix, report, .. } = layer;
        self.writer.write_quantized(&report.name, &matrix, report.activation)?;
        self.records.push(layer_metadata(&report, &matrix));
        self.layers.push(report);
        Ok(())
    }
}

impl<E> SequentialSink<Stopped<E>> for WriterSink<'_, E> {
    fn after_window(&mut self, done: usize, total: usize) -> Result<(), Stopped<E>> {
        (self.progress)(Progress { stage: Stage::Calibrating, done, total })
    }

    fn take(&mut self, layer: QuantizedLayer) -> Result<(), Stopped<E>> {
        self.write(layer)
    }
}

/// Packs quantized layers into a model.
struct ModelSink<'a> {
    model: &'a mut Transformer,
    layers: Vec<LayerReport>,
}

impl SequentialSink<Error> for ModelSink<'_> {
    fn after_window(&mut self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    fn take(&mut self, layer: QuantizedLayer) -> Result<()> {
        let QuantizedLayer { matrix, activation, report } = layer;
        let mut matrix = Some(matrix);
        try_for_each_linear_mut(self.model, |name, linear| match matrix.take_if(|_| name == report.name) {
            Some(matrix) => replace(name, linear, matrix, activation),
            None => Ok(()),
        })?;
        self.layers.push(report);
        Ok(())
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
