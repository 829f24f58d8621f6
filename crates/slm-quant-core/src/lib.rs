//! Quantization numerics, without a tensor framework and with hardly any dependencies.
//!
//! The vocabulary is the field's: a *scheme* says how a matrix is quantized (bits, granularity, mapping),
//! an *observer* watches values and chooses a range, *qparams* (scale and zero point) turn a range into a
//! grid, and `quantize` / `dequantize` / `fake_quantize` move values on and off that grid.
//!
//! Rounding is half to even everywhere, and a zero point is added after rounding, as in PyTorch.

//!
//! Matrix products on what is quantized here are in `slm-kernels`. Loops over many rows run on the current rayon pool.

#![forbid(unsafe_code)]

mod code;
#[doc(hidden)]
pub mod dispatch;
mod drift;
mod error;
mod fake_quant;
mod gptq;
mod hessian;
mod hint;
mod histogram;
mod int_matmul;
mod matrix;
mod observer;
mod pack;
mod qparams;
mod quantize;
mod quantized;
mod round;
mod scan;
mod scheme;
mod stats;

pub use code::Code;
pub use drift::InputDrift;
pub use error::{Error, Result};
pub use fake_quant::{
    LearnableGradients, fake_quantize, fake_quantize_backward, fake_quantize_backward_into,
    fake_quantize_into, fake_quantize_learnable_backward, fake_quantize_learnable_backward_into,
    fake_quantize_mask, learned_zero_point,
};
pub use gptq::{
    GptqFactor, GptqOptions, RefineOptions, RefitOptions, choose_gptq_qparams, quantize_matrix_gptq,
    refine_matrix, refit_matrix_gptq,
};
pub use hessian::Hessian;
pub use histogram::{Histogram, HistogramView};
pub use int_matmul::{int_matmul, int_matmul_grouped, max_safe_products};
pub use matrix::{
    choose_matrix_qparams, choose_weighted_qparams, quantize_matrix, quantize_matrix_with,
    quantize_matrix_with_qparams,
};
pub use observer::{
    HistogramObserver, HistogramSearch, MinMaxObserver, MovingAverageMinMaxObserver, MseObserver, Observer,
    ObserverKind, PerChannelMinMaxObserver, PercentileObserver, histogram_search,
};
pub use pack::{pack_int4, unpack_int4};
pub use qparams::{
    DYNAMIC_SCALE_FLOOR, TORCH_EPS, TORCHAO_EPS, choose_qparams, choose_qparams_dynamic,
    choose_qparams_stored,
};
pub use quantize::{dequantize, dequantize_into, quantize, quantize_into};
pub use quantized::{QuantizedMatrix, Scales};
pub use round::Quantizer;
pub use scan::{check_finite, check_len, min_max};
pub use scheme::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, Mapping, QParams, QuantRange, QuantScheme,
    QuantizationType, ScaleDtype,
};
pub use stats::ErrorStats;
