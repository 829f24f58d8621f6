//! A transformer in stages: before its layers, layer by layer, and after them.

use burn::tensor::{Int, Tensor};
use slm_nn::widened;

use super::Transformer;
use crate::compute::autograd::AutogradOps;
use crate::compute::burn::BurnOps;
use crate::compute::tensors::{TensorOps, Tensors};
use crate::compute::{Compute, HeadParts, HeadShape, walk};

impl Transformer {
    /// Hidden states before the first layer.
    ///
    /// # Shapes
    /// - `ids`: `[batch, len]`, sequences that start at position 0
    /// - output: `[batch, len, hidden]`
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [_, len] = ids.dims();
        self.assert_positions(len);
        let shape = HeadShape::of(&self.config);
        let mut compute = Tensors::new(BurnOps::new(self.device(), shape, &self.rotaries, None), shape);
        compute.start(0, len);
        let Ok(stream) = walk::embed(&mut compute, &self.embedding_parts(), ids);
        stream
    }

    /// Hidden states after layer `index`, given those before it.
    ///
    /// # Shapes
    /// - `x`, output: `[batch, len, hidden]`, sequences that start at position 0
    ///
    /// # Panics
    /// If the model has no such layer.
    pub fn forward_layer(&self, index: usize, x: Tensor<3>) -> Tensor<3> {
        self.layers[index].forward(index, HeadShape::of(&self.config), &self.rotaries, x)
    }

    /// Logits of hidden states that left the last layer.
    ///
    /// # Shapes
    /// - `x`: `[batch, len, hidden]`; positions do not depend on each other
    /// - output: `[batch, len, vocab_size]`
    pub fn forward_head(&self, x: Tensor<3>) -> Tensor<3> {
        let (device, shape) = (x.device(), HeadShape::of(&self.config));
        if slm_autograd::is_supported(&device) {
            self.head_with(AutogradOps::new(shape, &self.rotaries), shape, x)
        } else {
            self.head_with(BurnOps::new(device, shape, &self.rotaries, None), shape, x)
        }
    }

    /// The operands of the head for hidden states that left the last layer: the logits are `x weight^T`. `None` if they are
    /// more than such a product, or not computed in host memory.
    ///
    /// # Shapes
    /// - `x`: `[batch, len, hidden]`
    /// - operands: `[batch * len, hidden]` and `[vocab_size, hidden]`
    pub fn head_operands(&self, x: Tensor<3>) -> Option<[Tensor<2>; 2]> {
        if !slm_autograd::is_supported(&x.device()) || self.config.logit_multiplier != 1.0 {
            return None;
        }
        let weight = match self.head_parts() {
            HeadParts::Linear(head) => head.product_weight()?,
            HeadParts::Tied(embedding) => widened((*embedding).clone()),
        };
        let shape = HeadShape::of(&self.config);
        let mut compute = Tensors::new(AutogradOps::new(shape, &self.rotaries), shape);
        let mut stream = x;
        let Ok(normed) = compute.read(&mut stream, Some(&&self.norm));
        Some([normed.flatten(0, 1), weight])
    }

    fn head_with(&self, ops: impl TensorOps, shape: HeadShape, x: Tensor<3>) -> Tensor<3> {
        let (head, multiplier) = (self.head_parts(), self.config.logit_multiplier);
        let Ok(logits) = walk::logits(&mut Tensors::new(ops, shape), &&self.norm, &head, multiplier, x);
        logits
    }
}
