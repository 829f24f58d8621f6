//! Quantization of any [Burn](burn) module: 8-bit and 4-bit weights, exact integer arithmetic on the CPU,
//! quantization-aware training, and saved modules.
//!
//! Quantization covers the linear layers of a module that are [`nn::Linear`]s. The module must derive [`NamedLinears`]:
//!
//! ```
//! use burn::prelude::*;
//! use slm::prelude::*;
//!
//! #[derive(Module, Debug, NamedLinears)]
//! struct Mlp {
//!     up: Linear,
//!     norm: burn::nn::LayerNorm,
//!     down: Linear,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::flex();
//! let mlp = Mlp {
//!     up: burn::nn::LinearConfig::new(16, 64).init(&device).into(),
//!     norm: burn::nn::LayerNormConfig::new(64).init(&device),
//!     down: burn::nn::LinearConfig::new(64, 4).init(&device).into(),
//! };
//! let (quantized, report) = Quantizer::int8().skip("down").convert(mlp)?;
//! println!("{report}");
//!
//! let root = tempfile::tempdir()?;
//! let dir = slm::save(&quantized, root.path().join("mlp-int8"))?;
//! let mut other = quantized.clone();
//! slm::load(&mut other, dir)?;
//! # Ok(())
//! # }
//! ```
//!
//! | task | item |
//! |---|---|
//! | quantize a trained module | [`Quantizer`] |
//! | train a module for quantization | [`Qat`] |
//! | train a quantized module | [`FineTune`] |
//! | save and load | [`save`], [`load`], [`Report::save`] |
//! | convert Burn's linear layers | [`From<burn::nn::Linear>`](nn::Linear#impl-From<Linear>-for-Linear) |
//! | quantize matrices without Burn | [`quant`] |
//!
//! # Examples
//!
//! Each example is a program under `examples/`; the tests run all of them.
//!
//! ## A multilayer perceptron after training
#![doc = "```ignore"]
#![doc = include_str!("../examples/mlp.rs")]
#![doc = "```"]
//! ## A convolutional network with nested and optional parts: quantize, report, save, load
#![doc = "```ignore"]
#![doc = include_str!("../examples/vision.rs")]
#![doc = "```"]
//! ## Quantization-aware training in a loop of one's own
#![doc = "```ignore"]
#![doc = include_str!("../examples/qat.rs")]
#![doc = "```"]
//! ## Training of a quantized module
#![doc = "```ignore"]
#![doc = include_str!("../examples/finetune.rs")]
#![doc = "```"]
//! ## Text from a language model that `slm ptq` wrote
#![doc = "```ignore"]
#![doc = include_str!("../examples/generate.rs")]
#![doc = "```"]
//! ## A language model from checkpoint to text: load, quantize, evaluate, generate
#![doc = "```ignore"]
#![doc = include_str!("../examples/language_model.rs")]
#![doc = "```"]
//! ## Numbers without Burn
#![doc = "```ignore"]
#![doc = include_str!("../examples/numbers.rs")]
#![doc = "```"]
#![forbid(unsafe_code)]

// Derived code in this crate's own tests refers to it as `slm`.
extern crate self as slm;

mod check;
mod error;
mod files;
mod finetune;
mod qat;
mod quantizer;
mod report;

pub use error::{Error, Result};
pub use files::{load, load_with, save, save_with};
pub use finetune::{FineTune, FineTuning};
pub use qat::{PreparedQat, Qat};
pub use quantizer::Quantizer;
pub use report::Report;
pub use slm_derive::FacadeNamedLinears as NamedLinears;
pub use slm_nn::__private::NamedLinears;
pub use slm_store::{LoadOptions, LoadReport, QuantizationMetadata, SaveOptions};

#[cfg(feature = "transformer")]
pub use slm_checkpoint as checkpoint;
#[cfg(feature = "transformer")]
pub use slm_model as model;
pub use slm_nn as nn;
pub use slm_ptq as ptq;
pub use slm_qat as training;
pub use slm_quant_core as quant;
pub use slm_store as store;

/// Names that most programs need.
pub mod prelude {
    pub use crate::{FineTune, NamedLinears, Qat, Quantizer, Report};
    pub use slm_nn::{Linear, LinearConfig};
}
