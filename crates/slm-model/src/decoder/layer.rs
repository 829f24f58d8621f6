//! One layer, on slices.

use burn::tensor::Device;
use slm_cpu_ops::{AttentionScratch, KvLayer, Queries, attend, gelu, gelu_tanh, rotate, swiglu};
use slm_nn::{SliceLinear, SliceOutput, SliceScratch, apply_linears};
use slm_runtime::HugeVec;

use super::buffers::Buffers;
use super::norm::SliceNorm;
use super::parallel::{for_each_part, rows_per_part};
use super::times::{PassTimes, Stopwatch};
use super::{broken, slice_linear};
use crate::block::Block;
use crate::config::{MlpKind, ModelConfig};
use crate::error::Result;
use crate::norm::Norm;
use crate::rotary::Angles;

/// What all layers of one pass share.
pub(super) struct Pass<'a> {
    pub(super) config: &'a ModelConfig,
    /// Position of the first row.
    pub(super) start: usize,
    pub(super) rows: usize,
    pub(super) rotary: Option<&'a Angles>,
}

/// A layer with its part of the KV cache.
#[derive(Debug)]
pub(super) struct DecoderLayer<'a> {
    index: usize,
    input_norm: SliceNorm,
    q_proj: SliceLinear<'a>,
    k_proj: SliceLinear<'a>,
    v_proj: SliceLinear<'a>,
    o_proj: SliceLinear<'a>,
    q_norm: Option<SliceNorm>,
    k_norm: Option<SliceNorm>,
    post_attention_norm: SliceNorm,
    gate_proj: Option<SliceLinear<'a>>,
    up_proj: SliceLinear<'a>,
    down_proj: SliceLinear<'a>,
    mlp: MlpKind,
    cache: KvLayer<HugeVec<f32>>,
}

impl<'a> DecoderLayer<'a> {
    pub(super) fn new(
        block: &'a Block,
        index: usize,
        config: &ModelConfig,
        capacity: usize,
        device: &Device,
    ) -> Result<Self> {
        let (attention, mlp) = (&block.self_attn, &block.mlp);
        let linear = |linear, name: &str| slice_linear(linear, device, || format!("layers.{index}.{name}"));
        let norm = |norm: &Norm| SliceNorm::new(norm, config.norm_eps);
        Ok(Self {
            index,
            input_norm: norm(&block.input_norm)?,
            q_proj: linear(&attention.q_proj, "self_attn.q_proj")?,
            k_proj: linear(&attention.k_proj, "self_attn.k_proj")?,
            v_proj: linear(&attention.v_proj, "self_attn.v_proj")?,
            o_proj: linear(&attention.o_proj, "self_attn.o_proj")?,
            q_norm: attention.q_norm.as_ref().map(norm).transpose()?,
            k_norm: attention.k_norm.as_ref().map(norm).transpose()?,
            post_attention_norm: norm(&block.post_attention_norm)?,
            gate_proj: mlp.gate_proj.as_ref().map(|gate| linear(gate, "mlp.gate_proj")).transpose()?,
            up_proj: linear(&mlp.up_proj, "mlp.up_proj")?,
            down_proj: linear(&mlp.down_proj, "mlp.down_proj")?,
            mlp: config.mlp,
            cache: KvLayer::with_buffers(config.num_kv_heads, config.head_dim, capacity, HugeVec::zeroed),
        })
    }

    pub(super) fn linears(&self) -> impl Iterator<Item = &SliceLinear<'a>> {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj]
            .into_iter()
            .chain(&self.gate_proj)
            .chain([&self.up_proj, &self.down_proj])
    }

    pub(super) fn cache_bytes(&self) -> usize {
        self.cache.byte_size()
    }

    /// Adds what a previous layer left in `buffers.delta` to the residual stream and goes on from there; leaves its
    /// own last contribution in `buffers.delta`.
    pub(super) fn run(
        &mut self,
        pass: &Pass<'_>,
        buffers: &mut Buffers,
        times: &mut PassTimes,
        watch: &mut Stopwatch,
    ) -> Result<()> {
        let Pass { config, rows, .. } = *pass;
        let hidden = rows * config.hidden_size;
        let inner = rows * config.intermediate_size;
        let (q_len, kv_len) = (rows * config.num_heads * config.head_dim, rows * self.kv_width(config));
        let Buffers { x, delta, has_delta, normed, q, k, v, attention, gate, up, .. } = buffers;
        let (scratch, attention_scratch) = (&mut buffers.linear_scratch, &mut buffers.attention_scratch);
        let (x, delta, normed) = (&mut x[..hidden], &mut delta[..hidden], &mut normed[..hidden]);
        let (q, k, v) = (&mut q[..q_len], &mut k[..kv_len], &mut v[..kv_len]);
        let attention = &mut attention[..q_len];
        let (gate, up) = (&mut gate[..inner], &mut up[..inner]);

        let previous = has_delta.then_some(&*delta);
        *has_delta = true;
        self.input_norm.add_and_normalize(x, previous, normed);
        times.rest += watch.lap();
        self.products(
            normed,
            rows,
            &mut [output(&self.q_proj, q), output(&self.k_proj, k), output(&self.v_proj, v)],
            scratch,
        )?;
        times.products += watch.lap();
        self.place(pass, q, k);
        self.cache.store(pass.start, k, v);
        times.rest += watch.lap();
        self.attend(pass, q, attention, attention_scratch);
        times.attention += watch.lap();
        self.products(attention, rows, &mut [output(&self.o_proj, delta)], scratch)?;
        times.products += watch.lap();

        self.post_attention_norm.add_and_normalize(x, Some(delta), normed);
        times.rest += watch.lap();
        match &self.gate_proj {
            Some(gate_proj) => {
                let outputs = &mut [output(gate_proj, gate), output(&self.up_proj, up)];
                self.products(normed, rows, outputs, scratch)?;
            }
            None => self.products(normed, rows, &mut [output(&self.up_proj, gate)], scratch)?,
        }
        times.products += watch.lap();
        self.activate(gate, up, config.intermediate_size);
        times.rest += watch.lap();
        self.products(gate, rows, &mut [output(&self.down_proj, delta)], scratch)?;
        times.products += watch.lap();
        Ok(())
    }

    fn products(
        &self,
        x: &[f32],
        rows: usize,
        outputs: &mut [SliceOutput<'_, '_>],
        scratch: &mut SliceScratch,
    ) -> Result<()> {
        apply_linears(x, rows, outputs, scratch)
            .map_err(|error| broken(&format!("layers.{}", self.index), &error))
    }

    fn kv_width(&self, config: &ModelConfig) -> usize {
        config.num_kv_heads * config.head_dim
    }

    /// Normalizes and rotates queries and keys.
    fn place(&self, pass: &Pass<'_>, q: &mut [f32], k: &mut [f32]) {
        if pass.rotary.is_none() && self.q_norm.is_none() && self.k_norm.is_none() {
            return;
        }
        let (q_width, k_width) = (q.len() / pass.rows, k.len() / pass.rows);
        let part = rows_per_part(pass.rows, q_width);
        let parts = q.chunks_mut(part * q_width).zip(k.chunks_mut(part * k_width)).enumerate();
        for_each_part(parts, |(index, (q, k))| {
            for (heads, norm, width) in [(q, &self.q_norm, q_width), (k, &self.k_norm, k_width)] {
                if let Some(norm) = norm {
                    norm.normalize_heads(heads);
                }
                if let Some(angles) = pass.rotary {
                    for (row, heads) in heads.chunks_exact_mut(width).enumerate() {
                        let (cos, sin) = angles.row(index * part + row);
                        rotate(heads, cos, sin);
                    }
                }
            }
        });
    }

    fn attend(&self, pass: &Pass<'_>, q: &[f32], out: &mut [f32], scratch: &mut Vec<AttentionScratch>) {
        let Pass { config, start, rows, .. } = *pass;
        let queries = Queries {
            start,
            rows,
            row_stride: q.len() / rows,
            group: config.heads_per_kv_head(),
            window: config.sliding_window,
        };
        // One row is split by heads, several by rows: either way a part's output is one piece.
        let (parts, piece) = if rows == 1 {
            let seen = config.sliding_window.unwrap_or(usize::MAX).min(start + 1);
            let heads = match q.len() * seen < SERIAL_PRODUCTS {
                true => config.num_kv_heads,
                false => config.num_kv_heads.div_ceil(4 * rayon::current_num_threads()),
            };
            (config.num_kv_heads.div_ceil(heads), heads * queries.group * config.head_dim)
        } else {
            let rows_each = rows.div_ceil(8 * rayon::current_num_threads()).next_multiple_of(ROW_TILE);
            (rows.div_ceil(rows_each), rows_each * queries.row_stride)
        };
        if scratch.len() < parts {
            scratch.resize_with(parts, AttentionScratch::default);
        }
        let pieces = q.chunks(piece).zip(out.chunks_mut(piece)).zip(scratch).enumerate();
        // The last rows see the most, so they go first.
        let mut pieces: Vec<_> = pieces.collect();
        pieces.reverse();
        for_each_part(pieces.into_iter(), |(index, ((q, out), scratch))| {
            if rows == 1 {
                let heads = piece / (queries.group * config.head_dim);
                let heads = index * heads..config.num_kv_heads.min((index + 1) * heads);
                let width = q.len();
                attend(self.cache.slice(heads), &Queries { row_stride: width, ..queries }, q, out, scratch);
            } else {
                let start = start + index * (piece / queries.row_stride);
                let rows = q.len() / queries.row_stride;
                let heads = self.cache.slice(0..config.num_kv_heads);
                attend(heads, &Queries { start, rows, ..queries }, q, out, scratch);
            }
        });
    }

    /// The MLP's function, to `gate`.
    fn activate(&self, gate: &mut [f32], up: &[f32], width: usize) {
        let part = rows_per_part(gate.len() / width, width) * width;
        for_each_part(gate.chunks_mut(part).zip(up.chunks(part)), |(gate, up)| match self.mlp {
            MlpKind::SwiGlu => swiglu(gate, up),
            MlpKind::Gelu => gelu(gate),
            MlpKind::GeluTanh => gelu_tanh(gate),
        });
    }
}

/// Multiplications below which one row's attention runs on one thread: a few microseconds, most of which keys and
/// values take to arrive.
const SERIAL_PRODUCTS: usize = 1 << 13;

/// Rows of a part of attention come in multiples of what attention handles together.
const ROW_TILE: usize = 6;

fn output<'a, 'b>(layer: &'a SliceLinear<'b>, out: &'a mut [f32]) -> SliceOutput<'a, 'b> {
    SliceOutput { layer, out }
}
