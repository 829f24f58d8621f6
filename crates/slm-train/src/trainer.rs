//! The training loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::tensor::Device;
use serde_json::{Value, json};
use slm_checkpoint::{Checkpoint, OutputLock, SaveRequest, TokenizerInfo, WriteFile, reserve_output};
use slm_model::Transformer;
use slm_ptq::LayerReport;
use slm_text::END_OF_TEXT;

use crate::checkpointing::kept_layers;
use crate::diagnose::{first_gradient_not_finite, first_not_finite};
use crate::optimizer::{ModelOptimizer, global_norm};
use crate::pass::{LOGITS, Pass};
use crate::plot::loss_svg;
use crate::quantization::Quantization;
use crate::schedule::LrSchedule;
use crate::setup::{Setup, Source, Start, layer_that_follows_batches};
use crate::state::{
    METRICS, OPTIMIZER, PLOT, QAT, RESIDUAL, STATE, TrainingState, metrics_to_bytes, read_metrics,
    reserve_run,
};
use crate::tuning::Tuning;
use crate::{
    Corpus, Error, Metric, QuantizationMode, Result, StepReport, TrainObserver, TrainingConfig, TrainingData,
    TuningMemory, ValidationReport,
};

/// Outcome of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// The run was asked to stop; it can be resumed.
    Interrupted,
}

/// Result of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingSummary {
    /// Outcome of the run.
    pub outcome: Outcome,
    /// Number of steps done, including those before a resume.
    pub step: usize,
    /// The last validation; `None` if the run stopped before the first.
    pub validation: Option<ValidationReport>,
    /// Directory of the checkpoint.
    pub checkpoint: PathBuf,
}

/// A training run: a model, its data, and the progress.
///
/// The checkpoint directory holds the model and all state needed to resume ([`Trainer::resume`]). Every checkpoint
/// replaces the previous one atomically, so there is always a complete one.
pub struct Trainer {
    config: TrainingConfig,
    data: TrainingData,
    /// `None` only while a step replaces it, so that nothing else holds parameters then.
    model: Option<Transformer>,
    optimizer: ModelOptimizer,
    /// Fake quantization of the layers, in quantization-aware training.
    quantization: Option<Quantization>,
    /// Updates of quantized weights, in fine-tuning of a quantized model.
    tuning: Option<Tuning>,
    /// The float model that the loss compares with.
    teacher: Option<Transformer>,
    source: Source,
    /// Name of the file of the training text, for the record of the checkpoint.
    text_file: Option<String>,
    device: Device,
    dir: PathBuf,
    step: usize,
    /// Keeps other processes from writing to `dir`; `None` for a finished run, which writes nothing more.
    _output: Option<OutputLock>,
    /// `true` if the checkpoint at `dir` belongs to this run and may be replaced.
    owns_dir: bool,
    overwrite: bool,
    metrics: Vec<Metric>,
    /// Report on each layer, once the model is converted.
    layers: Vec<LayerReport>,
}

impl Trainer {
    /// Starts a run from random weights that will write its checkpoints to `dir`, which must not exist unless
    /// `overwrite`. Nothing is written before the first checkpoint.
    ///
    /// `device` may be with or without autodiff.
    ///
    /// # Errors
    /// [`Error::ConfigValue`], those of [`TrainingData::new`], [`Error::Qat`], and [`Error::Checkpoint`] if `dir`
    /// cannot be written.
    pub fn new(
        config: TrainingConfig,
        text: &str,
        device: &Device,
        dir: impl AsRef<Path>,
        overwrite: bool,
    ) -> Result<Self> {
        Self::start(config, Corpus::Text(text), Start::default(), device, dir, overwrite)
    }

    /// Starts a run like [`Trainer::new`], but from a checkpoint if one is given: with its weights and its tokenizer, and in
    /// distillation with its outputs as the target. The checkpoint must be float. For `enable_quantized_finetuning` it must
    /// be quantized. For quantization-aware training it may be quantized: training then starts from its codes and scales,
    /// and distillation needs a teacher.
    ///
    /// # Errors
    /// As [`Trainer::new`], [`Error::NoTeacher`] for distillation without a float model, [`Error::TeacherVocabulary`],
    /// [`Error::NotQuantized`], [`Error::CheckpointScheme`] for a config with a scheme other than that of a quantized
    /// checkpoint, and [`Error::Checkpoint`] for a checkpoint that must be float but is quantized, or that has no
    /// tokenizer.
    pub fn start<'a>(
        config: TrainingConfig,
        corpus: Corpus<'_>,
        start: impl Into<Start<'a>>,
        device: &Device,
        dir: impl AsRef<Path>,
        overwrite: bool,
    ) -> Result<Self> {
        config.validate("the training config")?;
        let start = start.into();
        let dir = dir.as_ref().to_owned();
        // Fails fast if the output is not writable, and locks it against other processes.
        let output = Some(reserve_run(&dir, overwrite)?);
        let source = Source::of(start)?;
        let data = source.data(corpus, &config)?;
        let device = device.clone().autodiff();
        let model = match start.checkpoint {
            Some(checkpoint) => checkpoint.load_model(&device)?,
            None => Transformer::new(&config.model, config.training.seed, &device)?,
        };
        let setup = Setup::new(model, start, &config, &device)?;
        Ok(Self { overwrite, ..Self::at_start(config, data, setup, source, device, dir, output) })
    }

    /// A run before its first step.
    fn at_start(
        config: TrainingConfig,
        data: TrainingData,
        setup: Setup,
        source: Source,
        device: Device,
        dir: PathBuf,
        output: Option<OutputLock>,
    ) -> Self {
        let Setup { model, quantization, tuning, teacher } = setup;
        let optimizer = ModelOptimizer::new(&config.training, config.qat.scale_learning_rate);
        Self {
            config,
            data,
            model: Some(model),
            optimizer,
            quantization,
            tuning,
            teacher,
            source,
            text_file: None,
            device,
            dir,
            step: 0,
            _output: output,
            owns_dir: false,
            overwrite: false,
            metrics: Vec::new(),
            layers: Vec::new(),
        }
    }

    /// Resumes the run whose checkpoint is at `dir`, from the same checkpoint if it started from one. On the same kind
    /// of device, with the same config and text, the result is bit-identical to that of an uninterrupted run. A
    /// finished run has nothing left to do.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a checkpoint that cannot be read, [`Error::NotResumable`] for one that does not belong
    /// to a training run or belongs to another one, [`Error::OptimizerState`].
    pub fn resume<'a>(
        config: TrainingConfig,
        corpus: Corpus<'_>,
        start: impl Into<Start<'a>>,
        device: &Device,
        dir: impl AsRef<Path>,
    ) -> Result<Self> {
        config.validate("the training config")?;
        let start = start.into();
        let dir = dir.as_ref().to_owned();
        let checkpoint = Checkpoint::open(&dir)?;
        let state = TrainingState::read(&dir)?;
        let device = device.clone().autodiff();
        let mut source = Source::of(start)?;
        let now = TrainingState::new(state.step, &config, &corpus.sha256(), &device_name(&device), &source);
        state.check_same(&now, &dir)?;
        // The tokenizer of a run from random weights was trained on its text.
        source.tokenizer_json = checkpoint.tokenizer_json().map(<[u8]>::to_vec);
        source.tokenizer_origin = dir.join("tokenizer.json");
        if source.tokenizer_json.is_none() {
            return Err(Error::NotResumable { dir, reason: "it has no tokenizer".to_owned() });
        }
        let data = source.data(corpus, &config)?;
        let finished = state.step >= config.training.steps;
        let extended = state.config.training.steps != config.training.steps;
        let was_finished = state.step >= state.config.training.steps;
        if extended && was_finished && state.converts() {
            return Err(Error::NotResumable {
                dir,
                reason: format!(
                    "the run is finished after {} steps and its model is quantized; train that further with `slm \
                     finetune`",
                    state.step
                ),
            });
        }
        if extended {
            tracing::warn!(
                "{}: training.steps was {}, is now {}: from step {} on the learning rate follows the schedule of the \
                 new number",
                dir.display(),
                state.config.training.steps,
                config.training.steps,
                state.step
            );
        }
        let output = if finished { None } else { Some(reserve_output(&dir, true)?) };
        let model = checkpoint.load_model(&device)?;
        let setup = if finished { Setup::float(model) } else { Setup::new(model, start, &config, &device)? };
        let metrics = read_metrics(&dir)?;
        let mut run = Self::at_start(config, data, setup, source, device, dir, output);
        (run.step, run.metrics) = (state.step, metrics);
        (run.owns_dir, run.overwrite) = (true, true);
        run.restore(extended && was_finished)?;
        Ok(run)
    }

    /// Restores the state other than the model from the checkpoint. A finished run has no state of the optimizer.
    fn restore(&mut self, was_finished: bool) -> Result<()> {
        let read = |file: &str| {
            let path = self.dir.join(file);
            std::fs::read(&path).map_err(|source| Error::Read { path, source })
        };
        let Some(model) = &mut self.model else { unreachable!("a step puts the model back") };
        if self.quantization.is_some() && self.step > 0 {
            Quantization::restore(model, &read(QAT)?)?;
        }
        if self.tuning.as_ref().is_some_and(Tuning::keeps_residual) && self.step > 0 {
            Tuning::restore_residual(model, &read(RESIDUAL)?)?;
        }
        if was_finished && self.step > 0 {
            tracing::warn!(
                "{}: a finished run keeps no state of its optimizer, whose moments start at zero again",
                self.dir.display()
            );
        } else if has_optimizer_state(self.step, &self.config) {
            let (bytes, observed) = (read(OPTIMIZER)?, self.config.qat.options.observe_steps);
            self.optimizer.load(&bytes, self.step, observed, model, &self.device.clone().inner())?;
        }
        Ok(())
    }

    /// Records `name` as that of the file with the training text in the checkpoints.
    pub fn name_text(&mut self, name: impl Into<String>) {
        self.text_file = Some(name.into());
    }

    /// Trains until all steps are done or `stop` is set, which is checked after every step. A checkpoint is written in
    /// either case.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a loss or gradient that is NaN or infinite: the step that met it changed
    /// nothing, and the last checkpoint stays. [`Error::Checkpoint`] if a checkpoint cannot be written.
    pub fn run(&mut self, observer: &mut dyn TrainObserver, stop: &AtomicBool) -> Result<TrainingSummary> {
        let options = self.config.training.clone();
        let mut schedule = LrSchedule::new(&options, self.step)?;
        let mut saved_at = self.owns_dir.then_some(self.step);
        while self.step < options.steps && !stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            let report = self.train_step(schedule.next_rate())?;
            observer.on_step(&report, started.elapsed().as_secs_f64());
            if due(self.step, options.log_interval) {
                self.metrics.push(Metric::Step(report));
            }
            if due(self.step, options.eval_interval) && self.step < options.steps {
                self.validate(observer)?;
            }
            if due(self.step, options.save_interval) && self.step < options.steps {
                self.save(observer)?;
                saved_at = Some(self.step);
            }
        }
        let outcome = if self.is_finished() { Outcome::Finished } else { Outcome::Interrupted };
        let validated = self.last_validation().is_some_and(|report| report.step == self.step);
        if outcome == Outcome::Finished && !validated {
            self.validate(observer)?;
            saved_at = None;
        }
        if saved_at != Some(self.step) {
            self.save(observer)?;
        }
        Ok(TrainingSummary {
            outcome,
            step: self.step,
            validation: self.last_validation(),
            checkpoint: self.dir.clone(),
        })
    }

    /// Configuration of the run.
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// The current model, without autodiff.
    pub fn model(&self) -> Transformer {
        self.trained().valid()
    }

    /// The model with its gradients.
    fn trained(&self) -> &Transformer {
        match &self.model {
            Some(model) => model,
            None => unreachable!("a step puts the model back"),
        }
    }

    /// Number of steps done.
    pub fn step(&self) -> usize {
        self.step
    }

    /// The data, split and tokenized.
    pub fn data(&self) -> &TrainingData {
        &self.data
    }

    /// Report on each quantized layer; empty unless this run did quantization-aware training to its end.
    pub fn layers(&self) -> &[LayerReport] {
        &self.layers
    }

    /// Bytes per quantized weight that the run uses, in fine-tuning of a quantized model; `None` in other runs.
    pub fn tuning_memory(&self) -> Option<TuningMemory> {
        self.tuning.as_ref().map(|_| Tuning::memory(self.trained()))
    }

    /// Everything measured so far, in order.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    fn is_finished(&self) -> bool {
        self.step >= self.config.training.steps
    }

    fn last_validation(&self) -> Option<ValidationReport> {
        self.metrics.iter().rev().find_map(|metric| match metric {
            Metric::Validation(report) => Some(*report),
            Metric::Step(_) => None,
        })
    }

    fn train_step(&mut self, learning_rate: f64) -> Result<StepReport> {
        let options = &self.config.training;
        if let Some(quantization) = &self.quantization {
            quantization.prepared.set_stage(self.step);
        }
        let passes = options.accumulation_steps;
        let positions = options.batch_size * options.sequence_length;
        let model = self.trained();
        let kept = match options.gradient_checkpointing {
            true => kept_layers(model, positions, LOGITS, options.precision),
            false => model.config().num_layers,
        };
        // Ranges of layers that follow the batches move once for each.
        let at_once = !options.gradient_checkpointing
            && (positions * model.config().vocab_size <= LOGITS
                || layer_that_follows_batches(model).is_some());
        let mut accumulator = GradientsAccumulator::new();
        let mut losses = Vec::with_capacity(passes);
        for pass in 0..passes {
            let index = (self.step * passes + pass) as u64;
            let batch = self.data.batch(options.seed, index, options.batch_size, options.sequence_length);
            let check = |value: f64| {
                self.check_pass(self.step + 1)?;
                if value.is_finite() {
                    return Ok(());
                }
                let place = first_not_finite(self.trained(), &batch.inputs[..options.sequence_length]);
                Err(Error::NotFinite { what: "loss", step: self.step + 1, value, place })
            };
            let pass = Pass {
                model: self.trained(),
                teacher: self.teacher.as_ref(),
                batch: &batch,
                batch_size: options.batch_size,
                divisor: passes as f64,
            };
            losses.push(options.precision.scope(|| match at_once {
                true => pass.at_once(&mut accumulator, check),
                false => pass.by_stages(kept, LOGITS, &mut accumulator, check),
            })?);
            self.check_pass(self.step + 1)?;
        }
        let loss = losses.iter().sum::<f64>() / passes as f64;
        let step = self.step + 1;
        let mut gradients = accumulator.grads();
        let grad_norm = global_norm(self.trained(), &gradients)?;
        if !grad_norm.is_finite() {
            let place = first_gradient_not_finite(self.trained(), &gradients);
            return Err(Error::NotFinite { what: "norm of the gradients", step, value: grad_norm, place });
        }
        let step_of = |model| self.optimizer.step(learning_rate, model, &mut gradients, grad_norm);
        self.model = self.model.take().map(step_of);
        if let (Some(tuning), Some(model)) = (&self.tuning, &mut self.model) {
            tuning.apply(model, self.step)?;
        }
        self.step = step;
        let tokens = passes * positions;
        Ok(StepReport { step, loss, learning_rate, grad_norm, tokens })
    }

    /// Returns the error of a quantized layer that could not compute in the last pass.
    fn check_pass(&self, step: usize) -> Result<()> {
        let prepared = self.quantization.as_ref().map(|quantization| quantization.prepared.errors());
        let mut slots = prepared.into_iter().chain(self.tuning.as_ref().map(Tuning::errors));
        slots.try_for_each(|slot| slot.check()).map_err(|source| Error::Pass { step, source })
    }

    fn validate(&mut self, observer: &mut dyn TrainObserver) -> Result<()> {
        let options = &self.config.training;
        let window = options.sequence_length;
        let ids = &self.data.validation;
        let scored = &ids[..ids.len().min(options.validation_windows.saturating_mul(window))];
        let evaluation = slm_model::evaluate(&self.trained().valid(), scored, window, |_, _| {});
        self.check_pass(self.step)?;
        let evaluation = evaluation?;
        let report = ValidationReport {
            step: self.step,
            nll: evaluation.mean_nll(),
            perplexity: evaluation.perplexity(),
            tokens: evaluation.tokens,
        };
        observer.on_validation(&report);
        self.metrics.push(Metric::Validation(report));
        Ok(())
    }

    fn save(&mut self, observer: &mut dyn TrainObserver) -> Result<()> {
        let state = TrainingState::new(
            self.step,
            &self.config,
            &self.data.sha256,
            &device_name(&self.device),
            &self.source,
        );
        let to_json = |error: serde_json::Error| Error::State { detail: error.to_string() };
        let mut extra_files = vec![
            (STATE, serde_json::to_vec_pretty(&state).map_err(to_json)?),
            (METRICS, metrics_to_bytes(&self.metrics)?),
        ];
        let mut large_files: Vec<(&str, &dyn WriteFile)> = Vec::new();
        if has_optimizer_state(self.step, &self.config) {
            large_files.push((OPTIMIZER, &self.optimizer));
        } else if self.is_finished() {
            // No step comes after this, and other threads have use for the memory.
            self.optimizer.clear();
            slm_runtime::release_freed_memory();
        }
        if let Some(svg) = loss_svg(&self.metrics).map_err(|detail| Error::State { detail })? {
            extra_files.push((PLOT, svg.into_bytes()));
        }
        let mut model = self.trained().valid();
        let mut metadata = None;
        if let Some(quantization) = &self.quantization {
            if self.is_finished() {
                self.layers = slm_qat::convert(&mut model, &mut |_| {})?;
                metadata = Some(quantization.metadata(&model, &self.layers, &self.config, &state));
            } else {
                extra_files.push((QAT, Quantization::to_bytes(&model)?));
            }
        }
        if let Some(tuning) = &self.tuning {
            metadata = Some(tuning.metadata(&model, &self.config, &state));
            if let (false, Some(bytes)) = (self.is_finished(), Tuning::residual_bytes(&model)?) {
                extra_files.push((RESIDUAL, bytes));
            }
        }
        let tokenizer_json = match &self.source.tokenizer_json {
            Some(json) => json.clone(),
            None => self.data.tokenizer.to_json()?.into_bytes(),
        };
        let tokenizer = self.source.tokenizer.clone().unwrap_or_else(|| TokenizerInfo {
            bos_token_id: None,
            eos_token_ids: self.data.tokenizer.token_id(END_OF_TEXT).into_iter().collect(),
            chat: None,
        });
        let training = json!({
            "step": self.step,
            "steps": self.config.training.steps,
            "validation": self.last_validation(),
            "config": self.config,
        });
        let extra_files: Vec<(&str, &[u8])> =
            extra_files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let request = SaveRequest {
            tokenizer_json: Some(&tokenizer_json),
            tokenizer,
            metadata: metadata.as_ref(),
            lineage: Some(self.lineage()),
            training: Some(training),
            extra_files: &extra_files,
            large_files: &large_files,
        };
        slm_checkpoint::save(&self.dir, &model, &request, self.owns_dir || self.overwrite)?;
        self.owns_dir = true;
        observer.on_checkpoint(self.step, &self.dir);
        Ok(())
    }

    fn lineage(&self) -> Value {
        let quantization = &self.config.quantization;
        let method = match quantization.quantization_mode {
            _ if quantization.enable_quantized_finetuning => "finetune",
            QuantizationMode::Qat => "qat",
            QuantizationMode::None | QuantizationMode::Ptq => "train",
        };
        let mut lineage = json!({"method": method, "text_file": self.text_file});
        if let Some(source_sha256) = &self.source.source_sha256 {
            lineage["source_dir"] = self.source.dir.clone().into();
            lineage["source_sha256"] = source_sha256.clone().into();
            lineage["source"] = self.source.lineage.clone().into();
        }
        lineage
    }
}

/// Returns `true` if a checkpoint holds the state of the optimizer. There is none before the first step. A finished run
/// is not resumed, so its checkpoint leaves out the moments, which are twice the size of the model.
fn has_optimizer_state(step: usize, config: &TrainingConfig) -> bool {
    (1..config.training.steps).contains(&step)
}

/// Returns `true` if an event that is due every `interval` steps (never for 0) is due after `step`.
fn due(step: usize, interval: usize) -> bool {
    interval > 0 && step.is_multiple_of(interval)
}

/// The kind of a device, with autodiff or without.
fn device_name(device: &Device) -> String {
    let inner = if device.is_autodiff() { device.clone().inner() } else { device.clone() };
    format!("{inner:?}")
}

#[cfg(test)]
#[path = "trainer_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "qat_tests.rs"]
mod qat_tests;

#[cfg(test)]
#[path = "pass_tests.rs"]
mod pass_tests;
