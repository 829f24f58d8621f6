//! Tensors of the CPU backends as slices.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata};
use burn::tensor::{DType, Tensor, TensorData};
use half::{bf16, f16};
use slm_kernels::FloatValues;

/// A 32-bit float tensor in host memory, read in place.
#[derive(Debug)]
pub struct HostTensor(Storage);

/// A tensor of 16-bit floats in host memory, read in place.
#[derive(Debug)]
pub struct HostHalves(FloatTensor<Flex>);

impl HostHalves {
    /// Shares the memory of `tensor`; values are copied only if they are not in row-major order. `None` for a tensor on a
    /// device other than Flex, with gradients to track, or of a type other than F16 and BF16.
    pub fn new<const D: usize>(tensor: Tensor<D>) -> Option<Self> {
        if !matches!(tensor.dtype(), DType::F16 | DType::BF16) {
            return None;
        }
        tensor.try_into_primitive::<Flex>().ok().map(|tensor| Self(Flex::contiguous(tensor)))
    }

    /// The values in row-major order.
    pub fn values(&self) -> FloatValues<'_> {
        match (self.0.as_slice::<f16>(), self.0.as_slice::<bf16>()) {
            (Some(values), _) => FloatValues::F16(values),
            (None, values) => FloatValues::BF16(values.unwrap_or_default()),
        }
    }
}

#[derive(Debug)]
enum Storage {
    Flex(FloatTensor<Flex>),
    #[cfg(feature = "ndarray")]
    NdArray(crate::ndarray::Tensor),
}

impl HostTensor {
    /// Shares the memory of `tensor`; values are copied only if they are not in row-major order. `None` for a tensor on
    /// another device, with gradients to track, or of a type other than 32-bit floats.
    pub fn new<const D: usize>(tensor: Tensor<D>) -> Option<Self> {
        if tensor.dtype() != DType::F32 {
            return None;
        }
        match tensor.clone().try_into_primitive::<Flex>() {
            Ok(tensor) => Some(Self(Storage::Flex(Flex::contiguous(tensor)))),
            #[cfg(feature = "ndarray")]
            Err(_) => crate::ndarray::contiguous(tensor).map(|tensor| Self(Storage::NdArray(tensor))),
            #[cfg(not(feature = "ndarray"))]
            Err(_) => None,
        }
    }

    /// The values in row-major order.
    pub fn values(&self) -> &[f32] {
        match &self.0 {
            Storage::Flex(tensor) => Flex::values(tensor),
            #[cfg(feature = "ndarray")]
            Storage::NdArray(tensor) => crate::ndarray::values(tensor),
        }
    }
}

/// A backend whose 32-bit float tensors lie in host memory.
pub trait HostBackend: Backend {
    /// The same values in row-major order; copied only if they are in another order.
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The values of a tensor returned by [`contiguous`](Self::contiguous).
    fn values(tensor: &FloatTensor<Self>) -> &[f32];

    /// The values, mutable; `None` if another tensor shares them or they are not contiguous.
    fn values_mut(tensor: &mut FloatTensor<Self>) -> Option<&mut [f32]>;

    /// A tensor of these values, which are not copied.
    fn from_values(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self>;

    /// Calls `read` with the values in row-major order; they are copied only if they are in another order.
    fn with_values<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R {
        read(Self::values(&Self::contiguous(tensor.clone())))
    }

    /// The same tensor, contiguous and in memory that nothing else shares.
    fn own(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        let mut tensor = Self::contiguous(tensor);
        if Self::values_mut(&mut tensor).is_some() {
            return tensor;
        }
        Self::from_values(Self::values(&tensor).to_vec(), &dims(&tensor))
    }

    /// The values of a tensor returned by [`own`](Self::own), mutable.
    fn owned_mut(tensor: &mut FloatTensor<Self>) -> &mut [f32] {
        match Self::values_mut(tensor) {
            Some(values) => values,
            None => unreachable!("a tensor with memory of its own can be written to"),
        }
    }
}

impl HostBackend for Flex {
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
    }

    fn values(tensor: &FloatTensor<Self>) -> &[f32] {
        match tensor.as_slice() {
            Some(values) => values,
            None => panic!("tensors must be contiguous f32, found {:?}", tensor.dtype()),
        }
    }

    fn values_mut(tensor: &mut FloatTensor<Self>) -> Option<&mut [f32]> {
        let (start, end) = tensor.layout().contiguous_offsets()?;
        Some(&mut tensor.try_storage_mut()?[start..end])
    }

    fn from_values(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self> {
        FlexTensor::from_data(TensorData::new(values, shape))
    }
}

/// Sizes of a tensor's dimensions.
pub(crate) fn dims(tensor: &impl TensorMetadata) -> Vec<usize> {
    tensor.shape().to_vec()
}
