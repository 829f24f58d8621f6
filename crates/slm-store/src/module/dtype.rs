//! Element types of Burn's tensors and of stored ones.

use burn::tensor::{DType, TensorData};
use safetensors::Dtype;

/// Returns the type in which a tensor of type `dtype` is stored; `None` for a type that Burn has quantized.
pub fn stored_dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 | DType::Flex32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool(_) => Dtype::BOOL,
        DType::QFloat(_) => return None,
    })
}

/// Converts `data` to little-endian bytes; a bool takes one byte.
pub(super) fn to_bytes(data: &TensorData) -> Vec<u8> {
    match data.dtype() {
        DType::Bool(_) => data.iter::<bool>().map(u8::from).collect(),
        dtype => swapped(data.as_bytes().to_vec(), dtype.size()),
    }
}

/// Creates a tensor of type `dtype` from little-endian bytes.
pub(super) fn from_bytes(bytes: Vec<u8>, shape: &[usize], dtype: DType) -> TensorData {
    match dtype {
        DType::Bool(_) => {
            let values: Vec<bool> = bytes.into_iter().map(|byte| byte != 0).collect();
            TensorData::new(values, shape.to_vec())
        }
        dtype => TensorData::from_bytes_vec(swapped(bytes, dtype.size()), shape.to_vec(), dtype),
    }
}

/// Swaps numbers of `width` bytes between this machine's byte order and little-endian.
fn swapped(mut bytes: Vec<u8>, width: usize) -> Vec<u8> {
    if cfg!(target_endian = "big") && width > 1 {
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
    bytes
}
