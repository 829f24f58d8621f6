//! Which instruction set an operation runs with: that of [`slm_quant_core::dispatch`].

pub(crate) use slm_quant_core::dispatch::vectorize;
pub(crate) use slm_quant_core::vectorized;
