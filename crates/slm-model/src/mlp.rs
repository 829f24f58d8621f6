//! The parameters of an MLP.

use burn::module::Module;
use slm_nn::Linear;

use crate::config::{LayerSpec, ModelConfig};
use crate::error::Result;
use crate::names::mlp_linears;
use crate::source::Loader;

/// The linear layers of an MLP, with or without a gate.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    pub(crate) gate_proj: Option<Linear>,
    pub(crate) up_proj: Linear,
    pub(crate) down_proj: Linear,
}

impl Mlp {
    pub(crate) fn load(
        config: &ModelConfig,
        layer: &LayerSpec,
        path: &str,
        loader: &mut Loader<'_>,
    ) -> Result<Self> {
        let (gate, up, down) = mlp_linears(config, layer);
        Ok(Self {
            gate_proj: gate.map(|gate| loader.linear(path, gate)).transpose()?,
            up_proj: loader.linear(path, up)?,
            down_proj: loader.linear(path, down)?,
        })
    }
}
