//! The parameters of one layer.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use slm_nn::Linear;

use crate::attention::Attention;
use crate::compute::autograd::AutogradOps;
use crate::compute::burn::BurnOps;
use crate::compute::tensors::{TensorOps, Tensors};
use crate::compute::{Around, Compute, HeadShape, LayerParts, walk};
use crate::config::{LayerSpec, ModelConfig};
use crate::error::Result;
use crate::mlp::Mlp;
use crate::names::{ATTENTION_OUTPUT_NORM, INPUT_NORM, MLP_OUTPUT_NORM, POST_ATTENTION_NORM};
use crate::norm::Norm;
use crate::rotary::Rotaries;
use crate::source::Loader;
use crate::visit::TensorVisitor;

/// Attention and MLP with the norms around them, and the specification of what is computed with them.
#[derive(Module, Debug)]
pub(crate) struct Block {
    input_norm: Option<Norm>,
    self_attn: Attention,
    attention_output_norm: Option<Norm>,
    post_attention_norm: Option<Norm>,
    mlp: Mlp,
    mlp_output_norm: Option<Norm>,
    #[module(skip)]
    spec: LayerSpec,
}

impl Block {
    pub(crate) fn load(config: &ModelConfig, layer: usize, loader: &mut Loader<'_>) -> Result<Self> {
        let spec = config.layer(layer);
        let path = |part: &str| format!("layers.{layer}.{part}");
        let norm = |present: bool, name: &str, loader: &mut Loader<'_>| {
            present.then(|| Norm::load(config, &path(name), loader)).transpose()
        };
        let (on_input, on_output) = (spec.norm_placement.on_input(), spec.norm_placement.on_output());
        Ok(Self {
            input_norm: norm(on_input, INPUT_NORM, loader)?,
            self_attn: Attention::load(config, &spec, &path("self_attn"), loader)?,
            attention_output_norm: norm(on_output, ATTENTION_OUTPUT_NORM, loader)?,
            post_attention_norm: norm(on_input, POST_ATTENTION_NORM, loader)?,
            mlp: Mlp::load(config, &spec, &path("mlp"), loader)?,
            mlp_output_norm: norm(on_output, MLP_OUTPUT_NORM, loader)?,
            spec,
        })
    }

    /// The parameters by role.
    pub(crate) fn parts(&self) -> LayerParts<&Linear, &Norm> {
        let (attention, mlp) = (&self.self_attn, &self.mlp);
        LayerParts {
            spec: self.spec.clone(),
            attention_norms: Around {
                input: self.input_norm.as_ref(),
                output: self.attention_output_norm.as_ref(),
            },
            q_proj: &attention.q_proj,
            k_proj: &attention.k_proj,
            v_proj: &attention.v_proj,
            o_proj: &attention.o_proj,
            q_norm: attention.q_norm.as_ref(),
            k_norm: attention.k_norm.as_ref(),
            mlp_norms: Around {
                input: self.post_attention_norm.as_ref(),
                output: self.mlp_output_norm.as_ref(),
            },
            gate_proj: mlp.gate_proj.as_ref(),
            up_proj: &mlp.up_proj,
            down_proj: &mlp.down_proj,
            slot: 0,
        }
    }

    /// Runs the hidden states `x`, `[batch, len, hidden]`, of sequences that start at position 0 through the block as layer
    /// `index`, by the best implementation for their device.
    pub(crate) fn forward(
        &self,
        index: usize,
        shape: HeadShape,
        rotaries: &Rotaries,
        x: Tensor<3>,
    ) -> Tensor<3> {
        let device = x.device();
        if slm_autograd::is_supported(&device) {
            self.forward_with(AutogradOps::new(shape, rotaries), index, shape, x)
        } else {
            self.forward_with(BurnOps::new(device, shape, rotaries, None), index, shape, x)
        }
    }

    fn forward_with(
        &self,
        ops: impl TensorOps,
        index: usize,
        shape: HeadShape,
        mut x: Tensor<3>,
    ) -> Tensor<3> {
        let mut compute = Tensors::new(ops, shape);
        compute.start(0, x.dims()[1]);
        let Ok(layer) = walk::prepare_layer(&compute, index, 0, self.parts());
        let Ok(()) = walk::layer(&mut compute, &layer, &mut x);
        x
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
        let path = |part: &str| format!("layers.{layer}.{part}");
        let norm = |name: &str, norm: &Option<Norm>, visit: &mut dyn FnMut(&str, TensorData) -> _| {
            norm.iter().try_for_each(|norm| norm.visit_tensors(&path(name), visit))
        };
        norm(INPUT_NORM, &self.input_norm, visit)?;
        for (name, linear) in self.linears().filter(|(name, _)| name.starts_with("self_attn")) {
            TensorVisitor::new(visit).linear(&path(name), linear)?;
        }
        self.self_attn.visit_norms(&path("self_attn"), visit)?;
        norm(ATTENTION_OUTPUT_NORM, &self.attention_output_norm, visit)?;
        norm(POST_ATTENTION_NORM, &self.post_attention_norm, visit)?;
        for (name, linear) in self.linears().filter(|(name, _)| name.starts_with("mlp")) {
            TensorVisitor::new(visit).linear(&path(name), linear)?;
        }
        norm(MLP_OUTPUT_NORM, &self.mlp_output_norm, visit)
    }
}
