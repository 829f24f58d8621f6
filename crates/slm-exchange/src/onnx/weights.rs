//! Weights: floats, or codes with their scales. Linear layers use the layout of `MatMul`, `[inputs, outputs]`.

use slm_quant_core::{Bits, Granularity, QuantizedMatrix};

use super::builder::Builder;
use super::graph::Value;
use super::initializer::{Content, dequantized, pack, transpose};
use super::proto::{AttributeProto, DataType};
use crate::Result;
use crate::float::FloatType;
use crate::report::Fidelity;
use crate::source::Stored;

/// Initializers of a quantized matrix. Symmetric ones have no zero points.
#[derive(Clone)]
pub(super) struct CodeInitializers {
    pub(super) codes: Value,
    pub(super) scale: Value,
    pub(super) zero_point: Option<Value>,
}

impl Builder<'_> {
    /// A vector of the checkpoint, always in 32 bits.
    pub(super) fn vector(&mut self, name: &str) -> Result<Value> {
        let values = match self.source.read(name)? {
            Stored::Float(values) => values,
            Stored::Quantized(matrix, _) => dequantized(&matrix),
        };
        self.report(name, "f32", &[values.len()], Fidelity::Exact);
        Ok(self.graph.floats(name, &[values.len()], &values))
    }

    /// A float matrix of the checkpoint, with its rows as columns if `transposed`.
    pub(super) fn float_matrix(&mut self, name: &str, values: &[f32], transposed: bool) -> Value {
        let mut shape = self.source.shape(name);
        if transposed {
            shape.reverse();
        }
        let (float, data_type) = (self.float_type, float_data_type(self.float_type));
        let fidelity = match float.change(values) {
            0.0 => Fidelity::Exact,
            max_relative_change => Fidelity::FloatRounded { max_relative_change },
        };
        self.report(name, &float.to_string(), &shape, fidelity);
        let content = Content::Float { tensor: name.to_owned(), float, transposed };
        let matrix = self.graph.initializer(name, data_type, &shape, content);
        match float {
            FloatType::F32 => matrix,
            _ => self.cast(name, &matrix, DataType::Float),
        }
    }

    /// The values of the codes of `matrix`, with its rows as columns if `transposed`.
    pub(super) fn dequantized_codes(
        &mut self,
        path: &str,
        codes: &CodeInitializers,
        matrix: &QuantizedMatrix,
        transposed: bool,
    ) -> Value {
        let (rows_axis, cols_axis) = if transposed { (1, 0) } else { (0, 1) };
        let axis = |axis| AttributeProto::int("axis", axis);
        let attributes = match grouping(matrix) {
            Grouping::Tensor => Vec::new(),
            Grouping::Rows => vec![axis(rows_axis)],
            Grouping::Blocks(width) => vec![axis(cols_axis), AttributeProto::int("block_size", width as i64)],
        };
        let mut inputs = vec![codes.codes.as_str(), &codes.scale];
        inputs.extend(codes.zero_point.as_deref());
        self.graph.op(path, "DequantizeLinear", &inputs, attributes)
    }

    /// Codes, scales and zero points of a quantized matrix.
    pub(super) fn code_initializers(
        &mut self,
        name: &str,
        matrix: &QuantizedMatrix,
        transposed: bool,
    ) -> CodeInitializers {
        let bits = matrix.scheme().bits;
        let data_type = match bits {
            Bits::Int8 => DataType::Int8,
            Bits::Int4 => DataType::Int4,
        };
        let mut shape = vec![matrix.rows(), matrix.cols()];
        let groups = matrix.groups_per_row();
        let mut param_shape = match grouping(matrix) {
            Grouping::Tensor => Vec::new(),
            Grouping::Rows => vec![matrix.rows()],
            Grouping::Blocks(_) => vec![matrix.rows(), groups],
        };
        if transposed {
            shape.reverse();
            param_shape.reverse();
        }
        let turned = transposed && param_shape.len() == 2;
        let kind = match (bits, grouping(matrix)) {
            (Bits::Int8, Grouping::Tensor) => "int8 tensor".to_owned(),
            (Bits::Int8, Grouping::Rows) => "int8 channel".to_owned(),
            (Bits::Int8, Grouping::Blocks(width)) => format!("int8 block {width}"),
            (Bits::Int4, Grouping::Tensor) => "int4 tensor".to_owned(),
            (Bits::Int4, Grouping::Rows) => "int4 channel".to_owned(),
            (Bits::Int4, Grouping::Blocks(width)) => format!("int4 block {width}"),
        };
        self.report(name, &kind, &shape, Fidelity::Exact);

        let content = Content::Codes { tensor: name.to_owned(), transposed };
        let codes = self.graph.initializer(format!("{name}_quantized"), data_type, &shape, content);
        let mut scales = matrix.scales().to_f32();
        if turned {
            scales = transpose(&scales, matrix.rows(), groups);
        }
        let scale = self.graph.floats(format!("{name}_scale"), &param_shape, &scales);
        let zero_point = matrix.zero_points().map(|zero_points| {
            let zero_points = match turned {
                true => transpose(zero_points, matrix.rows(), groups),
                false => zero_points.to_vec(),
            };
            let content = Content::Bytes(pack(bits, &zero_points));
            self.graph.initializer(format!("{name}_zero_point"), data_type, &param_shape, content)
        });
        CodeInitializers { codes, scale, zero_point }
    }
}

/// Grouping of the codes of a matrix that share a scale.
pub(super) enum Grouping {
    Tensor,
    Rows,
    /// This many consecutive codes of a row.
    Blocks(usize),
}

pub(super) fn grouping(matrix: &QuantizedMatrix) -> Grouping {
    match matrix.scheme().granularity {
        Granularity::PerTensor => Grouping::Tensor,
        Granularity::PerGroup { .. } if matrix.group_width() < matrix.cols() => {
            Grouping::Blocks(matrix.group_width())
        }
        Granularity::PerChannel | Granularity::PerGroup { .. } => Grouping::Rows,
    }
}

fn float_data_type(float: FloatType) -> DataType {
    match float {
        FloatType::F32 => DataType::Float,
        FloatType::F16 => DataType::Float16,
        FloatType::Bf16 => DataType::Bfloat16,
    }
}
