//! The fused operations with gradients of `slm-autograd`, on whole sequences and without a cache.

use std::sync::Arc;

use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use slm_autograd::{AttentionOptions, Gelu, RotaryTable};

use super::HeadShape;
use super::tensors::{TensorLayer, TensorOps};
use crate::config::{Activation, MlpKind};
use crate::norm::Norm;
use crate::rotary::{Angles, Rotaries};

/// Fused operations.
pub(crate) struct AutogradOps<'a> {
    shape: HeadShape,
    rotaries: &'a Rotaries,
    tables: Vec<Arc<RotaryTable>>,
}

impl<'a> AutogradOps<'a> {
    pub(crate) fn new(shape: HeadShape, rotaries: &'a Rotaries) -> Self {
        Self { shape, rotaries, tables: Vec::new() }
    }
}

impl TensorOps for AutogradOps<'_> {
    fn start(&mut self, start: usize, len: usize) {
        assert_eq!(start, 0, "the fused attention begins at position 0");
        self.tables =
            self.rotaries.angles(0, len, len).into_iter().map(Angles::into_table).map(Arc::new).collect();
    }

    fn normalize<const D: usize>(&self, norm: &Norm, x: Tensor<D>) -> Tensor<D> {
        match norm {
            Norm::Rms(norm) => slm_autograd::rms_norm(x, norm.gamma.val(), norm.epsilon),
            Norm::Layer(norm) => slm_autograd::layer_norm(x, norm.gamma.val(), norm.beta.val(), norm.epsilon),
        }
    }

    fn attend(&mut self, [q, k, v]: [Tensor<3>; 3], layer: &TensorLayer<'_>) -> Tensor<3> {
        let rotary = self.rotaries.index(layer.spec.rotary.as_ref());
        let options = AttentionOptions {
            heads: self.shape.heads,
            kv_heads: self.shape.kv_heads,
            window: layer.spec.sliding_window,
            scale: layer.spec.attention_scale.map(|scale| scale as f32),
            rotary: rotary.map(|index| Arc::clone(&self.tables[index])),
        };
        slm_autograd::attention(q, k, v, options)
    }

    fn activate(&self, gate: Option<Tensor<3>>, up: Tensor<3>, activation: Activation) -> Tensor<3> {
        let operation = one_operation(MlpKind::new(gate.is_some(), activation));
        match (gate, operation) {
            (Some(gate), Some(OneOperation::Swiglu)) => slm_autograd::swiglu(gate, up),
            (Some(gate), _) => activate(gate, activation) * up,
            (None, _) => activate(up, activation),
        }
    }
}

fn activate(x: Tensor<3>, activation: Activation) -> Tensor<3> {
    match one_operation(MlpKind::new(false, activation)) {
        Some(OneOperation::Gelu(kind)) => slm_autograd::gelu(x, kind),
        _ => silu(x),
    }
}

/// An operation that computes all that an MLP does between its linear layers.
enum OneOperation {
    Swiglu,
    Gelu(Gelu),
}

fn one_operation(mlp: MlpKind) -> Option<OneOperation> {
    match mlp {
        MlpKind::SwiGlu => Some(OneOperation::Swiglu),
        MlpKind::Gelu => Some(OneOperation::Gelu(Gelu::Exact)),
        MlpKind::GeluTanh => Some(OneOperation::Gelu(Gelu::Tanh)),
        MlpKind::GeGlu | MlpKind::GeGluTanh | MlpKind::Silu => None,
    }
}

/// Returns `true` if training on CPU devices computes everything between the linear layers of `mlp` as one operation. Its
/// output is then computed again for gradients, not kept.
pub fn is_one_operation(mlp: MlpKind) -> bool {
    one_operation(mlp).is_some()
}
