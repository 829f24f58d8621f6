//! Little-endian bytes to and from numbers.

use half::{bf16, f16};
use safetensors::Dtype;

/// Bytes of one element of a float type that is read as F32.
pub(super) fn float_size(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F64 => Some(8),
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

/// Appends the elements of `bytes`, which are of a type that [`float_size`] knows.
pub(super) fn extend_f32(out: &mut Vec<f32>, bytes: &[u8], dtype: Dtype) {
    match dtype {
        Dtype::F16 => out.extend(pairs(bytes).map(|b| f16::from_le_bytes(b).to_f32())),
        Dtype::F64 => out.extend(bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
        Dtype::BF16 => out.extend(pairs(bytes).map(|b| bf16::from_le_bytes(b).to_f32())),
        _ => out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
    }
}

/// The elements of `bytes` of a float type, widened or narrowed to F32; none of another type.
pub fn to_f32(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let Some(size) = float_size(dtype) else { return Vec::new() };
    let mut values = Vec::with_capacity(bytes.len() / size);
    extend_f32(&mut values, bytes, dtype);
    values
}

/// Returns `true` if every one of `values` is a number of the float type `dtype`, so that storing it so loses nothing.
pub fn holds_exactly(dtype: Dtype, values: &[f32]) -> bool {
    match dtype {
        Dtype::F32 => true,
        Dtype::F16 => values.iter().all(|&value| f16::from_f32(value).to_f32().to_bits() == value.to_bits()),
        Dtype::BF16 => values.iter().all(|value| value.to_bits() & 0xFFFF == 0),
        _ => false,
    }
}

/// Appends `values`, which `dtype` [holds exactly](holds_exactly).
pub(super) fn narrow_into(out: &mut Vec<u8>, values: &[f32], dtype: Dtype) {
    match dtype {
        Dtype::F16 => out.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
        Dtype::BF16 => out.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
        _ => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
}

/// The elements of F16 `bytes`, as they are stored.
pub fn to_f16(bytes: &[u8]) -> Vec<f16> {
    pairs(bytes).map(f16::from_le_bytes).collect()
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    bytes.chunks_exact(2).map(|b| [b[0], b[1]])
}

/// The first NaN or infinity.
pub fn first_not_finite(values: &[f32]) -> Option<(usize, f32)> {
    values.iter().copied().enumerate().find(|(_, value)| !value.is_finite())
}
