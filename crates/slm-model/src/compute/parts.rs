//! The parameters of a model by role, in the form that a [`Compute`](super::Compute) takes.

use burn::tensor::Tensor;

use crate::config::{LayerSpec, ModelConfig};
use crate::token_table::TokenTable;

/// Numbers of heads and their width, the same in all layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadShape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl HeadShape {
    pub(crate) fn of(config: &ModelConfig) -> Self {
        Self { heads: config.num_heads, kv_heads: config.num_kv_heads, head_dim: config.head_dim }
    }

    /// Query heads for each KV head.
    pub(crate) fn group(self) -> usize {
        self.heads / self.kv_heads
    }
}

/// The norms of the input and the output of attention or MLP.
#[derive(Debug, Clone)]
pub(crate) struct Around<N> {
    pub(crate) input: Option<N>,
    pub(crate) output: Option<N>,
}

/// One layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerParts<L, N> {
    pub(crate) spec: LayerSpec,
    pub(crate) attention_norms: Around<N>,
    pub(crate) q_proj: L,
    pub(crate) k_proj: L,
    pub(crate) v_proj: L,
    pub(crate) o_proj: L,
    pub(crate) q_norm: Option<N>,
    pub(crate) k_norm: Option<N>,
    pub(crate) mlp_norms: Around<N>,
    pub(crate) gate_proj: Option<L>,
    pub(crate) up_proj: L,
    pub(crate) down_proj: L,
    /// Index of the layer's KV cache.
    pub(crate) slot: usize,
}

impl<L, N> LayerParts<L, N> {
    /// The same layer with KV cache `slot` and its linear layers and norms in another form. `linear` gets the name
    /// inside the layer.
    pub(crate) fn try_map<L2, N2, E>(
        self,
        slot: usize,
        linear: impl Fn(L, &str) -> Result<L2, E>,
        norm: impl Fn(N) -> Result<N2, E>,
    ) -> Result<LayerParts<L2, N2>, E> {
        let optional = |n: Option<N>| n.map(&norm).transpose();
        let around = |norms: Around<N>| -> Result<_, E> {
            Ok(Around { input: optional(norms.input)?, output: optional(norms.output)? })
        };
        Ok(LayerParts {
            spec: self.spec,
            attention_norms: around(self.attention_norms)?,
            q_proj: linear(self.q_proj, "self_attn.q_proj")?,
            k_proj: linear(self.k_proj, "self_attn.k_proj")?,
            v_proj: linear(self.v_proj, "self_attn.v_proj")?,
            o_proj: linear(self.o_proj, "self_attn.o_proj")?,
            q_norm: optional(self.q_norm)?,
            k_norm: optional(self.k_norm)?,
            mlp_norms: around(self.mlp_norms)?,
            gate_proj: self.gate_proj.map(|gate| linear(gate, "mlp.gate_proj")).transpose()?,
            up_proj: linear(self.up_proj, "mlp.up_proj")?,
            down_proj: linear(self.down_proj, "mlp.down_proj")?,
            slot,
        })
    }

    /// The linear layers, in forward order.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &L> {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj]
            .into_iter()
            .chain(&self.gate_proj)
            .chain([&self.up_proj, &self.down_proj])
    }
}

/// The parameters before the first layer.
#[derive(Debug, Clone)]
pub(crate) struct Embedding {
    pub(crate) tokens: TokenTable,
    pub(crate) positions: Option<Tensor<2>>,
    pub(crate) multiplier: f64,
}

/// The head.
#[derive(Debug, Clone)]
pub(crate) enum HeadParts<L> {
    /// A separate layer.
    Linear(L),
    /// The transposed embedding, `[vocab_size, hidden]`.
    Tied(Box<Tensor<2>>),
}

/// A whole model.
#[derive(Debug, Clone)]
pub(crate) struct ModelParts<L, N> {
    pub(crate) embedding: Embedding,
    pub(crate) layers: Vec<LayerParts<L, N>>,
    pub(crate) norm: N,
    pub(crate) head: HeadParts<L>,
    pub(crate) logit_multiplier: f64,
}
