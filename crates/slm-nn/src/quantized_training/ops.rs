//! The product of an input and weights that exist only as codes, with gradients with respect to both.
// burn 0.22 deprecates NdArray in favour of Flex; slm offers both while both exist.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use slm_autograd::{Precision, record};

use super::Stored;

/// Products with codes, as a backend computes them, in the [current precision](Precision::current).
pub(super) trait CodeProducts: Backend {
    /// An input that is kept for the gradients.
    type Kept: Clone + Debug + Send;

    /// Keeps `x`.
    fn keep(x: FloatTensor<Self>) -> Self::Kept;

    /// The input that was kept.
    fn kept(x: &Self::Kept) -> FloatTensor<Self>;

    /// `x W^T`. Values that are not finite make the results that depend on them NaN.
    fn product(x: &FloatTensor<Self>, stored: &Stored) -> FloatTensor<Self>;

    /// The gradients with respect to `x` and to the weights, given the gradient `grad` of the product; each only if it
    /// is wanted.
    fn gradients(
        x: &FloatTensor<Self>,
        grad: &FloatTensor<Self>,
        stored: &Stored,
        wanted: [bool; 2],
    ) -> [Option<FloatTensor<Self>>; 2];
}

#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex, Cube: cfg(feature = "wgpu"), Autodiff)]
pub(crate) trait QuantizedTrainingOps: Backend {
    /// `x W^T` by the kernel of the packed weights. `update` is zero, and receives the gradient with respect to the
    /// weights.
    fn quantized_training_linear(
        x: FloatTensor<Self>,
        update: FloatTensor<Self>,
        stored: Arc<Stored>,
    ) -> FloatTensor<Self>;
}

pub(super) fn quantized_training_linear(x: Tensor<2>, update: Tensor<2>, stored: &Arc<Stored>) -> Tensor<2> {
    let (x, update) = (x.into_dispatch(), update.into_dispatch());
    Tensor::from_dispatch(Dispatch::quantized_training_linear(x, update, Arc::clone(stored)))
}

impl<B: CodeProducts> QuantizedTrainingOps for B {
    fn quantized_training_linear(
        x: FloatTensor<Self>,
        _update: FloatTensor<Self>,
        stored: Arc<Stored>,
    ) -> FloatTensor<Self> {
        Self::product(&x, &stored)
    }
}

impl<B: CodeProducts, C: CheckpointStrategy> QuantizedTrainingOps for Autodiff<B, C> {
    fn quantized_training_linear(
        x: FloatTensor<Self>,
        update: FloatTensor<Self>,
        stored: Arc<Stored>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), update.node()];
        let x = x.into_primitive();
        let y = B::product(&x, &stored);
        record!(C, QuantizedTrainingBackward(Precision::current()), nodes, y, (B::keep(x), stored))
    }
}

/// The backward pass, in the precision of the forward pass. State: input and weights.
#[derive(Debug)]
struct QuantizedTrainingBackward(Precision);

impl<B: CodeProducts> Backward<B, 2> for QuantizedTrainingBackward {
    type State = (B::Kept, Arc<Stored>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, stored) = ops.state;
        let x = B::kept(&x);
        let wanted = [ops.parents[0].is_some(), ops.parents[1].is_some()];
        let gradients = self.0.scope(|| B::gradients(&x, &grad, &stored, wanted));
        for (parent, by) in ops.parents.iter().zip(gradients) {
            if let (Some(parent), Some(by)) = (parent, by) {
                grads.register::<B>(parent.id, by);
            }
        }
    }
}
