//! A graph under construction.

use std::collections::BTreeMap;

use super::initializer::{Content, Initializer};
use super::proto::{
    AttributeProto, DataType, Dimension, DimensionProto, GraphProto, NodeProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};

/// The name of a node's output, or of an initializer.
pub(super) type Value = String;

/// Domain of ONNX Runtime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// Nodes in topological order, and initializers.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) proto: GraphProto,
    pub(super) initializers: Vec<Initializer>,
    /// Number of uses of each name.
    names: BTreeMap<String, usize>,
}

impl Graph {
    /// Adds a node with one output, named after the node.
    pub(super) fn op(
        &mut self,
        path: &str,
        op_type: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> Value {
        let name = self.unique(format!("{path}/{op_type}"));
        self.named(&name.clone(), op_type, "", inputs, &[&name], attributes);
        name
    }

    /// Adds a node with one output called `output`.
    pub(super) fn op_as(
        &mut self,
        output: &str,
        op_type: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> Value {
        self.named(output, op_type, "", inputs, &[output], attributes);
        output.to_owned()
    }

    /// Adds a node with several outputs.
    pub(super) fn op_many<const N: usize>(
        &mut self,
        path: &str,
        op_type: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> [Value; N] {
        let name = self.unique(format!("{path}/{op_type}"));
        let outputs: [Value; N] = std::array::from_fn(|index| format!("{name}.{index}"));
        let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
        self.named(&name, op_type, "", inputs, &names, attributes);
        outputs
    }

    /// Adds a node of any domain. An omitted input has an empty name.
    pub(super) fn named(
        &mut self,
        name: &str,
        op_type: &str,
        domain: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        self.proto.node.push(NodeProto {
            input: owned(inputs),
            output: owned(outputs),
            name: name.to_owned(),
            op_type: op_type.to_owned(),
            attribute: attributes,
            domain: domain.to_owned(),
        });
    }

    /// Returns `name`, with a number appended if it was used before.
    pub(super) fn unique(&mut self, name: String) -> String {
        let count = self.names.entry(name.clone()).or_insert(0);
        *count += 1;
        match *count {
            1 => name,
            count => format!("{name}_{}", count - 1),
        }
    }

    /// Adds an initializer, unless one of that name exists.
    pub(super) fn initializer(
        &mut self,
        name: impl Into<String>,
        data_type: DataType,
        dims: &[usize],
        content: Content,
    ) -> Value {
        let name = name.into();
        if !self.initializers.iter().any(|known| known.name == name) {
            self.initializers.push(Initializer {
                name: name.clone(),
                data_type,
                dims: dims.to_vec(),
                content,
            });
        }
        name
    }

    /// Adds an initializer with these floats.
    pub(super) fn floats(&mut self, name: impl Into<String>, dims: &[usize], values: &[f32]) -> Value {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, DataType::Float, dims, Content::Bytes(bytes))
    }

    /// Adds a scalar float.
    pub(super) fn float(&mut self, value: f32) -> Value {
        self.floats(format!("constant.f32.{value:e}"), &[], &[value])
    }

    /// Adds a scalar 64-bit float.
    pub(super) fn double(&mut self, value: f64) -> Value {
        let bytes = value.to_le_bytes().to_vec();
        self.initializer(format!("constant.f64.{value:e}"), DataType::Double, &[], Content::Bytes(bytes))
    }

    /// Adds a scalar integer.
    pub(super) fn int(&mut self, value: i64) -> Value {
        let bytes = value.to_le_bytes().to_vec();
        self.initializer(format!("constant.i64.{value}"), DataType::Int64, &[], Content::Bytes(bytes))
    }

    /// Adds a vector of integers, such as axes or a shape.
    pub(super) fn ints(&mut self, values: &[i64]) -> Value {
        let words: Vec<String> = values.iter().map(i64::to_string).collect();
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let name = format!("constant.i64[{}]", words.join(","));
        self.initializer(name, DataType::Int64, &[values.len()], Content::Bytes(bytes))
    }

    /// Declares an input of the graph.
    pub(super) fn input(&mut self, name: &str, data_type: DataType, shape: &[Dimension]) -> Value {
        self.proto.input.push(value_info(name, data_type, shape));
        name.to_owned()
    }

    /// Declares that the value `name` is an output of the graph.
    pub(super) fn output(&mut self, name: &str, data_type: DataType, shape: &[Dimension]) {
        self.proto.output.push(value_info(name, data_type, shape));
    }
}

fn value_info(name: &str, data_type: DataType, shape: &[Dimension]) -> ValueInfoProto {
    let dim = shape.iter().map(|dim| DimensionProto { value: Some(dim.clone()) }).collect();
    let tensor_type =
        Some(TensorTypeProto { elem_type: data_type as i32, shape: Some(TensorShapeProto { dim }) });
    ValueInfoProto { name: name.to_owned(), kind: Some(TypeProto { tensor_type }) }
}

/// A dimension of fixed size.
pub(super) fn size(size: usize) -> Dimension {
    Dimension::Size(i64::try_from(size).unwrap_or(i64::MAX))
}

/// A dimension of variable size.
pub(super) fn named_size(name: &str) -> Dimension {
    Dimension::Name(name.to_owned())
}
