//! The KV cache of models that run as tensor operations.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

/// Keys and values of one layer, `[batch, kv_heads, capacity, head_dim]` each.
#[derive(Debug, Clone)]
pub(crate) struct LayerCache {
    keys: Tensor<4>,
    values: Tensor<4>,
}

impl LayerCache {
    /// Writes the keys and values of the positions from `start` on.
    ///
    /// Nothing else refers to the buffers while they are written, so the backends write in place.
    pub(crate) fn store(&mut self, keys: Tensor<4>, values: Tensor<4>, start: usize) {
        let [batch, heads, len, head_dim] = keys.dims();
        let region = [0..batch, 0..heads, start..start + len, 0..head_dim];
        self.keys.inplace(|buffer| buffer.slice_assign(region.clone(), keys));
        self.values.inplace(|buffer| buffer.slice_assign(region, values));
    }

    /// Keys and values of the positions in `range`.
    pub(crate) fn held(&self, range: Range<usize>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, _, head_dim] = self.keys.dims();
        let region = [0..batch, 0..heads, range, 0..head_dim];
        (self.keys.clone().slice(region.clone()), self.values.clone().slice(region))
    }
}

/// Keys and values of a model for up to `capacity` positions, allocated once.
///
/// Created by [`Transformer::new_cache`](crate::Transformer::new_cache). Each pass through
/// [`forward_cached`](crate::Transformer::forward_cached) appends its positions.
#[derive(Debug, Clone)]
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    pub(crate) len: usize,
    /// Length of the sequence that the held positions were rotated for; 0 if none is held.
    pub(crate) rotated_for: usize,
    capacity: usize,
    batch: usize,
}

impl KvCache {
    pub(crate) fn new(num_layers: usize, shape: [usize; 4], device: &Device) -> Self {
        let [batch, _, capacity, _] = shape;
        // Each buffer is a separate allocation: a shared one would be copied at the first write.
        let layers = (0..num_layers)
            .map(|_| LayerCache { keys: Tensor::zeros(shape, device), values: Tensor::zeros(shape, device) })
            .collect();
        Self { layers, len: 0, rotated_for: 0, capacity, batch }
    }

    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns `true` if no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of positions that the cache has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of sequences in the cache.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Discards all positions from `len` on. A shorter cache is unchanged.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if self.len == 0 {
            self.rotated_for = 0;
        }
    }
}
