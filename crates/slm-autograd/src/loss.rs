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
    // Summed in order, so that the number of threads changes nothing.
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    (B::from_values(vec![mean as f32], &[1]), logits)
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
