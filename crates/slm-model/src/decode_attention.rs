//! Attention of a single query per sequence, straight from the cache's buffers in host memory.
//!
//! Burn's own operation first copies the filled part of keys and values into contiguous tensors, for each layer
//! and token. This one reads them where they lie.
#![allow(deprecated)] // Burn 0.22 deprecates NdArray in favour of Flex; both are offered while it exists.

use burn::backend::flex::FlexTensor;
use burn::backend::ndarray::NdArrayTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, NdArray, TensorMetadata, backend_extension};
use burn::tensor::{Device, Tensor, TensorData};

/// Positions `first .. end` of a cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheRange {
    pub(crate) first: usize,
    pub(crate) end: usize,
}

#[backend_extension(NdArray, Flex)]
pub(crate) trait DecodeAttentionOps: Backend {
    /// `softmax(q K^T / sqrt(head_dim)) V` over the positions of `range`.
    fn decode_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        range: CacheRange,
    ) -> FloatTensor<Self>;
}

/// Whether [`decode_attention`] runs on tensors of this device: host memory, and no gradients to track.
pub(crate) fn is_supported(device: &Device) -> bool {
    !device.is_autodiff() && slm_quant_nn::on_cpu(device)
}

/// Attention of one query per sequence and head.
///
/// # Shapes
/// - `query`: `[batch, heads, 1, head_dim]`
/// - `keys`, `values`: `[batch, kv_heads, capacity, head_dim]`
/// - output: `[batch, heads, 1, head_dim]`
pub(crate) fn decode_attention(
    query: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    range: CacheRange,
) -> Tensor<4> {
    let (query, keys, values) = (query.into_dispatch(), keys.into_dispatch(), values.into_dispatch());
    Tensor::from_dispatch(Dispatch::decode_attention(query, keys, values, range))
}

impl DecodeAttentionOps for Flex {
    fn decode_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        range: CacheRange,
    ) -> FloatTensor<Self> {
        let shape = Shape::new(&query.shape().to_vec(), &keys.shape().to_vec());
        let contiguous = |t: FlexTensor| if t.is_contiguous() { t } else { t.to_contiguous() };
        let (query, keys, values) = (contiguous(query), contiguous(keys), contiguous(values));
        FlexTensor::from_data(shape.attend(
            slice_or_panic("query", query.as_slice()),
            slice_or_panic("keys", keys.as_slice()),
            slice_or_panic("values", values.as_slice()),
            range,
        ))
    }
}

impl DecodeAttentionOps for NdArray {
    fn decode_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        range: CacheRange,
    ) -> FloatTensor<Self> {
        let shape = Shape::new(&query.shape().to_vec(), &keys.shape().to_vec());
        let shared = |tensor| match tensor {
            NdArrayTensor::F32(storage) => storage.into_shared(),
            other => panic!("decode attention: expected f32, found {:?}", other.dtype()),
        };
        let (query, keys, values) = (shared(query), shared(keys), shared(values));
        let (query, keys, values) =
            (query.as_standard_layout(), keys.as_standard_layout(), values.as_standard_layout());
        NdArrayTensor::from_data(shape.attend(
            slice_or_panic("query", query.as_slice()),
            slice_or_panic("keys", keys.as_slice()),
            slice_or_panic("values", values.as_slice()),
            range,
        ))
    }
}

fn slice_or_panic<'a>(what: &str, slice: Option<&'a [f32]>) -> &'a [f32] {
    match slice {
        Some(slice) => slice,
        None => panic!("decode attention: {what} must be contiguous f32"),
    }
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    capacity: usize,
    head_dim: usize,
}

impl Shape {
    fn new(query: &[usize], keys: &[usize]) -> Self {
        Self { batch: query[0], heads: query[1], kv_heads: keys[1], capacity: keys[2], head_dim: query[3] }
    }

    fn attend(&self, query: &[f32], keys: &[f32], values: &[f32], range: CacheRange) -> TensorData {
        let width = self.head_dim;
        let scale = 1.0 / (width as f32).sqrt();
        let groups = self.heads / self.kv_heads;
        let mut output = vec![0.0; query.len()];
        let mut scores = vec![0.0; range.end - range.first];
        for (head, (query, output)) in
            query.chunks_exact(width).zip(output.chunks_exact_mut(width)).enumerate()
        {
            // Heads of all sequences are numbered through, so dividing by the group leads to the KV head.
            let start = head / groups * self.capacity * width;
            let held = start + range.first * width..start + range.end * width;
            for (score, key) in scores.iter_mut().zip(keys[held.clone()].chunks_exact(width)) {
                *score = dot(query, key) * scale;
            }
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut total = 0.0;
            for (score, value) in scores.iter().zip(values[held].chunks_exact(width)) {
                let weight = (score - max).exp();
                total += weight;
                for (o, v) in output.iter_mut().zip(value) {
                    *o += weight * v;
                }
            }
            output.iter_mut().for_each(|o| *o /= total);
        }
        TensorData::new(output, [self.batch, self.heads, 1, width])
    }
}

/// Dot product in eight running sums, which the compiler turns into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::devices;
    use burn::tensor::module::attention;
    use burn::tensor::ops::AttentionModuleOptions;

    #[test]
    fn equals_burns_attention_on_copies() {
        let wave = |shape: [usize; 4], step: usize| {
            let len: usize = shape.iter().product();
            let values: Vec<f32> = (0..len).map(|i| ((i * step) % 97) as f32 / 24.0 - 2.0).collect();
            TensorData::new(values, shape)
        };
        // Two sequences, four heads on two KV heads; 12 is not a multiple of the lanes of `dot`.
        let (batch, heads, kv_heads, capacity, width) = (2, 4, 2, 20, 12);
        for device in devices() {
            let tensor = |data| Tensor::<4>::from_data(data, &device);
            let q = tensor(wave([batch, heads, 1, width], 31));
            let k = tensor(wave([batch, kv_heads, capacity, width], 17));
            let v = tensor(wave([batch, kv_heads, capacity, width], 41));
            for range in [CacheRange { first: 0, end: 20 }, CacheRange { first: 3, end: 11 }] {
                let found = decode_attention(q.clone(), k.clone(), v.clone(), range);
                let held = |t: &Tensor<4>| {
                    t.clone().slice([0..batch, 0..kv_heads, range.first..range.end, 0..width])
                };
                let rows = q.clone().reshape([batch, kv_heads, heads / kv_heads, width]);
                let options = AttentionModuleOptions::default();
                let expected = attention(rows, held(&k), held(&v), None, None, options);
                let difference = (found - expected.reshape([batch, heads, 1, width])).abs().max();
                assert!(difference.into_scalar::<f32>() < 1e-6);
            }
        }
    }
}
