//! `y = x W^T`.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use slm_cpu_ops::Matrix;

use crate::host::{HostBackend, dims};
use crate::kept_input::KeptInput;
use crate::matmul::matmul;
use crate::precision::Precision;

pub(crate) fn forward<B: HostBackend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    precision: Precision,
) -> FloatTensor<B> {
    product::<B>(precision, matrix::<B>(x), matrix::<B>(weight).transpose())
}

/// The backward pass, in the precision of the forward pass. State: `x` and the weight, contiguous, each only if the
/// gradient of the other is wanted.
#[derive(Debug)]
pub(crate) struct LinearBackward(pub(crate) Precision);

impl<B: HostBackend> Backward<B, 2> for LinearBackward {
    type State = (Option<KeptInput<B>>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_parent, weight_parent] = ops.parents;
        let grad = B::contiguous(grads.consume::<B>(&ops.node));
        let (x, weight) = ops.state;
        if let (Some(parent), Some(x)) = (weight_parent, x) {
            let by_weight = product::<B>(self.0, matrix::<B>(&grad).transpose(), matrix::<B>(&x.tensor()));
            grads.register::<B>(parent.id, by_weight);
        }
        if let (Some(parent), Some(weight)) = (x_parent, weight) {
            grads.register::<B>(parent.id, product::<B>(self.0, matrix::<B>(&grad), matrix::<B>(&weight)));
        }
    }
}

fn matrix<B: HostBackend>(tensor: &FloatTensor<B>) -> Matrix<'_> {
    let dims = dims(tensor);
    Matrix::new(B::values(tensor), dims[0], dims[1])
}

fn product<B: HostBackend>(precision: Precision, a: Matrix<'_>, b: Matrix<'_>) -> FloatTensor<B> {
    B::from_values(matmul(precision, a, b), &[a.rows(), b.cols()])
}
