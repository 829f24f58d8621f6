//! The one error type of this crate.

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error from quantizing or comparing a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer's values or scheme were rejected.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Name of the layer.
        layer: String,
        /// The error of the layer.
        source: slm_nn::Error,
    },
    /// A fake-quantized layer could not compute while its block was trained.
    #[error(transparent)]
    Training(#[from] slm_nn::LayerError),
    /// A setting that cannot work.
    #[error("`{key}` {detail}; {remedy}")]
    Setting {
        /// The field of [`QuantizationConfig`](crate::QuantizationConfig).
        key: &'static str,
        /// Description of the problem.
        detail: String,
        /// Accepted values, or another remedy.
        remedy: &'static str,
    },
    /// A text that is not a valid scheme.
    #[error(
        "{text:?} is not a scheme{}; a scheme is float, int8 or int4, and after colons what differs from other layers: \
         tensor, channel or group:N, symmetric, symmetric-torch or affine, f32 or f16, such as int8:channel",
        if found == text { String::new() } else { format!(": {found:?} is unknown") }
    )]
    Scheme {
        /// The scheme as written.
        text: String,
        /// The part that is not known.
        found: String,
    },
    /// A text that is not a pattern and a scheme.
    #[error("{text:?} has no pattern and scheme; write PATTERN=SCHEME, such as lm_head=int8:channel")]
    Rule {
        /// The text as written.
        text: String,
    },
    /// A pattern for names of layers is not a valid glob.
    #[error("{what} pattern {pattern:?}: {detail}")]
    Pattern {
        /// Purpose of the pattern: `skip`, `layer` or `dynamic input`.
        what: &'static str,
        /// The pattern.
        pattern: String,
        /// Description of the problem.
        detail: String,
    },
    /// A pattern matches no layer.
    #[error(
        "{what} pattern {pattern:?} matches no linear layer; {}layers are named like {example:?}, and `*` matches any \
         part of a name",
        nearest.as_ref().map_or_else(String::new, |nearest| format!("did you mean {nearest:?}? "))
    )]
    UnmatchedPattern {
        /// Purpose of the pattern: `skip`, `layer` or `dynamic input`.
        what: &'static str,
        /// The pattern.
        pattern: String,
        /// Name of a layer of this model.
        example: String,
        /// A pattern that fits, if one is near.
        nearest: Option<String>,
    },
    /// Nothing is left to quantize.
    #[error("no layer to quantize: {detail}")]
    NothingToQuantize {
        /// Reason.
        detail: String,
    },
    /// A plan for another model.
    #[error("the plan quantizes layer {layer:?}, which the model does not have; make a plan for this model")]
    UnknownLayer {
        /// Name of the layer.
        layer: String,
    },
    /// Settings that need the inputs of every layer to have been observed.
    #[error(
        "layer {layer}: no input was observed; static activations, GPTQ and the weighted-mse observer need \
         calibration inputs that reach every layer (or skip this layer, or use dynamic activations, round to nearest \
         and min-max)"
    )]
    NotCalibrated {
        /// Name of the layer.
        layer: String,
    },
    /// An input that is not finite during calibration.
    #[error(
        "layer {layer}: its input is not finite during calibration ({value}): the calibration inputs are not, or the float \
         model overflowed before this layer, because its weights are too large or damaged (a training that diverged?)"
    )]
    Overflow {
        /// Name of the layer.
        layer: String,
        /// NaN or an infinity.
        value: f32,
    },
    /// A calibration window without tokens.
    #[error("the calibration window is 0 tokens; use at least 1, such as 256")]
    EmptyWindow,
    /// A checkpoint could not be read or written.
    #[cfg(feature = "checkpoint")]
    #[error(transparent)]
    Checkpoint(#[from] slm_checkpoint::Error),
    /// The finished layers of an interrupted run, where a new run would keep its own.
    #[cfg(feature = "checkpoint")]
    #[error("{}: {count} layers of an interrupted run are kept there; resume that run, or start over", dir.display())]
    UnfinishedRun {
        /// Their directory.
        dir: std::path::PathBuf,
        /// Number of layers.
        count: usize,
    },
    /// An interrupted run that cannot be resumed, or that does not exist.
    #[cfg(feature = "checkpoint")]
    #[error("cannot resume from {}: {reason}; start a new run instead", dir.display())]
    NotResumable {
        /// The directory of its finished layers.
        dir: std::path::PathBuf,
        /// Reason.
        reason: String,
    },
    /// A directory with other content than the finished layers of a run.
    #[cfg(feature = "checkpoint")]
    #[error(
        "{}: not the kept layers of an interrupted run: {} does not belong there; choose another output, or remove it",
        dir.display(), path.display()
    )]
    NotKeptLayers {
        /// The directory.
        dir: std::path::PathBuf,
        /// The file that does not belong there, or the directory itself.
        path: std::path::PathBuf,
    },
    /// The model rejected its configuration or the calibration tokens.
    #[cfg(feature = "checkpoint")]
    #[error(transparent)]
    Model(#[from] slm_model::Error),
    /// Two models do not have the same linear layers.
    #[error("the models differ: layer {layer:?} is {detail}; compare models with the same layers")]
    DifferentModels {
        /// Name of the layer.
        layer: String,
        /// Place where it was missing, or the difference.
        detail: String,
    },
}

impl Error {
    pub(crate) fn layer(layer: &str, source: impl Into<slm_nn::Error>) -> Self {
        Self::Layer { layer: layer.to_owned(), source: source.into() }
    }

    /// The error of observing the input of a layer.
    pub(crate) fn input(layer: &str, source: slm_nn::Error) -> Self {
        match source {
            slm_nn::Error::Core(slm_quant_core::Error::NotFinite { value, .. }) => {
                Self::Overflow { layer: layer.to_owned(), value }
            }
            source => Self::layer(layer, source),
        }
    }
}
