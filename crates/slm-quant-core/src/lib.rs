//! Quantization numerics, usable alone: no tensor framework, next to no dependencies.
//!
//! The vocabulary is the field's: a *scheme* says how a matrix is quantized (bits, granularity, mapping),
//! an *observer* watches values and chooses a range, *qparams* (scale and zero point) turn a range into a
//! grid, and `quantize` / `dequantize` / `fake_quantize` move values on and off that grid.
//!
//! Rounding is half to even everywhere, and a zero point is added after rounding, as in PyTorch.

mod error;
mod kernels;
mod linear;
mod quantized;
mod scheme;

pub use error::{Error, Result};
pub use kernels::{ActivationQuant, KernelKind, QuantizedActivations, quantize_activations};
pub use linear::{PackedMatrix, accumulate, linear, linear_quantized};
pub use quantized::{QuantizedMatrix, Scales};
pub use scheme::{
    ActivationGranularity, Bits, Granularity, Mapping, QParams, QuantRange, QuantScheme, ScaleDtype,
};
