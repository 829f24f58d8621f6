//! The choice of the instruction set that an operation runs with: [`slm_quant_core::dispatch`].

pub(crate) use slm_quant_core::dispatch::vectorize;
pub(crate) use slm_quant_core::vectorized;
