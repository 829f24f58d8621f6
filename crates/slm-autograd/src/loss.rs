//! The loss of a language model.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;

use crate::host::{HostBackend, dims};
use crate::parallel;

/// The mean loss, `[1]`, and the softmax of each row in the memory of the logits.
pub(crate) fn forward<B: HostBackend>(
    logits: FloatTensor<B>,
    targets: &[u32],
) -> (FloatTensor<B>, FloatTensor<B>) {
    let classes = dims(&logits)[1];
    let mut logits = B::own(logits);
    let rows = B::owned_mut(&mut logits).chunks_exact_mut(classes).zip(targets);
    let losses = parallel::map(classes * targets.len(), rows, |(row, &target)| {
        slm_cpu_ops::cross_entropy(row, target as usize)
    });
    (mean::<B>(&losses), logits)
}

/// The mean of the losses of all rows, `[1]`. They are summed in order, so that the number of threads changes nothing.
pub(crate) fn mean<B: HostBackend>(losses: &[f64]) -> FloatTensor<B> {
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    B::from_values(vec![mean as f32], &[1])
}

/// A gradient `[rows, width]`, multiplied by `factor`, in its own memory if nothing else holds it.
pub(crate) fn scaled<B: HostBackend>(gradient: FloatTensor<B>, factor: f32) -> FloatTensor<B> {
    if factor == 1.0 {
        return gradient;
    }
    let mut gradient = B::own(gradient);
    let dims = dims(&gradient);
    let rows = B::owned_mut(&mut gradient).chunks_exact_mut(dims[1]);
    parallel::for_each(dims[0] * dims[1], rows, |row| slm_cpu_ops::scale(row, factor));
    gradient
}

/// State: the softmax, whose memory the gradient reuses, and the targets.
#[derive(Debug)]
pub(crate) struct CrossEntropyBackward;

impl<B: HostBackend> Backward<B, 1> for CrossEntropyBackward {
    type State = (FloatTensor<B>, Arc<[u32]>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::contiguous(grads.consume::<B>(&ops.node));
        let (softmax, targets) = ops.state;
        let classes = dims(&softmax)[1];
        let factor = B::values(&grad)[0] / targets.len() as f32;
        let mut softmax = B::own(softmax);
        let rows = B::owned_mut(&mut softmax).chunks_exact_mut(classes).zip(&*targets);
        parallel::for_each(classes * targets.len(), rows, |(row, &target)| {
            slm_cpu_ops::cross_entropy_backward(row, target as usize, factor);
        });
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, softmax);
        }
    }
}
