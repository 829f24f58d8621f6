//! The keys and values of a layer, in the type chosen for the cache.

use half::f16;
use slm_cpu_ops::{AttentionScratch, BlockAttention, KvLayer, KvOverflow, Queries, attend};
use slm_kernels::PANEL_WIDTH;
use slm_runtime::HugeVec;
use std::ops::Range;

use super::KvCacheType;
use super::parallel::{SERIAL_VALUES, for_each_part};
use crate::compute::HeadShape;

/// The KV cache of one layer.
#[derive(Debug)]
pub(super) enum LayerCache {
    F32(KvLayer<HugeVec<[f32; PANEL_WIDTH]>>),
    F16(KvLayer<HugeVec<[f16; PANEL_WIDTH]>>),
    Int8(KvLayer<HugeVec<[i8; PANEL_WIDTH]>>),
    Int4(KvLayer<Vec<[u8; PANEL_WIDTH / 2]>>),
}

/// Evaluates `$body` with the layer, whatever its type.
macro_rules! with_layer {
    ($cache:expr, $layer:ident => $body:expr) => {
        match $cache {
            LayerCache::F32($layer) => $body,
            LayerCache::F16($layer) => $body,
            LayerCache::Int8($layer) => $body,
            LayerCache::Int4($layer) => $body,
        }
    };
}

impl LayerCache {
    /// Creates a cache for `capacity` positions.
    pub(super) fn new(kind: KvCacheType, shape: HeadShape, capacity: usize) -> Self {
        let HeadShape { kv_heads, head_dim, .. } = shape;
        match kind {
            KvCacheType::F32 => {
                Self::F32(KvLayer::with_buffers(kv_heads, head_dim, capacity, HugeVec::zeroed))
            }
            KvCacheType::F16 => {
                Self::F16(KvLayer::with_buffers(kv_heads, head_dim, capacity, HugeVec::zeroed))
            }
            KvCacheType::Int8 => {
                Self::Int8(KvLayer::with_buffers(kv_heads, head_dim, capacity, HugeVec::zeroed))
            }
            KvCacheType::Int4 => Self::Int4(KvLayer::new(kv_heads, head_dim, capacity)),
        }
    }

    /// Writes the keys and values of positions `start ..`, as [`KvLayer::store`].
    pub(super) fn store(&mut self, start: usize, keys: &[f32], values: &[f32]) -> Result<(), KvOverflow> {
        with_layer!(self, layer => {
            if keys.len() < SERIAL_VALUES {
                return layer.store(start, keys, values);
            }
            let mut results = vec![Ok(()); layer.heads()];
            for_each_part(layer.heads_mut().zip(&mut results), |(head, result)| {
                *result = head.store(start, keys, values);
            });
            results.into_iter().collect()
        })
    }

    /// The attention of queries of all heads, as [`attend`].
    pub(super) fn attend(
        &self,
        queries: &Queries,
        q: &[f32],
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        with_layer!(self, layer => attend(layer.slice(0..layer.heads()), queries, q, out, scratch))
    }

    /// The attention of the one row of `queries`, in blocks.
    pub(super) fn in_blocks(&self, queries: &Queries) -> BlockAttention {
        with_layer!(self, layer => BlockAttention::new(layer.slice(0..layer.heads()), queries))
    }

    /// Units of `blocks`, as [`BlockAttention::attend`].
    pub(super) fn attend_units(
        &self,
        blocks: &BlockAttention,
        units: Range<usize>,
        q: &[f32],
        parts: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        with_layer!(self, layer => blocks.attend(layer.slice(0..layer.heads()), units, q, parts, scratch))
    }

    /// Bytes held.
    pub(super) fn byte_size(&self) -> usize {
        with_layer!(self, layer => layer.byte_size())
    }
}
