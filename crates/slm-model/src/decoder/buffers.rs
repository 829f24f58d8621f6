//! The memory of a pass.

use slm_cpu_ops::AttentionScratch;
use slm_nn::SliceScratch;
use slm_quant_core::Pages;

use crate::config::ModelConfig;

/// What flows through the layers, `[rows, ...]` each, kept from pass to pass.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The residual stream.
    pub(super) x: Pages<f32>,
    /// What is to be added to it next, where [`Buffers::has_delta`] says so.
    pub(super) delta: Pages<f32>,
    pub(super) has_delta: bool,
    pub(super) normed: Pages<f32>,
    pub(super) q: Pages<f32>,
    pub(super) k: Pages<f32>,
    pub(super) v: Pages<f32>,
    pub(super) attention: Pages<f32>,
    pub(super) gate: Pages<f32>,
    pub(super) up: Pages<f32>,
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
                *buffer = Pages::zeroed(rows * width);
            }
        }
    }
}
