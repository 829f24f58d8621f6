//! `y = x W^T`.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use slm_cpu_ops::Matrix;

use crate::host::{HostBackend, dims};
use crate::matmul::matmul;

pub(crate) fn forward<B: HostBackend>(x: &FloatTensor<B>, weight: &FloatTensor<B>) -> FloatTensor<B> {
    product::<B>(matrix::<B>(x), matrix::<B>(weight).transpose())
}

/// State: `x` and the weight, contiguous, each only if the gradient of the other is wanted.
#[derive(Debug)]
pub(crate) struct LinearBackward;

impl<B: HostBackend> Backward<B, 2> for LinearBackward {
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_parent, weight_parent] = ops.parents;
        let grad = B::contiguous(grads.consume::<B>(&ops.node));
        let (x, weight) = ops.state;
        if let (Some(parent), Some(x)) = (weight_parent, x) {
            let by_weight = product::<B>(matrix::<B>(&grad).transpose(), matrix::<B>(&x));
            grads.register::<B>(parent.id, by_weight);
        }
        if let (Some(parent), Some(weight)) = (x_parent, weight) {
            grads.register::<B>(parent.id, product::<B>(matrix::<B>(&grad), matrix::<B>(&weight)));
        }
    }
}

fn matrix<B: HostBackend>(tensor: &FloatTensor<B>) -> Matrix<'_> {
    let dims = dims(tensor);
    Matrix::new(B::values(tensor), dims[0], dims[1])
}

fn product<B: HostBackend>(a: Matrix<'_>, b: Matrix<'_>) -> FloatTensor<B> {
    let mut out = vec![0.0; a.rows() * b.cols()];
    matmul(a, b, &mut out);
    B::from_values(out, &[a.rows(), b.cols()])
}
