//! Blocks of quantized values: writing of the types that can hold slm's codes, and reading of all types.
//!
//! Layouts as in ggml's `ggml-common.h`. In the 4- and 5-bit types of 32 values, value `i` is in the low nibble of byte
//! `i` and value `i + 16` in the high one.

use half::{bf16, f16};

use super::{TensorKind, k_quants};

/// Number of values in a block of the types with one scale.
pub(crate) const BLOCK: usize = 32;

/// Appends a block of Q8_0: `scale * code`.
pub(crate) fn write_q8_0(out: &mut Vec<u8>, scale: f16, codes: &[i8]) {
    out.extend(scale.to_le_bytes());
    out.extend(codes.iter().map(|code| code.cast_unsigned()));
}

/// Appends a block of Q4_0: `scale * code`, for 32 codes in [-8, 7].
pub(crate) fn write_q4_0(out: &mut Vec<u8>, scale: f16, codes: &[i8]) {
    out.extend(scale.to_le_bytes());
    write_nibbles(out, codes);
}

/// The minimum of a block of Q4_1: the value of the lowest code, -8, rounded to F16.
pub(crate) fn q4_1_minimum(scale: f16, zero_point: i32) -> f16 {
    f16::from_f32(-(scale.to_f32() * (8 + zero_point) as f32))
}

/// Appends a block of Q4_1: `scale * (code + 8) + minimum`, for 32 codes in [-8, 7].
pub(crate) fn write_q4_1(out: &mut Vec<u8>, scale: f16, minimum: f16, codes: &[i8]) {
    out.extend(scale.to_le_bytes());
    out.extend(minimum.to_le_bytes());
    write_nibbles(out, codes);
}

fn write_nibbles(out: &mut Vec<u8>, codes: &[i8]) {
    let unsigned = |code: i8| (code + 8).cast_unsigned() & 0x0f;
    let (low, high) = codes.split_at(codes.len() / 2);
    out.extend(low.iter().zip(high).map(|(&low, &high)| unsigned(low) | (unsigned(high) << 4)));
}

/// Dequantizes whole blocks of `kind`, with the order of operations of gguf-py, ggml's reference.
pub fn dequantize(kind: TensorKind, bytes: &[u8]) -> Vec<f32> {
    let blocks = bytes.chunks_exact(kind.block_bytes());
    let mut out = Vec::with_capacity(blocks.len() * kind.block_len());
    for block in blocks {
        match kind {
            TensorKind::F32 => out.extend(block.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
            TensorKind::F64 => out.extend(block.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
            TensorKind::F16 => {
                out.extend(block.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()))
            }
            TensorKind::Bf16 => {
                out.extend(block.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()));
            }
            TensorKind::Q4_0 => {
                let d = half_at(block, 0);
                out.extend(nibbles(&block[2..]).map(|q| d * (f32::from(q) - 8.0)));
            }
            TensorKind::Q4_1 => {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                out.extend(nibbles(&block[4..]).map(|q| d * f32::from(q) + m));
            }
            TensorKind::Q5_0 => {
                let d = half_at(block, 0);
                let fifth = fifth_bits(&block[2..6]);
                out.extend(nibbles(&block[6..]).zip(fifth).map(|(q, bit)| d * (f32::from(q | bit) - 16.0)));
            }
            TensorKind::Q5_1 => {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                let fifth = fifth_bits(&block[4..8]);
                out.extend(nibbles(&block[8..]).zip(fifth).map(|(q, bit)| d * f32::from(q | bit) + m));
            }
            TensorKind::Q8_0 => {
                let d = half_at(block, 0);
                out.extend(block[2..].iter().map(|&q| d * f32::from(q.cast_signed())));
            }
            TensorKind::Q2K => k_quants::q2(&mut out, block),
            TensorKind::Q3K => k_quants::q3(&mut out, block),
            TensorKind::Q4K => k_quants::q4(&mut out, block),
            TensorKind::Q5K => k_quants::q5(&mut out, block),
            TensorKind::Q6K => k_quants::q6(&mut out, block),
        }
    }
    out
}

/// The f16 at byte `at`.
pub(crate) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The low nibbles of all bytes, then the high ones.
pub(crate) fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 0x0f).chain(bytes.iter().map(|byte| byte >> 4))
}

/// The fifth bit of each of 32 codes, as the value 0 or 16.
fn fifth_bits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    (0..BLOCK).map(|index| ((bytes[index / 8] >> (index % 8)) & 1) << 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_as_they_were() {
        let codes: Vec<i8> = (0..32).map(|i| (i * 7 % 16) as i8 - 8).collect();
        let scale = f16::from_f32(0.125);
        let expected: Vec<f32> = codes.iter().map(|&code| 0.125 * f32::from(code)).collect();
        let mut block = Vec::new();
        write_q4_0(&mut block, scale, &codes);
        assert_eq!(block.len(), TensorKind::Q4_0.block_bytes());
        assert_eq!(dequantize(TensorKind::Q4_0, &block), expected);
        // Value 0 is in the low nibble of the first byte, value 16 in its high one.
        assert_eq!(block[2], ((codes[0] + 8) | ((codes[16] + 8) << 4)) as u8);

        block.clear();
        write_q8_0(&mut block, scale, &codes);
        assert_eq!(block.len(), TensorKind::Q8_0.block_bytes());
        assert_eq!(dequantize(TensorKind::Q8_0, &block), expected);

        block.clear();
        // A zero point of 3: 0.125 * (code - 3).
        write_q4_1(&mut block, scale, f16::from_f32(-11.0 * 0.125), &codes);
        assert_eq!(block.len(), TensorKind::Q4_1.block_bytes());
        let expected: Vec<f32> = codes.iter().map(|&code| 0.125 * f32::from(code - 3)).collect();
        assert_eq!(dequantize(TensorKind::Q4_1, &block), expected);
    }
}
