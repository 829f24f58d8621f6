//! Post-training quantization of any module that names its linears.
//!
//! There are three explicit steps, and the result of each can be inspected before the next:
//!
//! 1. [`Plan::new`] decides which layers are quantized and says why the others are not;
//! 2. [`calibrate`] watches the inputs of those layers while the caller runs the model on text: needed for static
//!    activations and for [`RoundingMethod::Gptq`], and better for the ranges of weights in any case;
//! 3. [`convert`] replaces the layers in place, one after the other, by packed integers, and reports the parameters and
//!    the error of each.
//!
//! [`LayerComparison`] then shows, layer by layer, how the outputs of two models differ.
//!
//! ```
//! use burn::{module::Module, tensor::{Device, Tensor}};
//! use slm_ptq::{Plan, PtqConfig, convert};
//! use slm_quant_core::{Bits, QuantScheme, QuantizationType};
//! use slm_nn::{Linear, LinearConfig, NamedLinears};
//!
//! #[derive(Module, Debug)]
//! struct Net { head: Linear }
//!
//! impl NamedLinears for Net {
//!     fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) { visit("head", &self.head) }
//!     fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) { visit("head", &mut self.head) }
//! }
//!
//! let mut net = Net { head: LinearConfig::new(16, 8).init(0.5, &Device::flex()) };
//! let config = PtqConfig::new(QuantScheme::per_tensor(Bits::Int8), QuantizationType::Dynamic);
//! let plan = Plan::new(&net, &config)?;
//! let reports = convert(&mut net, &plan, &config, None, &mut |_| {})?;
//! assert!(reports[0].error.sqnr_db() > 35.0);
//! # Ok::<(), slm_ptq::Error>(())
//! ```
#![forbid(unsafe_code)]

mod activation_choice;
mod assignment;
mod calibrate;
mod compare;
mod config;
mod convert;
mod diagnose;
#[cfg(feature = "checkpoint")]
mod embedding;
mod error;
mod inputs;
mod layer_scheme;
mod metadata;
mod method;
#[cfg(feature = "checkpoint")]
mod pipeline;
mod plan;
mod quantization_config;
mod rounding;
mod row_error;
#[cfg(feature = "checkpoint")]
mod sequential;
#[cfg(feature = "checkpoint")]
mod transform;
#[cfg(feature = "checkpoint")]
mod transformer;
#[cfg(feature = "checkpoint")]
mod tune;

pub use activation_choice::{DynamicInputs, MAX_STATIC_ERROR};
pub use assignment::{Choice, assign};
pub use calibrate::{ActivationStats, Calibration, ObservedInputs, calibrate, calibrate_with};
pub use compare::{ChannelFactors, LayerComparison, LayerDifference};
pub use config::{PtqConfig, Rotate, Smooth};
pub use convert::{LayerReport, QuantizedLayer, convert, pack_layer, quantize_layer};
pub use diagnose::{ActivationQuants, InputError, input_errors, remove_activation_quant};
pub use error::{Error, Result};
pub use inputs::InputMoments;
pub use layer_scheme::{LayerRule, LayerScheme};
pub use metadata::layer_metadata;
pub use method::{RoundingMethod, TuneOptions};
#[cfg(feature = "checkpoint")]
pub use pipeline::{
    CalibrationTokens, CheckpointQuantizer, KeepLayers, Progress, QuantizedCheckpoint, Stage,
};
pub use plan::{Plan, PlannedEmbedding, PlannedLayer, SkippedLayer};
pub use quantization_config::{QuantizationConfig, QuantizationMode};
#[cfg(feature = "checkpoint")]
pub use transform::{TransformedSource, Transforms};
#[cfg(feature = "checkpoint")]
pub use transformer::{
    copies_tied_head, plan_transformer, planned_config, planned_tensors, sharing_config, transformer_layers,
    untie_planned_head,
};
