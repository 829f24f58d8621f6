//! Quantization-aware training of any module that names its linears.
//!
//! 1. [`prepare`] makes every planned layer behave like a quantized layer: weights, and activations if they are
//!    quantized, are rounded in the forward pass, and gradients pass straight through.
//! 2. The caller trains the module like any other, sets the stage of each step with [`Prepared::set_stage`], and checks
//!    for errors with [`Prepared::check`].
//! 3. [`convert`] replaces the layers by packed integers. The converted layer has exactly the codes that the last
//!    evaluation computed with.
//!
//! Training may also start with the codes of a quantized module: use [`unpack`] and [`prepare_quantized`] instead of
//! [`prepare`].
//!
//! Plans and reports are those of post-training quantization ([`slm_ptq`]).
//!
//! ```
//! use burn::{module::Module, tensor::{Device, Tensor}};
//! use slm_ptq::PtqConfig;
//! use slm_qat::{QatConfig, QatOptions, convert, prepare};
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
//! let device = Device::flex().autodiff();
//! let mut net = Net { head: LinearConfig::new(16, 8).init(0.5, &device) };
//! let config = QatConfig {
//!     quantization: PtqConfig::new(QuantScheme::per_tensor(Bits::Int4), QuantizationType::Static),
//!     options: QatOptions::default(),
//! };
//! let prepared = prepare(&mut net, &config, 10)?;
//! for step in 0..10 {
//!     prepared.set_stage(step);
//!     let x = Tensor::<2>::ones([4, 16], &device);
//!     let gradients = net.head.forward(x).sum().backward();
//!     prepared.check()?;
//!     // An optimizer would take the gradients from here.
//!     drop(gradients);
//! }
//! let mut trained = net.valid();
//! let reports = convert(&mut trained, &mut |_| {})?;
//! assert_eq!(reports.len(), 1);
//! assert!(trained.head.packed().is_some());
//! # Ok::<(), slm_qat::Error>(())
//! ```
#![forbid(unsafe_code)]

mod config;
mod convert;
mod error;
mod prepare;
mod quantized_start;
mod state;

pub use config::{QatConfig, QatOptions, ScaleMode, StageSchedule};
pub use convert::convert;
pub use error::{Error, Result};
pub use prepare::{Prepared, prepare, prepare_planned};
pub use quantized_start::{QuantizedStart, prepare_quantized, unpack};
pub use state::{layer_states, restore_layer_states};
