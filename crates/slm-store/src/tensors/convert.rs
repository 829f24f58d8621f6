//! Conversion between little-endian bytes and numbers.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use safetensors::Dtype;
use slm_runtime::advise_huge_pages;

/// Size in bytes of one element of a float type that can be read as F32; `None` for other types.
pub(super) fn float_size(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F64 => Some(8),
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

/// Fills `out` with the elements of `bytes`, whose type [`float_size`] must support.
pub(super) fn fill_f32(out: &mut [f32], bytes: &[u8], dtype: Dtype) {
    match dtype {
        Dtype::F16 => {
            let mut bits = [0; 256];
            for (out, bytes) in out.chunks_mut(bits.len()).zip(bytes.chunks(2 * bits.len())) {
                let bits = &mut bits[..out.len()];
                bits.iter_mut()
                    .zip(bytes.as_chunks().0)
                    .for_each(|(to, from)| *to = u16::from_le_bytes(*from));
                widen_into(bits, dtype, out);
            }
        }
        Dtype::BF16 => {
            let widened = |from: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*from)) << 16);
            out.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, from)| *to = widened(from));
        }
        Dtype::F64 => {
            out.iter_mut()
                .zip(bytes.as_chunks().0)
                .for_each(|(to, &from)| *to = f64::from_le_bytes(from) as f32);
        }
        _ => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(to, &from)| *to = f32::from_le_bytes(from)),
    }
}

/// Converts `bytes` of a float type to F32. Returns no elements for other types.
pub fn to_f32(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let Some(size) = float_size(dtype) else { return Vec::new() };
    let mut values = vec![0.0; bytes.len() / size];
    fill_f32(&mut values, bytes, dtype);
    values
}

/// Returns `true` if the float type `dtype` represents every one of `values` exactly.
pub fn holds_exactly(dtype: Dtype, values: &[f32]) -> bool {
    match dtype {
        Dtype::F32 => true,
        Dtype::F16 => values.iter().all(|&value| f16::from_f32(value).to_f32().to_bits() == value.to_bits()),
        Dtype::BF16 => values.iter().all(|value| value.to_bits() & 0xFFFF == 0),
        _ => false,
    }
}

/// Appends `values`, which `dtype` must [represent exactly](holds_exactly).
pub(super) fn narrow_into(out: &mut Vec<u8>, values: &[f32], dtype: Dtype) {
    match dtype {
        Dtype::F16 => out.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
        Dtype::BF16 => out.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
        _ => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
}

/// Converts the bits of F16 or BF16 values to F32.
pub(crate) fn widen(bits: &[u16], dtype: Dtype) -> Vec<f32> {
    let mut values = vec![0.0; bits.len()];
    advise_huge_pages(&mut values);
    widen_into(bits, dtype, &mut values);
    values
}

/// Converts the bits of F16 or BF16 values to F32, and fills `out` with them.
fn widen_into(bits: &[u16], dtype: Dtype, out: &mut [f32]) {
    match dtype {
        Dtype::F16 => bits.reinterpret_cast::<f16>().convert_to_f32_slice(out),
        _ => out.iter_mut().zip(bits).for_each(|(out, &bits)| *out = f32::from_bits(u32::from(bits) << 16)),
    }
}

/// Returns the index and value of the first NaN or infinity among the bits of F16 or BF16 values.
pub(crate) fn first_half_not_finite(bits: &[u16], dtype: Dtype) -> Option<(usize, f32)> {
    let exponent = if dtype == Dtype::F16 { 0x7C00 } else { 0x7F80 };
    let index = bits.iter().position(|bits| bits & exponent == exponent)?;
    Some((index, widen(&bits[index..=index], dtype).first().copied().unwrap_or(f32::NAN)))
}

/// Converts `bytes` to F16 elements.
pub fn to_f16(bytes: &[u8]) -> Vec<f16> {
    pairs(bytes).map(f16::from_le_bytes).collect()
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    bytes.chunks_exact(2).map(|b| [b[0], b[1]])
}

/// Returns the index and value of the first NaN or infinity.
pub fn first_not_finite(values: &[f32]) -> Option<(usize, f32)> {
    values.iter().copied().enumerate().find(|(_, value)| !value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_widened_to_their_values() {
        assert_eq!(to_f32(&[0x00, 0x3e, 0x00, 0xc0], Dtype::F16), [1.5, -2.0]);
        assert_eq!(to_f32(&[0xc0, 0x3f, 0x00, 0xc0], Dtype::BF16), [1.5, -2.0]);
        assert_eq!(to_f32(&1.5_f32.to_le_bytes(), Dtype::F32), [1.5]);
        assert_eq!(to_f32(&(-2.0_f64).to_le_bytes(), Dtype::F64), [-2.0]);
        assert!(to_f32(&[1, 2], Dtype::U8).is_empty());
        assert_eq!(widen(&[0x3e00, 0xc000], Dtype::F16), [1.5, -2.0]);
        assert_eq!(widen(&[0x3fc0, 0xc000], Dtype::BF16), [1.5, -2.0]);
    }

    #[test]
    fn narrow_types_hold_what_they_can_write() {
        for (value, in_f16, in_bf16) in
            [(1.5, true, true), (1.0 + 1.0 / 1024.0, true, false), (1e30, false, false), (0.1, false, false)]
        {
            for (dtype, expected) in
                [(Dtype::F16, in_f16), (Dtype::BF16, in_bf16), (Dtype::F32, true), (Dtype::U8, false)]
            {
                assert_eq!(holds_exactly(dtype, &[0.0, value]), expected, "{value} {dtype:?}");
                let mut bytes = Vec::new();
                if expected {
                    narrow_into(&mut bytes, &[0.0, value], dtype);
                    assert_eq!(to_f32(&bytes, dtype), [0.0, value], "{dtype:?}");
                }
            }
        }
        assert!(holds_exactly(Dtype::BF16, &[2.0_f32.powi(100)]));
    }
}
