//! Properties of devices that this crate depends on.

use burn::tensor::{Device, Tensor};

use crate::{Error, Result};

/// Returns `true` if tensors of `device` live in host memory, where the integer kernels of `slm-kernels` run.
pub fn on_cpu(device: &Device) -> bool {
    slm_autograd::is_supported(device)
}

/// Values of `tensor` in row-major order, read back to the host.
///
/// # Errors
/// [`Error::Data`] when the tensor does not hold 32-bit floats; `what` names the tensor in the message.
pub fn to_vec_f32<const D: usize>(what: &'static str, tensor: Tensor<D>) -> Result<Vec<f32>> {
    tensor
        .into_data()
        .try_into_vec::<f32>()
        .map_err(|error| Error::Data { what, detail: format!("{error:?}") })
}
