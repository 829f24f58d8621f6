//! Post-training quantization from one checkpoint into another, one layer at a time.

mod batches;
mod journal;
mod sinks;
mod stopped;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use serde_json::json;
use slm_checkpoint::{
    CalibrationRecord, Checkpoint, CheckpointWriter, Layout, Lineage, QuantizationMode, SaveRequest, layer_of,
};
use slm_model::{
    EMBED_TOKENS, ExpectedTensor, LM_HEAD, ModelConfig, TOKEN_TABLE, Transformer, forward_layerwise,
    layerwise_steps, windows,
};
use slm_quant_core::ObserverKind;
use slm_store::sha256;

use self::batches::{Finished, write_in_batches};
pub(crate) use self::journal::Journal;
use self::journal::{Facts, finished_layers};
use self::sinks::{ModelSink, WriterSink};
use self::stopped::Stopped;
use crate::calibrate::gather;
use crate::embedding::{QuantizedTable, quantize_embedding};
use crate::inputs::Gathering;
use crate::sequential::{SequentialRun, SequentialSink};
use crate::transform::{InputRowsHook, sampled_windows};
use crate::{
    Calibration, Error, LayerReport, ObservedInputs, Plan, PlannedEmbedding, PtqConfig, Result,
    RoundingMethod, Smooth, TransformedSource, Transforms, convert, copies_tied_head, plan_transformer,
    planned_config, planned_tensors, quantize_layer, sharing_config, untie_planned_head,
};

/// Post-training quantization of a checkpoint.
///
/// The float model is never in memory as a whole: [`calibrate`](Self::calibrate) and [`write`](Self::write) hold one
/// layer at a time. Both report [`Progress`] to a callback. An error of the callback ends them, and nothing is left at
/// the output then.
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
    transforms: Transforms,
    /// Inputs that [`assume_inputs`](Self::assume_inputs) assumes.
    assumed: Calibration,
    calibrated: Option<Calibrated>,
    kept: Option<KeptLayers>,
    text_file: Option<String>,
}

/// Treatment of finished layers of an interrupted run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepLayers {
    /// Finished layers are an error.
    New,
    /// Finished layers are removed.
    Replace,
    /// Finished layers are reused.
    Resume,
}

/// The directory in which finished layers are kept.
#[derive(Debug)]
struct KeptLayers {
    dir: PathBuf,
    keep: KeepLayers,
}

/// Results of the calibration.
#[derive(Debug)]
struct Calibrated {
    record: CalibrationRecord,
    /// Statistics of the inputs of float layers, as far as they are needed.
    observed: Calibration,
    /// The text, if it runs again through the layers while they are quantized one after the other.
    pending: Option<Pending>,
}

/// Text that runs through the model while it is quantized.
#[derive(Debug)]
struct Pending {
    windows: Vec<Vec<u32>>,
    device: Device,
}

/// The text for the calibration of ranges of weights and activations.
#[derive(Debug, Clone)]
pub struct CalibrationTokens<'a> {
    /// Token ids of the text.
    pub ids: &'a [u32],
    /// Number of tokens that run through the model as one sequence.
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

/// Progress of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The step.
    pub stage: Stage,
    /// Units of work done.
    pub done: usize,
    /// Total number of units of work.
    pub total: usize,
}

/// A written checkpoint, with a report on each quantized layer.
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
    /// [`Error::Checkpoint`] for a quantized checkpoint, those of [`Plan::of_layers`], and those of
    /// [`Transforms::rotation`] if the config requires it.
    pub fn new(source: &'a Checkpoint, config: PtqConfig) -> Result<Self> {
        source.require_float()?;
        let config = sharing_config(&source.config().model, config)?;
        let plan = plan_transformer(&source.config().model, &config)?;
        config.check_dynamic_inputs(&plan)?;
        config.check_tune(&plan)?;
        config.check_awq()?;
        let transforms = Transforms::choose(source, &plan, &config)?;
        let assumed = Calibration::default();
        Ok(Self { source, config, plan, transforms, assumed, calibrated: None, kept: None, text_file: None })
    }

    /// Records `name` as that of the file with the calibration text in the checkpoint.
    pub fn name_text(&mut self, name: impl Into<String>) {
        self.text_file = Some(name.into());
    }

    /// Keeps the layers that a [sequential](RoundingMethod::is_sequential) method finishes in the directory `dir` until
    /// [`write`](Self::write) succeeds, so that a run that ends early can be resumed. A resumed run gives the same result,
    /// bit for bit, as an uninterrupted run. Other methods keep nothing.
    ///
    /// # Errors
    /// [`Error::UnfinishedRun`] if there are layers with [`KeepLayers::New`], [`Error::NotResumable`] if there are none of
    /// the same run with [`KeepLayers::Resume`], and [`Error::NotKeptLayers`] if the directory holds other files.
    pub fn keep_layers(&mut self, dir: impl Into<PathBuf>, keep: KeepLayers) -> Result<()> {
        if !self.config.method.is_sequential() {
            return Ok(());
        }
        let dir = dir.into();
        match (finished_layers(&dir)?, keep) {
            (Some(count), KeepLayers::New) => return Err(Error::UnfinishedRun { dir, count }),
            (None, KeepLayers::Resume) => {
                return Err(Error::NotResumable { dir, reason: "there is no interrupted run".to_owned() });
            }
            // The text is compared later, once it is known.
            (Some(_), KeepLayers::Resume) => journal::check(&dir, &self.facts()?)?,
            (_, KeepLayers::New | KeepLayers::Replace) => {}
        }
        self.kept = Some(KeptLayers { dir, keep });
        Ok(())
    }

    /// The directory in which layers of a run that ended early are kept, and their number; `None` if there are none.
    pub fn kept_layers(&self) -> Option<(&Path, usize)> {
        let dir = self.kept.as_ref()?.dir.as_path();
        let count = finished_layers(dir).ok().flatten().filter(|count| *count > 0)?;
        Some((dir, count))
    }

    /// The facts that a run depends on before its text is known.
    fn facts(&self) -> Result<Facts> {
        let facts = [
            ("version of slm", env!("CARGO_PKG_VERSION").to_owned()),
            ("float model", self.source.weights_sha256()?),
            ("configuration of the model", format!("{:?}", self.source.config().model)),
            ("setting", format!("{:?}", self.config)),
        ];
        Ok(facts.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
    }

    /// Opens the journal of the run, if layers are kept.
    fn journal(&self, windows: &[Vec<u32>]) -> Result<Option<Journal>> {
        let Some(KeptLayers { dir, keep }) = &self.kept else { return Ok(None) };
        let ids = windows.iter().flatten().flat_map(|id| id.to_le_bytes());
        let text: Vec<u8> =
            windows.iter().flat_map(|ids| (ids.len() as u64).to_le_bytes()).chain(ids).collect();
        let mut facts = self.facts()?;
        facts.insert("transformation".to_owned(), format!("{:?}", self.transforms.record()).into());
        facts.insert("calibration text or window".to_owned(), sha256(&text).into());
        match keep {
            KeepLayers::Resume => Journal::resume(dir, &facts),
            KeepLayers::Replace if finished_layers(dir)?.is_some() => {
                journal::remove(dir)?;
                Journal::start(dir, &facts)
            }
            KeepLayers::New | KeepLayers::Replace => Journal::start(dir, &facts),
        }
        .map(Some)
    }

    /// The layers that are quantized, and the skipped layers with the reason.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The settings.
    pub fn config(&self) -> &PtqConfig {
        &self.config
    }

    /// The exact changes of the float model before it is quantized.
    pub fn transforms(&self) -> &Transforms {
        &self.transforms
    }

    /// Returns `true` if [`calibrate`](Self::calibrate) must be called first: activations are static, or smoothing, the
    /// method or the observer needs it. Otherwise it is optional and improves weights.
    pub fn needs_calibration(&self) -> bool {
        self.config.needs_calibration()
    }

    /// Returns `true` if [`calibrate`](Self::calibrate) affects the result: it is needed, or a default is better with
    /// calibration text.
    pub fn uses_calibration(&self) -> bool {
        self.config.uses_calibration()
    }

    /// Returns `true` if [`calibrate`](Self::calibrate) was called.
    pub fn is_calibrated(&self) -> bool {
        self.calibrated.is_some()
    }

    /// Returns `true` if the tied head is quantized as a separate copy, while the embedding stays float.
    pub fn copies_tied_head(&self) -> bool {
        copies_tied_head(&self.source.config().model, &self.plan)
    }

    /// Returns `true` if a tied head that stays float becomes a separate tensor, because the rotation makes it differ
    /// from the embedding.
    pub fn unties_float_head(&self) -> bool {
        let tied = self.source.config().model.tie_word_embeddings;
        tied && !self.transforms.model().tie_word_embeddings && !self.plan.quantizes(LM_HEAD)
    }

    /// Bytes of the tensors that [`write`](Self::write) stores in addition to the weights of planned layers: the
    /// embedding unless it is quantized, norms, biases, and layers that stay float.
    ///
    /// # Errors
    /// [`Error::Model`] for an embedding that cannot be read.
    pub fn float_bytes(&self) -> Result<u64> {
        let Self { source, plan, transforms, .. } = self;
        let mut bytes = 0;
        for tensor in planned_tensors(transforms.model(), plan) {
            if self.quantizes(&tensor) {
                continue;
            }
            if tensor.name == EMBED_TOKENS && plan.embedding.is_some() {
                continue;
            }
            let dtype = TransformedSource::new(source, transforms).as_stored().float_type(&tensor.name)?;
            bytes += tensor.shape.iter().product::<usize>() as u64 * dtype.bitsize() as u64 / 8;
        }
        Ok(bytes)
    }

    /// Observes the input of every planned layer while the float model runs on `tokens`, and chooses the factors of
    /// smoothing and the parameters of static activations, as far as they are needed.
    ///
    /// A [sequential](RoundingMethod::is_sequential) method also observes each layer after the quantized layers before
    /// it, while [`write`](Self::write) quantizes them and reports the progress.
    ///
    /// # Errors
    /// [`Error::EmptyWindow`], those of [`calibrate_with`](crate::calibrate_with) and [`forward_layerwise`], and
    /// whatever
    /// `progress` returns.
    pub fn calibrate<E: From<Error>>(
        &mut self,
        tokens: &CalibrationTokens<'_>,
        device: &Device,
        progress: &mut dyn FnMut(Progress) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { source, config, plan, transforms, .. } = self;
        if tokens.window == 0 {
            return Err(Error::EmptyWindow.into());
        }
        let record =
            CalibrationRecord { text_sha256: tokens.text_sha256.clone(), tokens: tokens.ids.len() as u64 };
        let owned = windows(tokens.ids, tokens.window, tokens.prefix);
        let windows: Vec<&[u32]> = owned.iter().map(Vec::as_slice).collect();
        let with_head = plan.quantizes(LM_HEAD);
        let sequential = config.method.is_sequential();
        // A sequential method takes the second moments from its own run.
        let gathering = Gathering { hessians: false, ..Gathering::of(config) };
        let observes = gathering.activations || (config.observes_weight_inputs() && !sequential);
        let smooths = matches!(config.smooth, Smooth::Strength(_));
        // A table that head and embedding share cannot be smoothed for one of them.
        let smooths_head = with_head && !plan.embedding.is_some_and(|embedding| embedding.shared);
        let steps = |wanted: bool, with_head: bool| {
            usize::from(wanted) * layerwise_steps(transforms.model(), windows.len(), with_head, false)
        };
        let mut total = steps(observes, with_head) + steps(smooths, smooths_head);
        let sampled: Vec<&[u32]> = match config.equalizes() {
            true => sampled_windows(windows.len()).map(|index| windows[index]).collect(),
            false => Vec::new(),
        };
        total += layerwise_steps(transforms.model(), sampled.len(), with_head, false);
        let mut done = 0;
        let mut step = || {
            done += 1;
            progress(Progress { stage: Stage::Calibrating, done, total }).map_err(Stopped::Callback)
        };
        if !sampled.is_empty() {
            let model = transforms.model().clone();
            let hook = Arc::new(InputRowsHook::default());
            let mut transformed = TransformedSource::new(source, transforms);
            forward_layerwise(
                &model,
                &mut transformed,
                device,
                &sampled,
                with_head,
                &hook.shared(),
                &mut step,
            )
            .map_err(Stopped::into_error)?;
            transforms.equalize(source, &hook.take()?, plan, config, device)?;
        }
        if let Smooth::Strength(strength) = config.smooth {
            let model = transforms.model().clone();
            transforms
                .calibrate_smoothing(source, strength, smooths_head, |transformed, hook| {
                    forward_layerwise(&model, transformed, device, &windows, smooths_head, hook, &mut step)
                })
                .map_err(Stopped::into_error)?;
        }
        let mut observed = Calibration::default();
        if observes {
            let model = transforms.model();
            let mut transformed = TransformedSource::new(source, transforms);
            observed = gather(plan, config, gathering, |hook| {
                forward_layerwise(model, &mut transformed, device, &windows, with_head, hook, &mut step)
            })
            .map_err(Stopped::into_error)?;
        }
        let pending = sequential.then(|| Pending { windows: owned, device: device.clone() });
        self.calibrated = Some(Calibrated { record, observed, pending });
        Ok(())
    }

    /// Assumes inputs of the layers of a rotated model in place of a calibration text, and chooses ranges of weights and the
    /// factors of the equalization by them: channels of normalized inputs are taken as independent and alike, and those of
    /// `down_proj` follow from the weights. Does nothing if the model is not rotated, a text is
    /// [needed](Self::needs_calibration) or would [not be used](Self::uses_calibration), or after
    /// [`calibrate`](Self::calibrate).
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for weights that cannot be read, [`Error::Layer`] for an MLP that cannot be computed.
    pub fn assume_inputs(&mut self, device: &Device) -> Result<()> {
        let Self { source, config, plan, transforms, .. } = self;
        let needs_text = config.needs_calibration() || !config.uses_calibration();
        if self.calibrated.is_some() || needs_text || !transforms.is_rotated() {
            return Ok(());
        }
        let rows = transforms.assumed_rows(source)?;
        if config.equalizes() {
            transforms.equalize(source, &rows, plan, config, device)?;
        }
        self.assumed = transforms.assumed_inputs(source, plan, &rows, device)?;
        Ok(())
    }

    /// Returns `true` if channels are not equalized only because [`calibrate`](Self::calibrate) was not called.
    pub fn lacks_text_to_equalize(&self) -> bool {
        self.config.equalizes() && !self.is_calibrated() && !self.assumes_inputs()
    }

    /// Returns `true` if inputs of layers are [assumed](Self::assume_inputs).
    pub fn assumes_inputs(&self) -> bool {
        !self.is_calibrated() && !self.assumed.layers.is_empty()
    }

    /// The observer that chooses the range of weights of most layers.
    pub fn weight_observer(&self) -> ObserverKind {
        self.config.weight_observer(self.is_calibrated() || self.assumes_inputs())
    }

    /// Statistics of the inputs of layers, observed or assumed.
    fn inputs(&self) -> Result<&Calibration> {
        match (&self.calibrated, self.plan.layers.first()) {
            (None, Some(layer)) if self.needs_calibration() => {
                Err(Error::NotCalibrated { layer: layer.name.clone() })
            }
            (Some(calibrated), _) => Ok(&calibrated.observed),
            (None, _) => Ok(&self.assumed),
        }
    }

    /// Quantizes layer by layer while the pending text runs through the model, and passes each layer to `sink`. Returns
    /// `false` if no text is pending.
    fn run_pending<E: From<Error> + From<slm_model::Error>>(
        &self,
        journal: Option<&Journal>,
        sink: &mut dyn SequentialSink<E>,
    ) -> Result<bool, E> {
        let Some(Calibrated { observed, pending: Some(Pending { windows, device }), .. }) = &self.calibrated
        else {
            return Ok(false);
        };
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        let run = SequentialRun {
            config: &self.config,
            plan: &self.plan,
            observed,
            model: self.transforms.model(),
            windows: &windows,
            with_head: self.plan.quantizes(LM_HEAD),
            device,
            journal,
        };
        let mut source = TransformedSource::new(self.source, &self.transforms);
        match self.config.method {
            RoundingMethod::Tune => run.tune(&mut source, self.config.tune, sink)?,
            _ => run.run(&mut source, sink)?,
        }
        Ok(true)
    }

    /// Reads, quantizes and writes all tensors into a new checkpoint at `out`, in batches that are at most as large as
    /// the largest tensor. All threads quantize a batch while the one before it is written. The result does not depend on
    /// the number of threads.
    ///
    /// At most one batch of floats and two quantized batches are in memory; if layers are observed while they are quantized,
    /// also one block and the hidden states of the calibration text. An existing checkpoint is replaced only with
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
        let outcome = self.write_layers(out.as_ref(), overwrite, &mut report);
        if let (Err(_), Some(KeptLayers { dir, .. }), None) = (&outcome, &self.kept, self.kept_layers())
            && dir.exists()
        {
            // The error of the run counts more than that of removing an empty journal.
            let _ = journal::remove(dir);
        }
        outcome.map_err(Stopped::into_error)
    }

    fn write_layers<E>(
        &self,
        out: &Path,
        overwrite: bool,
        progress: &mut dyn FnMut(Progress) -> Result<(), Stopped<E>>,
    ) -> Result<QuantizedCheckpoint, Stopped<E>> {
        let Self { source, plan, config, transforms, .. } = self;
        let model = planned_config(transforms.model(), plan);
        let known = self.inputs()?;
        let inputs = |layer: &str| known.layers.get(layer);
        let mut layout = Layout::new(&model);
        for layer in &plan.layers {
            let activation = config.activation_quant(&layer.name, inputs(&layer.name))?;
            layout
                .quantize(&layer.name, config.scheme_of(&layer.name), activation.static_params().is_some())
                .map_err(|error| Error::layer(&layer.name, error))?;
        }
        let transformed = TransformedSource::new(source, transforms).as_stored();
        if let Some(PlannedEmbedding { scheme, shared: false }) = plan.embedding {
            let declared = layout.quantize(TOKEN_TABLE, scheme, false);
            declared.map_err(|error| Error::layer(TOKEN_TABLE, error))?;
        }
        for name in layout.float_names() {
            let dtype = transformed.float_type(&name)?;
            layout.store_floats_as(|other| (other == name).then_some(dtype));
        }
        let total = plan.layers.len();
        let mut writer = CheckpointWriter::create(out, &model, &layout, overwrite)?;
        writer.stop_at(source.stop().clone());
        let journal = match &self.calibrated {
            Some(Calibrated { pending: Some(pending), .. }) => self.journal(&pending.windows)?,
            _ => None,
        };
        let mut sink = WriterSink {
            writer,
            journal: journal.as_ref(),
            quantization_type: config.quantization_type,
            layers: Vec::with_capacity(total),
            records: Vec::with_capacity(total),
            total,
            progress,
        };
        let sequential = self.run_pending(journal.as_ref(), &mut sink)?;
        let tensors: Vec<ExpectedTensor> = planned_tensors(transforms.model(), plan)
            .into_iter()
            .filter(|tensor| !(sequential && self.quantizes(tensor)))
            .collect();
        let embedding = write_in_batches(&mut sink, &tensors, &|tensor| {
            self.finished(tensor, &transformed, &model, inputs(layer_of(&tensor.name)))
        })?;
        sink.report()?;
        let WriterSink { writer, layers, records, .. } = sink;
        // This also checks that everything above was read from the same file.
        let source_sha256 = source.weights_sha256()?;
        let lineage = Lineage {
            source_sha256: Some(source_sha256.clone()),
            calibration: self.calibrated.as_ref().map(|calibrated| calibrated.record.clone()),
            transforms: transforms.record(),
            training: None,
        };
        let metadata = config
            .metadata(&plan.skipped, self.is_calibrated() || self.assumes_inputs())
            .embedding(embedding.as_ref().map(QuantizedTable::metadata))
            .build(QuantizationMode::Ptq, records, lineage);
        let path = writer.finish(&SaveRequest {
            tokenizer_json: source.tokenizer_json(),
            tokenizer: source.config().tokenizer.clone(),
            metadata: Some(&metadata),
            lineage: Some(json!({
                "method": "ptq",
                "text_file": self.text_file,
                "source_dir": source.name(),
                "source_sha256": source_sha256,
                "source": source.config().lineage,
            })),
            training: source.config().training.clone(),
            extra_files: &[],
            large_files: &[],
        })?;
        if let Some(journal) = journal
            && let Err(error) = journal.remove()
        {
            tracing::warn!("the kept layers of the finished run could not be removed: {error}");
        }
        Ok(QuantizedCheckpoint { path, layers, embedding: embedding.map(|table| table.report) })
    }

    /// Returns `true` if `tensor` is the weight of a layer that the plan quantizes.
    fn quantizes(&self, tensor: &ExpectedTensor) -> bool {
        tensor.linear_weight && self.plan.quantizes(layer_of(&tensor.name))
    }

    /// Reads `tensor`, and quantizes it if the plan says so.
    fn finished(
        &self,
        tensor: &ExpectedTensor,
        source: &TransformedSource<'_>,
        model: &ModelConfig,
        inputs: Option<&ObservedInputs>,
    ) -> Result<Finished> {
        let Self { plan, config, .. } = self;
        let values = source.read_f32(&tensor.name)?;
        if tensor.name == EMBED_TOKENS
            && let Some(table) = QuantizedTable::new(&values, model, plan, config)?
        {
            return Ok(Finished::Table(Box::new(table)));
        }
        match tensor.shape[..] {
            [rows, cols] if self.quantizes(tensor) => {
                let layer = quantize_layer(layer_of(&tensor.name), &values, [rows, cols], config, inputs)?;
                Ok(Finished::Layer(Box::new(layer)))
            }
            _ => Ok(Finished::Float(tensor.name.clone(), values)),
        }
    }

    /// Loads the model and quantizes it in memory, for a comparison that needs no checkpoint. The result computes the
    /// same as a model loaded from the checkpoint of [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn load(&self, device: &Device) -> Result<(Transformer, Vec<LayerReport>)> {
        let inputs = self.inputs()?;
        let mut model = match self.transforms.is_none() {
            true => self.source.load_model(device)?,
            false => {
                let mut transformed = TransformedSource::new(self.source, &self.transforms).as_stored();
                Transformer::from_tensors(self.transforms.model(), &mut transformed, device)?
            }
        };
        untie_planned_head(&mut model, &self.plan);
        let mut sink = ModelSink { model: &mut model, layers: Vec::new() };
        let layers = match self.run_pending(None, &mut sink)? {
            true => sink.layers,
            false => {
                // The channels are already scaled.
                let method = match self.config.method {
                    RoundingMethod::Awq => RoundingMethod::Rtn,
                    method => method,
                };
                let config = PtqConfig { method, ..self.config.clone() };
                convert(&mut model, &self.plan, &config, Some(inputs), &mut |_| {})?
            }
        };
        quantize_embedding(&mut model, &self.plan, &self.config)?;
        Ok((model, layers))
    }
}
