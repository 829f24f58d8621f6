//! Burn's NdArray, another backend in host memory.
// burn 0.22 deprecates NdArray in favour of Flex; slm offers both while both exist.
#![allow(deprecated)]

use burn::backend::NdArray;
use burn::backend::ndarray::NdArrayTensor;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Device, TensorData};

use crate::host::HostBackend;

/// A float tensor of the backend.
pub(crate) type Tensor = FloatTensor<NdArray>;

/// The device of the backend.
pub(crate) fn device() -> Device {
    Device::ndarray()
}

/// `tensor` in row-major order; `None` for one on another device, or with gradients to track.
pub(crate) fn contiguous<const D: usize>(tensor: burn::tensor::Tensor<D>) -> Option<Tensor> {
    tensor.try_into_primitive::<NdArray>().ok().map(NdArray::contiguous)
}

/// The values of a tensor returned by [`contiguous`].
pub(crate) fn values(tensor: &Tensor) -> &[f32] {
    NdArray::values(tensor)
}

impl HostBackend for NdArray {
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        let NdArrayTensor::F32(storage) = tensor else { panic!("tensors must be f32") };
        if storage.view().is_standard_layout() {
            return NdArrayTensor::F32(storage);
        }
        let array = storage.into_shared().as_standard_layout().into_owned().into_shared();
        NdArrayTensor::F32(array.into())
    }

    fn values(tensor: &FloatTensor<Self>) -> &[f32] {
        let NdArrayTensor::F32(storage) = tensor else { panic!("tensors must be f32") };
        match storage.view().to_slice() {
            Some(values) => values,
            None => panic!("tensors must be contiguous"),
        }
    }

    fn values_mut(tensor: &mut FloatTensor<Self>) -> Option<&mut [f32]> {
        let NdArrayTensor::F32(storage) = tensor else { panic!("tensors must be f32") };
        if !storage.is_unique() {
            return None;
        }
        storage.ensure_owned().as_slice_mut()
    }

    fn from_values(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self> {
        NdArrayTensor::from_data(TensorData::new(values, shape))
    }
}
