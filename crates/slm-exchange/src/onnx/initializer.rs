//! The constants of a graph. Their values are read when they are written.

use slm_quant_core::{Bits, QuantizedMatrix};

use super::proto::DataType;
use crate::float::FloatType;
use crate::source::{Source, Stored, dequantize_row};
use crate::{Error, Result};

/// A constant tensor.
#[derive(Debug)]
pub(super) struct Initializer {
    pub(super) name: String,
    pub(super) data_type: DataType,
    pub(super) dims: Vec<usize>,
    pub(super) content: Content,
}

/// The source of a constant's values.
#[derive(Debug)]
pub(super) enum Content {
    /// Values already in memory.
    Bytes(Vec<u8>),
    /// A float tensor of the checkpoint.
    Float {
        tensor: String,
        float: FloatType,
        /// `true` to transpose the matrix.
        transposed: bool,
    },
    /// The codes of a quantized tensor of the checkpoint.
    Codes {
        tensor: String,
        /// `true` to transpose the matrix.
        transposed: bool,
    },
    /// The codes of a quantized tensor of the checkpoint, unsigned, by row, in blocks of `block` codes. The last block
    /// of a row is padded.
    Blocks { tensor: String, block: usize },
}

impl Initializer {
    /// Size of its values in bytes.
    pub(super) fn byte_len(&self) -> u64 {
        let elements: u64 = self.dims.iter().map(|&dim| dim as u64).product();
        (elements * self.data_type.bits()).div_ceil(8)
    }

    /// Its values in the layout of the file.
    pub(super) fn read(&self, source: &Source<'_>) -> Result<Vec<u8>> {
        let bytes = match &self.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Float { tensor, float, transposed } => {
                let mut values = match source.read(tensor)? {
                    Stored::Float(values) => values,
                    Stored::Quantized(matrix, _) => dequantized(&matrix),
                };
                if let (true, &[cols, rows]) = (*transposed, &self.dims[..]) {
                    values = transpose(&values, rows, cols);
                }
                let mut bytes = Vec::new();
                float.write(&mut bytes, &values);
                bytes
            }
            Content::Codes { tensor, transposed } => match source.read(tensor)? {
                Stored::Quantized(matrix, _) => codes(&matrix, *transposed),
                Stored::Float(_) => Vec::new(),
            },
            Content::Blocks { tensor, block } => match source.read(tensor)? {
                Stored::Quantized(matrix, _) => blocks(&matrix, *block),
                Stored::Float(_) => Vec::new(),
            },
        };
        if bytes.len() as u64 != self.byte_len() {
            let what = format!("{} has {} bytes instead of {}", self.name, bytes.len(), self.byte_len());
            return Err(Error::unsupported(
                source.checkpoint.dir(),
                what,
                "the checkpoint changed while it was read: export it again",
            ));
        }
        Ok(bytes)
    }
}

/// The values of a quantized matrix, by row.
pub(super) fn dequantized(matrix: &QuantizedMatrix) -> Vec<f32> {
    let mut values = Vec::with_capacity(matrix.rows() * matrix.cols());
    (0..matrix.rows()).for_each(|row| dequantize_row(matrix, row, &mut values));
    values
}

/// A matrix of `rows` by `cols` values, by column.
pub(super) fn transpose<T: Copy>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}

/// Codes by row, or by column if `transposed`: one per byte, or two per byte with the first in the lower half.
fn codes(matrix: &QuantizedMatrix, transposed: bool) -> Vec<u8> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut codes: Vec<i8> = Vec::with_capacity(rows * cols);
    for row in 0..rows {
        codes.extend((0..cols).map(|col| matrix.code(row, col)));
    }
    if transposed {
        codes = transpose(&codes, rows, cols);
    }
    pack(matrix.scheme().bits, &codes)
}

/// Codes by row. Each row is padded to whole blocks.
fn blocks(matrix: &QuantizedMatrix, block: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut row_codes = vec![0; matrix.cols().next_multiple_of(block)];
    for row in 0..matrix.rows() {
        row_codes.iter_mut().zip(0..matrix.cols()).for_each(|(code, col)| *code = matrix.code(row, col));
        pack_unsigned(matrix.scheme().bits, &row_codes, &mut bytes);
    }
    bytes
}

/// Appends codes plus 8 or 128: one per byte, or two per byte with the first in the lower half.
pub(super) fn pack_unsigned(bits: Bits, codes: &[i8], out: &mut Vec<u8>) {
    match bits {
        Bits::Int8 => out.extend(codes.iter().map(|code| code.cast_unsigned() ^ 128)),
        Bits::Int4 => out.extend(codes.chunks(2).map(|pair| {
            let half = |index: usize| pair.get(index).map_or(0, |code| (code.cast_unsigned() & 15) ^ 8);
            half(0) | half(1) << 4
        })),
    }
}

/// Codes in the layout of an INT8 or INT4 tensor.
pub(super) fn pack(bits: Bits, codes: &[i8]) -> Vec<u8> {
    match bits {
        Bits::Int8 => codes.iter().map(|code| code.cast_unsigned()).collect(),
        Bits::Int4 => codes
            .chunks(2)
            .map(|pair| {
                let half = |index: usize| pair.get(index).map_or(0, |code| code.cast_unsigned() & 15);
                half(0) | half(1) << 4
            })
            .collect(),
    }
}
