//! Helpers for the tests of several operations.
#![allow(dead_code)] // Each test file uses a part.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use half::bf16;

/// The CPU devices, with gradients.
pub(crate) fn devices() -> Vec<Device> {
    slm_autograd::cpu_devices().into_iter().map(Device::autodiff).collect()
}

/// Pseudo-random values between -2 and 2.
pub(crate) fn wave<const D: usize>(shape: [usize; D], step: usize) -> TensorData {
    let len: usize = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|i| ((i * step + i / 97) % 89) as f32 / 22.25 - 2.0).collect();
    TensorData::new(values, shape)
}

pub(crate) fn leaf<const D: usize>(data: TensorData, device: &Device) -> Tensor<D> {
    Tensor::from_data(data, device).require_grad()
}

/// The tensor with every element changed by `change`, as a leaf.
pub(crate) fn changed<const D: usize>(tensor: &Tensor<D>, change: impl Fn(f32) -> f32) -> Tensor<D> {
    let values: Vec<f32> = values(tensor.clone().detach()).into_iter().map(change).collect();
    leaf(TensorData::new(values, tensor.dims()), &tensor.device())
}

/// The tensor with every element rounded to BF16, as a leaf.
pub(crate) fn rounded<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    changed(tensor, |value| bf16::from_f32(value).to_f32())
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// A scalar in which every element of `y` has a different weight.
pub(crate) fn probe<const D: usize>(y: Tensor<D>) -> Tensor<1> {
    let weights = Tensor::from_data(wave(y.dims(), 37), &y.device());
    (y * weights).sum()
}

pub(crate) fn gradient<const D: usize>(input: &Tensor<D>, gradients: &Gradients) -> Vec<f32> {
    values(input.grad(gradients).unwrap())
}

/// Checks that both sides agree to `tolerance` times the largest value.
pub(crate) fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1e-3f32, |max, e| max.max(e.abs()));
    for (index, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * size, "{what}, element {index}: {f}, expected {e}");
    }
}

/// Runs `f` on one thread and on three.
pub(crate) fn on_threads<R: Send>(f: impl Fn() -> R + Sync) -> [R; 2] {
    [1, 3].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&f))
}
