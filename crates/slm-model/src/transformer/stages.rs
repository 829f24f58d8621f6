//! A transformer in stages: before its layers, layer by layer, and after them.

use burn::tensor::{Int, Tensor};

use super::Transformer;
use crate::compute::autograd::AutogradOps;
use crate::compute::burn::BurnOps;
use crate::compute::tensors::{TensorOps, Tensors};
use crate::compute::{Compute, HeadShape, walk};

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

    fn head_with(&self, ops: impl TensorOps, shape: HeadShape, x: Tensor<3>) -> Tensor<3> {
        let (head, multiplier) = (self.head_parts(), self.config.logit_multiplier);
        let Ok(logits) = walk::logits(&mut Tensors::new(ops, shape), &&self.norm, &head, multiplier, x);
        logits
    }
}
