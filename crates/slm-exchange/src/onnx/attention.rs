//! Attention: positions, masks, rotation, and products of queries with keys and values.

use slm_model::{LayerSpec, QkNorm, RotaryConfig, RotaryFrequencies};

use super::builder::Builder;
use super::graph::Value;
use super::proto::{AttributeProto, DataType};
use crate::{Error, Result};

/// The inputs of attention that all layers share: positions, and values derived from them.
#[derive(Debug)]
pub(super) struct Positions {
    /// Positions of the ids, `[sequence]`.
    pub(super) queries: Value,
    /// Sines and cosines, `[sequence, pairs]`, of each kind of rotation.
    pub(super) rotations: Vec<(RotaryConfig, Rotation)>,
    /// For each window of a layer, the mask that is added to scores, `[sequence, past + sequence]`.
    pub(super) masks: Vec<(Option<usize>, Value)>,
    /// With an attention mask: the last position of each sequence, and the length of the longest.
    pub(super) lengths: Option<(Value, Value)>,
}

/// Sines and cosines of a rotation.
#[derive(Debug, Clone)]
pub(super) struct Rotation {
    pub(super) pairs: usize,
    pub(super) cos: Value,
    pub(super) sin: Value,
}

impl Positions {
    /// The rotation that a layer uses.
    pub(super) fn rotation(&self, config: &RotaryConfig) -> Option<Rotation> {
        self.rotations.iter().find(|(known, _)| known == config).map(|(_, rotation)| rotation.clone())
    }
}

impl Builder<'_> {
    /// Computes positions of the ids, masks and rotations.
    pub(super) fn positions(&mut self, ids: &str) -> Result<Positions> {
        let path = "positions";
        let layers = self.source.model().layers();
        let dimension =
            |axis: i64| vec![AttributeProto::int("start", axis), AttributeProto::int("end", axis + 1)];
        let graph = &mut self.graph;
        let (zero, one) = (graph.int(0), graph.int(1));
        let past = graph.op(path, "Shape", &["past_key_values.0.key"], dimension(2));
        let past = graph.op(path, "Squeeze", &[&past], Vec::new());
        let sequence = graph.op(path, "Shape", &[ids], dimension(1));
        let sequence = graph.op(path, "Squeeze", &[&sequence], Vec::new());
        let total = graph.op(path, "Add", &[&past, &sequence], Vec::new());
        let queries = graph.op(path, "Range", &[&past, &total, &one], Vec::new());
        let keys = graph.op(path, "Range", &[&zero, &total, &one], Vec::new());
        let first_axis = graph.ints(&[1]);
        let column = graph.op(path, "Unsqueeze", &[&queries, &first_axis], Vec::new());

        let mut masks: Vec<(Option<usize>, Value)> = Vec::new();
        let later = graph.op(path, "Greater", &[&keys, &column], Vec::new());
        let (kept, hidden) = (graph.float(0.0), graph.float(f32::MIN));
        for layer in &layers {
            if masks.iter().any(|(window, _)| *window == layer.sliding_window) {
                continue;
            }
            let mut unseen = later.clone();
            if let Some(window) = layer.sliding_window {
                let window = graph.int(i64::try_from(window).unwrap_or(i64::MAX));
                let distance = graph.op(path, "Sub", &[&column, &keys], Vec::new());
                let far = graph.op(path, "GreaterOrEqual", &[&distance, &window], Vec::new());
                unseen = graph.op(path, "Or", &[&unseen, &far], Vec::new());
            }
            let mask = graph.op(path, "Where", &[&unseen, &hidden, &kept], Vec::new());
            masks.push((layer.sliding_window, mask));
        }

        let mut rotations: Vec<(RotaryConfig, Rotation)> = Vec::new();
        for config in layers.iter().filter_map(|layer| layer.rotary.as_ref()) {
            if !rotations.iter().any(|(known, _)| known == config) {
                rotations.push((config.clone(), self.rotation(config, &column, &total, rotations.len())?));
            }
        }
        Ok(Positions { queries, rotations, masks, lengths: None })
    }

    /// Sines and cosines at the positions `column` of a sequence of length `total`.
    fn rotation(
        &mut self,
        config: &RotaryConfig,
        column: &str,
        total: &str,
        index: usize,
    ) -> Result<Rotation> {
        let path = format!("rotary.{index}");
        let Some(RotaryFrequencies { frequencies, long, scale }) =
            config.frequencies(self.source.model().head_dim)
        else {
            return Err(Error::not_in_format(
                self.source.checkpoint.dir(),
                "its rotary embedding is scaled by the length of the sequence (dynamic), which the ONNX export does not \
                 compute",
            ));
        };
        let pairs = frequencies.len();
        let mut values = self.graph.floats(format!("{path}.frequencies"), &[pairs], &frequencies);
        if let Some((limit, long)) = long {
            let long = self.graph.floats(format!("{path}.long_frequencies"), &[pairs], &long);
            let limit = self.graph.int(i64::try_from(limit).unwrap_or(i64::MAX));
            let is_long = self.graph.op(&path, "Greater", &[total, &limit], Vec::new());
            values = self.graph.op(&path, "Where", &[&is_long, &long, &values], Vec::new());
        }
        let positions = self.cast(&path, column, DataType::Float);
        let angles = self.graph.op(&path, "Mul", &[&positions, &values], Vec::new());
        let mut function = |op: &str| {
            let values = self.graph.op(&path, op, &[&angles], Vec::new());
            self.scaled(&path, values, f64::from(scale))
        };
        Ok(Rotation { pairs, cos: function("Cos"), sin: function("Sin") })
    }

    /// The output of attention in layer `index`. Its keys and values become outputs of the graph.
    pub(super) fn attention(
        &mut self,
        index: usize,
        spec: &LayerSpec,
        positions: &Positions,
        x: &str,
    ) -> Result<Value> {
        let model = self.source.model();
        let (heads, kv_heads, head_dim) = (model.num_heads, model.num_kv_heads, model.head_dim);
        let path = format!("layers.{index}.self_attn");
        let linear = |builder: &mut Self, part: &str| builder.linear(&format!("{path}.{part}_proj"), x);
        let (q, k, v) = (linear(self, "q")?, linear(self, "k")?, linear(self, "v")?);
        let rotation = spec.rotary.as_ref().and_then(|config| positions.rotation(config));
        let placed = |builder: &mut Self, part: &str, x: Value, heads: usize| -> Result<Value> {
            let norm = format!("{path}.{part}_norm");
            let x = match spec.qk_norm {
                QkNorm::Full => builder.rms_norm(&norm, &x)?,
                QkNorm::None | QkNorm::PerHead => x,
            };
            let x = builder.split_heads(&path, &x, heads);
            let x = match spec.qk_norm {
                QkNorm::PerHead => builder.rms_norm(&norm, &x)?,
                QkNorm::None | QkNorm::Full => x,
            };
            Ok(match &rotation {
                Some(rotation) => builder.rotate(&path, &x, rotation),
                None => x,
            })
        };
        let q = placed(self, "q", q, heads)?;
        let k = placed(self, "k", k, kv_heads)?;
        let v = self.split_heads(&path, &v, kv_heads);
        let k = self.grown(index, "key", &k);
        let v = self.grown(index, "value", &v);

        let scale = spec.attention_scale.unwrap_or_else(|| 1.0 / (head_dim as f64).sqrt());
        let q = self.scaled(&path, q, scale);
        let mask = positions.masks.iter().find(|(window, _)| *window == spec.sliding_window);
        let groups = heads / kv_heads;
        let width = (heads * head_dim) as i64;
        let graph = &mut self.graph;
        // Heads that share keys and values become a separate dimension.
        let (q, k, v) = if groups == 1 {
            (q, k, v)
        } else {
            let shape = graph.ints(&[0, kv_heads as i64, groups as i64, -1, head_dim as i64]);
            let axis = graph.ints(&[2]);
            (
                graph.op(&path, "Reshape", &[&q, &shape], Vec::new()),
                graph.op(&path, "Unsqueeze", &[&k, &axis], Vec::new()),
                graph.op(&path, "Unsqueeze", &[&v, &axis], Vec::new()),
            )
        };
        let perm = |perm: &[i64]| vec![AttributeProto::ints("perm", perm)];
        let (turned, back): (&[i64], &[i64]) =
            if groups == 1 { (&[0, 1, 3, 2], &[0, 2, 1, 3]) } else { (&[0, 1, 2, 4, 3], &[0, 3, 1, 2, 4]) };
        let k = graph.op(&path, "Transpose", &[&k], perm(turned));
        let mut scores = graph.op(&path, "MatMul", &[&q, &k], Vec::new());
        if let Some((_, mask)) = mask {
            scores = graph.op(&path, "Add", &[&scores, mask], Vec::new());
        }
        let weights = graph.op(&path, "Softmax", &[&scores], vec![AttributeProto::int("axis", -1)]);
        let y = graph.op(&path, "MatMul", &[&weights, &v], Vec::new());
        let y = graph.op(&path, "Transpose", &[&y], perm(back));
        let shape = graph.ints(&[0, 0, width]);
        let y = graph.op(&path, "Reshape", &[&y, &shape], Vec::new());
        self.linear(&format!("{path}.o_proj"), &y)
    }

    /// Reshapes `[batch, sequence, heads * head_dim]` to `[batch, heads, sequence, head_dim]`.
    pub(super) fn split_heads(&mut self, path: &str, x: &str, heads: usize) -> Value {
        let shape = self.graph.ints(&[0, 0, heads as i64, self.source.model().head_dim as i64]);
        let x = self.graph.op(path, "Reshape", &[x, &shape], Vec::new());
        self.graph.op(path, "Transpose", &[&x], vec![AttributeProto::ints("perm", &[0, 2, 1, 3])])
    }

    /// Rotates the first `2 * pairs` values of each head of `x`, `[batch, heads, sequence, head_dim]`.
    pub(super) fn rotate(&mut self, path: &str, x: &str, rotation: &Rotation) -> Value {
        let Rotation { pairs, cos, sin } = rotation;
        let rest = self.source.model().head_dim - 2 * pairs;
        let last = || vec![AttributeProto::int("axis", -1)];
        let graph = &mut self.graph;
        let (a, b, kept) = if rest == 0 {
            let sizes = graph.ints(&[*pairs as i64; 2]);
            let [a, b] = graph.op_many(path, "Split", &[x, &sizes], last());
            (a, b, None)
        } else {
            let sizes = graph.ints(&[*pairs as i64, *pairs as i64, rest as i64]);
            let [a, b, kept] = graph.op_many(path, "Split", &[x, &sizes], last());
            (a, b, Some(kept))
        };
        let mut product = |x: &str, by: &str| graph.op(path, "Mul", &[x, by], Vec::new());
        let (a_cos, b_sin, b_cos, a_sin) =
            (product(&a, cos), product(&b, sin), product(&b, cos), product(&a, sin));
        let first = graph.op(path, "Sub", &[&a_cos, &b_sin], Vec::new());
        let second = graph.op(path, "Add", &[&b_cos, &a_sin], Vec::new());
        let mut parts = vec![first.as_str(), &second];
        parts.extend(kept.as_deref());
        graph.op(path, "Concat", &parts, last())
    }

    /// The keys or values of layer `index` including the new ones, an output of the graph.
    fn grown(&mut self, index: usize, part: &str, x: &str) -> Value {
        let past = format!("past_key_values.{index}.{part}");
        let present = format!("present.{index}.{part}");
        self.graph.op_as(&present, "Concat", &[&past, x], vec![AttributeProto::int("axis", 2)])
    }
}
