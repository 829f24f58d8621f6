//! Conversion of codes and scales of blocks to those of a quantized matrix.
//!
//! Both have symmetric codes and scales of either sign: llama.cpp's own Q4_0 has a negative scale if the value with the
//! largest magnitude in a block is positive.

use half::f16;
use slm_quant_core::{
    Bits, Granularity, Mapping, QuantScheme, QuantizedMatrix, ScaleDtype, Scales, pack_int4,
};

use crate::gguf::TensorKind;

/// Number of values that share a scale.
pub(super) const GROUP: usize = 32;

/// The scheme of imported codes.
pub(super) fn scheme(bits: Bits) -> QuantScheme {
    QuantScheme {
        bits,
        granularity: Granularity::PerGroup { group_size: GROUP },
        mapping: Mapping::Symmetric,
        scale_dtype: ScaleDtype::F16,
    }
}

/// One block.
struct Block {
    scale: f16,
    codes: [i8; GROUP],
}

impl Block {
    /// The block of Q8_0 or Q4_0 in `bytes`.
    fn read(kind: TensorKind, bytes: &[u8]) -> Self {
        let scale = f16::from_le_bytes([bytes[0], bytes[1]]);
        let mut codes = [0_i8; GROUP];
        for (index, code) in codes.iter_mut().enumerate() {
            *code = match kind {
                TensorKind::Q4_0 => {
                    let byte = bytes[2 + index % (GROUP / 2)];
                    (if index < GROUP / 2 { byte & 0x0f } else { byte >> 4 }).cast_signed() - 8
                }
                _ => bytes[2 + index].cast_signed(),
            };
        }
        if scale.to_f32() == 0.0 {
            // All values are 0 for any codes.
            return Self { scale: f16::ONE, codes: [0; GROUP] };
        }
        Self { scale, codes }
    }
}

/// Returns the width of the codes of a tensor; `None` if they are not symmetric codes.
pub(super) fn bits(kind: TensorKind) -> Option<Bits> {
    match kind {
        TensorKind::Q4_0 => Some(Bits::Int4),
        TensorKind::Q8_0 => Some(Bits::Int8),
        _ => None,
    }
}

/// Converts `rows` rows of blocks to a matrix, in the order given by `row`.
pub(super) fn matrix(
    kind: TensorKind,
    data: &[u8],
    [rows, cols]: [usize; 2],
    bits: Bits,
    row: impl Fn(usize) -> usize,
) -> Result<QuantizedMatrix, slm_quant_core::Error> {
    let row_bytes = cols / GROUP * kind.block_bytes();
    let mut scales = Vec::with_capacity(rows * cols / GROUP);
    let mut codes = Vec::with_capacity(rows * bits.row_bytes(cols));
    let mut row_codes: Vec<i8> = Vec::with_capacity(cols);
    for place in 0..rows {
        let start = row(place) * row_bytes;
        row_codes.clear();
        for bytes in data[start..start + row_bytes].chunks_exact(kind.block_bytes()) {
            let block = Block::read(kind, bytes);
            scales.push(block.scale);
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
    QuantizedMatrix::from_parts(rows, cols, scheme(bits), codes, Scales::F16(scales), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{dequantize, write_q4_0};
    use crate::source::dequantize_row;

    #[test]
    fn scales_of_either_sign_keep_their_codes() {
        let codes: Vec<i8> = (0..32).map(|i| (i % 16) as i8 - 8).collect();
        let mut data = Vec::new();
        for scale in [0.5, -0.25, 0.0] {
            write_q4_0(&mut data, f16::from_f32(scale), &codes);
        }
        let matrix = matrix(TensorKind::Q4_0, &data, [3, 32], Bits::Int4, |row| row).unwrap();
        assert_eq!(matrix.scales().to_f32(), [0.5, -0.25, 1.0]);
        let mut read = [0; 32];
        matrix.unpack_row_into(1, &mut read).unwrap();
        assert_eq!(read, codes[..]);
        let mut values = Vec::new();
        (0..3).for_each(|row| dequantize_row(&matrix, row, &mut values));
        assert_eq!(values, dequantize(TensorKind::Q4_0, &data));
    }
}
