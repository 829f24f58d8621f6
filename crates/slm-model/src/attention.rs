//! The parameters of attention.

use burn::module::Module;
use burn::tensor::TensorData;
use slm_nn::Linear;

use crate::config::{LayerSpec, ModelConfig};
use crate::error::Result;
use crate::names::{attention_linears, qk_norms};
use crate::norm::Norm;
use crate::source::Loader;

/// Projections and the norms of queries and keys.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    pub(crate) q_proj: Linear,
    pub(crate) k_proj: Linear,
    pub(crate) v_proj: Linear,
    pub(crate) o_proj: Linear,
    pub(crate) q_norm: Option<Norm>,
    pub(crate) k_norm: Option<Norm>,
}

impl Attention {
    pub(crate) fn load(
        config: &ModelConfig,
        layer: &LayerSpec,
        path: &str,
        loader: &mut Loader<'_>,
    ) -> Result<Self> {
        let [q, k, v, o] = attention_linears(config, layer);
        let mut attention = Self {
            q_proj: loader.linear(path, q)?,
            k_proj: loader.linear(path, k)?,
            v_proj: loader.linear(path, v)?,
            o_proj: loader.linear(path, o)?,
            q_norm: None,
            k_norm: None,
        };
        if let Some(norms) = qk_norms(config, layer) {
            let [q, k] = norms.map(|(name, width)| {
                Norm::load_rms(width, config.norm_eps, &format!("{path}.{name}"), loader)
            });
            (attention.q_norm, attention.k_norm) = (Some(q?), Some(k?));
        }
        Ok(attention)
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
