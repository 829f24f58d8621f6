//! The FP32 training loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::json;
use slm_checkpoint::{Checkpoint, CheckpointWriter, Layout, SaveRequest, TokenizerInfo};
use slm_model::Transformer;
use slm_text::{END_OF_TEXT, Tokenizer};

use crate::data::Batch;
use crate::observer::rounded;
use crate::optimizer::ModelOptimizer;
use crate::schedule::Schedule;
use crate::state::{METRICS, OPTIMIZER, STATE, TrainingState, metrics_to_bytes, read_metrics};
use crate::{
    Error, Metric, Result, StepReport, TrainObserver, TrainingConfig, TrainingData, ValidationReport,
};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop; it can be resumed.
    Interrupted,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingSummary {
    /// How it ended.
    pub outcome: Outcome,
    /// Steps done, those before a resume included.
    pub step: usize,
    /// The last validation; none where the run stopped before the first.
    pub validation: Option<ValidationReport>,
    /// Where the checkpoint is.
    pub checkpoint: PathBuf,
}

/// A training run: a model, its data, and where both stand.
///
/// The checkpoint directory holds the model and all it takes to go on ([`Trainer::resume`]); every checkpoint
/// replaces the one before in one step, so there is always a whole one.
pub struct Trainer {
    config: TrainingConfig,
    data: TrainingData,
    model: Transformer,
    optimizer: ModelOptimizer,
    device: Device,
    dir: PathBuf,
    step: usize,
    /// Whether the checkpoint at `dir` is this run's own, and may be replaced.
    owns_dir: bool,
    overwrite: bool,
    metrics: Vec<Metric>,
}

impl Trainer {
    /// Begins a run that will write its checkpoints to `dir`, which must not exist unless `overwrite`. Nothing
    /// is written before the first checkpoint.
    ///
    /// `device` may be with or without autodiff.
    ///
    /// # Errors
    /// [`Error::ConfigValue`], those of [`TrainingData::new`], and [`Error::Checkpoint`] where `dir` cannot be
    /// written.
    pub fn new(
        config: TrainingConfig,
        text: &str,
        device: &Device,
        dir: impl AsRef<Path>,
        overwrite: bool,
    ) -> Result<Self> {
        config.validate("the training config")?;
        let dir = dir.as_ref().to_owned();
        // Refuses what cannot be written before hours are spent; dropped, it leaves nothing.
        CheckpointWriter::create(&dir, &config.model, &Layout::new(&config.model), overwrite)?;
        let data = TrainingData::new(text, &config)?;
        let device = device.clone().autodiff();
        let model = Transformer::new(&config.model, config.training.seed, &device)?;
        let optimizer = ModelOptimizer::new(&config.training);
        Ok(Self {
            config,
            data,
            model,
            optimizer,
            device,
            dir,
            step: 0,
            owns_dir: false,
            overwrite,
            metrics: Vec::new(),
        })
    }

    /// Goes on with the run whose checkpoint is at `dir`: on the same kind of device, with the same config and
    /// text, the result is the same bit for bit as if it had never stopped. A finished run has nothing left to do.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for one that cannot be read, [`Error::NotResumable`] for one that is not of a
    /// training run or of another one, [`Error::OptimizerState`].
    pub fn resume(
        config: TrainingConfig,
        text: &str,
        device: &Device,
        dir: impl AsRef<Path>,
    ) -> Result<Self> {
        config.validate("the training config")?;
        let dir = dir.as_ref().to_owned();
        let checkpoint = Checkpoint::open(&dir)?;
        let state = TrainingState::read(&dir)?;
        let device = device.clone().autodiff();
        let sha256 = slm_checkpoint::sha256(text.as_bytes());
        state.check_same(&TrainingState::new(state.step, &config, &sha256, &device_name(&device)), &dir)?;
        let json = checkpoint.tokenizer_json().map(String::from_utf8_lossy).ok_or_else(|| {
            Error::NotResumable { dir: dir.clone(), reason: "it has no tokenizer".to_owned() }
        })?;
        let tokenizer = Tokenizer::from_json(&json, &dir.join("tokenizer.json").display().to_string())?;
        let data = TrainingData::with_tokenizer(text, tokenizer, &config)?;
        let model = checkpoint.load_model(&device)?;
        let mut optimizer = ModelOptimizer::new(&config.training);
        if has_optimizer_state(state.step, &config) {
            let path = dir.join(OPTIMIZER);
            let bytes = std::fs::read(&path).map_err(|source| Error::Read { path, source })?;
            optimizer.load(&bytes, state.step, &model, &device.clone().inner())?;
        }
        let metrics = read_metrics(&dir)?;
        Ok(Self {
            config,
            data,
            model,
            optimizer,
            device,
            dir,
            step: state.step,
            owns_dir: true,
            overwrite: true,
            metrics,
        })
    }

    /// Trains until all steps are done or `stop` is set, which is looked at after every step. A checkpoint is
    /// written in either case.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a loss or gradient that is NaN or infinite: the step that met it changed
    /// nothing, and the last checkpoint stays. [`Error::Checkpoint`] where one cannot be written.
    pub fn run(&mut self, observer: &mut dyn TrainObserver, stop: &AtomicBool) -> Result<TrainingSummary> {
        let options = self.config.training.clone();
        let mut schedule = Schedule::new(&options, self.step)?;
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

    /// The model as it stands, without autodiff.
    pub fn model(&self) -> Transformer {
        self.model.valid()
    }

    /// Steps done.
    pub fn step(&self) -> usize {
        self.step
    }

    /// The data, split and tokenized.
    pub fn data(&self) -> &TrainingData {
        &self.data
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
        let passes = options.accumulation_steps;
        let mut accumulator = GradientsAccumulator::new();
        let mut losses = Vec::with_capacity(passes);
        for pass in 0..passes {
            let index = (self.step * passes + pass) as u64;
            let batch = self.data.batch(options.seed, index, options.batch_size, options.sequence_length);
            let loss = batch_loss(&self.model, &batch, options.batch_size, &self.device);
            losses.push(loss.clone().detach());
            let gradients = loss.div_scalar(passes as f64).backward();
            accumulator.accumulate(&self.model, GradientsParams::from_grads(gradients, &self.model));
        }
        let losses = slm_quant_nn::to_vec_f32("loss", Tensor::cat(losses, 0))?;
        let loss = losses.iter().copied().map(f64::from).sum::<f64>() / passes as f64;
        let step = self.step + 1;
        let refuse = |what: &'static str, value: f64| Error::NotFinite { what, step, value };
        if !loss.is_finite() {
            return Err(refuse("loss", loss));
        }
        let (model, grad_norm) =
            self.optimizer.step(learning_rate, self.model.clone(), &mut accumulator.grads())?;
        if !grad_norm.is_finite() {
            return Err(refuse("norm of the gradients", grad_norm));
        }
        self.model = model;
        self.step = step;
        let tokens = passes * options.batch_size * options.sequence_length;
        Ok(StepReport {
            step,
            loss: rounded(loss),
            learning_rate: rounded(learning_rate),
            grad_norm: rounded(grad_norm),
            tokens,
        })
    }

    fn validate(&mut self, observer: &mut dyn TrainObserver) -> Result<()> {
        let options = &self.config.training;
        let window = options.sequence_length;
        let ids = &self.data.validation;
        let scored = &ids[..ids.len().min(options.validation_windows * window)];
        let evaluation = slm_model::evaluate(&self.model.valid(), scored, window, |_, _| {})?;
        let report = ValidationReport {
            step: self.step,
            nll: rounded(evaluation.mean_nll()),
            perplexity: rounded(evaluation.perplexity()),
            tokens: evaluation.tokens,
        };
        observer.on_validation(&report);
        self.metrics.push(Metric::Validation(report));
        Ok(())
    }

    fn save(&mut self, observer: &mut dyn TrainObserver) -> Result<()> {
        let state =
            TrainingState::new(self.step, &self.config, &self.data.sha256, &device_name(&self.device));
        let to_json = |error: serde_json::Error| Error::State { detail: error.to_string() };
        let state_bytes = serde_json::to_vec_pretty(&state).map_err(to_json)?;
        let optimizer_bytes = if has_optimizer_state(self.step, &self.config) {
            Some(self.optimizer.to_bytes()?)
        } else {
            None
        };
        let metrics_bytes = metrics_to_bytes(&self.metrics)?;
        let tokenizer_json = self.data.tokenizer.to_json()?;
        let eos = self.data.tokenizer.token_id(END_OF_TEXT);
        let training = json!({
            "step": self.step,
            "steps": self.config.training.steps,
            "validation": self.last_validation(),
            "config": self.config,
        });
        let mut extra_files = vec![(STATE, state_bytes.as_slice()), (METRICS, metrics_bytes.as_slice())];
        extra_files.extend(optimizer_bytes.as_deref().map(|bytes| (OPTIMIZER, bytes)));
        let request = SaveRequest {
            tokenizer_json: Some(tokenizer_json.as_bytes()),
            tokenizer: TokenizerInfo { bos_token_id: None, eos_token_ids: eos.into_iter().collect() },
            training: Some(training),
            extra_files: &extra_files,
            ..SaveRequest::default()
        };
        slm_checkpoint::save(&self.dir, &self.model.valid(), &request, self.owns_dir || self.overwrite)?;
        self.owns_dir = true;
        observer.on_checkpoint(self.step, &self.dir);
        Ok(())
    }
}

/// Mean cross entropy of a batch, a tensor of shape `[1]`.
fn batch_loss(model: &Transformer, batch: &Batch, batch_size: usize, device: &Device) -> Tensor<1> {
    let length = batch.inputs.len() / batch_size;
    let tensor = |ids: &[u32]| -> Tensor<2, Int> {
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        Tensor::from_data(TensorData::new(ids, [batch_size, length]), device)
    };
    let logits = model.forward(tensor(&batch.inputs));
    let [rows, vocab_size] = [batch_size * length, model.config().vocab_size];
    let log_probabilities = log_softmax(logits.reshape([rows, vocab_size]), 1);
    let targets = tensor(&batch.targets).reshape([rows, 1]);
    log_probabilities.gather(1, targets).mean().neg()
}

/// Whether a checkpoint holds the state of the optimizer: there is none before the first step, and a finished run
/// goes on nowhere, so its checkpoint is the model without twice its size of moments.
fn has_optimizer_state(step: usize, config: &TrainingConfig) -> bool {
    (1..config.training.steps).contains(&step)
}

/// Whether something that happens every `interval` steps, or never for 0, happens after `step`.
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
