//! Quantized inputs of linear layers, static and dynamic. An input of several layers is quantized once.

use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, DYNAMIC_SCALE_FLOOR, QParams, QuantizedMatrix,
};

use super::builder::Builder;
use super::graph::Value;
use super::initializer::Content;
use super::proto::{AttributeProto, DataType};
use super::weights::{Grouping, grouping};

/// A quantized input.
#[derive(Clone)]
pub(super) struct QuantizedInput {
    /// The dequantized values.
    pub(super) values: Value,
    /// Codes, zero points and scales, if they are computed from the input.
    pub(super) dynamic: Option<DynamicCodes>,
}

/// Codes 0 to 255 of an input, zero points and scales, all of them floats.
#[derive(Clone)]
pub(super) struct DynamicCodes {
    pub(super) codes: Value,
    pub(super) zero_point: Value,
    pub(super) scale: Value,
}

impl Builder<'_> {
    /// Quantizes `x` as the layer `path` with these weights requires, and returns its values.
    pub(super) fn quantized_input(
        &mut self,
        path: &str,
        x: &str,
        matrix: &QuantizedMatrix,
        activation: ActivationQuant,
    ) -> Value {
        // ONNX Runtime (1.32) turns two `DequantizeLinear` that feed a `MatMul` into an integer product with one scale
        // per column, even if the weights have blocks.
        let is_apart = matrix.scheme().bits == Bits::Int8 && matches!(grouping(matrix), Grouping::Blocks(_));
        match activation {
            ActivationQuant::Float => x.to_owned(),
            ActivationQuant::Static(params) => self.static_input(path, x, params, is_apart),
            ActivationQuant::Dynamic(granularity) => self.dynamic_input(path, x, granularity).0,
        }
    }

    /// Adds `QuantizeLinear` and `DequantizeLinear`. If `is_apart` is set, other operators compute the latter.
    fn static_input(&mut self, path: &str, x: &str, params: QParams, is_apart: bool) -> Value {
        let key = format!("{x} static {:08x} {} {is_apart}", params.scale.to_bits(), params.zero_point);
        if let Some(known) = self.quantized_inputs.get(&key) {
            return known.values.clone();
        }
        let scale = self.graph.floats(format!("{path}.input_scale"), &[], &[params.scale]);
        // slm's codes are 0 to 255. With a zero point of 128 they can also be written as -128 to 127.
        let (data_type, zero_point) = match params.zero_point {
            128 => (DataType::Int8, 0),
            zero_point => (DataType::Uint8, zero_point as u8),
        };
        let content = Content::Bytes(vec![zero_point]);
        let zero_point = self.graph.initializer(format!("{path}.input_zero_point"), data_type, &[], content);
        let codes = self.graph.op(path, "QuantizeLinear", &[x, &scale, &zero_point], Vec::new());
        let values = match is_apart {
            true => {
                let codes = self.cast(path, &codes, DataType::Float);
                let zero_point = self.cast(path, &zero_point, DataType::Float);
                let centered = self.graph.op(path, "Sub", &[&codes, &zero_point], Vec::new());
                self.graph.op(path, "Mul", &[&centered, &scale], Vec::new())
            }
            false => self.graph.op(path, "DequantizeLinear", &[&codes, &scale, &zero_point], Vec::new()),
        };
        let quantized = QuantizedInput { values: values.clone(), dynamic: None };
        self.quantized_inputs.insert(key, quantized);
        values
    }

    /// Quantizes `x` with parameters computed from it, like `choose_qparams_dynamic` in slm-quant-core: in 64 bits, so
    /// that the codes are the same.
    fn dynamic_input(
        &mut self,
        path: &str,
        x: &str,
        granularity: ActivationGranularity,
    ) -> (Value, Option<DynamicCodes>) {
        let key = format!("{x} dynamic {granularity}");
        if let Some(known) = self.quantized_inputs.get(&key) {
            return (known.values.clone(), known.dynamic.clone());
        }
        let codes = self.dynamic_codes(path, x, granularity);
        let graph = &mut self.graph;
        let centered = graph.op(path, "Sub", &[&codes.codes, &codes.zero_point], Vec::new());
        let values = graph.op(path, "Mul", &[&centered, &codes.scale], Vec::new());
        let quantized = QuantizedInput { values: values.clone(), dynamic: Some(codes.clone()) };
        self.quantized_inputs.insert(key, quantized);
        (values, Some(codes))
    }

    pub(super) fn dynamic_codes(
        &mut self,
        path: &str,
        x: &str,
        granularity: ActivationGranularity,
    ) -> DynamicCodes {
        let zero = self.graph.float(0.0);
        let axes = match granularity {
            ActivationGranularity::PerToken => vec![-1],
            ActivationGranularity::PerTensor => vec![0, 1, 2],
        };
        let axes = self.graph.ints(&axes);
        let mut bound = |reduce: &str, keep: &str| {
            let bound = self.graph.op(path, reduce, &[x, &axes], vec![AttributeProto::int("keepdims", 1)]);
            let bound = self.graph.op(path, keep, &[&bound, &zero], Vec::new());
            self.cast(path, &bound, DataType::Double)
        };
        let (lo, hi) = (bound("ReduceMin", "Min"), bound("ReduceMax", "Max"));
        let graph = &mut self.graph;
        let steps = graph.double(255.0);
        let width = graph.op(path, "Sub", &[&hi, &lo], Vec::new());
        let scale = graph.op(path, "Div", &[&width, &steps], Vec::new());
        // For scales whose reciprocal is not a finite f32.
        let tiny = graph.double(2.0_f64.powi(-128));
        let is_tiny = graph.op(path, "LessOrEqual", &[&scale, &tiny], Vec::new());
        let instead = graph.double(0.1);
        let scale = graph.op(path, "Where", &[&is_tiny, &instead, &scale], Vec::new());
        // Raising a scale also stretches the bounds, so the zero point does not change.
        let low = graph.op(path, "Neg", &[&lo], Vec::new());
        let steps_below = graph.op(path, "Div", &[&low, &scale], Vec::new());
        let zero_point = graph.op(path, "Round", &[&steps_below], Vec::new());
        let floor = graph.double(f64::from(DYNAMIC_SCALE_FLOOR));
        let scale = graph.op(path, "Max", &[&scale, &floor], Vec::new());
        let zero_point = self.cast(path, &zero_point, DataType::Float);
        let scale = self.cast(path, &scale, DataType::Float);
        let graph = &mut self.graph;
        let inverse = graph.op(path, "Reciprocal", &[&scale], Vec::new());
        let steps = graph.op(path, "Mul", &[x, &inverse], Vec::new());
        let rounded = graph.op(path, "Round", &[&steps], Vec::new());
        let moved = graph.op(path, "Add", &[&rounded, &zero_point], Vec::new());
        let (least, most) = (graph.float(0.0), graph.float(255.0));
        let codes = graph.op(path, "Clip", &[&moved, &least, &most], Vec::new());
        DynamicCodes { codes, zero_point, scale }
    }
}
