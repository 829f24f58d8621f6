//! Conversion of codes and scales of blocks to those of a quantized matrix.
//!
//! Scales of a checkpoint are positive. llama.cpp's own Q4_0 has a negative scale if the largest value of a block is
//! positive. The same values have the negated codes, of which -8 becomes 8. Such a tensor becomes INT8, which can hold
//! 8.

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

/// A block: its scale, made positive, and its codes.
struct Block {
    scale: f16,
    codes: [i16; GROUP],
}

impl Block {
    /// The block of Q8_0 or Q4_0 in `bytes`.
    fn read(kind: TensorKind, bytes: &[u8]) -> Self {
        let scale = f16::from_le_bytes([bytes[0], bytes[1]]);
        let mut codes = [0_i16; GROUP];
        for (index, code) in codes.iter_mut().enumerate() {
            *code = match kind {
                TensorKind::Q4_0 => {
                    let byte = bytes[2 + index % (GROUP / 2)];
                    i16::from(if index < GROUP / 2 { byte & 0x0f } else { byte >> 4 }) - 8
                }
                _ => i16::from(bytes[2 + index].cast_signed()),
            };
        }
        if scale.to_f32() == 0.0 {
            // All values are 0, whatever the codes are.
            return Self { scale: f16::ONE, codes: [0; GROUP] };
        }
        if scale.is_sign_negative() {
            return Self { scale: -scale, codes: codes.map(|code| -code) };
        }
        Self { scale, codes }
    }
}

/// The narrowest type that holds the codes of a tensor; `None` if it has no codes.
pub(super) fn bits(kind: TensorKind, data: &[u8]) -> Option<Bits> {
    let mut bits = if kind == TensorKind::Q4_0 { Bits::Int4 } else { Bits::Int8 };
    for bytes in data.chunks_exact(kind.block_bytes()) {
        for code in Block::read(kind, bytes).codes {
            match code {
                -8..=7 => {}
                -128..=127 => bits = Bits::Int8,
                _ => return None,
            }
        }
    }
    Some(bits)
}

/// The matrix of `rows` rows of blocks, in the order given by `row`.
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
            // The codes fit: `bits` was determined from the whole tensor.
            row_codes.extend(block.codes.iter().map(|&code| code as i8));
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
    fn negative_scales_keep_their_values() {
        let codes: Vec<i8> = (0..32).map(|i| (i % 16) as i8 - 8).collect();
        let mut data = Vec::new();
        write_q4_0(&mut data, f16::from_f32(0.5), &codes);
        assert_eq!(bits(TensorKind::Q4_0, &data), Some(Bits::Int4));
        write_q4_0(&mut data, f16::from_f32(-0.25), &codes);
        write_q4_0(&mut data, f16::from_f32(0.0), &codes);
        assert_eq!(bits(TensorKind::Q4_0, &data), Some(Bits::Int8));
        let matrix = matrix(TensorKind::Q4_0, &data, [3, 32], Bits::Int8, |row| row).unwrap();
        let mut values = Vec::new();
        (0..3).for_each(|row| dequantize_row(&matrix, row, &mut values));
        assert_eq!(values, dequantize(TensorKind::Q4_0, &data));
    }
}
