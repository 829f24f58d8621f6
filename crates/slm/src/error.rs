//! The one error type of this crate.

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error from quantizing, training, saving or loading a module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A plan, a layer or a calibration.
    #[error(transparent)]
    Ptq(#[from] slm_ptq::Error),
    /// Preparing a module for training, or converting it.
    #[error(transparent)]
    Qat(#[from] slm_qat::Error),
    /// Saving or loading.
    #[error(transparent)]
    Store(#[from] slm_store::Error),
    /// A layer that cannot be trained or converted.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Name of the layer.
        layer: String,
        /// The error of the layer.
        source: slm_nn::Error,
    },
    /// A linear of the module that it does not name, and that would silently stay as it is.
    #[error(
        "{path}: NamedLinears does not name this Linear; derive NamedLinears for the type that holds it (a tuple of \
         layers and other modules must become a struct)"
    )]
    Unnamed {
        /// Path of the layer, as Burn gives it.
        path: String,
    },
    /// Settings that need calibration, without it.
    #[error(
        "static activations, GPTQ and the weighted-mse observer need typical inputs; call `calibrate` before `convert` \
         (`dynamic_activations()` computes ranges from each input instead)"
    )]
    NotCalibrated,
    /// A layer that calibration saw in another module.
    #[error(
        "layer {layer}: calibration saw inputs of {found} features, and the layer takes {expected}; calibrate the module \
         that is converted"
    )]
    OtherCalibration {
        /// Name of the layer.
        layer: String,
        /// Input features of the layer.
        expected: usize,
        /// Features of the inputs that were observed.
        found: usize,
    },
    /// Training on a device that keeps no gradients.
    #[error("the device keeps no gradients; use `device.autodiff()`")]
    NoGradients,
    /// Training of a quantized module that holds no quantized layer.
    #[error("no layer is quantized; convert the module by a `Quantizer` before")]
    NotQuantized,
}

impl Error {
    pub(crate) fn layer(layer: &str, source: slm_nn::Error) -> Self {
        Self::Layer { layer: layer.to_owned(), source }
    }
}
