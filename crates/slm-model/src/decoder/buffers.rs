//! The memory of a pass.

use slm_cpu_ops::AttentionScratch;
use slm_nn::SliceScratch;
use slm_runtime::HugeVec;

use crate::config::ModelConfig;

/// What flows through the layers, `[rows, ...]` each, kept from pass to pass.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The residual stream.
    pub(super) x: HugeVec<f32>,
    /// What is to be added to it next, where [`Buffers::has_delta`] says so.
    pub(super) delta: HugeVec<f32>,
    pub(super) has_delta: bool,
    pub(super) normed: HugeVec<f32>,
    pub(super) q: HugeVec<f32>,
    pub(super) k: HugeVec<f32>,
    pub(super) v: HugeVec<f32>,
    pub(super) attention: HugeVec<f32>,
    pub(super) gate: HugeVec<f32>,
    pub(super) up: HugeVec<f32>,
    pub(super) logits: Vec<f32>,
    pub(super) linear_scratch: SliceScratch,
    /// For each part of an attention that runs at once.
    pub(super) attention_scratch: Vec<AttentionScratch>,
}

impl Buffers {
    /// Makes room for `rows` positions.
    pub(super) fn prepare(&mut self, config: &ModelConfig, rows: usize) {
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        for (buffer, width) in [
            (&mut self.x, config.hidden_size),
            (&mut self.delta, config.hidden_size),
            (&mut self.normed, config.hidden_size),
            (&mut self.q, q),
            (&mut self.k, kv),
            (&mut self.v, kv),
            (&mut self.attention, q),
            (&mut self.gate, config.intermediate_size),
            (&mut self.up, config.intermediate_size),
        ] {
            if buffer.len() < rows * width {
                *buffer = HugeVec::zeroed(rows * width);
            }
        }
    }
}
