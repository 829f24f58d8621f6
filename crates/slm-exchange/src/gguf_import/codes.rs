//! Conversion of codes and scales of blocks to those of a quantized matrix.
//!
//! Symmetric codes have scales of either sign: llama.cpp's own Q4_0 has a negative scale if the value with the largest
//! magnitude in a block is positive. Blocks of Q4_1 add an offset, which is a zero point only if it is a multiple of the
//! scale.

use half::f16;
use slm_quant_core::{
    Bits, Granularity, Mapping, QuantScheme, QuantizedMatrix, ScaleDtype, Scales, pack_int4,
};

use crate::gguf::{TensorKind, half_at, nibbles, q4_1_minimum};

/// Number of values that share a scale.
pub(super) const GROUP: usize = 32;

/// The scheme of the codes of a type of tensor, if slm has one.
pub(super) fn scheme(kind: TensorKind) -> Option<QuantScheme> {
    let (bits, mapping) = match kind {
        TensorKind::Q8_0 => (Bits::Int8, Mapping::Symmetric),
        TensorKind::Q4_0 => (Bits::Int4, Mapping::Symmetric),
        TensorKind::Q4_1 => (Bits::Int4, Mapping::Affine),
        _ => return None,
    };
    let granularity = Granularity::PerGroup { group_size: GROUP };
    Some(QuantScheme { bits, granularity, mapping, scale_dtype: ScaleDtype::F16 })
}

/// One block.
struct Block {
    scale: f16,
    zero_point: i8,
    codes: [i8; GROUP],
}

impl Block {
    /// The block of Q8_0, Q4_0 or Q4_1 in `bytes`; `None` if its offset is not a multiple of its scale.
    fn read(kind: TensorKind, bytes: &[u8]) -> Option<Self> {
        let scale = half_at(bytes, 0);
        let mut codes = [0; GROUP];
        let zero_point = match kind {
            TensorKind::Q8_0 => {
                codes.iter_mut().zip(&bytes[2..]).for_each(|(code, byte)| *code = byte.cast_signed());
                0
            }
            _ => {
                let offset = if kind == TensorKind::Q4_1 { 2 } else { 0 };
                let unsigned = nibbles(&bytes[2 + offset..]);
                codes
                    .iter_mut()
                    .zip(unsigned)
                    .for_each(|(code, unsigned)| *code = unsigned.cast_signed() - 8);
                if kind == TensorKind::Q4_1 { zero_point(scale, half_at(bytes, 2))? } else { 0 }
            }
        };
        if scale == 0.0 {
            // All values are 0 for any codes.
            return Some(Self { scale: f16::ONE, zero_point: 0, codes: [0; GROUP] });
        }
        Some(Self { scale: f16::from_f32(scale), zero_point, codes })
    }
}

/// The zero point for which [`q4_1_minimum`] is `minimum`.
fn zero_point(scale: f32, minimum: f32) -> Option<i8> {
    if scale == 0.0 && minimum == 0.0 {
        return Some(0);
    }
    let steps = (-minimum / scale).round();
    if scale <= 0.0 || !(0.0..=15.0).contains(&steps) {
        return None;
    }
    let zero_point = steps as i8 - 8;
    let is_same = q4_1_minimum(f16::from_f32(scale), zero_point.into()).to_f32() == minimum;
    is_same.then_some(zero_point)
}

/// Returns `true` if all blocks of a tensor of Q8_0, Q4_0 or Q4_1 are codes of its [`scheme`]. Those of Q4_1 are if their
/// offsets are multiples of their scales, and the others always.
pub(super) fn are_codes(kind: TensorKind, data: &[u8]) -> bool {
    data.chunks_exact(kind.block_bytes()).all(|block| Block::read(kind, block).is_some())
}

/// Converts `rows` rows of blocks to a matrix of `scheme`, in the order given by `row`; `None` unless they
/// [are codes](are_codes).
pub(super) fn matrix(
    kind: TensorKind,
    data: &[u8],
    [rows, cols]: [usize; 2],
    scheme: QuantScheme,
    row: impl Fn(usize) -> usize,
) -> Result<Option<QuantizedMatrix>, slm_quant_core::Error> {
    let bits = scheme.bits;
    let row_bytes = cols / GROUP * kind.block_bytes();
    let mut scales = Vec::with_capacity(rows * cols / GROUP);
    let mut zero_points = Vec::new();
    let mut codes = Vec::with_capacity(rows * bits.row_bytes(cols));
    let mut row_codes: Vec<i8> = Vec::with_capacity(cols);
    for place in 0..rows {
        let start = row(place) * row_bytes;
        row_codes.clear();
        for bytes in data[start..start + row_bytes].chunks_exact(kind.block_bytes()) {
            let Some(block) = Block::read(kind, bytes) else { return Ok(None) };
            scales.push(block.scale);
            zero_points.push(block.zero_point);
            row_codes.extend(block.codes);
        }
        match bits {
            Bits::Int8 => codes.extend(row_codes.iter().map(|code| code.cast_unsigned())),
            Bits::Int4 => {
                let start = codes.len();
                codes.resize(start + bits.row_bytes(cols), 0);
                pack_int4(&row_codes, &mut codes[start..])?;
            }
        }
    }
    let zero_points = (!scheme.mapping.is_symmetric()).then_some(zero_points);
    QuantizedMatrix::from_parts(rows, cols, scheme, codes, Scales::F16(scales), zero_points).map(Some)
}

#[cfg(test)]
mod tests {
    use slm_quant_core::QParams;

    use super::*;
    use crate::gguf::{dequantize, write_q4_0, write_q4_1};
    use crate::source::dequantize_row;

    #[test]
    fn scales_of_either_sign_keep_their_codes() {
        let codes: Vec<i8> = (0..32).map(|i| (i % 16) as i8 - 8).collect();
        let mut data = Vec::new();
        for scale in [0.5, -0.25, 0.0] {
            write_q4_0(&mut data, f16::from_f32(scale), &codes);
        }
        let q4_0 = scheme(TensorKind::Q4_0).unwrap();
        let matrix = matrix(TensorKind::Q4_0, &data, [3, 32], q4_0, |row| row).unwrap().unwrap();
        assert_eq!(matrix.scales().to_f32(), [0.5, -0.25, 1.0]);
        let mut read = [0; 32];
        matrix.unpack_row_into(1, &mut read).unwrap();
        assert_eq!(read, codes[..]);
        let mut values = Vec::new();
        (0..3).for_each(|row| dequantize_row(&matrix, row, &mut values));
        assert_eq!(values, dequantize(TensorKind::Q4_0, &data));
    }

    #[test]
    fn offsets_that_are_multiples_of_scales_become_zero_points() {
        let codes: Vec<i8> = (0..32).map(|i| (i % 16) as i8 - 8).collect();
        let block = |scale: f32, minimum: f32| {
            let mut data = Vec::new();
            write_q4_1(&mut data, f16::from_f32(scale), f16::from_f32(minimum), &codes);
            data
        };
        let q4_1 = scheme(TensorKind::Q4_1).unwrap();
        let read = |data: &[u8]| matrix(TensorKind::Q4_1, data, [1, 32], q4_1, |row| row).unwrap();
        // All zero points of a scale with eleven digits, most of whose multiples F16 must round.
        let scale = f16::from_f32(0.012_34).to_f32();
        for zero_point in -8_i8..8 {
            let data = block(scale, -(scale * f32::from(zero_point + 8)));
            assert!(are_codes(TensorKind::Q4_1, &data));
            let matrix = read(&data).unwrap();
            assert_eq!(matrix.qparams(0), QParams { scale, zero_point: i32::from(zero_point) });
            let mut found = [0; 32];
            matrix.unpack_row_into(0, &mut found).unwrap();
            assert_eq!(found, codes[..]);
        }
        let matrix = read(&block(0.0, 0.0)).unwrap();
        let mut values = Vec::new();
        dequantize_row(&matrix, 0, &mut values);
        assert_eq!(values, [0.0; 32]);
        for [scale, minimum] in [
            [0.5, -0.75],
            [0.5, 0.5],
            [0.5, -8.0],
            [-0.5, 1.0],
            [0.0, -1.0],
            [f32::NAN, -1.0],
            [0.5, f32::NAN],
        ] {
            let data = block(scale, minimum);
            assert!(!are_codes(TensorKind::Q4_1, &data), "{scale} {minimum}");
            assert!(read(&data).is_none(), "{scale} {minimum}");
        }
    }
}
