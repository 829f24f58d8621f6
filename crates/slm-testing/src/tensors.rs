//! Helpers for tensors.

use burn::tensor::{Device, Tensor, TensorData};

/// `count` pseudo-random values between -1 and 1 that depend on `seed`.
pub fn ramp(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
}

/// A tensor of these values.
pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The values of a tensor of 32-bit floats, in row-major order.
///
/// # Panics
/// If the tensor has another type.
pub fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}
