//! Burn's operations, on any device and with a KV cache.

use burn::tensor::activation::{gelu, silu};
use burn::tensor::module::{attention, layer_norm};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, Tensor, TensorData};

use super::HeadShape;
use super::tensors::{TensorLayer, TensorOps};
use crate::config::Activation;
use crate::kv_cache::KvCache;
use crate::norm::Norm;
use crate::rotary::{Rotaries, RotaryTables};

/// Burn's operations. With a cache, a pass appends its keys and values to it.
pub(crate) struct BurnOps<'a> {
    device: Device,
    shape: HeadShape,
    rotaries: &'a Rotaries,
    cache: Option<&'a mut KvCache>,
    start: usize,
    len: usize,
    tables: Vec<RotaryTables>,
    /// The mask of each window that a layer of the pass has.
    masks: Vec<(Option<usize>, Mask)>,
}

#[derive(Clone)]
struct Mask {
    /// The first position that any query attends to.
    first: usize,
    /// `[1, 1, heads_per_kv_head * len, keys]`, true where a query must not attend; `None` if nothing is masked.
    hidden: Option<Tensor<4, Bool>>,
}

impl<'a> BurnOps<'a> {
    pub(crate) fn new(
        device: Device,
        shape: HeadShape,
        rotaries: &'a Rotaries,
        cache: Option<&'a mut KvCache>,
    ) -> Self {
        Self { device, shape, rotaries, cache, start: 0, len: 0, tables: Vec::new(), masks: Vec::new() }
    }

    /// The mask of a window, created for the first layer that needs it.
    fn mask(&mut self, window: Option<usize>) -> Mask {
        if let Some((_, mask)) = self.masks.iter().find(|(known, _)| *known == window) {
            return mask.clone();
        }
        let (start, len, groups) = (self.start, self.len, self.shape.group());
        let width = window.unwrap_or(usize::MAX);
        let first = (start + 1).saturating_sub(width);
        // A single query attends to every key from `first` on.
        let hidden = (len > 1).then(|| {
            let keys = start + len - first;
            let hidden: Vec<bool> = (0..groups)
                .flat_map(|_| start..start + len)
                .flat_map(|query| (first..start + len).map(move |key| key > query || query - key >= width))
                .collect();
            Tensor::from_data(TensorData::new(hidden, [1, 1, groups * len, keys]), &self.device)
        });
        let mask = Mask { first, hidden };
        self.masks.push((window, mask.clone()));
        mask
    }
}

impl TensorOps for BurnOps<'_> {
    fn start(&mut self, start: usize, len: usize) {
        (self.start, self.len) = (start, len);
        self.tables = self.rotaries.tables(start, len, &self.device);
        self.masks.clear();
    }

    fn normalize<const D: usize>(&self, norm: &Norm, x: Tensor<D>) -> Tensor<D> {
        normalize(norm, x)
    }

    fn attend(&mut self, [q, k, v]: [Tensor<3>; 3], layer: &TensorLayer<'_>) -> Tensor<3> {
        let [batch, len, _] = q.dims();
        let HeadShape { heads, kv_heads, head_dim } = self.shape;
        let split = |x: Tensor<3>, heads: usize| x.reshape([batch, len, heads, head_dim]).swap_dims(1, 2);
        let (mut q, mut k, mut v) = (split(q, heads), split(k, kv_heads), split(v, kv_heads));
        if let Some(index) = self.rotaries.index(layer.spec.rotary.as_ref()) {
            let tables = &self.tables[index];
            (q, k) = (tables.rotate(q), tables.rotate(k));
        }
        let mask = self.mask(layer.spec.sliding_window);
        if let Some(cache) = &mut self.cache {
            let layer = &mut cache.layers[layer.slot];
            layer.store(k, v, self.start);
            (k, v) = layer.held(mask.first..self.start + len);
        }
        // The queries that share a KV head become rows of one head, so that keys and values need not be repeated.
        let rows = q.reshape([batch, kv_heads, heads / kv_heads * len, head_dim]);
        let options = AttentionModuleOptions { scale: layer.spec.attention_scale, ..Default::default() };
        let y = attention(rows, k, v, mask.hidden, None, options).reshape([batch, heads, len, head_dim]);
        y.swap_dims(1, 2).reshape([batch, len, heads * head_dim])
    }

    fn activate(&self, gate: Option<Tensor<3>>, up: Tensor<3>, activation: Activation) -> Tensor<3> {
        match gate {
            Some(gate) => activation.apply(gate) * up,
            None => activation.apply(up),
        }
    }
}

/// Normalizes the last dimension.
pub(crate) fn normalize<const D: usize>(norm: &Norm, x: Tensor<D>) -> Tensor<D> {
    match norm {
        Norm::Rms(norm) => norm.forward(x),
        Norm::Layer(norm) => layer_norm(x, norm.gamma.val(), Some(norm.beta.val()), norm.epsilon),
    }
}

impl Activation {
    /// Applies the function to each value.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => silu(x),
            Self::Gelu => gelu(x),
            Self::GeluTanh => gelu_tanh(x),
        }
    }
}

/// The tanh approximation of GELU (Hendrycks and Gimpel, 2016), with products instead of Burn's general power
/// for the cube.
fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let sqrt_2_over_pi = (2.0 / std::f64::consts::PI).sqrt();
    let inner = (x.clone() * x.clone() * 0.044715 + 1.0) * x.clone() * sqrt_2_over_pi;
    x * (inner.tanh() + 1.0) * 0.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cpu_devices;

    #[test]
    fn gelu_variants_at_known_points() {
        // Values of torch.nn.functional.gelu, approximate="none" and "tanh".
        let x = [-3.0f32, -1.0, 0.0, 0.5, 2.0];
        let erf = [-0.004_049_7, -0.158_655_26, 0.0, 0.345_731_23, 1.954_499_7];
        let tanh = [-0.003_637_4, -0.158_808_01, 0.0, 0.345_714, 1.954_597_6];
        for device in cpu_devices() {
            let x = Tensor::<1>::from_data(x, &device);
            for (y, expected) in [(gelu(x.clone()), erf), (gelu_tanh(x), tanh)] {
                for (y, e) in y.into_data().try_into_vec::<f32>().unwrap().iter().zip(expected) {
                    assert!((y - e).abs() < 1e-6, "{y} {e}");
                }
            }
        }
    }
}
