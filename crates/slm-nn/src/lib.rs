//! The layer between quantization numerics and models.
//!
//! [`Linear`] is one Burn module that is float, fake-quantized or packed-integer, on every device. A module
//! that names its linears through [`NamedLinears`] can be calibrated, converted and inspected by slm, whatever else it
//! contains. [`ForwardHook`]s see the input and output of every named layer and cost nothing while none is attached.
#![forbid(unsafe_code)]

mod activation;
mod burn_linear;
mod cpu;
mod device;
mod diagnose;
mod error;
mod errors;
mod fake_quant;
mod halves;
mod hook;
mod linear;
mod named;
mod ops;
mod packed;
mod qat_stage;
mod quantized_training;
mod roles;

pub use activation::{FakeQuantizedInput, fake_quantize_activation};
pub use cpu::{CpuLinear, CpuOutput, CpuScratch, apply_linears};
pub use device::{on_cpu, to_vec_f32};
pub use diagnose::{first_layer_not_finite, is_finite};
pub use error::{Error, Result};
pub use errors::{ErrorSlot, LayerError, Place, report_errors};
pub use fake_quant::{FakeQuantizedWeight, LayerState, fake_quantize};
pub use halves::{narrowed, widened};
pub use hook::{ForwardHook, attach_hook, detach_hooks};
pub use linear::{Linear, LinearConfig, Weight};
pub use named::{
    ModulePlace, NamedLinears, linear_names, try_for_each_linear, try_for_each_linear_mut, unnamed_linears,
};
pub use packed::{PackedWeight, WeightExecution};
pub use qat_stage::{QatStage, SharedQatStage};
pub use quantized_training::{QuantizedTrainableWeight, Rounding};
pub use roles::{ParameterRole, parameter_roles};
pub use slm_autograd::{cpu_devices, ndarray_device};
pub use slm_derive::NamedLinears;

/// Building blocks of derived code, and the trait without its derive macro. Not part of the public interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::named::NamedLinears;
    pub use crate::named::derived::{
        Probe, ProbeMut, VisitLinears, VisitLinearsMut, VisitNothing, VisitNothingMut, visit_field,
        visit_field_mut,
    };
}
