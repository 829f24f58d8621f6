//! The codes of tensors of a Hugging Face model, whose rows may come from several tensors of the checkpoint.

use slm_model::arch::TensorSource;
use slm_quant_core::{ActivationQuant, QuantizedMatrix};

use super::Fused;
use crate::Result;
use crate::source::{Source, Stored};

/// The reason why a tensor is written as floats although parts of it are quantized.
pub(crate) const WITH_FLOATS: &str = "it is stored as one tensor with floats";

/// A matrix of the checkpoint and its position in the tensor of the file.
pub(crate) struct Part<'a> {
    pub(crate) matrix: QuantizedMatrix,
    pub(crate) activation: ActivationQuant,
    pub(crate) origin: &'a TensorSource,
}

/// The parts of a tensor of the file.
pub(crate) enum Parts<'a> {
    Quantized(Vec<Part<'a>>),
    Float,
    /// Codes and floats.
    Mixed,
}

/// Reads the parts of `tensor`.
pub(crate) fn parts<'a>(source: &Source<'_>, tensor: &'a Fused) -> Result<Parts<'a>> {
    let mut parts = Vec::new();
    for (part, origin) in &tensor.parts {
        if let Stored::Quantized(matrix, activation) = source.read(&part.name)? {
            parts.push(Part { matrix, activation, origin });
        }
    }
    Ok(match parts.len() {
        0 => Parts::Float,
        count if count < tensor.parts.len() => Parts::Mixed,
        _ => Parts::Quantized(parts),
    })
}

/// Codes, scales and zero points in row-major order.
pub(crate) struct Codes {
    pub(crate) shape: [usize; 2],
    pub(crate) codes: Vec<i8>,
    /// Scales by row, then group.
    pub(crate) scales: Vec<f32>,
    pub(crate) zero_points: Vec<i8>,
}

impl Codes {
    /// Stacks the rows of `parts` in the order of the file, with a scale for each `width` values. `width` must divide
    /// the length of a row, and the groups of each part must be a multiple of it or the whole row.
    pub(crate) fn stack(parts: &[Part<'_>], width: usize) -> Self {
        let rows = parts.iter().map(|part| part.matrix.rows()).sum();
        let cols = parts.first().map_or(0, |part| part.matrix.cols());
        let per_row = cols / width.max(1);
        let mut stacked = Self {
            shape: [rows, cols],
            codes: vec![0; rows * cols],
            scales: vec![0.0; rows * per_row],
            zero_points: vec![0; rows * per_row],
        };
        for Part { matrix, origin, .. } in parts {
            let places = origin.file_rows().unwrap_or_else(|| (0..matrix.rows()).collect());
            for (row, place) in places.into_iter().enumerate() {
                for column in 0..cols {
                    stacked.codes[place * cols + column] = matrix.code(row, column);
                }
                for group in 0..per_row {
                    let of_ours = group * width / matrix.group_width();
                    let params = matrix.qparams(matrix.scale_index(row, of_ours));
                    stacked.scales[place * per_row + group] = params.scale;
                    // Zero points of a matrix have 8 bits.
                    stacked.zero_points[place * per_row + group] = params.zero_point as i8;
                }
            }
        }
        stacked
    }

    /// Number of values that share a scale.
    pub(crate) fn width(&self) -> usize {
        self.codes.len() / self.scales.len().max(1)
    }
}
