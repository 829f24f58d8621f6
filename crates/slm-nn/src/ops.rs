//! The backend operation of a packed linear layer: integer kernels on host memory.
// burn 0.22 deprecates NdArray in favour of Flex; slm offers both while both exist.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

use std::sync::Arc;

#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use slm_autograd::HostBackend;
use slm_kernels::{PackedMatrix, linear};
use slm_quant_core::{ActivationQuant, Error};
use slm_runtime::zeros;

use crate::errors::{Place, Reporter};

/// A linear on packed weights, for backends whose tensors live in host memory.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex)]
pub(crate) trait PackedLinearOps: Backend {
    /// `y[m, n] = sum_k x[m, k] * w[n, k]`, by the kernel that `weight` is packed for.
    fn packed_linear(
        x: FloatTensor<Self>,
        weight: Arc<PackedMatrix>,
        activation: ActivationQuant,
        errors: Reporter,
    ) -> FloatTensor<Self>;
}

/// Runs the operation on a `[rows, in_features]` input of a host device.
pub(crate) fn packed_linear(
    x: Tensor<2>,
    weight: Arc<PackedMatrix>,
    activation: ActivationQuant,
    errors: Reporter,
) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::packed_linear(x.into_dispatch(), weight, activation, errors))
}

macro_rules! packed_linear_of_host {
    ($backend:ty) => {
        impl PackedLinearOps for $backend {
            fn packed_linear(
                x: FloatTensor<Self>,
                weight: Arc<PackedMatrix>,
                activation: ActivationQuant,
                errors: Reporter,
            ) -> FloatTensor<Self> {
                compute::<Self>(&x, &weight, &activation, &errors)
            }
        }
    };
}

packed_linear_of_host!(Flex);
#[cfg(feature = "ndarray")]
packed_linear_of_host!(NdArray);

/// Calls the kernel. As in float arithmetic, an input that is not finite gives an output that is not finite: the whole
/// output, because the range of such an input has no scale. The module checks shapes, so any other error is a bug.
fn compute<B: HostBackend>(
    x: &FloatTensor<B>,
    weight: &PackedMatrix,
    activation: &ActivationQuant,
    errors: &Reporter,
) -> FloatTensor<B> {
    let (rows, outputs) = (x.shape()[0], weight.rows());
    let mut out = zeros(rows * outputs);
    match B::with_values(x, |x| linear(x, rows, weight, activation, None, &mut out)) {
        Ok(()) => {}
        Err(error @ Error::NotFinite { .. }) => {
            errors.report(Place::Input, error);
            out.fill(f32::NAN);
        }
        Err(error) => panic!("packed linear: {error}"),
    }
    B::from_values(out, &[rows, outputs])
}
