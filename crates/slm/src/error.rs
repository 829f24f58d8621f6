//! The error type of this crate.

use std::path::PathBuf;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error from quantizing, training, saving or loading a module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error in a plan, a layer or a calibration.
    #[error(transparent)]
    Ptq(#[from] slm_ptq::Error),
    /// An error in preparing a module for training or in converting it.
    #[error(transparent)]
    Qat(#[from] slm_qat::Error),
    /// An error in saving or loading.
    #[error(transparent)]
    Store(#[from] slm_store::Error),
    /// A directory that already exists.
    #[error(
        "{}: already exists; choose another directory, or replace it by `slm::save_with` with \
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
    /// A linear that the module does not name and that would silently stay float.
    #[error(
        "{path}: NamedLinears does not name this Linear; derive NamedLinears for the type that holds it (a tuple of \
         layers and other modules must become a struct)"
    )]
    Unnamed {
        /// Path of the layer in Burn's notation.
        path: String,
    },
    /// Two linears with the same name, which calibration and files could not tell apart.
    #[error(
        "two layers are called {layer:?}; give each a name of its own, such as by `#[linears(rename = \"...\")]`"
    )]
    SameName {
        /// The shared name.
        layer: String,
    },
    /// Settings that need calibration, used without it.
    #[error(
        "static activations, GPTQ and the weighted-mse observer need typical inputs; call `calibrate` before `convert` \
         (`dynamic_activations()` computes ranges from each input instead)"
    )]
    NotCalibrated,
    /// A layer whose calibration comes from a different module.
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
    /// A setting that calibration depends on, made after calibration.
    #[error(
        "`{setting}` was called after `calibrate`, which has observed inputs without it; call `calibrate` last"
    )]
    LateSetting {
        /// The method of [`Quantizer`](crate::Quantizer).
        setting: &'static str,
    },
    /// A report that is saved with a module that it does not describe.
    #[error(
        "layer {layer} of the module is not quantized as the report says; save the module that came with the report"
    )]
    OtherReport {
        /// Name of the layer.
        layer: String,
    },
    /// Training on a device without gradients.
    #[error("the device keeps no gradients; use `device.autodiff()`")]
    NoGradients,
    /// Training of a quantized module that holds no quantized layer.
    #[error(
        "no layer is quantized, or all are in training already; convert the module with a `Quantizer` first"
    )]
    NotQuantized,
    /// Updates of a module that was not prepared for training.
    #[error(
        "no layer of the module is in quantized training; use the module that `FineTune::prepare` returned"
    )]
    NotInTraining,
    /// An optimizer step that was not applied to the codes.
    #[error(
        "layer {layer}: the optimizer's last step was not applied; call `FineTuning::apply` after each step"
    )]
    NotApplied {
        /// Name of the layer.
        layer: String,
    },
    /// A schedule that was set but not followed.
    #[error(
        "the schedule was not followed; call `PreparedQat::set_step` before each step, or leave out `schedule`"
    )]
    ScheduleNotFollowed,
    /// An error of a layer in a forward or backward pass.
    #[error(transparent)]
    Pass(#[from] slm_nn::LayerError),
}

impl Error {
    pub(crate) fn layer(layer: &str, source: slm_nn::Error) -> Self {
        Self::Layer { layer: layer.to_owned(), source }
    }
}
