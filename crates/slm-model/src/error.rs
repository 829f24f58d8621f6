//! The one error type of this crate.

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error of a [`TensorSource`](crate::TensorSource) that cannot provide a tensor.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Error from building or running a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of [`ModelConfig`](crate::ModelConfig) has a value no model can have.
    #[error("model config: `{field}` is {found}: {remedy}")]
    Config {
        /// Dotted name of the field.
        field: String,
        /// The value found.
        found: String,
        /// Accepted values, or another remedy.
        remedy: String,
    },
    /// A field of a Hugging Face config with an invalid value.
    #[error("field {field:?}: expected {expected}, found {found}")]
    HfField {
        /// Dotted name of the field.
        field: String,
        /// Accepted values.
        expected: String,
        /// Value found.
        found: String,
    },
    /// An option of a Hugging Face config that is not supported.
    #[error("field {field:?} is {found}, which is not supported; supported: {supported}")]
    HfUnsupported {
        /// Dotted name of the field.
        field: String,
        /// Its value.
        found: String,
        /// Supported values.
        supported: String,
    },
    /// An architecture of Hugging Face that is not supported.
    #[error("architecture {found} is not supported; supported: {supported}")]
    HfArchitecture {
        /// Architecture that the config names.
        found: String,
        /// Architectures that can be imported.
        supported: String,
    },
    /// A quantized table that cannot serve as the embedding.
    #[error("the quantized table of the embedding cannot be used: {detail}")]
    TokenTable {
        /// Description of the problem.
        detail: String,
    },
    /// A token id that the embedding has no row for.
    #[error(
        "token id {id} at position {index} is outside the vocabulary of {vocab_size} (0 to {}): \
         encode the text with this model's own tokenizer", vocab_size.saturating_sub(1)
    )]
    TokenId {
        /// Index into the ids that were passed.
        index: usize,
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// More positions than the model was made for.
    #[error(
        "{needed} positions are needed but the model has max_position_embeddings {max}: \
         shorten the text, the window or the number of new tokens"
    )]
    TooManyPositions {
        /// Positions needed.
        needed: usize,
        /// Positions of the model.
        max: usize,
    },
    /// More positions than a cache has room for.
    #[error("{needed} positions are needed but the cache was made for {capacity}: make it larger")]
    CacheFull {
        /// Positions needed.
        needed: usize,
        /// Positions of the cache.
        capacity: usize,
    },
    /// A cached sequence that grows past the length beyond which all of its positions are rotated by other angles.
    #[error(
        "sequences of more than {limit} positions are rotated by other angles (longrope), and the cached positions \
         were not: truncate the cache to 0 positions and run the whole sequence"
    )]
    RotaryChange {
        /// Maximum number of positions of the shorter sequences.
        limit: usize,
    },
    /// A [`CpuEngine`](crate::CpuEngine) for a model whose weights it cannot reach.
    #[error(
        "the model's weights are not in host memory, or track gradients: move it to a CPU device without \
         autodiff, or use `Transformer::forward_cached`"
    )]
    NotInHostMemory,
    /// A generation without a prompt.
    #[error("the prompt has no tokens: at least one is needed to predict the next (a BOS token will do)")]
    EmptyPrompt,
    /// A tensor that the model needs and the source does not have.
    #[error("tensor `{name}` of shape {expected:?} is missing: the weights do not belong to this config")]
    MissingTensor {
        /// Canonical name.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor of the wrong shape.
    #[error(
        "tensor `{name}`: expected shape {expected:?}, found {found:?}: the weights do not belong to this config"
    )]
    TensorShape {
        /// Canonical name.
        name: String,
        /// The shape that follows from the config.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },
    /// The source failed to read a tensor.
    #[error("tensor `{name}`: {source}")]
    Source {
        /// Canonical name, or the path of the linear layer.
        name: String,
        /// The source's own error.
        source: SourceError,
    },
    /// A key or value outside the range of the type of the KV cache.
    #[error(
        "a key or value of layer {layer} is {value}, which a KV cache of 16-bit floats cannot hold: use one of f32"
    )]
    KvOverflow {
        /// Index of the layer.
        layer: usize,
        /// The value.
        value: f32,
    },
    /// A logit or loss that is not a number, or infinite.
    #[error(
        "{what} at {at} is {value}: the weights hold values that are not finite, or the model overflowed"
    )]
    NotFinite {
        /// Name of the computed value, such as `"logit"`.
        what: &'static str,
        /// Place, in words.
        at: String,
        /// The value.
        value: f64,
    },
    /// A sampling option out of its range.
    #[error("sampling option `{field}` is {found}: {remedy}")]
    Sampling {
        /// Name of the option.
        field: &'static str,
        /// The value found.
        found: String,
        /// Accepted values, or another remedy.
        remedy: &'static str,
    },
    /// A text or window with nothing to predict.
    #[error("{what} has {found} token(s), at least 2 are needed (the first is only read, never predicted)")]
    TooFewTokens {
        /// Name of the input that is too short: the text or the window.
        what: &'static str,
        /// Tokens found.
        found: usize,
    },
    /// Windows that begin too far apart, or all at the same token.
    #[error("a stride of {stride} does not fit windows of {window} tokens: use 1 to {window}")]
    Stride {
        /// Tokens from one window to the next.
        stride: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// A tensor could not be read back from its device.
    #[error("{what}: cannot read the values back from the device: {detail}")]
    Device {
        /// Name of the tensor that was read.
        what: String,
        /// The backend's message.
        detail: String,
    },
}

impl Error {
    /// Converts errors of reading or creating the tensor `what` of a layer to [`Error::Device`].
    pub(crate) fn device(what: &str) -> impl Fn(slm_nn::Error) -> Self {
        move |error| Self::Device { what: what.to_owned(), detail: error.to_string() }
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}
