//! The operations that both tensor implementations share.

use std::convert::Infallible;

use burn::tensor::{Int, Tensor};
use slm_nn::{Linear, widened};

use super::{Compute, HeadParts, HeadShape, LayerParts};
use crate::config::{Activation, QkNorm};
use crate::norm::Norm;
use crate::token_table::TokenTable;

/// A layer of tensors.
pub(crate) type TensorLayer<'w> = LayerParts<&'w Linear, &'w Norm>;

/// The operations in which the tensor implementations differ. All tensors are `[batch, len, width]`.
pub(crate) trait TensorOps {
    /// Starts a pass over `len` positions from `start` on.
    fn start(&mut self, start: usize, len: usize);

    /// Normalizes the last dimension.
    fn normalize<const D: usize>(&self, norm: &Norm, x: Tensor<D>) -> Tensor<D>;

    /// Attention of queries and keys that are normalized but not yet rotated.
    fn attend(&mut self, qkv: [Tensor<3>; 3], layer: &TensorLayer<'_>) -> Tensor<3>;

    /// `activation(gate) * up`, or without a gate `activation(up)`.
    fn activate(&self, gate: Option<Tensor<3>>, up: Tensor<3>, activation: Activation) -> Tensor<3>;
}

/// Computes with tensors on any device, for several sequences together.
pub(crate) struct Tensors<O> {
    ops: O,
    shape: HeadShape,
    start: usize,
    len: usize,
}

impl<O: TensorOps> Tensors<O> {
    pub(crate) fn new(ops: O, shape: HeadShape) -> Self {
        Self { ops, shape, start: 0, len: 0 }
    }

    fn normalize_heads(&self, x: Tensor<3>, heads: usize, norm: Option<&&Norm>, kind: QkNorm) -> Tensor<3> {
        let [batch, len, width] = x.dims();
        match (norm, kind) {
            (None, _) | (_, QkNorm::None) => x,
            (Some(norm), QkNorm::Full) => self.ops.normalize(norm, x),
            (Some(norm), QkNorm::PerHead) => {
                let x = x.reshape([batch, len, heads, self.shape.head_dim]);
                self.ops.normalize(norm, x).reshape([batch, len, width])
            }
        }
    }
}

impl<O: TensorOps> Compute for Tensors<O> {
    type Linear<'w> = &'w Linear;
    type Norm<'w> = &'w Norm;
    type Stream = Tensor<3>;
    type Value = Tensor<3>;
    type Logits = Tensor<3>;
    type Error = Infallible;

    fn linear<'w>(&self, linear: &'w Linear, _: &str) -> Result<&'w Linear, Infallible> {
        Ok(linear)
    }

    fn norm<'w>(&self, norm: &'w Norm) -> Result<&'w Norm, Infallible> {
        Ok(norm)
    }

    fn start(&mut self, start: usize, rows: usize) {
        (self.start, self.len) = (start, rows);
        self.ops.start(start, rows);
    }

    fn embed(&mut self, table: &TokenTable, ids: Tensor<2, Int>) -> Result<Tensor<3>, Infallible> {
        Ok(table.lookup(ids))
    }

    fn positions(&mut self, table: &Tensor<2>) -> Result<Tensor<3>, Infallible> {
        Ok(table.clone().narrow(0, self.start, self.len).unsqueeze())
    }

    fn scale(&mut self, stream: &mut Tensor<3>, factor: f64) -> Result<(), Infallible> {
        *stream = stream.clone() * factor;
        Ok(())
    }

    fn read(&mut self, stream: &mut Tensor<3>, norm: Option<&&Norm>) -> Result<Tensor<3>, Infallible> {
        Ok(match norm {
            Some(norm) => self.ops.normalize(norm, stream.clone()),
            None => stream.clone(),
        })
    }

    fn normalize(&mut self, x: Tensor<3>, norm: &&Norm) -> Result<Tensor<3>, Infallible> {
        Ok(self.ops.normalize(norm, x))
    }

    fn add(&mut self, stream: &mut Tensor<3>, x: Tensor<3>, factor: f64) -> Result<(), Infallible> {
        let x = if factor == 1.0 { x } else { x * factor };
        *stream = stream.clone() + x;
        Ok(())
    }

    fn linears<const N: usize>(
        &mut self,
        x: Tensor<3>,
        linears: [&&Linear; N],
    ) -> Result<[Tensor<3>; N], Infallible> {
        Ok(linears.map(|linear| linear.forward(x.clone())))
    }

    fn attend<'w>(
        &mut self,
        [q, k, v]: [Tensor<3>; 3],
        layer: &TensorLayer<'w>,
    ) -> Result<Tensor<3>, Infallible> {
        let HeadShape { heads, kv_heads, .. } = self.shape;
        let kind = layer.spec.qk_norm;
        let q = self.normalize_heads(q, heads, layer.q_norm.as_ref(), kind);
        let k = self.normalize_heads(k, kv_heads, layer.k_norm.as_ref(), kind);
        Ok(self.ops.attend([q, k, v], layer))
    }

    fn activate(
        &mut self,
        gate: Option<Tensor<3>>,
        up: Tensor<3>,
        activation: Activation,
    ) -> Result<Tensor<3>, Infallible> {
        Ok(self.ops.activate(gate, up, activation))
    }

    fn settle(&mut self, _: &mut Tensor<3>) -> Result<(), Infallible> {
        Ok(())
    }

    fn copy(&mut self, stream: &Tensor<3>) -> Tensor<3> {
        stream.clone()
    }

    fn keep_last(&mut self, stream: &mut Tensor<3>) -> Result<(), Infallible> {
        let last = stream.dims()[1] - 1;
        *stream = stream.clone().narrow(1, last, 1);
        Ok(())
    }

    fn finish(&mut self, _: Tensor<3>) {}

    fn head(
        &mut self,
        x: Tensor<3>,
        head: &HeadParts<&Linear>,
        factor: f64,
    ) -> Result<Tensor<3>, Infallible> {
        let [batch, len, width] = x.dims();
        let logits = match head {
            HeadParts::Linear(head) => head.forward(x),
            HeadParts::Tied(embedding) => {
                let [vocab_size, _] = embedding.dims();
                let rows = x.reshape([batch * len, width]);
                let logits = slm_autograd::linear_or_matmul(rows, widened((**embedding).clone()));
                logits.reshape([batch, len, vocab_size])
            }
        };
        Ok(if factor == 1.0 { logits } else { logits * factor })
    }
}
