//! The token table. Its rows are looked up before the first layer, and a tied head multiplies by it at the end.
//!
//! A quantized table is one set of codes for both uses. Lookups dequantize only the rows that they need, so that a pass
//! does not dequantize the whole vocabulary. A tied head reads the same codes through `Transpose`, which programs
//! evaluate once, when they load a model.

use slm_model::{EMBED_TOKENS, LM_HEAD};
use slm_quant_core::{ActivationQuant, Bits, QuantizedMatrix};

use super::builder::Builder;
use super::genai::{Blocks, block_width};
use super::graph::Value;
use super::proto::{AttributeProto, DataType};
use super::weights::{CodeInitializers, Grouping, grouping};
use crate::source::Stored;
use crate::{OnnxProfile, Result};

/// Path of the lookups.
const PATH: &str = "embed_tokens";

/// The table in the form that a tied head needs.
pub(super) enum Table {
    /// `[vocabulary, hidden]` floats.
    Float(Value),
    /// Codes `[vocabulary, hidden]`, for a head with this quantization of its input.
    Codes(CodeInitializers, QuantizedMatrix, ActivationQuant),
    /// Codes in blocks.
    Blocks(Blocks, QuantizedMatrix, ActivationQuant),
}

impl Builder<'_> {
    /// Adds the table, and looks up its rows `ids`.
    pub(super) fn table(&mut self, ids: &str) -> Result<(Table, Value)> {
        let (matrix, activation) = match self.source.read(EMBED_TOKENS)? {
            Stored::Float(values) => {
                let table = self.float_matrix(EMBED_TOKENS, &values, false);
                let rows = self.graph.op(PATH, "Gather", &[&table, ids], Vec::new());
                return Ok((Table::Float(table), rows));
            }
            Stored::Quantized(matrix, activation) => (matrix, activation),
        };
        match self.source.model().tie_word_embeddings {
            true => self.check(LM_HEAD, &matrix, activation),
            false => self.rules.check_weights(PATH, &matrix),
        }
        if self.profile == OnnxProfile::OrtGenai
            && block_width(&matrix).is_some_and(|block| matrix.cols().is_multiple_of(block))
            && let Some(blocks) = self.blocks(EMBED_TOKENS, &matrix, activation)
        {
            let rows = self.block_gather(PATH, ids, &blocks);
            return Ok((Table::Blocks(blocks, matrix, activation), rows));
        }
        let codes = self.code_initializers(EMBED_TOKENS, &matrix, false);
        let rows = self.dequantized_rows(ids, &codes, &matrix);
        Ok((Table::Codes(codes, matrix, activation), rows))
    }

    /// The values of the rows `ids`: `(code - zero_point) * scale`.
    fn dequantized_rows(&mut self, ids: &str, table: &CodeInitializers, matrix: &QuantizedMatrix) -> Value {
        let is_int4 = matrix.scheme().bits == Bits::Int4;
        let width = match grouping(matrix) {
            Grouping::Blocks(width) if !matrix.cols().is_multiple_of(width) => {
                // Rows are not whole groups.
                let values = self.dequantized_codes(PATH, table, matrix, false);
                return self.graph.op(PATH, "Gather", &[&values, ids], Vec::new());
            }
            Grouping::Blocks(width) => Some(width),
            Grouping::Tensor | Grouping::Rows => None,
        };
        // Looks up one part of the rows. Codes of 4 bits are cast first, because the standard has no lookup of 4-bit
        // integers.
        let row = |builder: &mut Self, values: &str, has_rows: bool| {
            let wide = if is_int4 { builder.cast(PATH, values, DataType::Int8) } else { values.to_owned() };
            let rows = match has_rows {
                true => builder.graph.op(PATH, "Gather", &[&wide, ids], Vec::new()),
                false => wide,
            };
            builder.cast(PATH, &rows, DataType::Float)
        };
        let mut codes = row(self, &table.codes, true);
        let per_row = !matches!(grouping(matrix), Grouping::Tensor);
        let mut zero_point = table.zero_point.as_ref().map(|zero_point| row(self, zero_point, per_row));
        let graph = &mut self.graph;
        let mut scale = match per_row {
            true => graph.op(PATH, "Gather", &[&table.scale, ids], Vec::new()),
            false => table.scale.clone(),
        };
        // One parameter for each row, or for each group of a row.
        if per_row {
            let last = graph.ints(&[-1]);
            for parameter in [Some(&mut scale), zero_point.as_mut()].into_iter().flatten() {
                *parameter = graph.op(PATH, "Unsqueeze", &[parameter, &last], Vec::new());
            }
        }
        if let Some(width) = width {
            let groups = graph.ints(&[0, 0, -1, width as i64]);
            codes = graph.op(PATH, "Reshape", &[&codes, &groups], Vec::new());
        }
        if let Some(zero_point) = &zero_point {
            codes = graph.op(PATH, "Sub", &[&codes, zero_point], Vec::new());
        }
        let values = graph.op(PATH, "Mul", &[&codes, &scale], Vec::new());
        match width {
            None => values,
            Some(_) => {
                let whole = graph.ints(&[0, 0, matrix.cols() as i64]);
                graph.op(PATH, "Reshape", &[&values, &whole], Vec::new())
            }
        }
    }

    /// Computes the logits of a head that is tied to the table.
    pub(super) fn tied_head(&mut self, x: &str, table: &Table) -> Value {
        match table {
            Table::Blocks(blocks, matrix, activation) => {
                self.block_matmul(LM_HEAD, x, blocks, matrix, *activation)
            }
            Table::Codes(codes, matrix, activation) => {
                let x = self.quantized_input(LM_HEAD, x, matrix, *activation);
                let turned = self.transposed_codes(codes, matrix);
                let w = self.dequantized_codes(LM_HEAD, &turned, matrix, true);
                self.graph.op(LM_HEAD, "MatMul", &[&x, &w], Vec::new())
            }
            Table::Float(table) => {
                // The table has the layout of lookups. `Gemm` accepts that layout, but only 2-D inputs.
                let model = self.source.model();
                let rows = self.graph.ints(&[-1, model.hidden_size as i64]);
                let rows = self.graph.op(LM_HEAD, "Reshape", &[x, &rows], Vec::new());
                let attributes = vec![AttributeProto::int("transB", 1)];
                let logits = self.graph.op(LM_HEAD, "Gemm", &[&rows, table], attributes);
                let shape = self.graph.op(LM_HEAD, "Shape", &["input_ids"], Vec::new());
                let vocabulary = self.graph.ints(&[model.vocab_size as i64]);
                let axis = vec![AttributeProto::int("axis", 0)];
                let shape = self.graph.op(LM_HEAD, "Concat", &[&shape, &vocabulary], axis);
                self.graph.op(LM_HEAD, "Reshape", &[&logits, &shape], Vec::new())
            }
        }
    }

    /// Transposes the codes. Scales become separate constants, because ONNX Runtime does not fuse a product with a
    /// lookup that uses the same scales.
    fn transposed_codes(&mut self, table: &CodeInitializers, matrix: &QuantizedMatrix) -> CodeInitializers {
        let mut turn = |values: &str| self.graph.op(LM_HEAD, "Transpose", &[values], Vec::new());
        let codes = turn(&table.codes);
        if let Grouping::Blocks(_) = grouping(matrix) {
            let zero_point = table.zero_point.as_deref().map(&mut turn);
            return CodeInitializers { codes, scale: turn(&table.scale), zero_point };
        }
        let shape: &[i64] = if let Grouping::Tensor = grouping(matrix) { &[] } else { &[-1] };
        let shape = self.graph.ints(shape);
        let scale = self.graph.op(LM_HEAD, "Reshape", &[&table.scale, &shape], Vec::new());
        CodeInitializers { codes, scale, zero_point: table.zero_point.clone() }
    }
}
