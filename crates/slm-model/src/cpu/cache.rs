//! Keys and values of a layer, in the type that was chosen for them.

use half::f16;
use slm_cpu_ops::{AttentionScratch, KvLayer, KvOverflow, Queries, attend};
use slm_runtime::HugeVec;
use std::ops::Range;

use super::KvCacheType;
use crate::compute::HeadShape;

/// The KV cache of one layer.
#[derive(Debug)]
pub(super) enum LayerCache {
    F32(KvLayer<HugeVec<f32>>),
    F16(KvLayer<HugeVec<f16>>),
}

impl LayerCache {
    /// Room for `capacity` positions.
    pub(super) fn new(kind: KvCacheType, shape: HeadShape, capacity: usize) -> Self {
        let HeadShape { kv_heads, head_dim, .. } = shape;
        match kind {
            KvCacheType::F32 => {
                Self::F32(KvLayer::with_buffers(kv_heads, head_dim, capacity, HugeVec::zeroed))
            }
            KvCacheType::F16 => {
                Self::F16(KvLayer::with_buffers(kv_heads, head_dim, capacity, HugeVec::zeroed))
            }
        }
    }

    /// Writes the keys and values of positions `start ..`, as [`KvLayer::store`].
    pub(super) fn store(&mut self, start: usize, keys: &[f32], values: &[f32]) -> Result<(), KvOverflow> {
        match self {
            Self::F32(layer) => layer.store(start, keys, values),
            Self::F16(layer) => layer.store(start, keys, values),
        }
    }

    /// The attention of queries of some KV heads, as [`attend`].
    pub(super) fn attend(
        &self,
        heads: Range<usize>,
        queries: &Queries,
        q: &[f32],
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        match self {
            Self::F32(layer) => attend(layer.slice(heads), queries, q, out, scratch),
            Self::F16(layer) => attend(layer.slice(heads), queries, q, out, scratch),
        }
    }

    /// Bytes held.
    pub(super) fn byte_size(&self) -> usize {
        match self {
            Self::F32(layer) => layer.byte_size(),
            Self::F16(layer) => layer.byte_size(),
        }
    }
}
