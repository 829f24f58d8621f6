//! One layer: attention and MLP, each behind a norm and added to the residual stream.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use slm_nn::Linear;

use crate::attention::{Attention, AttentionContext};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::kv_cache::LayerCache;
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::source::Loader;
use crate::visit::TensorVisitor;

/// `h = x + attention(norm(x))`, then `h + mlp(norm(h))`.
#[derive(Module, Debug)]
pub(crate) struct Block {
    pub(crate) input_norm: Norm,
    pub(crate) self_attn: Attention,
    pub(crate) post_attention_norm: Norm,
    pub(crate) mlp: Mlp,
}

impl Block {
    pub(crate) fn load(config: &ModelConfig, layer: usize, loader: &mut Loader<'_>) -> Result<Self> {
        Ok(Self {
            input_norm: Norm::load(config, &format!("layers.{layer}.input_norm"), loader)?,
            self_attn: Attention::load(config, &format!("layers.{layer}.self_attn"), loader)?,
            post_attention_norm: Norm::load(config, &format!("layers.{layer}.post_attention_norm"), loader)?,
            mlp: Mlp::load(config, &format!("layers.{layer}.mlp"), loader)?,
        })
    }

    /// `[batch, len, hidden]` to the same.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        context: &AttentionContext,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<3> {
        let h = x.clone() + self.self_attn.forward(self.input_norm.forward(x), context, cache);
        h.clone() + self.mlp.forward(self.post_attention_norm.forward(h))
    }

    /// The linear layers with their names inside the layer, in forward order.
    fn linears(&self) -> impl Iterator<Item = (&'static str, &Linear)> {
        let (attn, mlp) = (&self.self_attn, &self.mlp);
        [
            ("self_attn.q_proj", Some(&attn.q_proj)),
            ("self_attn.k_proj", Some(&attn.k_proj)),
            ("self_attn.v_proj", Some(&attn.v_proj)),
            ("self_attn.o_proj", Some(&attn.o_proj)),
            ("mlp.gate_proj", mlp.gate_proj.as_ref()),
            ("mlp.up_proj", Some(&mlp.up_proj)),
            ("mlp.down_proj", Some(&mlp.down_proj)),
        ]
        .into_iter()
        .filter_map(|(name, linear)| linear.map(|linear| (name, linear)))
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Linear)> {
        let (attn, mlp) = (&mut self.self_attn, &mut self.mlp);
        [
            ("self_attn.q_proj", Some(&mut attn.q_proj)),
            ("self_attn.k_proj", Some(&mut attn.k_proj)),
            ("self_attn.v_proj", Some(&mut attn.v_proj)),
            ("self_attn.o_proj", Some(&mut attn.o_proj)),
            ("mlp.gate_proj", mlp.gate_proj.as_mut()),
            ("mlp.up_proj", Some(&mut mlp.up_proj)),
            ("mlp.down_proj", Some(&mut mlp.down_proj)),
        ]
        .into_iter()
        .filter_map(|(name, linear)| linear.map(|linear| (name, linear)))
    }

    pub(crate) fn for_each_linear(&self, layer: usize, visit: &mut dyn FnMut(&str, &Linear)) {
        for (name, linear) in self.linears() {
            visit(&format!("layers.{layer}.{name}"), linear);
        }
    }

    pub(crate) fn for_each_linear_mut(&mut self, layer: usize, visit: &mut dyn FnMut(&str, &mut Linear)) {
        for (name, linear) in self.linears_mut() {
            visit(&format!("layers.{layer}.{name}"), linear);
        }
    }

    pub(crate) fn visit_tensors<E>(
        &self,
        layer: usize,
        visit: &mut dyn FnMut(&str, TensorData) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = format!("layers.{layer}");
        self.input_norm.visit_tensors(&format!("{path}.input_norm"), visit)?;
        for (name, linear) in self.linears().filter(|(name, _)| name.starts_with("self_attn")) {
            TensorVisitor::new(visit).linear(&format!("{path}.{name}"), linear)?;
        }
        self.self_attn.visit_norms(&format!("{path}.self_attn"), visit)?;
        self.post_attention_norm.visit_tensors(&format!("{path}.post_attention_norm"), visit)?;
        for (name, linear) in self.linears().filter(|(name, _)| name.starts_with("mlp")) {
            TensorVisitor::new(visit).linear(&format!("{path}.{name}"), linear)?;
        }
        Ok(())
    }
}
