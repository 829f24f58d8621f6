//! Linear layers with float or quantized weights and inputs.
//!
//! | weights | inputs | written as |
//! |---|---|---|
//! | float | float | `MatMul` |
//! | codes | float | `MatMul` with `DequantizeLinear` of the weights |
//! | codes | static | the same, and `QuantizeLinear`, `DequantizeLinear` of the inputs |
//! | INT8 per tensor or channel | dynamic | slm's quantization in standard operators, then `MatMulInteger` |
//! | other codes | dynamic | the same quantization, `DequantizeLinear` of the weights, then `MatMul` |
//! | codes | any | `MatMulNBits`, in the profile for onnxruntime-genai |

use slm_quant_core::{ActivationGranularity, ActivationQuant, Bits, QuantizedMatrix};

use super::builder::Builder;
use super::graph::Value;
use super::initializer::Content;
use super::inputs::{DynamicCodes, QuantizedInput};
use super::proto::DataType;
use super::weights::{CodeInitializers, Grouping, grouping};
use crate::source::Stored;
use crate::{OnnxProfile, Result};

impl Builder<'_> {
    /// Applies the layer `path` to `x`.
    pub(super) fn linear(&mut self, path: &str, x: &str) -> Result<Value> {
        let weight = format!("{path}.weight");
        let y = match self.source.read(&weight)? {
            Stored::Float(values) => {
                let w = self.float_matrix(&weight, &values, true);
                self.graph.op(path, "MatMul", &[x, &w], Vec::new())
            }
            Stored::Quantized(matrix, activation) => {
                self.check(path, &matrix, activation);
                let blocks = match self.profile {
                    OnnxProfile::Standard => None,
                    OnnxProfile::OrtGenai => self.blocks(&weight, &matrix, activation),
                };
                match activation {
                    _ if let Some(blocks) = &blocks => {
                        self.block_matmul(path, x, blocks, &matrix, activation)
                    }
                    ActivationQuant::Dynamic(granularity) if multiplies_codes(&matrix) => {
                        self.integer_matmul(path, x, &weight, &matrix, granularity)
                    }
                    _ => {
                        let x = self.quantized_input(path, x, &matrix, activation);
                        let codes = self.code_initializers(&weight, &matrix, true);
                        let w = self.dequantized_codes(path, &codes, &matrix, true);
                        self.graph.op(path, "MatMul", &[&x, &w], Vec::new())
                    }
                }
            }
        };
        self.with_bias(path, y)
    }

    /// Adds the bias of the layer `path`, if it has one.
    pub(super) fn with_bias(&mut self, path: &str, y: Value) -> Result<Value> {
        let bias = format!("{path}.bias");
        if self.source.shape(&bias).is_empty() {
            return Ok(y);
        }
        let bias = self.vector(&bias)?;
        Ok(self.graph.op(path, "Add", &[&y, &bias], Vec::new()))
    }

    /// Records which of TensorRT's rules the layer `path` violates.
    pub(super) fn check(&mut self, path: &str, matrix: &QuantizedMatrix, activation: ActivationQuant) {
        self.rules.check_weights(path, matrix);
        self.rules.check_inputs(path, matrix.scheme().bits, activation);
    }

    /// Adds a product of codes: `(codes . W - zero_point * sum(W)) * scale * weight_scale`.
    fn integer_matmul(
        &mut self,
        path: &str,
        x: &str,
        weight: &str,
        matrix: &QuantizedMatrix,
        granularity: ActivationGranularity,
    ) -> Value {
        let key = format!("{x} dynamic codes {granularity}");
        let dynamic = match self.quantized_inputs.get(&key).and_then(|known| known.dynamic.clone()) {
            Some(known) => known,
            None => {
                let DynamicCodes { codes, zero_point, scale } = self.dynamic_codes(path, x, granularity);
                let codes = self.cast(path, &codes, DataType::Uint8);
                let zero_point = self.cast(path, &zero_point, DataType::Int32);
                let dynamic = DynamicCodes { codes: codes.clone(), zero_point, scale };
                let quantized = QuantizedInput { values: codes, dynamic: Some(dynamic.clone()) };
                self.quantized_inputs.insert(key, quantized);
                dynamic
            }
        };
        let CodeInitializers { codes: w, scale: weight_scale, zero_point: weight_zero } =
            self.code_initializers(weight, matrix, true);
        let sums: Vec<i32> = (0..matrix.rows())
            .map(|row| {
                let zero_point = matrix.qparams(matrix.scale_index(row, 0)).zero_point;
                (0..matrix.cols()).map(|col| i32::from(matrix.code(row, col)) - zero_point).sum()
            })
            .collect();
        let content = Content::Bytes(sums.iter().flat_map(|sum| sum.to_le_bytes()).collect());
        let sums =
            self.graph.initializer(format!("{weight}_row_sums"), DataType::Int32, &[matrix.rows()], content);
        let graph = &mut self.graph;
        let none = graph.initializer("constant.u8.0", DataType::Uint8, &[], Content::Bytes(vec![0]));
        let mut inputs = vec![dynamic.codes.as_str(), &w];
        if let Some(weight_zero) = &weight_zero {
            inputs.extend([none.as_str(), weight_zero]);
        }
        let product = graph.op(path, "MatMulInteger", &inputs, Vec::new());
        let offset = graph.op(path, "Mul", &[&dynamic.zero_point, &sums], Vec::new());
        let product = graph.op(path, "Sub", &[&product, &offset], Vec::new());
        let product = self.cast(path, &product, DataType::Float);
        let graph = &mut self.graph;
        let scale = graph.op(path, "Mul", &[&dynamic.scale, &weight_scale], Vec::new());
        graph.op(path, "Mul", &[&product, &scale], Vec::new())
    }
}

/// Returns `true` if a product with `matrix` is computed in integers and scaled at the end.
fn multiplies_codes(matrix: &QuantizedMatrix) -> bool {
    matrix.scheme().bits == Bits::Int8 && !matches!(grouping(matrix), Grouping::Blocks(_))
}
