//! The data of tensors.

use half::f16;
use slm_quant_core::{QuantizedMatrix, Scales};

use super::plan::{Content, Part, Planned};
use crate::Result;
use crate::float::FloatType;
use crate::gguf::{TensorKind, q4_1_minimum, write_q4_0, write_q4_1, write_q8_0};
use crate::source::{Source, Stored, dequantize_row};

/// Number of values in a block.
pub(super) const BLOCK: usize = 32;

/// The data of `tensor`.
pub(super) fn encode(source: &Source<'_>, tensor: &Planned) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    match &tensor.content {
        Content::Values(values) => FloatType::F32.write(&mut out, values),
        Content::Rows(parts) => {
            let width = if tensor.shape.len() > 1 { tensor.shape[1] } else { 1 };
            for part in parts {
                encode_part(&mut out, tensor.kind, &source.read(&part.name)?, part, width);
            }
        }
    }
    Ok(out)
}

fn encode_part(out: &mut Vec<u8>, kind: TensorKind, stored: &Stored, part: &Part, width: usize) {
    let count = match stored {
        Stored::Float(values) => values.len() / width,
        Stored::Quantized(matrix, _) => matrix.rows(),
    };
    let float = match kind {
        TensorKind::F16 => FloatType::F16,
        TensorKind::Bf16 => FloatType::Bf16,
        _ => FloatType::F32,
    };
    let mut values = Vec::with_capacity(width);
    for place in 0..count {
        let row = part.order.as_ref().map_or(place, |order| order[place]);
        match stored {
            Stored::Float(floats) => {
                values.clear();
                values.extend(floats[row * width..(row + 1) * width].iter().map(|value| value * part.factor));
                float.write(out, &values);
            }
            Stored::Quantized(matrix, _) if kind.is_quantized() => blocks(out, kind, matrix, row),
            Stored::Quantized(matrix, _) => {
                values.clear();
                dequantize_row(matrix, row, &mut values);
                float.write(out, &values);
            }
        }
    }
}

/// Appends the blocks of a row. Each has the codes and the scale of their group.
fn blocks(out: &mut Vec<u8>, kind: TensorKind, matrix: &QuantizedMatrix, row: usize) {
    let width = matrix.group_width();
    let mut codes = [0_i8; BLOCK];
    for first in (0..matrix.cols()).step_by(BLOCK) {
        for (code, column) in codes.iter_mut().zip(first..) {
            *code = matrix.code(row, column);
        }
        let index = matrix.scale_index(row, first / width);
        let scale = f16_scale(matrix, index);
        match kind {
            TensorKind::Q4_0 => write_q4_0(out, scale, &codes),
            TensorKind::Q4_1 => write_q4_1(out, scale, minimum(matrix, index), &codes),
            _ => write_q8_0(out, scale, &codes),
        }
    }
}

/// Returns scale `index` as F16: unchanged if stored as F16, otherwise rounded to nearest.
pub(super) fn f16_scale(matrix: &QuantizedMatrix, index: usize) -> f16 {
    match matrix.scales() {
        Scales::F16(scales) => scales[index],
        Scales::F32(scales) => f16::from_f32(scales[index]),
    }
}

/// The value of the lowest code, -8.
pub(super) fn minimum(matrix: &QuantizedMatrix, index: usize) -> f16 {
    q4_1_minimum(f16_scale(matrix, index), matrix.qparams(index).zero_point)
}
