//! Construction of a graph from a checkpoint.

use std::collections::HashMap;

use super::graph::{Graph, Value};
use super::inputs::QuantizedInput;
use super::proto::{AttributeProto, DataType};
use super::tensorrt::TensorRtRules;
use crate::OnnxProfile;
use crate::float::FloatType;
use crate::report::{Fidelity, TensorReport};
use crate::source::Source;

/// A graph under construction, with the tensors of a checkpoint.
pub(super) struct Builder<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) graph: Graph,
    pub(super) reports: Vec<TensorReport>,
    pub(super) rules: TensorRtRules,
    /// The operators that may be used.
    pub(super) profile: OnnxProfile,
    /// The type in which float matrices are stored.
    pub(super) float_type: FloatType,
    /// Inputs that were already quantized for another layer.
    pub(super) quantized_inputs: HashMap<String, QuantizedInput>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(source: &'a Source<'a>, profile: OnnxProfile, float_type: FloatType) -> Self {
        Self {
            source,
            graph: Graph::default(),
            reports: Vec::new(),
            rules: TensorRtRules::default(),
            profile,
            float_type,
            quantized_inputs: HashMap::new(),
        }
    }

    /// Casts `x` to another type.
    pub(super) fn cast(&mut self, path: &str, x: &str, data_type: DataType) -> Value {
        self.graph.op(path, "Cast", &[x], vec![AttributeProto::int("to", data_type as i64)])
    }

    pub(super) fn report(&mut self, name: &str, kind: &str, shape: &[usize], fidelity: Fidelity) {
        self.reports.push(TensorReport {
            name: name.to_owned(),
            kind: kind.to_owned(),
            shape: shape.to_vec(),
            fidelity,
        });
    }
}
