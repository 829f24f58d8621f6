//! Tensors of the CPU backends as slices.
// burn 0.22 deprecates NdArray in favour of Flex; slm offers both while both exist.
#![allow(deprecated)]

use burn::backend::flex::FlexTensor;
use burn::backend::ndarray::NdArrayTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, NdArray};
use burn::tensor::TensorData;

/// A backend whose 32-bit float tensors lie in host memory.
pub(crate) trait HostBackend: Backend {
    /// Calls `read` with the values in row-major order, which are copied only if they lie in another one.
    fn with_values<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R;

    /// A tensor of these values.
    fn from_values<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FloatTensor<Self>;
}

impl HostBackend for Flex {
    fn with_values<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R {
        if tensor.is_contiguous() {
            read(tensor.as_slice::<f32>().unwrap_or(&[]))
        } else {
            read(tensor.to_contiguous().as_slice::<f32>().unwrap_or(&[]))
        }
    }

    fn from_values<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FloatTensor<Self> {
        FlexTensor::from_data(TensorData::new(values, shape))
    }
}

impl HostBackend for NdArray {
    fn with_values<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R {
        let NdArrayTensor::F32(storage) = tensor.clone() else { panic!("tensors must be f32") };
        let array = storage.into_shared();
        let array = array.as_standard_layout();
        read(array.as_slice().unwrap_or(&[]))
    }

    fn from_values<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FloatTensor<Self> {
        NdArrayTensor::from_data(TensorData::new(values, shape))
    }
}
