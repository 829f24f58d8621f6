//! The one error type of this crate.

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error from preparing or converting a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that cannot work.
    #[error("{option} {detail}; {remedy}")]
    Option {
        /// The option.
        option: &'static str,
        /// Description of the problem.
        detail: String,
        /// Accepted values, or another remedy.
        remedy: &'static str,
    },
    /// An error of the plan: skip patterns, group sizes, nothing to quantize.
    #[error(transparent)]
    Plan(#[from] slm_ptq::Error),
    /// A layer that cannot be prepared, converted or restored.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Name of the layer.
        layer: String,
        /// The error of the layer.
        source: slm_nn::Error,
    },
    /// A layer could not compute in a forward or backward pass.
    #[error(transparent)]
    Pass(#[from] slm_nn::LayerError),
    /// A layer whose input was never observed.
    #[error(
        "layer {layer}: no input was observed, so its activations have no range; train for at least one step"
    )]
    NotObserved {
        /// Name of the layer.
        layer: String,
    },
    /// A layer that cannot be trained, because its device keeps no gradients.
    #[error(
        "layer {layer}: its device keeps no gradients, so it cannot be trained; make the model on \
         `device.autodiff()`, or call `train()` on it"
    )]
    NoGradients {
        /// Name of the layer.
        layer: String,
    },
    /// There is no quantized layer to start with.
    #[error("no layer is quantized; quantize the model first, or use `prepare`")]
    NothingQuantized,
    /// There is no fake-quantized layer to convert.
    #[error("no layer is prepared for quantization-aware training; call `prepare` before training")]
    NotPrepared,
}

impl Error {
    pub(crate) fn layer(layer: &str, source: impl Into<slm_nn::Error>) -> Self {
        Self::Layer { layer: layer.to_owned(), source: source.into() }
    }
}
