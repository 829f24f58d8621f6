//! The one error type of this crate.

use std::path::PathBuf;

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
    /// A directory that is there already.
    #[error(
        "{}: exists already; choose another directory, or replace it by `slm::save_with` with \
         `SaveOptions {{ overwrite: true, .. }}`",
        path.display()
    )]
    Exists {
        /// The directory.
        path: PathBuf,
    },
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
    /// Two linears of one name, of which calibration and files could not tell which is meant.
    #[error(
        "two layers are called {layer:?}; give each a name of its own, such as by `#[linears(rename = \"...\")]`"
    )]
    SameName {
        /// The name.
        layer: String,
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
    /// A setting that calibration had to know of, made after it.
    #[error(
        "`{setting}` was called after `calibrate`, which has observed inputs without it; call `calibrate` last"
    )]
    LateSetting {
        /// The method of [`Quantizer`](crate::Quantizer).
        setting: &'static str,
    },
    /// A report that is saved with another module than it is of.
    #[error(
        "layer {layer} of the module is not quantized as the report says; save the module that came with the report"
    )]
    OtherReport {
        /// Name of the layer.
        layer: String,
    },
    /// Training on a device that keeps no gradients.
    #[error("the device keeps no gradients; use `device.autodiff()`")]
    NoGradients,
    /// Training of a quantized module that holds no quantized layer.
    #[error(
        "no layer is quantized, or all are in training already; convert the module by a `Quantizer` before"
    )]
    NotQuantized,
    /// Updates of a module that was not prepared for them.
    #[error(
        "no layer of the module is in quantized training; use the module that `FineTune::prepare` returned"
    )]
    NotInTraining,
    /// A step of an optimizer that did not reach the codes.
    #[error(
        "layer {layer}: the optimizer's last step was not applied; call `FineTuning::apply` after each step"
    )]
    NotApplied {
        /// Name of the layer.
        layer: String,
    },
    /// A schedule that nothing has followed.
    #[error(
        "the schedule was not followed; call `PreparedQat::set_step` before each step, or leave out `schedule`"
    )]
    ScheduleNotFollowed,
    /// A layer could not compute in a forward or backward pass.
    #[error(transparent)]
    Pass(#[from] slm_nn::LayerError),
}

impl Error {
    pub(crate) fn layer(layer: &str, source: slm_nn::Error) -> Self {
        Self::Layer { layer: layer.to_owned(), source }
    }
}
