//! Float weights in 16 bits.

use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use slm_autograd::HostHalves;
use slm_kernels::FloatValues;
use slm_runtime::{equal_parts, written_by_parts};

use crate::{Result, on_cpu, to_vec_f32};

/// Number of values that a thread converts at a time.
const CHUNK: usize = 1 << 16;

/// Widens `tensor` to 32 bits. 16-bit floats keep their exact values.
pub fn widened<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if !matches!(tensor.dtype(), DType::F16 | DType::BF16) {
        return tensor;
    }
    let Some(halves) = HostHalves::new(tensor.clone()) else {
        return tensor.cast(FloatDType::F32);
    };
    // Burn's cast runs on one thread.
    let values = match halves.values() {
        FloatValues::F16(values) => wide(values, HalfFloatSliceExt::convert_to_f32_slice),
        FloatValues::BF16(values) => wide(values, HalfFloatSliceExt::convert_to_f32_slice),
        _ => return tensor.cast(FloatDType::F32),
    };
    Tensor::from_data(TensorData::new(values, tensor.dims()), &tensor.device())
}

/// The values of `halves`, converted on all threads.
fn wide<T: Copy + Sync>(halves: &[T], convert: impl Fn(&[T], &mut [f32]) + Sync) -> Vec<f32> {
    let ([wide], _) =
        written_by_parts(&equal_parts(halves.len(), CHUNK), |index, [values]: [&mut [f32]; 1]| {
            convert(&halves[index * CHUNK..][..values.len()], values);
        });
    wide
}

/// Narrows `tensor` to 16 bits if it is in host memory, without gradients, and one 16-bit type holds all its values
/// exactly; otherwise returns it unchanged.
///
/// # Errors
/// [`Error::Data`](crate::Error::Data) for a tensor whose values cannot be read.
pub fn narrowed<const D: usize>(tensor: Tensor<D>) -> Result<Tensor<D>> {
    let device = tensor.device();
    if tensor.dtype() != DType::F32 || device.is_autodiff() || !on_cpu(&device) {
        return Ok(tensor);
    }
    let values = to_vec_f32("weight", tensor.clone())?;
    let keeps = |narrow: fn(f32) -> f32| values.iter().all(|&x| narrow(x).to_bits() == x.to_bits());
    Ok(if keeps(|x| bf16::from_f32(x).to_f32()) {
        tensor.cast(FloatDType::BF16)
    } else if keeps(|x| f16::from_f32(x).to_f32()) {
        tensor.cast(FloatDType::F16)
    } else {
        tensor
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_tensor_is_narrowed_only_where_nothing_is_lost() {
        let device = Device::flex();
        for (last, expected) in [
            (0.5, DType::BF16),
            (2.0_f32.powi(100), DType::BF16),
            // More digits than BF16 has, and more digits than either type has.
            (1.0 + 1.0 / 1024.0, DType::F16),
            (1.0 + 1.0 / 8192.0, DType::F32),
            (f32::MIN_POSITIVE / 2.0, DType::BF16),
            (f32::from_bits(1), DType::F32),
        ] {
            let values = vec![1.0, -2.0, 0.375, last];
            let tensor: Tensor<2> = Tensor::from_data(TensorData::new(values.clone(), [2, 2]), &device);
            let narrow = narrowed(tensor).unwrap();
            assert_eq!(narrow.dtype(), expected, "{last:e}");
            assert_eq!(to_vec_f32("weight", widened(narrow)).unwrap(), values, "{last:e}");
        }
        let trained: Tensor<1> = Tensor::zeros([4], &device.autodiff());
        assert_eq!(narrowed(trained).unwrap().dtype(), DType::F32);
    }
}
