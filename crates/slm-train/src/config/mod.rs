//! Configuration of a training run.

mod names;
mod qat;
mod read;
mod value;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use slm_autograd::Precision;
use slm_checkpoint::Checkpoint;
use slm_model::ModelConfig;
use slm_ptq::{QuantizationConfig, QuantizationMode};

use crate::difference::{Difference, first_difference};
use crate::{Error, FinetuneOptions, Result};

pub use qat::QatTrainingOptions;
pub use read::{Setting, parse_toml, read_toml};

/// The configuration of a training run: model, tokenizer, training and quantization.
///
/// In a file each field is a section of that name. `[model]` and `steps` in `[training]` are required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Architecture. A trained tokenizer has this `vocab_size`.
    pub model: ModelConfig,
    /// Source of the tokenizer.
    #[serde(default)]
    pub tokenizer: TokenizerConfig,
    /// Data, optimizer, schedule.
    pub training: TrainingOptions,
    /// Quantization, off by default.
    #[serde(default)]
    pub quantization: QuantizationConfig,
    /// Options of quantization-aware training, used if `quantization_mode` is "qat".
    #[serde(default)]
    pub qat: QatTrainingOptions,
    /// Rounding of updated weights, used if `enable_quantized_finetuning` is true.
    #[serde(default)]
    pub finetune: FinetuneOptions,
}

/// A config that may lack the model.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TuningFile {
    model: Option<ModelConfig>,
    #[serde(default)]
    tokenizer: TokenizerConfig,
    training: TrainingOptions,
    #[serde(default)]
    quantization: QuantizationConfig,
    #[serde(default)]
    qat: QatTrainingOptions,
    #[serde(default)]
    finetune: FinetuneOptions,
}

/// A config of which only the quantization is used. The other sections are checked as in a whole config.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuantizationFile {
    quantization: QuantizationConfig,
    #[serde(rename = "model")]
    _model: Option<ModelConfig>,
    #[serde(rename = "tokenizer")]
    _tokenizer: Option<TokenizerConfig>,
    #[serde(rename = "training")]
    _training: Option<TrainingOptions>,
    #[serde(rename = "qat")]
    _qat: Option<QatTrainingOptions>,
    #[serde(rename = "finetune")]
    _finetune: Option<FinetuneOptions>,
}

/// Source of the tokenizer: a file, or training on the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerConfig {
    /// A `tokenizer.json` to use, relative to the config file. Default: train byte-level BPE with the model's
    /// `vocab_size` on the training split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Number of bytes at the start of the training split on which BPE is trained. Default: 4,000,000.
    pub train_bytes: usize,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self { file: None, train_bytes: 4_000_000 }
    }
}

/// Options of training with AdamW (Loshchilov and Hutter, 2019), linear warm-up and a cosine schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingOptions {
    /// Number of optimizer steps.
    pub steps: usize,
    /// Sequences per forward pass. Default: 16.
    pub batch_size: usize,
    /// Number of tokens that a sequence predicts. Default: 128.
    pub sequence_length: usize,
    /// Forward passes per optimizer step. Default: 1.
    pub accumulation_steps: usize,
    /// Highest learning rate, at the end of the warm-up. Default: 1e-3.
    pub learning_rate: f64,
    /// Learning rate at the end of the cosine. Default: 0.
    pub min_learning_rate: f64,
    /// Steps of linear warm-up. Default: 0.
    pub warmup_steps: usize,
    /// Decoupled decay of the linear layers' weights; embeddings, norms and biases have none. Default: 0.1.
    pub weight_decay: f64,
    /// Decay of the mean of the gradient. Default: 0.9.
    pub beta1: f64,
    /// Decay of the mean of the squared gradient. Default: 0.95.
    pub beta2: f64,
    /// Added to the root of the squared gradient's mean. Default: 1e-8.
    pub epsilon: f64,
    /// Maximum norm of all gradients together; 0 turns clipping off. Default: 1.
    pub grad_clip: f64,
    /// Does not train the token and position embeddings, nor a head that is tied to them. That saves the memory of
    /// their gradients and moments, three times their own size. Default: false.
    pub freeze_embeddings: bool,
    /// Recomputes layers for their gradients instead of keeping their values: all but as many of the last ones as take no
    /// more memory than the gradients of all layers do afterwards. Default: false.
    pub gradient_checkpointing: bool,
    /// The type that the operands of the linear layers' products are rounded to, forward and backward: `f32` or `bf16`. Weights,
    /// optimizer state, sums and everything else are 32-bit floats in both. Default: `f32`.
    pub precision: Precision,
    /// Share (0 to 1) of the text, at its end, that is held out for validation. Default: 0.05.
    pub validation_fraction: f64,
    /// Maximum number of windows of `sequence_length` tokens scored in a validation. Default: 64.
    pub validation_windows: usize,
    /// Steps between validations; 0 for a single one at the end. Default: 100.
    pub eval_interval: usize,
    /// Steps between checkpoints; 0 for a single one at the end. Default: 500.
    pub save_interval: usize,
    /// Steps between lines of `metrics.jsonl`, 0 for none; validations are always logged. Default: 1.
    pub log_interval: usize,
    /// Seed of the weights and of the order of the data. Default: 0.
    pub seed: u64,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        Self {
            steps: 0,
            batch_size: 16,
            sequence_length: 128,
            accumulation_steps: 1,
            learning_rate: 1e-3,
            min_learning_rate: 0.0,
            warmup_steps: 0,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            grad_clip: 1.0,
            freeze_embeddings: false,
            gradient_checkpointing: false,
            precision: Precision::F32,
            validation_fraction: 0.05,
            validation_windows: 64,
            eval_interval: 100,
            save_interval: 500,
            log_interval: 1,
            seed: 0,
        }
    }
}

/// Reports an invalid value, with its origin.
pub(crate) struct Check<'a> {
    pub(crate) origin: &'a str,
}

impl Check<'_> {
    /// Returns [`Error::ConfigValue`] for `key` unless `fits`; `explain` gives the problem and the remedy.
    pub(crate) fn that(
        &self,
        fits: bool,
        key: &str,
        explain: impl FnOnce() -> (String, String),
    ) -> Result<()> {
        if fits {
            return Ok(());
        }
        let (detail, remedy) = explain();
        Err(self.refused(key, detail, &remedy))
    }

    fn refused(&self, key: &str, detail: String, remedy: &str) -> Error {
        let (origin, key) = (self.origin.to_owned(), key.to_owned());
        Error::ConfigValue { origin, key, detail, remedy: format!("; {remedy}") }
    }
}

impl TrainingConfig {
    /// Reads and validates a TOML file. The path of a tokenizer is relative to the file.
    ///
    /// # Errors
    /// As [`read_toml`] and [`TrainingConfig::validate`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_file_with(path, &[])
    }

    /// [`TrainingConfig::from_file`] with values of the file overridden by `settings`.
    ///
    /// # Errors
    /// As [`TrainingConfig::from_file`].
    pub fn from_file_with(path: impl AsRef<Path>, settings: &[Setting]) -> Result<Self> {
        let path = path.as_ref();
        let mut config: Self = read_toml(path, settings)?;
        config.validate_with(&path.display().to_string(), settings)?;
        if let (Some(file), Some(folder)) = (&mut config.tokenizer.file, path.parent()) {
            *file = folder.join(&*file);
        }
        Ok(config)
    }

    /// Reads and validates the `[quantization]` section of a TOML file, which may be a whole training config or only
    /// that section.
    ///
    /// # Errors
    /// As [`read_toml`], and [`Error::ConfigValue`].
    pub fn quantization_of_file(path: impl AsRef<Path>) -> Result<QuantizationConfig> {
        Self::quantization_of_file_with(path, &[])
    }

    /// [`TrainingConfig::quantization_of_file`] with values of the file overridden by `settings`.
    ///
    /// # Errors
    /// As [`TrainingConfig::quantization_of_file`].
    pub fn quantization_of_file_with(
        path: impl AsRef<Path>,
        settings: &[Setting],
    ) -> Result<QuantizationConfig> {
        let path = path.as_ref();
        let config = read_toml::<QuantizationFile>(path, settings)?.quantization;
        let check = Check { origin: &path.display().to_string() };
        check_quantization(&config, &check).map_err(|error| read::blame(error, settings))?;
        Ok(config)
    }

    /// Reads a TOML file for the training of a checkpoint, with its values overridden by `settings`. `[model]` is
    /// optional; if present, it must match the checkpoint or the float model that it was quantized from. `[tokenizer]`
    /// must be absent or have the default values. Values are not yet validated.
    ///
    /// # Errors
    /// As [`read_toml`], and [`Error::ConfigValue`] for another model.
    pub fn for_model(path: impl AsRef<Path>, checkpoint: &Checkpoint, settings: &[Setting]) -> Result<Self> {
        let path = path.as_ref();
        let text = read::read_config(path)?;
        Self::parse_for_model(&text, &path.display().to_string(), checkpoint, settings)
    }

    /// [`TrainingConfig::for_model`] of TOML text; errors name `origin` as its source.
    ///
    /// # Errors
    /// As [`TrainingConfig::for_model`].
    pub fn parse_for_model(
        text: &str,
        origin: &str,
        checkpoint: &Checkpoint,
        settings: &[Setting],
    ) -> Result<Self> {
        let untied = checkpoint.is_quantized();
        Self::parse_for(text, origin, &checkpoint.config().model, untied, settings)
    }

    /// [`TrainingConfig::parse_for_model`] for a model that is quantized where `quantized` is true.
    fn parse_for(
        text: &str,
        origin: &str,
        model: &ModelConfig,
        quantized: bool,
        settings: &[Setting],
    ) -> Result<Self> {
        let mut file: TuningFile = parse_toml(text, origin, settings)?;
        // Quantization unties a tied head, so a config of the float model is accepted.
        if let Some(found) = file.model.as_mut().filter(|_| quantized && !model.tie_word_embeddings) {
            found.tie_word_embeddings = false;
        }
        let check = Check { origin };
        check.that(file.model.as_ref().is_none_or(|found| found == model), "model", || {
            let difference = file.model.as_ref().and_then(|found| {
                let [found, model] = [found, model].map(|model| serde_json::to_value(model).ok());
                let (found, model) = (found?, model?);
                // The width of a head is derived from other fields unless a config gives it.
                let mut same_heads = found.clone();
                same_heads["head_dim"] = model["head_dim"].clone();
                first_difference(&model, &same_heads).or_else(|| first_difference(&model, &found))
            });
            let detail = difference.map_or_else(
                || "differs from the model of the checkpoint".to_owned(),
                |Difference { path, before, now }| {
                    format!("differs from the checkpoint in {path} ({before} there, {now} here)")
                },
            );
            (detail, "remove [model] to use the checkpoint's".into())
        })?;
        check.that(file.tokenizer == TokenizerConfig::default(), "tokenizer", || {
            ("cannot be chosen: the checkpoint has its own".into(), "leave [tokenizer] out".into())
        })?;
        Ok(Self {
            model: model.clone(),
            tokenizer: file.tokenizer,
            training: file.training,
            quantization: file.quantization,
            qat: file.qat,
            finetune: file.finetune,
        })
    }

    /// [`TrainingConfig::validate`] of a config whose values were overridden by `settings`. An error that is due to a
    /// setting names it.
    ///
    /// # Errors
    /// As [`TrainingConfig::validate`].
    pub fn validate_with(&self, origin: &str, settings: &[Setting]) -> Result<()> {
        self.validate(origin).map_err(|error| read::blame(error, settings))
    }

    /// Checks that values are valid and consistent; errors name `origin` as their source.
    ///
    /// # Errors
    /// [`Error::ConfigValue`] with the first invalid key and a remedy.
    pub fn validate(&self, origin: &str) -> Result<()> {
        let check = Check { origin };
        let model = self.model.validate().map_err(|error| error.to_string());
        check.that(model.is_ok(), "model", || {
            (model.err().unwrap_or_default(), "see the field named".into())
        })?;
        self.training.validate(&check)?;
        let (length, positions) = (self.training.sequence_length, self.model.max_position_embeddings);
        check.that(length <= positions, "training.sequence_length", || {
            let detail = format!("is {length}, beyond the model's max_position_embeddings of {positions}");
            (detail, "shorten the one or raise the other".into())
        })?;
        check.that(self.tokenizer.train_bytes > 0, "tokenizer.train_bytes", || {
            ("is 0".into(), "give the bytes to train the tokenizer on".into())
        })?;
        check_quantization(&self.quantization, &check)?;
        let decays = self.quantization.enable_quantized_finetuning && self.training.weight_decay != 0.0;
        check.that(!decays, "training.weight_decay", || {
            let detail = format!("is {}, and quantized weights do not decay", self.training.weight_decay);
            (detail, "set it to 0".into())
        })?;
        if self.quantization.quantization_mode == QuantizationMode::Qat {
            self.qat.validate(&check, self.training.steps)?;
        }
        Ok(())
    }
}

fn check_quantization(config: &QuantizationConfig, check: &Check<'_>) -> Result<()> {
    config.validate().map_err(|error| match error {
        slm_ptq::Error::Setting { key, detail, remedy } => {
            check.refused(&format!("quantization.{key}"), detail, remedy)
        }
        other => Error::Ptq(other),
    })
}

/// Maximum number of sequences of a batch, and of batches of a step. Far more than any run needs, and few enough that sizes
/// that follow from them can be computed.
const MAX_BATCH: usize = 1 << 16;

impl TrainingOptions {
    fn validate(&self, check: &Check<'_>) -> Result<()> {
        let of = |key: &str| format!("training.{key}");
        for (key, value, range) in [
            ("steps", self.steps, 1..=usize::MAX),
            ("batch_size", self.batch_size, 1..=MAX_BATCH),
            ("sequence_length", self.sequence_length, 2..=usize::MAX),
            ("accumulation_steps", self.accumulation_steps, 1..=MAX_BATCH),
            ("validation_windows", self.validation_windows, 1..=usize::MAX),
        ] {
            check.that(range.contains(&value), &of(key), || {
                let (least, most) = (range.start(), range.end());
                let remedy = match *most {
                    usize::MAX => format!("use {least} or more"),
                    most => format!("use {least} to {most}"),
                };
                (format!("is {value}"), remedy)
            })?;
        }
        check.that(self.warmup_steps < self.steps, &of("warmup_steps"), || {
            (format!("is {}, of {} steps", self.warmup_steps, self.steps), "use fewer than `steps`".into())
        })?;
        // Burn's schedulers reject rates outside these bounds.
        let lower_rate = format!("use a number from 0 to the learning_rate, {}", self.learning_rate);
        let bounds: [(&str, f64, RangeInclusive<f64>, &str); 8] = [
            (
                "learning_rate",
                self.learning_rate,
                f64::MIN_POSITIVE..=1.0,
                "use a number above 0 and at most 1",
            ),
            ("min_learning_rate", self.min_learning_rate, 0.0..=self.learning_rate, &lower_rate),
            ("weight_decay", self.weight_decay, 0.0..=1.0, "use a number from 0 to 1"),
            ("beta1", self.beta1, 0.0..=0.999_999, "use a number from 0 to 0.999999"),
            ("beta2", self.beta2, 0.0..=0.999_999, "use a number from 0 to 0.999999"),
            ("epsilon", self.epsilon, 1e-30..=1.0, "use a small number such as 1e-8: 1e-30 to 1"),
            ("grad_clip", self.grad_clip, 0.0..=1e30, "use 0 for no clipping, or a number above 0 such as 1"),
            (
                "validation_fraction",
                self.validation_fraction,
                1e-6..=0.9,
                "use a number above 0 and at most 0.9",
            ),
        ];
        for (key, value, range, remedy) in bounds {
            check.that(range.contains(&value), &of(key), || (format!("is {value}"), remedy.to_owned()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
