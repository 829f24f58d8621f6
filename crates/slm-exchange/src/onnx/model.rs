//! A model as a graph: the same sequence of layers as in `slm-model` (`compute/walk.rs`), in ONNX operators.
//!
//! | input or output | type | shape |
//! |---|---|---|
//! | `input_ids` | INT64 | `[batch, sequence]` |
//! | `past_key_values.N.key`, `.value` | FLOAT | `[batch, kv_heads, past, head_dim]` |
//! | `logits` | FLOAT | `[batch, sequence, vocabulary]` |
//! | `present.N.key`, `.value` | FLOAT | `[batch, kv_heads, past + sequence, head_dim]` |
//!
//! The first id has position `past`. All sequences of a batch have the same length, except in the profile for
//! onnxruntime-genai, which has `attention_mask` as an additional input.

use slm_model::{Activation, EMBED_POSITIONS, FINAL_NORM, LM_HEAD, LayerSpec, NormKind, Position};

use super::attention::Positions;
use super::builder::Builder;
use super::graph::{Value, named_size, size};
use super::initializer::dequantized;
use super::proto::{AttributeProto, DataType};
use super::table::Table;
use crate::source::Stored;
use crate::{OnnxProfile, Result};

impl Builder<'_> {
    /// Adds the whole model.
    pub(super) fn model(&mut self) -> Result<()> {
        let model = self.source.model();
        let ids =
            self.graph.input("input_ids", DataType::Int64, &[named_size("batch"), named_size("sequence")]);
        for index in 0..model.num_layers {
            for part in ["key", "value"] {
                let shape =
                    [named_size("batch"), size(model.num_kv_heads), named_size("past"), size(model.head_dim)];
                self.graph.input(&format!("past_key_values.{index}.{part}"), DataType::Float, &shape);
            }
        }
        let positions = match self.profile {
            OnnxProfile::Standard => self.positions(&ids)?,
            OnnxProfile::OrtGenai => self.mask_positions(&ids)?,
        };
        let (table, mut stream) = self.embed(&ids, &positions)?;
        for (index, spec) in model.layers().iter().enumerate() {
            stream = self.layer(index, spec, &positions, stream)?;
        }
        let x = self.norm(FINAL_NORM, &stream)?;
        self.head(&x, &table)?;
        let vocabulary = size(model.vocab_size);
        let shape = [named_size("batch"), named_size("sequence"), vocabulary];
        self.graph.output("logits", DataType::Float, &shape);
        for index in 0..model.num_layers {
            for part in ["key", "value"] {
                let shape = [
                    named_size("batch"),
                    size(model.num_kv_heads),
                    named_size("past + sequence"),
                    size(model.head_dim),
                ];
                self.graph.output(&format!("present.{index}.{part}"), DataType::Float, &shape);
            }
        }
        Ok(())
    }

    /// Computes the residual stream before the first layer.
    fn embed(&mut self, ids: &str, positions: &Positions) -> Result<(Table, Value)> {
        let model = self.source.model();
        let (table, stream) = self.table(ids)?;
        let mut stream = self.scaled("embed_tokens", stream, model.embedding_multiplier);
        if model.position == Position::Learned {
            let values = match self.source.read(EMBED_POSITIONS)? {
                Stored::Float(values) => values,
                Stored::Quantized(matrix, _) => dequantized(&matrix),
            };
            let vectors = self.float_matrix(EMBED_POSITIONS, &values, false);
            let path = "embed_positions";
            let vectors = self.graph.op(path, "Gather", &[&vectors, &positions.queries], Vec::new());
            stream = self.graph.op(path, "Add", &[&stream, &vectors], Vec::new());
        }
        Ok((table, stream))
    }

    fn layer(
        &mut self,
        index: usize,
        spec: &LayerSpec,
        positions: &Positions,
        stream: Value,
    ) -> Result<Value> {
        let path = format!("layers.{index}");
        let factor = spec.residual_multiplier;
        let (on_input, on_output) = (spec.norm_placement.on_input(), spec.norm_placement.on_output());
        let attention = |builder: &mut Self, stream: &str| -> Result<Value> {
            let x = builder.norm_if(on_input, &format!("{path}.input_norm"), stream)?;
            let y = match builder.profile {
                OnnxProfile::Standard => builder.attention(index, spec, positions, &x)?,
                OnnxProfile::OrtGenai => builder.group_query_attention(index, spec, positions, &x)?,
            };
            builder.norm_if(on_output, &format!("{path}.attention_output_norm"), &y)
        };
        let mlp = |builder: &mut Self, stream: &str| -> Result<Value> {
            let x = builder.norm_if(on_input, &format!("{path}.post_attention_norm"), stream)?;
            let y = builder.mlp(&format!("{path}.mlp"), spec, &x)?;
            builder.norm_if(on_output, &format!("{path}.mlp_output_norm"), &y)
        };
        let y = attention(self, &stream)?;
        let after = self.residual(&path, &stream, y, factor);
        let y = mlp(self, if spec.parallel_residual { &stream } else { &after })?;
        Ok(self.residual(&path, &after, y, factor))
    }

    fn residual(&mut self, path: &str, stream: &str, y: Value, factor: f64) -> Value {
        let y = self.scaled(path, y, factor);
        self.graph.op(path, "Add", &[stream, &y], Vec::new())
    }

    /// Multiplies `x` by `factor`.
    pub(super) fn scaled(&mut self, path: &str, x: Value, factor: f64) -> Value {
        if factor == 1.0 {
            return x;
        }
        let factor = self.graph.float(factor as f32);
        self.graph.op(path, "Mul", &[&x, &factor], Vec::new())
    }

    fn mlp(&mut self, path: &str, spec: &LayerSpec, x: &str) -> Result<Value> {
        let activation = spec.mlp.activation();
        let inner = match spec.mlp.is_gated() {
            true => {
                let gate = self.linear(&format!("{path}.gate_proj"), x)?;
                let up = self.linear(&format!("{path}.up_proj"), x)?;
                let gate = self.activate(path, &gate, activation);
                self.graph.op(path, "Mul", &[&gate, &up], Vec::new())
            }
            false => {
                let up = self.linear(&format!("{path}.up_proj"), x)?;
                self.activate(path, &up, activation)
            }
        };
        self.linear(&format!("{path}.down_proj"), &inner)
    }

    fn activate(&mut self, path: &str, x: &str, activation: Activation) -> Value {
        let gelu = |kind: &str| vec![AttributeProto::string("approximate", kind)];
        match activation {
            Activation::Silu => {
                let sigmoid = self.graph.op(path, "Sigmoid", &[x], Vec::new());
                self.graph.op(path, "Mul", &[x, &sigmoid], Vec::new())
            }
            Activation::Gelu => self.graph.op(path, "Gelu", &[x], gelu("none")),
            Activation::GeluTanh => self.graph.op(path, "Gelu", &[x], gelu("tanh")),
        }
    }

    fn norm_if(&mut self, wanted: bool, path: &str, x: &str) -> Result<Value> {
        if wanted { self.norm(path, x) } else { Ok(x.to_owned()) }
    }

    /// Adds a norm of the residual stream, of the model's kind.
    fn norm(&mut self, path: &str, x: &str) -> Result<Value> {
        let model = self.source.model();
        match model.norm {
            NormKind::RmsNorm => self.rms_norm(path, x),
            NormKind::LayerNorm => {
                let weight = self.vector(&format!("{path}.weight"))?;
                let bias = self.vector(&format!("{path}.bias"))?;
                let attributes = vec![
                    AttributeProto::int("axis", -1),
                    AttributeProto::float("epsilon", model.norm_eps as f32),
                ];
                Ok(self.graph.op(path, "LayerNormalization", &[x, &weight, &bias], attributes))
            }
        }
    }

    /// Computes `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
    pub(super) fn rms_norm(&mut self, path: &str, x: &str) -> Result<Value> {
        let weight = self.vector(&format!("{path}.weight"))?;
        let graph = &mut self.graph;
        let (two, last) = (graph.float(2.0), graph.ints(&[-1]));
        let eps = graph.float(self.source.model().norm_eps as f32);
        let squares = graph.op(path, "Pow", &[x, &two], Vec::new());
        let mean = graph.op(path, "ReduceMean", &[&squares, &last], vec![AttributeProto::int("keepdims", 1)]);
        let sum = graph.op(path, "Add", &[&mean, &eps], Vec::new());
        let root = graph.op(path, "Sqrt", &[&sum], Vec::new());
        let normal = graph.op(path, "Div", &[x, &root], Vec::new());
        Ok(graph.op(path, "Mul", &[&normal, &weight], Vec::new()))
    }

    /// Computes the logits, an output of the graph.
    fn head(&mut self, x: &str, table: &Table) -> Result<()> {
        let model = self.source.model();
        let logits = match model.tie_word_embeddings {
            true => self.tied_head(x, table),
            false => self.linear(LM_HEAD, x)?,
        };
        let logits = self.scaled(LM_HEAD, logits, model.logit_multiplier);
        self.graph.op_as("logits", "Identity", &[&logits], Vec::new());
        Ok(())
    }
}
