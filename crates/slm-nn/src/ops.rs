//! The backend operation behind a packed linear: integer kernels on host memory.
// burn 0.22 deprecates NdArray in favour of Flex; slm offers both while both exist.
#![allow(deprecated)]

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::backend::ndarray::NdArrayTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, NdArray, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData};
use slm_kernels::{PackedMatrix, linear};
use slm_quant_core::{ActivationQuant, Error};

/// A linear on packed weights, for backends whose tensors live in host memory.
#[backend_extension(NdArray, Flex)]
pub(crate) trait PackedLinearOps: Backend {
    /// `y[m, n] = sum_k x[m, k] * w[n, k]`, by the kernel that `weight` is packed for.
    fn packed_linear(
        x: FloatTensor<Self>,
        weight: Arc<PackedMatrix>,
        activation: ActivationQuant,
    ) -> FloatTensor<Self>;
}

/// Runs the operation on a `[rows, in_features]` input of a host device.
pub(crate) fn packed_linear(
    x: Tensor<2>,
    weight: Arc<PackedMatrix>,
    activation: ActivationQuant,
) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::packed_linear(x.into_dispatch(), weight, activation))
}

impl PackedLinearOps for Flex {
    fn packed_linear(
        x: FloatTensor<Self>,
        weight: Arc<PackedMatrix>,
        activation: ActivationQuant,
    ) -> FloatTensor<Self> {
        let rows = x.shape()[0];
        // Copies only if the elements do not lie in row-major order.
        let x = if x.is_contiguous() { x } else { x.to_contiguous() };
        FlexTensor::from_data(compute(rows, x.as_slice::<f32>().unwrap_or(&[]), &weight, &activation))
    }
}

impl PackedLinearOps for NdArray {
    fn packed_linear(
        x: FloatTensor<Self>,
        weight: Arc<PackedMatrix>,
        activation: ActivationQuant,
    ) -> FloatTensor<Self> {
        let rows = x.shape()[0];
        let NdArrayTensor::F32(storage) = x else { panic!("packed linear: activations must be f32") };
        let array = storage.into_shared();
        let array = array.as_standard_layout();
        let x = array.as_slice().unwrap_or(&[]);
        NdArrayTensor::from_data(compute(rows, x, &weight, &activation))
    }
}

/// The kernel call. As in float arithmetic, an input that is not finite gives an output that is not: all of
/// it, since its range has no scale. Shapes are the module's to check, so another error is a bug here.
fn compute(rows: usize, x: &[f32], weight: &PackedMatrix, activation: &ActivationQuant) -> TensorData {
    let mut out = vec![0.0; rows * weight.rows()];
    match linear(x, rows, weight, activation, None, &mut out) {
        Ok(()) => {}
        Err(Error::NotFinite { .. }) => out.fill(f32::NAN),
        Err(error) => panic!("packed linear: {error}"),
    }
    TensorData::new(out, [rows, weight.rows()])
}
