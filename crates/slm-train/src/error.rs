//! Errors before and during training.

use std::io;
use std::path::PathBuf;

/// Errors of this crate. Each names the file, key or step at fault, and a remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A config is not TOML.
    #[error("{origin} is not valid TOML: {detail}")]
    ConfigSyntax {
        /// The file.
        origin: String,
        /// Message of the parser, with line and column.
        detail: String,
    },
    /// An unknown key.
    #[error("unknown key `{key}` in {section} of {origin}{suggestion}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The section it is in.
        section: String,
        /// The file.
        origin: String,
        /// The nearest known key, as the end of the sentence.
        suggestion: String,
    },
    /// A missing required section.
    #[error("{origin} has no section [{section}]; add it")]
    MissingSection {
        /// The section.
        section: String,
        /// The file.
        origin: String,
    },
    /// A missing required key.
    #[error("{section} of {origin} has no `{key}`; add it")]
    MissingKey {
        /// The key.
        key: String,
        /// The section it belongs in.
        section: String,
        /// The file.
        origin: String,
    },
    /// A value of the wrong type, out of bounds, or in conflict with another.
    #[error("`{key}` in {origin}: {detail}{remedy}")]
    ConfigValue {
        /// The file.
        origin: String,
        /// Section and key.
        key: String,
        /// Values found and expected.
        detail: String,
        /// Remedy, as the end of the sentence.
        remedy: String,
    },
    /// Text or tokenizer.
    #[error(transparent)]
    Text(#[from] slm_text::Error),
    /// A tokenizer with more tokens than the model has rows for.
    #[error(
        "the tokenizer has {tokens} tokens, but the model's vocab_size is {model}; set vocab_size to at least \
         {tokens}"
    )]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding.
        model: usize,
    },
    /// Too little text for one sequence.
    #[error(
        "the {part} split has {found} tokens, and one sequence needs {needed}; give more text, a shorter \
         sequence_length or another validation_fraction"
    )]
    TextTooShort {
        /// Name of the split.
        part: &'static str,
        /// Tokens it has.
        found: usize,
        /// Tokens it needs.
        needed: usize,
    },
    /// The model rejected its config or its input.
    #[error(transparent)]
    Model(#[from] slm_model::Error),
    /// A tensor could not be read back.
    #[error(transparent)]
    Tensor(#[from] slm_nn::Error),
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] slm_checkpoint::Error),
    /// A schedule that Burn's schedulers reject.
    #[error("learning rate schedule: {detail}; check learning_rate, min_learning_rate and warmup_steps")]
    Schedule {
        /// Message of the scheduler.
        detail: String,
    },
    /// A loss or gradient that is NaN or infinite.
    #[error(
        "the {what} is {value} at step {step}{}; training stopped there and the last checkpoint is kept: lower \
         learning_rate, lengthen warmup_steps or lower grad_clip",
        place.as_ref().map_or_else(String::new, |place| format!(" (first in {place})"))
    )]
    NotFinite {
        /// Loss or gradient.
        what: &'static str,
        /// The step that met it, from 1.
        step: usize,
        /// Its value.
        value: f64,
        /// The first layer or parameter that is not finite, if one was found.
        place: Option<String>,
    },
    /// Skip patterns that do not fit the model, or layers that cannot be quantized.
    #[error(transparent)]
    Ptq(#[from] slm_ptq::Error),
    /// A checkpoint whose embedding is quantized cannot be fine-tuned.
    #[error(
        "the embedding of the checkpoint is quantized, and training has it in floats; start from a checkpoint whose \
         embedding is float"
    )]
    QuantizedEmbedding,
    /// A skip pattern for a layer of a quantized checkpoint that is quantized.
    #[error(
        "{reason} leaves {layer} float, but it is quantized in the checkpoint, and fine-tuning keeps it so; remove the \
         pattern, or quantize the float model again with this pattern"
    )]
    SkippedQuantized {
        /// Name of the layer.
        layer: String,
        /// The pattern.
        reason: String,
    },
    /// A quantized layer could not compute.
    #[error(
        "step {step}: {source}; training stopped there and the last checkpoint is kept{}",
        match source.source {
            slm_nn::Error::Core(slm_quant_core::Error::NotFinite { .. }) => {
                ": lower learning_rate, lengthen warmup_steps or lower grad_clip"
            }
            _ => "",
        }
    )]
    Pass {
        /// The step that met it, from 1.
        step: usize,
        /// The layer and the cause.
        source: slm_nn::LayerError,
    },
    /// Quantization-aware training rejected its options or the model.
    #[error(transparent)]
    Qat(#[from] slm_qat::Error),
    /// Distillation without a model to learn from.
    #[error(
        "`distill` needs a float model to learn from; set `distill` in [qat] to false, or name the checkpoint of a float \
         model"
    )]
    NoTeacher,
    /// A teacher with another vocabulary.
    #[error(
        "{}: the vocabulary has {found} tokens, and that of the model to train {expected}; a teacher must be the float \
         model that was quantized, or another with the same tokens",
        dir.display()
    )]
    TeacherVocabulary {
        /// Directory of the teacher.
        dir: PathBuf,
        /// Tokens of the teacher.
        found: usize,
        /// Tokens of the model.
        expected: usize,
    },
    /// A config with schemes other than those of the quantized checkpoint that training starts from.
    #[error(
        "{}: it is {found}, and the config asks for {asked}; training from a quantized checkpoint keeps the schemes of its \
         layers",
        dir.display()
    )]
    CheckpointScheme {
        /// Directory of the checkpoint.
        dir: PathBuf,
        /// Its scheme and type.
        found: String,
        /// Scheme and type, or patterns, of the config.
        asked: String,
    },
    /// Fine-tuning of a quantized model without a checkpoint.
    #[error("`enable_quantized_finetuning` needs a quantized checkpoint to start from; name one")]
    NotQuantized,
    /// A layer whose weights could not be trained.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Name of the layer.
        layer: String,
        /// The error of the layer.
        source: slm_nn::Error,
    },
    /// Sequences of token ids without a tokenizer.
    #[error(
        "token ids do not name their tokenizer: start from a checkpoint, which has one, or name a `file` in \
         [tokenizer] of the config"
    )]
    NoTokenizer,
    /// Sequences of token ids that cannot be trained on.
    #[error("{}: {detail}", path.display())]
    Sequences {
        /// The file.
        path: PathBuf,
        /// Description of the problem and of accepted values.
        detail: String,
    },
    /// A checkpoint that training cannot resume from.
    #[error("cannot resume from {}: {reason}; start a new run instead", dir.display())]
    NotResumable {
        /// The checkpoint.
        dir: PathBuf,
        /// Reason.
        reason: String,
    },
    /// An unfinished run in the output directory of a new one.
    #[error(
        "{}: holds an unfinished run (step {step} of {steps}); resume it, overwrite it, or choose another output",
        dir.display()
    )]
    UnfinishedRun {
        /// The checkpoint.
        dir: PathBuf,
        /// Steps done.
        step: usize,
        /// Total number of steps.
        steps: usize,
    },
    /// A state of the optimizer that does not fit the model.
    #[error("state of the optimizer: {detail}; the checkpoint can be used, but not resumed from")]
    OptimizerState {
        /// Description of the problem.
        detail: String,
    },
    /// A state of the run that cannot be serialized.
    #[error("state of the run: {detail}")]
    State {
        /// Description of the problem.
        detail: String,
    },
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
