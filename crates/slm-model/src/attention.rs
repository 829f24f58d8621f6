//! Causal self-attention with grouped queries.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use slm_autograd::AttentionOptions;
use slm_nn::Linear;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::kv_cache::LayerCache;
use crate::names::attention_linears;
use crate::norm::Norm;
use crate::rotary::{Rotary, RotaryTables};
use crate::source::Loader;

/// What all layers of one pass share.
#[derive(Debug)]
pub(crate) enum AttentionContext {
    /// For tensor operations.
    Tensors(Box<TensorContext>),
    /// For the fused operation, on whole sequences and without a cache.
    Fused(AttentionOptions),
}

/// Where a pass starts, the rotary tables, and who sees whom.
#[derive(Debug)]
pub(crate) struct TensorContext {
    /// Position of the first query.
    start: usize,
    /// First position that any query sees.
    first: usize,
    rotary: Option<RotaryTables>,
    /// `[1, 1, heads_per_kv_head * len, keys]`, true where a query must not look; `None` where all may.
    mask: Option<Tensor<4, Bool>>,
}

impl AttentionContext {
    /// Context of a pass over positions `0 .. len` by the fused operation.
    fn fused(config: &ModelConfig, rotary: Option<&Rotary>, len: usize) -> Self {
        Self::Fused(AttentionOptions {
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            window: config.sliding_window,
            rotary: rotary.map(|rotary| Arc::new(rotary.angles(0, len).into_table())),
        })
    }

    /// Context of a pass over positions `0 .. len` without a cache, in whichever way the device does it best.
    pub(crate) fn uncached(
        config: &ModelConfig,
        rotary: Option<&Rotary>,
        len: usize,
        device: &Device,
    ) -> Self {
        match slm_autograd::is_preferred(device) {
            true => Self::fused(config, rotary, len),
            false => Self::new(config, rotary, 0, len, device),
        }
    }

    /// Context of a pass over positions `start .. start + len` by tensor operations.
    pub(crate) fn new(
        config: &ModelConfig,
        rotary: Option<&Rotary>,
        start: usize,
        len: usize,
        device: &Device,
    ) -> Self {
        let window = config.sliding_window.unwrap_or(usize::MAX);
        let first = (start + 1).saturating_sub(window);
        // A single query sees every key from `first` on.
        let mask = (len > 1).then(|| {
            let groups = config.heads_per_kv_head();
            let keys = start + len - first;
            let hidden: Vec<bool> = (0..groups)
                .flat_map(|_| start..start + len)
                .flat_map(|query| (first..start + len).map(move |key| key > query || query - key >= window))
                .collect();
            Tensor::from_data(TensorData::new(hidden, [1, 1, groups * len, keys]), device)
        });
        let rotary = rotary.map(|rotary| rotary.tables(start, len, device));
        Self::Tensors(Box::new(TensorContext { start, first, rotary, mask }))
    }
}

/// Projections, optional q/k norms and the attention between them.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    pub(crate) q_proj: Linear,
    pub(crate) k_proj: Linear,
    pub(crate) v_proj: Linear,
    pub(crate) o_proj: Linear,
    pub(crate) q_norm: Option<Norm>,
    pub(crate) k_norm: Option<Norm>,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
}

impl Attention {
    pub(crate) fn load(config: &ModelConfig, path: &str, loader: &mut Loader<'_>) -> Result<Self> {
        let [q, k, v, o] = attention_linears(config);
        let mut attention = Self {
            q_proj: loader.linear(path, q)?,
            k_proj: loader.linear(path, k)?,
            v_proj: loader.linear(path, v)?,
            o_proj: loader.linear(path, o)?,
            q_norm: None,
            k_norm: None,
            num_heads: config.num_heads,
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
        };
        if config.qk_norm {
            let mut norm =
                |name| Norm::load_rms(config.head_dim, config.norm_eps, &format!("{path}.{name}"), loader);
            attention.q_norm = Some(norm("q_norm")?);
            attention.k_norm = Some(norm("k_norm")?);
        }
        Ok(attention)
    }

    /// `[batch, len, hidden]` to the same.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        context: &AttentionContext,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let [batch, len, _] = x.dims();
        let (heads, kv_heads, head_dim) = (self.num_heads, self.num_kv_heads, self.head_dim);
        let norm_heads = |y: Tensor<3>, heads: usize, norm: &Option<Norm>| match norm {
            Some(norm) => {
                norm.forward(y.reshape([batch, len, heads, head_dim])).reshape([batch, len, heads * head_dim])
            }
            None => y,
        };
        let q = norm_heads(self.q_proj.forward(x.clone()), heads, &self.q_norm);
        let k = norm_heads(self.k_proj.forward(x.clone()), kv_heads, &self.k_norm);
        let v = self.v_proj.forward(x);
        let context = match context {
            AttentionContext::Fused(options) => {
                return self.o_proj.forward(slm_autograd::attention(q, k, v, options.clone()));
            }
            AttentionContext::Tensors(context) => context,
        };
        let split = |y: Tensor<3>, heads: usize| y.reshape([batch, len, heads, head_dim]).swap_dims(1, 2);
        let (mut q, mut k, v) = (split(q, heads), split(k, kv_heads), split(v, kv_heads));
        if let Some(rotary) = &context.rotary {
            q = rotary.rotate(q);
            k = rotary.rotate(k);
        }
        let y = match cache {
            None => self.attend(q, k, v, context),
            Some(cache) => {
                cache.store(k, v, context.start);
                let (k, v) = cache.held(context.first..context.start + len);
                self.attend(q, k, v, context)
            }
        };
        self.o_proj.forward(y.swap_dims(1, 2).reshape([batch, len, heads * head_dim]))
    }

    /// Burn's attention. The queries that share a KV head become rows of one head, so that keys and values
    /// need not be repeated.
    fn attend(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, context: &TensorContext) -> Tensor<4> {
        let [batch, heads, len, head_dim] = q.dims();
        let rows = q.reshape([batch, self.num_kv_heads, heads / self.num_kv_heads * len, head_dim]);
        let options = AttentionModuleOptions::default();
        let y = attention(rows, k, v, context.mask.clone(), None, options);
        y.reshape([batch, heads, len, head_dim])
    }

    /// Visits the q/k norms.
    pub(crate) fn visit_norms<E>(
        &self,
        path: &str,
        visit: &mut dyn FnMut(&str, TensorData) -> Result<(), E>,
    ) -> Result<(), E> {
        for (name, norm) in [("q_norm", &self.q_norm), ("k_norm", &self.k_norm)] {
            if let Some(norm) = norm {
                norm.visit_tensors(&format!("{path}.{name}"), visit)?;
            }
        }
        Ok(())
    }
}
