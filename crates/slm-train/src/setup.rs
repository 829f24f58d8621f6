//! The start of a training run.

use std::path::PathBuf;

use burn::tensor::Device;
use serde_json::Value;
use slm_autograd::Precision;
use slm_checkpoint::{Checkpoint, TokenizerInfo};
use slm_model::Transformer;
use slm_nn::{Weight, try_for_each_linear};
use slm_ptq::{Plan, transformer_layers};
use slm_text::Tokenizer;

use crate::config::Check;
use crate::quantization::Quantization;
use crate::tuning::Tuning;
use crate::{Corpus, Error, QuantizationMode, Result, TrainingConfig, TrainingData};

/// The source of a run: random weights, or a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Name of the checkpoint's directory.
    pub(crate) dir: Option<String>,
    pub(crate) source_sha256: Option<String>,
    pub(crate) teacher_sha256: Option<String>,
    pub(crate) lineage: Option<Value>,
    pub(crate) tokenizer_json: Option<Vec<u8>>,
    /// Name for messages.
    pub(crate) tokenizer_origin: PathBuf,
    pub(crate) tokenizer: Option<TokenizerInfo>,
}

impl Source {
    pub(crate) fn of(start: Start<'_>) -> Result<Self> {
        let Some(checkpoint) = start.checkpoint else { return Ok(Self::default()) };
        let json = checkpoint.tokenizer_json().ok_or_else(|| Error::NotResumable {
            dir: checkpoint.dir().to_owned(),
            reason: "it has no tokenizer.json, which training needs to read text".to_owned(),
        })?;
        Ok(Self {
            dir: checkpoint.name(),
            source_sha256: Some(checkpoint.weights_sha256()?),
            teacher_sha256: start.teacher_sha256()?,
            lineage: checkpoint.config().lineage.clone(),
            tokenizer_json: Some(json.to_vec()),
            tokenizer_origin: checkpoint.dir().join("tokenizer.json"),
            tokenizer: Some(checkpoint.config().tokenizer.clone()),
        })
    }

    pub(crate) fn data(&self, corpus: Corpus<'_>, config: &TrainingConfig) -> Result<TrainingData> {
        let tokenizer = match &self.tokenizer_json {
            None => None,
            Some(json) => {
                let json = String::from_utf8_lossy(json);
                Some(Tokenizer::from_json(&json, &self.tokenizer_origin.display().to_string())?)
            }
        };
        match (corpus, tokenizer) {
            (Corpus::Text(text), None) => TrainingData::new(text, config),
            (Corpus::Text(text), Some(tokenizer)) => TrainingData::with_tokenizer(text, tokenizer, config),
            (Corpus::Sequences(sequences), Some(tokenizer)) => {
                TrainingData::of_sequences(sequences, tokenizer, config)
            }
            (Corpus::Sequences(sequences), None) => match &config.tokenizer.file {
                Some(file) => TrainingData::of_sequences(sequences, Tokenizer::from_file(file)?, config),
                None => Err(Error::NoTokenizer),
            },
        }
    }
}

/// The models that a run starts from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start<'a> {
    /// The model to train; `None` for random weights. Quantization-aware training of a quantized model starts from its
    /// codes and scales.
    pub checkpoint: Option<&'a Checkpoint>,
    /// The float model that distillation trains towards, if it differs from the model to train.
    pub teacher: Option<&'a Checkpoint>,
}

impl<'a> From<Option<&'a Checkpoint>> for Start<'a> {
    fn from(checkpoint: Option<&'a Checkpoint>) -> Self {
        Self { checkpoint, teacher: None }
    }
}

impl<'a> Start<'a> {
    /// The model that distillation trains towards.
    fn teacher(&self, model: &Transformer) -> Result<&'a Checkpoint> {
        let teacher = self.teacher.or(self.checkpoint.filter(|checkpoint| !checkpoint.is_quantized()));
        let teacher = teacher.ok_or(Error::NoTeacher)?;
        teacher.require_float()?;
        let (found, expected) = (teacher.config().model.vocab_size, model.config().vocab_size);
        if found != expected {
            return Err(Error::TeacherVocabulary { dir: teacher.dir().to_owned(), found, expected });
        }
        Ok(teacher)
    }

    /// Checksums of the weights of the teacher, if it is another model.
    pub(crate) fn teacher_sha256(&self) -> Result<Option<String>> {
        Ok(self.teacher.map(Checkpoint::weights_sha256).transpose()?)
    }
}

/// A model in training, with the state of its quantization and its teacher.
pub(crate) struct Setup {
    pub(crate) model: Transformer,
    pub(crate) quantization: Option<Quantization>,
    pub(crate) tuning: Option<Tuning>,
    pub(crate) teacher: Option<Transformer>,
}

impl Setup {
    /// A setup for training in floats.
    pub(crate) fn float(model: Transformer) -> Self {
        Self { model, quantization: None, tuning: None, teacher: None }
    }

    /// Prepares `model` for the training that the config specifies: float, fake-quantized, or quantized.
    pub(crate) fn new(
        mut model: Transformer,
        start: Start<'_>,
        config: &TrainingConfig,
        device: &Device,
    ) -> Result<Self> {
        check_precision(config.training.precision, slm_nn::on_cpu(device))?;
        let skip = &config.quantization.skip;
        let skipped = Plan::skipping(transformer_layers(model.config()), skip)?.skipped;
        if config.quantization.enable_quantized_finetuning {
            let source =
                start.checkpoint.and_then(Checkpoint::metadata).cloned().ok_or(Error::NotQuantized)?;
            if let Some(layer) = skipped.into_iter().find(|layer| source.layer(&layer.name).is_some()) {
                return Err(Error::SkippedQuantized { layer: layer.name, reason: layer.reason });
            }
            if model.embedding_is_quantized() {
                return Err(Error::QuantizedEmbedding);
            }
            let tuning = Some(Tuning::prepare(&mut model, source, config)?);
            return Ok(Self { tuning, ..Self::float(model) }.frozen_as(config));
        }
        if config.quantization.quantization_mode != QuantizationMode::Qat {
            start.checkpoint.map_or(Ok(()), Checkpoint::require_float)?;
            return Ok(Self::float(model).frozen_as(config));
        }
        let quantized = start.checkpoint.filter(|checkpoint| checkpoint.is_quantized());
        let teacher = match config.qat.distill {
            false => None,
            true => {
                let mut teacher = start.teacher(&model)?.load_model(&device.clone().inner())?;
                teacher.narrow()?;
                Some(teacher)
            }
        };
        let quantization = match quantized {
            Some(checkpoint) => Quantization::resume_from(&mut model, checkpoint, config, device)?,
            None => Quantization::prepare(&mut model, config)?,
        };
        if config.training.gradient_checkpointing {
            refuse_batch_ranges(&model)?;
        }
        Ok(Self { quantization: Some(quantization), teacher, ..Self::float(model) }.frozen_as(config))
    }

    /// Removes the gradients of parameters that `config` does not train.
    fn frozen_as(mut self, config: &TrainingConfig) -> Self {
        if config.training.freeze_embeddings {
            self.model.freeze_embeddings();
        }
        self
    }
}

/// Rejects a precision that the device does not have, or that would be slower than f32 on this processor.
pub(crate) fn check_precision(precision: Precision, on_cpu: bool) -> Result<()> {
    let check = Check { origin: "the training config" };
    let remedy = || "use \"f32\", or leave it out".to_owned();
    check.that(precision == Precision::F32 || on_cpu, "training.precision", || {
        ("is \"bf16\", which only training on the CPU has".to_owned(), remedy())
    })?;
    check.that(precision.is_fast(), "training.precision", || {
        let detail = "is \"bf16\", and this processor has no instructions for it (AVX-512BF16): training would be slower \
                      than in f32";
        (detail.to_owned(), remedy())
    })
}

/// The first layer of `model`, if there is one, whose ranges are moving averages over training batches.
pub(crate) fn layer_that_follows_batches(model: &Transformer) -> Option<String> {
    let found = try_for_each_linear(model, |name, linear| match &linear.weight {
        Weight::FakeQuantized(weight) if weight.follows_batches() => Err(name.to_owned()),
        _ => Ok(()),
    });
    found.err()
}

/// Rejects a model whose layers would observe each batch twice with gradient checkpointing.
fn refuse_batch_ranges(model: &Transformer) -> Result<()> {
    let found = layer_that_follows_batches(model);
    Check { origin: "the training config" }.that(found.is_none(), "training.gradient_checkpointing", || {
        let name = found.unwrap_or_default();
        let detail =
            format!("is true, and ranges of {name} follow the batches, of which it would see each twice");
        (detail, "leave it out, or use dynamic or weight-only quantization without moving averages".into())
    })
}
