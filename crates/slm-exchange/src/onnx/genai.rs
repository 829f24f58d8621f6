//! The profile for onnxruntime-genai: ONNX Runtime's own operators `MatMulNBits` and `GroupQueryAttention`, an
//! attention mask as input, and `genai_config.json`.
//!
//! Codes are stored by row, as `MatMulNBits` requires, and unsigned: 0 becomes 8 or 128. A scale that several blocks
//! share is repeated.

use serde_json::{Map, Value as Json, json};
use slm_checkpoint::Checkpoint;
use slm_model::{LayerSpec, QkNorm, RotaryConfig, RotaryFrequencies};
use slm_quant_core::{ActivationQuant, Bits, QuantizedMatrix};

use super::attention::{Positions, Rotation};
use super::builder::Builder;
use super::graph::{MICROSOFT, Value, named_size};
use super::initializer::{Content, pack_unsigned};
use super::proto::{AttributeProto, DataType};
use super::weights::{Grouping, grouping};
use super::write::MODEL;
use crate::report::Fidelity;
use crate::{Error, Result};

/// The settings file of onnxruntime-genai.
pub(super) const GENAI_CONFIG: &str = "genai_config.json";
/// Block width of a matrix whose rows have one scale.
const BLOCK: usize = 32;
/// Smallest block width of the operators.
const MIN_BLOCK: usize = 16;
/// Required divisor of the width of a head.
const HEAD_MULTIPLE: usize = 16;
/// Required divisor of the number of pairs of a head that the operator rotates.
const PAIRS_MULTIPLE: usize = 8;
/// `accuracy_level` of a product with 32-bit float inputs.
const FLOAT_INPUTS: i64 = 1;
/// `accuracy_level` of a product whose inputs are rounded to 8 bits, block by block.
const INT8_INPUTS: i64 = 4;

/// Codes, scales and zero points in the layout of `MatMulNBits` and `GatherBlockQuantized`.
pub(super) struct Blocks {
    codes: Value,
    scales: Value,
    zero_points: Option<Value>,
    block: usize,
    bits: Bits,
}

/// Returns the block width for storing `matrix`; `None` if its groups are not a multiple of any supported width.
pub(super) fn block_width(matrix: &QuantizedMatrix) -> Option<usize> {
    match grouping(matrix) {
        Grouping::Tensor | Grouping::Rows => Some(BLOCK),
        // The largest power of two that divides the width.
        Grouping::Blocks(width) => Some(1 << width.trailing_zeros()).filter(|&block| block >= MIN_BLOCK),
    }
}

/// Returns `true` if `GroupQueryAttention` supports the rotation. Otherwise queries and keys are rotated before it.
fn rotates(rotation: &Rotation) -> bool {
    rotation.pairs.is_multiple_of(PAIRS_MULTIPLE)
}

impl Builder<'_> {
    /// The initializers of a quantized matrix in blocks, if a width fits.
    pub(super) fn blocks(
        &mut self,
        name: &str,
        matrix: &QuantizedMatrix,
        activation: ActivationQuant,
    ) -> Option<Blocks> {
        let block = block_width(matrix)?;
        let bits = matrix.scheme().bits;
        let (rows, per_row) = (matrix.rows(), matrix.cols().div_ceil(block));
        let index = |row: usize, at: usize| matrix.scale_index(row, at * block / matrix.group_width());
        let each = || (0..rows).flat_map(|row| (0..per_row).map(move |at| (row, at)));
        let scales: Vec<f32> = each().map(|(row, at)| matrix.scales().get(index(row, at))).collect();
        let shape = [rows, per_row, block * usize::from(bits.count()) / 8];
        let fidelity = match activation {
            ActivationQuant::Float => Fidelity::Exact,
            _ => Fidelity::Changed {
                how: "the same codes and scales, for inputs that MatMulNBits rounds by rules of its own"
                    .to_owned(),
            },
        };
        self.report(name, &format!("int{} block {block}", bits.count()), &[rows, matrix.cols()], fidelity);
        let content = Content::Blocks { tensor: name.to_owned(), block };
        let codes = self.graph.initializer(format!("{name}_quantized"), DataType::Uint8, &shape, content);
        let scales = self.graph.floats(format!("{name}_scale"), &[rows, per_row], &scales);
        let zero_points = matrix.zero_points().map(|zero_points| {
            let mut bytes = Vec::new();
            for row in 0..rows {
                let row: Vec<i8> = (0..per_row).map(|at| zero_points[index(row, at)]).collect();
                pack_unsigned(bits, &row, &mut bytes);
            }
            let shape = [rows, bytes.len() / rows];
            self.graph.initializer(
                format!("{name}_zero_point"),
                DataType::Uint8,
                &shape,
                Content::Bytes(bytes),
            )
        });
        Some(Blocks { codes, scales, zero_points, block, bits })
    }

    /// Multiplies `x`, `[..., cols]`, with a matrix in blocks.
    pub(super) fn block_matmul(
        &mut self,
        path: &str,
        x: &str,
        blocks: &Blocks,
        matrix: &QuantizedMatrix,
        activation: ActivationQuant,
    ) -> Value {
        let accuracy = match activation {
            ActivationQuant::Float => FLOAT_INPUTS,
            _ => INT8_INPUTS,
        };
        let attributes = vec![
            AttributeProto::int("K", matrix.cols() as i64),
            AttributeProto::int("N", matrix.rows() as i64),
            AttributeProto::int("bits", i64::from(blocks.bits.count())),
            AttributeProto::int("block_size", blocks.block as i64),
            AttributeProto::int("accuracy_level", accuracy),
        ];
        let mut inputs = vec![x, &blocks.codes, &blocks.scales];
        inputs.extend(blocks.zero_points.as_deref());
        self.microsoft(path, "MatMulNBits", &inputs, attributes)
    }

    /// Looks up the rows `ids` of a matrix in blocks. Its rows must be whole blocks.
    pub(super) fn block_gather(&mut self, path: &str, ids: &str, blocks: &Blocks) -> Value {
        let flat = self.graph.ints(&[0, -1]);
        let table = self.graph.op(path, "Reshape", &[&blocks.codes, &flat], Vec::new());
        let attributes = vec![
            AttributeProto::int("bits", i64::from(blocks.bits.count())),
            AttributeProto::int("block_size", blocks.block as i64),
            AttributeProto::int("gather_axis", 0),
            AttributeProto::int("quantize_axis", 1),
        ];
        let mut inputs = vec![table.as_str(), ids, &blocks.scales];
        inputs.extend(blocks.zero_points.as_deref());
        self.microsoft(path, "GatherBlockQuantized", &inputs, attributes)
    }

    fn microsoft(
        &mut self,
        path: &str,
        op_type: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> Value {
        let name = self.graph.unique(format!("{path}/{op_type}"));
        self.graph.named(&name.clone(), op_type, MICROSOFT, inputs, &[&name], attributes);
        name
    }

    /// Computes lengths of the sequences from the attention mask, and the rotations of all positions.
    pub(super) fn mask_positions(&mut self, ids: &str) -> Result<Positions> {
        let path = "positions";
        let mask = [named_size("batch"), named_size("past + sequence")];
        let mask = self.graph.input("attention_mask", DataType::Int64, &mask);
        let graph = &mut self.graph;
        let dimension = vec![AttributeProto::int("start", 1), AttributeProto::int("end", 2)];
        let total = graph.op(path, "Shape", &[&mask], dimension.clone());
        let total = graph.op(path, "Squeeze", &[&total], Vec::new());
        let sequence = graph.op(path, "Shape", &[ids], dimension);
        let sequence = graph.op(path, "Squeeze", &[&sequence], Vec::new());
        let (one, rows) = (graph.int(1), graph.ints(&[1]));
        let past = graph.op(path, "Sub", &[&total, &sequence], Vec::new());
        let queries = graph.op(path, "Range", &[&past, &total, &one], Vec::new());
        let sums = graph.op(path, "ReduceSum", &[&mask, &rows], vec![AttributeProto::int("keepdims", 0)]);
        let last = graph.op(path, "Sub", &[&sums, &one], Vec::new());
        let last = self.cast(path, &last, DataType::Int32);
        let total = self.cast(path, &total, DataType::Int32);

        let model = self.source.model();
        if !model.head_dim.is_multiple_of(HEAD_MULTIPLE) {
            let what = format!(
                "its heads are {} wide, and GroupQueryAttention takes multiples of {HEAD_MULTIPLE}",
                model.head_dim
            );
            return Err(Error::NotInProfile { path: self.source.checkpoint.dir().to_owned(), what });
        }
        let mut rotations: Vec<(RotaryConfig, Rotation)> = Vec::new();
        for config in model.layers().iter().filter_map(|layer| layer.rotary.as_ref()) {
            if rotations.iter().any(|(known, _)| known == config) {
                continue;
            }
            let Some(RotaryFrequencies { frequencies, long: None, scale }) =
                config.frequencies(model.head_dim)
            else {
                let what = "its rotary embedding is scaled by the length of the sequence, which GroupQueryAttention does \
                            not compute";
                let path = self.source.checkpoint.dir().to_owned();
                return Err(Error::NotInProfile { path, what: what.to_owned() });
            };
            let (pairs, positions) = (frequencies.len(), model.max_position_embeddings);
            let path = format!("rotary.{}", rotations.len());
            let mut table = |name: &str, function: fn(f32) -> f32| {
                let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |&f| p as f32 * f));
                let values: Vec<f32> = angles.map(|angle| function(angle) * scale).collect();
                self.graph.floats(format!("{path}.{name}"), &[positions, pairs], &values)
            };
            let (cos, sin) = (table("cos", f32::cos), table("sin", f32::sin));
            let mut rotation = Rotation { pairs, cos, sin };
            if !rotates(&rotation) {
                for table in [&mut rotation.cos, &mut rotation.sin] {
                    *table = self.graph.op(&path, "Gather", &[table, &queries], Vec::new());
                }
            }
            rotations.push((config.clone(), rotation));
        }
        Ok(Positions { queries, rotations, masks: Vec::new(), lengths: Some((last, total)) })
    }

    /// Computes the attention of layer `index` with one operator.
    pub(super) fn group_query_attention(
        &mut self,
        index: usize,
        spec: &LayerSpec,
        positions: &Positions,
        x: &str,
    ) -> Result<Value> {
        let model = self.source.model();
        let path = format!("layers.{index}.self_attn");
        let q = self.linear(&format!("{path}.q_proj"), x)?;
        let k = self.linear(&format!("{path}.k_proj"), x)?;
        let v = self.linear(&format!("{path}.v_proj"), x)?;
        let rotation = spec.rotary.as_ref().and_then(|config| positions.rotation(config));
        let (inside, before) = match &rotation {
            Some(rotation) if rotates(rotation) => (Some(rotation), None),
            other => (None, other.as_ref()),
        };
        let q = self.placed_heads(&path, "q_norm", spec.qk_norm, before, q, model.num_heads)?;
        let k = self.placed_heads(&path, "k_norm", spec.qk_norm, before, k, model.num_kv_heads)?;

        let scale = spec.attention_scale.unwrap_or_else(|| 1.0 / (model.head_dim as f64).sqrt());
        let mut attributes = vec![
            AttributeProto::int("num_heads", model.num_heads as i64),
            AttributeProto::int("kv_num_heads", model.num_kv_heads as i64),
            AttributeProto::float("scale", scale as f32),
            AttributeProto::int("do_rotary", i64::from(inside.is_some())),
        ];
        if let Some(window) = spec.sliding_window {
            attributes.push(AttributeProto::int("local_window_size", window as i64));
        }
        let past = ["key", "value"].map(|part| format!("past_key_values.{index}.{part}"));
        let present = ["key", "value"].map(|part| format!("present.{index}.{part}"));
        let (last, total) = positions.lengths.clone().unwrap_or_default();
        let mut inputs = vec![q.as_str(), &k, &v, &past[0], &past[1], &last, &total];
        if let Some(Rotation { cos, sin, .. }) = inside {
            inputs.extend([cos.as_str(), sin]);
        }
        let name = format!("{path}/GroupQueryAttention");
        let outputs = [name.as_str(), &present[0], &present[1]];
        self.graph.named(&name, "GroupQueryAttention", MICROSOFT, &inputs, &outputs, attributes);
        self.linear(&format!("{path}.o_proj"), &name)
    }

    /// Queries or keys `[batch, sequence, heads * head_dim]`, with the layer's norm applied and rotated by `rotation`.
    fn placed_heads(
        &mut self,
        path: &str,
        norm: &str,
        kind: QkNorm,
        rotation: Option<&Rotation>,
        x: Value,
        heads: usize,
    ) -> Result<Value> {
        let norm = format!("{path}.{norm}");
        let x = match kind {
            QkNorm::Full => self.rms_norm(&norm, &x)?,
            QkNorm::None | QkNorm::PerHead => x,
        };
        if kind != QkNorm::PerHead && rotation.is_none() {
            return Ok(x);
        }
        let mut x = self.split_heads(path, &x, heads);
        if kind == QkNorm::PerHead {
            x = self.rms_norm(&norm, &x)?;
        }
        if let Some(rotation) = rotation {
            x = self.rotate(path, &x, rotation);
        }
        let x = self.graph.op(path, "Transpose", &[&x], vec![AttributeProto::ints("perm", &[0, 2, 1, 3])]);
        let joined = self.graph.ints(&[0, 0, (heads * self.source.model().head_dim) as i64]);
        Ok(self.graph.op(path, "Reshape", &[&x, &joined], Vec::new()))
    }
}

/// The settings of onnxruntime-genai for `checkpoint`.
pub(super) fn config(checkpoint: &Checkpoint) -> Json {
    let (model, tokens) = (&checkpoint.config().model, &checkpoint.config().tokenizer);
    let length = model.max_position_embeddings;
    let pad = tokens.eos_token_ids.first().or(tokens.bos_token_id.as_ref()).copied().unwrap_or(0);
    let mut settings = Map::new();
    if let Some(bos) = tokens.bos_token_id {
        settings.insert("bos_token_id".to_owned(), bos.into());
    }
    let known = json!({
        // A generic decoder: all inputs and outputs are named here, for any family.
        "type": "decoder",
        "context_length": length,
        "eos_token_id": tokens.eos_token_ids,
        "pad_token_id": pad,
        "vocab_size": model.vocab_size,
        "decoder": {
            "session_options": { "log_id": "onnxruntime-genai", "provider_options": [] },
            "filename": MODEL,
            "head_size": model.head_dim,
            "hidden_size": model.hidden_size,
            "num_attention_heads": model.num_heads,
            "num_hidden_layers": model.num_layers,
            "num_key_value_heads": model.num_kv_heads,
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
        },
    });
    if let Json::Object(known) = known {
        settings.extend(known);
    }
    json!({
        "model": settings,
        "search": { "do_sample": false, "max_length": length, "min_length": 0, "num_beams": 1,
                    "past_present_share_buffer": true },
    })
}
